"""The programs that a run of another stage would compile, by its own config, on shapes alone: the
training step of `sft`, `dpo` and `reward`. `planned_passes.py` has those without a backward pass.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from safety_jax import policy, preferences, supervised, trees
from safety_jax import step as steps
from safety_jax.batch import Answers, Preferences, Tokens
from safety_jax.errors import ConfigError
from safety_jax.models import attention, heads, llama, llama_heads, lora, peft
from safety_jax.planning import abstract, formulas, layouts
from safety_jax.planning.chips import Slice
from safety_jax.planning.programs import Program
from safety_jax.rewards import corpus as corpora
from safety_jax.rewards import loss as judging
from safety_jax.rewards.model import Trainee
from safety_jax.stages import assemble, dpo, reward


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


@dataclasses.dataclass(frozen=True)
class Step:
    """What an optimizer step is made of, in shapes.

    Attributes:
        trained: where what is trained lives, and how it runs.
        trainable, base: weights that move, and that stand still.
        frozen: what the loss is given of the latter.
        sides: rows that belong together: 2 for pairs.
        live: the reference is computed in the step.
        chunk_tokens: see `formulas.Trained`.
        flops_per_token: of examples of some lengths, see `metrics`.
    """

    trained: policy.Policy | Trainee
    trainable: trees.Tree
    base: trees.Tree
    frozen: trees.Tree | preferences.Frozen
    batch: Tokens | Preferences | Answers
    loss: steps.Loss
    count: steps.Count
    sides: int
    live: bool
    chunk_tokens: int
    flops_per_token: Callable[[np.ndarray], float]


def training_programs(asked: Asked, choice: Choice) -> list[Program]:
    """The optimizer step of stages `sft`, `dpo` and `reward`."""
    config, T = asked.config, row_tokens(asked.config)
    assemble.check_values(config)
    mesh = asked.mesh(choice.mesh)
    microbatches = math.ceil(rows_of_step(asked) / choice.rows)
    step = STEPS[config.stage](asked, mesh, choice.rows, microbatches)
    rate, optimizer = assemble.make_optimizer(config.optim, total=1000)
    given, where = abstract.state(step.trained, step.trainable, optimizer)
    run = step.trained.run
    trained = formulas.Trained(asked.model, run.remat, step.trained.adapter, step.chunk_tokens)
    parts, width = formulas.Parts.of(mesh.shape), number_bytes(run)
    everything = choice.rows * step.sides * microbatches
    lengths = np.array([min(T, example_tokens(asked))])
    load = formulas.training(
        trained, parts, width=width, rows=everything, row_tokens=T, microbatches=microbatches,
        flops_per_token=step.flops_per_token(lengths), live_reference=step.live,
    )  # fmt: skip
    temporaries = formulas.activations(
        trained, parts, width=width, rows=choice.rows * step.sides, row_tokens=T
    )
    exchanged = formulas.exchanged(
        asked.model, parts, width=width, tokens=everything * T,
        passes=2 + step.live, repeats=microbatches,
        reduced=abstract.bytes_on_device(step.trainable) // 4,
    )  # fmt: skip
    loops = (microbatches, trained.chunks(T)) if microbatches > 1 else (trained.chunks(T),)
    lower = functools.partial(
        abstract.lower_step, given, where, step.frozen, step.batch, loss=step.loss,
        count=step.count, optimizer=optimizer, rate=rate,
    )  # fmt: skip
    return [
        Program(
            name=f"a step of {everything:,} rows of {T:,} tokens",
            lower=lower,
            arguments={
                "parameters": abstract.bytes_on_device((step.trainable, step.base)),
                "optimizer": abstract.bytes_on_device(given.optimizer),
                "batch": abstract.bytes_on_device(step.batch),
            },
            held={},
            unknown_trips=tuple(trips for trips in loops if trips) or (1,),
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
    config = asked.config
    return policy.Policy(
        asked.model,
        training_run(asked, mesh),
        Path(config.model.path),
        make_adapter(config, lora.targets),
        config.train.chunk_tokens,
    )


def training_run(asked: Asked, mesh: Mesh) -> Any:
    model = asked.config.model
    return asked.execution(mesh, model.compute_dtype, model.attention, model.remat)


def make_adapter(
    config: ConfigDict, resolve: Callable[[tuple[str, ...]], tuple[str, ...]]
) -> peft.Settings | None:
    if config.lora.rank == 0:
        return None
    return assemble.adapter_settings(config, resolve(tuple(config.lora.targets)))


def segments(asked: Asked) -> int:
    """Examples of a row."""
    return max(1, row_tokens(asked.config) // example_tokens(asked))


def tuning_step(asked: Asked, mesh: Mesh, rows: int, microbatches: int) -> Step:
    trained = make_policy(asked, mesh)
    trainable, base = abstract.trained(trained, base_dtype(asked.config))
    batch = abstract.tokens(mesh, (microbatches, rows), row_tokens(asked.config))
    return Step(
        trained, trainable, base, base, batch, supervised.make_loss(trained),
        steps.trained_tokens, sides=1, live=False, chunk_tokens=trained.chunk_tokens,
        flops_per_token=trained.flops_per_token,
    )  # fmt: skip


def preference_step(asked: Asked, mesh: Mesh, rows: int, microbatches: int) -> Step:
    config = asked.config
    trained = make_policy(asked, mesh)
    trainable, base = abstract.trained(trained, base_dtype(config))
    live = config.dpo.reference == "live"
    loss = preferences.make_loss(
        trained,
        dpo.make_objective(config.dpo),
        nll_weight=config.dpo.nll_weight,
        live=live,
        batch_size=config.train.batch_size,
    )
    batch = abstract.pairs(mesh, microbatches, rows, row_tokens(config), segments(asked))
    return Step(
        trained, trainable, base, preferences.Frozen(base, None), batch, loss, preferences.count,
        sides=2, live=live, chunk_tokens=trained.chunk_tokens,
        flops_per_token=trained.flops_per_token,
    )  # fmt: skip


def judge_step(asked: Asked, mesh: Mesh, rows: int, microbatches: int) -> Step:
    config, T = asked.config, row_tokens(asked.config)
    scorer = make_scorer(asked.model, T)
    adapter = make_adapter(config, functools.partial(heads.targets, scorer))
    trainee = Trainee(scorer, training_run(asked, mesh), Path(config.model.path), adapter, False)
    trainable, base = abstract.judge(trainee, base_dtype(config))
    sides = 2 if config.reward.kind in corpora.PAIRED else 1
    batch = abstract.answers(mesh, microbatches, rows, sides, T, segments(asked))
    objective = reward.make_objective(config.reward)
    loss = judging.make_loss(trainee, objective, batch_size=config.train.batch_size)
    return Step(
        trainee, trainable, base, base, batch, loss, judging.count, sides=sides, live=False,
        chunk_tokens=0, flops_per_token=trainee.flops_per_token,
    )  # fmt: skip


def make_scorer(model: llama.Config, longest: int) -> heads.Scorer:
    """A judge of this size: one output, read at the last token."""
    head = llama_heads.head(model, 1)
    return heads.Scorer("llama", model, head, ("score",), None, longest, False)


STEPS: dict[str, Callable[[Asked, Mesh, int, int], Step]] = {
    "sft": tuning_step,
    "dpo": preference_step,
    "reward": judge_step,
}
TRAINING = Planned("trained", choose_training, training_programs)
