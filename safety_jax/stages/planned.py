"""The programs that a run of another stage would compile, by its own config, on shapes alone: the
training step of `sft` and `dpo`. Those without a backward pass are in `planned_passes.py`."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from safety_jax import policy, preferences, supervised
from safety_jax import step as steps
from safety_jax.errors import ConfigError
from safety_jax.models import attention, llama, lora
from safety_jax.planning import abstract, formulas, layouts
from safety_jax.planning.chips import Slice
from safety_jax.planning.programs import Program
from safety_jax.stages import assemble, dpo


@dataclasses.dataclass(frozen=True)
class Choice:
    """What may be chosen without changing a result.

    Attributes:
        mesh: its sizes.
        rows: rows of a microbatch or batch, or lanes of a decoder, over all devices.
        most: more of them a step could not use.
        step: rows are a multiple of this.
        free: rows may be others than the config's.
    """

    mesh: layouts.Sizes
    rows: int
    most: int
    step: int
    free: bool


@dataclasses.dataclass(frozen=True)
class Asked:
    """A run on a slice.

    Attributes:
        config: of the run, its own mesh and rows among it.
        found: the slice's devices.
        keep: the run's own mesh and rows are taken; else they are chosen.
        example_tokens: mean length of an example; 0: whole rows.
    """

    config: ConfigDict
    model: llama.Config
    where: Slice
    found: Sequence[Any]
    keep: bool
    example_tokens: int

    @property
    def memory(self) -> float:
        """Bytes of a device."""
        return self.where.chip.memory / self.where.chip.devices

    def mesh_for_rows(self, rows: int, bytes_each: int) -> layouts.Sizes:
        """The mesh that is chosen for so many rows a step, and bytes held for each weight."""
        state = float(bytes_each * formulas.all_weights(self.model))
        return layouts.for_rows(self.model, len(self.found), rows, state, self.memory)

    def own_mesh(self) -> layouts.Sizes:
        """The mesh of the run's config, -1 filled in."""
        mesh = self.config.mesh
        given = layouts.Sizes(mesh.data, mesh.fsdp, mesh.tensor)
        return layouts.Sizes(*layouts.build(given, self.found).shape.values())

    def mesh(self, sizes: layouts.Sizes) -> Mesh:
        """Raises a ConfigError unless it divides the model."""
        mesh = layouts.build(sizes, self.found)
        llama.shardings(self.model, mesh)
        return mesh

    def execution(self, mesh: Mesh, compute_dtype: str, backend: str, remat: str) -> Any:
        if self.where.is_tpu:
            return policy.execution(
                self.model, mesh, compute_dtype=compute_dtype, backend=backend, remat=remat,
                verify=False,
            )  # fmt: skip
        # Nothing is compiled, so any backend will do.
        dtype = policy.float_type("model.compute_dtype", compute_dtype)
        function = attention.build("xla", mesh, self.model.window, dtype, verify=False)
        return llama.Execution(mesh, dtype, function, remat)


@dataclasses.dataclass(frozen=True)
class Planned:
    """How one stage is planned.

    Attributes:
        unit: what its tokens are, for people.
        choose: the mesh and rows to begin with.
        programs: for a choice; the last is the one whose time is told.
    """

    unit: str
    choose: Callable[[Asked], Choice]
    programs: Callable[[Asked, Choice], list[Program]]


def chosen(asked: Asked, sizes: layouts.Sizes, rows: int, most: int) -> Choice:
    parts = sizes.data * sizes.fsdp
    if asked.keep:
        if rows % parts:
            raise ConfigError(
                f"{rows} rows do not divide over mesh data x fsdp = {parts}; make "
                f"train.rows_per_microbatch (sample.lanes) a multiple of {parts}"
            )
        return Choice(sizes, rows, max(rows, most), parts, free=False)
    most = layouts.round_up(most, parts)
    return Choice(sizes, min(layouts.round_up(rows, parts), most), most, parts, free=True)


# ---------------------------------------------------------------------------- training


def row_tokens(config: ConfigDict) -> int:
    return int(config.data.row_tokens or config.data.max_length)


def example_tokens(asked: Asked) -> int:
    return asked.example_tokens or int(asked.config.data.max_length)


