"""Stage `raft` as a user runs it; cut off in every phase it ends with the same bits; mistakes."""

import json
import re
import shutil
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from configs import raft as raft_config
from safety_jax.base.errors import ConfigError, DataError
from safety_jax.models.folders import hf
from safety_jax.stages import raft
from safety_jax.training import metrics
from tests import judge_folders
from tests.children import command_of, kill, start, wait_until
from tests.test_end_to_end import WORDS, inputs  # noqa: F401

PROMPTS, CANDIDATES = 8, 3


def write_prompts(path: Path, count: int, seed: int) -> Path:
    random = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        question = " ".join(random.choice(WORDS, size=random.integers(2, 6)))
        rows.append({"instruction": f"{i} {question}?", "output": "salt and bread"})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def given(inputs, tmp_path_factory) -> Path:  # noqa: F811
    """Model, prompts, and a judge that stage `reward` might have written."""
    folder = tmp_path_factory.mktemp("raft")
    shutil.copytree(inputs / "model", folder / "model")
    write_prompts(folder / "unsafe.jsonl", 20, seed=0)
    write_prompts(folder / "ordinary.jsonl", 10, seed=1)
    write_prompts(folder / "held_out.jsonl", 5, seed=2)
    judge = judge_folders.bert_scorer(folder / "judge", max_position_embeddings=128)
    facts = {
        "template": "pair", "direction": "higher is safer", "threshold": 0.0, "max_length": 128,
        "append_eos": False,
    }  # fmt: skip
    (judge / "judge.json").write_text(json.dumps(facts))
    return folder


def configure(given: Path, arg: str | None = None, **overrides):
    config = raft_config.get_config(arg)
    settings = {
        "model.path": str(given / "model"),
        "model.parameter_dtype": "float32",
        "model.compute_dtype": "float32",
        "model.remat": "none",
        "lora.rank": 4,
        "data.prompts": (str(given / "unsafe.jsonl"),),
        "data.ordinary": (str(given / "ordinary.jsonl"),),
        "data.ordinary_share": 0.25,
        "data.eval": (str(given / "held_out.jsonl"),),
        "data.template": "plain",
        "data.max_length": 64,
        "raft.rounds": 2,
        "raft.prompts": PROMPTS,
        "raft.judges": (f"reward={given}/judge/model",),
        "raft.unfinished": "keep",
        "sample.candidates": CANDIDATES,
        "sample.max_new_tokens": 12,
        "sample.lanes": 16,
        "sample.prefill_tokens": 64,
        "sample.bucket_tokens": 64,
        "sample.chunk_steps": 6,
        "sample.cache_dtype": "float32",
        "sample.prompts_per_write": 3,
        "answer.max_new_tokens": 12,
        "score.parameter_dtype": "float32",
        "score.compute_dtype": "float32",
        "score.rows_per_write": 5,
        "score.tokens_per_batch": 1024,
        "train.batch_size": 4,
        "train.rows_per_microbatch": 8,
        "train.chunk_tokens": 16,
        "optim.learning_rate": 1e-2,
        "mesh.data": 8,
        "checkpoint.every_steps": 2,
        "checkpoint.export_dtype": "float32",
        "log.every_steps": 1,
    } | {key.replace("__", "."): value for key, value in overrides.items()}
    config.update_from_flattened_dict(settings)
    return config.lock()


def write_judge(given: Path, folder: Path, threshold: float) -> Path:
    shutil.copytree(given / "judge/model", folder)
    facts = json.loads((folder / "judge.json").read_text())
    (folder / "judge.json").write_text(json.dumps(facts | {"threshold": threshold}))
    return folder


