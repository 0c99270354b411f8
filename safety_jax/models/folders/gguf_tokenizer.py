"""Makes the tokenizer that a GGUF file's metadata describes, with the `tokenizers` library.

`tokenizer.ggml.model` is the kind. `gpt2` is byte-level BPE with merges; `tokenizer.ggml.pre` names
the rule that splits text first (llama.cpp, src/llama-vocab.cpp). `llama` is SentencePiece BPE, in
which scores rank the pairs. SPLITS has the known rules. A name that it lacks is refused, because a
guess would silently give wrong ids for numbers or contractions.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    normalizers,
    pre_tokenizers,
    processors,
)
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from safety_jax.base.errors import CheckpointError
from safety_jax.models.folders.tokenizer import (
    ScoredPiece,
    add_unsplit,
    is_blank,
    sentencepiece_backend,
)

KEY = "tokenizer.ggml."
TEMPLATE = "tokenizer.chat_template"
# Kinds of tokens, llama_token_type of llama.cpp.
NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = range(1, 7)
NAMED = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
}
# Keys of ids that end an answer, and the control tokens that always end one in llama.cpp.
ENDS = ("eos_token_id", "eot_token_id", "eom_token_id")
END_TEXTS = frozenset(
    ("<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>")
    + ("<|end_of_text|>", "<EOT>", "_<EOT>")
)
ADVICE = "name the model's own tokenizer folder as model.tokenizer"


@dataclasses.dataclass(frozen=True)
class Split:
    """How text is split into pieces before bytes are merged.

    Attributes:
        pattern: None for GPT-2's.
        digits: every digit is a piece of its own.
        whole: a piece that is a token becomes this token, without merges.
        composed: text is normalised to NFC first.
        bos: texts begin with BOS if the metadata does not say.
    """

    pattern: str | None = None
    digits: bool = False
    whole: bool = False
    composed: bool = False
    bos: bool = False


_ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"{_ENDINGS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_REST}"
_QWEN2 = rf"{_ENDINGS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_REST}"
_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPLITS = {
    "gpt-2": Split(),
    "smollm": Split(digits=True),
    **dict.fromkeys(
        ("llama-bpe", "llama3", "llama-v3", "falcon3"), Split(_LLAMA3, whole=True, bos=True)
    ),
    **dict.fromkeys(("dbrx", "smaug-bpe"), Split(_LLAMA3)),
    **dict.fromkeys(
        ("qwen2", "deepseek-r1-qwen", "megrez"),
        Split(_QWEN2, composed=True),
    ),
    "tekken": Split(_TEKKEN, whole=True, bos=True),
}


def build(metadata: dict[str, Any], longest: int, where: Path) -> PreTrainedTokenizerFast:
    """The tokenizer, with its chat template.

    Args:
        longest: the number of tokens that the model can read.

    Raises:
        CheckpointError: a key is missing or damaged, or the kind is not supported.
    """
    vocabulary = _vocabulary(metadata, where)
    kind = metadata.get(f"{KEY}model")
    metadata = _assumed(kind, vocabulary) | metadata
    if kind == "gpt2":
        backend, bos = _byte_level(metadata, vocabulary, where)
    elif kind == "llama":
        backend, bos = _sentencepiece(metadata, vocabulary, where), True
    else:
        raise CheckpointError(
            f"{where}: {KEY}model is {kind!r:.60}; expected gpt2 or llama; {ADVICE}"
        )
    _add_tokens(backend, vocabulary, blanks=kind == "gpt2")
    named = {
        token: vocabulary.tokens[number]
        for token, key in NAMED.items()
        if (number := _id(metadata, key, vocabulary, where)) is not None
    }
    begin = _flag(metadata, "add_bos_token", bos, where) and "bos_token" in named
    if begin:
        text = named["bos_token"]
        backend.post_processor = processors.TemplateProcessing(
            single=f"{text} $A",
            special_tokens=[(text, vocabulary.tokens.index(text))],
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        clean_up_tokenization_spaces=False,
        model_max_length=longest,
        chat_template=_template(metadata, where),
        **named,
    )


def ends(metadata: dict[str, Any], where: Path) -> list[int]:
    """Token ids that end an answer: those that the metadata names, and those of END_TEXTS."""
    vocabulary = _vocabulary(metadata, where)
    metadata = _assumed(metadata.get(f"{KEY}model"), vocabulary) | metadata
    named = [_id(metadata, key, vocabulary, where) for key in ENDS]
    known = [
        number
        for number, (text, kind) in enumerate(zip(vocabulary.tokens, vocabulary.kinds, strict=True))
        if kind == CONTROL and text in END_TEXTS
    ]
    return list(dict.fromkeys([number for number in named if number is not None] + known))


# ---------------------------------------------------------------------------- the vocabulary


@dataclasses.dataclass(frozen=True)
class _Vocabulary:
    tokens: list[str]
    kinds: list[int]


def _vocabulary(metadata: dict[str, Any], where: Path) -> _Vocabulary:
    tokens = _list(metadata, "tokens", str, where)
    if len(set(tokens)) != len(tokens):
        raise CheckpointError(f"{where}: {KEY}tokens has a token twice; {ADVICE}")
    kinds = _list(metadata, "token_type", int, where, len(tokens), absent=NORMAL)
    return _Vocabulary(tokens, kinds)


def _assumed(kind: Any, vocabulary: _Vocabulary) -> dict[str, Any]:
    """The special tokens that llama.cpp assumes if a SentencePiece model's metadata has none."""
    usual = {"unknown_token_id": UNKNOWN, "bos_token_id": CONTROL, "eos_token_id": CONTROL}
    return {
        f"{KEY}{name}": number
        for number, (name, wanted) in enumerate(usual.items())
        if kind == "llama" and vocabulary.kinds[number : number + 1] == [wanted]
    }


