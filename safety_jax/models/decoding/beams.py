"""Beam search, with the same steps as `transformers` (`generate`, early_stopping=False).

Every prompt has one lane for each beam, in neighbouring lanes. A step ranks all continuations of a
prompt's beams by summed log-probability. The best ones that do not end become the next running
beams. Those among the first `beams` that end compete for the places of finished answers by
score / length ** length_penalty. A prompt is done when its best running beam, scored in the same
way, is no better than its worst finished answer.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from safety_jax.base import meshes
from safety_jax.models.decoding import attending, caches, filling, programs
from safety_jax.models.decoding.sampling import SamplingParams
from safety_jax.models.decoding.session import Completion, Session, rung
from safety_jax.models.model import Model

NEVER = -1e9  # a score that is never chosen


class Beams(NamedTuple):
    """The search of B prompts with N beams and answers of up to M tokens.

    Attributes:
        tokens: [B, N] read at the next step.
        running, scores: [B, N, M] and [B, N]: unfinished answers, and their log-probabilities.
        finished, final: the best finished answers, and their scores with length penalty.
        lengths, done: [B, N] the lengths of finished answers; whether a place has one.
        open: [B] whether a better answer may still be found.
        written: the number of tokens of every running answer.
    """

    tokens: Any
    running: Any
    scores: Any
    finished: Any
    final: Any
    lengths: Any
    done: Any
    open: Any
    written: Any


def start(last: np.ndarray, beams: int, most: int) -> Beams:
    """All beams before the first token. Only the first has a score, since all are equal."""
    B = len(last)
    scores = np.full((B, beams), NEVER, np.float32)
    scores[:, 0] = 0
    empty = np.zeros((B, beams, most), np.int32)
    return Beams(
        tokens=np.repeat(last[:, None], beams, axis=1).astype(np.int32),
        running=empty,
        scores=scores,
        finished=empty,
        final=np.full((B, beams), NEVER, np.float32),
        lengths=np.zeros((B, beams), np.int32),
        done=np.zeros((B, beams), bool),
        open=np.ones(B, bool),
        written=np.int32(0),
    )


def _pick(values: jax.Array, index: jax.Array) -> jax.Array:
    """The entries [B, N] of values [B, X, ...] along X."""
    return jax.vmap(lambda row, chosen: row[chosen])(values, index)


def advance(
    state: Beams,
    logprobs: Float[Array, "B N V"],
    eos_ids: tuple[int, ...],
    settings: SamplingParams,
) -> tuple[Beams, Int[Array, "B N"]]:
    """One step of the search. Returns the next state, and the parent of each running beam."""
    B, N, V = logprobs.shape
    total = (logprobs + state.scores[:, :, None]).reshape(B, -1)
    # Enough to leave N unfinished ones even if every beam's likeliest continuations all end it.
    scores, index = jax.lax.top_k(total, max(2, 1 + len(eos_ids)) * N)
    beam, token = index // V, (index % V).astype(jnp.int32)
    place = jnp.arange(settings.max_new_tokens) == state.written
    answers = jnp.where(place[None, None], token[:, :, None], _pick(state.running, beam))
    length = state.written + 1
    ends = (token[:, :, None] == jnp.asarray(eos_ids, jnp.int32)[None, None]).any(axis=-1)
    ends = ends | (length >= settings.max_new_tokens)

    going, order = jax.lax.top_k(jnp.where(ends, scores + NEVER, scores), N)
    scale = length.astype(jnp.float32) ** settings.length_penalty
    first = (jnp.arange(scores.shape[1]) < N)[None, :]
    may_enter = ends & first & state.open[:, None]
    entering = scores / scale + jnp.where(may_enter, 0.0, NEVER)
    final, kept = jax.lax.top_k(jnp.concatenate([state.final, entering], axis=1), N)
    finished = _pick(jnp.concatenate([state.finished, answers], axis=1), kept)
    lengths = jnp.concatenate([state.lengths, jnp.broadcast_to(length, ends.shape)], axis=1)
    done = _pick(jnp.concatenate([state.done, ends & first], axis=1), kept)

    best = going[:, :1] / scale
    worst = jnp.where(done, final.min(axis=1, keepdims=True), NEVER)
    still_open: Bool[Array, " B"] = state.open & (best > worst).any(axis=1)
    following = Beams(
        tokens=_pick(token, order),
        running=_pick(answers, order),
        scores=going,
        finished=finished,
        final=final,
        lengths=_pick(lengths, kept),
        done=done,
        open=still_open & (length < settings.max_new_tokens),
        written=length,
    )
    return following, _pick(beam, order)


@functools.partial(jax.jit, static_argnames=("settings", "eos_ids"), donate_argnames=("cache",))
def write_beams(
    model: Model,
    settings: SamplingParams,
    eos_ids: tuple[int, ...],
    cache: caches.Cache,
    state: Beams,
    seats: attending.Seats,
    steps: Int[Any, ""],
) -> tuple[caches.Cache, Beams]:
    """Searches for `steps` steps, or until no search is open. All running answers have the same
    length, which is therefore also the column of the ring."""
    B, N = state.tokens.shape

    def go_on(carry):
        _, state, done = carry
        return (done < steps) & state.open.any()

    def step(carry):
        cache, state, done = carry
        lanes = programs.Lanes(
            state.tokens.reshape(-1), jnp.full(B * N, state.written), jnp.ones(B * N, bool)
        )
        logits, cache = programs.next_logits(model, cache, seats, lanes, state.written)
        logprobs = jax.nn.log_softmax(logits).reshape(B, N, -1)
        column = state.written
        state, parents = advance(state, logprobs, eos_ids, settings)
        rows = (jnp.arange(B)[:, None] * N + parents).reshape(-1)
        return filling.follow(cache, rows, column, model.mesh), state, done + 1

    mesh = model.mesh
    cache, state, _ = jax.lax.while_loop(go_on, step, (cache, state, jnp.int32(0)))
    return cache, jax.tree.map(lambda x: meshes.constrain(x, mesh, (None,) * x.ndim), state)


def search(session: Session) -> list[list[Completion]]:
    """The best `settings.candidates` answers to every prompt, best first."""
    setup, prompts = session.setup, session.prompts
    parts = session.row_parts
    most = max(setup.pace.lanes // setup.settings.beams // parts, 1) * parts
    order = sorted(range(len(prompts)), key=lambda number: -len(prompts[number]))
    answers: list[list[Completion]] = [[] for _ in prompts]
    for first in range(0, len(order), most):
        numbers = order[first : first + most]
        state = _search(session, numbers, rung(len(numbers), most, parts))
        for row, number in enumerate(numbers):
            for beam in range(setup.settings.candidates):
                length = int(state.lengths[row, beam])
                score = float(state.final[row, beam]) * length**setup.settings.length_penalty
                ids = state.finished[row, beam, :length].tolist()
                answers[number].append(setup.complete(ids, score))
        session.bar.answered(len(numbers))
    return answers


def _search(session: Session, numbers: list[int], B: int) -> Beams:
    """Reads these prompts into B slots and searches until all are done."""
    setup, settings = session.setup, session.setup.settings
    N, chunk_steps = settings.beams, setup.pace.chunk_steps
    session.allocate(B * N, B)
    session.read(numbers, range(len(numbers)))
    last, lengths = np.zeros(B, np.int32), np.zeros(B, np.int32)
    last[: len(numbers)] = [session.prompts[number][-1] for number in numbers]
    lengths[: len(numbers)] = [session.in_slot(number) for number in numbers]
    rows = np.arange(B * N, dtype=np.int32)
    prefix = np.int32(session.prefix)
    seats = attending.Seats(rows // N, rows % N, rows.reshape(B, N), lengths, prefix)

    answered = np.resize(numbers, B)  # surplus rows may search with any adapter
    model = session.reading_of(np.repeat(answered, N))
    state = start(last, N, settings.max_new_tokens)
    state = state._replace(open=np.arange(B) < len(numbers))
    while state.open.any():
        written = int(state.written)
        session.cache, state = write_beams(
            model, settings, setup.eos_ids, session.cache, state, seats,
            np.int32(chunk_steps),
        )  # fmt: skip
        state = Beams(*map(np.asarray, state))
        broken = ~np.isfinite(state.scores[: len(numbers)]).all(axis=1)
        if broken.any():
            raise session.not_finite(numbers[int(np.argmax(broken))], int(state.written))
        session.bar.wrote(len(numbers) * (int(state.written) - written))
    return state
