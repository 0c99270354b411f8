"""Error lines: one line, nothing in it acts on a terminal, no secret of a URL."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from safety_jax.base import redaction, terminal
from safety_jax.base.errors import DataError, few

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Größe 漢字 👩\u200d🚀 a\xa0b", "Größe 漢字 👩\u200d🚀 a\xa0b"),
        ("\x1b]0;title\x07\x1b[31mred", r"\x1b]0;title\x07\x1b[31mred"),
        ("\x9b2J\x90q\x9c", r"\x9b2J\x90q\x9c"),  # the same in single bytes
        ("a\rb\x08\x7f\0", r"a\rb\x08\x7f\x00"),
        ("\u202etxt.exe\u2066\u200e\u061c", r"\u202etxt.exe\u2066\u200e\u061c"),
        ("a\u2028b\u200b\ufeff\U000e0041", r"a\u2028b\u200b\ufeff\U000e0041"),
        ("half \ud83d", r"half \ud83d"),
    ],
)
def test_what_a_terminal_would_act_on_is_spelled_out(text, shown):
    assert terminal.clean(text) == shown and terminal.clean(shown) == shown
    assert str(DataError(f"a.jsonl line 1: {text}")).encode()  # can be sent to any terminal
    assert terminal.clean("a\n\tb\x1b", keep="\n\t") == "a\n\tb\\x1b"


def test_what_is_printed_passes_one_place(capsys):
    out = terminal.Screen(sys.stdout, (terminal.GREEN, terminal.PLAIN))
    print("a\tb\x1b[32mgreen\x1b[0m \x1b[31mred\r\x1b[A", "\u202e", "\ud800", file=out)
    out.writelines(["x\x07\n", "y"])
    assert capsys.readouterr().out == (
        "a\tb\x1b[32mgreen\x1b[0m \\x1b[31mred\\r\\x1b[A \\u202e \\ud800\nx\\x07\ny"
    )
    assert out.isatty() == sys.stdout.isatty() and out.encoding == sys.stdout.encoding


def test_a_process_is_guarded_once(monkeypatch):
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.setattr(sys, "stderr", None)  # a process without one
    terminal.guard()
    screens = sys.stdout, sys.stderr
    terminal.guard()
    assert all(isinstance(screen, terminal.Screen) for screen in screens)
    assert (sys.stdout, sys.stderr) == screens
    print("nobody sees this", file=sys.stderr, flush=True)
    sys.stderr.close()


def test_letters_that_a_terminal_lacks_are_spelled_out(monkeypatch):
    """As in a locale of ISO 8859-1: the first row of the training data may be Chinese."""
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="latin-1"))
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    terminal.guard()
    print("Größe 漢", flush=True)
    assert written.getvalue() == "Größe \\u6f22\n".encode("latin-1")


@pytest.mark.parametrize("opens", [os.pipe, os.openpty])
def test_a_reader_that_is_gone_ends_no_run(opens):
    """As after `| head -1`, and as the terminal of a lost connection is."""
    reader, number = opens()
    with open(number, "w") as stream:
        out = terminal.Screen(stream, ())
        os.close(reader)
        for line in ("a" * 100_000, "b"):  # more than the buffer holds, and less
            print(line, file=out, flush=True)


def test_a_log_on_a_full_disk_ends_no_run():
    with open("/dev/full", "w") as stream:
        out = terminal.Screen(stream, ())
        for line in ("a" * 100_000, "b"):
            print(line, file=out, flush=True)


def test_colours_are_for_terminals_whose_user_wants_them(monkeypatch):
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    _, number = os.openpty()
    with open(number, "w") as stream, open(os.devnull, "w") as file:
        assert terminal.has_colour(stream) and not terminal.has_colour(file)
        monkeypatch.setenv("NO_COLOR", "")  # as if it were not set, says no-color.org
        assert terminal.has_colour(stream)
        monkeypatch.setenv("NO_COLOR", "0")  # whatever its value
        assert not terminal.has_colour(stream)
        monkeypatch.delenv("NO_COLOR")
        monkeypatch.setenv("TERM", "dumb")
        assert not terminal.has_colour(stream)


INTERRUPTED = """
import os, runpy, signal, sys

class Finder:
    def find_spec(name, *_):
        if name == sys.argv[1]:
            os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs ignore it
