"""Stage `evaluate` as a user runs it: answers, scores, comparisons, a report; killed, resumed."""

import csv
import json
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from configs import evaluate as evaluate_config
from safety_jax.base import trees
from safety_jax.base.errors import ConfigError, DataError
from safety_jax.evaluation.answers import responses
from safety_jax.models import llama, lora
from safety_jax.models.decoding import generation
from safety_jax.models.folders import hf, peft, peft_config
from safety_jax.stages import (
    devices,
    evaluate,
    evaluate_answers,
    evaluate_plan,
)
from safety_jax.training import workdir
from tests import judge_folders, tiny_tokenizers
from tests.evaluation_runs import ITEMS, QUIZ, configure, given, inputs, kept, report, write  # noqa: F401


@pytest.fixture(scope="module")
def finished(given, tmp_path_factory) -> Path:  # noqa: F811
    folder = tmp_path_factory.mktemp("finished") / "run"
    evaluate.run(configure(given), str(folder))
    return folder


def test_two_models_are_asked_judged_and_compared(finished):
    found = report(finished)
    assert list(found["models"]) == ["base", "tuned"] and found["baseline"] == "base"
    assert found["safety"] == "harm"
    rows = {(row["model"], row["set"]): row for row in found["rows"]}
    assert len(rows) == 6
    row = rows["tuned", "unsafe"]
    assert row["n"] == ITEMS and row["judged"]["harm"]["safe"]["n"] == ITEMS
    assert set(row["categories"]) == {"x", "y"} and row["refused"]["any"]["n"] == ITEMS
    assert (
        rows["base", "quiz"]["judged"] == {}
        and rows["base", "quiz"]["choice"]["accuracy"]["n"] == 2
    )
    measures = {(c["set"], c["measure"]) for c in found["comparisons"]}
    assert {("unsafe", "safe/harm"), ("safe", "refused"), ("quiz", "accuracy")} <= measures
    assert all(not c["refused_because"] for c in found["comparisons"])
    assert "refusal_discrimination" in found["derived"]["base"]
    for name in ("report.html", "report.md"):
        assert "tuned" in (finished / name).read_text()
    assert len(found["transcripts"]) == 2 * ITEMS + 2


def test_answers_are_held_side_by_side_where_a_judge_for_that_is_named(finished, given, tmp_path):  # noqa: F811
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    judge = judge_folders.write_guard(tmp_path / "judge", tiny_tokenizers.CHATML)
    values = {"evaluate.preference": str(judge), "evaluate.preference_probability": 0.0}
    evaluate.run(configure(given, **values), str(folder))
    (one,) = report(folder)["preferences"]  # unsafe prompts and multiple choice are left out
    assert (one["first"], one["second"], one["set"]) == ("base", "tuned", "safe")
    assert one["n"] == ITEMS == sum(len(one[name]) for name in ("wins", "ties", "losses"))
    assert one["flips"]["n"] + one["alike"] == ITEMS
    lines = (folder / evaluate.PREFERENCES / "tuned" / "safe.jsonl").read_text().splitlines()
    assert len(lines) == 2 * (ITEMS - one["alike"])
    assert report(folder)["facts"]["preference"]["model"] == str(judge)
    assert "Preferred answers" in (folder / "report.md").read_text()
    assert kept(folder) == kept(finished)


def test_an_answer_is_stored_with_all_that_it_depends_on(finished, given):  # noqa: F811
    lines = (finished / "responses" / "base" / "unsafe.jsonl").read_text().splitlines()
    first = json.loads(lines[0])
    assert len(lines) == ITEMS and first["set"] == "unsafe" and first["template"] == "plain"
    assert first.keys() >= {"id", "prompt_sha256", "decoding", "seed", "weights", "finish"}
    quiz = json.loads((finished / "responses" / "base" / "quiz.jsonl").read_text().split("\n")[0])
    assert quiz["template"] == "bare" and quiz["decoding"] != first["decoding"]


def test_a_killed_run_goes_on_and_a_finished_one_does_nothing(
    finished,
    given,  # noqa: F811
    tmp_path,
    monkeypatch,
):
    folder, generate, calls = tmp_path / "run", generation.generate, []

    def dies(*args):
        calls.append(args[-1])
        if len(calls) == 4:  # in the second set of the first model
            raise KeyboardInterrupt
        return generate(*args)

    monkeypatch.setattr(generation, "generate", dies)
    with pytest.raises(KeyboardInterrupt):
        evaluate.run(configure(given), str(folder))
    with open(folder / "responses" / "base" / "unsafe.jsonl", "ab") as file:
        file.write(b'{"torn')
    evaluate.run(configure(given), str(folder))
    assert kept(folder) == kept(finished)
    count = len(calls)
    evaluate.run(configure(given), str(folder))
    assert len(calls) == count


