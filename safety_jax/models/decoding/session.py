"""What one call of `generation.generate` holds: setup, caches on the device, prompts to answer.

The two host loops (`generation` samples, `beams` searches) decide which prompt lies in which slot
and which lane answers it; the arrays are moved here.
"""

import dataclasses
import time
from collections.abc import Sequence

import jax
import numpy as np
import tqdm
from jax.sharding import Mesh
from jax.typing import DTypeLike

from safety_jax.base import meshes
from safety_jax.base.errors import ConfigError, NotFiniteError
from safety_jax.models import finite
from safety_jax.models.decoding import caches, programs
from safety_jax.models.decoding.ends import Stop
from safety_jax.models.decoding.sampling import SamplingParams
from safety_jax.models.decoding.unrolled import unroll
from safety_jax.models.model import Model


@dataclasses.dataclass(frozen=True)
class Pace:
    """How decoding runs, never what it answers.

    Attributes:
        lanes: answers written at the same time, at most.
        prefill_prompts: prompts read at the same time, at most.
        bucket_tokens: the shortest compiled length of prompts and of answers; each next is twice
            as long. Short buckets save work, long ones compilations.
        chunk_steps: steps between two looks of the host, at most.
        cache_dtype: of keys and values.
    """

    lanes: int
    prefill_prompts: int
    bucket_tokens: int
    chunk_steps: int
    cache_dtype: DTypeLike

    def check(self, row_parts: int) -> None:
        """Raises a ConfigError for a pace that cannot be used, or not on so many devices."""
        for name in ("lanes", "prefill_prompts"):
            size = getattr(self, name)
            if size < 1 or size % row_parts:
                raise ConfigError(
                    f"{name} {size} does not divide over mesh {' x '.join(meshes.RULES['rows'])} = "
                    f"{row_parts}; make it a multiple of {row_parts}"
                )
        for name in ("bucket_tokens", "chunk_steps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} {getattr(self, name)}: expected 1 or more")


@dataclasses.dataclass(frozen=True)
class Completion:
    """One answer.

    Attributes:
        ids: its tokens, the end-of-sequence token included where the model gave one.
        logprobs_sum: log-probability of `ids` under the unmodified model.
        finish: "eos", "stop" or "length".
        text: cut before a stop string; None without a `Stop` to read it.
    """

    ids: list[int]
    logprobs_sum: float
    finish: str
    text: str | None


@dataclasses.dataclass(frozen=True)
class Setup:
    """What is asked of a model, and how it is answered.

    Attributes:
        eos_ids: tokens that end an answer.
        stop: strings that do, looked for between chunks; None neither stops nor reads answers.
    """

    settings: SamplingParams
    pace: Pace
    eos_ids: tuple[int, ...]
    stop: Stop | None

    def check(self, mesh: Mesh) -> None:
        """Raises a ConfigError for settings or a pace that cannot be used, or not on this mesh."""
        self.settings.check()
        self.pace.check(meshes.row_parts(mesh))
        if (
            self.settings.beams > 1
            and self.stop is not None
            and (self.stop.strings or self.stop.spelled)
        ):
            raise ConfigError(
                f"stop strings with {self.settings.beams} beams: beam search ends at token ids "
                "only; leave the strings out, or set beams to 1"
            )

    def complete(self, ids: list[int], logprobs_sum: float) -> Completion:
        """An answer that no stop string ended."""
        ended = bool(ids) and ids[-1] in self.eos_ids
        text = None if self.stop is None else self.stop.read(ids, self.eos_ids)
        return Completion(ids, logprobs_sum, "eos" if ended else "length", text)


def bucket(size: int, smallest: int) -> int:
    """The first of smallest, 2 · smallest, 4 · smallest, ... that holds `size`."""
    while smallest < size:
        smallest *= 2
    return smallest


class DecodingProgress:
    """A bar on process 0: prompts answered and left, new tokens per second."""

    def __init__(self, prompts: int, title: str | None):
        hidden = title is None or jax.process_index() != 0
        self._bar = tqdm.tqdm(total=prompts, desc=title, unit=" prompts", disable=hidden)
        self._tokens, self._began = 0, time.perf_counter()

    def wrote(self, tokens: int) -> None:
        self._tokens += tokens
        rate = self._tokens / (time.perf_counter() - self._began)
        self._bar.set_postfix_str(f"{rate:,.0f} tokens/s")

    def answered(self, prompts: int) -> None:
        self._bar.update(prompts)

    def close(self) -> None:
        self._bar.close()


_rearrange = jax.jit(caches.rearrange, static_argnames=("prompt_tokens", "mesh"))


class Session:
    """The arrays of one call.

    A prompt's last token is not read with the others: its lanes read it as their first, so that
    the logits of the first token of an answer come from the same step as all others.
    """

    def __init__(
        self,
        model: Model,
        setup: Setup,
        prompts: Sequence[Sequence[int]],
        bar: DecodingProgress,
    ):
        self.setup, self.prompts, self.bar = setup, prompts, bar
        self.model = model.bare
        self.unrolled = unroll(self.model)
        self.sizes: caches.CacheSizes | None = None
        self.cache: caches.Cache = ()

    @property
    def row_parts(self) -> int:
        """Lanes, prompt slots and prompts read at once are multiples of this."""
        return meshes.row_parts(self.model.mesh)

    def not_finite(self, prompt: int, token: int) -> NotFiniteError:
        """The error of logits that are not finite, where an answer's token was to be chosen."""
        where = finite.origin(self.model.weights, str(self.model.execution.compute_dtype))
        return NotFiniteError(
            f"the logits are not finite at token {token} of the answer to prompt {prompt}: {where}"
        )

    def prompt_tokens(self, longest: int) -> int:
        """The capacity S of slots whose longest prompt has so many tokens."""
        return bucket(longest - 1, self.setup.pace.bucket_tokens)

    def own_tokens(self, needed: int) -> int:
        """The capacity W of lanes that write so many tokens."""
        most = self.setup.settings.max_new_tokens
        return min(bucket(min(needed, most), self.setup.pace.bucket_tokens), most)

    def allocate(self, sizes: caches.CacheSizes) -> None:
        model, dtype = self.model, self.setup.pace.cache_dtype
        self.sizes = sizes
        self.cache = caches.allocate(model.config, sizes, dtype, model.mesh)

    def rearrange(
        self, sizes: caches.CacheSizes, lanes: np.ndarray, prompts: np.ndarray, columns: np.ndarray
    ) -> None:
        """Other sizes, with these lanes, prompt slots and ring columns of the old arrays."""
        self.cache = _rearrange(
            self.cache, lanes, prompts, columns, sizes.prompt_tokens, self.model.mesh
        )
        self.sizes = sizes

    def read(self, numbers: Sequence[int], slots: Sequence[int]) -> None:
        """Reads at most `prefill_prompts` prompts into their slots."""
        assert self.sizes is not None
        rows = min(bucket(len(numbers), self.row_parts), self.setup.pace.prefill_prompts)
        longest = max(len(self.prompts[number]) for number in numbers)
        ids = np.zeros((rows, self.prompt_tokens(longest)), np.int32)
        lengths = np.zeros(rows, np.int32)
        places = np.full(rows, self.sizes.prompts, np.int32)  # beyond the last: dropped
        for row, (number, slot) in enumerate(zip(numbers, slots, strict=True)):
            kept = self.prompts[number][:-1]
            ids[row, : len(kept)], lengths[row], places[row] = kept, len(kept), slot
        self.cache = programs.read_prompts(self.model, self.cache, ids, lengths, places)
