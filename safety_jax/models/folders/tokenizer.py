"""Loads the tokenizer of a model folder, from local files and without running any code in them."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub.errors import StrictDataclassError
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, processors
from tokenizers.models import BPE
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from safety_jax.base import files
from safety_jax.base.errors import CheckpointError
from safety_jax.models.folders import hub

_FILES = "tokenizer.json, or tokenizer.model of SentencePiece"


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerBase:
    """Loads `tokenizer.json` or, if it is missing, the SentencePiece `tokenizer.model`, or the
    vocabulary of a BERT, RoBERTa or GPT-2.

    Raises:
        CheckpointError: no tokenizer in the folder, a broken one, or one that needs its own code.
    """
    folder = Path(folder)
    settings = _settings(folder)
    if not (folder / "tokenizer.json").exists() and (folder / "tokenizer.model").exists():
        return _from_sentencepiece(folder, settings)
    content = _content(folder)
    # Early LLaMA conversions wrote empty strings for missing tokens.
    absent = {name: None for name in _NAMED if settings.get(name) == ""}
    try:
        found = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, **absent
        )
        if content and found.is_fast and type(found) is not PreTrainedTokenizerFast:
            found._tokenizer = _as_in_file(found.backend_tokenizer, content)
    except StrictDataclassError as error:  # transformers also checks config.json
        raise CheckpointError(
            f"{folder / 'config.json'}: refused by transformers ({error!s:.200}); mend that value"
        ) from error
    except Exception as error:  # the tokenizers library raises no narrower type on a broken file
        raise CheckpointError(
            f"{folder}: the tokenizer cannot be loaded ({error!s:.200}); expected {_FILES}"
        ) from error
    _try_out(found, folder)
    return found


def _as_in_file(backend: Tokenizer, content: dict[str, Any]) -> Tokenizer:
    """A tokenizer that reads texts as its tokenizer.json says.

    The classes of transformers 5 take vocabulary and merges from the file, but make the other parts
    themselves, as their first model had them. The model at hand learned the ids of the file.
    """
    made = json.loads(backend.to_str())
    filed = made | {part: content.get(part) for part in _READING}
    return backend if filed == made else Tokenizer.from_str(json.dumps(filed))


_READING = ("normalizer", "pre_tokenizer", "model", "decoder")


def _try_out(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Raises a CheckpointError for a tokenizer that fails once it is used.

    Some files are loaded without an error although their parts do not fit: a class for another kind
    of model, or a post-processor that names an unknown token.
    """
    if not tokenizer.is_fast:
        raise CheckpointError(
            f"{folder / 'tokenizer_config.json'}: tokenizer_class is {type(tokenizer).__name__}, "
            "which does not use the tokenizers library; expected a class that reads tokenizer.json"
        )
    try:
        ids = tokenizer(_TEXT).input_ids
        tokenizer(_TEXT, add_special_tokens=False)
        tokenizer.decode(ids)
        _ = tokenizer.all_special_ids
    except BaseException as error:
        # A panic of the tokenizers library is not an Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise CheckpointError(
            f"{folder}: the tokenizer fails on {_TEXT!r} ({error!s:.200}); the parts of "
            "tokenizer.json, or the tokenizer_class of tokenizer_config.json, do not fit: replace "
            "both files"
        ) from error


_TEXT = "a b"
_NAMED = (
    "bos_token",
    "eos_token",
    "unk_token",
    "pad_token",
    "sep_token",
    "cls_token",
    "mask_token",
)


def _settings(folder: Path) -> dict[str, Any]:
    path = folder / "tokenizer_config.json"
    if not path.exists():
        return {}
    settings = files.read_object(path, CheckpointError, "replace the file")
    longest, template = settings.get("model_max_length"), settings.get("chat_template")
    if longest is not None and not isinstance(longest, int | float):
        raise CheckpointError(
            f"{path}: model_max_length is {longest!r:.40}; expected a number, mend it"
        )
    if not _is_template(template):
        raise CheckpointError(
            f"{path}: chat_template is {template!r:.40}; expected text, or a list of templates "
            "with name and template, mend it"
        )
    return settings


