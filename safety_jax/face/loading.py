"""Loads models, adds new adapters to them, and merges adapters into their weights."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import jax
from jax.sharding import AxisType, Mesh

from safety_jax.base import meshes, trees
from safety_jax.base.errors import ConfigError
from safety_jax.base.settings import Whole
from safety_jax.face import given
from safety_jax.models import llama, quantised
from safety_jax.models import lora as adapters
from safety_jax.models.execution import float_type, stored_type
from safety_jax.models.folders.model_folder import open_model
from safety_jax.models.model import Model

LARGEST_RANK = 1 << 16


def load(
    path: str | Path,
    *,
    dtype: str = "",
    base: str = quantised.STORED,
    tokenizer: str | Path = "",
    attention: str = "auto",
    mesh: Mesh | None = None,
) -> Model:
    """Loads a model from a Hugging Face folder, hub id or GGUF file; or an adapter with its base
    from a PEFT folder.

        model = sj.load("launch/demo/model")

    Args:
        dtype: of weights and activations, "float32" or "bfloat16"; "" is float32 on CPUs and
            bfloat16 elsewhere. Adapters are float32.
        base: the format of the layers' kernels: "int8" or "nf4" quantises them on loading, "stored"
            keeps the folder's format.
        tokenizer: the folder of another tokenizer; "" for the model's own.
        attention: a backend of `models/attention.py`, or "auto".
        mesh: of `base.meshes.build`; None divides rows over all devices.

    Raises:
        CheckpointError: the folder is missing, damaged, or of an unsupported architecture.
        ConfigError: the dtype or backend is unknown, a path is none, or the mesh has other axes or
            does not divide the model.
    """
    mesh = usable(mesh)
    kind = float_type("dtype", dtype or stored_type(mesh.devices.flat[0].platform))
    folder = open_model(
        given.path("path", path),
        mesh,
        own_tokenizer=given.path("tokenizer", tokenizer or ""),
        kernels=base,
        compute_dtype=kind,
        backend=attention,
        remat="none",
    )
    return folder.load(kind)


def lora(
    model: Model,
    rank: int = 8,
    *,
    alpha: float | None = None,
    targets: str | Sequence[str] = adapters.ALL_LINEAR,
    rslora: bool = False,
    initialization: str = "peft",
    seed: int = 0,
) -> Model:
    """The model with new LoRA adapters (Hu et al., arXiv 2106.09685). Until these are trained, its
    results do not change by a bit.

        tuned = sj.lora(model, rank=8)
        tuned.adapters.weights["query"]["a"].shape  # [L, R, in]

    Args:
        alpha: the adapters are scaled by alpha / rank; None is 2 · rank.
        targets: Hugging Face's names of projections, such as ("q_proj", "v_proj"), or "all-linear".
        rslora: scales by alpha / sqrt(rank) (arXiv 2312.03732).
        initialization: "peft" or "zero_a", see `models.lora.initialize`.

    Raises:
        ConfigError: the model has adapters already, or a value cannot be used.
    """
    if given.loaded(model).adapters is not None:
        raise ConfigError("the model has adapters already; add them to the weights by sj.merge")
    rank = given.whole("rank", rank, Whole(1, LARGEST_RANK))
    alpha = 2.0 * rank if alpha is None else given.number("alpha", alpha, given.POSITIVE)
    drawn = given.whole("seed", seed, given.SEED)
    leaves = adapters.initialize(
        llama.parameters(model.config),
        adapters.targets(given.names("targets", targets), llama.targets(model.config)),
        rank,
        initialization,
        jax.random.key(drawn),
        model.mesh,
    )
    scale = adapters.scaling(rank, alpha, given.flag("rslora", rslora))
    return dataclasses.replace(model, adapters=adapters.Adapters(leaves, scale, dropout=0.0))


def merge(model: Model) -> Model:
    """The model with its adapters merged into its weights. The kernels that they change become
    float32.

        whole = sj.merge(sj.load("runs/dpo/export"))

    Raises:
        ConfigError: the model is quantised, and quantised kernels cannot be changed.
    """
    if given.loaded(model).adapters is None:
        return model
    if any(map(quantised.is_quantised, trees.flatten(model.weights).values())):
        raise ConfigError(
            "the model's base is quantised, and adapters cannot be merged into codes; load it with "
            f"base={quantised.STORED!r} from a folder that is not quantised"
        )
    weights = jax.jit(adapters.merge)(model.weights, model.adapters)
    return dataclasses.replace(model, weights=weights, adapters=None)


def usable(mesh: Mesh | None) -> Mesh:
    """The mesh; for None, one that divides rows over all devices.

    Raises:
        ConfigError: it is none of `base.meshes`. On axes of other names nothing can be divided, and
            Explicit ones, which `jax.make_mesh` makes, turn matrix products into type errors.
    """
    if mesh is None:
        return all_devices()
    known = isinstance(mesh, Mesh) and mesh.axis_names in (meshes.AXES, meshes.DECODING_AXES)
    if not known or set(mesh.axis_types) != {AxisType.Auto}:
        raise ConfigError(
            f"mesh is {f'{mesh!r}'[:120]}; expected the axes {', '.join(meshes.AXES)} with the "
            "type Auto, make it by base.meshes.build"
        )
    return mesh


@functools.cache
def all_devices() -> Mesh:
    return meshes.build(data=-1, fsdp=1, tensor=1)
