"""The report's page in Chromium: nothing runs, nothing is fetched, 10,000 rows stay quick."""

import time

import pytest

from safety_jax.base import files
from safety_jax.report.evaluation import page
from tests import chromium
from tests.hostile_samples import HOSTILE, hostile
from tests.report_samples import large, small

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(chromium.BINARY is None, reason="no Chromium on this machine"),
]

# Bounds that even a busy machine keeps; an idle one takes a tenth of the time.
LOAD_SECONDS, HEAP_BYTES = 30.0, 64e6
TURN = """
(async () => {
  const form = document.getElementById("filters").elements;
  %s
  await new Promise((resume) => setTimeout(resume, 100));
  return %s;
})()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("pages")
    for name, report in (
        ("small", small()),
        ("hostile", hostile()),
        ("large", large(("base", "dpo"))),
    ):
        files.write(found / f"{name}.html", page.render(report))
    return found


@pytest.fixture
def tab():
    with chromium.tab() as found:
        found.resize(1440, 900)
        yield found


def shown(tab) -> str:
    return tab.run("document.getElementById('detail').textContent")


def place(tab) -> str:
    return tab.run("document.getElementById('place').textContent")


def check_harmless(tab, title: str) -> None:
    """No dialog, no error, no request but the page itself, and the title it came with."""
    time.sleep(0.2)
    assert tab.run("document.title") == title
    assert not tab.named("Page.javascriptDialogOpening")
    assert not tab.named("Runtime.exceptionThrown")
    assert not [e for e in tab.named("Log.entryAdded") if e["entry"]["level"] == "error"]
    asked = [event["request"]["url"] for event in tab.named("Network.requestWillBeSent")]
    assert len(asked) == 1 and asked[0].startswith("file://")
    assert tab.run("document.querySelectorAll('iframe, img, link, base, object').length") == 0


def test_nothing_hostile_runs(folder, tab):
    tab.open(chromium.address(folder / "hostile.html"))
    tab.run("document.querySelector('[name=open]').click()")
    for _ in HOSTILE:
        tab.key("j", "j")
    # Every answer in full, a megabyte in one word among them.
    for i in range(len(HOSTILE)):
        tab.run(f"location.hash = '#item-{i}'")
        tab.run("document.querySelector('[name=open]').checked || "
                "document.querySelector('[name=open]').click()")  # fmt: skip
        tab.run("[...document.querySelectorAll('.more')].forEach((more) => more.click())")
        text = tab.run("document.querySelector('.answer').textContent")
        assert "\u202e" not in text and "\u200b" not in text
    check_harmless(tab, HOSTILE[1])


def test_the_policy_stops_what_would_run(folder, tab):
    """Even if a text became markup, the browser would not run it."""
    tab.open(chromium.address(folder / "small.html"))
    with pytest.raises(RuntimeError, match="TrustedScript"):
        tab.run("document.body.setAttribute('onclick', 'document.title = 1')")
    with pytest.raises(RuntimeError, match="TrustedHTML"):
        tab.run("document.body.innerHTML = '<b>x</b>'")
    with pytest.raises(RuntimeError, match="Failed to fetch"):
        tab.run("fetch('https://example.com/')")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 820, 1440])
def test_the_page_fits_every_width(folder, tab, width, dark):
    """Tables scroll by themselves; the page never scrolls sideways."""
    tab.resize(width, 900, dark=dark)
    for name in ("small", "hostile"):
        tab.open(chromium.address(folder / f"{name}.html"))
        assert tab.run("document.documentElement.scrollWidth") <= width
    ground = tab.run("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(20, 23, 27)" if dark else "rgb(255, 255, 255)")


NAMES = ("base", "sit-100", "sit-2000", "dpo")
# Names whose text is cut, and values that reach into the cell beside theirs.
CUT = """[...document.querySelectorAll('.model bdi')].filter((name) =>
  name.scrollWidth > name.clientWidth + 1 || name.scrollHeight > name.clientHeight + 1).length"""
OVER = """[...document.querySelectorAll('.plain .value')].filter((value) =>
  value.getBoundingClientRect().right > value.closest('td').getBoundingClientRect().right + 1)
  .length"""


@pytest.mark.parametrize("width", [390, 1440])
def test_names_are_whole_and_cells_apart(folder, tab, width):
    """Of a sweep's models, only the end of their names tells them apart."""
    written = page.render(small())
    for seed, name in enumerate(NAMES):
        assert f"<bdi>{name}</bdi>" in written
        written = written.replace(f"<bdi>{name}</bdi>", f"<bdi>135m.safety_rows60_seed{seed}</bdi>")
    files.write(folder / "sweep.html", written)
    tab.resize(width, 900)
    tab.open(chromium.address(folder / "sweep.html"))
    assert tab.run("document.querySelectorAll('.model bdi').length") > len(NAMES)
    assert tab.run(CUT) == 0
    tab.open(chromium.address(folder / "hostile.html"))
    assert tab.run(OVER) == 0


