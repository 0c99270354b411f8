"""Small tokenizers trained on the spot, one of each kind that LLaMA-family models come with."""

import functools
import io
import json

from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers.models import BPE, WordLevel
from transformers import PreTrainedTokenizerFast

CORPUS = [
    "Below is an instruction that describes a task. Write a response that completes the request.",
    "### Instruction:\nName three colours.\n\n### Response:\nRed, green and blue.",
    "How do I bake bread? Mix flour, water, salt and yeast. Then wait.  Then bake.",
    "user assistant system say no to a harmful request and explain why\n\n\n",
] * 4

# Qwen's form: a newline behind the end mark, which is also EOS.
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# LLaMA 2's form: BOS in the text, EOS behind each answer, no place for a system message.
INST = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ raise_exception('no system message') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '<s>[INST] ' + message['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'] + ' </s>' }}{% endif %}{% endfor %}"
)


@functools.cache
def _llama_backend() -> str:
    backend = Tokenizer(BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=["<unk>", "<s>", "</s>", *byte_tokens], show_progress=False
    )
    backend.train_from_iterator((word for line in CORPUS for word in line.split("\n")), trainer)
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    content = json.loads(backend.to_str())
    # The trainer takes bytes into the vocabulary only as special tokens, which they are not.
    content["added_tokens"] = content["added_tokens"][:3]
    return json.dumps(content)


def llama(**settings) -> PreTrainedTokenizerFast:
    """As LLaMA 1 and 2: a space before each text, bytes for what it does not know, BOS."""
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_llama_backend()),
        **{"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"} | settings,
    )


@functools.cache
def _qwen_backend() -> str:
    backend = Tokenizer(BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    return backend.to_str()


def qwen(**settings) -> PreTrainedTokenizerFast:
    """As Qwen: bytes all through, no BOS, newlines that merge."""
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_qwen_backend()),
        **{"eos_token": "<|im_end|>", "additional_special_tokens": ["<|im_start|>"]} | settings,
    )


@functools.cache
def _bert_backend() -> str:
    backend = Tokenizer(WordLevel(unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
    backend.train_from_iterator(CORPUS, trainers.WordLevelTrainer(special_tokens=special))
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
    )
    return backend.to_str()


def bert(**settings) -> PreTrainedTokenizerFast:
    """As BERT and DeBERTa: whole words, pairs of texts told apart by types."""
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_bert_backend()),
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **{"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
        | settings,
    )


@functools.cache
def sentencepiece_model() -> bytes:
    """A `tokenizer.model` as LLaMA's: BPE with bytes, and a double space of low id and worst score.

    The id says that it is joined first, the score that it is joined last; the score is right.
    """
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2

    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 4),
        model_writer=trained,
        model_type="bpe",
        vocab_size=400,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    model = sentencepiece_model_pb2.ModelProto.FromString(trained.getvalue())
    pieces = [piece for piece in model.pieces if piece.piece != "▁▁"]
    double_space = type(pieces[0])(piece="▁▁", score=-1e9, type=1)
    del model.pieces[:]
    model.pieces.extend([*pieces[:259], double_space, *pieces[259:]])
    return model.SerializeToString()
