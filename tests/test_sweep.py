"""Stage `sweep`: its runs from a config, what they cost, and that they are as if alone."""

import functools
import json
import os
import signal
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from configs import curve as curve_config
from configs import dpo as dpo_config
from configs import sweep as sweep_config
from safety_jax.base.errors import ConfigError
from safety_jax.maths import losses
from safety_jax.models.folders import hf, peft
from safety_jax.stages import (
    curve,
    dpo,
    dpo_task,
    evaluate,
    sft,
    sweep,
    sweep_cost,
    sweep_methods,
    sweep_record,
)
from safety_jax.stages.sweep_axes import variants
from safety_jax.training import lanes, metrics, progress, reference
from tests import opened
from tests.test_dpo import configure as configure_dpo
from tests.test_dpo import pairs  # noqa: F401
from tests.test_end_to_end import configure as configure_sft
from tests.test_end_to_end import inputs  # noqa: F401
from tests.test_evaluate import configure as configure_report
from tests.test_evaluate import write


def configure(inputs: Path, method=configure_sft, **overrides):  # noqa: F811
    config = sweep_config.get_config("dpo" if method is configure_dpo else None)
    with config.unlocked():
        config.update(method(inputs).to_dict())
        config.stage = "sweep"
    values = {key.replace("__", "."): value for key, value in overrides.items()}
    config.update_from_flattened_dict(values)
    return config.lock()


def names(inputs, **overrides):  # noqa: F811
    return [one.name for one in variants(configure(inputs, **overrides))]


def test_axes_and_runs(inputs):  # noqa: F811
    axes = "data.safety_rows=0,8 seed=3,1"
    made = variants(configure(inputs, sweep__axes=axes, sweep__runs="optim.learning_rate=1e-3"))
    assert [one.name for one in made] == [
        "safety_rows0_seed3", "safety_rows0_seed1", "safety_rows8_seed3", "safety_rows8_seed1",
        "learning_rate0.001",
    ]  # fmt: skip
    assert made[0].config.seed == 3 and made[0].config.data.safety_rows == 0
    assert made[4].config.optim.learning_rate == 1e-3 and made[4].config.seed == 0
    assert made[0].config.stage == "sft" and "sweep" not in made[0].config
    source = variants(configure(inputs, sweep__axes="data.train=data/one.jsonl?rows=5"))[0]
    assert source.name == "trainone.jsonl-rows-5"
    assert source.config.data.train == ("data/one.jsonl?rows=5",)


