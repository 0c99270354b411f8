"""Configs of the papers have the numbers that the papers and their code say."""

import pytest

from tests.test_configs import flatten, load

# What the papers and their code say; written from them, not from the config.
# arXiv 2412.00074: report, and SIT/sft.sh with SIT/scripts/training/00_sft.py.
# arXiv 2309.07875: training/finetuninig.py, and the defaults of the trainer it calls.
SAFE_TO_SERVE_DPO = {
    "dpo.objective": "sigmoid",
    "dpo.beta": 0.1,
    "dpo.nll_weight": 0.0,
    "data.prefer": "safe_and_better",
    "data.template": "alpaca",
    "lora.rank": 8,
    "lora.alpha": 32.0,
    "lora.dropout": 0.1,
    "lora.targets": ("q_proj", "k_proj", "v_proj"),
    "train.batch_size": 4,
    "train.epochs": 2.0,
    "optim.learning_rate": 5e-5,
    "optim.schedule": "cosine",
    "optim.warmup_steps": 1,
    "log.eval_every_steps": 25,
}
SAFE_TO_SERVE_RAFT = {
    "seed": 42,
    "sample.candidates": 8,
    "sample.temperature": 0.85,
    "sample.top_p": 0.95,
    "sample.max_new_tokens": 120,
    "answer.temperature": 0.0,
    "answer.frequency_penalty": 1.0,
    "answer.max_new_tokens": 120,
    "raft.rank_by": "deberta",
    "raft.accept": (),
    "raft.unfinished": "keep",
    "raft.adapter": "merge",
    "raft.kl_weight": 0.0,
    "data.order": "file",
    "data.train_on": "everything",
    "data.max_length": 512,
    "lora.rank": 4,
    "lora.alpha": 16.0,
    "lora.dropout": 0.05,
    "lora.targets": ("q_proj", "v_proj"),
    "train.batch_size": 32 * 4,
    "train.epochs": 4.0,
    "optim.learning_rate": 1e-4,
    "optim.schedule": "cosine",
    "optim.warmup_steps": 10,
}
PUBLISHED = {
    "paper=report": {
        "model.path": "meta-llama/Llama-2-7b-hf",
        "seed": 42,
        "lora.rank": 4,
        "lora.alpha": 16.0,
        "lora.dropout": 0.05,
        "lora.targets": ("q_proj", "k_proj", "v_proj"),
        "data.eval_rows": 500,
        "data.train_on": "everything",
        "data.template": "alpaca",
        "data.max_length": 512,
        "train.batch_size": 32 * 4,
        "train.epochs": 2.0,
        "optim.learning_rate": 1e-4,
        "optim.schedule": "cosine",
        "optim.warmup_steps": 10,
        "optim.weight_decay": 0.0,
        "optim.beta1": 0.9,
        "optim.beta2": 0.999,
        "optim.epsilon": 1e-8,
        "optim.clip_norm": 1.0,
        "checkpoint.keep_last": 30,
    },
    "paper=script": {
        "model.path": "yahma/llama-7b-hf",
        "seed": 42,
        "lora.rank": 4,
        "lora.alpha": 16.0,
        "lora.dropout": 0.05,
        "lora.targets": ("q_proj", "v_proj"),
        "data.eval_rows": 500,
        "data.train_on": "everything",
        "data.template": "alpaca",
        "data.max_length": 512,
        "train.batch_size": 32 * 4,
        "train.epochs": 4.0,
        "optim.learning_rate": 1e-4,
        "optim.schedule": "cosine",
        "optim.warmup_steps": 10,
        "optim.weight_decay": 0.0,
        "optim.beta1": 0.9,
        "optim.beta2": 0.999,
        "optim.epsilon": 1e-8,
        "optim.clip_norm": 1.0,
        "log.eval_every_steps": 100,
        "checkpoint.keep_last": 30,
    },
    "paper=safety_tuned_llamas": {
        "seed": 42,
        "lora.rank": 8,
        "lora.alpha": 16.0,
        "lora.dropout": 0.05,
        "lora.targets": ("q_proj", "v_proj"),
        "data.eval_rows": 2000,
        "data.train_on": "everything",
        "data.template": "alpaca",
        "data.max_length": 256,
        "train.batch_size": 4 * 32,
        "train.epochs": 3.0,
        "optim.learning_rate": 3e-4,
        "optim.schedule": "linear",
        "optim.warmup_steps": 10,
        "optim.weight_decay": 0.0,
        "optim.beta1": 0.9,
        "optim.beta2": 0.999,
        "optim.epsilon": 1e-8,
        "optim.clip_norm": 1.0,
        "log.eval_every_steps": 25,
        "checkpoint.every_steps": 25,
        "checkpoint.keep_last": 30,
        "checkpoint.export": "best",  # load_best_model_at_end
    },
}


