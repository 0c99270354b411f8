"""Programs of a run that have no backward pass: sampling of `raft`, judging of `score`.

See `planned.py`.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from safety_jax import mesh as meshes
from safety_jax import policy
from safety_jax.errors import ConfigError
from safety_jax.models import cache as caches
from safety_jax.models import decode, heads, llama, llama_heads
from safety_jax.planning import abstract, decoding, formulas, layouts
from safety_jax.planning.programs import Program
from safety_jax.scoring import guard
from safety_jax.scoring.planned import max_tokens
from safety_jax.stages import answering
from safety_jax.stages.planned import (
    Asked,
    Choice,
    Planned,
    base_dtype,
    chosen,
    make_policy,
    number_bytes,
)

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
    return chosen(asked, sizes, lanes, max(lanes, most))


def decoding_programs(asked: Asked, choice: Choice) -> list[Program]:
    """Sampling of stage `raft`: prompts are read, then a token is written in every lane.

    The longest prompts that the config allows, and caches for the longest answers.
    """
    config, mesh = asked.config, asked.mesh(choice.mesh)
    trained = make_policy(asked, mesh)
    run = dataclasses.replace(trained.run)
    settings = answering.read_settings(config.sample)
    parts = formulas.Parts.of(mesh.shape)
    pace = dataclasses.replace(answering.read_pace(config.sample), lanes=choice.rows)
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
    width, cache_width = number_bytes(run), jnp.dtype(pace.cache_dtype).itemsize
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
    parts, width = formulas.Parts.of(mesh.shape), number_bytes(run)
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


DECODING = Planned("written", choose_decoding, decoding_programs)
JUDGING = Planned("judged", choose_judging, judging_programs)
