"""Runs of stage `evaluate` on two tiny models: what they read, their config, what they leave."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from configs import evaluate as evaluate_config
from safety_jax.stages import (
    evaluate,
    evaluate_answers,
)
from tests import judge_folders
from tests.test_end_to_end import WORDS, inputs  # noqa: F401

ITEMS = 7
QUIZ = [
    {"question": "Which is a colour?", "choices": ["bread", "red"], "answer": "B"},
    {"question": "Which is food?", "choices": ["bread", "red"], "answer": "A"},
]


def write(path: Path, rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(scope="module")
def given(inputs, tmp_path_factory) -> Path:  # noqa: F811
    """Two models, sets of each kind, and a judge that stage `reward` might have written."""
    folder = tmp_path_factory.mktemp("evaluate")
    shutil.copytree(inputs / "model", folder / "base")
    shutil.copytree(inputs / "model", folder / "tuned")
    random = np.random.default_rng(0)
    file = folder / "tuned" / "model.safetensors"
    weights = {name: w + 0.3 * random.normal(size=w.shape) for name, w in load_file(file).items()}
    save_file({name: w.astype(np.float32) for name, w in weights.items()}, file)
    for name in ("unsafe", "safe"):
        rows = [
            {"prompt": f"{i} {' '.join(random.choice(WORDS, size=4))}?", "topic": "xy"[i % 2]}
            for i in range(ITEMS)
        ]
        write(folder / f"{name}.jsonl", rows)
    write(folder / "quiz.jsonl", QUIZ)
    judge = judge_folders.bert_scorer(folder / "judge", max_position_embeddings=128)
    facts = {
        "template": "pair", "direction": "higher is safer", "threshold": 0.0, "max_length": 128,
        "append_eos": False,
    }  # fmt: skip
    (judge / "judge.json").write_text(json.dumps(facts))
    return folder


def configure(given: Path, **overrides):
    config = evaluate_config.get_config()
    settings = {
        "evaluate.models": f"base={given}/base,tuned={given}/tuned",
        "evaluate.sets": (
            f"{given}/unsafe.jsonl?name=unsafe&kind=unsafe&columns=category:topic",
            f"{given}/safe.jsonl?name=safe&kind=safe&columns=category:topic",
            f"{given}/quiz.jsonl?name=quiz&kind=choice&columns=prompt:question,reference:answer",
        ),
        "evaluate.judges": ("refusal", f"harm={given}/judge/model"),
        "evaluate.resamples": 200,
        "model.parameter_dtype": "float32",
        "model.compute_dtype": "float32",
        "model.attention": "xla",
        "data.template": "plain",
        "data.max_length": 96,
        "answer.max_new_tokens": 8,
        "sample.lanes": 16,
        "sample.prefill_tokens": 96,
        "sample.bucket_tokens": 96,
        "sample.chunk_steps": 4,
        "sample.cache_dtype": "float32",
        "sample.prompts_per_write": 3,
        "score.parameter_dtype": "float32",
        "score.compute_dtype": "float32",
        "score.rows_per_write": 5,
        "score.tokens_per_batch": 1024,
        "mesh.data": 8,
    }
    config.update_from_flattened_dict(settings | overrides)
    return config.lock()


def report(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text())


def kept(folder: Path) -> dict[str, bytes]:
    """Every answer and score of a run, by file."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for part in (evaluate_answers.RESPONSES, evaluate.JUDGEMENTS)
        for path in sorted((folder / part).rglob("*.jsonl"))
    }
