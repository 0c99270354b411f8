"""Stage `dpo` as a user runs it: from folder and pairs to an exported folder; and mistakes."""

import json
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from configs import dpo as dpo_config
from safety_jax.base.errors import ConfigError, DataError
from safety_jax.models.folders import hf, peft
from safety_jax.stages import dpo, schema
from safety_jax.training import metrics
from tests.test_end_to_end import WORDS, inputs  # noqa: F401


def write_pairs(path: Path, count: int) -> Path:
    """The preferred answer speaks of bread, the other one does not."""
    random = np.random.default_rng(0)
    rows = []
    for i in range(count):
        question = " ".join(random.choice(WORDS, size=random.integers(3, 9)))
        answers = [" ".join(random.choice(WORDS, size=random.integers(2, 16))) for _ in range(2)]
        rows.append(
            {
                "prompt": f"{i} {question}?",
                "chosen": f"bread {answers[0]}",
                "rejected": f"salt {answers[1]}",
                "chosen_unsafe": bool(i % 3 == 0),
                "rejected_unsafe": bool(i % 2),
                "category": ["home", "milk"][i % 2],
            }
        )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="session")
def pairs(inputs) -> Path:  # noqa: F811
    return write_pairs(inputs / "pairs.jsonl", 40)


def configure(inputs: Path, arg: str | None = None, **overrides):  # noqa: F811
    config = dpo_config.get_config(arg)
    settings = {
        "model.path": str(inputs / "model"),
        "model.parameter_dtype": "float32",
        "model.compute_dtype": "float32",
        "model.remat": "none",
        "data.train": (str(inputs / "pairs.jsonl"),),
        "data.prefer": "all",
        "data.eval_rows": 8,
        "data.template": "plain",
        "data.max_length": 64,
        "dpo.reference_folder": str(inputs / "reference"),
        "train.batch_size": 24,  # several microbatches a step
        "train.rows_per_microbatch": 8,
        "train.chunk_tokens": 16,
        "train.max_steps": 6,
        "optim.learning_rate": 3e-2,
        "optim.warmup_steps": 0,
        "optim.schedule": "constant",
        "mesh.data": 8,
        "checkpoint.every_steps": 3,
        "checkpoint.export_dtype": "float32",
        "log.every_steps": 1,
        "log.eval_every_steps": 3,
    } | {key.replace("__", "."): value for key, value in overrides.items()}
    config.update_from_flattened_dict(settings)
    return config.lock()


@pytest.fixture(scope="session")
def finished(inputs, pairs, tmp_path_factory) -> Path:  # noqa: F811
    folder = tmp_path_factory.mktemp("runs") / "dpo"
    dpo.run(configure(inputs), str(folder))
    return folder


def test_a_run_leaves_what_it_promises(finished):
    rows = metrics.read(finished / "metrics.jsonl")
    training = [row for row in rows if "loss" in row]
    assert [row["step"] for row in training] == [1, 2, 3, 4, 5, 6]
    assert training[0]["loss"] == pytest.approx(np.log(2), abs=1e-6)
    assert training[0]["rewards/margins"] == pytest.approx(0, abs=1e-6)
    assert training[-1]["loss"] < 0.6 and training[-1]["rewards/accuracies"] > 0.8
    evaluations = [row for row in rows if "eval/loss" in row]
    assert [row["step"] for row in evaluations] == [3, 6]
    last = evaluations[-1]
    low, high = (last[f"eval/rewards/accuracies_{side}"] for side in ("low", "high"))
    assert low < last["eval/rewards/accuracies"] <= high
    assert "eval/rewards/margins/category=home" in last
    known = schema.STAGES["dpo"]["checkpoint.best_metric"]
    assert set(known.names) <= set(last)
    others = {"step", "eval/lengths/margin_correlation", "alarms/chosen_collapse"}
    assert all(known.fits(name) for name in last.keys() - others)
    promised = "config.json README.md plots/loss.png plots/rewards.png export/README.md"
    for name in f"{promised} export/adapter_config.json".split():
        assert (finished / name).exists(), name
    card = (finished / "README.md").read_text()
    assert "preference optimisation (sigmoid, β = 0.1) on 32 pairs" in card


def test_the_adapter_is_what_was_trained(finished, inputs, one_device):  # noqa: F811
    config = hf.read_config(inputs / "model")
    adapters, settings = peft.load(finished / "export", config, one_device)
    assert settings.rank == 16 and len(adapters.weights) == 7
    assert all(float(jnp.abs(pair["b"]).max()) > 0 for pair in adapters.weights.values())


def rewards_of(folder: Path) -> list[float]:
    return [
        row["rewards/margins"] for row in metrics.read(folder / "metrics.jsonl") if "loss" in row
    ]


def test_live_is_cached_and_unpacked_is_packed(finished, inputs, tmp_path):  # noqa: F811
    """A whole run with the reference in the step, each answer in a row, on one device."""
    config = configure(
        inputs,
        dpo__reference="live",
        data__packing=False,
        data__share_prompts=False,
        train__rows_per_microbatch=24,
        train__max_steps=3,
    )
    dpo.run(config, str(tmp_path / "live"))
    expected = rewards_of(finished)[:3]
    np.testing.assert_allclose(rewards_of(tmp_path / "live"), expected, rtol=1e-3, atol=1e-5)