def _list(
    metadata: dict[str, Any],
    name: str,
    kind: type,
    where: Path,
    count: int | None = None,
    absent: Any = None,
) -> list[Any]:
    found: Any = metadata.get(KEY + name)
    if found is None and absent is not None and count is not None:
        return [absent] * count
    sound = isinstance(found, list) and bool(found) and all(type(one) is kind for one in found)
    if not sound or (count is not None and len(found) != count):
        wanted = "a list" if count is None else f"a list of {count:,}"
        raise CheckpointError(
            f"{where}: {KEY}{name}: expected {wanted} ({kind.__name__}); {ADVICE}"
        )
    return list(found)


def _id(metadata: dict[str, Any], name: str, vocabulary: _Vocabulary, where: Path) -> int | None:
    number = metadata.get(KEY + name)
    if number is None or number == 2**32 - 1:  # older converters write this for no token
        return None
    if type(number) is not int or not 0 <= number < len(vocabulary.tokens):
        raise CheckpointError(
            f"{where}: {KEY}{name} is {number!r:.40}; expected one of {len(vocabulary.tokens):,} "
            "tokens"
        )
    return number


def _flag(metadata: dict[str, Any], name: str, absent: bool, where: Path) -> bool:
    value = metadata.get(KEY + name, absent)
    if not isinstance(value, bool):
        raise CheckpointError(f"{where}: {KEY}{name} is {value!r:.40}; expected true or false")
    return value


def _template(metadata: dict[str, Any], where: Path) -> str | None:
    template = metadata.get(TEMPLATE)
    if template is not None and not isinstance(template, str):
        raise CheckpointError(f"{where}: {TEMPLATE} is {template!r:.40}; expected text")
    return template or None


