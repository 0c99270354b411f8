"""Generates answers: prompts are read in batches, and lanes write tokens until all are answered.

    setup = generation.Setup(settings, pace, eos_ids, stop)
    answers = generation.generate(model, setup, prompts, prompt_ids, seed, "sampling")

The host loop gives free lanes to waiting candidates, runs a compiled chunk of steps, collects the
tokens, and repeats. The numbers of lanes and the lengths come from short ladders, so that a few
compiled programs serve all prompts and answers.

How decoding runs never changes an answer. A candidate's randomness is folded from (seed, prompt id,
candidate, position), so its answer is the same alone, in any batch, in any lane and on any mesh, up
to the rounding of logits. Several processes run the same loop on the same prompts and see the same
tokens.
"""

import collections
import math
from collections.abc import Sequence

import jax
import numpy as np

from safety_jax.base.errors import DataError, NotFiniteError
from safety_jax.models import llama
from safety_jax.models.decoding import attending, beams, layout, programs
from safety_jax.models.decoding.ends import Stop
from safety_jax.models.decoding.sampling import SamplingParams
from safety_jax.models.decoding.session import (
    Completion,
    DecodingProgress,
    Pace,
    Session,
    Setup,
    bucket,
    rung,
)
from safety_jax.models.model import Model

__all__ = ["Completion", "Pace", "SamplingParams", "Setup", "Stop", "bucket", "generate"]

# Candidates of a prompt end at different times, so more than lanes / candidates prompts are open.
PROMPTS_PER_FULL_PROMPT = 2
# With one candidate, lanes / AHEAD_SHARE more prompts are read ahead of time, to fill whole rows.
AHEAD_SHARE = 4
# The host refills lanes as soon as one in REFILL_SHARE has finished.
REFILL_SHARE = 16


def generate(
    model: Model,
    setup: Setup,
    prompts: Sequence[Sequence[int]],
    prompt_ids: Sequence[int],
    seed: int,
    progress: str | None,
    speakers: Sequence[int] | None = None,
) -> list[list[Completion]]:
    """`settings.candidates` answers to each prompt, in the order of the prompts.

    Args:
        model: if its weights have the layout of training, they are copied (`layout`); lay the model
            out yourself before several calls.
        prompts: token ids, including begin-of-sequence.
        prompt_ids: numbers from 0 to 2^32 - 1, from which the randomness of each prompt is folded.
        progress: title of a progress bar on process 0; None for no bar.
        speakers: for a model with several adapters (`multi_lora.stack`), the number of the adapter
            that answers each prompt.

    Raises:
        ConfigError: settings or a pace that cannot be used.
        DataError: a prompt is empty, or has an id outside the vocabulary.
        NotFiniteError: the model's logits are not finite.
    """
    model = layout.copied(model)
    setup.check(model.mesh)
    vocabulary = model.config.vocabulary_size
    for number, prompt in zip(prompt_ids, prompts, strict=True):
        if not prompt or min(prompt) < 0 or max(prompt) >= vocabulary:
            raise DataError(
                f"prompt {number} has {len(prompt)} tokens: expected at least one, each from 0 to "
                f"{vocabulary - 1}; use the model's own tokenizer"
            )
        _check_frequencies(model.config, number, len(prompt), setup.settings.max_new_tokens)
    if not prompts:
        return []
    bar = DecodingProgress(len(prompts), progress)
    try:
        session = Session(model, setup, prompts, bar, speakers)
        if setup.settings.beams > 1:
            return beams.search(session)
        return _Sampling(session, prompt_ids, seed).run()
    except NotFiniteError as error:
        raise NotFiniteError(f"{progress}: {error}" if progress else str(error)) from error
    finally:
        bar.close()


def _check_frequencies(
    config: llama.LlamaConfig, number: int, prompt_tokens: int, new_tokens: int
) -> None:
    """Raises a DataError if rotary frequencies would change within an answer: the cached keys would
    have been rotated by other frequencies than later keys."""
    limit = config.frequencies_change_beyond
    if limit is not None and prompt_tokens + new_tokens - 1 > limit:
        raise DataError(
            f"prompt {number} has {prompt_tokens} tokens, and its answer may have {new_tokens}: "
            f"this model's rotary frequencies change beyond {limit} tokens, so both together may "
            "have at most that many; shorten the prompt or the answer"
        )


def prompt_slots(lanes: int, candidates: int, row_parts: int, *, waiting: bool) -> int:
    """P: enough slots for the prompts that R lanes answer at the same time, and a few more if other
    prompts are waiting."""
    if candidates > 1:
        most = min(math.ceil(PROMPTS_PER_FULL_PROMPT * lanes / candidates), lanes)
    else:
        most = lanes + (math.ceil(lanes / AHEAD_SHARE) if waiting else 0)
    return math.ceil(most / row_parts) * row_parts