@pytest.fixture(scope="module")
def finished(given, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "raft"
    raft.run(configure(given), str(folder))
    return folder


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rounds_leave_what_people_read(finished):
    for number in ("01", "02"):
        rows = read_lines(finished / "rounds" / number / "candidates.jsonl")
        assert len(rows) == PROMPTS
        assert [row["group"] for row in rows].count("ordinary") == 2
        for row in rows:
            values = [score["value"] for score in row["scores"]["reward"]]
            assert len(row["responses"]) == len(values) == CANDIDATES
            assert row["choice"] == int(np.argmax(values)) and row["why"] == "chosen"
        chosen = read_lines(finished / "rounds" / number / "selected.jsonl")
        assert [row["messages"][-1]["content"] for row in chosen] == [
            row["responses"][row["choice"]] for row in rows
        ]
    first, second = (
        {row["prompt_number"] for row in read_lines(finished / f"rounds/0{n}/candidates.jsonl")}
        for n in (1, 2)
    )
    assert not first & second
    for name in ("rewards", "reward_histogram", "rounds", "safe_share"):
        assert (finished / "plots" / f"{name}.png").stat().st_size > 1000


def test_metrics_and_accounting(finished):
    rows = metrics.read(finished / "metrics.jsonl")
    assert [row["step"] for row in rows] == [0, 1, 2]
    assert rows[1]["kl_to_start"] == pytest.approx(0.0, abs=1e-4)  # round 1 samples the start
    assert abs(rows[2]["kl_to_start"]) > 1e-3
    for row in rows[1:]:
        assert row["reward/mean"] <= row["reward/selected"] <= row["reward/best_of_candidates"]
        assert row["candidates_sampled"] == PROMPTS * CANDIDATES
        assert row["optimizer_steps"] == 4 and row["training_flops"] > 0
        assert row["generated_tokens"] <= PROMPTS * CANDIDATES * 12
    assert {"eval/reward/held_out/safe_share", "eval/reward/held_out/mean"} <= rows[0].keys()
    card = (finished / "README.md").read_text()
    assert "all rounds" in card
    shares = re.findall(r" ([\d.]+)% \|", card.split("## Data")[1].split("## Recipe")[0])
    assert sum(map(float, shares)) == pytest.approx(100, abs=0.05)


def test_a_round_learns_its_selection(finished):
    rows = metrics.read(finished / "rounds/02/metrics.jsonl")
    assert rows[-1]["loss"] < rows[0]["loss"]


@pytest.fixture(scope="module")
def halfway(given, tmp_path_factory) -> Path:
    """The same run, asked for one round."""
    folder = tmp_path_factory.mktemp("runs") / "raft"
    raft.run(configure(given, raft__rounds=1), str(folder))
    return folder


def test_a_run_can_be_asked_for_more_rounds(given, halfway, finished, tmp_path):
    shutil.copytree(halfway, tmp_path / "raft")
    raft.run(configure(given), str(tmp_path / "raft"))
    assert_same(tmp_path / "raft", finished)
    assert not (tmp_path / "raft/rounds/01/checkpoints").exists()  # nobody needs it now


def drop(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()


LATER = (
    "candidates.jsonl", "selected.jsonl", "checkpoints", "metrics.jsonl", "evaluation.jsonl",
    "evaluation_samples.jsonl", "evaluation_judgements.jsonl",
)  # fmt: skip


def cut(path: Path, lines: int) -> None:
    """Leaves some lines and a piece of the next one."""
    content = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(content[:lines]) + content[lines][:20])


def while_sampling(folder: Path) -> None:
    drop(folder, "judgements.jsonl", *LATER)
    cut(folder / "samples.jsonl", 4)


def while_scoring(folder: Path) -> None:
    drop(folder, *LATER)
    cut(folder / "judgements.jsonl", 7)


def before_training(folder: Path) -> None:
    drop(folder, *LATER[2:])


def while_answering(folder: Path) -> None:
    drop(folder, "evaluation.jsonl", "evaluation_judgements.jsonl")
    cut(folder / "evaluation_samples.jsonl", 3)


@pytest.mark.parametrize(
    "moment", [while_sampling, while_scoring, before_training, while_answering]
)
def test_cut_off_in_any_phase_it_ends_with_the_same_bits(
    moment, given, halfway, finished, tmp_path
):
    folder = tmp_path / "raft"
    shutil.copytree(halfway, folder)
    shutil.copytree(finished / "rounds/02", folder / "rounds/02")
    (folder / "rounds/02/summary.json").unlink()
    moment(folder / "rounds/02")
    raft.run(configure(given), str(folder))
    assert_same(folder, finished)


# What tells that a phase of a round has begun. Verdicts are appended as answers are, by
# `files.Lines`, and what was chosen is written whole: those two phases are only cut off above.
PHASES = ("samples.jsonl", "checkpoints/*", "evaluation_samples.jsonl")


def test_killed_in_every_phase_it_ends_with_the_same_bits(given, finished, tmp_path):
    """A process, a moment after the phase has begun, in the folder that the last one left."""
    config, folder = configure(given), tmp_path / "run"
    random = np.random.default_rng(0)
    for phase in PHASES:
        process = start([*command_of(config), f"--workdir={folder}"])
        wait_until(lambda: any((folder / "rounds/01").glob(phase)), process)  # noqa: B023
        time.sleep(random.uniform(0, 0.2))
        kill(process)
        assert not (folder / "export").exists()
    raft.run(config, str(folder))
    assert_same(folder, finished)


def assert_same(folder: Path, expected: Path) -> None:
    for path in sorted(expected.glob("rounds/*/*.jsonl")):
        if path.name in ("metrics.jsonl", "judgements.jsonl"):
            continue
        again = folder / path.relative_to(expected)
        assert again.read_bytes() == path.read_bytes(), path
    given, known = (load_file(f / "export/adapter_model.safetensors") for f in (folder, expected))
    assert given.keys() == known.keys()
    for name in known:
        np.testing.assert_array_equal(given[name], known[name], err_msg=name)


# ---------------------------------------------------------------------------- other settings


def test_a_fresh_adapter_every_round_is_merged(given, finished, tmp_path, one_device):
    """The export is the base with both adapters added; and only acceptable answers are chosen."""
    folder = tmp_path / "raft"
    middle = json.loads((finished / "rounds/01/summary.json").read_text())["reward/mean"]
    judge = write_judge(given, tmp_path / "judge", threshold=middle)
    config = configure(
        given, raft__adapter="merge", raft__judges=(f"reward={judge}",), raft__accept=("reward",)
    )
    raft.run(config, str(folder))
    model = hf.read_config(folder / "export")
    weights = hf.load(folder / "export", model, one_device, jnp.float32)
    base = hf.load(given / "model", model, one_device, jnp.float32)
    moved = [
        float(jnp.abs(a - b).max())
        for a, b in zip(jax.tree.leaves(weights), jax.tree.leaves(base), strict=True)
    ]
    assert max(moved) > 1e-3
    # Started again, a finished run makes the same export from the adapters of its rounds.
    before = load_file(folder / "export/model.safetensors")
    shutil.rmtree(folder / "export")
    raft.run(config, str(folder))
    for name, value in load_file(folder / "export/model.safetensors").items():
        np.testing.assert_array_equal(value, before[name])
    # Some candidate was below the judge's threshold, and none of those was chosen.
    rows = read_lines(folder / "rounds/01/candidates.jsonl")
    assert any("not accepted" in row["verdicts"] for row in rows)
    for row in rows:
        if row["choice"] is not None:
            assert row["scores"]["reward"][row["choice"]]["value"] >= middle


def test_other_contents_behind_the_same_names_are_refused(given, finished, tmp_path):
    """Prompts, weights, tokenizer and judges: rounds learn from one of each."""
    folder = tmp_path / "raft"
    shutil.copytree(finished, folder)
    known = json.loads((folder / "identity.json").read_text())
    names = [name for name in known if name != "data.eval as tokens"]
    assert {name.split()[0] for name in names} == {
        "data.prompts", "data.ordinary", "prompts", "model.path", "tokenizer", "raft.judges"
    }  # fmt: skip
    for name in names:
        (folder / "identity.json").write_text(json.dumps(known | {name: "0" * 64}))
        with pytest.raises(ConfigError, match=f"began with other contents: {name}: 000000000000"):
            raft.run(configure(given), str(folder))


def test_people_choose(given, tmp_path, capsys):
    folder = tmp_path / "raft"
    config = configure(
        given, raft__people=True, raft__judges=(), raft__rounds=1, data__eval=(),
        raft__reference_answers=True, raft__measure_kl=False,
    )  # fmt: skip
    raft.run(config, str(folder))
    assert "write the number of the best answer" in capsys.readouterr().out
    assert not (folder / "export").exists()
    place = folder / "rounds/01"
    head, *lines = (place / "for_people.csv").read_text(encoding="utf-8-sig").splitlines()
    assert head.endswith("answer_4")  # three sampled, one reference
    (place / "choices.csv").write_text(
        "\n".join([head, *(line.replace("?,,", "?,1,", 1) for line in lines)]) + "\n"
    )
    raft.run(config, str(folder))
    rows = read_lines(place / "candidates.jsonl")
    assert len({row["choice"] for row in rows}) > 1  # the first shown is any of them
    assert (folder / "export/adapter_model.safetensors").exists()


def test_nothing_acceptable_trains_nothing(given, tmp_path):
    write_judge(given, tmp_path / "judge", threshold=1e9)
    folder = tmp_path / "raft"
    config = configure(
        given, raft__rounds=1, raft__judges=(str(tmp_path / "judge"),), raft__accept=("judge",)
    )
    raft.run(config, str(folder))
    summary = json.loads((folder / "rounds/01/summary.json").read_text())
    assert summary["prompts_without_choice_share"] == 1.0 and summary["optimizer_steps"] == 0
    assert "no candidate was chosen (" in summary["remark"]
    assert "nothing is learned" in (folder / "README.md").read_text()
    exported = load_file(folder / "export/adapter_model.safetensors")
    assert all(not value.any() for name, value in exported.items() if "lora_B" in name)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"raft__judges": ()}, ConfigError, "raft.judges is empty"),
        ({"raft__prompts": 16}, DataError, "2 rounds of 12 need 24"),
        ({"raft__rank_by": "x"}, ConfigError, "raft.rank_by 'x'"),
        ({"sample__max_new_tokens": 64}, ConfigError, "leaves no room for a prompt"),
        ({"sample__lanes": 12}, ConfigError, "lanes 12 does not divide"),
    ],
)
def test_mistakes(changes, error, message, given, tmp_path):
    with pytest.raises(error, match=message) as raised:
        raft.run(configure(given, **changes), str(tmp_path / "raft"))
    assert "\n" not in str(raised.value)
