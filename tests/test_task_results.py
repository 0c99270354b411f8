"""Results of tasks are those of one model: its weights, in the protocol, and its config."""

import pytest

from safety_jax.evaluation.harness import lm_eval_tasks, task_results


def test_results_belong_to_the_tokenizer_and_to_the_files_of_a_task(tmp_path):
    """A chat template or a task that was edited between two starts left the old results."""
    pytest.importorskip("lm_eval")
    data, task = tmp_path / "rows.jsonl", tmp_path / "pick.yaml"
    data.write_text("{}\n")
    task.write_text(f"task: pick\ndataset_kwargs:\n  data_files: {{test: {data}}}\n")
    asking = lm_eval_tasks.Asking(None, None, False, "", 0, 0)

    def protocol(tokenizer="cafe"):
        made_by = {str(task): lm_eval_tasks.definition(str(task))}
        wanted = task_results.Wanted((str(task),), asking, {}, made_by)
        return wanted.protocol(str(task), "f00d", tokenizer)

    seen = [protocol(), protocol("beef")]
    data.write_text("{}\n{}\n")
    seen.append(protocol())
    task.write_text(task.read_text() + "num_fewshot: 1\n")
    seen.append(protocol())
    assert len(set(seen)) == 4 and seen[-1] == protocol()


def test_results_of_another_protocol_or_config_are_not_reused(tmp_path):
    path = tmp_path / "tasks" / "base.json"
    assert task_results.read(path, "f00d", "cafe") is None
    task_results.write(path, "f00d", "cafe", {"samples": {}})
    assert task_results.read(path, "f00d", "cafe") == {"samples": {}}
    assert task_results.read(path, "f00d", "beef") is None
    assert task_results.read(path, "beef", "cafe") is None
    # A file of an early run does not say the config.
    path.write_text('{"protocol": "f00d", "found": {"samples": {}}}')
    assert task_results.read(path, "f00d", "cafe") == {"samples": {}}


def test_a_task_with_filters_is_compared_by_its_first():
    """GSM8K has `exact_match` twice, by a strict filter and a flexible one; before, it had no place
    in the comparisons of models."""
    said = {"strict-match": (1.0, 0.0, 0.0), "flexible-extract": (1.0, 1.0, 0.0)}
    samples = [
        {"filter": name, "doc_hash": f"d{i}", "exact_match": value}
        for name, values in said.items()
        for i, value in enumerate(values)
    ]
    found = {
        "results": {"gsm8k": {f"exact_match,{n}": sum(v) / 3 for n, v in said.items()}},
        "n-samples": {}, "higher_is_better": {}, "n-shot": {"gsm8k": 5}, "versions": {},
        "task_hashes": {"gsm8k": "f00d"}, "samples": {"gsm8k": samples},
    }  # fmt: skip
    (block,) = task_results.blocks(found, "base")
    assert list(block.correct) == [True, False, False] and block.set.name == "gsm8k"
    assert block.choice["accuracy"]["value"] == block.choice["exact_match/strict-match"] == 1 / 3
    assert block.set.source.endswith("5 shots, exact_match/strict-match")
    # A set of the same name stays apart: models are compared set by set.
    (other,) = task_results.blocks(found, "base", ["gsm8k"])
    assert other.set.name == "gsm8k (task)" and list(other.correct) == list(block.correct)


def test_results_of_several_tasks_are_those_of_one_run():
    one = {"results": {"a": {"acc,none": 1.0}}, "samples": {"a": [1]}, "cut": {"loglikelihood": 2}}
    other = {
        "results": {"b": {"acc,none": 0.5}},
        "samples": {"b": [2]},
        "cut": {"loglikelihood": 1},
    }
    found = task_results.together(
        [one | {"lm_eval_version": "1"}, other | {"lm_eval_version": "1"}]
    )
    assert found["results"] == {"a": {"acc,none": 1.0}, "b": {"acc,none": 0.5}}
    assert found["samples"] == {"a": [1], "b": [2]} and found["lm_eval_version"] == "1"
    assert found["cut"] == {"loglikelihood": 3} and one["cut"] == {"loglikelihood": 2}