def rows_of_step(asked: Asked) -> int:
    """Rows that the examples of an optimizer step fill."""
    config = asked.config
    if not config.data.packing:
        return int(config.train.batch_size)
    whole = max(1, row_tokens(config) // example_tokens(asked))
    return math.ceil(config.train.batch_size / whole)


def choose_training(asked: Asked) -> Choice:
    config, rows = asked.config, rows_of_step(asked)
    # Adapters and their moments are small; of weights that are trained there are three.
    each = base_dtype(config).itemsize if config.lora.rank > 0 else 3 * 4
    sizes = asked.own_mesh() if asked.keep else asked.mesh_for_rows(rows, each)
    given = config.train.rows_per_microbatch
    # Fewer microbatches gather weights less often: as many rows as fit, where they may be chosen.
    return chosen(asked, sizes, given if asked.keep else rows, rows)


def training_programs(asked: Asked, choice: Choice) -> list[Program]:
    """The optimizer step of stages `sft` and `dpo`."""
    config, T = asked.config, row_tokens(asked.config)
    assemble.check_values(config)
    mesh = asked.mesh(choice.mesh)
    sides = 2 if config.stage == "dpo" else 1
    microbatches = math.ceil(rows_of_step(asked) / choice.rows)
    trained = make_policy(asked, mesh)
    trainable, base = abstract.trained(trained, base_dtype(config))
    frozen, batch, loss, count, live = make_loss(asked, trained, mesh, base, choice.rows,
                                                 microbatches)  # fmt: skip
    rate, optimizer = assemble.make_optimizer(config.optim, total=1000)
    given, where = abstract.state(trained, trainable, optimizer)
    parts, width = formulas.Parts.of(mesh.shape), number_bytes(trained.run)
    everything = choice.rows * sides * microbatches
    load = formulas.training(
        trained, parts, width=width, rows=everything, row_tokens=T, microbatches=microbatches,
        example_tokens=min(T, example_tokens(asked)), live_reference=live,
    )  # fmt: skip
    temporaries = formulas.activations(
        trained, parts, width=width, rows=choice.rows * sides, row_tokens=T
    )
    exchanged = formulas.exchanged(
        asked.model, parts, width=width, tokens=everything * T,
        passes=2 + live, repeats=microbatches,
        reduced=abstract.bytes_on_device(trainable) // 4,
    )  # fmt: skip
    chunks = math.ceil(T / trained.chunk_tokens)
    lower = functools.partial(
        abstract.lower_step, given, where, frozen, batch, loss=loss, count=count,
        optimizer=optimizer, rate=rate,
    )  # fmt: skip
    return [
        Program(
            name=f"a step of {everything:,} rows of {T:,} tokens",
            lower=lower,
            arguments={
                "parameters": abstract.bytes_on_device((trainable, base)),
                "optimizer": abstract.bytes_on_device(given.optimizer),
                "batch": abstract.bytes_on_device(batch),
            },
            held={},
            unknown_trips=(microbatches, chunks) if microbatches > 1 else (chunks,),
            load=load,
            temporaries=temporaries,
            exchanged=exchanged,
        )
    ]


def base_dtype(config: ConfigDict) -> Any:
    return policy.float_type("model.parameter_dtype", config.model.parameter_dtype)


def number_bytes(run: llama.Execution) -> int:
    """Of a number that is computed with."""
    return jnp.dtype(run.compute_dtype).itemsize


def make_policy(asked: Asked, mesh: Mesh) -> policy.Policy:
    config, adapter = asked.config, None
    if config.lora.rank > 0:
        adapter = assemble.adapter_settings(config, lora.targets(tuple(config.lora.targets)))
    run = asked.execution(
        mesh, config.model.compute_dtype, config.model.attention, config.model.remat
    )
    return policy.Policy(
        asked.model, run, Path(config.model.path), adapter, config.train.chunk_tokens
    )


def make_loss(
    asked: Asked, trained: policy.Policy, mesh: Mesh, base: Any, rows: int, microbatches: int
) -> tuple[Any, Any, steps.Loss, steps.Count, bool]:
    """(frozen, batch, loss, count, whether the reference is computed in the step)."""
    config, T = asked.config, row_tokens(asked.config)
    if config.stage != "dpo":
        rows_alone = abstract.tokens(mesh, (microbatches, rows), T)
        return base, rows_alone, supervised.make_loss(trained), steps.trained_tokens, False
    live = config.dpo.reference == "live"
    loss = preferences.make_loss(
        trained,
        dpo.make_objective(config.dpo),
        nll_weight=config.dpo.nll_weight,
        live=live,
        batch_size=config.train.batch_size,
    )
    segments = max(1, T // example_tokens(asked))
    batch = abstract.pairs(mesh, microbatches, rows, T, segments)
    return preferences.Frozen(base, None), batch, loss, preferences.count, live


TRAINING = Planned("trained", choose_training, training_programs)
