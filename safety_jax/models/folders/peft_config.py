"""Reads PEFT's `adapter_config.json` strictly, and writes it.

Features of PEFT that this framework lacks (other ranks on some modules, trained biases, DoRA,
adapted embeddings) are refused by name. The message tells how to merge such an adapter, so that the
result can be used as a model.
"""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safety_jax.base import files
from safety_jax.base.errors import CheckpointError, UserError
from safety_jax.models.folders import hub, peft_names
from safety_jax.models.folders.attributes import is_number

CONFIG = "adapter_config.json"

HANDLED = frozenset(
    {"peft_type", "task_type", "r", "lora_alpha", "lora_dropout", "target_modules", "use_rslora"}
    | {"base_model_name_or_path", "init_lora_weights", "exclude_modules", "layers_to_transform"}
)
MERGE = (
    "merge it with peft, PeftModel.from_pretrained(base, adapter).merge_and_unload()"
    ".save_pretrained(FOLDER), and give FOLDER as model.path"
)

# Kinds that learn a prefix of the input, which is not a part of the weights.
PROMPTS = (
    *("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING"),
    *("ADAPTION_PROMPT", "CPT"),
)
# Attributes that change the model, with the values that turn them off. PEFT adds attributes with
# every release; those that are in none of these tables must be null, false or empty.
SWITCHED_OFF: dict[str, tuple[Any, ...]] = {
    "bias": ("none", None),
    "loftq_config": ({}, None),
}
IRRELEVANT = frozenset(
    # origin, and settings of features that the attributes above switch on
    "auto_mapping corda_config eva_config inference_mode layers_pattern"
    " lora_ga_config megatron_config megatron_core peft_version qalora_group_size revision"
    " runtime_config".split()
)
# Ranks and alphas of single modules, and the attributes for all other modules.
PATTERNS = {"rank_pattern": "r", "alpha_pattern": "lora_alpha"}
# How A and B were initialised. PEFT's other methods also change the base weights.
INITIALIZATIONS = (True, False, None, "gaussian", "eva", "orthogonal")


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """The settings of an adapter folder.

    Attributes:
        targets: our names of the adapted projections, in the order of `lora.TARGETS`.
        base_name: the folder or hub id of the base; "" if it is not named.
        dtype: of the stored weights, "float32", "bfloat16" or "float16"; "float32" for a mixture.
        trunk: the path of the layers in the class of `transformers`, one of `peft_names.TRUNKS`.
        files: how the base's files name projections, see `LlamaConfig`.
        layers: numbers of the adapted layers, in order; None for all.
    """

    rank: int
    alpha: float
    dropout: float
    targets: tuple[str, ...]
    rslora: bool
    base_name: str
    dtype: str
    trunk: str = peft_names.TEXT_MODEL
    files: str = "llama"
    layers: tuple[int, ...] | None = None


def base_folder(folder: Path) -> Path:
    """The folder of an adapter's base.

    A relative path starts at the working directory, as in peft, or else at the adapter's folder, so
    that a model and its adapter can be moved together. A hub id is that of the `revision` in the
    file, if there is one.

    Raises:
        CheckpointError: no base is named, or it cannot be found.
    """
    file = folder / CONFIG
    given = hub.read_json(file)
    named, revision = given.get("base_model_name_or_path"), given.get("revision")
    if not isinstance(named, str) or not named:
        raise CheckpointError(
            f"{file}: base_model_name_or_path is {f'{named!r}'[:60]}; expected the folder or hub "
            "id of the model that the adapter belongs to"
        )
    if revision is not None and not isinstance(revision, str):
        raise CheckpointError(
            f"{file}: revision is {shown(revision)}; expected that of the base at the hub, or null"
        )
    try:
        beside = folder / named
        moved = not files.expand(named).exists() and beside.exists()
        return hub.resolve(beside if moved else named, revision or None)
    except UserError as error:
        raise CheckpointError(
            f"{file}: base_model_name_or_path: {error}; put the model there, or correct the path "
            "in the file"
        ) from error