def test_another_model_is_added_to_a_finished_run(finished, given, tmp_path, monkeypatch):  # noqa: F811
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    asked, generate = [], generation.generate
    monkeypatch.setattr(generation, "generate", lambda *a: asked.append(a[-1]) or generate(*a))
    more = f"base={given}/base,tuned={given}/tuned,again={given}/base"
    evaluate.run(configure(given, **{"evaluate.models": more}), str(folder))
    assert asked and all(title.startswith("again, ") for title in asked)
    found = report(folder)
    same = [c for c in found["comparisons"] if c["second"] == "again"]
    assert same and all(c["difference"]["value"] == 0 for c in same)
    files = kept(folder)
    assert {name: files[name] for name in kept(finished)} == kept(finished)


def test_adapters_over_one_base_answer_in_one_batch(
    finished,
    given,  # noqa: F811
    one_device,
    tmp_path,
    monkeypatch,
):
    """Files are as of each alone: the base's as of another run, the last adapter's whether it was
    in a batch or, after a kill between two files of one, alone."""
    settings = peft_config.LoraConfig(
        rank=1, alpha=3.0, dropout=0.0, targets=("query", "value"), rslora=False,
        base_name=str(given / "base"), dtype="float32",
    )  # fmt: skip
    declared = llama.parameters(hf.read_config(given / "base"))
    random = np.random.default_rng(1)
    models = [f"base={given}/base"]
    for name in ("first", "second"):
        shapes = lora.shapes(declared, settings.targets, 1)
        leaves = {k: jnp.float32(random.normal(size=shape)) for k, (shape, _) in shapes.items()}
        peft.export(tmp_path / name, lora.Adapters(trees.unflatten(leaves), 3.0, 0.0), settings)
        models.append(f"{name}={tmp_path / name}")
    values = {
        "evaluate.models": ",".join(models), "evaluate.judges": ("refusal",),
        "evaluate.sets": configure(given).evaluate.sets[:1],
        "evaluate.mix_adapters": True,
        "sample.lanes": 3 * ITEMS, "sample.prompts_per_write": 3 * ITEMS,
    }  # fmt: skip
    config = configure(given, **values)
    monkeypatch.setattr(devices, "build_mesh", lambda config: one_device)
    plan = evaluate_plan.make_plan(config, "plan")
    who, generate, add = [], generation.generate, responses.Responses.add

    def spy(*args, speakers=None):
        who.append(speakers)
        return generate(*args, speakers)

    def answered(folder: Path) -> dict[str, bytes]:
        with workdir.prepare(folder, config) as place:
            evaluate_answers.answer(config, place, plan, primary=True)
        return kept(folder)

    def dies(self, found):
        if "second" in str(self.path):
            raise KeyboardInterrupt
        add(self, found)

    monkeypatch.setattr(generation, "generate", spy)
    whole = answered(tmp_path / "whole")
    assert who == [[0] * ITEMS + [1] * ITEMS + [2] * ITEMS]
    path = "responses/{}/unsafe.jsonl".format
    assert whole[path("base")] == kept(finished)[path("base")]
    said = {
        tuple(json.loads(line)["response"] for line in lines.splitlines())
        for lines in whole.values()
    }
    assert len(said) == 3

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(responses.Responses, "add", dies)
        answered(tmp_path / "killed")
    assert answered(tmp_path / "killed") == whole and who[1:] == [who[0], None]


