"""The state of one call of `generation.generate`: its setup, its prompts, and its device arrays.

The two host loops (`generation` for sampling, `beams` for search) decide which slot a prompt gets
and which lanes answer it. This module reads prompts into the arrays and reorders them.
"""

import dataclasses
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import tqdm
from jax.sharding import Mesh
from jax.typing import DTypeLike

from safety_jax.base import meshes
from safety_jax.base.errors import ConfigError, NotFiniteError
from safety_jax.models import finite, multi_lora
from safety_jax.models.decoding import caches, filling, programs, reading
from safety_jax.models.decoding.ends import Stop
from safety_jax.models.decoding.sampling import SamplingParams
from safety_jax.models.model import Model


@dataclasses.dataclass(frozen=True)
class Pace:
    """How decoding runs. It never changes the answers.

    Attributes:
        lanes: the most answers that are written at the same time.
        prefill_tokens: prompt tokens that are read at the same time by each of the devices among
            which rows are divided.
        bucket_tokens: the shortest compiled length of prompts; each next length is twice as long.
            The length of answers is a multiple of it. Attention visits only filled blocks, so a
            length that is too long costs only memory.
        chunk_steps: the most steps before the host looks at the lanes again.
        cache_dtype: of keys and values; int8 has 255 steps, see `caches.Codes`.
    """

    lanes: int
    prefill_tokens: int
    bucket_tokens: int
    chunk_steps: int
    cache_dtype: DTypeLike

    def check(self, row_parts: int) -> None:
        """Raises a ConfigError for a pace that cannot be used, or not on `row_parts` devices."""
        if self.lanes < 1 or self.lanes % row_parts:
            raise ConfigError(
                f"lanes {self.lanes} does not divide over mesh {' x '.join(meshes.RULES['rows'])} "
                f"= {row_parts}; make it a multiple of {row_parts}"
            )
        for name in ("prefill_tokens", "bucket_tokens", "chunk_steps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} {getattr(self, name)}: expected 1 or more")


@dataclasses.dataclass(frozen=True)
class Completion:
    """One answer.

    Attributes:
        ids: its tokens, including the end-of-sequence token if the model generated one.
        logprobs_sum: log-probability of `ids` under the unmodified model.
        finish: "eos", "stop" or "length".
        text: up to a stop string; None without a `Stop` to decode it.
    """

    ids: list[int]
    logprobs_sum: float
    finish: str
    text: str | None