def read(folder: Path) -> dict[str, Any]:
    """The attributes of a LoRA adapter, checked except for its targets and layers.

    Raises:
        CheckpointError: the folder has no adapter, or one that cannot be loaded here.
    """
    file = folder / CONFIG
    if not file.exists() and (folder / "config.json").exists():
        raise CheckpointError(
            f"{folder} holds no {CONFIG}, but a full model; give it as model.path"
        )
    given = hub.read_json(file)
    kind, task = given.get("peft_type"), given.get("task_type")
    if kind != "LORA" or task not in ("CAUSAL_LM", None):
        way_out = "a prefix of the input cannot be merged either" if kind in PROMPTS else MERGE
        raise CheckpointError(
            f"{file}: peft_type {shown(kind)}, task_type {shown(task)}; expected 'LORA' and "
            f"'CAUSAL_LM'; {way_out}"
        )
    if given.get("init_lora_weights", True) not in INITIALIZATIONS:
        raise CheckpointError(
            f"{file}: init_lora_weights {shown(given['init_lora_weights'])} also changed the base "
            f"weights; save it with path_initial_model_for_weight_conversion in peft, or {MERGE}"
        )
    rank, alpha, dropout = given.get("r"), given.get("lora_alpha"), given.get("lora_dropout")
    sound = (
        isinstance(rank, int)
        and not isinstance(rank, bool)
        and rank >= 1
        and is_number(alpha)
        and is_number(dropout or 0.0)
        and 0 <= (dropout or 0.0) < 1
        and isinstance(given.get("target_modules"), str | list)
    )
    if not sound:
        raise CheckpointError(
            f"{file}: r {shown(rank)}, lora_alpha {shown(alpha)}, lora_dropout "
            f"{shown(dropout)}, target_modules {shown(given.get('target_modules'))}; expected "
            "r >= 1, a number, a probability and names"
        )
    if not isinstance(given.get("use_rslora"), bool | None):
        raise CheckpointError(
            f"{file}: use_rslora {shown(given['use_rslora'])}; expected true or false, which "
            "decides the strength of the adapter"
        )
    used = [
        f"{name} = {value!r}"[:60]
        for name, value in given.items()
        if name not in HANDLED and name not in IRRELEVANT and not _asks_nothing(given, name, value)
    ]
    if used:
        raise CheckpointError(f"{file}: not supported: {', '.join(sorted(used)[:5])}; {MERGE}")
    return given


def _asks_nothing(given: Mapping[str, Any], name: str, value: Any) -> bool:
    """Whether an attribute is off, or repeats what applies anyway."""
    if name in PATTERNS and isinstance(value, dict):
        return all(one == given[PATTERNS[name]] for one in value.values())
    return value in SWITCHED_OFF.get(name, (None, False, {}, []))


def chooses(rule: Any, module: str) -> bool:
    """Whether a rule selects a module, as in PEFT: a list of ends of paths, or a pattern."""
    if isinstance(rule, list):
        return any(module == one or module.endswith(f".{one}") for one in map(str, rule))
    try:
        return isinstance(rule, str) and re.fullmatch(rule, module) is not None
    except (re.error, OverflowError, RecursionError):  # too many repetitions, or too deep
        return False


def excluded(given: Mapping[str, Any], name: str) -> bool:
    """Whether `exclude_modules` removes a name of `target_modules`."""
    rule = given.get("exclude_modules")
    return chooses(rule, name if isinstance(rule, list) else f"model.layers.0.x.{name}")


def shown(value: Any) -> str:
    """A value for messages, shortened to 60 characters."""
    return f"{value!r}"[:60]


def attributes(settings: LoraConfig) -> dict[str, Any]:
    """The attributes in PEFT's spelling: those known to all its releases that read safetensors."""
    alpha = settings.alpha
    return {
        "alpha_pattern": {},
        "auto_mapping": None,
        "base_model_name_or_path": settings.base_name,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "layers_pattern": None,
        "layers_to_transform": None if settings.layers is None else list(settings.layers),
        "lora_alpha": int(alpha) if float(alpha).is_integer() else alpha,
        "lora_dropout": settings.dropout,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": settings.rank,
        "rank_pattern": {},
        "revision": None,
        "target_modules": [
            peft_names.path(target, settings.files).rpartition(".")[2]
            for target in settings.targets
        ],
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": settings.rslora,
    }
