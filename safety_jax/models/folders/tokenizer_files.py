"""Whose tokenizer a model has, and its files: they go along with every export.

An adapter that was trained with a tokenizer or a chat template of its own brings them in its
folder, and is then asked in the words that it learned; otherwise its base's count.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from safety_jax.base import files, hosts
from safety_jax.base.errors import CheckpointError
from safety_jax.models.folders import hub
from safety_jax.models.folders.tokenizer import load_tokenizer

TEMPLATE = "chat_template.jinja"
GENERATION = "generation_config.json"


def sources(own: str | Path, adapter: Path | None, model: Path) -> tuple[Path, ...]:
    """The folders that a tokenizer is made of: one, or a base's and the adapter's with a template
    for it.

    Args:
        own: a folder or hub id that counts before all others; "" for none.
        adapter, model: an adapter's folder, and the full model's.
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
    """sha256 (hex) over names and contents of the files of `sources`, chat template included. One
    process reads them; all must come here."""

    def digest() -> str:
        lines = []
        for folder in found:
            for name in hub.TOKENIZER_FILES:
                if (folder / name).is_file():
                    content = files.read_bytes(folder / name, most=None)
                    lines.append(f"{hashlib.sha256(content).hexdigest()}  {name}\n")
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    return hosts.first_says(digest)


def copy(found: tuple[Path, ...], target: Path, ends: Sequence[int] = ()) -> None:
    """Gives an exported folder this tokenizer and no other, and lets answers end at its EOS.

    Files of the model's own tokenizer do not stay: `transformers` takes a `chat_template.jinja`
    before what `tokenizer_config.json` says.
    """
    for name in hub.TOKENIZER_FILES:
        (target / name).unlink(missing_ok=True)
    for folder in found:
        patterns = hub.TOKENIZER_FILES if folder == found[0] else (TEMPLATE,)
        hub.copy_matching(folder, patterns, target)
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
        hub.write_json(target / GENERATION, settings)
