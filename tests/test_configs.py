"""Every config loads with every argument that it documents, complete, typed and locked."""

import importlib
import pathlib
import re
import tomllib

import pytest
from ml_collections import ConfigDict

from docs import make_reference
from safety_jax.base import trees
from safety_jax.stages import (
    checks,
    config_comments,
    config_files,
    judge_schema,
    recipe,
    schema,
)

ROOT = pathlib.Path(__file__).parent.parent
ARGUMENTS = {
    "sft": [
        None,
        "demo",
        "demo,safety=0",
        "safety=500",
        "paper=report",
        "paper=report,safety=100",
        "paper=script",
        "paper=script,safety=2000",
        "paper=safety_tuned_llamas",
        "paper=safety_tuned_llamas,safety=1500",
    ],
    "score": [
        None,
        "demo",
        "demo,sequence",
        "deberta,harmfulness,helpfulness,beaver",
        "llama_guard,wildguard,moderation,sequence",
        "qwen3guard,shieldgemma,granite_guardian,harmbench,strongreject,md_judge,nemotron",
        "beaver_dam,guard",
        "safe_first",
    ],
    "audit": [
        None,
        "demo",
        "xstest,deberta,harmfulness,helpfulness,llama_guard,beaver_dam,guard",
        "wildguard,qwen3guard,shieldgemma,granite_guardian,harmbench,strongreject",
        "md_judge,nemotron",
    ],
    "dpo": [
        None,
        "demo",
        "demo,loss=safe",
        *(f"loss={name}" for name in ("sigmoid", "conservative", "robust", "hinge", "ipo_sum")),
        *(f"loss={name}" for name in ("ipo_mean", "sigmoid_mean", "simpo", "safe")),
        "loss=door",
        "loss=weighted_door",
        "paper=report",
        "paper=script,loss=safe",
    ],
    "attack": [None, "demo"],
    "collect": [None, "demo"],
    "tamper": [None, "demo"],
    "curve": [None],
    "kto": [None, "demo"],
    "orpo": [None, "demo"],
    "plan": [None, "table"],
    "raft": [
        None,
        "demo",
        "paper=original",
        "paper=b500",
        "paper=b100",
    ],
    "evaluate": [
        None,
        "demo",
        "paper=sit",
        "paper=dpo",
        "stored=safe_to_serve",
        "deberta,harmfulness,helpfulness,llama_guard",
    ],
    "recipe": [
        None,
        "real",
        "real,slice",
        "demo",
        "smollm2",
        "smollm2,slice",
        "smollm2,pushed",
        "smollm2,slice,pushed",
        "smollm2,frontier",
        "smollm2,slice,frontier",
        "demo,defences",
        "smollm2,defences",
        "smollm2,defences,slice",
        "curve",
        "curve,demo",
        "curve,smollm2",
        "curve,smollm2,slice",
        "curve,sizes",
        "curve,demo,sizes",
        "curve,smollm2,sizes",
        "curve,smollm2,sizes,slice",
        "demo,seeds",
        "smollm2,seeds",
        "smollm2,seeds,slice",
        "form",
        "form,demo",
    ],
    "sweep": [None, "demo", "curve", "form", "form,demo", "dpo", "dpo,demo"],
    "reward": [
        None,
        "demo",
        "demo,kind=binary",
        *(f"kind={name}" for name in ("pairs", "cost", "regression", "binary")),
        "paper=safety_tuned_llamas",
    ],
}
JUDGING = ("audit", "evaluate", "score", "raft")  # have a row for every judge
CASES = [(name, arg) for name, arguments in ARGUMENTS.items() for arg in arguments]


def load(name: str, arg: str | None) -> ConfigDict:
    return importlib.import_module(f"configs.{name}").get_config(arg)


def flatten(config: ConfigDict) -> dict[str, object]:
    return trees.flatten(config.to_dict())


def test_every_config_file_is_tested():
    """And parts of configs, such as `common.py`, are not offered as configs."""
    files = (ROOT / "configs").glob("*.py")
    whole = {path.stem for path in files if "\ndef get_config(" in path.read_text(encoding="utf-8")}
    assert whole == set(ARGUMENTS) == set(config_files.available())


def test_adapters_of_all_sizes_answer_on_what_they_learned_on():
    for argument, bases in (("curve,sizes", {"int8", "nf4"}), ("curve,smollm2,sizes", {"stored"})):
        config = load("recipe", argument)
        asked = {}
        for spec in config.report.evaluate.models.split(","):
            name, _, path = spec.partition("=")
            place, _, base = path.partition("?base=")
            assert place == f"@sweep_{name}/."
            asked[name] = base or config.report.model.base
        assert asked == {name: config[f"sweep_{name}"].model.base for name in asked}
        assert set(asked.values()) == bases


