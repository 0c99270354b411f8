"""Where an answer ends: at token ids that the model's folder names, and at stop strings."""

import dataclasses
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from safety_jax.base.errors import CheckpointError, ConfigError
from safety_jax.models.folders import hub

_SPELLED = re.compile(r"\\[nrt](?![a-z])")  # not LaTeX's \nabla
GENERATION, CONFIG = "generation_config.json", "config.json"


def model_ends(folder: Path, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Token ids that end an answer, ascending.

    These are the tokens at which `generate` of transformers stops, from `generation_config.json`
    or, without such a file, from `config.json`; and the tokenizer's EOS, which ends every answer in
    training, no matter what the base's files say.

    Args:
        folder: of the full model; for an adapter, of its base.

    Raises:
        CheckpointError: a file cannot be read, or names no token ids.
        ConfigError: no end is named anywhere.
    """
    file = folder / (GENERATION if (folder / GENERATION).exists() else CONFIG)
    named = hub.read_json(file).get("eos_token_id")
    ids = named if isinstance(named, list) else [] if named is None else [named]
    if not all(isinstance(one, int) and not isinstance(one, bool) for one in ids):
        raise CheckpointError(
            f"{file}: eos_token_id is {f'{named!r}'[:60]}; expected a token id, or a list of them"
        )
    if tokenizer.eos_token_id is not None:
        ids = [*ids, int(tokenizer.eos_token_id)]
    ends = tuple(sorted({one for one in ids if 0 <= one < 2**31}))
    if not ends:
        raise ConfigError(
            f"{folder}: neither {GENERATION}, {CONFIG} nor the tokenizer names an end of answers "
            "(EOS), so none would end; add eos_token_id to one of them"
        )
    return ends


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """The tokens that are left out when ids are decoded to text, and their ids."""
    added = tokenizer.added_tokens_decoder.items()
    known = {str(token): number for number, token in added if token.special}
    named = zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True)
    return known | {token: int(number) for token, number in named}


@dataclasses.dataclass(frozen=True)
class Stop:
    """Strings that end an answer, and how an answer is decoded.

    Attributes:
        strings: the answer is cut before the first of them; may be empty.
        text: decodes token ids without special tokens.
        spelled: strings that contain special tokens, which `text` never shows.
        spell: decodes token ids with special tokens.
        words: ids that end an answer and are text themselves, such as a full stop; all other ends
            are marks that do not belong to the text.
    """

    strings: tuple[str, ...]
    text: Callable[[Sequence[int]], str]
    spelled: tuple[str, ...] = ()
    spell: Callable[[Sequence[int]], str] | None = None
    words: frozenset[int] = frozenset()

    def read(self, ids: Sequence[int], ends: Sequence[int]) -> str:
        """The text of a whole answer. If one of `ends` ends it, a mark is left out."""
        marked = bool(ids) and ids[-1] in ends and ids[-1] not in self.words
        return self.text(ids[: len(ids) - marked])

    def cut(self, ids: Sequence[int], seen: int) -> tuple[int, str] | None:
        """The number of tokens that complete the first stop string, and the text before it; None
        without one.

        Args:
            seen: the first `seen` tokens are known not to complete one.
        """
        if not (self.strings or self.spelled) or self._before(ids) is None:
            return None
        for count in range(seen + 1, len(ids) + 1):
            text = self._before(ids[:count])
            if text is not None:
                return count, text
        return None

    def _before(self, ids: Sequence[int]) -> str | None:
        text = self.text(ids)
        place = _first(self.strings, text)
        if place is not None:
            return text[:place]
        if self.spell is None or not self.spelled:
            return None
        whole = self.spell(ids)
        place = _first(self.spelled, whole)
        if place is None:
            return None
        # Tokens that end before the string are decoded as text; of the next token, only its
        # beginning before the string.
        count = next(n for n in range(len(ids), -1, -1) if len(self.spell(ids[:n])) <= place)
        return self.text(ids[:count]) + whole[len(self.spell(ids[:count])) : place]


def _first(strings: Iterable[str], text: str) -> int | None:
    return min((place for string in strings if (place := text.find(string)) >= 0), default=None)


def endings(
    tokenizer: PreTrainedTokenizerBase,
    ends: Iterable[int],
    strings: Sequence[str],
    text: Callable[[Sequence[int]], str],
) -> tuple[tuple[int, ...], Stop]:
    """Token ids and strings that end an answer.

    A string that is a special token, such as `<|im_end|>`, becomes one of the ids, because decoded
    text has no such tokens, and beam search stops at ids only.

    Args:
        ends: see `model_ends`.
        text: decodes token ids without special tokens.

    Raises:
        ConfigError: a string is empty, so that it would end every answer before it begins; or it
            spells a line break as a shell passes it on, and would end none.
    """
    if not all(isinstance(string, str) and string for string in strings):
        raise ConfigError(f"stop strings {tuple(strings)!r}: expected texts, none of them empty")
    if mistyped := [string for string in strings if _SPELLED.search(string)]:
        raise ConfigError(
            f"stop string {mistyped[0]}: a backslash and a letter, which no line break is; put the "
            f"tuple in quotes: --config.answer.stop=\"('{mistyped[0]}',)\""
        )
    special = special_tokens(tokenizer)
    ids = {special[string] for string in strings if string in special}
    others = [string for string in strings if string not in special]
    spelled = tuple(s for s in others if any(token and token in s for token in special))
    plain = tuple(string for string in others if string not in spelled)

    def spell(ids: Sequence[int]) -> str:
        return str(tokenizer.decode(list(ids), skip_special_tokens=False))

    found = tuple(sorted({*ends, *ids}))
    marks = set(special.values()) | set(tokenizer.added_tokens_decoder)
    return found, Stop(plain, text, spelled, spell, frozenset(found) - marks)
