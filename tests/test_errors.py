"""Error lines: one line, nothing in it acts on a terminal, no secret of a URL."""

import sys

import pytest

from safety_jax.base import redaction, terminal
from safety_jax.base.errors import DataError, few


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
    streams = sys.stdout, sys.stderr
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", None)  # a process without one
    terminal.guard()
    screen = sys.stdout
    terminal.guard()
    assert isinstance(screen, terminal.Screen) and sys.stdout is screen and sys.stderr is None


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
