"""Loads the tokenizer of a model folder, from local files and without running any code in them."""

from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from tokenizers import Tokenizer, decoders, normalizers, processors
from tokenizers.models import BPE
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from safety_jax.base import files
from safety_jax.base.errors import CheckpointError

_FILES = "tokenizer.json, or tokenizer.model of SentencePiece"


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerBase:
    """Loads `tokenizer.json`, or, where it is missing, the SentencePiece `tokenizer.model`.

    Raises:
        CheckpointError: no tokenizer in the folder, a broken one, or one that needs its own code.
    """
    folder = Path(folder)
    settings = _settings(folder)
    if not (folder / "tokenizer.json").exists() and (folder / "tokenizer.model").exists():
        return _from_sentencepiece(folder, settings)
    _check_file(folder)
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except StrictDataclassError as error:  # transformers checks config.json on the way
        raise CheckpointError(
            f"{folder / 'config.json'}: refused by transformers ({error!s:.200}); mend that value"
        ) from error
    except Exception as error:  # the tokenizers library raises no narrower type on a broken file
        raise CheckpointError(
            f"{folder}: the tokenizer cannot be loaded ({error!s:.200}); expected {_FILES}"
        ) from error


def _settings(folder: Path) -> dict[str, Any]:
    path = folder / "tokenizer_config.json"
    if not path.exists():
        return {}
    return files.read_object(path, CheckpointError, "replace the file")


def _check_file(folder: Path) -> None:
    """Looks into tokenizer.json first, for a message that says more than the library's."""
    path = folder / "tokenizer.json"
    if not path.exists():
        raise CheckpointError(f"{folder}: no tokenizer; expected {_FILES} in the model folder")
    content = files.read_object(path, CheckpointError, "replace the file")
    missing = {"model", "added_tokens"} - set(content)
    if missing:
        raise CheckpointError(f"{path}: {', '.join(sorted(missing))} missing; replace the file")


def _from_sentencepiece(folder: Path, settings: dict[str, Any]) -> PreTrainedTokenizerBase:
    """LLaMA's SentencePiece BPE model as a fast tokenizer with the same ids.

    SentencePiece joins the pair whose piece has the best score. The ready-made conversion in
    transformers 5 ranks pairs by piece id instead, which differs for runs of spaces: those pieces
    have low ids and the worst score.
    """
    model = _read_sentencepiece(folder / "tokenizer.model")
    trainer, pieces = model.trainer_spec, model.pieces
    vocabulary = {piece.piece: i for i, piece in enumerate(pieces)}
    scored = sorted(
        (-piece.score, i, piece.piece) for i, piece in enumerate(pieces) if piece.type == _NORMAL
    )
    merges = [
        (text[:cut], text[cut:])
        for _, _, text in scored
        for cut in range(1, len(text))
        if text[:cut] in vocabulary and text[cut:] in vocabulary
    ]
    unknown = pieces[trainer.unk_id].piece
    backend = Tokenizer(
        BPE(
            vocabulary,
            merges,
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=trainer.byte_fallback,
        )
    )
    prefix = model.normalizer_spec.add_dummy_prefix
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁")] * prefix + [normalizers.Replace(" ", "▁")]
    )
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        + [decoders.Strip(" ", 1, 0)] * prefix
    )
    begin = _special(settings, "bos_token", pieces[trainer.bos_id].piece)
    end = _special(settings, "eos_token", pieces[trainer.eos_id].piece)
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
    tokenizer.chat_template = settings.get("chat_template")
    return tokenizer


# ModelProto.SentencePiece.Type of sentencepiece_model.proto, and TrainerSpec.ModelType.
_NORMAL, _BPE = 1, 2


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
            f"{path}: expected a BPE model without text normalisation, as LLaMA's; add the "
            "model's tokenizer.json"
        )
    return model


def _special(settings: dict[str, Any], name: str, absent: str) -> str:
    value = settings.get(name)
    if isinstance(value, dict):
        value = value.get("content")
    # Early LLaMA conversions wrote empty strings here.
    return value or absent
