"""The command line: configs by name from any folder, every mistake in one line, what help says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from safety_jax import __version__, command_line, main
from safety_jax.base import assets
from safety_jax.base.errors import ConfigError
from safety_jax.stages import checks, config_files

ROOT = Path(__file__).parent.parent
DEMO = ("--config=sft:demo", "--workdir=run")
OWN = """
from configs import sft
from configs.common import parse_arg

def get_config(arg=None):
    choice = parse_arg(arg, steps=5)
    config = sft.get_config("demo")
    config.train.max_steps = choice.steps
    return config
"""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """No test runs in the checkout."""
    monkeypatch.chdir(tmp_path)


def call(monkeypatch, capsys, *words: str) -> tuple[int, str, list[str]]:
    """The exit code, what was printed, and the lines of stderr; nothing here starts a stage."""
    monkeypatch.setattr("sys.argv", ["safety-jax", *words])
    code = 0
    try:
        main.run()
    except SystemExit as ended:
        code = int(ended.code or 0)
    said = capsys.readouterr()
    return code, said.out, said.err.splitlines()


# ---------------------------------------------------------------------------- configs


@pytest.mark.parametrize("name", ["dpo:loss=simpo", "configs/dpo.py:loss=simpo"])
def test_a_config_of_the_package_has_its_name_in_every_folder(name):
    config = command_line.parse(["", f"--config={name}", "--config.dpo.beta=3", "--show"]).config
    assert (config.stage, config.dpo.objective, config.dpo.beta) == ("dpo", "simpo", 3.0)
    with pytest.raises(AttributeError):
        config.dpo.betta = 1.0


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("I-CoNa?attack=base64,prefill:10", ("I-CoNa?attack=base64,prefill:10",)),
        ("Twins,XSTest?turns=again,amid:3", ("Twins", "XSTest?turns=again,amid:3")),
        ("x?asked=Well, say&columns=a:b,c:d", ("x?asked=Well, say&columns=a:b,c:d",)),
        ("a.csv?kind=safe&columns=id:n,prompt:q", ("a.csv?kind=safe&columns=id:n,prompt:q",)),
        ("('I-CoNa?attack=base64,rot13', 'XSTest')", ("I-CoNa?attack=base64,rot13", "XSTest")),
        ("'a?rows=2','b'", ("a?rows=2", "b")),
        ("I-CoNa,XSTest", ("I-CoNa", "XSTest")),
    ],
)
def test_options_that_are_lists_need_no_quotes(given, found):
    words = ["", "--config=evaluate", f"--config.evaluate.sets={given}", "--show"]
    assert command_line.parse(words).config.evaluate.sets == found


@pytest.mark.parametrize(
    ("key", "given", "found"),
    [
        ("evaluate.judges", "refusal,harm=runs/harm/export", ("refusal", "harm=runs/harm/export")),
        ("evaluate.judges", "both=a|b,refusal", ("both=a|b", "refusal")),
        ("evaluate.judges", "harm=runs/harm/export", ("harm=runs/harm/export",)),
        ("evaluate.judges", "('refusal','harm=a,b')", ("refusal", "harm=a,b")),
        ("data.stored", "a.json,/x/b.json", ("a.json", "/x/b.json")),
        ("data.stored", "/my data/a, b.json", ("/my data/a", "b.json")),
        ("data.stored", "'/my data/a, b.json'", ("/my data/a, b.json",)),
        ("data.stored", "/my data/it's.json", ("/my data/it's.json",)),
        ("data.stored", "a?columns=x:y,z:w&rows=3,b", ("a?columns=x:y,z:w&rows=3", "b")),
        ("data.stored", "a?columns=x:y,z:w.v,hf:b:c,d", ("a?columns=x:y,z:w.v", "hf:b:c", "d")),
        ("data.stored", "a?without=x,y&rows=3,b.json", ("a?without=x,y&rows=3", "b.json")),
        ("data.stored", "a?without=x,b.json", ("a?without=x", "b.json")),
        ("answer.stop", "Well, then", ("Well, then",)),
        ("data.stored", "", ()),
        ("evaluate.judges", "", ()),
    ],
)  # fmt: skip
def test_texts_are_separated_by_commas(key, given, found):
    stage = "score" if key == "data.stored" else "evaluate"
    words = ["", f"--config={stage}", f"--config.{key}={given}", "--show"]
    apart = ["", f"--config={stage}", f"--config.{key}", given, "--show"]
    for way in (words, apart):
        config = command_line.parse(way).config
        for part in key.split("."):
            config = config[part]
        assert config == found


@pytest.mark.parametrize(
    ("given", "found"),
    [("1", ("1",)), ("True", ("True",)), ("1,2", ("1", "2")), ("'1'", ("1",)), ("-0.5", ("-0.5",))],
)
def test_labels_are_texts(given, found):
    words = ["", "--config=audit", f"--config.data.positive={given}", "--show"]
    assert command_line.parse(words).config.data.positive == found


@pytest.mark.parametrize("stage", ["sft", "dpo", "kto", "orpo", "reward", "raft"])
def test_the_demo_is_found_where_it_was_installed(stage):
    config = config_files.load(f"{stage}:demo")
    assert Path(config.model.path, "model.safetensors").is_file()
    assert Path(config.model.path).is_absolute()
    sources = config.data.prompts if stage == "raft" else config.data.train
    assert all(Path(spec.partition("?")[0]).is_file() for spec in sources)


def test_in_a_checkout_the_demo_has_its_short_names(monkeypatch):
    monkeypatch.chdir(assets.root())
    assert config_files.load("sft:demo").model.path == "launch/demo/model"


@pytest.mark.parametrize("folder", ["", "configs", "runs/mine"])
def test_a_config_file_of_ones_own_may_stand_anywhere(tmp_path, folder):
    """In a folder called `configs`, too, where it is not in the way of those that it imports."""
    file = tmp_path / folder / "mine.py"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(OWN)
    assert config_files.load(f"{file}:steps=7").train.max_steps == 7
    assert config_files.load(str(file.relative_to(tmp_path))).train.max_steps == 5


def test_a_folder_called_configs_has_its_own_files_first(tmp_path):
    """A copy of the whole folder, changed: its files import each other."""
    folder = tmp_path / "configs"
    folder.mkdir()
    for name in ("common", "sft"):
        text = (assets.root() / "configs" / f"{name}.py").read_text()
        (folder / f"{name}.py").write_text(text.replace('"launch/demo/', '"changed/'))
    assert "changed" in config_files.load("configs/sft.py:demo").model.path
    assert "changed" not in config_files.load("sft:demo").model.path


def test_names_are_not_taken_for_folders_of_the_same_name(tmp_path):
    (tmp_path / "dpo").mkdir()
    assert config_files.load("dpo").stage == "dpo"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def get_config(:\n", "line 1: invalid syntax"),
        ("import nothing_of_this_name\n", "line 1: ModuleNotFoundError: No module named"),
        ("\ndef get_config(arg=None):\n    return 1 / 0\n", "line 3: ZeroDivisionError"),
        ("x = 1\n", "has no function get_config"),
        ("x = 1\0\n", "mine.py: source code string cannot contain null bytes"),
        ("def get_config(arg=None):\n    return {}\n", "returned no config with a `stage`"),
        (OWN, "'no=1' is unknown; expected steps=<int>"),
    ],
)
def test_what_is_wrong_in_a_config_file_is_said_with_its_line(tmp_path, text, said):
    file = tmp_path / "mine.py"
    file.write_text(text)
    with pytest.raises(ConfigError, match=re.escape(said)) as error:
        config_files.load(f"{file}:no=1")
    assert str(file) in str(error.value)


def test_a_folder_that_exists_is_no_misspelled_name(tmp_path):
    (tmp_path / "tampr").mkdir()
    with pytest.raises(ConfigError, match="is a folder; expected one of"):
        config_files.find(str(tmp_path / "tampr"), "--config")


# ---------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--config=sfd", "--workdir=run"], "did you mean sft? expected one of attack, audit"),
        (["--config=configs/none.py", "--workdir=run"], "'configs/none.py' names no config file"),
        (["--config=.", "--workdir=run"], "'.' is a folder; expected one of attack"),
        (["--config=", "--workdir=run"], "'' names no config file"),
        (["--workdir=run"], "--config is missing; expected one of attack"),
        (["sft:demo", "--workdir=run"], "missing; did you mean --config=sft:demo? expected one"),
        ([*DEMO, "--config.stage=dpo"], "the stage is the config's own, sft; for another one,"),
        ([*DEMO, "--processes=two"], "--processes is 'two'; expected a whole number"),
        ([*DEMO, "--show=maybe"], "--show is 'maybe'; expected true or false"),
        (["--config=sft:demo"], "--workdir is missing"),
        (["--config=sft:demo", "--workdir="], "--workdir is missing"),
        ([*DEMO, "--config=dpo"], "--config is given 2 times"),
        (["--config=sft:safty=5", "--workdir=run"], "'safty=5' is unknown; expected demo, safety="),
        ([*DEMO, "--config.optim.learning_rat=1"], "did you mean optim.learning_rate?"),
        ([*DEMO, "--config.optimizer.beta1=0.5"], "the config has no key 'optimizer.beta1'"),
        ([*DEMO, "--config.optim=fast"], "optim is 'fast'; expected a group of keys"),
        ([*DEMO, "--config.train.batch_size=many"], "train.batch_size is 'many'; expected a whole"),
        ([*DEMO, "--config.train.batch_size=1.5"], "train.batch_size is '1.5'; expected a whole"),
        ([*DEMO, "--config.data.packing=perhaps"], "data.packing is 'perhaps'; expected true or f"),
        ([*DEMO, "--config.train.batch_size=-2"], "train.batch_size is -2; expected a whole"),
        ([*DEMO, "--config.data.train=('a', 1)"], "data.train is ('a', 1); expected a tuple of"),
        ([*DEMO, "--wrkdir=run"], "no flag is called --wrkdir; did you mean --workdir?"),
        ([*DEMO, "--hepl"], "no flag is called --hepl; did you mean --help?"),
        (["--hepl"], "no flag is called --hepl; did you mean --help?"),
        (["--confg=sft", "--workdir=run"], "no flag is called --confg; did you mean --config?"),
        ([*DEMO, "--train.epochs=3"], "--train.epochs; did you mean --config.train.epochs?"),
        ([*DEMO, "--noconfig.data.packing=1"], "takes no value; expected --config.data.packing=f"),
        ([*DEMO, "--nodistributed=1"], "takes no value; expected --distributed=false"),
        ([*DEMO, "--config.data.train"], "Missing value for flag --config.data.train"),
        ([*DEMO, "more"], "unexpected argument 'more'"),
        (["--config=sft", "--workdir=run"], "model.path is empty; expected a Hugging Face folder, "
         "hub id or GGUF file; set --config.model.path=..."),
        ([*DEMO, "--coordinator=a:1"], "belong together"),
        ([*DEMO, "--distributed", "--process=0"], "belong together"),
        ([*DEMO, "--distributed", "--coordinator=here", "--processes=2", "--process=0"],
         "--coordinator 'here': expected HOST:PORT"),
        ([*DEMO, "--distributed", "--coordinator=a:1", "--processes=2", "--process=2"],
         "--processes 2, --process 2: expected process to count from 0"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_code_two(words, said, monkeypatch, capsys, tmp_path):
    code, out, lines = call(monkeypatch, capsys, *words)
    assert (code, out, len(lines)) == (2, "", 1), lines
    assert lines[0].startswith("error: ") and said in lines[0]
    assert not (tmp_path / "run").exists()


def test_every_value_that_does_not_fit_has_its_line(monkeypatch, capsys):
    given = ("--config.optim.beta2=2", "--config.seed=-1", "--config.checkpoint.best_metric=loss")
    code, _, lines = call(monkeypatch, capsys, *DEMO, *given)
    assert code == 2 and len(lines) == 3 and all(line.startswith("error: ") for line in lines)


def test_flags_may_stand_in_a_file_and_in_any_order(tmp_path):
    (tmp_path / "flags").write_text("--config.seed=3\n--workdir=run\n")
    command = command_line.parse(["", "--flagfile=flags", "--config", "sft:demo"])
    assert (command.config.seed, command.workdir, command.shows) == (3, "run", False)


def test_the_folder_of_the_run_may_be_in_the_users_home(monkeypatch):
    """A shell leaves `~` behind `=` as it is. Supervisors of hosts write into the folder, too."""
    monkeypatch.setenv("HOME", "/home/of a user")
    command = command_line.parse(["", "--config=sft:demo", "--workdir=~/runs/sit"])
    assert command.workdir == "/home/of a user/runs/sit"


def test_several_hosts():
    words = ["--distributed", "--coordinator=[::1]:90", "--processes=2", "--process=1"]
    command = command_line.parse(["", *DEMO, *words])
    assert command.distributed and command.place == ("[::1]:90", 2, 1)
    assert command_line.parse(["", *DEMO, "--distributed"]).place is None


# ---------------------------------------------------------------------------- for people


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_help_lists_every_config_with_its_first_line_and_arguments(words, monkeypatch, capsys):
    code, out, lines = call(monkeypatch, capsys, *words)
    assert code == 0 and not lines
    for name in config_files.available():
        opening = (ROOT / "configs" / f"{name}.py").read_text().splitlines()[0].strip('"')
        assert re.search(rf"^  {name} +{re.escape(opening)}$", out, re.MULTILINE)
    assert ":demo, safety=N, paper=..." in out and "--workdir=" in out
    examples = re.findall(r"^  safety-jax (--.*)$", out, re.MULTILINE)
    assert len(examples) == 2
    for example in examples:  # they are commands that can be started
        command = command_line.parse(["", *example.split()])
        assert checks.problems(command.config) == []


def test_help_of_a_config_is_its_docstring_and_its_keys(monkeypatch, capsys):
    code, out, _ = call(monkeypatch, capsys, "--config=reward", "--help")
    assert code == 0 and out.startswith("Trains a judge:") and "binary      whether each" in out
    assert re.search(
        r"^optim.beta1 +=.*# a number, 0 or more, below 1\n    of AdamW$", out, re.MULTILINE
    )


def test_show_prints_the_complete_config_that_would_run(monkeypatch, capsys, tmp_path):
    spec = "--config.data.train=('https://ann:S3CRET@host/x.jsonl?sig=S3CRET',)"
    code, out, lines = call(monkeypatch, capsys, "--config=dpo", "--config.seed=7", spec, "--show")
    assert "('https://***@host/x.jsonl?***',)" in out and "S3CRET" not in out
    shown = dict(re.findall(r"^(\S+) += (.*?)  +# ", out, re.MULTILINE))
    config = config_files.load("dpo")
    assert code == 0 and not lines and set(shown) == set(checks.table(config))
    assert (shown["seed"], shown["data.template"]) == ("7", "'alpaca'")
    assert [key for key in shown if key.startswith("model.")] == list(shown)[2:11]  # by group
    assert not any(tmp_path.iterdir())


def test_what_would_not_run_is_shown_and_refused(monkeypatch, capsys):
    code, out, lines = call(monkeypatch, capsys, "--config=dpo", "--config.dpo.beta=0", "--show")
    assert code == 2 and "dpo.beta" in out
    assert lines == ["error: dpo.beta is 0.0; expected a number, above 0"]


def test_a_reader_may_have_read_enough():
    """As `safety-jax --help | head -1` has: no traceback, now or at the end of Python."""
    shell = 'set -o pipefail; "$0" -m safety_jax.main --help | true'
    result = subprocess.run(
        ["bash", "-c", shell, sys.executable], cwd=ROOT, capture_output=True, timeout=60
    )
    assert (result.returncode, result.stderr) == (0, b"")


def test_the_version(monkeypatch, capsys):
    assert call(monkeypatch, capsys, "--version")[1] == f"safety_jax {__version__}\n"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError("Unable to allocate 8.00 GiB"), "out of memory (Unable to allocate 8.00"),
        (OSError(28, "No space left on device", "run/x"), "cannot write run/x: No space left"),
        (
            PermissionError(13, "Permission denied", "m"),
            "m: Permission denied; expected a path that",
        ),
        (OSError(36, "File name too long", "m/n"), "m/n: File name too long; expected a path that"),
        (
            RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9"),
            "out of memory (RES",
        ),
        (RuntimeError("a bug"), None),
        (OSError(2, "No such file or directory"), None),
    ],
)
def test_what_a_user_can_cause_is_told_from_a_bug(error, said):
    line = main.explain(error)
    assert line is None if said is None else said in str(line)


def test_a_work_folder_that_vanished_is_no_bug(tmp_path):
    error = FileNotFoundError(2, "No such file or directory", str(tmp_path / "plots/loss.png"))
    assert main.explain(error) is None and main.explain(error, tmp_path / "other") is None
    line = str(main.explain(error, tmp_path))
    assert line.startswith(f"--workdir {tmp_path}: ") and "was it moved, removed or edited?" in line


def test_ctrl_c_is_one_line(monkeypatch, capsys):
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(main, "_run", interrupted)
    monkeypatch.setattr(main.signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as left:
        main.run()
    assert left.value.code == 130
    assert "run the same command to continue" in capsys.readouterr().err
