"""Tasks of lm-evaluation-harness on our models: every number from whole logits, by hand."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
from lm_eval import evaluator

from safety_jax.base.errors import ConfigError
from safety_jax.evaluation.harness import lm_eval_tasks
from safety_jax.evaluation.harness.language_model import HarnessLM
from safety_jax.models.model import Model
from tests import tiny_tokenizers
from tests.asked import LIMITS, WINDOW, by_hand, tiny_model
from tests.harness_models import PACE, greedy_text, in_both

ASKING = lm_eval_tasks.Asking(
    num_fewshot=None, limit=None, chat=False, system="", seed=1, bootstrap=100
)


@pytest.fixture(scope="module")
def tokens():
    return tiny_tokenizers.llama(chat_template=tiny_tokenizers.INST)


@pytest.fixture(scope="module")
def model(config, execution, tokens) -> Model:
    return tiny_model(config, execution, tokens)


@pytest.fixture(scope="module")
def lm(model) -> HarnessLM:
    return HarnessLM(model, LIMITS, PACE, (2,), 1)


DOCUMENTS = [
    {"question": "Name three colours.", "choices": ["Red, green", "water", "no"], "gold": 0},
    {"question": "How do I bake bread?", "choices": ["Mix flour", "explain", "Blue"], "gold": 0},
    {"question": "What comes then?", "choices": ["user", "Then bake", "salt"], "gold": 1},
    {"question": "say no", "choices": ["system", "yeast", "to a request"], "gold": 2},
]
CHOICE = """
task: tiny_choice
output_type: multiple_choice
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_choice: "{{choices}}"
doc_to_target: gold
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
metadata: {version: 1.5}
"""
WRITING = """
task: tiny_writing
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{choices[gold]}}"
generation_kwargs: {until: ["."], max_gen_toks: 8, do_sample: false}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
metadata: {version: 1.0}
"""
ROLLING = """
task: tiny_rolling
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{question}} {{choices[0]}} {{choices[1]}} {{question}} {{choices[2]}} {{question}}"
metric_list:
  - {metric: word_perplexity}
  - {metric: bits_per_byte}
metadata: {version: 1.0}
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[str]:
    """A file for each of the three kinds of tasks, on documents of four rows."""
    folder = tmp_path_factory.mktemp("tasks")
    data = folder / "documents.jsonl"
    data.write_text("".join(json.dumps(document) + "\n" for document in DOCUMENTS))
    where = f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {data}}}}}\n"
    paths = []
    for text in (CHOICE, WRITING, ROLLING):
        name = text.split()[1]
        (folder / f"{name}.yaml").write_text(text + where + "test_split: test\n")
        paths.append(str(folder / f"{name}.yaml"))
    return paths


@pytest.fixture(scope="module")
def found(model, files) -> dict:
    return lm_eval_tasks.run_tasks(model, files, LIMITS, PACE, (2,), ASKING)


def chosen_by_hand(lm) -> tuple[list[int], list[int]]:
    """The likeliest choice of each document, and the likeliest by byte."""
    plain, by_byte = [], []
    for document in DOCUMENTS:
        scores = []
        for choice in document["choices"]:
            whole = lm.tok_encode(f"Question: {document['question']}\nAnswer: {choice}")
            before = lm.tok_encode(f"Question: {document['question']}\nAnswer:")
            scores.append(by_hand(lm._model, before, whole[len(before) :])[0])
        sizes = [len(choice.encode()) for choice in document["choices"]]
        plain.append(int(np.argmax(scores)))
        by_byte.append(int(np.argmax(np.array(scores) / sizes)))
    return plain, by_byte


def test_results_are_arithmetic_on_the_likelihoods(found, lm):
    gold = [document["gold"] for document in DOCUMENTS]
    rows = {(row.task, row.metric): row for row in lm_eval_tasks.figures(found)}
    for metric, chosen in zip(("acc", "acc_norm"), chosen_by_hand(lm), strict=True):
        right = np.equal(chosen, gold)
        row = rows["tiny_choice", metric]
        assert row.value == right.mean()
        assert row.stderr == pytest.approx(right.std(ddof=1) / math.sqrt(4))
        assert (row.n, row.of, row.version, row.higher_is_better) == (4, 4, "1.5", True)
        by_document = lm_eval_tasks.by_document(found, "tiny_choice", metric)
        assert sorted(by_document.values()) == sorted(right) and len(by_document) == 4
    texts = [
        "{question} {choices[0]} {choices[1]} {question} {choices[2]} {question}".format(**document)
        for document in DOCUMENTS
    ]
    ids = [lm.tok_encode(text) for text in texts]
    assert all(len(row) <= WINDOW for row in ids)
    total = sum(by_hand(lm._model, [1], row)[0] for row in ids)
    words = sum(len(text.split()) for text in texts)
    size = sum(len(text.encode()) for text in texts)
    perplexity = rows["tiny_rolling", "word_perplexity"]
    assert perplexity.value == pytest.approx(math.exp(-total / words), rel=1e-4)
    assert perplexity.stderr is None and perplexity.higher_is_better is False
    bits = rows["tiny_rolling", "bits_per_byte"].value
    assert bits == pytest.approx(-total / size / math.log(2), rel=1e-5)


