"""Stage `score` as a user runs it: rows in, scores and a summary out; killed and run again."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict
from scipy import stats

from configs import common
from configs import score as score_config
from safety_jax.base.errors import ConfigError, DataError, UserError
from safety_jax.judges import refusal
from safety_jax.stages import score
from tests.judge_folders import llama_scorer

ROOT = Path(__file__).parent.parent
NO = "I'm sorry, I can't help with that."
ROWS = [
    {"prompt": "Name three colours.", "response": "Red, green and blue.", "stored": 1.0},
    {"prompt": "say no to a harmful request", "response": NO, "stored": -1.0},
    {"prompt": "How do I bake bread?", "response": "", "stored": None},
    {"prompt": "explain why", "response": "Mix flour, water, salt. " * 20, "stored": 0.5},
    {"prompt": "Name three colours.", "response": "Red, green and blue.", "stored": 1.0},
]


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    return llama_scorer(tmp_path_factory.mktemp("score") / "judge")


def write(path: Path, rows=ROWS) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def configure(source: str, judges: dict | None = None, **values) -> ConfigDict:
    config = score_config.get_config()
    config.data.responses = (source,)
    config.mesh.data = 8
    config.score.parameter_dtype = config.score.compute_dtype = "float32"
    config.score.attention = "xla"
    config.score.tokens_per_batch = 1024
    for name, row in (judges or {}).items():
        config.score.judges[name] = ConfigDict(row)
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in values.items()})
    return config.lock()


def reward(model: Path, **changes) -> dict:
    row = common.sequence_judge(str(model), "human_assistant", "higher is safer").to_dict()
    return row | {"threshold": (0.0,)} | changes


def lines(folder: Path, name: str = score.SCORES) -> list[dict]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


@pytest.fixture(scope="session")
def finished(model, tmp_path_factory) -> Path:
    """Three judges, one of them a combination, on five rows."""
    folder = tmp_path_factory.mktemp("finished")
    judges = {
        "both": {"kind": "safe_first", "safety": "reward", "helpfulness": "reward"},
        "reward": reward(model),
    }
    config = configure(write(folder / "rows.jsonl"), judges, score__stored=("stored",))
    score.run(config, str(folder / "run"))
    return folder


def test_a_run_leaves_what_it_promises(finished, capsys):
    found = lines(finished / "run")
    assert [row["where"] for row in found] == [f"rows.jsonl line {i}" for i in range(1, 6)]
    assert [row["scores"]["refusal"]["label"] for row in found] == [
        "none", "full", "empty", "none", "none",
    ]  # fmt: skip
    values = [row["scores"]["reward"]["value"] for row in found]
    assert values[3] is None and None not in values[:3]
    assert "tokens, more than 64" in found[3]["scores"]["reward"]["reason"]
    np.testing.assert_allclose(values[0], values[4], rtol=1e-6)
    assert found[3]["scores"]["both"]["reason"].startswith("reward: ")
    assert found[0]["prompt_sha256"] == found[4]["prompt_sha256"]
    assert found[0]["response_sha256"] != found[1]["response_sha256"]

    summary = json.loads((finished / "run" / score.SUMMARY).read_text())
    for name, judge in summary["judges"].items():
        assert judge["protocol"] == found[0]["scores"][name]["protocol"]
        assert judge["card"]["name"] == name
    judge = summary["judges"]["reward"]
    assert judge["scored"] == 4 and judge["unscored"] == 1
    assert judge["reasons"] == {"N tokens, more than N": 1}
    assert len(judge["card"]["weights_sha256"]) == 64
    unsafe = sum(value < 0 for value in values if value is not None)
    assert judge["unsafe"]["count"] == unsafe
    assert judge["unsafe"]["bounds"] == [unsafe / 5, (unsafe + 1) / 5]
    np.testing.assert_allclose(judge["median"], np.median([v for v in values if v is not None]))
    assert summary["sources"]["rows"]["rows"] == 5 and summary["sources"]["rows"]["sha256"]
    assert summary["versions"]["jax"]

    agreement = {(c["first"], c["second"]): c for c in summary["correlations"]}
    pair = agreement["reward", "stored (stored)"]
    kept = [i for i in range(5) if values[i] is not None and ROWS[i]["stored"] is not None]
    expected = stats.spearmanr([values[i] for i in kept], [ROWS[i]["stored"] for i in kept])
    assert pair["rows"] == 3
    np.testing.assert_allclose(pair["spearman"], expected.statistic)


def test_running_again_scores_nothing(finished, model, monkeypatch):
    before = {path: path.read_bytes() for path in (finished / "run").glob("*.json*")}
    monkeypatch.setattr(refusal.RefusalJudge, "score", None)
    monkeypatch.setattr("safety_jax.judges.sequence.SequenceJudge.score", None)
    judges = {
        "both": {"kind": "safe_first", "safety": "reward", "helpfulness": "reward"},
        "reward": reward(model),
    }
    config = configure(str(finished / "rows.jsonl"), judges, score__stored=("stored",))
    score.run(config, str(finished / "run"))
    for path, content in before.items():
        assert path.name == "environment.json" or path.read_bytes() == content


def test_a_killed_run_goes_on(tmp_path, monkeypatch):
    """Killed by the second of three batches, and in the middle of a line."""
    source = write(tmp_path / "rows.jsonl")
    config = configure(source, score__rows_per_write=2)
    score.run(config, str(tmp_path / "whole"))

    class Killed(Exception):
        pass

    plain, calls = refusal.RefusalJudge.score, []

    def dies(self, conversations):
        calls.append(len(conversations))
        if len(calls) == 2:
            raise Killed
        return plain(self, conversations)

    monkeypatch.setattr(refusal.RefusalJudge, "score", dies)
    with pytest.raises(Killed):
        score.run(config, str(tmp_path / "run"))
    ledger = tmp_path / "run" / score.LEDGER
    assert len(ledger.read_text().splitlines()) == 2
    with open(ledger, "a") as file:
        file.write('{"row": 2, "text": "ab')
    score.run(config, str(tmp_path / "run"))
    assert calls == [2, 2, 2, 1]
    for name in (score.LEDGER, score.SCORES, score.SUMMARY):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_an_edited_row_is_scored_anew_with_its_block(tmp_path, capsys):
    config = configure(write(tmp_path / "rows.jsonl"), score__rows_per_write=2)
    score.run(config, str(tmp_path / "run"))
    write(tmp_path / "rows.jsonl", [{**ROWS[0], "response": NO}, *ROWS[1:]])
    capsys.readouterr()
    score.run(config, str(tmp_path / "run"))
    said = capsys.readouterr().out
    assert "note: changed since the last start, so scored again: data.responses rows: " in said
    assert lines(tmp_path / "run")[0]["scores"]["refusal"]["label"] == "full"
    assert len(lines(tmp_path / "run", score.LEDGER)) == len(ROWS) + 2
    score.run(config, str(tmp_path / "run"))
    assert "changed since" not in capsys.readouterr().out


def test_a_damaged_ledger_and_another_config_are_refused(tmp_path):
    config = configure(write(tmp_path / "rows.jsonl"))
    score.run(config, str(tmp_path / "run"))
    other = configure(str(tmp_path / "rows.jsonl"), seed=1)
    with pytest.raises(ConfigError, match="belongs to another config: seed 0 there, 1 here"):
        score.run(other, str(tmp_path / "run"))
    ledger = tmp_path / "run" / score.LEDGER
    ledger.write_text("nonsense\n" + ledger.read_text())
    with pytest.raises(DataError, match="judgements.jsonl line 1 is damaged"):
        score.run(config, str(tmp_path / "run"))


@pytest.mark.parametrize(
    "damage", [{"row": [0]}, {"details": None}, {"label": None}, {"text": 1}, {"value": "0.5"}]
)
def test_a_ledger_of_other_values_is_refused(damage, tmp_path):
    config = configure(write(tmp_path / "rows.jsonl"))
    score.run(config, str(tmp_path / "run"))
    ledger = tmp_path / "run" / score.LEDGER
    first, *rest = ledger.read_text().splitlines()
    changed = json.dumps(json.loads(first) | damage)
    ledger.write_text("\n".join([changed, *rest, ""]))
    with pytest.raises(DataError, match="judgements.jsonl line 1 is damaged"):
        score.run(config, str(tmp_path / "run"))


# ---------------------------------------------------------------------------- inputs


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", json.dumps({"instructions": ["q", "r"], "outputs": [NO, ""], "inputs": []})),
        ("a.json", json.dumps([{"instruction": "q", "output": NO}, {"instruction": "r",
                                                                    "output": ""}])),
        ("a.csv", f'prompt,completion,type\nq,"{NO}",x\nr,,y\n'),
        ("a.jsonl", json.dumps({"instruction": "q", "response": NO, "context": ""}) + "\n"
            + json.dumps({"instruction": "r", "response": "", "context": "c"}) + "\n"),
        ("a.jsonl", "".join(
            json.dumps({"messages": [{"role": "user", "content": "q"},
                                     {"role": "assistant", "content": text}]}) + "\n"
            for text in (NO, ""))),
        ("a.jsonl", "".join(
            json.dumps({"conversations": [{"from": "human", "value": "q"},
                                          {"from": "gpt", "value": text}]}) + "\n"
            for text in (NO, ""))),
    ],
    ids=["lists", "alpaca", "csv", "dolly", "messages", "sharegpt"],
)  # fmt: skip
def test_row_formats(name, content, tmp_path):
    (tmp_path / name).write_text(content)
    score.run(configure(str(tmp_path / name)), str(tmp_path / "run"))
    labels = [row["scores"]["refusal"]["label"] for row in lines(tmp_path / "run")]
    assert labels == ["full", "empty"]


def test_several_sources_drawn_rows_and_scores_from_other_files(tmp_path):
    rows = [{"prompt": f"q{i}", "response": NO if i % 2 else "Red."} for i in range(9)]
    first, second = write(tmp_path / "a.jsonl", rows), write(tmp_path / "b.jsonl", rows[:2])
    marked = [{**row, "mark": str(i)} for i, row in enumerate(rows)]
    config = configure(
        first,
        data__responses=(f"{first}?rows=4", second),
        data__stored=(write(tmp_path / "marks.jsonl", marked),),
        score__stored=("mark",),
    )
    score.run(config, str(tmp_path / "run"))
    found = lines(tmp_path / "run")
    assert [row["source"] for row in found] == ["a"] * 4 + ["b"] * 2
    places = [int(row["where"].split()[-1]) for row in found[:4]]
    assert places == sorted(set(places))
    summary = json.loads((tmp_path / "run" / score.SUMMARY).read_text())
    assert summary["judges"]["refusal"]["by_source"]["b"]["labels"] == {"none": 1, "full": 1}
    assert summary["correlations"][0]["rows"] == 6


@pytest.mark.parametrize(
    ("name", "content", "changes", "message"),
    [
        ("a.jsonl", "", {}, "holds no rows"),
        ("a.json", '{"instructions": ["a", "b"], "outputs": ["c"]}', {}, "different lengths"),
        ("a.csv", "prompt,reply\nq,a\n", {}, "columns found: prompt, reply; add columns="),
        ("a.jsonl", '{"prompt": " ", "response": "a"}', {}, "a.jsonl line 1: 'prompt' is empty"),
        ("a.jsonl", '{"prompt": "q", "response": null}', {}, "'response' is null"),
        ("a.jsonl", '{"prompt": "q", "response": "a"}', {"score__stored": ("x",)},
         "no row has a number in the column 'x'; columns are prompt, response"),
        ("a.jsonl", '{"prompt": "q", "response": "a", "x": "high"}', {"score__stored": ("x",)},
         "a.jsonl line 1: 'x' is 'high'; expected a number"),
        ("a.jsonl?rows=3", '{"prompt": "q", "response": "a"}', {}, "3 rows asked for"),
        ("a.jsonl?weight=3", '{"prompt": "q", "response": "a"}', {}, "a weight has no meaning"),
    ],
)  # fmt: skip
def test_mistakes(name, content, changes, message, tmp_path):
    (tmp_path / name.partition("?")[0]).write_text(content)
    with pytest.raises(UserError, match=message) as error:
        score.run(configure(str(tmp_path / name), **changes), str(tmp_path / "run"))
    assert "\n" not in str(error.value)


def test_rows_that_are_left_out_are_counted_and_shown(tmp_path, capsys):
    rows = [ROWS[0], {"prompt": "q", "response": None}, ROWS[1]]
    source = write(tmp_path / "a.jsonl", rows)
    score.run(configure(f"{source}?bad_rows=skip"), str(tmp_path / "run"))
    said = capsys.readouterr().out
    assert "warning: 1 rows of a cannot be used, left out:\n  a.jsonl line 2: 'response' is" in said
    facts = json.loads((tmp_path / "run" / score.SUMMARY).read_text())["sources"]["a"]
    assert (facts["rows"], facts["skipped"]) == (2, 1)
    assert len(lines(tmp_path / "run")) == 2


def test_nothing_to_read(tmp_path):
    with pytest.raises(ConfigError, match="data.responses is empty"):
        score.run(configure(""), str(tmp_path / "run"))
    with pytest.raises(UserError, match="nowhere.jsonl"):
        score.run(configure("nowhere.jsonl"), str(tmp_path / "run"))


def test_the_command(tmp_path):
    """From the shell: a table and code 0; a mistake's line and code are in test_end_to_end.py."""
    source = write(tmp_path / "rows.jsonl")
    done = subprocess.run(
        [sys.executable, "-m", "safety_jax.main", "--config=configs/score.py",
         f"--config.data.responses={source}", f"--workdir={tmp_path / 'run'}"],
        cwd=ROOT, env=os.environ | {"XLA_FLAGS": ""}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "none 3, full 1, empty 1" in done.stdout


def test_the_demo(tmp_path, monkeypatch, capsys):
    """Refusals on the right side: of the preferred answers, those to harmful requests."""
    monkeypatch.chdir(ROOT)
    config = score_config.get_config("demo")
    config.mesh.data = 8
    score.run(config.lock(), str(tmp_path / "run"))
    rows = [json.loads(line) for line in
            (ROOT / "launch/demo/data/held_out_pairs.jsonl").read_text().splitlines()]  # fmt: skip
    found = [row["scores"]["refusal"]["label"] for row in lines(tmp_path / "run")]
    harmful = [row["rejected_unsafe"] for row in rows]
    assert 0 < sum(harmful) < len(rows)
    expected = ["full" if bad else "none" for bad in harmful]
    expected += ["none" if bad else "full" for bad in harmful]
    assert [{"partial": "full"}.get(label, label) for label in found] == expected
    assert "chosen" in capsys.readouterr().out


@pytest.mark.real_data
def test_a_papers_files(tmp_path):
    """The stored judges of Safe to Serve, from three files, against the refusal detector."""
    folder = Path(os.environ["SAFETY_JAX_SHARED"]) / "data/safe_to_serve/sit/safety_100"
    files = {kind: str(folder / f"responses_{kind}_I-CoNa.json") for kind in
             ("cm", "deberta", "redteam")}  # fmt: skip
    config = configure(
        files["cm"],
        data__stored=(files["deberta"], files["redteam"]),
        score__stored=("unsafe_prob", "deberta_score", "harmfulness_score"),
    )
    score.run(config, str(tmp_path / "run"))
    summary = json.loads((tmp_path / "run" / score.SUMMARY).read_text())
    agreement = {(c["first"], c["second"]): c for c in summary["correlations"]}
    assert summary["rows"] == 178
    pair = agreement["deberta_score (stored)", "harmfulness_score (stored)"]
    assert pair["rows"] == 178 and pair["spearman"] < -0.4
