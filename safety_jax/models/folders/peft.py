"""PEFT adapter folders, in and out: `adapter_config.json` and `adapter_model.safetensors`.

Keys are `base_model.model.model.layers.3.self_attn.q_proj.lora_A.weight`; A is [R, in] and B is
[out, R], as ours. Adapters may be on some layers only, all targets on the same ones. What PEFT can
express and this framework cannot (other ranks on some modules, trained biases, DoRA, adapted
embeddings) is refused by name, with the way out: such an adapter can be merged, and the result used
as a model.
"""

import dataclasses
import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from safety_jax.base import meshes, trees
from safety_jax.base.errors import CheckpointError, UserError
from safety_jax.models import llama, lora
from safety_jax.models.folders import hub, safetensors, streaming
from safety_jax.models.folders.attributes import is_number

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
BLOCKS = {"query": "self_attn", "key": "self_attn", "value": "self_attn", "output": "self_attn"}
BLOCKS |= {"gate": "mlp", "up": "mlp", "down": "mlp"}
BLOCKS |= {"query+key+value": "self_attn", "gate+up": "mlp"}
FACTORS = {"a": "lora_A", "b": "lora_B"}
# Where the layers are in a text model, and in a model with eyes: today, and until transformers
# 4.51.
TEXT_MODEL, WITH_EYES, OLD_WITH_EYES = "model", "model.language_model", "language_model.model"
TRUNKS = (TEXT_MODEL, WITH_EYES, OLD_WITH_EYES)
MODULES = {ours: module for module, ours in (lora.TARGETS | lora.FUSED_TARGETS).items()}
PATHS = {ours: f"{BLOCKS[ours]}.{module}" for ours, module in MODULES.items()}
# Where files have them elsewhere (`LlamaConfig.files`).
ELSEWHERE = {
    "granite_hybrid": {"gate+up": "shared_mlp.input_linear", "down": "shared_mlp.output_linear"}
}

HANDLED = frozenset(
    {"peft_type", "task_type", "r", "lora_alpha", "lora_dropout", "target_modules", "use_rslora"}
    | {"base_model_name_or_path", "init_lora_weights", "exclude_modules", "layers_to_transform"}
)
MERGE = (
    "merge it with peft, PeftModel.from_pretrained(base, adapter).merge_and_unload()"
    ".save_pretrained(FOLDER), and give FOLDER as model.path"
)

# Attributes that change the model when they are on, with the values that leave it off. PEFT adds
# some with every release; those not in any of these tables must be null, false or empty.
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
# Other ranks and alphas by module, and what holds for all others.
PATTERNS = {"rank_pattern": "r", "alpha_pattern": "lora_alpha"}
# How A and B began. The other methods PEFT offers also change the base weights they start from.
INITIALIZATIONS = (True, False, None, "gaussian", "eva", "orthogonal")


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """What an adapter folder says beside its weights.

    Attributes:
        targets: our names of the adapted projections, in the order of `lora.TARGETS`.
        base_name: the model the adapter belongs to, a folder or a hub id; "" where it is not said.
        dtype: of the stored weights, "float32", "bfloat16" or "float16"; "float32" of a mixture.
        trunk: where the layers are in the base as `transformers` opens it, one of TRUNKS.
        files: how the base's files name projections, see `LlamaConfig`.
        layers: numbers of the adapted layers, in order; None: all.
    """

    rank: int
    alpha: float
    dropout: float
    targets: tuple[str, ...]
    rslora: bool
    base_name: str
    dtype: str
    trunk: str = TEXT_MODEL
    files: str = "llama"
    layers: tuple[int, ...] | None = None


def path(target: str, files: str) -> str:
    """Where a target is within a layer."""
    return ELSEWHERE.get(files, {}).get(target, PATHS[target])


def key(target: str, layer: int, factor: str, trunk: str = TEXT_MODEL, files: str = "llama") -> str:
    """PEFT's name of one factor of one layer."""
    module = path(target, files)
    return f"base_model.model.{trunk}.layers.{layer}.{module}.{FACTORS[factor]}.weight"


def trunk_of(config: llama.LlamaConfig) -> str:
    """Where an adapter's names say that the layers are, for a base of this config."""
    return WITH_EYES if config.nested else TEXT_MODEL