def _is_template(value: Any) -> bool:
    if isinstance(value, list):
        return all(
            isinstance(one, dict)
            and isinstance(one.get("name"), str)
            and isinstance(one.get("template"), str)
            for one in value
        )
    if isinstance(value, dict):
        return all(isinstance(text, str) for text in value.values())
    return value is None or isinstance(value, str)


def _content(folder: Path) -> dict[str, Any]:
    """What tokenizer.json holds, checked first for a clearer message than the library's; empty for
    an early release, which has none."""
    path = folder / "tokenizer.json"
    if (folder / hub.NO_TOKENIZER).exists():
        raise CheckpointError((folder / hub.NO_TOKENIZER).read_text(encoding="utf-8"))
    if not path.exists() and _of_early_release(folder):
        return {}
    if not path.exists():
        raise CheckpointError(f"{folder}: no tokenizer; expected {_FILES} in the model folder")
    content = files.read_object(path, CheckpointError, "replace the file")
    missing = {"model", "added_tokens"} - set(content)
    if missing:
        raise CheckpointError(f"{path}: {', '.join(sorted(missing))} missing; replace the file")
    return content


# The files of published BERT, RoBERTa and GPT-2 models that are older than tokenizer.json. Their
# class decides how text is split, which those of other models do not say.
_EARLY = {
    "bert": ("vocab.txt",),
    "roberta": ("vocab.json", "merges.txt"),
    "gpt2": ("vocab.json", "merges.txt"),
}


def _of_early_release(folder: Path) -> bool:
    """Whether `transformers` makes the tokenizer of this folder from its vocabulary."""
    config = folder / "config.json"
    kind = hub.read_json(config).get("model_type") if config.is_file() else None
    wanted = _EARLY.get(kind) if isinstance(kind, str) else None
    return wanted is not None and all((folder / name).is_file() for name in wanted)


def _from_sentencepiece(folder: Path, settings: dict[str, Any]) -> PreTrainedTokenizerBase:
    """LLaMA's SentencePiece BPE model as a fast tokenizer with the same ids."""
    path = folder / "tokenizer.model"
    model = _read_sentencepiece(path)
    trainer, pieces = model.trainer_spec, model.pieces
    vocabulary = {piece.piece: i for i, piece in enumerate(pieces)}
    unknown = _piece(pieces, trainer.unk_id, _UNKNOWN, path)
    begin = _special(settings, "bos_token", _piece(pieces, trainer.bos_id, _CONTROL, path))
    end = _special(settings, "eos_token", _piece(pieces, trainer.eos_id, _CONTROL, path))
    others = {begin, end, *_added(settings)} - vocabulary.keys()
    if others:
        raise CheckpointError(
            f"{folder / 'tokenizer_config.json'}: names the token {min(others)!r}, which "
            "tokenizer.model does not have; add the model's tokenizer.json"
        )
    try:
        backend = sentencepiece_backend(
            [_scored(p.piece, p.score, p.type) for p in pieces],
            unknown=unknown,
            byte_fallback=trainer.byte_fallback,
            prefix=model.normalizer_spec.add_dummy_prefix,
        )
    except Exception as error:  # the tokenizers library raises no narrower type
        raise CheckpointError(
            f"{path}: its pieces cannot be read ({error!s:.80}); add the model's tokenizer.json"
        ) from error
    control = {p.piece: None for p in pieces if p.type == _CONTROL}
    control |= dict.fromkeys(sorted(_added(settings, special=True) - {unknown}))
    chosen = {p.piece: None for p in pieces if p.type == _USER and not is_blank(p.piece)}
    add_unsplit(backend, control, [text for text in chosen if text not in control])
    if settings.get("add_bos_token", True):
        backend.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A", special_tokens=[(begin, vocabulary[begin])]
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=begin,
        eos_token=end,
        unk_token=unknown,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = _chat_template(folder, settings)
    return tokenizer