@pytest.mark.parametrize(("version", "length"), [("report", 1024), ("script", 1536)])
def test_published_numbers_of_dpo(version: str, length: int):
    """arXiv 2412.00074: report, and DPO/trainer_bash.sh with DPO/DPO_trainer_LLAMA.py."""
    flat = flatten(load("dpo", f"paper={version}"))
    assert {key: flat[key] for key in SAFE_TO_SERVE_DPO} == SAFE_TO_SERVE_DPO
    assert flat["data.max_length"] == length
    assert any("4-bit" in note for note in flat["dpo.protocol_notes"])


def test_published_numbers_of_the_harmfulness_model():
    """arXiv 2309.07875, training of its 0-4 reward model."""
    flat = flatten(load("reward", "paper=safety_tuned_llamas"))
    published = {
        "model.path": "microsoft/deberta-v3-large",
        "reward.kind": "regression",
        "reward.direction": "higher is more harmful",
        "lora.rank": 0,
        "data.max_length": 512,
        "train.batch_size": 32,
        "train.epochs": 1.0,
        "optim.learning_rate": 2e-5,
        "checkpoint.best_metric": "eval/mse",
        "checkpoint.best_is": "lowest",
    }
    assert {key: flat[key] for key in published} == published
    assert any("not distributed" in note for note in flat["reward.protocol_notes"])


@pytest.mark.parametrize(("version", "size"), [("b500", (1, 500)), ("b100", (5, 100))])
def test_published_numbers_of_raft(version: str, size: tuple[int, int]):
    """arXiv 2412.00074: RAFT/raft_full.sh with RAFT/scripts."""
    flat = flatten(load("raft", f"paper={version}"))
    assert (flat["raft.rounds"], flat["raft.prompts"]) == size
    assert {key: flat[key] for key in SAFE_TO_SERVE_RAFT} == SAFE_TO_SERVE_RAFT
    assert any("4-bit" in note for note in flat["raft.protocol_notes"])


def test_published_numbers_of_the_original_raft():
    """arXiv 2304.06767, as LMFlow's files have it."""
    flat = flatten(load("raft", "paper=original"))
    known = {"raft.prompts": 2048, "sample.candidates": 8, "sample.temperature": 0.85,
             "optim.learning_rate": 2e-5, "optim.schedule": "linear", "train.epochs": 2.0,
             "raft.patience": 3, "sample.max_new_tokens": 128, "raft.kl_weight": 0.0}  # fmt: skip
    assert {key: flat[key] for key in known} == known


@pytest.mark.parametrize("arg", PUBLISHED)
def test_published_numbers(arg: str):
    flat = flatten(load("sft", arg))
    assert {key: flat[key] for key in PUBLISHED[arg]} == PUBLISHED[arg]
    assert flat["data.train"][0].endswith("/alpaca_small.json")
    assert any("8-bit" in note for note in flat["sft.protocol_notes"])


def test_report_and_script_differ_only_where_the_paper_does():
    report, script = (flatten(load("sft", f"paper={name}")) for name in ("report", "script"))
    differing = {key for key in report if report[key] != script[key]}
    assert differing == {"model.path", "lora.targets", "train.epochs", "sft.protocol_notes"}


def test_safe_to_serve_saves_once_an_epoch():
    # 20,000 + 500 rows, 500 of them held out: 157 steps of 128, the last one not full.
    assert load("sft", "paper=script,safety=500").checkpoint.every_steps == 157
