"""The attacks that are known by name, one entry each, with its source.

attack=prefix_injection,base64      two of them
attack=many_shot:64                 with a number, whose meaning its entry tells
attack=suffix:found.txt             suffixes from a file, such as a search finds
attack=all                          one of each, except suffixes
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from safety_jax.base import files
from safety_jax.base.errors import ConfigError, DataError
from safety_jax.evaluation.attacks import (
    encodings,
    frames,
    injections,
    noise,
    roles,
    shots,
)

ALL = "all"
SUFFIX = "suffix"
PREFILL = "prefill"


@dataclasses.dataclass(frozen=True)
class Number:
    """The number after an attack's name: its meaning, default and range."""

    what: str
    default: int
    least: int
    most: int


@dataclasses.dataclass(frozen=True)
class KnownAttack:
    """One entry.

    Attributes:
        about: what it does to a request, in one line.
        source: where it comes from.
        version: of its wording; answers to different versions are never confused.
        word: rewords a request; if the attack takes a number, from both.
    """

    name: str
    about: str
    source: str
    version: int
    word: Callable[..., str]
    number: Number | None = None


@dataclasses.dataclass(frozen=True)
class Attack:
    """An attack with its number or file, applied to a set.

    Attributes:
        name: with its number or file: `many_shot:32`, `suffix:found.txt`.
        version: see `KnownAttack`.
        word: rewords a request.
        prefill: the number of prefilled tokens of an opening; None for other attacks.
        suffixes: one for all requests, or one for each row of the set's file.
    """

    name: str
    version: int
    word: Callable[[str], str] = dataclasses.field(compare=False, repr=False)
    prefill: int | None = None
    suffixes: tuple[str, ...] = ()


def _same(request: str, number: int = 0) -> str:
    return request


_WEI = "Wei et al., arXiv 2307.02483"
_SHEN = "Shen et al., arXiv 2308.03825"
_KANG = "Kang et al., arXiv 2302.05733"
_BOUCHER = "Boucher et al., arXiv 2106.09898"
_SEED = Number("the seed of what is drawn", 0, 0, 2**31 - 1)

_ROWS = (
    KnownAttack(
        "prefix_injection",
        "the answer must begin with consent",
        _WEI,
        1,
        injections.prefix_injection,
    ),
    KnownAttack(
        "refusal_suppression",
        "the words of a refusal are forbidden",
        _WEI,
        1,
        injections.refusal_suppression,
    ),
    KnownAttack("style_short_words", "short words only", _WEI, 1, injections.style_short_words),
    KnownAttack(
        "style_json", "a JSON object without a place for a refusal", _WEI, 1, injections.style_json
    ),
    KnownAttack(
        "adviser", "a role of AIM's kind: an adviser without morals", _WEI, 1, roles.adviser
    ),
    KnownAttack(
        "unbound", "a role of DAN's kind: a second self without rules", _SHEN, 1, roles.unbound
    ),
    KnownAttack("evil_confidant", "a friend without a conscience", _WEI, 1, roles.evil_confidant),
    KnownAttack("base64", "the request in Base64", _WEI, 1, encodings.in_base64),
    KnownAttack("rot13", "letters moved by thirteen places", _WEI, 1, encodings.in_rot13),
    KnownAttack("leetspeak", "digits for letters", _WEI, 1, encodings.in_leetspeak),
    KnownAttack(
        "zero_width", "invisible characters inside words", _BOUCHER, 1, noise.zero_width, _SEED
    ),
    KnownAttack(
        "homoglyphs", "Cyrillic letters that look Latin", _BOUCHER, 1, noise.homoglyphs, _SEED
    ),
    KnownAttack(
        "low_resource",
        "an instruction in isiZulu",
        "after Yong et al., arXiv 2310.02446",
        1,
        frames.low_resource,
    ),
    KnownAttack(
        "past_tense",
        "how it was done in the past",
        "Andriushchenko and Flammarion, arXiv 2407.11969; by rule",
        1,
        frames.past_tense,
    ),
    KnownAttack(
        "hypothetical", "a story in whose world it is allowed", _SHEN, 1, frames.hypothetical
    ),
    KnownAttack(
        "payload_splitting", "four pieces to be joined", _KANG, 1, frames.payload_splitting
    ),
    KnownAttack(
        "code_completion", "a program that lacks the answer", _KANG, 1, frames.code_completion
    ),
    KnownAttack(
        "few_shot",
        "some harmless exchanges in front, all with consent",
        "Wei, Wang and Wang, arXiv 2310.06387",
        1,
        shots.in_context,
        Number("exchanges in front", 4, 1, shots.MOST),
    ),
    KnownAttack(
        "many_shot",
        "many of them",
        "Anil et al., Anthropic, 2024",
        1,
        shots.in_context,
        Number("exchanges in front", 32, 1, shots.MOST),
    ),
    KnownAttack(
        "forged_turns", "turns that never took place, as text", _WEI, 1, shots.forged_turns
    ),
    KnownAttack(
        PREFILL,
        "the answer begins with so many tokens of consent",
        "Qi et al., arXiv 2406.05946",
        1,
        _same,
        Number("tokens that are prefilled", 20, 0, 1000),
    ),
)
ATTACKS: Mapping[str, KnownAttack] = {entry.name: entry for entry in _ROWS}
KNOWN = (*ATTACKS, f"{SUFFIX}:FILE", ALL)
SUFFIX_VERSION = 1
# Attacks whose answers may be in a form that a judge cannot read.
ENCODED = ("base64", "rot13", "leetspeak", "low_resource")