def _chat_template(folder: Path, settings: dict[str, Any]) -> Any:
    """The chat template, or several by name. As in `transformers`, chat_template.jinja takes
    precedence over tokenizer_config.json, which may list several templates with their names."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        try:
            return files.read_bytes(path, files.JSON_BYTES).decode()
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{path}: cannot be read ({error})") from error
    found = settings.get("chat_template")
    return {one["name"]: one["template"] for one in found} if isinstance(found, list) else found


class ScoredPiece(NamedTuple):
    """A piece of a SentencePiece model; `joined` if merges may make it."""

    text: str
    score: float
    joined: bool


def _scored(text: str, score: float, kind: int) -> ScoredPiece:
    """Runs of blanks that the model's makers chose are merged before all other pairs, because
    SentencePiece matches the longest of them first."""
    first = kind == _USER and is_blank(text)
    return ScoredPiece(text, float("inf") if first else score, joined=kind == _NORMAL or first)


def is_blank(piece: str) -> bool:
    return not piece.replace("▁", " ").strip()


def add_unsplit(backend: Tokenizer, control: Iterable[str], chosen: Iterable[str]) -> None:
    """Adds tokens of the vocabulary that are never split: control tokens, which decoded text leaves
    out, and words that the model's makers chose."""
    backend.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in control])
    backend.add_tokens([AddedToken(t, normalized=False, special=False) for t in chosen])


def sentencepiece_backend(
    pieces: Sequence[ScoredPiece], *, unknown: str | None, byte_fallback: bool, prefix: bool
) -> Tokenizer:
    """A SentencePiece BPE without normalisation; ids are the pieces' positions.

    SentencePiece joins the pair whose piece has the best score. The conversion in transformers 5
    ranks pairs by piece id instead, which differs for runs of spaces: those pieces have low ids and
    the worst score.

    Args:
        prefix: whether every text is prefixed with a space.

    Raises:
        Exception: the tokenizers library cannot use the pieces; it has no narrower type.
    """
    vocabulary = {piece.text: i for i, piece in enumerate(pieces)}
    scored = sorted((-p.score, i, p.text) for i, p in enumerate(pieces) if p.joined)
    merges = [
        (text[:cut], text[cut:])
        for _, _, text in scored
        for cut in range(1, len(text))
        if text[:cut] in vocabulary and text[cut:] in vocabulary
    ]
    backend = Tokenizer(
        BPE(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=byte_fallback)
    )
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁")] * prefix + [normalizers.Replace(" ", "▁")]
    )
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        + [decoders.Strip(" ", 1, 0)] * prefix
    )
    return backend


# ModelProto.SentencePiece.Type of sentencepiece_model.proto, and TrainerSpec.ModelType.
_NORMAL, _UNKNOWN, _CONTROL, _USER = 1, 2, 3, 4
_BPE = 2


def _piece(pieces: Any, number: int, kind: int, path: Path) -> str:
    if not 0 <= number < len(pieces) or pieces[number].type != kind:
        raise CheckpointError(
            f"{path}: expected <unk>, BOS and EOS among its pieces, as in LLaMA's; piece {number} "
            "is none of these; add the model's tokenizer.json"
        )
    return str(pieces[number].piece)


def _added(settings: dict[str, Any], special: bool = False) -> set[str]:
    """Tokens that tokenizer_config.json adds; with `special`, only control tokens."""
    added = settings.get("added_tokens_decoder")
    values = added.values() if isinstance(added, dict) else ()
    return {
        str(token["content"])
        for token in values
        if isinstance(token, dict) and "content" in token and (token.get("special") or not special)
    }


def _read_sentencepiece(path: Path) -> Any:
    from google.protobuf.message import DecodeError
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    try:
        model.ParseFromString(path.read_bytes())
    except (OSError, DecodeError) as error:
        raise CheckpointError(
            f"{path}: not a SentencePiece model ({error}); add the model's tokenizer.json"
        ) from error
    normalizer = model.normalizer_spec
    plain = not normalizer.precompiled_charsmap and not normalizer.remove_extra_whitespaces
    if model.trainer_spec.model_type != _BPE or not plain:
        raise CheckpointError(
            f"{path}: expected a BPE model without text normalisation, such as LLaMA's; add the "
            "model's tokenizer.json"
        )
    return model


def _special(settings: dict[str, Any], name: str, absent: str) -> str:
    value = settings.get(name)
    if isinstance(value, dict):
        value = value.get("content")
    # Early LLaMA conversions wrote empty strings here.
    return str(value or absent)