def test_the_run_to_compare_with_is_one_of_the_sweep(inputs):  # noqa: F811
    """Where single runs would be told that they ask for what they do not use."""
    shares = "data.recovery_share=0,0.5"
    made = variants(configure(inputs, sweep__axes=shares, data__recovery="harm.jsonl"))
    assert [one.config.data.recovery for one in made] == ["", "harm.jsonl"]
    with pytest.raises(ConfigError, match="data.recovery is given, but data.recovery_share is 0"):
        variants(configure(inputs, sweep__axes="seed=0,1", data__recovery="harm.jsonl"))
    best = {"checkpoint__best_metric": "eval/nll_loss", "checkpoint__export": "best"}
    made = variants(configure(inputs, sweep__axes="sft.early_weight=1,6", **best))
    assert [one.config.checkpoint.best_metric for one in made] == ["eval/nll_loss"] * 2
    with pytest.raises(ConfigError, match="'eval/nll_loss', which is the loss itself"):
        variants(configure(inputs, sweep__axes="seed=0,1", **best))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "sweep.axes and sweep.runs are both empty"),
        ({"sweep__axes": "train.batch_size=1,2"}, "'train.batch_size' cannot differ"),
        ({"sweep__axes": "seed"}, "sweep.axes 'seed': expected KEY=VALUE"),
        ({"sweep__axes": "seed=1e999"}, "seed=1e999: expected a whole number"),
        ({"sweep__axes": "seed=1,1"}, "repeats a value"),
        ({"sweep__axes": "seed=1 data.safety_rows=8 seed=2"}, "sweep.axes names seed twice"),
        ({"sweep__axes": "seed=few"}, "seed=few: expected a whole number"),
        ({"sweep__axes": "seed=1.9"}, "seed=1.9: expected a whole number"),
        ({"sweep__axes": "seed=None"}, "seed=None: expected a whole number"),
        ({"sweep__axes": "lora.rank=4,-1"}, "sweep run rank-1: lora.rank is -1; expected"),
        ({"sweep__axes": "lora.rank=0,4"}, "sweep run rank0: lora.rank is 0"),
        ({"sweep__runs": "seed=1 seed=2"}, "each once"),
        ({"sweep__axes": "seed=1", "sweep__runs": "seed=1"}, "two runs are called seed1"),
        (
            {"sweep__runs": "data.safety_rows=8; data.safety_rows=8 seed=0"},
            "and .* have the same config",
        ),
        (
            {"sweep__axes": "data.train=a/x.jsonl,b/x.jsonl"},
            "two runs are called trainx.jsonl; .* path",
        ),
    ],
)
def test_mistakes(inputs, given, message):  # noqa: F811
    with pytest.raises(ConfigError, match=message):
        names(inputs, **given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sweep__axes": "data.safety_rows=1,2"}, "between runs of stage dpo in one program; .*"),
        ({"sweep__axes": "dpo.objective=sigmoid,simple"}, "dpo.objective is 'simple'; expected"),
        ({"sweep__axes": "dpo.beta=0.1,0"}, "sweep run beta0.0: dpo.beta is 0.0; expected"),
        (
            {"sweep__axes": "dpo.objective=simpo,hinge", "dpo__reference": "none"},
            "sweep run objectivehinge: dpo.reference is none, but dpo.objective hinge needs",
        ),
        (
            {"sweep__axes": "dpo.objective=door,weighted_door"},
            "is weighted_door, which a sweep does",
        ),
    ],
)
def test_mistakes_of_dpo(inputs, given, message):  # noqa: F811
    with pytest.raises(ConfigError, match=message):
        names(inputs, method=configure_dpo, **given)


def test_all_objectives_in_one_program():
    """Values and gradients of each, mapped over runs, are those of the objective by itself."""
    names = sorted(dpo_config.OBJECTIVES.keys() - {dpo_task.WEIGHTED})
    made = [dpo_config.get_config(f"loss={name}").dpo for name in names]
    rows = [sweep_methods.objective_numbers(group, names) for group in made]
    numbers = {key: jnp.array([row[key] for row in rows]) for key in rows[0]}
    random = np.random.default_rng(0)
    policy, reference = jnp.array(-random.uniform(1, 40, (2, 6, 2)), "f")
    facts = jnp.array([random.integers(1, 30, (6, 2)), random.integers(0, 2, (6, 2))], "f")

    def total(objective, policy):
        return objective.loss(losses.PairLogprobs(policy, reference, *facts)).sum()

    def shared(numbers, policy):
        return total(sweep_methods.shared_objective(names, numbers), policy)

    both = jax.jit(jax.vmap(jax.value_and_grad(shared, argnums=1), in_axes=(0, None)))
    values, gradients = both(numbers, policy)
    for group, value, gradient in zip(made, values, gradients, strict=True):
        alone = jax.value_and_grad(functools.partial(total, dpo_task.make_objective(group)))
        expected, slope = alone(policy)
        np.testing.assert_allclose(value, expected, rtol=1e-6, err_msg=group.objective)
        np.testing.assert_allclose(gradient, slope, rtol=1e-5, atol=1e-7, err_msg=group.objective)


def test_steps_of_the_program():
    assert sweep_cost.program_steps([4, 3, 2], 2) == 5
    assert sweep_cost.program_steps([9, 5, 4, 2], 2) == 11
    assert sweep_cost.program_steps([7] * 8, 8) == 7


# ---------------------------------------------------------------------------- the stage


RUNS = (
    "seed=1 data.safety_rows=0;"
    "seed=2 optim.learning_rate=3e-2 optim.schedule=cosine optim.warmup_steps=2;"
    "lora.rank=4 train.max_steps=4 sft.early_weight=3"
)


def logged(folder: Path) -> list[dict]:
    rows = metrics.read(folder / "metrics.jsonl")
    return [{k: v for k, v in row.items() if k not in progress.TIMING} for row in rows]


