"""Models that answer in a stage, and how they decode, from a config's groups."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import DTypeLike
from ml_collections import ConfigDict
from transformers import PreTrainedTokenizerBase

from safety_jax.base import files
from safety_jax.base.errors import ConfigError, NotFiniteError, few
from safety_jax.data import thoughts
from safety_jax.models import finite, multi_lora
from safety_jax.models.decoding import generation
from safety_jax.models.decoding.ends import endings
from safety_jax.models.execution import float_type
from safety_jax.models.folders.model_folder import KERNELS, ModelFolder, open_model
from safety_jax.models.llama import parameters
from safety_jax.models.model import Model


def open_speaker(config: ConfigDict, path: str, mesh: Mesh) -> ModelFolder:
    """A model that answers and is not trained: checked, its weights not yet read.

    Raises:
        ConfigError, CheckpointError: as `model_folder.open_model`.
    """
    return open_model(
        path,
        mesh,
        own_tokenizer=config.model.tokenizer,
        kernels=config.model.base,
        compute_dtype=float_type("model.compute_dtype", config.model.compute_dtype),
        backend=config.model.attention,
        remat="none",
    )


def other_bases(opened: Mapping[str, ModelFolder]) -> list[str]:
    """A sentence for each adapter that a run here trained on other kernels than it answers on."""
    found = []
    for name, one in opened.items():
        trained = None if one.adapter is None else _trained_on(one.adapter)
        if trained not in (None, one.kernels):
            found.append(
                f"note: {name} was trained on a base held as {trained}, and answers on one held as "
                f"{one.kernels}; to ask it on what it learned on: {one.path}"
                f"{'&' if '?' in one.path else '?'}base={trained}"
            )
    return found


def other_templates(opened: Mapping[str, ModelFolder], asked: str) -> list[str]:
    """Sentences on models that are asked with another template than they were tuned with: what a
    run here recorded beside its export, else the chat template of the tokenizer.

    Args:
        asked: the template of this evaluation, `data.template`.
    """
    tuned: dict[str, list[str]] = {}
    for name, one in opened.items():
        own = _recorded(one.adapter or one.folder, "data", "template")
        why = f"trained with the template {own}"
        if own is None and one.tokenizer.chat_template:
            own, why = "chat", "made with a chat template"
        if own not in (None, asked):
            tuned.setdefault(f"{why}, and asked with {asked}: data.template={own}", []).append(name)
    return [
        f"note: {few(names, 6)} {'were' if len(names) > 1 else 'was'} {what} asks as in tuning"
        for what, names in tuned.items()
    ]


def _trained_on(adapter: Path) -> str | None:
    """What a run of this framework held its base as."""
    base = _recorded(adapter, "model", "base")
    return base if base in KERNELS else None


def _recorded(export: Path, group: str, key: str) -> str | None:
    """A value of the config of the run that exported a folder, which lies beside it."""
    try:
        values = files.read_object(export.parent / "config.json", ConfigError, "").get(group)
    except (OSError, ConfigError):
        return None
    value = values.get(key) if isinstance(values, dict) else None
    return value if isinstance(value, str) else None


def make_setup(
    group: ConfigDict,
    sample: ConfigDict,
    tokens: PreTrainedTokenizerBase,
    mesh: Mesh,
    ends: Sequence[int],
) -> generation.Setup:
    """How answers are decoded.

    Args:
        group: temperature and so on, see `configs/raft.py`.
        sample: lanes, buckets, chunks.
        ends: token ids that end an answer, see `ends.model_ends`.

    Raises:
        ConfigError: values that cannot be used.
    """
    ids, stop = endings(tokens, ends, tuple(group.stop), thoughts.reader(tokens))
    setup = generation.Setup(read_settings(group), read_pace(sample), ids, stop)
    setup.check(mesh)
    return setup


def read_settings(group: ConfigDict) -> generation.SamplingParams:
    """The sampling parameters: what decides the answers."""
    return generation.SamplingParams(
        temperature=group.temperature,
        top_k=group.top_k,
        top_p=group.top_p,
        frequency_penalty=group.frequency_penalty,
        beams=group.beams,
        length_penalty=group.length_penalty,
        candidates=group.candidates,
        max_new_tokens=group.max_new_tokens,
    )


def read_pace(sample: ConfigDict) -> generation.Pace:
    """How the decoder runs: what decides speed and memory."""
    return generation.Pace(
        lanes=sample.lanes,
        prefill_tokens=sample.prefill_tokens,
        bucket_tokens=sample.bucket_tokens,
        chunk_steps=sample.chunk_steps,
        cache_dtype=jnp.dtype(jnp.int8)
        if sample.cache_dtype == "int8"
        else float_type("sample.cache_dtype", sample.cache_dtype),
    )


class Speakers:
    """Models that answer one after another, or several adapters at once. Adapters over one base
    share its weights, and never are two bases in memory."""

    def __init__(self, dtype: DTypeLike):
        """Args: see `ModelFolder.load`."""
        self._dtype = dtype
        self._last: tuple[ModelFolder, Model] | None = None

    def load(self, opened: ModelFolder) -> Model:
        """A model with its weights; first frees those of the previous model that it cannot use."""
        weights = None
        if self._last is not None:
            before, model = self._last
            if opened.base_weights == before.base_weights:
                weights = model.weights
                release(model.adapters)
            else:
                release(model)
        self._last = None
        found = opened.load(self._dtype, weights)
        self._last = opened, found
        return found

    def load_several(self, several: Sequence[ModelFolder]) -> Model:
        """Adapters over one base, and possibly the base itself, as one model that reads each prompt
        with one of them (`multi_lora`).

        Raises:
            NotFiniteError: an adapter holds numbers that are not finite, which would reach the
                answers of the others.
        """
        model = self.load(several[0])
        separate = [model.adapters, *(one.load_adapters() for one in several[1:])]
        for opened, adapters in zip(several, separate, strict=True):
            broken = None if adapters is None else finite.broken(adapters.weights)
            if broken:
                raise NotFiniteError(f"{opened.path}: {broken}")
        stacked = multi_lora.stack(separate, parameters(model.config), model.mesh)
        found = dataclasses.replace(model, adapters=stacked)
        self._last = several[0], found
        return found

    def __enter__(self) -> "Speakers":
        return self

    def __exit__(self, *_: object) -> None:
        if self._last is not None:
            release(self._last[1])
            self._last = None


def release(*trees_: Any) -> None:
    """Frees the arrays of a model that is no longer needed."""
    for leaf in jax.tree.leaves(trees_):
        if isinstance(leaf, jax.Array) and not leaf.is_deleted():
            leaf.delete()