def base_folder(folder: Path) -> Path:
    """The folder of the model that an adapter belongs to.

    A relative path is looked for from where the command runs, as peft does, and from the adapter's
    folder, so that a model and its adapter may move together.

    Raises:
        CheckpointError: no base is named, or none can be found.
    """
    file = folder / CONFIG
    named = hub.read_json(file).get("base_model_name_or_path")
    if not isinstance(named, str) or not named:
        raise CheckpointError(
            f"{file}: base_model_name_or_path is {f'{named!r}'[:60]}; expected the folder or hub "
            "id of the model that the adapter belongs to"
        )
    beside = folder / named
    try:
        moved = not Path(named).exists() and beside.exists()
        return hub.resolve(beside if moved else named)
    except UserError as error:
        raise CheckpointError(
            f"{file}: base_model_name_or_path: {error}; put the model there, or write into the "
            "file where it is"
        ) from error


# ---------------------------------------------------------------------------- loading


def load(folder: Path, config: llama.LlamaConfig, mesh: Mesh) -> tuple[lora.Adapters, LoraConfig]:
    """The adapters of a folder for a model of `config`, as float32, and their settings.

    Raises:
        CheckpointError: a file is missing or damaged, the adapter does not fit the model, or it
            uses a feature that is not supported.
    """
    given = _read_config(folder)
    tensors = safetensors.read_header(_weights_file(folder))
    starts = {trunk: f"base_model.model.{trunk}.layers." for trunk in TRUNKS}
    found = [t for t, start in starts.items() if any(name.startswith(start) for name in tensors)]
    trunk = found[0] if found else TEXT_MODEL
    layers = _layers(given, config, folder)
    targets = _targets(given, tensors, config, folder, trunk, layers)
    rank = given["r"]
    some = None if len(layers) == config.layers else layers
    declared = lora.shapes(llama.parameters(config), targets, rank, some)
    stored: dict[str, list[safetensors.Tensor]] = {}
    for target in targets:
        own = {
            name: shape for name, (shape, _) in declared.items() if name.startswith(f"{target}.")
        }
        for layer in layers:
            a, b = (tensors[key(target, layer, factor, trunk, config.files)] for factor in FACTORS)
            for name, tensor in _leaves(a, b, target, own).items():
                stored.setdefault(name, []).append(tensor)
    dtypes = {tensor.dtype.name for tensors in stored.values() for tensor in tensors}
    settings = LoraConfig(
        rank=rank,
        alpha=float(given["lora_alpha"]),
        dropout=float(given.get("lora_dropout") or 0.0),
        targets=targets,
        rslora=bool(given.get("use_rslora")),
        base_name=str(given.get("base_model_name_or_path") or ""),
        dtype=dtypes.pop() if len(dtypes) == 1 else "float32",
        trunk=trunk,
        files=config.files,
        layers=some,
    )
    weights = {}
    for name, (shape, axes) in declared.items():
        meshes.check_divides(mesh, name, shape, axes)
        sharding = meshes.sharding(mesh, axes)
        weights[name] = streaming.assemble(
            stored[name], shape, sharding, np.float32, lambda count: None
        )
    scale = lora.scaling(rank, settings.alpha, settings.rslora)
    on = lora.on(some, config.layers)
    adapters = lora.Adapters(trees.unflatten(weights), scale, settings.dropout, on=on)
    return adapters, settings


def _leaves(
    a: safetensors.Tensor, b: safetensors.Tensor, target: str, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, safetensors.Tensor]:
    """The leaves of one layer of a target, by dotted name: B's rows by projection.

    Raises:
        CheckpointError: a factor has another shape.
    """
    a.check(shapes[f"{target}.a"][1:])
    leaves = [f"{target}.{leaf}" for leaf in lora.parts(target).values()]
    heights = [shapes[leaf][1] for leaf in leaves]
    b.check((sum(heights), *shapes[leaves[0]][2:]))
    stops = list(itertools.accumulate(heights))
    found = {f"{target}.a": a}
    for leaf, height, stop in zip(leaves, heights, stops, strict=True):
        found[leaf] = b.rows(stop - height, stop)
    return found


