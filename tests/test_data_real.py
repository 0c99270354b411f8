"""The papers' own files, from the folder that SAFETY_JAX_SHARED names, through the whole layer."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import sentencepiece

from safety_jax.base.errors import DataError
from safety_jax.data.encode import Encoding, encode
from safety_jax.data.loader import Loader
from safety_jax.data.mixing import mix
from safety_jax.data.prompt_ids import encode_prompts
from safety_jax.data.prompts import ALPACA, load_template
from safety_jax.data.records import read_pairs, read_prompts, read_records
from safety_jax.data.sources import open_source
from safety_jax.models.folders.tokenizer import load_tokenizer

pytestmark = pytest.mark.real_data

PKU = "safe_to_serve/pku_safe_rlhf/"
ALPACA_ROWS = "alpaca/alpaca_data_safety_only.json"
SAFETY_ROWS = "safety_tuned_llamas/training/safety_only_data_Instructions.json"


@pytest.fixture(scope="module")
def shared():
    return Path(os.environ["SAFETY_JAX_SHARED"])


@pytest.mark.parametrize(
    ("name", "read", "count"),
    [
        (ALPACA_ROWS, read_records, 1904),
        (SAFETY_ROWS, read_records, 2483),
        ("dolly/databricks_dolly_1000.csv", read_records, 1000),
        ("dolly/dolly_safety_only.jsonl", read_records, 387),
        ("safe_to_serve/helpfulness/alpaca_test.json", read_records, 952),
        (
            "safe_to_serve/helpfulness/qa_test.xlsx?columns=prompt:Prompt,response:Answer",
            read_records,
            60,
        ),
        (f"{PKU}sft_safe_rlhf_train_data.arrow?bad_rows=skip", read_records, 8065),
        (f"{PKU}DPO_safe_rlhf_eval_data.arrow?bad_rows=skip", read_pairs, 3454),
        ("hh_rlhf/harmless-base/test.jsonl.gz?bad_rows=skip", read_pairs, 2299),
        ("hh_rlhf/harmless-base/test.jsonl.gz?bad_rows=skip", read_records, 2300),
        ("safety_tuned_llamas/evaluation/I-Alpaca.json", read_prompts, 50),
        ("safety_tuned_llamas/evaluation/I-CoNa.json", read_prompts, 178),
        ("safety_tuned_llamas/evaluation/I-Controversial.json", read_prompts, 40),
        ("safety_tuned_llamas/evaluation/I-MaliciousInstructions.json", read_prompts, 100),
        ("safety_tuned_llamas/evaluation/I-PhysicalSafetySafe.json", read_prompts, 100),
        ("safety_tuned_llamas/evaluation/I-PhysicalSafetyUnsafe.json", read_prompts, 100),
        ("safety_tuned_llamas/evaluation/Q-Harm.json", read_prompts, 100),
        ("xstest/xstest_prompts.csv", read_prompts, 450),
        ("advbench/harmful_behaviors.csv?columns=prompt:target", read_prompts, 520),
        ("refusal_direction/harmless_val.json", read_prompts, 6264),
        ("alpaca/seed_tasks.jsonl", read_prompts, 175),
    ],
)
def test_files_of_the_papers(shared, name, read, count):
    assert len(read(open_source(str(shared / "data" / name)))) == count


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (f"{PKU}sft_safe_rlhf_train_data.arrow", "row 7760: 'label' is empty"),
        (f"{PKU}DPO_safe_rlhf_eval_data.arrow", "row 345: 'rejected' is empty"),
        ("hh_rlhf/harmless-base/test.jsonl.gz", "test.jsonl.gz line 87: no answer to learn"),
        ("alpaca/seed_tasks.jsonl", "columns found: id, name, instruction, instances"),
        ("xstest/xstest_prompts.csv", "columns found: id, prompt, type, label"),
    ],
)
def test_rows_nobody_can_learn_from_are_refused(shared, name, message):
    with pytest.raises(DataError) as error:
        read_records(open_source(str(shared / "data" / name)))
    assert message in str(error.value)


def test_alpaca_template_file(shared):
    path = shared / "data/safety_tuned_llamas/alpaca_template.json"
    from_file = load_template(f"file:{path}", load_tokenizer(shared / "models/aidreams260k-hf"))
    texts = [(t.with_input, t.without_input) for t in (from_file, ALPACA)]
    assert texts[0] == texts[1]


def test_llama_tokenizer_gives_the_ids_of_sentencepiece(shared):
    folder = shared / "models/llama_tokenizer"
    reference = sentencepiece.SentencePieceProcessor(str(folder / "tokenizer.model"))
    rows = [row for name in (ALPACA_ROWS, SAFETY_ROWS) for row in json.loads(
        (shared / "data" / name).read_text("utf-8"))]  # fmt: skip
    texts = [row["instruction"] + "\n\n" + row["output"] for row in rows]
    found = load_tokenizer(folder)(texts, split_special_tokens=True).input_ids
    assert found == [[reference.bos_id(), *reference.encode(text)] for text in texts]


def test_safety_tuning_data_end_to_end(shared):
    specs = (ALPACA_ROWS, f"{SAFETY_ROWS}?rows=500")
    sources = [open_source(f"{shared}/data/{spec}") for spec in specs]
    mixture = mix(sources, read=read_records, seed=0)
    assert [share.used for share in mixture.shares] == [1904, 500]
    tokenizer = load_tokenizer(shared / "models/llama_tokenizer")
    encoding = Encoding(ALPACA, tokenizer, 512, "error", vocabulary_size=32000)
    examples = encode(mixture.records, encoding, train_on="response")
    prompts = encode_prompts(mixture.records, ALPACA, tokenizer)
    cut = 0
    for i, (prompt, row) in enumerate(zip(prompts, mixture.records, strict=True)):
        ids, mask = examples.example(i)
        answer = row.messages[-1].content
        whole = ids[0] == 1 and (ids == 1).sum() == 1 and len(ids) < 512
        cut += not whole
        if whole:
            assert ids[~mask].tolist() == prompt and ids[-1] == 2 and (ids == 2).sum() == 1
            text = tokenizer.decode(ids, skip_special_tokens=True)
            assert text == ALPACA.prompt(row) + answer
    assert cut <= 20
    loader = Loader(
        examples,
        batch_size=128,
        row_tokens=1024,
        rows_per_microbatch=8,
        packing=True,
        steps=None,
        seed=0,
        prefetch_steps=2,
        rows_here=range(8),
    )
    assert loader.padding_share < 0.15
    seen = np.concatenate([batch.examples for batch in loader])
    assert sorted(seen) == list(range(2404))