@pytest.mark.slow
def test_runs_are_as_if_alone_stopped_and_resumed(inputs, tmp_path, capsys, monkeypatch):  # noqa: F811
    """Three runs in two lanes, of other data, rates, ranks and weights of early tokens, with
    dropout, on eight devices."""
    config = configure(
        inputs, lora__dropout=0.1, sft__early_weight=2.0, sweep__runs=RUNS, sweep__lanes=2
    )
    step = lanes.TrainingLanes.step

    def stopped(self, *given):
        if self.steps == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(lanes.TrainingLanes, "step", stopped)
        sweep.run(config, str(tmp_path / "sweep"))
    told = capsys.readouterr().out
    assert "3 runs, 2 at a time: 16 steps in 10 of the program" in told
    assert not (tmp_path / "sweep/sweep.json").exists()
    sweep.run(config, str(tmp_path / "sweep"))
    assert "all 3 runs are finished" in capsys.readouterr().out

    finished = sweep_record.read(tmp_path / "sweep")
    planned = {one.name: one for one in variants(config)}
    assert {one.name for one in finished} == planned.keys()
    for one in finished:
        variant = planned[one.name]
        alone = tmp_path / "alone" / one.name
        sft.run(variant.config, str(alone))
        found, known = (
            load_file(f / "adapter_model.safetensors") for f in (one.export, alone / "export")
        )
        assert found.keys() == known.keys()
        for name in known:
            np.testing.assert_allclose(
                found[name], known[name], rtol=0, atol=2e-6, err_msg=f"{one.name} {name}"
            )
        # What is summed up to one number may differ in the last digit, see docs/sweep.md.
        rows = [r for r in logged(one.export.parent) if "loss" in r]
        for row, other in zip(rows, (r for r in logged(alone) if "loss" in r), strict=True):
            assert row == pytest.approx(other, rel=1e-5)
        assert (one.export / "README.md").read_text().startswith("---")

    # Nothing is left to do; another value on an axis is one more run.
    with monkeypatch.context() as patch:
        patch.setattr(lanes.TrainingLanes, "step", None)
        sweep.run(config, str(tmp_path / "sweep"))
    assert "3 runs were finished before" in capsys.readouterr().out

    # A finished run is held to what it read, as one that goes on is.
    read = tmp_path / "sweep/runs" / finished[0].name / "identity.json"
    read.write_text(json.dumps(json.loads(read.read_text()) | {"tokens to train on": "others"}))
    with pytest.raises(ConfigError, match="began with other contents: tokens to train on: others"):
        sweep.run(config, str(tmp_path / "sweep"))


DPO_RUNS = (
    "seed=1 dpo.beta=0.5 data.train={rows};"
    "dpo.objective=ipo_mean dpo.nll_weight=0.2 optim.learning_rate=1e-2"
)


@pytest.mark.slow
def test_runs_of_dpo_are_as_if_alone(inputs, pairs, tmp_path, capsys, monkeypatch):  # noqa: F811
    """Two objectives, other pairs and rates; stopped once; against one reference."""
    config = configure(
        inputs, configure_dpo, sweep__runs=DPO_RUNS.format(rows=f"{pairs}?rows=30"),
        train__max_steps=3, dpo__reference_folder=str(tmp_path / "reference"),
        data__template="alpaca", data__max_length=128,  # so much in common that rows are shared
        lora__targets=("q_proj",),
    )  # fmt: skip
    step = lanes.TrainingLanes.step

    def stopped(self, *given):
        if self.steps == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(lanes.TrainingLanes, "step", stopped)
        assert not sweep.run(config, str(tmp_path / "sweep"))
    assert "reference: the 40 pairs of all runs, " in capsys.readouterr().out
    (kept,) = (tmp_path / "reference").iterdir()  # of 22, 8, 32 and 8 pairs, each once
    with monkeypatch.context() as patch:
        known = lambda *_: lambda *_: pytest.fail("the reference is computed again")  # noqa: E731
        patch.setattr(reference, "make_score", known)
        assert sweep.run(config, str(tmp_path / "sweep"))
    assert list((tmp_path / "reference").iterdir()) == [kept]

    finished = sweep_record.read(tmp_path / "sweep")
    planned = {one.name: one for one in variants(config)}
    assert {one.name for one in finished} == planned.keys()
    for one in finished:
        alone = tmp_path / "alone" / one.name
        dpo.run(planned[one.name].config, str(alone))
        found, known = (
            load_file(f / "adapter_model.safetensors") for f in (one.export, alone / "export")
        )
        assert found.keys() == known.keys()
        for name in known:
            np.testing.assert_allclose(
                found[name], known[name], rtol=0, atol=2e-6, err_msg=f"{one.name} {name}"
            )
        # Before the first step all margins are 0, and what stands there is rounding.
        rows, others = ([r for r in logged(f) if r["step"] > 1] for f in (one.export.parent, alone))
        for row, other in zip(rows, others, strict=True):
            assert row == pytest.approx(other, rel=1e-4, abs=1e-5)
        assert any("eval/rewards/margins" in row for row in rows)


