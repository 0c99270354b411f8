"""The process that runs chat templates: what it allows, how it ends, that it starts again."""

import datetime
import os
import re
import subprocess
import sys

import pytest

from safety_jax.data import chat_process, chat_worker
from safety_jax.data.chat_process import Job, RunawayTemplate

DAY = datetime.date(2031, 5, 4)


def render(source, *variables):
    return chat_process.render(source, [Job(v, DAY) for v in variables or [{}]])


def text(source, **variables):
    (found,) = render(source, variables)
    assert not found.fault
    return found.text


def test_texts_come_in_order_however_many():
    found = render("{{ n }}\n", *({"n": i} for i in range(600)))
    assert [one.text for one in found] == [str(i) for i in range(600)]
    assert not any(one.dated or one.fault for one in found)


def test_what_templates_expect_of_jinja():
    assert (
        text("{% for i in [1, 2, 3] %}{% if i == 2 %}{% continue %}{% endif %}{{ i }}{% endfor %}")
        == "13"
    )
    assert text("{{ x | tojson }}", x={"é": "<b>"}) == '{"é": "<b>"}'
    assert text("{% set s = namespace(a=1) %}{% set s.a = 2 %}{{ s.a }}") == "2"
    assert text("a\n  {% if true %}\nb\n  {% endif %}\nc") == "a\nb\nc"
    assert text("{{ x }}", x="\ud800é🙂") == "\ud800é🙂"
    (found,) = render("{{ strftime_now('%d %b %Y') }}")
    assert (found.text, found.dated) == ("04 May 2031", True)
    assert text("{{ [1, 2, 3] | random }}") == text("{{ [1, 2, 3] | random }}")


def test_what_is_generated_is_marked():
    source = "a{% generation %}b{% endgeneration %}c"
    (found,) = chat_process.render(source, [Job({}, DAY, ("<", ">"))])
    assert (found.text, text(source)) == ("a<b>c", "abc")


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{% set s = namespace() %}{% set s._x = 1 %}", "begins with an underscore"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{% for x in range(10 ** 9) %}{% endfor %}", "OverflowError|range"),
    ],
)
def test_faults_are_words(source, why):
    first, second = render(source, {}, {})
    assert first.fault and first == second
    assert re.search(why, first.fault), first.fault


def test_a_template_shows_what_it_looks_for():
    read = chat_process.read(
        "{% set end = '</t>' %}{% for m in messages %}{% if '<t>' in m.content %}"
        "{{ m['content'].split(end)[0] | replace('ab', '') }}{{ m.get('thinking') }}"
        "{% endif %}{% endfor %}"
    )
    assert {"<t>", "</t>", "ab"} <= read.sought
    assert {"content", "thinking", "split"} <= read.fields
    with pytest.raises(ValueError, match="line 1: Unexpected end of template"):
        chat_process.read("{% if x %}")


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("{{ 'a' * 10 ** 11 }}", "needs more than 1024 MB"),
        ("{{ ('a' * 10 ** 6) * 20 }}", "writes 20,000,000 characters"),
    ],
)
def test_a_template_that_runs_away_is_stopped_and_the_next_one_runs(source, why):
    with pytest.raises(RunawayTemplate, match=why) as caught:
        render("{% if n == 2 %}" + source + "{% endif %}", *({"n": i} for i in range(4)))
    assert caught.value.job == 2
    assert text("{{ x }}", x="on") == "on"


def test_processor_time_is_counted_and_the_system_ends_it(monkeypatch):
    """In a worker of its own, with less time than the real one has."""
    code = "from safety_jax.data import chat_worker as w; w.CPU_SECONDS = 0.2; w.main()"
    worker = subprocess.run(
        [sys.executable, "-c", code],
        input=b'{"template": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}'
        b'{% endfor %}", "jobs": [{"date": "2031-05-04", "marks": ["", ""], "variables": {}}]}\n',
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        timeout=60,
    )
    assert worker.returncode == -27 and not worker.stdout
    assert chat_process._reason(-27) == "it does not come to an end"
    assert chat_worker.CPU_SECONDS < 10


def test_the_worker_imports_nothing_of_ours():
    code = (
        "import sys, runpy; sys.stdin = open('/dev/null'); "
        f"runpy.run_path({str(chat_process._WORKER)!r}, run_name='__main__'); "
        "print(sorted({m.partition('.')[0] for m in sys.modules} & "
        "{'jax', 'numpy', 'transformers', 'safety_jax', 'torch'}))"
    )
    found = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert found.stdout.strip() == "[]", found.stderr