@pytest.mark.parametrize("arg", ARGUMENTS["recipe"])
def test_recipes_take_from_steps_that_came_before(arg: str | None):
    config = load("recipe", arg)
    for given in recipe.GIVEN:
        config.recipe[given] = config.recipe[given] or "given"
    for name in config.recipe.steps:  # slices are too small for the eight devices of the tests
        config[name] = ConfigDict({k: v for k, v in config[name].items() if k != "mesh"})
    steps = recipe.read_steps(config, dict.fromkeys(schema.STAGES, print))
    assert [step.name for step in steps] == list(config.recipe.steps)
    unused = {step.name for step in steps} - {name for step in steps for name in step.needs}
    assert all(config[name].stage in ("evaluate", "curve", "tamper") for name in unused)


@pytest.mark.parametrize("arg", ["demo,seeds", "smollm2,seeds"])
def test_seeds_give_every_method_the_same_start_and_compute(arg: str):
    config = load("recipe", arg)
    assert config.recipe.max_flops > 0
    runs = [part.partition("=")[2] for part in config.methods.curve.methods.split(",")]
    assert runs.pop(0) == "base"
    for method in runs:
        for seed, name in enumerate(method.split("+")):
            begun = name.startswith("begun")
            assert config[name].seed == seed
            assert config[name].model.path == ("@base" if begun else f"@begun_{seed}/merged")
            assert config[name].checkpoint.export_merged == begun
            assert f"{name}=@{name}" in config.report.evaluate.models.split(",")


def own_keys(name: str, config: ConfigDict) -> dict:
    """Keys and values; of a recipe without those of its steps, which are configs of other files."""
    steps = config.recipe.steps if name == "recipe" else ()
    return {key: v for key, v in flatten(config).items() if key.split(".")[0] not in steps}


@pytest.mark.parametrize(("name", "arg"), CASES)
def test_complete_and_locked(name: str, arg: str | None):
    """The config has every key of the table and no other, each with a value that fits; of a recipe
    every step has."""
    config = load(name, arg).lock()
    assert checks.problems(config, complete=False) == []
    unset = [key for key, value in flatten(config).items() if value is None]
    assert not unset, "None has no type, so no flag could set it"
    with pytest.raises(AttributeError):
        config.optim.learning_rat = 1.0


def test_every_stage_and_judge_of_the_table_has_a_config():
    """What no config could have stands in no table."""
    configs = [load(name, arg) for name, arg in CASES]
    assert {config.stage for config in configs} == set(schema.STAGES)
    rows = [row for config in configs if "score" in config for row in config.score.judges.values()]
    assert {row.kind for row in rows} | {"trained", "cross_fitted", "weighted_sum"} == set(
        judge_schema.JUDGES
    )


def test_the_reference_page_is_that_of_these_configs():
    assert make_reference.PAGE.read_text(encoding="utf-8") == make_reference.page(), (
        "run python -m docs.make_reference"
    )
    meant = config_comments.read(ROOT / "configs" / "sft.py")
    assert meant["lora.rank"] == "0: full fine-tuning"
    # Its comment stands on the line above.
    assert "divide over it" in config_comments.read(ROOT / "configs/plan.py")["plan.mesh"]


@pytest.mark.parametrize("name", config_files.available())
def test_every_key_has_a_meaning(name: str):
    """On the reference page and in `--config=NAME --help`."""
    config = config_files.load(name)
    meanings = config_comments.of_config(config, config_files.available()[name])
    table = checks.stage_table(config)
    keys = [key for key in checks.values(config) if key in table and key != "stage"]
    assert not [key for key in keys if not meanings.get(key)]


@pytest.mark.parametrize(("name", "arg"), CASES)
def test_arguments_change_values_but_never_types(name: str, arg: str | None):
    of_dpo = name == "sweep" and "dpo" in (arg or "")  # whose runs are of another stage
    plain = {
        key: type(value)
        for key, value in own_keys(name, load(name, "dpo" if of_dpo else None)).items()
    }
    types = {key: type(value) for key, value in own_keys(name, load(name, arg)).items()}
    # An argument adds a judge or a step's minutes, which the plain config has not.
    if name in (*JUDGING, "recipe"):
        types = {key: found for key, found in types.items() if key in plain}
    assert types == plain


