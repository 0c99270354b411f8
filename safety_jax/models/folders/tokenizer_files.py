"""Chooses the tokenizer of a model, and copies its files into every export.

If an adapter was trained with its own tokenizer or chat template, its folder contains them, and
they are used, so that prompts have the form that it learned. Otherwise those of its base are used.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from safety_jax.base import files, hosts
from safety_jax.base.errors import CheckpointError
from safety_jax.models.folders import folder_writing, hub
from safety_jax.models.folders.tokenizer import load_tokenizer

TEMPLATE = "chat_template.jinja"
GENERATION = "generation_config.json"


def sources(own: str | Path, adapter: Path | None, model: Path) -> tuple[Path, ...]:
    """The folders of a tokenizer: one, or that of a base followed by the adapter's, which has only
    a chat template.

    Args:
        own: a folder or hub id that takes precedence over the others; "" for none.
        adapter, model: the folders of an adapter and of the full model.
    """
    if own:
        return (hub.resolve(own),)
    if adapter is not None:
        if any((adapter / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
            return (adapter,)
        if (adapter / TEMPLATE).is_file():
            return (model, adapter)
    return (model,)


def load(found: tuple[Path, ...]) -> PreTrainedTokenizerBase:
    """The tokenizer of `sources`.

    Raises:
        CheckpointError: its files are missing, or cannot be used.
    """
    tokenizer = load_tokenizer(found[0])
    for folder in found[1:]:
        try:
            template = files.read_bytes(folder / TEMPLATE, files.JSON_BYTES).decode()
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{folder / TEMPLATE}: cannot be read ({error})") from error
        tokenizer.chat_template = template
    return tokenizer


def fingerprint(found: tuple[Path, ...]) -> str:
    """sha256 (hex) over names and contents of the files of `sources`, including the chat template.
    One process reads them; every process must call this."""

    def digest() -> str:
        lines = []
        for folder in found:
            for name in folder_writing.matching(folder, hub.TOKENIZER_FILES):
                content = files.read_bytes(folder / name, most=None)
                lines.append(f"{hashlib.sha256(content).hexdigest()}  {name}\n")
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    return hosts.first_says(digest)


def copy(found: tuple[Path, ...], target: Path, ends: Sequence[int] = ()) -> None:
    """Replaces the tokenizer of an exported folder, and adds its EOS and `ends` to the ids that end
    an answer.

    All files of the old tokenizer are removed, because `transformers` prefers a
    `chat_template.jinja` to the template in `tokenizer_config.json`.
    """
    for name in folder_writing.matching(target, hub.TOKENIZER_FILES):
        (target / name).unlink()
    for folder in found:
        patterns = hub.TOKENIZER_FILES if folder == found[0] else (TEMPLATE,)
        folder_writing.copy_matching(folder, patterns, target)
    if (target / GENERATION).is_file():
        _end_there(target, ends)


def _end_there(target: Path, ends: Sequence[int]) -> None:
    """Training ends every answer with the tokenizer's EOS, or with one of `ends`, so `generate`
    must know them."""
    eos = hub.token_ids(target)["eos_token_id"]
    settings = hub.read_json(target / GENERATION)
    given = settings.get("eos_token_id")
    known = given if isinstance(given, list) else [] if given is None else [given]
    added = [one for one in dict.fromkeys([eos, *ends]) if one is not None and one not in known]
    if added:
        every = [*known, *added]
        settings["eos_token_id"] = every if len(every) > 1 else every[0]
        folder_writing.write_json(target / GENERATION, settings)