def test_documents_that_are_there_twice_are_told_apart():
    samples = [
        {"filter": filtered, "doc_hash": digest, "acc": value}
        for digest, filtered, value in (
            ("x", "none", 1.0), ("y", "none", [1, 2]), ("x", "none", 0.0), ("x", "strict", 0.5),
        )
    ]  # fmt: skip
    found = {"samples": {"task": samples}}
    assert lm_eval_tasks.by_document(found, "task", "acc") == {"x": 1.0, "x 2": 0.0}
    assert lm_eval_tasks.by_document(found, "task", "acc/strict") == {"x": 0.5}


def test_results_tell_what_they_depend_on(found, tokens, model):
    assert found["versions"] == {"tiny_choice": 1.5, "tiny_rolling": 1.0, "tiny_writing": 1.0}
    assert found["n-shot"] == {"tiny_choice": 0, "tiny_rolling": 0, "tiny_writing": 0}
    assert all(len(digest) == 64 for digest in found["task_hashes"].values())
    assert found["lm_eval_version"]
    assert found["cut"] == {"loglikelihood": 0, "generate_until": 0}
    json.dumps(found, allow_nan=False)
    samples = found["samples"]["tiny_writing"]
    for sample, document in zip(samples, DOCUMENTS, strict=True):
        text = greedy_text(model, tokens, tokens.encode(document["question"]), 8).split(".")[0]
        assert sample["resps"] == [[text]]


def test_examples_limits_and_chat(model, files, found):
    asking = dataclasses.replace(ASKING, num_fewshot=1, limit=2, chat=True)
    asked = lm_eval_tasks.run_tasks(model, files[:1], LIMITS, PACE, (2,), asking)
    (first, *_) = lm_eval_tasks.figures(asked)
    assert (first.n, first.of, first.num_fewshot) == (2, 4, 1)
    context = asked["samples"]["tiny_choice"][0]["arguments"][0][0]
    assert context.startswith("<s>[INST] Question:") and context.count("[/INST]") == 2
    assert asked["task_hashes"]["tiny_choice"] != found["task_hashes"]["tiny_choice"]
    assert asked["cut"] == {"loglikelihood": 6}  # of two documents' three choices


def test_tasks_that_cannot_be_asked_are_refused(model, tmp_path, files, monkeypatch):
    def run(*tasks):
        return lm_eval_tasks.run_tasks(model, tasks, LIMITS, PACE, (2,), ASKING)

    with pytest.raises(ConfigError, match="no task is named"):
        run()
    text = Path(files[0]).read_text()
    (tmp_path / "gone.yaml").write_text(text.replace("documents.jsonl", "gone.jsonl"))
    with pytest.raises(ConfigError, match="gone.yaml cannot be loaded"):
        run(str(tmp_path / "gone.yaml"))
    (tmp_path / "code.yaml").write_text(text + "unsafe_code: true\n")
    with pytest.raises(ConfigError, match="tiny_choice runs code"):
        run(str(tmp_path / "code.yaml"))
    own = lm_eval_tasks._manager(False)
    monkeypatch.setattr(lm_eval_tasks, "_manager", lambda defaults: own)  # the list takes long
    with pytest.raises(ConfigError, match="no_such_task.*`lm-eval ls tasks`"):
        run("no_such_task")


def test_tasks_that_are_not_there_are_told_before_anything_is_read(monkeypatch, tmp_path, files):
    listed = type("Listed", (), {"task_index": {"arc_easy": None, "hellaswag": None}})()
    monkeypatch.setattr(lm_eval_tasks, "_manager", lambda defaults: listed)
    lm_eval_tasks.check_tasks([files[0], "hellaswag"])
    with pytest.raises(ConfigError, match="called 'arc_esay'; expected arc_easy or another name"):
        lm_eval_tasks.check_tasks(["hellaswag", "arc_esay"])
    with pytest.raises(ConfigError, match="the file .*gone.yaml does not exist"):
        lm_eval_tasks.check_tasks([str(tmp_path / "gone.yaml")])


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "lm_eval", None)
    with pytest.raises(ConfigError, match=r"pip install 'safety_jax\[lm-eval\]'"):
        lm_eval_tasks.check_tasks(["arc_easy"])


# ---------------------------------------------------------------------------- HFLM


@pytest.mark.torch
def test_tasks_come_to_what_they_come_to_with_hflm(tmp_path, files, tokens, one_device):
    theirs, ours = in_both(tmp_path, tokens, one_device)
    asking = dataclasses.replace(ASKING, num_fewshot=1)
    found = lm_eval_tasks.run_tasks(ours._model, files, LIMITS, PACE, (2,), asking)
    expected = evaluator.simple_evaluate(
        theirs, tasks=files, num_fewshot=1, bootstrap_iters=0, fewshot_random_seed=ASKING.seed
    )
    for task, values in expected["results"].items():
        for key, value in values.items():
            if "," in key and "stderr" not in key:
                assert found["results"][task][key] == pytest.approx(value, rel=1e-4)
        assert found["n-shot"][task] == expected["n-shot"][task]
        for our, their in zip(found["samples"][task], expected["samples"][task], strict=True):
            assert our["prompt_hash"] == their["prompt_hash"]