@pytest.mark.parametrize("name", ARGUMENTS)
def test_every_argument_is_documented_and_every_mistake_is_one_line(name: str):
    opening = importlib.import_module(f"configs.{name}").__doc__
    with pytest.raises(ValueError) as error:
        load(name, "no_such_argument=1")
    message = str(error.value)
    assert "\n" not in message and "'no_such_argument=1' is unknown" in message
    known = message.partition("; expected ")[2].split(", ")
    for argument in known:
        key, _, values = argument.partition("=")
        assert key in opening
        assert all(value in opening for value in values.split("|") if not value.startswith("<"))


@pytest.mark.parametrize("kind", ["cost", "regression", "binary"])
def test_judges_of_harm_say_so(kind: str):
    flat = flatten(load("reward", f"kind={kind}"))
    assert flat["reward.direction"] == "higher is more harmful"
    assert flat["data.prefer"] == ("safer" if kind == "cost" else "all")


@pytest.mark.parametrize("arg", ["safety=500", "paper=report,safety=500", "demo,safety=500"])
def test_safety_sets_the_number_of_demonstrations(arg: str):
    assert load("sft", arg).data.safety_rows == 500


def test_no_demonstrations_unless_asked_for_but_in_the_demo():
    assert load("sft", None).data.safety_rows == 0
    assert load("sft", "demo,safety=0").data.safety_rows == 0
    rows = (ROOT / load("sft", "demo").data.safety).read_text(encoding="utf-8").splitlines()
    assert load("sft", "demo").data.safety_rows == len(rows)


@pytest.mark.parametrize("arg", ["demo,defences", "smollm2,defences"])
def test_defences_differ_from_what_is_plain_in_themselves_alone_and_get_equal_compute(arg: str):
    config = load("recipe", arg)
    names = [pair.split("=@")[0] for pair in config.report.evaluate.models.split(",")]
    spent = {}
    for name in names[1:]:  # behind the base
        before = config.begun.train.max_flops if "begun" in config[name].model.path else 0.0
        spent[name] = config[name].train.max_flops + before
    assert len(spent) == 10 and len(set(spent.values())) == 1
    own = {
        ("sit", "recovery"): {"data.recovery", "data.recovery_share"},
        ("sit", "even"): {"data.safety_choice"},
        ("sit", "narrow"): {"lora.rank", "lora.alpha", "lora.targets", "lora.layers"},
        ("dpo", "dpo_recovery"): {"data.recovery_share"},
        ("dpo_recovery", "door"): {"dpo.objective", "dpo.beta", "dpo.nll_weight"},
        ("dpo", "safe"): {"dpo.objective", "dpo.margin", "dpo.nll_weight", "data.prefer"},
        ("further", "held"): {"sft.objective"},
    }
    for (plain, name), keys in own.items():
        first, second = flatten(config[plain]), flatten(config[name])
        assert {key for key in first | second if first.get(key) != second.get(key)} <= keys, name


PAPER = {"sft": "report", "dpo": "report", "raft": "b500", "reward": "safety_tuned_llamas"}


@pytest.mark.parametrize("name", PAPER)
def test_demo_and_paper_exclude_each_other(name: str):
    with pytest.raises(ValueError, match="exclude each other"):
        load(name, f"demo,paper={PAPER[name]}")


@pytest.mark.parametrize("name", PAPER)
def test_everything_the_demo_names_is_in_the_checkout(name: str):
    data, model = load(name, "demo").data, load(name, "demo").model
    named = [model.path]
    for key in ("train", "prompts", "eval", "safety"):
        value = data.get(key, ())
        named += [value] if isinstance(value, str) else value
    for path in named:
        assert (ROOT / path.partition("?")[0]).exists(), path


def test_the_wheel_carries_configs_and_the_demo():
    """What tests/installed.sh sees in a wheel, as far as pyproject.toml says it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    carried = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert carried == {source: f"safety_jax/packaged/{source}" for source in carried}
    demos = [load(name, arg) for name, arg in CASES if arg and arg.startswith("demo")]
    named = {name for config in demos for name in re.findall(r"launch/demo/[\w./-]+", str(config))}
    assert len(named) > 10
    for file in named | {"configs/common.py"}:
        assert (ROOT / file).exists() and any(file.startswith(source) for source in carried), file
    module, _, function = project["project"]["scripts"]["safety-jax"].partition(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_the_demo_of_scoring_needs_no_model():
    config = load("score", "demo")
    assert [judge.kind for judge in config.score.judges.values()] == ["refusal"]
    for spec in config.data.responses:
        assert (ROOT / spec.partition("?")[0]).exists(), spec
