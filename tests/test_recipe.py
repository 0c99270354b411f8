"""Stage `recipe` as a user runs it: steps in order, each of what came before; cut off; mistakes."""

import json
import shutil
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from safety_jax.base.errors import ConfigError, UserError
from safety_jax.stages import evaluate, recipe, sft, tuning
from safety_jax.training.settings import Budget
from tests.evaluation_runs import configure as configure_report
from tests.evaluation_runs import given  # noqa: F401
from tests.test_end_to_end import configure as configure_sft
from tests.test_end_to_end import inputs  # noqa: F401

STAGES = {"evaluate": evaluate.run, "sft": sft.run}


def make(inputs: Path, given: Path, **overrides) -> ConfigDict:  # noqa: F811
    """Safety tuning, and a report on both models."""
    config = ConfigDict({"stage": "recipe", "seed": 0})
    config.recipe = ConfigDict(
        {
            "base": str(inputs / "model"),
            "data": str(given),
            "trunk": "",
            "max_flops": 0.0,
            "minutes": {"sit": 1.0, "report": 2.0},
        }
    )
    config.recipe.steps = ("sit", "report")
    config.sit = ConfigDict(configure_sft(inputs, **{"model.path": "@base"}))
    config.report = ConfigDict(
        configure_report(
            given,
            **{
                "evaluate.models": "base=@base,sit=@sit",
                "evaluate.sets": ("@data/unsafe.jsonl?name=unsafe&kind=unsafe",),
                "evaluate.judges": ("refusal",),
            },
        )
    )
    config.update_from_flattened_dict(overrides)
    return config.lock()


@pytest.fixture
def counted():
    """The stages, and the names of those that ran."""
    ran: list[str] = []

    def count(name, stage):
        return lambda config, folder: (ran.append(Path(folder).name), stage(config, folder))[1]

    return {name: count(name, stage) for name, stage in STAGES.items()}, ran


def test_steps_run_in_order_each_of_what_came_before(inputs, given, tmp_path, counted, capsys):  # noqa: F811
    stages, ran = counted
    folder = tmp_path / "ladder"
    short = {"sit.optim.warmup_steps": 4}  # of six steps
    recipe.run(make(inputs, given, **short), str(folder), stages)
    assert ran == ["sit", "report"]
    said = capsys.readouterr().out
    assert "step 1 of 2: sit (sft)" in said and "0 min so far, about 3 min left" in said
    told = "optim.warmup_steps is 4, and the run has 6: only 2 of them are left behind it"
    assert f"\nwarning: {told}" in said and told in (folder / "sit" / "README.md").read_text()
    found = json.loads((folder / "report" / "report.json").read_text())
    assert found["models"]["sit"]["path"] == str(folder / "sit" / "export")
    assert found["models"]["base"]["path"] == str(inputs / "model")
    settings = json.loads((folder / "sit" / "config.json").read_text())
    assert settings["model"]["path"] == str(inputs / "model")

    recipe.run(make(inputs, given, **short), str(folder), stages)
    assert ran == ["sit", "report"]  # nothing is done twice

    # The report was cut off: only it is made again.
    record = json.loads((folder / recipe.RECORD).read_text())
    del record["steps"]["report"]
    (folder / recipe.RECORD).write_text(json.dumps(record))
    recipe.run(make(inputs, given, **short), str(folder), stages)
    assert ran == ["sit", "report", "report"]

    # A finished step is another one now: its folder refuses; without it, all that follows is made.
    other = make(inputs, given, **short, **{"sit.optim.learning_rate": 1e-3})
    with pytest.raises(ConfigError, match="optim.learning_rate"):
        recipe.run(other, str(folder), stages)
    shutil.rmtree(folder / "sit")
    recipe.run(other, str(folder), stages)
    assert ran[-2:] == ["sit", "report"]


