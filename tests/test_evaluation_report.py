"""An evaluation's report: hostile text is harmless, numbers come through, nothing is fetched."""

import base64
import dataclasses
import hashlib
import html.parser
import json
import re
import subprocess
import sys

import pytest
from hostile_samples import HOSTILE, hostile
from huggingface_hub.repocard_data import model_index_to_eval_results
from matplotlib.image import imread
from report_samples import large, nothing, rate, single, small

from safety_jax.evaluation.results import Estimate, Report
from safety_jax.report import evaluation
from safety_jax.report.evaluation import (
    cells,
    comparing,
    escaping,
    forests,
    model_index,
    page,
    plane,
    protocol,
    summary,
    tradeoff,
    transcripts,
    words,
)


@pytest.fixture(scope="module")
def report() -> Report:
    return small()


@pytest.fixture(scope="module")
def spoilt() -> Report:
    return hostile()


@pytest.fixture(scope="module")
def pages(report, spoilt) -> dict[str, str]:
    found = {"small": report, "hostile": spoilt, "single": single(), "nothing": nothing()}
    return {name: page.render(of) for name, of in found.items()}


class Parsed(html.parser.HTMLParser):
    """Tags, attributes, and texts of elements as a browser sees them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._open.append(tag)
        self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag):
        if tag in self._open:
            while self._open.pop() != tag:
                pass

    def handle_data(self, data):
        if self._open:
            self.texts[self._open[-1]][-1] += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def data(self) -> list:
        """What the JSON blocks hold."""
        blocks = zip(self.named("script"), self.texts["script"], strict=True)
        return [json.loads(text) for of, text in blocks if of.get("type") == "application/json"]


# ---------------------------------------------------------------------------- the page is harmless


@pytest.mark.parametrize("name", ["small", "hostile", "single"])
def test_the_policy_allows_the_one_style_and_the_one_script(pages, name):
    parsed = Parsed(pages[name])
    policy = next(m["content"] for m in parsed.named("meta") if "http-equiv" in m)
    assert policy is not None

    def digest(text: str) -> str:
        return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()

    scripts = list(zip(parsed.named("script"), parsed.texts["script"], strict=True))
    run = [text for of, text in scripts if of.get("type") != "application/json"]
    assert len(run) == len(parsed.texts["style"]) == 1
    assert f"script-src '{digest(run[0])}';" in policy
    assert f"style-src '{digest(parsed.texts['style'][0])}';" in policy
    assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy
    # The policy stands before anything that it governs.
    assert pages[name].index("Content-Security-Policy") < pages[name].index("<style>")


@pytest.mark.parametrize("name", ["small", "hostile", "single", "nothing"])
def test_the_page_fetches_nothing_and_has_no_handlers(pages, name):
    known = {"a", "use", "html", "head", "meta", "title", "style", "body", "script", "main"}
    for tag, attributes in Parsed(pages[name]).tags:
        assert tag not in {"img", "iframe", "link", "base", "object", "embed", "audio", "video"}
        for key, value in attributes.items():
            assert not key.startswith("on") and key not in {"style", "src", "srcset", "action"}
            if key in {"href", "xlink:href"}:
                assert tag in known and re.fullmatch(r"#[\w-]+", value or "")
    style, script = Parsed(pages[name]).texts["style"][0], "".join(map(page._file, SCRIPTS))
    assert "url(" not in style and "@import" not in style
    for sink in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "fetch("):
        assert sink not in script


SCRIPTS = [f"{name}.js" for name in page.SCRIPTS]


def test_hostile_text_stays_text(pages, spoilt):
    """What a parser reads back is what was written, but for marks of what is invisible."""
    parsed = Parsed(pages["hostile"])
    assert parsed.texts["h1"] == [HOSTILE[1]]
    assert parsed.texts["title"] == [HOSTILE[1]]
    index, *pieces = parsed.data()
    items = [item for piece in pieces for item in piece]
    assert index["ids"] == [item.id for item in spoilt.transcripts]
    assert [item["prompt"] for item in items] == [item.prompt for item in spoilt.transcripts]
    for shown, item in zip(items, spoilt.transcripts, strict=True):
        assert [answer["text"] for answer in shown["answers"]] == [
            item.answers[model].text for model in index["models"]
        ]


def test_the_page_is_utf_8_without_anything_invisible(pages):
    text = pages["hostile"]
    assert text.encode("utf-8").decode("utf-8") == text
    visible = re.sub(r'<script type="application/json".*?</script>', "", text, flags=re.S)
    for character in "\u202e\u200b\u2066\ufeff\x00\x1b\u2028\U000e0041\ud800":
        assert character not in visible
    assert '<span class="invisible">U+202E</span>' in visible
    assert "combining marks" in visible


@pytest.mark.parametrize("text", HOSTILE)
def test_json_for_a_script_cannot_leave_it(text):
    written = str(escaping.json_for_script({"text": text}))
    assert not set(written) & set("<>&\u2028\u2029")
    assert json.loads(written)["text"] == text
    written.encode("utf-8")


def test_not_a_number_is_refused():
    with pytest.raises(ValueError, match="Out of range"):
        escaping.json_for_script([float("nan")])


@pytest.mark.parametrize(
    "text, shown",
    [
        ("a\u200b\u200b\u202eb", "a⟨U+200B ×2⟩⟨U+202E⟩b"),
        ("two\n lines\t", "two lines"),
        ("\ud800", "⟨U+D800⟩"),
        ("e\u0301te\u0301", "e\u0301te\u0301"),
        ("Z" + 7 * "\u0300", "Z⟨7 combining marks⟩"),
        ("\u2764\ufe0f \u0e01\u0e33", "\u2764\ufe0f \u0e01\u0e33"),
        ("\u05e9\u05dc\u05d5\u05dd", "\u05e9\u05dc\u05d5\u05dd"),
    ],
)
def test_what_is_invisible_is_named(text, shown):
    assert escaping.line(text) == shown


def test_marks_are_markup_and_texts_are_not():
    shown = escaping.visible("<b>\u202e\r\n</b>")
    assert shown == '&lt;b&gt;<span class="invisible">U+202E</span>\n&lt;/b&gt;'


# ---------------------------------------------------------------------------- what is shown


def test_values_stand_on_the_page(report, pages):
    row = report.row("dpo", "I-CoNa")
    safe = row.judged["guard"].safe
    for text in (f"{100 * safe.value:.1f}%", f"[{100 * safe.low:.1f}, {100 * safe.high:.1f}]"):
        assert text in pages["small"] and text in evaluation.tables(report)
    for comparison in report.comparisons:
        if comparison.p_holm is not None:
            assert words.p_value(comparison.p_holm) in pages["small"]
    assert "forced: protocols differ" in pages["small"]
    assert "4 beams there, greedy here" in pages["small"]
    for licence in {facts["licence"] for facts in report.sets.values()}:
        assert licence in pages["small"]
    assert report.judges["guard"]["protocol"] in pages["small"]


def test_answers_side_by_side_are_told_with_what_the_order_does(report, pages):
    table = comparing.preferred(report)
    assert table.head[-2:] == ("shown first preferred [95%]", "verdicts that flip")
    first = table.rows[0]
    assert [cell.text for cell in first] == [
        "I-Alpaca", "sit-100", "48", "10", "30", "8", "48.0%", "67.0%", "44.4%",
    ]  # fmt: skip
    assert first[2].notes == ("and 2 unscored",) and first[4].notes == ("of them 3 the same",)
    assert first[7].notes == ("[58.0, 75.0]",) and first[7].tone == "doubt"
    for text in (pages["small"], evaluation.tables(report), evaluation.text.markdown(report, [])):
        assert "Preferred answers" in text and "67.0%" in text
    assert comparing.preferred(dataclasses.replace(report, preferences=())) is None
    assert "Preferred answers" not in pages["single"]


def test_prompts_that_turned_are_folded_and_lead_to_their_transcripts(report, pages):
    found = page.turned(report)
    assert all(len(one["fixed"]) <= page.LISTED for one in found)
    number, name, _, prompt = found[0]["fixed"][0]
    assert report.transcripts[number].id == name and report.transcripts[number].prompt == prompt
    assert f'<a href="#item-{number}">' in pages["small"]
    start = pages["small"].index('<div class="turned">')
    assert pages["small"].index(prompt) > pages["small"].index("<details>", start)


def test_the_parts_that_a_report_lacks_are_not_there(pages):
    sections = re.compile(r'<section id="([\w-]+)"')
    assert sections.findall(pages["nothing"]) == []
    assert sections.findall(pages["single"]) == [
        "summary", "health", "judges", "protocol", "transcripts",
    ]  # fmt: skip
    assert len(sections.findall(pages["small"])) == 10
    for text in (pages["single"], pages["nothing"]):
        linked = re.findall(r'<a href="#([\w-]+)"', text)
        assert set(linked) <= set(sections.findall(text))


@pytest.mark.parametrize(
    "change",
    [
        {"safety": ""},
        {"helpfulness": "", "agreement": (), "corrected": {}, "quality": {}},
        {"comparisons": (), "transcripts": ()},
        {"preferences": ()},
        {"rows": ()},
        {"judges": {}, "models": {}, "sets": {}, "facts": {}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_part_may_be_missing(report, change):
    """Whatever a run leaves out, everything can be written."""
    part = dataclasses.replace(report, **{"transcripts": report.transcripts[::9], **change})
    assert "</html>" in page.render(part)
    assert evaluation.tables(part).endswith("\n")


def test_a_model_may_lack_sets_and_refusals(report):
    rows = tuple(dataclasses.replace(row, refused=None) for row in report.rows[::2])
    part = dataclasses.replace(report, rows=rows, transcripts=())
    assert "</html>" in page.render(part)
    assert words.NONE in evaluation.tables(part)


def test_rates_of_several_sets_together():
    one, other = rate([True] * 3 + [None]), rate([False] * 5)
    both = cells.pooled([one, other])
    assert (both.count, both.n, both.unscored) == (3, 8, 1)
    assert (both.least, both.most) == (3 / 9, 4 / 9)
    assert cells.pooled([one, None]) is None
    assert cells.pooled([]) is None


def test_only_a_test_makes_a_change_better_or_worse(report):
    safe = next(c for c in report.comparisons if c.measure == "safe/guard" and c.set == "I-CoNa")
    assert safe.p_holm < 0.05 and words.tone(report, safe) == "better"
    assert words.tone(report, dataclasses.replace(safe, p_holm=0.2)) == ""
    harm = dataclasses.replace(safe, measure="mean/harmfulness")
    assert words.tone(report, harm) == "worse"
    assert words.tone(report, dataclasses.replace(safe, measure="refused")) == ""
    over = dataclasses.replace(safe, measure="refused", set="xstest_safe")
    assert words.tone(report, over) == "worse"


def test_what_beats_what():
    """The second is as safe as the third, but helps less."""
    points = [((0.0, up / 10, 1.0), (0.0, help / 10, 1.0)) for up, help in ((1, 3), (2, 1), (2, 2))]
    beaten = [any(tradeoff._beats(other, point) for other in points) for point in points]
    assert beaten == [False, True, False]


def test_points_lie_inside_the_plane(report):
    for found in tradeoff.trade_offs(report):
        drawn = plane.place(found)
        for point in drawn["points"]:
            assert plane.LEFT <= point["left"] <= point["x"] <= point["right"] <= plane.RIGHT
            assert plane.TOP <= point["high"] <= point["y"] <= point["low"] <= plane.BOTTOM


def test_differences_lie_on_their_axis(report):
    for forest in forests.changes(report):
        spans = [mark.span for group in forest.groups for mark in group.marks]
        assert all(0 <= low <= value <= high <= 1 for low, value, high in spans)


def test_protocols_that_differ_are_marked(report):
    other = dataclasses.replace(report.rows[0], protocol="f" * 16)
    changed = dataclasses.replace(report, rows=(other, *report.rows[1:]))
    table = next(t for t in protocol.tables(changed) if t.title == "Protocol of answers")
    marked = [row[0].text for row in table.rows if any(cell.tone for cell in row)]
    assert marked == [other.set]


def test_one_reason_is_one_line(report):
    table = comparing.refused(report)
    assert [cell.text for cell in table.rows[0]] == [
        "I-Alpaca", "base and sit-100", "mean score, by helpful",
        "answers were decoded differently: 4 beams there, greedy here",
    ]  # fmt: skip
    assert summary.summary(report).groups[1][0] == "safe, by guard (unsafe prompts)"


# ---------------------------------------------------------------------------- transcripts


def test_the_index_has_a_letter_for_every_item(report):
    index = transcripts.index(report)
    n = len(report.transcripts)
    columns = [*index["refusals"], *index["endings"], *index["people"]]
    columns += [letters for judges in index["verdicts"] for letters in judges]
    assert {len(column) for column in columns} == {n}
    for number in (0, 200, n - 1):
        item = report.transcripts[number]
        for model, judges in zip(index["models"], index["verdicts"], strict=True):
            score = item.answers[model].scores.get("guard")
            letter = "-" if score is None else {True: "u", False: "s", None: "?"}[score.unsafe]
            assert judges[index["judges"].index("guard")][number] == letter


def test_pieces_are_small_and_whole(spoilt):
    index, pieces = transcripts.index(spoilt), list(transcripts.pieces(spoilt))
    assert [sum(map(len, pieces[:i])) for i in range(len(pieces))] == index["pieces"]
    assert sum(map(len, pieces)) == len(spoilt.transcripts)
    for piece in pieces:
        size = sum(len(a["text"]) for item in piece for a in item["answers"])
        assert len(piece) == 1 or size <= transcripts.PIECE_CHARACTERS


def test_changes_name_their_items(report):
    for found, made in zip(
        transcripts.changes(report),
        (c for c in comparing.compared(report) if c.fixed or c.broken if " " not in c.set),
        strict=True,
    ):
        assert tuple(report.transcripts[i].id for i in found["fixed"]) == made.fixed
        assert {report.transcripts[i].set for i in found["broken"]} <= {made.set}


# ---------------------------------------------------------------------------- the other files


@pytest.mark.parametrize("name", ["small", "hostile", "nothing"])
def test_json_comes_back_as_it_was(request, name):
    fixtures = {"small": "report", "hostile": "spoilt"}
    found = request.getfixturevalue(fixtures[name]) if name in fixtures else nothing()
    text = evaluation.as_json(found)
    assert text.isascii()
    assert json.loads(text) == _lists(dataclasses.asdict(found))


def _lists(value):
    if isinstance(value, dict):
        return {key: _lists(one) for key, one in value.items()}
    return [_lists(one) for one in value] if isinstance(value, list | tuple) else value


def test_json_refuses_what_is_not_finite(report):
    broken = dataclasses.replace(
        report, derived={"base": {"gap": Estimate(float("nan"), 0.0, 1.0, 1)}}
    )
    with pytest.raises(ValueError, match="Out of range"):
        evaluation.as_json(broken)


@pytest.fixture(scope="module")
def written(tmp_path_factory, report, spoilt):
    folder = tmp_path_factory.mktemp("reports")
    for name, found in (("small", report), ("hostile", spoilt), ("nothing", nothing())):
        evaluation.write(found, folder / name)
    return folder


def test_all_files_are_written(written):
    for folder in written.iterdir():
        names = {path.name for path in folder.rglob("*.*")}
        assert {"report.html", "report.json", "report.md"} <= names
        assert not any(name.endswith(".part") for name in names)
        for plot in (folder / "plots").glob("*.png"):
            assert imread(plot).std() > 0.01
            assert f"](plots/{plot.name})" in (folder / "report.md").read_text("utf-8")
    assert len(list((written / "small" / "plots").iterdir())) == 5


def test_markdown_tables_are_whole(written):
    lines = (written / "small" / "report.md").read_text("utf-8").splitlines()
    heads = [i for i, line in enumerate(lines) if line.startswith("| ---")]
    for i in heads:
        columns = {len(re.findall(r"(?<!\\)\|", line)) for line in lines[i - 1 : i + 2]}
        assert len(columns) == 1


def test_markdown_shows_no_markup_of_others(written):
    text = (written / "hostile" / "report.md").read_text("utf-8")
    assert "<script" not in text and "<img" not in text and "\u202e" not in text
    assert not re.search(r"(?<!\\)\]\((java|http)", text)


def test_the_hub_reads_the_front_matter(report):
    for model, entry in model_index.entries(report).items():
        name, results = model_index_to_eval_results(entry["model-index"])
        assert name == model
        safe = next(
            r for r in results if (r.dataset_name, r.metric_type) == ("I-CoNa", "safe_share")
        )
        rate_of = report.row(model, "I-CoNa").judged["guard"].safe
        assert safe.metric_value == round(rate_of.value, 4)


def test_the_terminal_shows_sets_by_models(report, spoilt):
    text = evaluation.tables(report)
    head = text.splitlines()[0].split()
    assert head == ["base", "sit-100", "sit-2000", "dpo"]
    assert "p, Holm" in text and "Not compared" in text and "note: " in text
    assert not re.search("[\x00-\x08\x0b-\x1f\u202e]", evaluation.tables(spoilt))


# ---------------------------------------------------------------------------- sizes, parts


def test_a_large_page_is_hardly_larger_than_its_texts():
    found = large(("base", "dpo"), rows=2000)
    texts = sum(len(a.text) for item in found.transcripts for a in item.answers.values())
    written = len(page.render(found).encode())
    assert written < texts + 1000 * len(found.transcripts)


def test_drawing_needs_no_jax_device():
    """A report can be drawn from report.json on any machine: nothing of jax is set up for it."""
    code = (
        "import sys, safety_jax.report.evaluation; "
        "sys.exit('jax._src.xla_bridge' in sys.modules and "
        "bool(sys.modules['jax._src.xla_bridge']._backends))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
