"""The model that a run trains, by the `model`, `lora` and `train` groups: weights, sizes, FLOPs."""

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from safety_jax.base import meshes
from safety_jax.data import prefixes
from safety_jax.data.examples import Examples
from safety_jax.data.prefixes import Share
from safety_jax.maths import flops
from safety_jax.models import attention, llama, lora, quantised
from safety_jax.models.execution import Execution, float_type
from safety_jax.models.folders import hub, peft_config
from safety_jax.stages.groups import Base
from safety_jax.training import policy
from safety_jax.training.footprint import TrainedModel, TrunkSizes
from safety_jax.training.policy import Policy
from safety_jax.training.task import Loaded


def load_policy(
    config: ConfigDict, base: Base, mesh: Mesh, like: Loaded[Policy] | None = None
) -> Loaded[Policy]:
    """The policy with its weights, from the `model` and `lora` groups.

    Args:
        like: a policy over the same base, whose frozen weights and execution are reused.
    """
    return Loaded(
        *policy.build(
            base.config,
            execution(config, base, mesh) if like is None else like.learner.execution,
            base.folder,
            init=config.model.init,
            base_dtype=float_type("model.parameter_dtype", config.model.parameter_dtype),
            kernels=config.model.base,
            adapter=_adapter(config, base),
            initialization=config.lora.initialization,
            start_from=hub.resolve(config.model.adapter) if config.model.adapter else None,
            chunk_tokens=config.train.chunk_tokens,
            key=jax.random.key(config.seed),
            base=None if like is None else like.frozen,
        )
    )


def execution(config: ConfigDict, base: Base, mesh: Mesh) -> Execution:
    """How the model runs, from the `model` group."""
    return Execution.build(
        mesh,
        rules=base.config.rules,
        compute_dtype=float_type("model.compute_dtype", config.model.compute_dtype),
        backend=config.model.attention,
        remat=config.model.remat,
    )


def adapter_settings(
    config: ConfigDict, targets: tuple[str, ...], depth: int, path: str | None = None
) -> peft_config.LoraConfig:
    """The adapter's settings, from the `lora` group.

    Args:
        targets: projections, under our names.
        depth: layers of the model.
        path: of the model; None: `model.path`.
    """
    return peft_config.LoraConfig(
        rank=config.lora.rank,
        alpha=config.lora.alpha,
        dropout=config.lora.dropout,
        targets=targets,
        rslora=config.lora.rslora,
        base_name=hub.absolute(config.model.path if path is None else path),
        dtype="float32",
        layers=lora.layer_numbers(config.lora.layers, depth),
    )


def _adapter(config: ConfigDict, base: Base) -> peft_config.LoraConfig | None:
    """Settings of the adapter to train; None if all weights are trained."""
    if config.lora.rank == 0:
        return None
    targets = lora.targets(tuple(config.lora.targets), llama.targets(base.config))
    return adapter_settings(config, targets, base.config.layers)


def flops_per_example(config: ConfigDict, base: Base, *sides: Examples) -> float:
    """Mean model FLOPs to train on one example. What it shares with others in a row counts in full:
    the layout of rows, which depends on the devices, decides on no run's length."""
    adapter = _adapter(config, base)
    return sum(
        policy.flops_per_token(base.config, adapter, side.lengths) * float(side.lengths.mean())
        for side in sides
    )


def share(config: ConfigDict, model: llama.LlamaConfig, skips: int | None = None) -> Share:
    """How pairs share rows, from the `data` group.

    Args:
        skips: see `prefixes.common`.
    """
    if not config.data.share_prompts:
        return prefixes.separate
    kernels = (p.shape for n, p in llama.parameters(model).items() if n.endswith("kernel"))
    even_tokens = flops.even_tokens(
        matmul_weights=sum(map(math.prod, kernels)),
        layers=model.layers,
        heads=model.heads,
        head_size=model.head_size,
    )
    return functools.partial(
        prefixes.where_it_saves,
        even_tokens=even_tokens,
        longest_row=model.longest_shared_row,
        skips=skips,
    )


def share_opening(config: ConfigDict, model: llama.LlamaConfig, mesh: Mesh) -> Share:
    """Whether the examples of a row share their common prefix, from the `data` group."""
    several = config.data.packing and attention.takes_many(mesh)
    if not config.data.share_prompts or not several:
        return prefixes.separate
    return functools.partial(prefixes.opening_where_it_saves, longest_row=model.longest_shared_row)


def trained_policy(
    config: ConfigDict,
    model: llama.LlamaConfig,
    *,
    sides: int,
    survey: bool = False,
    kernels: str = "",
) -> TrainedModel:
    """Sizes of the model as the `model`, `lora` and `train` groups train it.

    Args:
        sides, survey: see `TrainedModel`.
        kernels: format of the base's kernels; "": that of the config.
    """
    known = llama.targets(model)
    adapted = lora.targets(tuple(config.lora.targets), known) if config.lora.rank > 0 else ()
    declared, vocabulary = llama.parameters(model), model.vocabulary_size
    return trained_model(
        config,
        model,
        declared,
        adapted,
        vocabulary=vocabulary,
        sides=sides,
        survey=survey,
        kernels=kernels or config.model.base,
    )


def trained_model(
    config: ConfigDict,
    trunk: Any,
    declared: Mapping[str, meshes.Parameter],
    adapted: tuple[str, ...],
    *,
    vocabulary: int,
    sides: int,
    survey: bool,
    kernels: str,
) -> TrainedModel:
    """Sizes of a model with these weights.

    Args:
        kernels: format of a frozen base's kernels.
        trunk: the config of its layers.
        adapted: projections that have adapters; none if all weights are trained.
        vocabulary: entries of the output; 0 for a judge.
    """
    layers = lora.layer_numbers(config.lora.layers, trunk.layers)
    leaves = lora.shapes(declared, adapted, config.lora.rank, layers)
    weights = sum(math.prod(p.shape) for p in declared.values())
    stored = float_type("model.parameter_dtype", config.model.parameter_dtype).itemsize
    return TrainedModel(
        TrunkSizes.of(trunk, declared),
        weights=weights,
        adapter_weights=sum(math.prod(shape) for shape, _ in leaves.values()),
        vocabulary=vocabulary,
        chunk_tokens=config.train.chunk_tokens if vocabulary else 0,
        base_bytes=quantised.weights_bytes(declared, stored, kernels) / weights,
        dequantised=kernels != quantised.STORED,
        number_bytes=float_type("model.compute_dtype", config.model.compute_dtype).itemsize,
        sides=sides,
        survey=survey,
    )