@dataclasses.dataclass(frozen=True)
class Setup:
    """How answers are chosen, how decoding runs, and where answers end.

    Attributes:
        eos_ids: tokens that end an answer.
        stop: strings that end an answer, searched for between chunks; with None, no string ends an
            answer, and answers are not decoded to text.
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


# As answers finish, the number of lanes is halved, down to this share: each number is compiled.
SMALLEST_SHARE = 4
# Tokens in a block of the caches. Attention visits whole blocks; accelerators work on whole tiles.
BLOCK_TOKENS = {"cpu": 32, "gpu": 64, "tpu": 128}
# The shortest compiled prefix, as a multiple of the shortest prompt: a template, a system prompt.
PREFIX_BUCKETS = 2


def rung(needed: int, most: int, parts: int) -> int:
    """The smallest of `most`, its half and its quarter that is at least `needed`."""
    size = most
    while size % (2 * parts) == 0 and size // 2 >= max(needed, most // SMALLEST_SHARE):
        size //= 2
    return size


_rearrange = jax.jit(filling.rearrange, static_argnames=("mesh",))


class Session:
    """The device arrays of one call.

    A prompt's last token is not read with the others. Its lanes read it as their first token, so
    that the first token of an answer is computed by the same step as all others.

    Attributes:
        prefix: the length of the prefix that all prompts share; 0 if several adapters answer,
            because each of them computes other keys and values for the same tokens.
    """

    def __init__(
        self,
        model: Model,
        setup: Setup,
        prompts: Sequence[Sequence[int]],
        bar: DecodingProgress,
        speakers: Sequence[int] | None,
    ):
        self.setup, self.prompts, self.bar = setup, prompts, bar
        self.model = model.bare
        self.prefix = 0
        if speakers is None:
            self.prefix = reading.shared(prompts, self.row_parts * setup.pace.prefill_tokens)
        self._speakers = None if speakers is None else np.asarray(speakers, np.int32)
        self.sizes: caches.CacheSizes | None = None
        self.cache: Any = ()

    @property
    def row_parts(self) -> int:
        """The numbers of lanes, of prompt slots and of rows are multiples of this."""
        return meshes.row_parts(self.model.mesh)

    def reading_of(self, numbers: np.ndarray) -> Model:
        """The model for tokens of prompts with these numbers, each with its prompt's adapter."""
        if self._speakers is None or self.model.adapters is None:
            return self.model
        adapters = multi_lora.assign(self.model.adapters, self._speakers[numbers.reshape(-1)])
        return dataclasses.replace(self.model, adapters=adapters)

    def not_finite(self, prompt: int, token: int) -> NotFiniteError:
        """The error for logits that are not finite at a token of an answer."""
        where = finite.origin(self.model.weights, str(self.model.execution.compute_dtype))
        return NotFiniteError(
            f"the logits are not finite at token {token} of the answer to prompt {prompt}: {where}"
        )

    def allocate(self, lanes: int, slots: int) -> caches.CacheSizes:
        """Allocates caches with room for the longest prompt and answer, and reads the prefix."""
        model, pace = self.model, self.setup.pace
        longest = max(map(len, self.prompts)) - 1
        self.sizes = cache_sizes(
            self.setup, model.mesh, lanes, slots, self.prefix, longest - self.prefix
        )
        self.cache = caches.allocate(model.config, self.sizes, pace.cache_dtype, model.mesh)
        shared = self.prompts[0][: self.prefix]
        self._read(reading.pack_prefix(shared, self.sizes, self.row_parts, pace.prefill_tokens), {})
        return self.sizes

    def rearrange(self, lanes: np.ndarray, prompts: np.ndarray) -> None:
        """Keeps these lanes and prompt slots of the arrays, in this order."""
        assert self.sizes is not None
        self.cache = _rearrange(self.cache, lanes, prompts, self.model.mesh)
        self.sizes = self.sizes._replace(lanes=len(lanes), prompts=len(prompts))

    def read(self, numbers: Sequence[int], slots: Sequence[int]) -> None:
        """Reads prompts into their slots."""
        assert self.sizes is not None
        some = [
            (slot, self.prompts[number][self.prefix : -1])
            for number, slot in zip(numbers, slots, strict=True)
        ]
        self._read(
            reading.pack(
                some, self.prefix, self.sizes, self.row_parts, self.setup.pace.prefill_tokens
            ),
            dict(zip(slots, numbers, strict=True)),
        )

    def _read(self, batches: Iterable[reading.PromptRows], prompts: Mapping[int, int]) -> None:
        """Args: prompts: for each slot, the number of the prompt that is read into it."""
        assert self.sizes is not None
        numbers = np.zeros(self.sizes.prompts + 1, np.int32)  # the last is for padding
        numbers[list(prompts)] = list(prompts.values())
        for rows in batches:
            model = self.reading_of(numbers[rows.to.slots])
            self.cache = programs.read_prompts(model, self.cache, rows)

    def in_slot(self, number: int) -> int:
        """The number of tokens that a prompt has in its slot."""
        return len(self.prompts[number]) - 1 - self.prefix


def cache_sizes(
    setup: Setup, mesh: Mesh, lanes: int, slots: int, prefix: int, longest: int
) -> caches.CacheSizes:
    """All lengths that programs depend on.

    Args:
        prefix: the length of the shared prefix.
        longest: the most tokens that a slot has to hold.
    """
    smallest = setup.pace.bucket_tokens
    block = BLOCK_TOKENS.get(mesh.devices.flat[0].platform, smallest)
    return caches.CacheSizes(
        lanes=lanes,
        prompts=slots,
        prefix_tokens=bucket(prefix, PREFIX_BUCKETS * smallest),
        prompt_tokens=bucket(longest, smallest),
        own_tokens=-(-setup.settings.max_new_tokens // smallest) * smallest,
        block_tokens=block if smallest % block == 0 else smallest,
    )
