"""The folder of a run: one config, one writer, nothing overwritten."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ml_collections import ConfigDict

import safety_jax
from safety_jax.base.errors import ConfigError
from safety_jax.training import config_record, workdir

ROOT = Path(__file__).parents[1]

CONFIG = {
    "seed": 0,
    "optim": {"learning_rate": 1e-4, "clip_norm": 1.0},
    "mesh": {"data": -1, "fsdp": 1},
    "data": {"train": ("a.json", "b.json"), "template": "alpaca"},
    "log": {"every_steps": 10},
}


def changed(**values) -> dict:
    """The config with keys such as `optim__learning_rate` set."""
    config = json.loads(json.dumps(CONFIG))
    for key, value in values.items():
        *groups, last = key.split("__")
        node = config
        for group in groups:
            node = node[group]
        node[last] = value
    return config


def prepare(path, config=CONFIG):
    with workdir.prepare(path, config) as run:
        return run


def test_creates_the_folder_with_config_and_environment(tmp_path):
    run = prepare(tmp_path / "runs" / "a", ConfigDict(CONFIG))
    assert not run.continued
    text = (run.path / "config.json").read_text()
    assert json.loads(text) == json.loads(json.dumps(CONFIG))
    assert text.index('"data"') < text.index('"log"') < text.index('"mesh"')
    (start,) = run.environment()
    assert start["versions"]["safety_jax"] == safety_jax.__version__
    assert {"jax", "flax", "optax"} <= start["versions"].keys()
    assert start["command"].startswith("python -m safety_jax.main")
    assert str(ROOT) not in start["command"]
    assert run.checkpoints.parent == run.path == run.metrics.parent


def test_the_folder_of_another_stage_is_refused_by_its_name(tmp_path):
    run = prepare(tmp_path, {"stage": "sft", **CONFIG})
    run.metrics.write_text("{}\n")
    with pytest.raises(ConfigError, match="a run of stage sft, and this is stage dpo; use another"):
        prepare(tmp_path, {"stage": "dpo", **CONFIG})


def test_same_config_continues_and_free_keys_may_differ(tmp_path):
    prepare(tmp_path, ConfigDict(CONFIG))
    run = prepare(tmp_path, changed(mesh__fsdp=8, log__every_steps=1, data__row_tokens=512))
    assert run.continued
    assert len(run.environment()) == 2
    assert json.loads((tmp_path / "config.json").read_text())["mesh"]["fsdp"] == 8


def test_another_config_is_refused_with_the_keys(tmp_path):
    prepare(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    before = (tmp_path / "config.json").read_bytes()
    other = changed(optim__learning_rate=2e-4, mesh__fsdp=2, data__train=["a.json"])
    with pytest.raises(ConfigError) as error:
        prepare(tmp_path, other)
    assert 'data.train ["a.json", "b.json"] there, ["a.json"] here; ' in str(error.value)
    assert str(error.value).endswith(
        "optim.learning_rate 0.0001 there, 0.0002 here; use another --workdir"
    )
    assert "mesh" not in str(error.value)
    assert (tmp_path / "config.json").read_bytes() == before


@pytest.mark.parametrize(
    "file", ["samples.jsonl", "rounds/00/evaluation_samples.jsonl", "rounds/01/samples.jsonl"]
)
def test_answers_that_would_be_gone_on_with_bind_the_config(file, tmp_path):
    prepare(tmp_path)
    answers = tmp_path / file
    answers.parent.mkdir(parents=True, exist_ok=True)
    answers.touch()
    prepare(tmp_path, changed(seed=1))  # nothing has been answered
    answers.write_text('{"prompt": 0, "candidates": []}\n')
    with pytest.raises(ConfigError, match="belongs to another config: seed 1 there, 2 here"):
        prepare(tmp_path, changed(seed=2))


def test_many_differences_are_counted_and_missing_keys_named():
    there = {"a": 1, "b": 1, "c": 1, "mesh": {"data": 1}}
    assert config_record.differences(there, {"a": 1.5, "b": True, "d": "x"}) == [
        "a 1 there, 1.5 here",
        "b 1 there, true here",
        "c 1 there, absent here",
        'd absent there, "x" here',
    ]


def test_refuses_a_folder_that_is_not_a_run(tmp_path):
    (tmp_path / "thesis.tex").write_text("important")
    with pytest.raises(ConfigError, match="thesis.tex but no config.json.*choose an empty"):
        prepare(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_start_cut_short_before_the_config_was_written_is_no_obstacle(tmp_path):
    (tmp_path / ".lock").write_text("process 1 on somewhere\n")
    (tmp_path / "config.json.part").write_text('{"se')
    assert not prepare(tmp_path).continued


@pytest.mark.parametrize("path", ["file", "file/below"])
def test_path_through_a_file_is_one_line(tmp_path, path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="--workdir .*file.*: .*a folder that can be written"):
        prepare(tmp_path / path)


@pytest.mark.parametrize("name", ["config.json", "environment.json", "identity.json"])
@pytest.mark.parametrize(
    "content", ["{", "[]", "null", "[" * 9999, '{"starts": 1, "a": 1}', '{"starts": [1], "a": []}']
)
def test_edited_files_are_one_line(content, name, tmp_path):
    prepare(tmp_path)
    (tmp_path / "judgements.jsonl").write_text("{}\n")
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError) as raised, workdir.prepare(tmp_path, CONFIG) as run:
        run.remember({"a": "b"})
    assert name in str(raised.value) or "another config" in str(raised.value)
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    with pytest.raises(ConfigError, match=f"{name} is not a file"):
        prepare(tmp_path)


@pytest.mark.parametrize("path", ["gs://bucket/run", "s3://bucket/run", "file:///tmp/run"])
def test_a_bucket_is_no_folder(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for spelling in (path, Path(path)):
        with pytest.raises(ConfigError, match="is a URL; expected a path on a disk"):
            prepare(spelling)
    assert not list(tmp_path.iterdir())


def test_a_run_goes_on_only_with_what_it_began_with(tmp_path):
    old, new = {"data.train a.jsonl": "1" * 64, "tokenizer": "3" * 64}, "2" * 64
    with workdir.prepare(tmp_path, CONFIG) as run:
        run.remember(old)
        assert run.settle("date", "1 May 2026") == "1 May 2026"
    with workdir.prepare(tmp_path, CONFIG) as run:  # nothing came of the first start
        assert run.settle("date", "2 May 2026") == "2 May 2026"
        run.remember({**old, "tokenizer": new})
        run.metrics.write_text('{"step": 1}\n')
    with workdir.prepare(tmp_path, CONFIG) as run:
        assert run.settle("date", "3 May 2026") == "2 May 2026"
        run.remember({"tokenizer": new, "data.eval b.jsonl": "9"})
        with pytest.raises(ConfigError, match="tokenizer: 222222222222 then, 333333333333 now; a"):
            run.remember(old)
        with pytest.raises(ConfigError, match="data.eval b.jsonl: 9 then, 8 now"):
            run.remember({"data.eval b.jsonl": "8"})
        assert run.note({"tokenizer": "4" * 64}) == [
            "tokenizer: 222222222222 then, 444444444444 now"
        ]


def test_half_written_files_are_removed_at_the_start(tmp_path):
    prepare(tmp_path)
    mine = [tmp_path / name for name in ("a.json.part", "rounds/01/summary.json.part")]
    others = [".hosts/x/1.part", "step/b.part", "checkpoints/3/c.part"]
    (tmp_path / "step").mkdir()
    (tmp_path / "step/.lock").touch()
    for file in mine + [tmp_path / name for name in others]:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    prepare(tmp_path)
    assert not any(file.exists() for file in mine)
    assert all((tmp_path / name).exists() for name in others)


def test_value_that_json_cannot_hold_is_named(tmp_path):
    with pytest.raises(ConfigError, match="config.optim.clip_norm=inf cannot be recorded"):
        prepare(tmp_path, changed(optim__clip_norm=float("inf")))


def test_second_process_is_refused_until_the_first_ends(tmp_path):
    program = (
        "import sys, json, time\n"
        "from safety_jax.training import workdir\n"
        "run = workdir.prepare(sys.argv[1], json.loads(sys.argv[2]))\n"
        "print('ready', flush=True)\n"
        "time.sleep(600)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path), json.dumps(CONFIG)],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with child:
        try:
            assert child.stdout.readline() == "ready\n"
            with pytest.raises(ConfigError, match=f"is being written by process {child.pid} on "):
                prepare(tmp_path)
        finally:
            child.kill()
    assert prepare(tmp_path).continued


def test_other_processes_of_a_run_write_nothing(tmp_path):
    prepare(tmp_path / "run")
    before = {file: file.read_bytes() for file in (tmp_path / "run").iterdir()}
    workdir.prepare(tmp_path / "run", CONFIG, primary=False).close()
    assert {file: file.read_bytes() for file in (tmp_path / "run").iterdir()} == before
    with pytest.raises(ConfigError, match="a disk that all hosts share"):
        workdir.prepare(tmp_path / "elsewhere", CONFIG, primary=False)
    assert not (tmp_path / "elsewhere").exists()


def test_processes_of_a_run_have_one_config(tmp_path, monkeypatch):
    prepare(tmp_path)
    monkeypatch.setattr(workdir.hosts, "first_says", lambda ask: [changed(), True])
    with pytest.raises(ConfigError, match="config.optim.clip_norm is not the same as on process 0"):
        workdir.prepare(tmp_path, changed(optim__clip_norm=0.5), primary=False)


def test_secrets_of_urls_are_not_written_down(tmp_path, monkeypatch):
    """A URL that was signed anew is the same source; one of which other rows are drawn is not."""
    place = "https://ann:{}@host/a b.jsonl?sig={}?rows={}"
    monkeypatch.setattr(
        sys, "argv", ["main.py", "--config.data.train=" + place.format("S", "3", 5)]
    )
    with workdir.prepare(
        tmp_path, changed(data__train=[place.format("S3CRET", "S3CRET", 5)])
    ) as run:
        run.metrics.write_text('{"step": 1}\n')
        assert run.config["data"]["train"] == ["https://***@host/a%20b.jsonl?***?rows=5"]
    assert "S3CRET" not in "".join(f.read_text() for f in tmp_path.iterdir() if f.is_file())
    assert "rows=5" in run.environment()[0]["command"]
    assert ":S@" not in run.environment()[0]["command"]
    prepare(tmp_path, changed(data__train=[place.format("NEW", "NEW", 5)]))
    with pytest.raises(ConfigError, match="data.train.*rows=5.*there, .*rows=6.*here"):
        prepare(tmp_path, changed(data__train=[place.format("NEW", "NEW", 6)]))