def test_a_finished_step_whose_files_changed_runs_again(inputs, given, tmp_path, capsys):  # noqa: F811
    """Otherwise the results of the old files would go on. The stage decides what that means."""
    ran: list[str] = []

    def stage(config, folder):
        Path(folder).mkdir(exist_ok=True)
        ran.append(Path(folder).name)

    def run() -> list[str]:
        ran.clear()
        recipe.run(config, str(tmp_path / "run"), {"sft": stage, "evaluate": stage})
        return list(ran)

    data = tmp_path / "data"
    shutil.copytree(given, data)
    config = make(inputs, data)
    assert run() == ["sit", "report"] and run() == []
    (data / "other.jsonl").write_text("")  # no step reads it
    assert run() == []
    with open(data / "unsafe.jsonl", "a") as file:
        file.write('{"prompt": "one more"}\n')
    capsys.readouterr()
    assert run() == ["report"]
    told = capsys.readouterr().out
    assert f"report was finished before, but {data}/unsafe.jsonl has changed since" in told
    assert run() == []
    shutil.rmtree(tmp_path / "run" / "sit")
    assert run() == ["sit", "report"]
    # The record of an early version has no files.
    record = json.loads((tmp_path / "run" / recipe.RECORD).read_text())
    for facts in record["steps"].values():
        del facts["files"]
    (tmp_path / "run" / recipe.RECORD).write_text(json.dumps(record))
    assert run() == []


def test_a_step_that_was_asked_to_stop_is_not_finished(inputs, given, tmp_path, capsys):  # noqa: F811
    """As after SIGTERM: nothing goes on from what it left, and the next start runs it again."""
    stages = STAGES | {"sft": lambda config, folder: False}
    recipe.run(make(inputs, given), str(tmp_path / "run"), stages)
    told = capsys.readouterr().out
    assert told.endswith("step 1 of 2: sit is not finished; run the same command to continue\n")
    assert not (tmp_path / "run" / recipe.RECORD).exists()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"recipe.steps": ()}, "recipe.steps is empty"),
        ({"recipe.steps": ("sit", "ppo")}, "'ppo': expected one of report, sit"),
        ({"recipe.steps": ("sit", "sit")}, "twice"),
        ({"recipe.steps": ("report", "sit")}, "uses @sit, which does not come before it"),
        ({"recipe.steps": ("report",)}, "uses @sit, which does not come before it"),
        ({"recipe.base": ""}, "recipe.base is empty; step sit uses @base"),
        ({"sit.train.rows_per_microbatch": 3}, "step sit: train.rows_per_microbatch 3 does not"),
        ({"report.sample.lanes": 12}, "step report: lanes 12 does not divide"),
        ({"report.mesh.tensor": 3}, "step report: mesh data"),
        ({"sit.stage": "ppo"}, "sit.stage 'ppo': expected one of evaluate, sft"),
        ({"recipe.max_flops": 6e9}, "recipe.max_flops is 6e+09 and sit.train.max_steps "),
    ],
)
def test_mistakes_are_told_before_anything_runs(inputs, given, tmp_path, values, message):  # noqa: F811
    with pytest.raises(UserError) as caught:
        recipe.run(make(inputs, given, **values), str(tmp_path / "run"), STAGES)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_texts_that_name_no_step_stay_as_they_are(inputs, given, tmp_path):  # noqa: F811
    config = make(inputs, given, **{"sit.data.eval": "hf:some/set@main:test@base"})
    (step, _) = recipe.read_steps(config, STAGES)
    filled = recipe.fill(config, step, tmp_path)
    assert filled.data.eval == f"hf:some/set@main:test{inputs / 'model'}"
    config = make(inputs, given, **{"report.evaluate.models": "m=@sit/merged,s=@sit"})
    step = recipe.read_steps(config, STAGES)[1]
    filled = recipe.fill(config, step, tmp_path)
    assert filled.evaluate.models == f"m={tmp_path}/sit/merged,s={tmp_path}/sit/export"