def _weights_file(folder: Path) -> Path:
    if not (folder / WEIGHTS).exists() and (folder / "adapter_model.bin").exists():
        raise CheckpointError(
            f"{folder} holds only pickled weights (adapter_model.bin), which can run code when "
            f"opened; expected {WEIGHTS}; convert once with peft: "
            "PeftModel.from_pretrained(...).save_pretrained(...)"
        )
    return folder / WEIGHTS


def _read_config(folder: Path) -> dict[str, Any]:
    """The attributes of a LoRA adapter that can be loaded, but for its targets and layers.

    Raises:
        CheckpointError: it is none.
    """
    file = folder / CONFIG
    if not file.exists() and (folder / "config.json").exists():
        raise CheckpointError(
            f"{folder} holds no {CONFIG}, but a full model; give it as model.path"
        )
    given = hub.read_json(file)
    if given.get("peft_type") != "LORA" or given.get("task_type") not in ("CAUSAL_LM", None):
        raise CheckpointError(
            f"{file}: peft_type {_shown(given.get('peft_type'))}, task_type "
            f"{_shown(given.get('task_type'))}; expected 'LORA' and 'CAUSAL_LM'; {MERGE}"
        )
    if given.get("init_lora_weights", True) not in INITIALIZATIONS:
        raise CheckpointError(
            f"{file}: init_lora_weights {_shown(given['init_lora_weights'])} also changed the base "
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
            f"{file}: r {_shown(rank)}, lora_alpha {_shown(alpha)}, lora_dropout "
            f"{_shown(dropout)}, target_modules {_shown(given.get('target_modules'))}; expected "
            "r >= 1, a number, a probability and names"
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
    """Whether an attribute is off, or says again what holds anyway."""
    if name in PATTERNS and isinstance(value, dict):
        return all(one == given[PATTERNS[name]] for one in value.values())
    return value in SWITCHED_OFF.get(name, (None, False, {}, []))


def _shown(value: Any) -> str:
    return f"{value!r}"[:60]


def _targets(
    given: Mapping[str, Any],
    tensors: Mapping[str, safetensors.Tensor],
    config: llama.LlamaConfig,
    folder: Path,
    trunk: str,
    layers: tuple[int, ...],
) -> tuple[str, ...]:
    """The adapted projections: those whose keys are there, as `target_modules` says.

    Args:
        layers: the adapted ones, on which every target must be.

    Raises:
        CheckpointError: keys and `target_modules` disagree, or a layer is missing.
    """
    known, files = llama.targets(config), config.files
    targets = tuple(
        target
        for target in known.values()
        if any(key(target, layer, "a", trunk, files) in tensors for layer in range(config.layers))
    )
    expected = [
        key(target, layer, factor, trunk, files)
        for target in targets
        for layer in layers
        for factor in FACTORS
    ]
    missing = [name for name in expected if name not in tensors]
    unexpected = sorted(tensors.keys() - set(expected))
    # A list names modules by how their paths end, sometimes once a layer; a string is a rule
    # over paths, which the keys have already answered.
    asked = given["target_modules"]
    paths = [f".{name.split('.lora_')[0]}" for name in expected]
    names = [str(name) for name in asked] if isinstance(asked, list) else []
    unused = [
        name
        for name in names
        if not any(path.endswith(f".{name}") for path in paths) and not _excluded(given, name)
    ]
    problems = (
        ("adapts what cannot be adapted here or another model", unexpected),
        ("lacks", missing),
        ("holds nothing for target_modules", unused),
    )
    for what, found in problems:
        if found:
            more = f" and {len(found) - 3} more" if len(found) > 3 else ""
            where = _named_layers(layers, config.layers)
            raise CheckpointError(
                f"{folder}: adapter {what}: {', '.join(found[:3])}{more}; expected "
                f"{', '.join(known)} in {where}; if it is whole, {MERGE}"
            )
    if not targets:
        raise CheckpointError(f"{folder / WEIGHTS}: holds no adapter of a LLaMA-family model")
    return targets


def _layers(given: Mapping[str, Any], config: llama.LlamaConfig, folder: Path) -> tuple[int, ...]:
    """The adapted layers: those of `layers_to_transform`, or those that hold what `target_modules`
    chooses, which may be a rule over paths or a list of their ends; all where it chooses none.

    Raises:
        CheckpointError: `layers_to_transform` names no layers of the model.
    """
    everyone = tuple(range(config.layers))
    chosen = given.get("layers_to_transform")
    if chosen is not None and chosen != []:
        numbers = chosen if isinstance(chosen, list) else [chosen]
        if not all(type(number) is int and number in everyone for number in numbers):
            raise CheckpointError(
                f"{folder / CONFIG}: layers_to_transform = {_shown(chosen)}; expected numbers from "
                f"0 to {config.layers - 1}"
            )
        return tuple(sorted(set(numbers)))
    asked, known = given["target_modules"], llama.targets(config).values()
    paths = {layer: [f"{trunk}.layers.{layer}.{path(target, config.files)}"
                     for trunk in TRUNKS for target in known]
             for layer in everyone}  # fmt: skip
    return tuple(n for n in everyone if any(_chooses(asked, p) for p in paths[n])) or everyone


def _chooses(rule: Any, module: str) -> bool:
    """Whether a list of ends of paths, or a rule over paths, chooses a module, as in PEFT."""
    if isinstance(rule, list):
        return any(module == one or module.endswith(f".{one}") for one in map(str, rule))
    try:
        return isinstance(rule, str) and re.fullmatch(rule, module) is not None
    except re.error:
        return False


def _named_layers(layers: tuple[int, ...], depth: int) -> str:
    if len(layers) == depth:
        return f"all {depth} layers"
    more = " and others" if len(layers) > 8 else ""
    return f"layers {', '.join(map(str, layers[:8]))}{more}"


def _excluded(given: Mapping[str, Any], name: str) -> bool:
    """Whether `exclude_modules` takes back a name of `target_modules`."""
    rule = given.get("exclude_modules")
    return _chooses(rule, name if isinstance(rule, list) else f"model.layers.0.x.{name}")


# ---------------------------------------------------------------------------- exporting


def export(folder: Path, adapters: lora.Adapters, settings: LoraConfig) -> None:
    """Writes an adapter folder that `peft` opens on `settings.base_name`, whole or not at all.

    Every process must call this; process 0 writes.

    Raises:
        CheckpointError: the disk is full, or `folder` holds something else.
    """
    scale = lora.scaling(settings.rank, settings.alpha, settings.rslora)
    rows = None if adapters.on is None else tuple(int(layer) for layer in adapters.rows)
    same = set(adapters.weights) == set(settings.targets) and rows == settings.layers
    if not same or adapters.scale != scale:
        held = ", ".join(adapters.weights)
        raise ValueError(f"adapters of {held}, scale {adapters.scale}, given with {settings}")
    dtype = np.dtype(settings.dtype)
    tensors = {
        key(target, layer, factor, settings.trunk, settings.files): _source(leaves, row, dtype)
        for target, pair in adapters.weights.items()
        for factor, leaves in (
            ("a", [pair["a"]]),
            ("b", [pair[leaf] for leaf in lora.parts(target).values()]),
        )
        for row, layer in enumerate(settings.layers or range(pair["a"].shape[0]))
    }
    if jax.process_index() == 0:
        with hub.replacing(folder, CONFIG) as partial:
            safetensors.write(partial / WEIGHTS, tensors)
            hub.write_json(partial / CONFIG, _attributes(settings))
    else:
        for _, tensor in sorted(tensors.items()):  # takes part in the gathers, in the same order
            tensor.read()
    multihost_utils.sync_global_devices("exported")


def _source(leaves: list[jax.Array], layer: int, dtype: np.dtype) -> safetensors.TensorSource:
    """One layer of a factor, its projections' rows below each other."""
    shape = (sum(leaf.shape[1] for leaf in leaves), leaves[0].shape[2])

    def read() -> np.ndarray:
        return np.concatenate([streaming.on_host(leaf, layer, dtype) for leaf in leaves])

    return safetensors.TensorSource(dtype, shape, read)


def _attributes(settings: LoraConfig) -> dict[str, Any]:
    """The attributes that PEFT has known since it wrote safetensors, as it writes them itself."""
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
            path(target, settings.files).rpartition(".")[2] for target in settings.targets
        ],
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": settings.rslora,
    }