def test_texts_are_folded_until_they_are_asked_for(folder, tab):
    tab.open(chromium.address(folder / "small.html"))
    assert "may be harmful" in shown(tab) and "stand-in" not in shown(tab)
    tab.run("document.querySelector('.prompt .fold').click()")
    assert "A stand-in for a request" in shown(tab)
    assert "A stand-in for a request" not in tab.run("document.getElementById('list').textContent")
    tab.key("t", "t")
    assert "may be harmful" not in shown(tab)


def test_filters_search_and_keys(folder, tab):
    report = small()
    tab.open(chromium.address(folder / "small.html"))
    assert place(tab) == f"1 of {len(report.transcripts)}"
    tab.key("j", "j")
    tab.key("j", "j")
    tab.key("k", "k")
    assert place(tab).startswith("2 of")

    def listed(code: str) -> int:
        change = "form.set.dispatchEvent(new Event('change', {bubbles: true}))"
        count = "document.getElementById('place').textContent"
        text = tab.run(TURN % (f"{code}; {change};", count))
        return int(text.split(" of ")[1].replace(",", "")) if text else 0

    items = report.transcripts
    assert listed("form.set.value = 1") == sum(i.set == "I-MaliciousInstructions" for i in items)
    unsafe = [i for i in items if i.answers["dpo"].scores.get("guard")]
    unsafe = [i for i in unsafe if i.answers["dpo"].scores["guard"].unsafe]
    chosen = "form.set.value = ''; form.model.value = 3; form.judge.value = 0;"
    assert listed(f"{chosen} form.label.value = 'u'") == len(unsafe)
    liked = next(found for found in report.preferences if found.second == "dpo")
    chosen = "form.judge.value = ''; form.model.value = 3;"
    assert listed(f"{chosen} form.label.value = 'vw'") == len(liked.wins)
    assert "preferred to that of base" in shown(tab)
    assert listed(f"{chosen} form.label.value = 'vl'") == len(liked.losses)
    turned = next(c for c in report.comparisons if c.fixed)
    assert listed(
        "document.getElementById('filters').reset(); form.change.value = '0f'"
    ) == len(turned.fixed)  # fmt: skip
    refusing = sum(any("refusal" in a.text for a in i.answers.values()) for i in items)
    text = tab.run(
        TURN % (
            "document.getElementById('filters').reset(); form.query.value = 'REFUSAL';"
            "form.query.dispatchEvent(new Event('input', {bubbles: true}));"
            "await new Promise((resume) => setTimeout(resume, 2000));",
            "document.getElementById('count').textContent",
        )
    )  # fmt: skip
    assert text == f"{refusing} of {len(items)}"
    tab.run("location.hash = '#item-7'")
    time.sleep(0.3)
    assert place(tab) == f"8 of {len(items)}"
    check_harmless(tab, report.title)


@pytest.mark.slow
def test_ten_thousand_rows_stay_quick(folder, tab):
    seconds = tab.open(chromium.address(folder / "large.html"))
    found = tab.send("Performance.getMetrics")["metrics"]
    heap = next(metric["value"] for metric in found if metric["name"] == "JSHeapUsedSize")
    assert seconds < LOAD_SECONDS and heap < HEAP_BYTES
    assert place(tab) == "1 of 10,000"
    assert tab.run("document.querySelectorAll('.row').length") < 60
    tab.run("document.getElementById('list').focus()")
    tab.key("End")
    assert place(tab) == "10,000 of 10,000"
    assert tab.run("document.querySelectorAll('.row').length") < 60
    tab.key("Home")
    tab.key("t", "t")
    assert "show all 1,0" in shown(tab)
    milliseconds = tab.run(
        "(() => { const start = performance.now(); document.querySelector('.more').click();"
        "document.body.offsetHeight; return performance.now() - start; })()"
    )
    assert milliseconds < 5000