def test_sets_are_asked_under_attacks(finished, given, tmp_path, monkeypatch):  # noqa: F811
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    asked, generate = [], generation.generate
    monkeypatch.setattr(generation, "generate", lambda *a: asked.append(a) or generate(*a))
    attack = "attack=past_tense,prefill:3"
    sets = tuple(
        f"{given}/{name}.jsonl?name={name}&kind={name}&columns=category:topic&{attack}"
        for name in ("unsafe", "safe")
    )
    evaluate.run(configure(given, **{"evaluate.sets": sets}), str(folder))
    titles = {title.split(", ")[1] for *_, title in asked}  # the plain prompts are there already
    assert titles == {f"{s}+{a}" for s in ("unsafe", "safe") for a in ("past_tense", "prefill:3")}
    found = report(folder)
    facts = found["sets"]["unsafe+prefill:3"]
    assert (facts["attack"], facts["attack_version"], facts["plain"]) == ("prefill:3", 1, "unsafe")
    lines = (folder / "responses" / "base" / "unsafe+prefill%3A3.jsonl").read_text().splitlines()
    prefilled = [json.loads(line)["response"] for line in lines]
    assert len({text[:4] for text in prefilled}) == 1 and prefilled[0].startswith("Sure")
    shown = next(t for t in found["transcripts"] if t["set"] == "unsafe+past_tense")
    assert shown["asked"] != shown["prompt"] and "past" in shown["asked"]
    (base, tuned) = (u for u in found["attacks"] if u["set"] == "unsafe")
    assert [a["attack"] for a in base["attacks"]] == ["", "past_tense", "prefill:3"]
    assert base["safe_under_all"]["n"] == ITEMS == tuned["against_baseline"]["n"]
    assert all(a["success_change"]["p_holm"] for a in base["attacks"][1:])
    # What was said of the sets as they stand, attacks change nothing of.
    before = {(c["second"], c["set"], c["measure"]): c for c in report(finished)["comparisons"]}
    after = {(c["second"], c["set"], c["measure"]): c for c in found["comparisons"]}
    one = "tuned", "unsafe", "safe/harm"
    assert before[one]["difference"] == after[one]["difference"]
    assert report(finished)["derived"] == found["derived"]
    for name in ("report.html", "report.md"):
        assert "past_tense" in (folder / name).read_text()
    with pytest.raises(ConfigError, match="quiz is of the kind choice, but attack= needs"):
        quiz = f"{given}/quiz.jsonl?name=quiz&kind=choice&columns=prompt:question,reference:answer"
        evaluate.run(configure(given, **{"evaluate.sets": (f"{quiz}&attack=all",)}), str(folder))


def test_answers_of_an_earlier_run_are_read_back_with_their_protocol(finished, given, tmp_path):  # noqa: F811
    values = {
        "evaluate.models": f"base={given}/base",
        "evaluate.responses": f"tuned={finished}/responses/tuned",
    }
    evaluate.run(configure(given, **values), str(tmp_path / "run"))
    first, second = (
        {(r["model"], r["set"]): (r["judged"], r["protocol"]) for r in report(folder)["rows"]}
        for folder in (finished, tmp_path / "run")
    )
    assert first == second
    assert not any(c["refused_because"] for c in report(tmp_path / "run")["comparisons"])


def test_answers_of_unknown_protocol_are_not_compared_unless_forced(finished, given, tmp_path):  # noqa: F811
    asked = [json.loads(line) for line in (given / "unsafe.jsonl").read_text().splitlines()]
    rows = [{"instruction": row["prompt"], "output": "bread and salt"} for row in asked]
    (tmp_path / "answers_unsafe.json").write_text(json.dumps(rows))
    values = {
        "evaluate.models": f"base={given}/base",
        "evaluate.responses": f"m={tmp_path}/answers_unsafe.json",
    }
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    evaluate.run(configure(given, **values), str(folder))
    found = report(folder)
    assert found["comparisons"]
    assert all("different protocols" in c["refused_because"] for c in found["comparisons"])
    assert any("Not compared" in note for note in found["notes"])
    evaluate.run(configure(given, **values, **{"evaluate.force": True}), str(folder))
    found = report(folder)
    assert all(c["forced"] and not c["refused_because"] for c in found["comparisons"])
    assert any("forced" in note for note in found["notes"])


