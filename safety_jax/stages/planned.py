"""A run of another stage as `plan` sees it: the request, the free choices, the programs.

`planned_training.py` has the programs with a backward pass, `planned_sweep.py` those of a sweep,
`planned_passes.py` those without a backward pass.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from safety_jax.base.errors import ConfigError
from safety_jax.models import llama, lora, quantised
from safety_jax.models.encoders import heads, llama_heads
from safety_jax.models.execution import Execution, float_type
from safety_jax.models.folders import peft_config
from safety_jax.planning import formulas, layouts
from safety_jax.planning.chips import Slice
from safety_jax.planning.programs import Program
from safety_jax.stages import learners
from safety_jax.training import policy


@dataclasses.dataclass(frozen=True)
class ProgramChoice:
    """Settings that do not change results.

    Attributes:
        mesh: its sizes.
        rows: rows of a microbatch or batch, or lanes of a decoder, over all devices.
        most: the most rows that a step can use.
        step: rows are a multiple of this.
        free: whether rows may differ from the config's.
        remat: rematerialisation, for programs with a backward pass.
    """

    mesh: layouts.ModelSizes
    rows: int
    most: int
    step: int
    free: bool
    remat: str = "full"

    def even(self, rows: int) -> int:
        """The fewest rows with which a step has no more microbatches than with `rows`: the last
        microbatch then has the fewest empty rows."""
        microbatches = math.ceil(self.most / rows)
        return layouts.round_up(math.ceil(self.most / microbatches), self.step)


@dataclasses.dataclass(frozen=True)
class PlanRequest:
    """A run to plan on a slice.

    Attributes:
        config: of the run, with its own mesh and rows.
        found: the slice's devices.
        keep: use the run's own mesh and rows; else choose them.
        example_tokens: mean length of an example; 0: whole rows.
    """

    config: ConfigDict
    model: llama.LlamaConfig
    where: Slice
    found: Sequence[Any]
    keep: bool
    example_tokens: int

    @property
    def by_formula(self) -> bool:
        """Whether formulas are used and nothing is compiled."""
        return layouts.absent(self.found)

    @property
    def memory(self) -> float:
        """Bytes of a device's memory."""
        return self.where.chip.memory / self.where.chip.devices

    def mesh_for_rows(self, rows: int, bytes_each: float) -> layouts.ModelSizes:
        """The best mesh for these rows of a step, with `bytes_each` held for each weight."""
        state = float(bytes_each * formulas.all_weights(self.model))
        return layouts.for_rows(self.model, len(self.found), rows, state, self.memory)

    def own_mesh(self) -> layouts.ModelSizes:
        """The mesh of the run's config, with -1 resolved."""
        mesh = self.config.mesh
        given = layouts.ModelSizes(mesh.data, mesh.fsdp, mesh.tensor)
        return layouts.ModelSizes(*layouts.build(given, self.found).shape.values())

    def mesh(self, sizes: layouts.ModelSizes) -> Mesh:
        """The mesh of these sizes; raises a ConfigError if it does not divide the model."""
        mesh = layouts.build(sizes, self.found)
        llama.shardings(self.model, mesh)
        return mesh

    def execution(self, mesh: Mesh, compute_dtype: str, backend: str, remat: str) -> Execution:
        return Execution.build(
            mesh,
            rules=self.model.rules,
            compute_dtype=float_type("model.compute_dtype", compute_dtype),
            # If nothing is compiled, any backend will do.
            backend="xla" if self.by_formula else backend,
            remat=remat,
            verify=False,
        )


@dataclasses.dataclass(frozen=True)
class StageProgram:
    """How one stage is planned.

    Attributes:
        unit: a word for what happens to its tokens: "trained".
        choose: the mesh and rows to begin with.
        programs: the programs for a choice; the plan times the last one.
        setting: KEY=VALUE of the run's config for these rows.
        microbatched: rows are those of a microbatch, and a step has the same examples with any
            number of them.
    """

    unit: str
    choose: Callable[[PlanRequest], ProgramChoice]
    programs: Callable[[PlanRequest, ProgramChoice], list[Program]]
    setting: Callable[[PlanRequest, int], str]
    microbatched: bool = False


def chosen(
    sizes: layouts.ModelSizes, rows: int, most: int, *, free: bool, key: str
) -> ProgramChoice:
    """The choice of these rows, rounded up to a multiple that the mesh divides if `free`.

    Args:
        key: of the config, for these rows.
    """
    parts = sizes.data * sizes.fsdp
    if not free:
        if rows % parts:
            raise ConfigError(
                f"{rows} rows do not divide over mesh data x fsdp = {parts}; make {key} a "
                f"multiple of {parts}"
            )
        return ProgramChoice(sizes, rows, max(rows, most), parts, free)
    most = layouts.round_up(most, parts)
    return ProgramChoice(sizes, min(layouts.round_up(rows, parts), most), most, parts, free)


# ---------------------------------------------------------------------------- models


def base_dtype(config: ConfigDict) -> Any:
    return float_type("model.parameter_dtype", config.model.parameter_dtype)


def base_bytes(asked: PlanRequest) -> float:
    """Mean bytes of a frozen weight."""
    declared, config = llama.parameters(asked.model), asked.config
    whole = quantised.weights_bytes(declared, base_dtype(config).itemsize, config.model.base)
    return whole / formulas.all_weights(asked.model)


def kernel_bytes(model: llama.LlamaConfig, kernels: str, width: int) -> float:
    """Mean bytes of a weight of the layers' kernels: codes, or numbers of `width` bytes."""
    declared = {n: p for n, p in llama.parameters(model).items() if quantised.quantisable(n)}
    return quantised.weights_bytes(declared, width, kernels) / formulas.kernel_weights(model)


def number_bytes(execution: Execution) -> int:
    """Bytes of a number in the compute dtype."""
    return jnp.dtype(execution.compute_dtype).itemsize


def make_policy(asked: PlanRequest, mesh: Mesh, remat: str) -> policy.Policy:
    config = asked.config
    return policy.Policy(
        asked.model,
        training_run(asked, mesh, remat),
        Path(config.model.path),
        make_adapter(asked, functools.partial(lora.targets, known=llama.targets(asked.model))),
        config.train.chunk_tokens,
    )


def training_run(asked: PlanRequest, mesh: Mesh, remat: str) -> Execution:
    model = asked.config.model
    return asked.execution(mesh, model.compute_dtype, model.attention, remat)


def make_adapter(
    asked: PlanRequest, resolve: Callable[[tuple[str, ...]], tuple[str, ...]]
) -> peft_config.LoraConfig | None:
    config = asked.config
    if config.lora.rank == 0:
        return None
    targets = resolve(tuple(config.lora.targets))
    return learners.adapter_settings(config, targets, asked.model.layers)


def make_scorer(model: llama.LlamaConfig, longest: int) -> heads.Scorer:
    """A judge of this size: one output, read at the last token."""
    head = llama_heads.head(model, 1)
    return heads.Scorer("llama", model, head, ("score",), None, longest, False)