def parse(text: str, where: str) -> list[Attack]:
    """The attacks of an option, each once, in the order in which they are named.

    Args:
        text: names joined by commas; see the top of this file.
        where: the config key and the spec, for messages.

    Raises:
        ConfigError: an unknown name, a number that does not fit it, or two files of one name.
        DataError: a file of suffixes that is empty or has empty lines.
    """
    found: dict[str, Attack] = {}
    for part in text.split(","):
        for attack in map(_made, ATTACKS.values()) if part == ALL else [_named(part, where)]:
            if found.setdefault(attack.name, attack) != attack:
                raise ConfigError(
                    f"{where}: two files of suffixes are called {attack.name.partition(':')[2]}; "
                    "expected names that differ, rename one"
                )
    return list(found.values())


_DIGITS = 20  # the most of a number; Python refuses to parse thousands
_SUFFIX_BYTES = 64 << 20  # the most of a file of suffixes


def _named(part: str, where: str) -> Attack:
    name, colon, value = part.partition(":")
    if name == SUFFIX and value:
        return _from_file(value, where)
    if name not in ATTACKS:
        raise ConfigError(f"{where}: unknown attack {part!r:.60}; known are {', '.join(KNOWN)}")
    entry = ATTACKS[name]
    if not colon:
        return _made(entry)
    number = entry.number
    if number is None:
        raise ConfigError(
            f"{where}: attack {part!r:.60}: {name} takes no number; remove {':' + value:.60}"
        )
    whole = value.isascii() and value.isdigit() and len(value) <= _DIGITS
    if not (whole and number.least <= int(value) <= number.most):
        raise ConfigError(
            f"{where}: attack {part!r:.60}: expected after the colon a whole number from "
            f"{number.least} to {number.most}: {number.what}"
        )
    return _made(entry, int(value))


def _made(entry: KnownAttack, value: int | None = None) -> Attack:
    if entry.number is None:
        return Attack(entry.name, entry.version, entry.word)
    number = entry.number.default if value is None else value
    return Attack(
        f"{entry.name}:{number}",
        entry.version,
        lambda request: entry.word(request, number),
        number if entry.name == PREFILL else None,
    )


def _from_file(place: str, where: str) -> Attack:
    path = files.expand(place)
    try:
        text = files.read_bytes(path, _SUFFIX_BYTES).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = files.reason(error) if isinstance(error, OSError) else error
        raise ConfigError(
            f"{where}: the file of suffixes {place} cannot be read ({why}); expected text in "
            "UTF-8, one suffix a line"
        ) from error
    # Not `splitlines`, whose other line ends may be part of a suffix.
    lines = text.replace("\r\n", "\n").removesuffix("\n").split("\n")
    if not text or not all(line.strip() for line in lines):
        what = f"line {[*map(str.strip, lines)].index('') + 1} is empty" if text else "is empty"
        raise DataError(f"{path}: {what}; expected one suffix a line, remove empty lines")
    return from_suffixes(path.name, lines)


def from_suffixes(name: str, lines: Sequence[str]) -> Attack:
    """The attack that appends these suffixes to requests."""
    return Attack(f"{SUFFIX}:{name}", SUFFIX_VERSION, _same, suffixes=tuple(lines))
