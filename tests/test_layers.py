"""Imports point only downward; every package that is imported is declared."""

import ast
import pathlib
import re
import sys
import tomllib
from importlib import metadata

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = "safety_jax"

# A folder is a floor, and imports point only to lower ones. Floors of one number do not know each
# other, nor do models and data.
FLOORS: dict[str, int] = {
    "base": 0,
    "maths": 1,
    "models": 2,
    "data": 3,
    "training": 4,
    "judges": 5,
    "raft": 6,
    "evaluation": 6,
    "planning": 6,
    "report": 7,
    "stages": 8,
    "face": 8,
    "command_line": 9,
    "main": 10,
}
FORBIDDEN = {("data", "models")}
# What stages may import of each other: the parts they are built of, and what runs them all.
SHARED_STAGES = {
    "answering", "checks", "config_files", "curve_runs", "devices", "dpo_task", "evaluate_answers",
    "evaluate_batches", "evaluate_plan", "evaluate_prompts", "fits", "groups", "judge_schema",
    "learners", "metric_names", "pair_task", "planned", "planned_passes", "planned_steps",
    "planned_sweep", "planned_training", "precision", "recipe", "references", "results", "rules",
    "schema", "sft_task", "shared_schema", "sweep_axes", "sweep_cost", "sweep_methods",
    "sweep_record", "tamper_plan", "tamper_weights", "texts", "token_weights", "training",
    "training_schema", "tuning",
}  # fmt: skip
# Runs no other stage, but must make of their configs what they do.
LOOKS_IN = "safety_jax.stages.planned_steps"
# Optional extras. They may stand in `safety_jax` behind a try, inside a function, or in a module
# that is only imported so.
OPTIONAL = {"gguf", "libtpu", "lm_eval", "tensorboardX", "wandb"}
NEVER = {"torch", "tensorflow", "peft", "trl", "accelerate", "pickle"}


def imported(path: pathlib.Path) -> set[str]:
    """Absolute names that a file imports, inside functions too; `from a import b` gives a.b."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def unit(module: str) -> str:
    """`safety_jax.models.llama` -> `models`: the part that has a floor; "" for the package."""
    return (module.split(".") + [""])[1]


def module_of(path: pathlib.Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def violations(module: str, names: set[str]) -> list[str]:
    """What the rules say against `module` importing `names`."""
    here = unit(module)
    found = []
    for name in sorted(name for name in names if name.split(".")[0] == PACKAGE):
        there = unit(name)
        if there not in FLOORS:
            continue  # `from safety_jax import __version__`
        upward = here != there and FLOORS[there] >= FLOORS[here]
        if upward or (here, there) in FORBIDDEN:
            found.append(f"{module} (floor {FLOORS[here]}) imports {name} (floor {FLOORS[there]})")
        among = here == there == "stages" and module != LOOKS_IN
        if among and name.split(".")[2] not in SHARED_STAGES:
            found.append(f"{module} imports the stage {name}; stages talk through folders")
    return found


SOURCES = sorted((ROOT / PACKAGE).rglob("*.py"))
MODULES = [path for path in SOURCES if path.parent != ROOT / PACKAGE or path.stem != "__init__"]


@pytest.mark.parametrize("path", MODULES, ids=module_of)
def test_imports_point_downward(path: pathlib.Path):
    module = module_of(path)
    assert unit(module) in FLOORS, f"{module} has no floor: enter it in {__file__}"
    assert not violations(module, imported(path))


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("safety_jax.models.llama", "safety_jax.data.encode"),
        ("safety_jax.data.loader", "safety_jax.models.folders.hf"),
        ("safety_jax.base.meshes", "safety_jax.models.llama"),
        ("safety_jax.maths.losses", "safety_jax.models.llama"),
        ("safety_jax.training.loop", "safety_jax.stages.sft"),
        ("safety_jax.raft.rounds", "safety_jax.evaluation.sets.items"),
        ("safety_jax.stages.sft", "safety_jax.stages.dpo"),
        ("safety_jax.stages.plan", "safety_jax.stages.dpo"),
    ],
)
def test_an_upward_import_is_found(module: str, name: str):
    assert violations(module, {name})


def test_downward_imports_pass():
    names = {"safety_jax.models.llama", "safety_jax.data.encode", "safety_jax.training.loop", "jax"}
    assert not violations("safety_jax.stages.sft", names)
    assert not violations("safety_jax.stages.raft", {"safety_jax.stages.recipe"})


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.py")), ids=module_of)
def test_configs_import_only_the_argument_parser(path: pathlib.Path):
    allowed = ("ml_collections.", "configs.common.")
    if path.stem == "common":
        allowed += ("safety_jax.base.assets.",)
    if path.stem.startswith(("recipe", "sweep")):  # their steps are configs of other stages
        allowed += ("configs.",)
    assert all(name.startswith(allowed) for name in imported(path)), imported(path)


def test_every_import_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {normal(re.split(r"[\[<>=!~; ]", text)[0]) for text in project["dependencies"]}
    providers = metadata.packages_distributions()
    undeclared = {}
    for path in SOURCES:
        for top in {name.split(".")[0] for name in imported(path)}:
            assert top not in NEVER, f"{module_of(path)} imports {top}"
            if top in sys.stdlib_module_names | OPTIONAL | {PACKAGE}:
                continue
            if not declared & {normal(name) for name in providers[top]}:
                undeclared.setdefault(top, module_of(path))
    assert not undeclared


def normal(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def test_no_file_reads_a_config_with_a_fallback():
    """The file you read is the run you get: `config.get("x", default)` would hide a default."""
    offending = [module_of(path) for path in SOURCES if "config.get(" in path.read_text("utf-8")]
    assert not offending


def test_no_two_public_classes_share_a_name():
    owners: dict[str, str] = {}
    for path in SOURCES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                assert node.name not in owners, f"{node.name}: {owners[node.name]}, {path}"
                owners[node.name] = str(path)