def test_full_fine_tuning_with_safe_dpo_exports_a_model(inputs, pairs, tmp_path):  # noqa: F811
    config = configure(
        inputs,
        "loss=safe",
        data__prefer="safety_first",
        dpo__margin=2.0,
        lora__rank=0,
        train__max_steps=2,
        optim__learning_rate=1e-2,
        checkpoint__every_steps=2,
    )
    dpo.run(config, str(tmp_path / "run"))
    first = metrics.read(tmp_path / "run" / "metrics.jsonl")[0]
    # Where only the rejected answer is unsafe, no margin yet costs log(1 + e^δ), otherwise ln 2.
    assert np.log(2) < first["loss"] < np.log1p(np.exp(2.0))
    assert first["rewards/margins"] == pytest.approx(0, abs=1e-6)
    trained = load_file(tmp_path / "run" / "export" / "model.safetensors")
    start = load_file(inputs / "model" / "model.safetensors")
    assert trained.keys() <= start.keys()
    assert any(np.abs(trained[name] - start[name]).max() > 1e-4 for name in trained)


def test_the_reference_of_a_given_adapter_is_that_adapter(finished, inputs, tmp_path):  # noqa: F811
    """On a quantised base, divided over the devices."""
    config = configure(
        inputs,
        model__adapter=str(finished / "export"),
        model__base="int8",
        train__max_steps=1,
        data__eval_rows=0,
        mesh__data=2,
        mesh__fsdp=2,
        mesh__tensor=2,
    )
    dpo.run(config, str(tmp_path / "run"))
    first = metrics.read(tmp_path / "run" / "metrics.jsonl")[0]
    assert first["loss"] == pytest.approx(np.log(2), abs=1e-5)
    assert first["kl"] == pytest.approx(0, abs=1e-6)


def test_weighted_door_weighs_tokens_by_a_proxy(finished, inputs, tmp_path, capsys):  # noqa: F811
    """At a temperature without end all tokens weigh 1: likelihood, and 2 ln 2 / β for each token of
    the harmful answers, which stand at their start."""
    asked = {"dpo__proxy": str(finished / "export"), "train__max_steps": 1, "data__eval_rows": 0}
    config = configure(inputs, "loss=weighted_door", dpo__temperature=1e6, **asked)
    dpo.run(config, str(tmp_path / "run"))
    assert "chosen answers by" in capsys.readouterr().out
    (first,) = metrics.read(tmp_path / "run" / "metrics.jsonl")
    expected = -first["logps/chosen"] + 4 * np.log(2) * first["lengths/rejected"]
    assert first["loss"] == pytest.approx(expected, rel=1e-5)
    assert "weighted by" in (tmp_path / "run" / "README.md").read_text()
    read = json.loads((tmp_path / "run" / "identity.json").read_text())
    assert f"dpo.proxy {finished / 'export'}" in read
    # What the proxy says is on disk now; a weight that is no number is told.
    config = configure(inputs, "loss=weighted_door", dpo__temperature=1e-3, **asked)
    with pytest.raises(ConfigError, match="is not finite; expected a larger temperature"):
        dpo.run(config, str(tmp_path / "cold"))


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        ({"dpo__objective": "weighted_door"}, ConfigError, "dpo.proxy is empty; expected its"),
        ({"data__prefer": "agreed_"}, ConfigError, "data.prefer 'agreed_'"),
        ({"data__bad_rows": "drop"}, ConfigError, "data.bad_rows 'drop'"),
        ({"train__rows_per_microbatch": 3}, ConfigError, "does not divide over mesh"),
    ],
)
def test_mistakes_are_one_line(overrides, error, message, inputs, pairs, tmp_path):  # noqa: F811
    with pytest.raises(error, match=message) as raised:
        dpo.run(configure(inputs, **overrides), str(tmp_path / "run"))
    assert "\n" not in str(raised.value)


def test_safe_dpo_needs_labels(inputs, tmp_path):  # noqa: F811
    rows = [{"prompt": f"p {i}", "chosen": "milk", "rejected": "salt"} for i in range(20)]
    file = tmp_path / "plain.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = configure(inputs, "loss=safe", data__train=(str(file),))
    with pytest.raises(ConfigError, match="dpo.objective safe needs to know which answers"):
        dpo.run(config, str(tmp_path / "run"))
    known = tmp_path / "labelled.jsonl"
    labels = {"chosen_unsafe": False, "rejected_unsafe": True}
    known.write_text("".join(json.dumps(row | labels) + "\n" for row in rows))
    config = configure(
        inputs, "loss=safe", data__train=(str(known),), data__eval=str(file), data__eval_rows=0
    )
    with pytest.raises(ConfigError, match="in every row of data.train, and of data.eval"):
        dpo.run(config, str(tmp_path / "run"))
    config = configure(inputs, "loss=safe", data__train=(str(file),), data__prefer="safety_first")
    with pytest.raises(DataError, match="plain.jsonl line 1: does not say which answers are"):
        dpo.run(config, str(tmp_path / "again"))


def test_skipped_rows_are_listed(inputs, pairs, tmp_path):  # noqa: F811
    file = tmp_path / "pairs.jsonl"
    shutil.copy(pairs, file)
    with file.open("a") as rows:
        rows.write(json.dumps({"prompt": "p", "chosen": "a", "rejected": ""}) + "\n")
    config = configure(inputs, data__train=(str(file),), data__bad_rows="skip", train__max_steps=1)
    dpo.run(config, str(tmp_path / "run"))
    (skipped,) = (tmp_path / "run" / "skipped.jsonl").read_text().splitlines()
    why = "'rejected' is empty"
    assert json.loads(skipped) == {"where": "pairs.jsonl line 41", "why": why, "unwanted": False}
