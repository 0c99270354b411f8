"""The programs that a run of another stage would compile, by its own config, on shapes alone."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from safety_jax import mesh as meshes
from safety_jax import policy, preferences, supervised
from safety_jax import step as steps
from safety_jax.errors import ConfigError
from safety_jax.models import attention, decode, heads, llama, llama_heads, lora
from safety_jax.models import cache as caches
from safety_jax.planning import abstract, decoding, formulas, layouts
from safety_jax.planning.chips import Slice
from safety_jax.planning.programs import Program
from safety_jax.scoring import guard
from safety_jax.scoring.planned import max_tokens
from safety_jax.stages import assemble, dpo, raft


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


def _chosen(asked: Asked, sizes: layouts.Sizes, rows: int, most: int) -> Choice:
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
    return _chosen(asked, sizes, given if asked.keep else rows, rows)


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
    parts, width = formulas.Parts.of(mesh.shape), trained.run.compute_dtype.itemsize
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
        batch = abstract.tokens(mesh, (microbatches, rows), T)
        return base, batch, supervised.make_loss(trained), steps.trained_tokens, False
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


# ---------------------------------------------------------------------------- decoding


def choose_decoding(asked: Asked) -> Choice:
    config = asked.config
    # Weights are held twice: stacked to read prompts, layer by layer to write.
    weights = 2.0 * base_dtype(config).itemsize * formulas.kernel_weights(asked.model)
    sizes = (
        asked.own_mesh()
        if asked.keep
        else layouts.for_decoding(asked.model, len(asked.found), weights, asked.memory)
    )
    lanes = config.sample.lanes
    most = config.raft.prompts * config.sample.candidates
    return _chosen(asked, sizes, lanes, max(lanes, most))


def decoding_programs(asked: Asked, choice: Choice) -> list[Program]:
    """Sampling of stage `raft`: prompts are read, then a token is written in every lane.

    The longest prompts that the config allows, and caches for the longest answers.
    """
    config, mesh = asked.config, asked.mesh(choice.mesh)
    trained = make_policy(asked, mesh)
    run = dataclasses.replace(trained.run)
    settings = raft.answer_settings(config.sample)
    parts = formulas.Parts.of(mesh.shape)
    pace = dataclasses.replace(raft.decoding_pace(config.sample), lanes=choice.rows)
    if not asked.keep:
        pace = dataclasses.replace(
            pace, prefill_prompts=layouts.round_up(pace.prefill_prompts, parts.rows)
        )
    setup = decode.Setup(asked.model, run, settings, pace, eos_ids=(2,), stop=None)
    setup.check()
    trainable, base = abstract.trained(trained, base_dtype(config))
    adapters = None if trained.adapter is None else trained.adapters(trainable)
    weights = trainable if trained.adapter is None else base

    prompt = decode.bucket(config.data.max_length - settings.max_new_tokens, pace.bucket_tokens)
    own = min(decode.bucket(settings.max_new_tokens, pace.bucket_tokens), settings.max_new_tokens)
    slots = decode.prompt_slots(pace.lanes, settings.candidates, config.raft.prompts, parts.rows)
    sizes = caches.Sizes(pace.lanes, slots, prompt, own)
    cache = decoding.cache(setup, sizes)
    width, cache_width = run.compute_dtype.itemsize, jnp.dtype(pace.cache_dtype).itemsize
    held = {
        "parameters": abstract.bytes_on_device((trainable, base)),
        "parameters by layer": abstract.bytes_on_device((trainable, base)),
        "caches": abstract.bytes_on_device(cache),
    }
    stacked, unrolled = held["parameters"], held["parameters by layer"]
    logits = 4 * 4 * pace.lanes * asked.model.vocabulary_size / parts.devices

    def exchange(tokens: int) -> dict[int, float]:
        return formulas.exchanged(
            asked.model, parts, width=width, tokens=tokens, passes=1, repeats=1, reduced=0
        )

    read_tokens = pace.prefill_prompts * prompt
    return [
        Program(
            name=f"reads {pace.prefill_prompts} prompts of {prompt} tokens",
            lower=lambda: decoding.lower_reading(setup, weights, adapters, cache, prompt),
            arguments={"parameters": stacked, "caches": held["caches"]},
            held={"parameters by layer": unrolled},
            unknown_trips=(1,),
            load=formulas.reading(
                asked.model, parts, width=width, rows=pace.prefill_prompts, row_tokens=prompt,
                outputs=False,
            ),
            temporaries=formulas.passing(
                asked.model, parts, width=width, rows=pace.prefill_prompts, row_tokens=prompt,
                keeps=True,
            ),
            exchanged=exchange(read_tokens),
        ),
        Program(
            name=f"writes a token in {pace.lanes} lanes",
            lower=lambda: decoding.lower_writing(
                setup, decoding.unrolled(weights, adapters), cache, sizes
            ),
            arguments={"parameters by layer": unrolled, "caches": held["caches"]},
            held={"parameters": stacked},
            unknown_trips=(1,),  # what one token costs
            load=formulas.writing(
                asked.model, parts, sizes, width=width, cache_width=cache_width
            ),
            temporaries=logits,
            exchanged=exchange(pace.lanes),
        ),
    ]  # fmt: skip


# ---------------------------------------------------------------------------- judging

GUARDS = ("llama_guard", "wildguard")


def judge_row(asked: Asked) -> tuple[str, Any]:
    """The one judge of the config that is a LLaMA: a guard, or a sequence head."""
    rows = [
        (name, row)
        for name, row in asked.config.score.judges.items()
        if row.kind in (*GUARDS, "sequence")
    ]
    if len(rows) != 1:
        raise ConfigError(
            f"plan.run has {len(rows)} judges that are models; expected one, such as "
            "configs/score.py:llama_guard"
        )
    return rows[0]


def judged_tokens(asked: Asked) -> int:
    name, row = judge_row(asked)
    return max_tokens(name, row.max_tokens, asked.model.max_positions)


def score_dtype(asked: Asked) -> Any:
    return policy.float_type("score.parameter_dtype", asked.config.score.parameter_dtype)


def choose_judging(asked: Asked) -> Choice:
    rows = max(1, asked.config.score.tokens_per_batch // judged_tokens(asked))
    each = score_dtype(asked).itemsize
    sizes = asked.own_mesh() if asked.keep else asked.mesh_for_rows(rows, each)
    parts = sizes.data * sizes.fsdp
    rows = max(1, rows // parts) * parts  # as `buckets.buckets` has it
    return Choice(sizes, rows, max(rows, asked.config.score.rows_per_write), parts, not asked.keep)


def judging_programs(asked: Asked, choice: Choice) -> list[Program]:
    """A batch of the longest rows through a judge of this size."""
    score, mesh = asked.config.score, asked.mesh(choice.mesh)
    _, row = judge_row(asked)
    T = judged_tokens(asked)
    run = asked.execution(mesh, score.compute_dtype, score.attention, "none")
    stored = score_dtype(asked)
    if row.kind in GUARDS:
        declared = llama.parameters(asked.model)
        function = guard.verdict(asked.model, run, (0,), (1,))
    else:
        head = llama_heads.head(asked.model, 1)
        scorer = heads.Scorer("llama", asked.model, head, ("score",), None, T, False)
        declared = heads.parameters(scorer)
        function = lambda weights, ids, types, mask: heads.scores(  # noqa: E731
            scorer, weights, ids, types, mask, run
        )
    weights = abstract.weights(declared, mesh, stored)
    where = meshes.sharding(mesh, ("rows", "tokens"))
    ids, mask = (abstract.array((choice.rows, T), kind, where) for kind in (jnp.int32, jnp.bool_))
    compiled = jax.jit(function, out_shardings=meshes.sharding(mesh, ()))
    parts, width = formulas.Parts.of(mesh.shape), run.compute_dtype.itemsize
    return [
        Program(
            name=f"judges {choice.rows} rows of {T:,} tokens",
            lower=lambda: compiled.lower(weights, ids, ids, mask),
            arguments={
                "parameters": abstract.bytes_on_device(weights),
                "batch": abstract.bytes_on_device((ids, ids, mask)),
            },
            held={},
            unknown_trips=(1,),
            load=formulas.reading(
                asked.model, parts, width=width, rows=choice.rows, row_tokens=T, outputs=True
            ),
            temporaries=formulas.passing(
                asked.model, parts, width=width, rows=choice.rows, row_tokens=T, keeps=False
            ),
            exchanged=formulas.exchanged(
                asked.model, parts, width=width, tokens=choice.rows * T, passes=1, repeats=1,
                reduced=0,
            ),
        )
    ]  # fmt: skip


TRAINING = Planned("trained", choose_training, training_programs)
STAGES: dict[str, Planned] = {
    "sft": TRAINING,
    "dpo": TRAINING,
    "raft": Planned("written", choose_decoding, decoding_programs),
    "score": Planned("judged", choose_judging, judging_programs),
}
