"""What one call of `generation.generate` holds: setup, caches on the device, prompts to answer.

The two host loops (`generation` samples, `beams` searches) decide which prompt lies in which slot
and which lane answers it; the arrays are moved here.
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
    """How decoding runs, never what it answers.

    Attributes:
        lanes: answers written at the same time, at most.
        prefill_tokens: tokens of prompts read at the same time, by each of the devices that share
            out rows.
        bucket_tokens: the shortest compiled length of prompts, each next is twice as long; answers
            have a multiple. Attention visits what is filled, so that long ones cost only memory.
        chunk_steps: steps between two looks of the host, at most.
        cache_dtype: of keys and values; int8 holds them in 255 steps, see `caches.Codes`.
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


# Lanes are halved while fewer answers are left, down to this share: each number is compiled.
SMALLEST_SHARE = 4
# Tokens of a block of the caches: attention visits whole blocks, accelerators whole tiles.
BLOCK_TOKENS = {"cpu": 32, "gpu": 64, "tpu": 128}
# The shortest prefix, in the shortest lengths of prompts: of a template and a system prompt.
PREFIX_BUCKETS = 2


def rung(needed: int, most: int, parts: int) -> int:
    """The fewest rows that hold `needed`, of `most`, its half and its quarter."""
    size = most
    while size % (2 * parts) == 0 and size // 2 >= max(needed, most // SMALLEST_SHARE):
        size //= 2
    return size


_rearrange = jax.jit(filling.rearrange, static_argnames=("mesh",))


class Session:
    """The arrays of one call.

    A prompt's last token is not read with the others: its lanes read it as their first, so that
    the logits of the first token of an answer come from the same step as all others.

    Attributes:
        prefix: tokens that all prompts begin with; none where several adapters answer, to each of
            which they are other keys and values.
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
        """Lanes, prompt slots and rows read at once are multiples of this."""
        return meshes.row_parts(self.model.mesh)

    def reading_of(self, numbers: np.ndarray) -> Model:
        """The model for tokens of the prompts of these numbers: each with its prompt's adapter."""
        if self._speakers is None or self.model.adapters is None:
            return self.model
        adapters = multi_lora.assign(self.model.adapters, self._speakers[numbers.reshape(-1)])
        return dataclasses.replace(self.model, adapters=adapters)

    def not_finite(self, prompt: int, token: int) -> NotFiniteError:
        """The error of logits that are not finite, where an answer's token was to be chosen."""
        where = finite.origin(self.model.weights, str(self.model.execution.compute_dtype))
        return NotFiniteError(
            f"the logits are not finite at token {token} of the answer to prompt {prompt}: {where}"
        )

    def allocate(self, lanes: int, slots: int) -> caches.CacheSizes:
        """Empty caches with room for the longest prompt and answer; reads the prefix."""
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
        """Arrays of these lanes and prompt slots of the old ones."""
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
        """Args: prompts: of each slot, the number of the prompt that is read into it."""
        assert self.sizes is not None
        numbers = np.zeros(self.sizes.prompts + 1, np.int32)  # the last is of padding
        numbers[list(prompts)] = list(prompts.values())
        for rows in batches:
            model = self.reading_of(numbers[rows.to.slots])
            self.cache = programs.read_prompts(model, self.cache, rows)

    def in_slot(self, number: int) -> int:
        """Tokens of a prompt that its slot holds."""
        return len(self.prompts[number]) - 1 - self.prefix


def cache_sizes(
    setup: Setup, mesh: Mesh, lanes: int, slots: int, prefix: int, longest: int
) -> caches.CacheSizes:
    """Every length that programs depend on.

    Args:
        prefix: tokens that all prompts begin with.
        longest: tokens of a slot that are needed.
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