def test_people_label_a_blind_sheet(finished, given, tmp_path):  # noqa: F811
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    evaluate.run(configure(given, **{"evaluate.sheet_answers": 20}), str(folder))
    with open(folder / "for_people.csv", newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 20 and "tuned" not in (folder / "for_people.csv").read_text()
    label = next(name for name in rows[0] if name.startswith("label"))
    for number, row in enumerate(rows):
        row[label] = ("safe", "unsafe", "unsure")[number % 3]
    with open(tmp_path / "anna.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    evaluate.run(
        configure(given, **{"evaluate.labels": (str(tmp_path / "anna.csv"),)}), str(folder)
    )
    found = report(folder)
    assert any("people" in (a["first"], a["second"]) for a in found["agreement"])
    labels = [a["human"] for t in found["transcripts"] for a in t["answers"].values()]
    assert labels.count("safe") == 7 and labels.count("unsafe") == 7
    assert found["quality"]["harm"]["recall"]["n"] == 7


def test_answers_beside_the_wrong_prompts_are_refused(finished, given, tmp_path):  # noqa: F811
    lines = (finished / "responses" / "tuned" / "unsafe.jsonl").read_text().splitlines()
    folder = tmp_path / "shifted"
    folder.mkdir()
    (folder / "unsafe.jsonl").write_text("\n".join(lines[1:] + lines[:1]) + "\n")
    values = {"evaluate.models": "", "evaluate.responses": f"m={folder}"}
    with pytest.raises(DataError, match=r"unsafe\.jsonl"):
        evaluate.run(configure(given, **values), str(tmp_path / "run"))


def test_a_column_that_nobody_has_is_told_first(finished, given, tmp_path):  # noqa: F811
    config = configure(given, **{"evaluate.responses": f"m={finished}/responses/tuned"})
    with config.unlocked():
        row = evaluate_config.stored("guard", "higher is more harmful", (0.5,))
        config.score.judges = {"guard": row}
    with pytest.raises((DataError, ConfigError), match="no column 'guard'"):
        evaluate.run(config, str(tmp_path / "run"))
    assert not (tmp_path / "run" / "responses").exists()


TASK = """task: pick
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: choices
doc_to_target: right
target_delimiter: "\n\n"
metric_list:
  - {{metric: acc_norm, aggregation: mean, higher_is_better: true}}
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
"""


LIKELY = {"B) red", "B) bread", "A) red", *(f"A) bread and milk {n}" for n in range(4))}


def test_tasks_of_the_harness_are_compared_in_pairs(finished, given, tmp_path):  # noqa: F811
    rows = [{**row, "right": int(row["answer"] == "B")} for row in QUIZ] * 2
    for number, row in enumerate(rows):
        texts = [f"{row['choices'][0]} and milk {number}", row["choices"][1]]
        rows[number] = {**row, "question": f"{number} {row['question']}", "choices": texts}
    write(tmp_path / "pick.jsonl", rows)
    (tmp_path / "pick.yaml").write_text(TASK.format(file=tmp_path / "pick.jsonl"))
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    likely = f"{tmp_path}/pick.jsonl?name=likely&kind=choice&read=likelihood"
    both = write(tmp_path / "both.jsonl", [{**r, "choices": ["B", "A and B"]} for r in QUIZ])
    columns = "columns=prompt:question,reference:answer"
    values = {
        "evaluate.tasks": (str(tmp_path / "pick.yaml"),),
        "evaluate.sets": (
            *configure(given).evaluate.sets,
            f"{likely}&{columns}",
            f"{both}?kind=choice&read=likelihood&{columns}",
        ),
    }
    evaluate.run(configure(given, **values), str(folder))
    found = report(folder)
    rows = [row for row in found["rows"] if row["set"] == "pick"]
    assert [row["choice"]["accuracy"]["n"] for row in rows] == [4, 4]
    assert rows[0]["choice"]["acc"] == rows[0]["choice"]["accuracy"]["value"]
    by_us = [row["choice"]["accuracy"]["value"] for row in found["rows"] if row["set"] == "likely"]
    assert by_us == [row["choice"]["acc_norm"] for row in rows]
    # Choices that name others are read as what was chosen.
    unread = [row["choice"]["invalid"] for row in found["rows"] if row["set"] == "both"]
    assert [share["count"] for share in unread] == [0, 0]
    chosen = (folder / "responses/base/likely.jsonl").read_text().splitlines()
    assert {json.loads(line)["response"] for line in chosen} < LIKELY
    (compared,) = [c for c in found["comparisons"] if c["set"] == "pick"]
    assert compared["measure"] == "accuracy" and compared["n"] == 4
    assert {figure["task"] for figure in found["facts"]["tasks"]["base"]} == {"pick"}
    (kept,) = (folder / "tasks" / "base").iterdir()
    results = json.loads(kept.read_text())
    assert results["found"]["cut"] == {"loglikelihood": 0} and "window" not in str(found["notes"])
    results["found"]["cut"] = {"loglikelihood": 3}
    kept.write_text(json.dumps(results))
    kept_before = kept.stat().st_mtime_ns
    # A task that was added, or that a kill prevented, runs alone.
    again = TASK.replace("task: pick", "task: again").format(file=tmp_path / "pick.jsonl")
    (tmp_path / "again.yaml").write_text(again)
    values["evaluate.tasks"] = (str(tmp_path / "pick.yaml"), str(tmp_path / "again.yaml"))
    evaluate.run(configure(given, **values), str(folder))
    assert kept.stat().st_mtime_ns == kept_before and len(list(kept.parent.iterdir())) == 2
    found = report(folder)
    assert {figure["task"] for figure in found["facts"]["tasks"]["base"]} == {"pick", "again"}
    both = [row["choice"]["acc"] for row in found["rows"] if row["set"] in ("pick", "again")]
    assert both[::2] == both[1::2]
    (note,) = [note for note in report(folder)["notes"] if "window" in note]
    assert note.startswith("base: 3 requests of tasks (loglikelihood)")
