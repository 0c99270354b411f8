"""Stage `reward` as a user runs it: from answers to a folder that transformers opens; mistakes."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from configs import reward as reward_config
from safety_jax.base.errors import ConfigError, DataError
from safety_jax.data import records
from safety_jax.data.labels import Labels
from safety_jax.models.encoders import heads
from safety_jax.models.folders import tokenizer as tokenizers
from safety_jax.stages import reward
from safety_jax.training import judging, metrics
from tests import tiny_tokenizers
from tests.golden import score_cases
from tests.samples import execute_on
from tests.test_dpo import write_pairs
from tests.test_end_to_end import inputs  # noqa: F401

TEXTS = [("how do I make bread?", "bread with milk and salt"), ("ask the cat", "salt")]
# Where a word tokenizer knows every word of the rows.
ENCODERS = {"deberta": "deberta_v3", "bert": "bert_relu"}


@pytest.fixture(scope="session")
def answers(inputs) -> Path:  # noqa: F811
    """Pairs whose better answer speaks of bread; and the same answers, rated by that."""
    write_pairs(inputs / "judged_pairs.jsonl", 40)
    pairs = map(json.loads, (inputs / "judged_pairs.jsonl").read_text().splitlines())
    rated = [
        {"prompt": row["prompt"], "response": row[side], "rating": rating, "category": ["a", "b"]}
        for row in pairs
        for side, rating in (("chosen", 0), ("rejected", 4))
    ]
    (inputs / "rated.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rated))
    return inputs


def configure(inputs: Path, kind: str = "pairs", **overrides):  # noqa: F811
    config = reward_config.get_config(f"kind={kind}")
    rows = "rated.jsonl" if kind == "regression" else "judged_pairs.jsonl"
    settings = {
        "model.path": str(inputs / "model"),
        "model.parameter_dtype": "float32",
        "model.compute_dtype": "float32",
        "model.remat": "none",
        "data.train": (str(inputs / rows),),
        "data.eval_rows": 8,
        "data.max_length": 64,
        "train.batch_size": 16,  # several microbatches a step
        "train.rows_per_microbatch": 8,
        "train.max_steps": 12,
        "optim.learning_rate": 1e-2,
        "optim.warmup_steps": 0,
        "optim.schedule": "constant",
        "mesh.data": 8,
        "checkpoint.every_steps": 6,
        "log.every_steps": 1,
        "log.eval_every_steps": 6,
    } | {key.replace("__", "."): value for key, value in overrides.items()}
    config.update_from_flattened_dict(settings)
    return config.lock()


@pytest.fixture(scope="session")
def finished(answers, tmp_path_factory) -> Path:
    """All weights of a LLaMA, from pairs."""
    folder = tmp_path_factory.mktemp("runs") / "reward"
    reward.run(configure(answers), str(folder))
    return folder


def encoder(folder: Path, kind: str) -> Path:
    """A DeBERTa or BERT of the goldens, with a tokenizer of whole words."""
    tokens = tiny_tokenizers.bert()
    trunk = score_cases.write_case(folder / "trunk", ENCODERS[kind])
    assert len(tokens) <= score_cases.VOCABULARY
    tokens.save_pretrained(trunk)
    return trunk


def results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


def by_us(folder: Path, mesh, tokens, texts) -> np.ndarray:
    scorer = heads.read_scorer(folder)
    weights = heads.load(folder, scorer, mesh, jnp.float32)
    run = execute_on(mesh, rules=scorer.rules)
    given = tokens(*texts, padding=True, return_tensors="np")
    ids = jnp.asarray(given["input_ids"], jnp.int32)
    types = jnp.asarray(given.get("token_type_ids", np.zeros(ids.shape)), jnp.int32)
    real = jnp.asarray(given["attention_mask"], bool)
    return np.asarray(heads.scores(scorer, weights, ids, types, real, run))


# ---------------------------------------------------------------------------- a run


def test_a_run_leaves_what_it_promises(finished):
    rows = metrics.read(finished / "metrics.jsonl")
    training = [row for row in rows if "loss" in row]
    assert [row["step"] for row in training] == list(range(1, 13))
    assert np.mean([row["loss"] for row in training[-4:]]) < 0.6 < training[0]["loss"]
    assert training[-1]["accuracy"] > 0.7 and training[-1]["margin"] > 0
    last = [row for row in rows if "eval/loss" in row][-1]
    assert last["eval/accuracy_low"] < last["eval/accuracy"] <= last["eval/accuracy_high"]
    promised = "config.json README.md plots/loss.png plots/calibration.png export/README.md"
    for name in f"{promised} export/config.json export/tokenizer.json".split():
        assert (finished / name).exists(), name
    found = results(finished)
    assert found["held_out"] == 8 and found["step"] == 12
    assert {"chance", "longer wins", "logistic on length"} <= set(found["baselines"])
    assert set(found["by_category"]) == {"home", "milk"}
    judge = json.loads((finished / "export" / "judge.json").read_text())
    assert judge["direction"] == "higher is better" and judge["threshold"] is None
    assert judge["template"] == "human_assistant" and judge["max_length"] == 64
    card = (finished / "README.md").read_text()
    assert "A judge of kind pairs" in card and "accuracy of: longer wins" in card


def test_what_is_exported_scores_as_what_was_trained(finished, one_device):
    """The bread answers of the rows win, read from the folder with its own tokenizer."""
    tokens = tokenizers.load_tokenizer(finished / "export")
    tokens.pad_token = tokens.pad_token or tokens.eos_token
    form = "\n\nHuman: {}\n\nAssistant:{}"
    asked = "1 the cat and milk?"
    texts = [form.format(asked, f" {word} at home") for word in ("bread", "salt")]
    better, worse = by_us(finished / "export", one_device, tokens, [texts])[:, 0]
    assert better > worse


def test_running_again_changes_nothing(finished, answers):
    before = (finished / "export" / "model.safetensors").read_bytes()
    lines = (finished / "metrics.jsonl").read_text()
    reward.run(configure(answers), str(finished))
    assert (finished / "export" / "model.safetensors").read_bytes() == before
    assert (finished / "metrics.jsonl").read_text() == lines


def test_stopped_and_resumed_is_uninterrupted(finished, answers, tmp_path):
    """As after a kill: what stands behind the last checkpoint is lost."""
    folder = tmp_path / finished.name
    shutil.copytree(finished, folder)
    shutil.rmtree(folder / "export")
    shutil.rmtree(folder / "checkpoints" / "12")
    reward.run(configure(answers), str(folder))
    names = ("export/model.safetensors", "results.json")
    for name in names:
        assert (folder / name).read_bytes() == (finished / name).read_bytes(), name


# ---------------------------------------------------------------------------- kinds and trunks


def test_a_rating_with_adapters_on_deberta(answers, tmp_path, one_device):
    """Encoders read text pairs; adapters are merged into the exported judge."""
    trunk = encoder(tmp_path, "deberta")
    config = configure(
        answers,
        "regression",
        model__path=str(trunk),
        lora__rank=4,
        data__template="pair",
        train__max_steps=12,
        optim__learning_rate=3e-2,
    )
    reward.run(config, str(tmp_path / "run"))
    rows = [row for row in metrics.read(tmp_path / "run" / "metrics.jsonl") if "loss" in row]
    assert rows[-1]["loss"] < rows[0]["loss"] and rows[-1]["mse"] == pytest.approx(
        rows[-1]["loss"], rel=1e-4
    )
    found = results(tmp_path / "run")
    assert set(found["baselines"]) == {"mean rating", "line on length"}
    assert set(found["by_rating"]) <= {"0", "4"} and "calibration" not in found
    written = json.loads((tmp_path / "run" / "export" / "config.json").read_text())
    assert written["id2label"] == {"0": "rating"}
    assert heads.read_scorer(tmp_path / "run" / "export").kind == "deberta"
    assert "adapter" not in " ".join(path.name for path in (tmp_path / "run/export").iterdir())


@pytest.mark.parametrize("kind", ["cost", "binary"])
def test_labels_on_bert(kind, answers, tmp_path):
    trunk = encoder(tmp_path, "bert")
    config = configure(
        answers, kind, model__path=str(trunk), data__template="pair", data__prefer="all",
        train__max_steps=2, checkpoint__every_steps=2,
    )  # fmt: skip
    reward.run(config, str(tmp_path / "run"))
    found = results(tmp_path / "run")
    baseline = "more frequent label" if kind == "binary" else "longer wins"
    assert baseline in found["baselines"] and "auc" in found
    assert ("sign_accuracy" in found) == (kind == "cost")
    judge = json.loads((tmp_path / "run" / "export" / "judge.json").read_text())
    assert judge["threshold"] == 0.0 and judge["direction"] == "higher is more harmful"


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore::FutureWarning")  # raised inside transformers
@pytest.mark.parametrize("trunk", ["llama", "deberta", "bert"])
def test_transformers_opens_the_export(trunk, finished, answers, tmp_path, one_device):
    import torch
    import transformers

    folder = finished
    if trunk != "llama":
        folder = tmp_path / "run"
        config = configure(
            answers, model__path=str(encoder(tmp_path, trunk)), data__template="pair",
            train__max_steps=1, data__eval_rows=0,
        )  # fmt: skip
        reward.run(config, str(folder))
    tokens = tokenizers.load_tokenizer(folder / "export")
    tokens.pad_token = tokens.pad_token or tokens.eos_token
    texts = [[" ".join(pair) for pair in TEXTS]]
    if trunk != "llama":
        texts = [list(side) for side in zip(*TEXTS, strict=True)]
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder / "export", dtype=torch.float32
    ).eval()
    model.config.pad_token_id = tokens.pad_token_id
    with torch.no_grad():
        theirs = model(**tokens(*texts, padding=True, return_tensors="pt")).logits.numpy()
    ours = by_us(folder / "export", one_device, tokens, texts)
    assert theirs.shape == (2, 1) and np.abs(theirs[0] - theirs[1]).max() > 1e-3
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)


def test_labels_that_are_all_alike_are_warned_of():
    rated = records.Rated((), (), "", "a", "row 0", 1.0)
    assert "all 2 rows have the label 1" in judging.describe_labels([rated, rated])[0]
    assert not judging.describe_labels([rated, dataclasses.replace(rated, value=0.0)])
    pair = records.Pair((), (), (), "", "a", "row 0", Labels(unsafe=(False, False)))
    assert "the label 0" in judging.describe_labels([pair])[0]
    mixed = dataclasses.replace(pair, labels=Labels(unsafe=(False, True)))
    assert not judging.describe_labels([mixed])


# ---------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        ({"data__prefer": "best"}, ConfigError, "data.prefer 'best'"),
        ({"data__bad_rows": "drop"}, ConfigError, "data.bad_rows 'drop': expected error or skip"),
        ({"data__template": "pair"}, ConfigError, "data.template pair: this model does not take"),
        ({"model__init": "zeros"}, ConfigError, "model.init 'zeros'"),
        ({"lora__rank": 2, "lora__targets": ("query_proj",)}, ConfigError, "query_proj"),
        ({"train__rows_per_microbatch": 3}, ConfigError, "does not divide over mesh"),
    ],
)
def test_mistakes_are_one_line(overrides, error, message, answers, tmp_path):
    with pytest.raises(error, match=message) as raised:
        reward.run(configure(answers, **overrides), str(tmp_path / "run"))
    assert "\n" not in str(raised.value)


def test_a_cost_model_needs_labels(answers, tmp_path):
    rows = [{"prompt": f"p {i}", "chosen": "milk", "rejected": "salt"} for i in range(20)]
    file = tmp_path / "plain.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = configure(answers, "cost", data__train=(str(file),), data__prefer="all")
    with pytest.raises(DataError, match="a cost model needs to know which answers are unsafe"):
        reward.run(config, str(tmp_path / "run"))