sys.meta_path.insert(0, Finder)
runpy.run_module("safety_jax.main", run_name="__main__")
"""


@pytest.mark.parametrize("package", ["absl", "ml_collections"])
def test_ctrl_c_while_the_command_starts_is_one_line(package):
    words = [sys.executable, "-c", INTERRUPTED, package]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 130
    assert done.stderr.splitlines()[1:] == [
        "stopped by Ctrl-C; run the same command to continue from what was saved "
        "(SIGTERM instead saves first)"
    ]


def test_closed_streams_leave_no_number_to_files(tmp_path):
    """Libraries in C would write their warnings into a file that is number 2."""
    code = (
        "import sys; from safety_jax.base import terminal; terminal.guard(); "
        "sys.exit(open(sys.argv[1]).fileno())"
    )
    closed = f'exec "$0" -c "{code}" "$1" <&- >&- 2>&-'
    (tmp_path / "file").touch()
    words = ["bash", "-c", closed, sys.executable, str(tmp_path / "file")]
    assert subprocess.run(words, cwd=ROOT, timeout=60).returncode >= 3


def test_a_line_has_an_end():
    columns = ", ".join(f"column {i}" for i in range(9_999))
    line = str(DataError(f"a.csv line 1: columns found: {columns}; expected others"))
    assert line.startswith("a.csv line 1: columns found: column 0, ")
    assert "characters left out]" in line and line.endswith("column 9998; expected others")
    assert len(line) < 3_100
    assert few(["a", "b"], 2) == "a, b" and few(["a", "b", "c"], 2) == "a, b and 1 more"
    assert few(["a 1 there", "b", "c"], 1, "; ") == "a 1 there; and 2 more"


@pytest.mark.parametrize(
    ("text", "public"),
    [
        ("https://host/a/b.jsonl: no", "https://host/a/b.jsonl: no"),
        ("a 'http://ann:S3CRET@host:80/x.csv'", "a 'http://***@host:80/x.csv'"),
        ("https://S3CRET@[::1]:8/x@y?z", "https://***@[::1]:8/x@y?***"),
        ("http://localhost:80/x@y", "http://localhost:80/x@y"),
        ("http://localhost:80", "http://localhost:80"),
        ("https://ann:S3/CR@ET@host/x", "https://***@host/x"),
        ("HTTPS://host/x?sig=S3CRET: cannot be read", "HTTPS://host/x?***: cannot be read"),
        ("s3://host/x?a='S3CRET'&b=\"S3CRET\", (gone)", 's3://host/x?***", (gone)'),
        ("https://host/x#token=S3CRET", "https://host/x#***"),
        ("('https://host/x?a=S3CRET','https://b:S3CRET@c')", "('https://host/x?***')"),
        ("https://host/x?sig=S3CRET?rows=5: no", "https://host/x?***?rows=5: no"),
        ("https://host/x?rows=5&name=a,", "https://host/x?rows=5&name=a,"),
        ("https://host/x?rows=5&sig=S3CRET", "https://host/x?***"),
        ("https://host/x?name=S3CRET?", "https://host/x?***"),
        ("https://host/x? and", "https://host/x and"),
        ("a=https://host/x,b=s3://k:S3CRET@c/d", "a=https://host/x,b=s3://***@c/d"),
        ("https://host/x?rows=5,b=s3://k:S3CRET@c", "https://host/x?rows=5,b=s3://***@c"),
        ("https://host/it's.csv?sig=S3CRET", "https://host/it's.csv?***"),
        ("https://host/x;token=S3CRET/y.csv; no", "https://host/x;***; no"),
        ("https://host/x; no", "https://host/x; no"),
        (f"https://host/hf_{'aB3' * 12}/x", "https://host/***/x"),
        (f"token ghp_{'aB3' * 12}, sk-{'a-b' * 12}", "token ***, ***"),
        ("hf_datasets_of_which_the_name_is_long_and_no_token", None),
        ("a.jsonl?rows=5&name=x", "a.jsonl?rows=5&name=x"),
        ("hf:a/b:train?rows=5", "hf:a/b:train?rows=5"),
    ],
)
def test_urls_lose_their_secrets(text, public):
    public = text if public is None else public
    assert redaction.public(text) == public == redaction.public(public)
    assert str(DataError(text)) == public
