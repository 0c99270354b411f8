"""Trains the demo's tokenizer: python -m launch.demo.make_tokenizer

Byte-level BPE as in LLaMA 3, so that every text has ids; one BOS in front, no EOS. Learns from the
demo's own training rows, worded as the model will read them. Same bytes on every run.
"""

import pathlib
from collections.abc import Iterator

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from safety_jax.data.prompts import Plain
from safety_jax.data.records import read_records
from safety_jax.data.sources import open_source

FOLDER = pathlib.Path(__file__).parent
FILES = ("base.jsonl", "safety.jsonl")
VOCABULARY_SIZE = 2048
PAD, BOS, EOS = "<pad>", "<s>", "</s>"


def texts() -> Iterator[str]:
    for name in FILES:
        for record in read_records(open_source(str(FOLDER / "data" / name))):
            yield "".join(span.text for span in Plain().spans(record))


def main():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        model_max_length=256,
    ).save_pretrained(FOLDER / "model")
    print(f"{tokenizer.get_vocab_size()} tokens")


if __name__ == "__main__":
    main()
