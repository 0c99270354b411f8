"""Programs without a backward pass: sampling in `raft`, judging in `score`.

See `planned.py`.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from safety_jax.base import meshes
from safety_jax.base.errors import ConfigError
from safety_jax.judges.batching import TOKENS_A_TEXT
from safety_jax.judges.guards.catalogue import GUARDS
from safety_jax.judges.guards.reading import label_logprobs, table
from safety_jax.judges.planned import max_tokens
from safety_jax.models import llama, lora, quantised
from safety_jax.models.decoding import caches, generation, session
from safety_jax.models.encoders import heads
from safety_jax.models.execution import float_type
from safety_jax.models.model import Model
from safety_jax.planning import abstract, decoding, formulas, layouts
from safety_jax.planning.programs import Program
from safety_jax.stages import answering, groups
from safety_jax.stages.planned import (
    PlanRequest,
    ProgramChoice,
    StageProgram,
    base_dtype,
    chosen,
    kernel_bytes,
    make_policy,
    make_scorer,
    number_bytes,
)
from safety_jax.training import policy
from safety_jax.training.footprint import FlopParts

# ---------------------------------------------------------------------------- decoding


LANES_KEY = "sample.lanes"


def choose_decoding(asked: PlanRequest) -> ProgramChoice:
    config, model = asked.config, asked.model
    lanes = config.sample.lanes
    most = config.raft.prompts * config.sample.candidates
    if asked.keep:
        return chosen(asked.own_mesh(), lanes, max(lanes, most), free=False, key=LANES_KEY)
    alone = Mesh(np.array([[asked.found[:1]]]), meshes.AXES)
    base = abstract.weights(llama.parameters(model), alone, base_dtype(config), config.model.base)
    if config.raft.adapter == "merge":  # as `raft.hold_base` has it
        base = abstract.promoted(
            base, lora.targets(tuple(config.lora.targets), llama.targets(model))
        )
    weights = float(abstract.bytes_on_device(base))
    setup, held = decoding_setup(asked, alone, lanes)
    width = caches.number_bytes(setup.pace.cache_dtype, model.head_size)
    sizes = layouts.for_decoding(
        model, asked.where, lanes,
        weights=weights, caches=formulas.cache_bytes(model, held, width),
    )  # fmt: skip
    return chosen(sizes, lanes, max(lanes, most), free=True, key=LANES_KEY)


def lanes_setting(asked: PlanRequest, lanes: int) -> str:
    return f"{LANES_KEY}={lanes}"


def decoding_setup(
    asked: PlanRequest, mesh: Mesh, lanes: int
) -> tuple[generation.Setup, caches.CacheSizes]:
    """How the stage decodes, with the longest prompts that the config allows and caches for the
    longest answers."""
    config = asked.config
    settings = answering.read_settings(config.sample)
    pace = dataclasses.replace(answering.read_pace(config.sample), lanes=lanes)
    setup = generation.Setup(settings, pace, eos_ids=(2,), stop=None)
    setup.check(mesh)
    slots = generation.prompt_slots(
        lanes, settings.candidates, meshes.row_parts(mesh), waiting=True
    )
    longest = config.data.max_length - settings.max_new_tokens
    # The prompts' common prefix is not known; assume none.
    return setup, session.cache_sizes(setup, mesh, lanes, slots, 0, longest)


def decoding_model(asked: PlanRequest, trained: policy.Policy) -> tuple[Model, dict[str, int]]:
    """The policy laid out for decoding, see `layout`; and the bytes of training state that stay in
    memory beside it."""
    home, mesh = trained.execution.mesh, meshes.decoding(trained.execution.mesh)
    stored, kernels = base_dtype(asked.config), asked.config.model.base
    trainable, base = abstract.trained(trained, stored, kernels)
    merged = trained.adapter if asked.config.raft.adapter == "merge" else None
    if merged is not None:  # as `raft.hold_base` has it
        base = abstract.promoted(base, merged.targets)
    if mesh is home:
        return trained.model(trainable, base), {}
    moved = dataclasses.replace(
        trained, execution=dataclasses.replace(trained.execution, mesh=mesh)
    )
    if trained.adapter is not None and merged is None:
        at_home = {"adapters in training": abstract.bytes_on_device(trainable)}
        return moved.model(*abstract.trained(moved, stored, kernels)), at_home
    declared, computes = llama.parameters(asked.model), trained.execution.compute_dtype
    speaker = Model(
        asked.model, moved.execution, abstract.weights(declared, mesh, computes), None, None
    )
    if merged is not None:
        fresh = abstract.adapters(declared, merged, mesh)
        speaker = dataclasses.replace(speaker, adapters=moved.adapters(fresh))
    return speaker, {"weights in training": abstract.bytes_on_device((trainable, base))}


def decoding_programs(asked: PlanRequest, choice: ProgramChoice) -> list[Program]:
    """Sampling in stage `raft`: the prefill of prompts, and a decoding step of every lane."""
    config, model, mesh = asked.config, asked.model, asked.mesh(choice.mesh)
    trained = make_policy(asked, mesh, choice.remat)
    speaker, at_home = decoding_model(asked, trained)
    setup, sizes = decoding_setup(asked, speaker.mesh, choice.rows)
    cache = decoding.cache(speaker, setup, sizes)

    parts, width = FlopParts.of_decoding(mesh.shape), number_bytes(trained.execution)
    cache_width = caches.number_bytes(setup.pace.cache_dtype, model.head_size)
    dequantised = config.model.base != quantised.STORED
    prompts = {"rows": meshes.row_parts(mesh), "row_tokens": setup.pace.prefill_tokens}
    exchanged = functools.partial(
        formulas.exchanged, model, parts, width=width, passes=1, repeats=1, reduced=0,
        kernel_bytes=kernel_bytes(model, config.model.base, width),
    )  # fmt: skip
    arguments = {
        "parameters": abstract.bytes_on_device((speaker.weights, speaker.adapters)),
        "caches": abstract.bytes_on_device(cache),
    }
    reads = Program(
        name=f"reads {prompts['rows']} rows of {prompts['row_tokens']} tokens of prompts",
        lower=lambda: decoding.lower_reading(speaker, setup, cache),
        arguments=arguments,
        held=at_home,
        unknown_trips=(1,),
        load=formulas.reading(
            model, parts, width=width, outputs=False, dequantised=dequantised, **prompts
        ),
        temporaries=formulas.passing(model, parts, width=width, keeps=True, **prompts),
        exchanged=exchanged(tokens=prompts["rows"] * prompts["row_tokens"]),
    )
    writes = Program(
        name=f"writes a token in {sizes.lanes} lanes",
        lower=lambda: decoding.lower_writing(speaker, setup, cache, sizes),
        arguments=arguments,
        held=at_home,
        unknown_trips=(1,),  # what one token costs
        load=formulas.writing(
            model, parts, sizes, width=width, cache_width=cache_width, dequantised=dequantised
        ),
        temporaries=formulas.sampling(model, parts, sizes.lanes),
        exchanged=exchanged(tokens=sizes.lanes),
    )
    return [reads, writes]


# ---------------------------------------------------------------------------- judging


def judge_row(asked: PlanRequest) -> tuple[str, Any]:
    """The one judge of the config that is a LLaMA: a guard or a sequence classifier."""
    rows = [
        (name, row)
        for name, row in asked.config.score.judges.items()
        if row.kind in (*GUARDS, "sequence", "beaver_dam")
    ]
    if len(rows) != 1:
        raise ConfigError(
            f"plan.run has {len(rows)} judges that are models; expected one, such as "
            "configs/score.py:llama_guard"
        )
    return rows[0]


def judged_tokens(asked: PlanRequest) -> int:
    name, row = judge_row(asked)
    return max_tokens(name, row.max_tokens, asked.model.max_positions)


def score_dtype(asked: PlanRequest) -> Any:
    return float_type("score.parameter_dtype", asked.config.score.parameter_dtype)


def choose_judging(asked: PlanRequest) -> ProgramChoice:
    rows = max(1, groups.tokens_per_batch(asked.config, "tpu") // judged_tokens(asked))
    score, declared = asked.config.score, llama.parameters(asked.model)
    whole = quantised.weights_bytes(declared, score_dtype(asked).itemsize, score.base)
    each = whole / formulas.all_weights(asked.model)
    sizes = asked.own_mesh() if asked.keep else asked.mesh_for_rows(rows, each)
    parts = sizes.data * sizes.fsdp
    rows = max(1, rows // parts) * parts  # as `packing.pack` has it
    return ProgramChoice(
        sizes, rows, max(rows, asked.config.score.rows_per_write), parts, not asked.keep
    )


def batch_setting(asked: PlanRequest, rows: int) -> str:
    return f"score.tokens_per_batch={rows * judged_tokens(asked)}"


def judging_programs(asked: PlanRequest, choice: ProgramChoice) -> list[Program]:
    """A batch of the longest rows through a judge of this size."""
    score, mesh = asked.config.score, asked.mesh(choice.mesh)
    _, row = judge_row(asked)
    T = judged_tokens(asked)
    execution = asked.execution(mesh, score.compute_dtype, score.attention, "none")
    stored = score_dtype(asked)
    if row.kind in GUARDS:
        weights = abstract.weights(llama.parameters(asked.model), mesh, stored, score.base)
        labels = table({"safe": (0,), "unsafe": (1,)})
        everywhere = meshes.sharding(mesh, ())
        judge: Any = (
            Model(asked.model, execution, weights, None, None),
            abstract.array(labels.shape, jnp.int32, everywhere),
        )
        function: Any = label_logprobs
    else:
        scorer = make_scorer(asked.model, T)
        judge = weights = abstract.weights(heads.parameters(scorer), mesh, stored, score.base)
        function = functools.partial(heads.packed_scores, scorer, execution=execution)
    batch = abstract.judged(mesh, choice.rows, T, max(1, T // TOKENS_A_TEXT))
    compiled = jax.jit(function, out_shardings=meshes.sharding(mesh, ()))
    parts, width = FlopParts.of(mesh.shape), number_bytes(execution)
    return [
        Program(
            name=f"judges {choice.rows} rows of {T:,} tokens",
            lower=lambda: compiled.lower(judge, *batch),
            arguments={
                "parameters": abstract.bytes_on_device(weights),
                "batch": abstract.bytes_on_device(batch),
            },
            held={},
            unknown_trips=(1,),
            load=formulas.reading(
                asked.model, parts, width=width, rows=choice.rows, row_tokens=T, outputs=True,
                dequantised=score.base != quantised.STORED,
            ),
            temporaries=formulas.passing(
                asked.model, parts, width=width, rows=choice.rows, row_tokens=T, keeps=False
            ),
            exchanged=formulas.exchanged(
                asked.model, parts, width=width, tokens=choice.rows * T, passes=1, repeats=1,
                reduced=0, kernel_bytes=kernel_bytes(asked.model, score.base, width),
            ),
        )
    ]  # fmt: skip


DECODING = StageProgram("written", choose_decoding, decoding_programs, lanes_setting)
JUDGING = StageProgram("judged", choose_judging, judging_programs, batch_setting)