def test_a_sweep_of_dpo_is_evaluated_and_has_a_curve(inputs, pairs, tmp_path):  # noqa: F811
    """Over beta, with two seeds; the answers to harmful requests are refusals or not."""
    config = configure(
        inputs, configure_dpo, sweep__axes="dpo.beta=0.1,0.5 seed=0,1", train__max_steps=1,
        data__eval_rows=0, lora__targets=("q_proj",), checkpoint__every_steps=1,
    )  # fmt: skip
    sweep.run(config, str(tmp_path / "sweep"))
    asked = write(tmp_path / "unsafe.jsonl", [{"prompt": f"{i} bread?"} for i in range(3)])
    values = {
        "evaluate.models": f"base={inputs}/model,n={tmp_path}/sweep",
        "evaluate.sets": (f"{asked}?name=unsafe&kind=unsafe",),
        "evaluate.judges": ("refusal",),
        "answer.max_new_tokens": 4,
    }
    evaluate.run(configure_report(inputs, **values), str(tmp_path / "report"))
    group = curve_config.get_config()
    group.curve.sweep, group.curve.report = f"{tmp_path}/sweep", f"{tmp_path}/report"
    group.curve.axis = "dpo.beta"
    curve.run(group.lock(), str(tmp_path / "curve"))
    (refused,) = json.loads((tmp_path / "curve/curve.json").read_text())["curves"]
    points = {point["amount"]: point for point in refused["points"]}
    assert points.keys() == {0.1, 0.5}
    # Two seeds and three prompts at each beta; what the report counts for each run.
    report = json.loads((tmp_path / "report/report.json").read_text())
    for beta, point in points.items():
        assert (point["share"]["rows"], point["share"]["columns"]) == (2, 3)
        for seed, share in point["by_seed"].items():
            answers = [i["answers"][f"n.beta{beta}_seed{seed}"] for i in report["transcripts"]]
            assert share == sum(one["refusal"] != "none" for one in answers) / 3
    assert "| beta |" in (tmp_path / "curve/curves.md").read_text()


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore::FutureWarning")  # raised inside transformers
def test_peft_opens_the_adapters(inputs, tmp_path, one_device):  # noqa: F811
    """Both ranks of one program, the lower of which was carried with columns of zeros."""
    import peft as theirs

    config = configure(
        inputs, sweep__axes="lora.rank=4,8", train__max_steps=2, checkpoint__every_steps=2,
        data__eval_rows=0,
    )  # fmt: skip
    sweep.run(config, str(tmp_path))
    described = hf.read_config(inputs / "model")
    weights = hf.load(inputs / "model", described, one_device, jnp.float32)
    ids = np.arange(3, 51).reshape(2, 24)
    plain = opened.by_us(described, weights, ids, one_device)
    for one in sweep_record.read(tmp_path):
        model = theirs.PeftModel.from_pretrained(opened.model_of(inputs / "model"), one.export)
        assert model.peft_config["default"].r == one.changes["lora.rank"]
        adapters, _ = peft.load(one.export, described, one_device)
        found = opened.by_us(described, weights, ids, one_device, adapters)
        expected = opened.by_transformers(model, ids)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
        assert np.abs(found - plain).max() > 1e-2  # the adapter is no bystander