class _Sampling:
    """The host's bookkeeping of lanes and slots while candidates are sampled."""

    def __init__(self, session: Session, prompt_ids: Sequence[int], seed: int):
        self.session, self.setup, self.prompt_ids = session, session.setup, prompt_ids
        self.seed = np.asarray(jax.random.key_data(jax.random.key(seed, impl="threefry2x32")))
        settings, parts = self.setup.settings, session.row_parts
        count, self.C = len(session.prompts), settings.candidates
        # Longest first: if memory is too small, this shows at once, and slots only get shorter.
        order = sorted(range(count), key=lambda number: -len(session.prompts[number]))
        self.waiting = collections.deque(order)
        self.ready: collections.deque[tuple[int, int]] = collections.deque()  # slot, candidate
        self.answers: list[list[Completion | None]] = [[None] * self.C for _ in order]

        R = rung(count * self.C, self.setup.pace.lanes, parts)
        session.allocate(R, self._slots_for(R))
        self.column = 0
        self._clear(R, self._slots_for(R))

    def _clear(self, R: int, P: int) -> None:
        # For each lane: the candidate that it answers, and what it has written.
        self.owner: list[tuple[int, int] | None] = [None] * R
        self.written: list[list[int]] = [[] for _ in range(R)]
        self.logprobs: list[list[float]] = [[] for _ in range(R)]
        self.slot_of = np.zeros(R, np.int32)
        self.seat_of = np.zeros(R, np.int32)
        # For each slot: its prompt (-1: free), its unanswered candidates, the lane on each seat.
        self.prompt_in = np.full(P, -1)
        self.open = np.zeros(P, int)
        self.lane_on = np.full((P, self.C), -1)

    def _slots_for(self, lanes: int) -> int:
        waiting = len(self.waiting) * self.C > lanes
        return prompt_slots(lanes, self.C, self.session.row_parts, waiting=waiting)

    def run(self) -> list[list[Completion]]:
        while True:
            self._seat()
            if not any(self.owner):
                break
            self._fit()
            self._collect(self._write())
        found = []
        for answers in self.answers:
            found.append([answer for answer in answers if answer is not None])
        return found

    # ------------------------------------------------------------------------ lanes and slots

    def _seat(self) -> None:
        """Gives free lanes to waiting candidates, and reads their prompts if necessary."""
        for lane, owner in enumerate(self.owner):
            if owner is not None:
                continue
            if not self.ready:
                self._read()
            if not self.ready:
                return
            slot, candidate = self.ready.popleft()
            seat = int(np.flatnonzero(self.lane_on[slot] < 0)[0])
            self.owner[lane] = (int(self.prompt_in[slot]), candidate)
            self.written[lane], self.logprobs[lane] = [], []
            self.slot_of[lane], self.seat_of[lane] = slot, seat
            self.lane_on[slot, seat] = lane

    def _read(self) -> None:
        free = np.flatnonzero(self.prompt_in < 0)
        slots = [int(slot) for slot in free[: len(self.waiting)]]
        if not slots:
            return
        numbers = [self.waiting.popleft() for _ in slots]
        self.session.read(numbers, slots)
        self.prompt_in[slots], self.open[slots] = numbers, self.C
        self.ready.extend((slot, candidate) for slot in slots for candidate in range(self.C))

    def _fit(self) -> None:
        """Continues with fewer lanes if these are enough for the answers that are left."""
        now, parts = self.session.sizes, self.session.row_parts
        assert now is not None
        if self.waiting or self.ready:
            return
        alive = [lane for lane, owner in enumerate(self.owner) if owner is not None]
        live = [int(slot) for slot in np.flatnonzero(self.prompt_in >= 0)]
        R = rung(len(alive), self.setup.pace.lanes, parts)
        while R < now.lanes and self._slots_for(R) < len(live):
            R *= 2
        if R < now.lanes:
            P = self._slots_for(R)
            lanes = np.array(alive + [0] * (R - len(alive)), np.int32)
            slots = np.array(live + [0] * (P - len(live)), np.int32)
            self.session.rearrange(lanes, slots)
            self._renumber(R, P, alive, live)

    def _renumber(self, R: int, P: int, alive: list[int], live: list[int]) -> None:
        owner, written, logprobs = self.owner, self.written, self.logprobs
        slot_of, seat_of = self.slot_of, self.seat_of
        prompt_in, still_open = self.prompt_in, self.open
        self._clear(R, P)
        self.prompt_in[: len(live)], self.open[: len(live)] = prompt_in[live], still_open[live]
        for lane, old in enumerate(alive):
            self.owner[lane] = owner[old]
            self.written[lane], self.logprobs[lane] = written[old], logprobs[old]
            slot, seat = live.index(slot_of[old]), seat_of[old]
            self.slot_of[lane], self.seat_of[lane] = slot, seat
            self.lane_on[slot, seat] = lane

    # ------------------------------------------------------------------------ steps

    def _write(self) -> programs.DecodedChunk:
        sizes, settings = self.session.sizes, self.setup.settings
        assert sizes is not None
        prompts = self.session.prompts
        alive = np.array([owner is not None for owner in self.owner])
        model = self.session.reading_of(np.array([o[0] if o else 0 for o in self.owner]))
        tokens, names = np.zeros(sizes.lanes, np.int32), np.zeros((sizes.lanes, 2), np.uint32)
        for lane, owner in enumerate(self.owner):
            if owner is not None:
                number, candidate = owner
                tokens[lane] = [*prompts[number][-1:], *self.written[lane]][-1]
                names[lane] = self.prompt_ids[number], candidate
        lengths = [self.session.in_slot(n) if n >= 0 else 0 for n in self.prompt_in.tolist()]
        seats = attending.Seats(
            self.slot_of, self.seat_of, np.maximum(self.lane_on, 0).astype(np.int32),
            np.array(lengths, np.int32), np.int32(self.session.prefix),
        )  # fmt: skip
        counts = np.array([len(ids) for ids in self.written], np.int32)
        lanes = programs.Lanes(tokens, counts, alive)
        self.session.cache, wrote = programs.write_tokens(
            model, settings.drawing, self.setup.eos_ids, self.setup.pace.chunk_steps,
            self.session.cache, self._history(), lanes, seats, self.seed, names,
            np.int32(settings.max_new_tokens), np.int32(self.column),
            np.int32(self._enough(alive)),
        )  # fmt: skip
        steps = int(wrote.steps)
        self.column += steps
        return programs.DecodedChunk(
            np.asarray(wrote.ids)[:, :steps], np.asarray(wrote.logprobs)[:, :steps], steps
        )

    def _history(self) -> np.ndarray:
        """The token that each lane read in each column of the ring; empty without a penalty."""
        assert self.session.sizes is not None
        R, W = self.session.sizes.lanes, self.session.sizes.own_tokens
        if not self.setup.settings.frequency_penalty:
            return np.zeros((R, 0), np.int32)
        history = np.zeros((R, W), np.int32)
        for lane, ids in enumerate(self.written):
            read = np.array(ids[:-1][-W:], np.int32)  # the newest is read at the next step
            columns = (self.column - 1 - np.arange(len(read))) % W
            history[lane, columns] = read[::-1]
        return history

    def _enough(self, alive: np.ndarray) -> int:
        """How many lanes may finish before the host has to act."""
        count, R = int(alive.sum()), len(alive)
        if self.waiting or self.ready:
            return min(count, max(1, R // REFILL_SHARE))
        smaller = rung(0, self.setup.pace.lanes, self.session.row_parts)
        return count - R // 2 if count > R // 2 >= smaller else count

    def _collect(self, wrote: programs.DecodedChunk) -> None:
        before = len(self.prompt_in) - int((self.prompt_in < 0).sum())
        for lane, owner in enumerate(self.owner):
            if owner is None:
                continue
            fresh = wrote.ids[lane][wrote.ids[lane] >= 0]
            seen = len(self.written[lane])
            logprobs = wrote.logprobs[lane][: len(fresh)]
            if not np.isfinite(logprobs).all():  # NaN as soon as one logit is NaN or infinite
                token = seen + 1 + int(np.argmin(np.isfinite(logprobs)))
                raise self.session.not_finite(self.prompt_ids[owner[0]], token)
            self.written[lane] += fresh.tolist()
            self.logprobs[lane] += logprobs.tolist()
            answer = self._finished(lane, seen)
            if answer is not None:
                number, candidate = owner
                self.answers[number][candidate] = answer
                self._free(lane)
        after = len(self.prompt_in) - int((self.prompt_in < 0).sum())
        self.session.bar.wrote(int((wrote.ids >= 0).sum()))
        self.session.bar.answered(before - after)

    def _finished(self, lane: int, seen: int) -> Completion | None:
        ids, logprobs, stop = self.written[lane], self.logprobs[lane], self.setup.stop
        ended = ids[-1] in self.setup.eos_ids
        found = None if stop is None else stop.cut(ids[: len(ids) - ended], seen)
        if found is not None:
            count, text = found
            return Completion(ids[:count], math.fsum(logprobs[:count]), "stop", text)
        if ended or len(ids) >= self.setup.settings.max_new_tokens:
            return self.setup.complete(ids, math.fsum(logprobs))
        return None

    def _free(self, lane: int) -> None:
        slot = self.slot_of[lane]
        self.owner[lane] = None
        self.lane_on[slot, self.seat_of[lane]] = -1
        self.open[slot] -= 1
        if not self.open[slot]:
            self.prompt_in[slot] = -1