def test_methods_share_a_budget_of_compute(inputs, given, tmp_path):  # noqa: F811
    config = make(inputs, given, **{"recipe.max_flops": 6e9, "sit.train.max_steps": 0})
    step = recipe.read_steps(config, STAGES)[0]
    train = recipe.fill(config, step, tmp_path).train
    assert train.max_flops == 6e9
    with config.unlocked():
        config.raft = ConfigDict(
            {"raft": {"rounds": 4}, "train": {"max_flops": 0.0, "max_steps": 0}}
        )
        config.raft.stage, config.recipe.steps = "raft", ("raft",)
    (rounds,) = recipe.read_steps(config, {"raft": sft.run})
    assert recipe.fill(config, rounds, tmp_path).train.max_flops == 1.5e9  # of each of four
    for stage in ("kto", "orpo", "sweep"):
        with config.unlocked():
            config.raft.stage = stage
        (other,) = recipe.read_steps(config, {stage: sft.run})
        assert recipe.fill(config, other, tmp_path).train.max_flops == 6e9
    # 24 examples of 1e7 FLOPs each are a step: 25 of them
    size, flops = train.batch_size, train.max_flops
    assert Budget(0, flops, 1.0).steps(1000, size, 1e7) == 25
    assert Budget(0, flops, 1.0).steps(1000, size, 1e12) == 1
    with pytest.raises(ConfigError, match="max_flops 6e.09, train.max_steps 3"):
        Budget(3, flops, 1.0).steps(1000, size, 1e7)
    assert Budget(0, 0.0, 2.0).steps(48, size, None) == 4
    # Ten examples are 8 and 2, or one step where 64 would fit: what 20 cost is two epochs
    assert [Budget(0, 2e8, 1.0).steps(10, batch, 1e7) for batch in (8, 64)] == [4, 2]
    assert Budget(0, 1.8e8, 1.0).steps(10, 8, 1e7) == 3
    paid = Budget(0, flops, 1.0).remark(1000, size, 1e8)  # 2.5 steps, of which it takes 2
    assert paid is not None and "pays for 2.5 steps of 24 examples, and the run takes 2" in paid
    hardly = Budget(0, flops, 1.0).remark(1000, size, 1e12)
    assert hardly is not None and "pays for 0.00025 steps of 24 examples, and the run" in hardly
    assert Budget(0, flops, 1.0).remark(1000, size, 5e7) is None  # 5 steps
    assert Budget(1, 0.0, 1.0).remark(1000, size, 1e8) is None  # as the user said
    # 600 passes over a handful of answers, of which a round of RAFT takes 16, a step each
    few = Budget(0, flops, 1.0, most_epochs=tuning.MOST_EPOCHS)
    assert few.steps(10, size, 1e6) == 16 and Budget(0, flops, 1.0).steps(10, size, 1e6) == 600
    told = few.remark(10, size, 1e6)
    assert told is not None and "pays for 600 passes over 10 examples, and the run takes 16" in told
    assert few.remark(1000, size, 1e6) is None and few.steps(1000, size, 1e6) == 252
    with pytest.raises(ConfigError, match="would have 2e.38 steps; expected at most 10,000,000"):
        Budget(0, 0.0, 1e38).steps(48, size, None)


@pytest.mark.parametrize("text", ["[]", "{", '{"steps": []}', '{"steps": {"sit": {"seconds": 1}}}'])
def test_a_damaged_record_is_told(tmp_path, text):
    (tmp_path / "recipe.json").write_text(text)
    with pytest.raises(ConfigError, match=r"recipe.json: .*; remove it: every step then checks"):
        recipe.RecipeLog(tmp_path / "recipe.json", writes=True)


def test_a_step_made_again_undoes_what_was_made_of_it_and_no_folder_of_its_name(tmp_path):
    log = recipe.RecipeLog(tmp_path / "recipe.json", writes=True)
    made = ConfigDict({"stage": "evaluate", "models": f"sit={tmp_path}/sit/export"})
    other = ConfigDict({"stage": "reward", "train": "/data/papers/sit/answers.json"})
    for name, config in (("report", made), ("guard", other)):
        log.add(name, config, 1.0, {})
    log.add("sit", ConfigDict({"stage": "sft"}), 1.0, {})
    (tmp_path / "guard").mkdir()
    assert log.finished("guard", other, {})
    assert not log.finished("report", made, {})