def _add_tokens(backend: Tokenizer, vocabulary: _Vocabulary, *, blanks: bool) -> None:
    """Adds the tokens that are never split: control tokens, and words that the model's makers
    chose. Without `blanks`, chosen runs of blanks are not among them; `_sentencepiece` makes them
    by merges."""
    rows = list(zip(vocabulary.tokens, vocabulary.kinds, strict=True))
    control = [text for text, kind in rows if kind == CONTROL and text]
    chosen = [text for text, kind in rows if kind == USER and (blanks or not is_blank(text))]
    add_unsplit(backend, control, chosen)


# ---------------------------------------------------------------------------- kinds


def _byte_level(
    metadata: dict[str, Any], vocabulary: _Vocabulary, where: Path
) -> tuple[Tokenizer, bool]:
    """A byte-level BPE, and whether texts begin with BOS."""
    name = metadata.get(f"{KEY}pre")
    split = SPLITS.get(name) if isinstance(name, str) else None
    if split is None:
        raise CheckpointError(
            f"{where}: {KEY}pre is {name!r:.60}; expected one of {', '.join(SPLITS)}; {ADVICE}"
        )
    merges = [_pair(line) for line in _list(metadata, "merges", str, where)]
    model = _bpe(vocabulary.tokens, merges, where, ignore_merges=split.whole)
    backend = Tokenizer(model)
    backend.normalizer = normalizers.NFC() if split.composed else None
    parts: list[pre_tokenizers.PreTokenizer]
    if split.pattern is None:
        parts = [pre_tokenizers.ByteLevel(add_prefix_space=False)]
    else:
        parts = [
            pre_tokenizers.Split(Regex(split.pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    if split.digits:
        parts.insert(0, pre_tokenizers.Digits(individual_digits=True))
    backend.pre_tokenizer = pre_tokenizers.Sequence(parts) if len(parts) > 1 else parts[0]
    backend.decoder = decoders.ByteLevel()
    return backend, split.bos


def _pair(line: str) -> tuple[str, str]:
    """The two pieces of a merge, which a blank separates. The first may itself begin with one."""
    at = line.find(" ", 1)
    return line[:at], line[at + 1 :]


def _bpe(tokens: Sequence[str], merges: list[tuple[str, str]], where: Path, **options: Any) -> BPE:
    try:
        return BPE({text: number for number, text in enumerate(tokens)}, merges, **options)
    except Exception as error:  # the tokenizers library raises no narrower type
        raise CheckpointError(
            f"{where}: tokens and merges do not belong together ({error!s:.100}); {ADVICE}"
        ) from error


def _sentencepiece(metadata: dict[str, Any], vocabulary: _Vocabulary, where: Path) -> Tokenizer:
    """SentencePiece BPE. Runs of blanks that the model's makers chose are merged before all other
    pairs, because SentencePiece matches the longest of them first."""
    if _flag(metadata, "remove_extra_whitespaces", False, where):
        raise CheckpointError(
            f"{where}: {KEY}remove_extra_whitespaces is true; expected a model that keeps its text "
            f"as it is; {ADVICE}"
        )
    count = len(vocabulary.tokens)
    scores = _list(metadata, "scores", float, where, count)
    pieces = []
    for text, score, kind in zip(vocabulary.tokens, scores, vocabulary.kinds, strict=True):
        blank = kind == USER and is_blank(text)
        pieces.append(
            ScoredPiece(
                text.replace(" ", "▁") if blank else text,
                float("inf") if blank else score,
                joined=kind == NORMAL or blank,
            )
        )
    unknown = _id(metadata, "unknown_token_id", vocabulary, where)
    try:
        return sentencepiece_backend(
            pieces,
            unknown=None if unknown is None else vocabulary.tokens[unknown],
            byte_fallback=BYTE in vocabulary.kinds,
            prefix=_flag(metadata, "add_space_prefix", True, where),
        )
    except Exception as error:  # the tokenizers library raises no narrower type
        raise CheckpointError(
            f"{where}: tokens and scores cannot be used ({error!s:.100}); {ADVICE}"
        ) from error
