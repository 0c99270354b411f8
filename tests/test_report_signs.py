"""Models and conversations on the report's page: every model has a sign of its own, the same in all
charts and in the transcripts; the texts of conversations are folded until they are asked for."""

import dataclasses
import re

import pytest

from safety_jax.base import files
from safety_jax.report.evaluation import page, words
from tests import chromium
from tests.report_samples import report, transcripts

NAMES = ["base", *(f"m{i}" for i in range(2, 18))]  # more than two cycles of colours
SIGN = r'<use href="#shape-(\d)" class="model-(\d)"'
LINE = re.compile(rf'<th scope="row"><span class="model" title="(.*?)">.*?{SIGN}(.*?)</tr>', re.S)
# Name, shape and colour of every answer that the transcript shows.
SHOWN = """[...document.querySelectorAll(".detail .answer h4")].map((head) => {
  const sign = head.querySelector("use");
  return [head.querySelector("bdi").textContent, sign.getAttribute("href").slice(-1),
    sign.getAttribute("class").slice(-1)];
})"""
CHOOSE = """(() => {
  const chosen = document.getElementById("filters").elements.%s;
  chosen.value = %d;
  chosen.dispatchEvent(new Event("change", {bubbles: true}));
})()"""


@pytest.fixture(scope="module")
def many():
    """The answers of one model under seventeen names, on an unsafe set and a safe one."""
    sets = (("I-CoNa", "unsafe", 8, (), ""), ("xstest_safe", "safe", 8, (), ""))
    items = [
        dataclasses.replace(item, answers={name: item.answers["base"] for name in NAMES})
        for item in transcripts(["base"], sets, 0)
    ]
    one = report("Many models", ["base"], sets, items)
    facts = one.models["base"]
    rows = [dataclasses.replace(row, model=name) for name in NAMES for row in one.rows]
    return dataclasses.replace(one, models=dict.fromkeys(NAMES, facts), rows=tuple(rows))


def sign(name: str) -> tuple[str, str]:
    """Shape and colour by place: eight colours, and with each further cycle the next shape."""
    cycle, colour = divmod(NAMES.index(name), 8)
    return str((colour + cycle) % 8), str(colour)


def test_models_from_the_ninth_on_have_signs_of_their_own(many):
    written = page.render(many)
    assert sign("base") == ("0", "0") and sign("m9") == ("1", "0") and sign("m17") == ("2", "0")
    assert len({sign(name) for name in NAMES}) == len(NAMES)
    lines = LINE.findall(written)
    assert {name for name, *_ in lines} == set(NAMES)
    marks = 0
    for name, shape, colour, rest in lines:
        assert (shape, colour) == sign(name)
        drawn = re.findall(SIGN, rest)  # the mark beside the name
        assert set(drawn) <= {sign(name)}
        marks += len(drawn)
    assert marks >= 2 * len(NAMES)  # safe and over-refusal
    plane = written[written.index('<svg class="plane"') :].partition("</svg>")[0]
    points = re.findall(rf'{SIGN}.*?>\s*<text class="name[^>]*>(.*?)</text>', plane, re.S)
    assert [name for *_, name in points] == words.models(many)
    assert all((shape, colour) == sign(name) for shape, colour, name in points)
    for number in range(page.COLOURS):
        assert f'<g id="shape-{number}">' in written and f".model-{number} {{" in written


@pytest.mark.browser
@pytest.mark.skipif(chromium.BINARY is None, reason="no Chromium on this machine")
def test_a_transcript_shows_the_signs_of_the_charts(many, tmp_path):
    files.write(tmp_path / "report.html", page.render(many))
    with chromium.tab() as tab:
        tab.open(chromium.address(tmp_path / "report.html"))
        assert [tuple(row) for row in tab.run(SHOWN)] == [(name, *sign(name)) for name in NAMES]
        tab.run(CHOOSE % ("model", NAMES.index("m9")))
        assert [tuple(row) for row in tab.run(SHOWN)] == [("m9", *sign("m9"))]


@pytest.mark.browser
@pytest.mark.skipif(chromium.BINARY is None, reason="no Chromium on this machine")
def test_conversations_are_folded(tmp_path):
    """Also turns that no judge calls unsafe: what they lead to is in the same transcript."""
    sets = (("Escalation", "unsafe", 2, (), ""), ("xstest_safe", "safe", 2, (), ""))
    items = [_harmless(item) for item in transcripts(["base"], sets, 0)]
    kinds = (("Escalation", "conversation", 2, (), ""), sets[1])
    files.write(tmp_path / "report.html", page.render(report("Talk", ["base"], kinds, items)))
    detail = "document.getElementById('detail').textContent"
    folds = "[...document.querySelectorAll('#detail .fold')].map((fold) => fold.textContent)"
    listed = "document.getElementById('list').textContent"
    with chromium.tab() as tab:
        tab.open(chromium.address(tmp_path / "report.html"))
        turn, ordinary = items[0], items[2]
        shown = turn.answers["base"]
        hidden = {"prompt": turn.prompt, "thought": shown.thought, "answer": shown.text}
        said = [f"show {k}: {len(t):,} characters, may be harmful" for k, t in hidden.items()]
        assert tab.run(folds) == said
        for text in hidden.values():
            assert text not in tab.run(detail) and text not in tab.run(listed)
        for text in hidden.values():  # one after another
            tab.run("document.querySelector('#detail .fold').click()")
            assert text in tab.run(detail)
        assert tab.run(folds) == []
        tab.run(CHOOSE % ("set", 1))
        plain = ordinary.answers["base"]
        assert ordinary.prompt in tab.run(detail) and plain.text in tab.run(detail)
        # A thought is folded everywhere, here without the warning.
        assert tab.run(folds) == [f"show thought: {len(plain.thought):,} characters"]


def _harmless(item):
    answer = dataclasses.replace(item.answers["base"], scores={}, human="", thought="A thought.")
    kind = "conversation" if item.set == "Escalation" else item.kind
    return dataclasses.replace(item, kind=kind, answers={"base": answer})
