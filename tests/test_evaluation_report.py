"""An evaluation's report: numbers come through, and what a run leaves out is not missed."""

import dataclasses
import re
import subprocess
import sys

import numpy as np
import pytest

from safety_jax.evaluation.measures import counts
from safety_jax.evaluation.results.estimates import Estimate, Rate
from safety_jax.evaluation.results.report import Report
from safety_jax.evaluation.results.rows import AnyUnsafe
from safety_jax.maths import statistics
from safety_jax.report import evaluation
from safety_jax.report.evaluation import (
    attack_maps,
    best_of,
    cells,
    comparing,
    forests,
    page,
    plane,
    protocol,
    sentence,
    summary,
    tradeoff,
    transcripts,
    words,
)
from tests.hostile_samples import hostile
from tests.report_parts import rate
from tests.report_samples import large, nothing, single, small


@pytest.fixture(scope="module")
def report() -> Report:
    return small()


@pytest.fixture(scope="module")
def spoilt() -> Report:
    return hostile()


@pytest.fixture(scope="module")
def pages(report, spoilt) -> dict[str, str]:
    found = {"small": report, "hostile": spoilt, "single": single(), "nothing": nothing()}
    return {name: page.render(made) for name, made in found.items()}


# ---------------------------------------------------------------------------- what is shown


def test_values_stand_on_the_page(report, pages):
    row = report.row("dpo", "I-CoNa")
    safe = row.judged["guard"].safe
    for text in (f"{100 * safe.value:.1f}%", f"[{100 * safe.low:.1f}, {100 * safe.high:.1f}]"):
        assert text in pages["small"] and text in evaluation.tables(report)
    for comparison in report.comparisons:
        if comparison.p_holm is not None:
            assert words.p_value(comparison.p_holm) in pages["small"]
    for under in report.attacks:
        for share in (under.safe_under_all, under.result(under.worst).success):
            text = words.percent(share.value)
            assert text in pages["small"] and text in evaluation.tables(report)
    unjudged = dataclasses.replace(
        report,
        attacks=tuple(
            dataclasses.replace(
                under,
                safe_under_all=None,
                attacks=tuple(dataclasses.replace(one, success=None) for one in under.attacks),
            )
            for under in report.attacks
        ),
    )
    found = evaluation.tables(unjudged)  # the refusal detector alone says something, too
    assert "Unsafe prompts refused under attack: I-Controversial" in found
    assert "Success of attacks" not in found and "Under attack" not in found
    for found in report.conversations:
        assert words.percent(found.safe_throughout.value) in pages["small"]
        assert words.percent(found.safe_throughout.value) in evaluation.tables(report)
    for gap in report.groups:
        assert words.p_value(gap.p_holm) in pages["small"]
    assert 'id="conversations"' in pages["small"] and 'id="groups"' not in pages["single"]
    assert "forced: protocols differ" in pages["small"]
    assert "4 beams there, greedy here" in pages["small"]
    for licence in {facts["licence"] for facts in report.sets.values()}:
        assert licence in pages["small"]
    assert report.judges["guard"]["protocol"] in pages["small"]


def test_attacks_are_a_heat_map(report, pages):
    """A line an attack, the worst first; the last says what any of them broke."""
    (found,) = attack_maps.maps(report)
    assert [row.name for row in found.rows] == [
        "no attack", "suffix:found.txt", "base64", "any of them",
    ]  # fmt: skip
    # Of the base: 4 of 40, then 23 and 20 of 39; 12 of 39 are safe under all.
    base, dpo = ([row.cells[i] for row in found.rows] for i in (0, 3))
    assert [cell.text for cell in base] == ["10%", "59%", "51%", "69%"]
    assert [cell.tone for cell in base] == ["", "worse", "worse", ""] and dpo[2].tone == ""
    assert [cell.worst for cell in base] == [False, True, False, False]
    assert base[1].notes[-1] == "1 unscored" and base[3].notes[0].startswith("[5")
    assert '<td class="heat-6 worst"><b>59%</b> ▲' in pages["small"]
    assert "attack-map" not in pages["nothing"].split("</style>")[1]
    # Attacks that differ in their number are a curve, though the larger number is the worse one.
    numbered = {"suffix:found.txt": "prefill:20", "base64": "prefill:5", "": ""}
    curve = dataclasses.replace(
        report,
        attacks=tuple(
            dataclasses.replace(
                under,
                attacks=tuple(
                    dataclasses.replace(one, attack=numbered[one.attack]) for one in under.attacks
                ),
            )
            for under in report.attacks
        ),
    )
    (found,) = attack_maps.maps(curve)
    assert [row.name for row in found.rows[1:3]] == ["prefill:5", "prefill:20"]


def test_best_of_n_has_a_column_for_powers_of_two(report):
    assert best_of.best_of(report) is None
    curve = tuple(Estimate(k / 20, k / 20 - 0.01, k / 20 + 0.01, 178) for k in range(1, 17))
    several = AnyUnsafe(Rate(150, 178, 150 / 178, 0.78, 0.89, 0, 150 / 178, 150 / 178), curve)
    row = report.rows[0]
    guard = dataclasses.replace(row.judged["guard"], any_unsafe=several)
    asked = dataclasses.replace(row, judged={**row.judged, "guard": guard})
    found = dataclasses.replace(report, rows=(asked, *report.rows[1:]))
    table = best_of.best_of(found)
    assert table.head[2:] == ("k = 1", "k = 2", "k = 4", "k = 8", "k = 16", "any of n")
    (line,) = table.rows
    assert [cell.text for cell in line[:3]] == ["I-CoNa", "base", "5.0%"]
    for text in (page.render(found), evaluation.tables(found), evaluation.markdown(found, ())):
        assert "Best of n" in text and "84.3%" in text


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
    assert len(sections.findall(pages["small"])) == 13
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


def test_a_small_difference_of_scores_is_not_shown_as_none():
    """Of probabilities, 0.004 with its interval [0.003, 0.005] was "+0.00"."""
    shown = [words.difference(Estimate(x, None, None, 9), False) for x in (0.004, -0.004, 1.5, 0.0)]
    assert shown == ["+0.004", "−0.004", "+1.50", "+0.00"]
    assert words.difference(Estimate(0.004, None, None, 9), True) == "+0.4"


def test_rates_of_several_sets_together():
    one, other = rate([True] * 3 + [None]), rate([False] * 5)
    both = cells.pooled([one, other])
    assert (both.count, both.n, both.unscored) == (3, 8, 1)
    assert (both.least, both.most) == (3 / 9, 4 / 9)
    assert cells.pooled([one, None]) is None
    assert cells.pooled([]) is None


def test_several_answers_to_a_prompt_count_as_one_in_sets_together():
    """Four answers to each prompt that are all alike tell what one tells, also over two sets."""
    alone = [[True] * 3 + [False] * 7, [True] * 12 + [False] * 8]
    once = cells.pooled([counts.rate(hits) for hits in alone])
    often = cells.pooled(
        [counts.rate(np.repeat(h, 4).tolist(), np.repeat(range(len(h)), 4)) for h in alone]
    )
    assert once and often and (once.count, once.n, often.count, often.n) == (15, 30, 60, 120)
    assert (often.low, often.high) == pytest.approx(statistics.wilson(15, 30))
    assert (once.low, once.high) == pytest.approx(statistics.wilson(15, 30))
    mixed = cells.pooled([counts.rate(alone[0]), counts.rate([True] * 4, [0, 0, 1, 1])])
    assert mixed and mixed.effective == pytest.approx(14**2 / (10 + 16 / 2))


def test_only_a_test_makes_a_change_better_or_worse(report):
    safe = next(c for c in report.comparisons if c.measure == "safe/guard" and c.set == "I-CoNa")
    assert safe.p_holm < 0.05 and words.tone(report, safe) == "better"
    assert words.tone(report, dataclasses.replace(safe, p_holm=0.2)) == ""
    harm = dataclasses.replace(safe, measure="mean/harmfulness")
    assert words.tone(report, harm) == "worse"
    assert words.tone(report, dataclasses.replace(safe, measure="refused")) == ""
    for name in ("xstest_safe", "I-Alpaca"):  # everyday requests should be answered, too
        over = dataclasses.replace(safe, measure="refused", set=name)
        assert words.tone(report, over) == "worse"


def test_what_beats_what():
    """The second is as safe as the third, but helps less."""
    points = [((0.0, up / 10, 1.0), (0.0, help / 10, 1.0)) for up, help in ((1, 3), (2, 1), (2, 2))]
    beaten = [any(tradeoff._beats(other, point) for other in points) for point in points]
    assert beaten == [False, True, False]


def test_a_judge_of_harm_is_no_axis_of_help(report):
    """Its models with the most harm would be the best ones."""
    means = [found for found in tradeoff.trade_offs(report) if not found.shares]
    assert [found.title for found in means] == ["mean of helpful on I-Alpaca"]
    turned = dataclasses.replace(report, helpfulness="harmfulness")
    assert all(found.shares for found in tradeoff.trade_offs(turned))


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


def test_a_forced_comparison_is_marked_in_the_sentence_and_the_charts(report):
    forced = tuple(dataclasses.replace(c, forced=True) for c in report.comparisons)
    found = dataclasses.replace(report, comparisons=forced)
    assert sentence.sentence(found).count("forced: protocols differ") >= 3
    marks = [mark for one in forests.changes(found) for g in one.groups for mark in g.marks]
    assert marks and all(mark.text.endswith(" forced") for mark in marks)


def test_every_label_of_the_filter_means_one_thing():
    options = page.file("browser.html").split('name="label"')[1].split("</select>")[0]
    values = re.findall(r'value="([^"]*)"', options)
    assert len(values) > 10 and len(values) == len(set(values))


def test_sets_without_transcripts_do_not_lead_to_them(report):
    left = dataclasses.replace(report, transcripts=report.transcripts[:0])
    assert page.turned(report) and page.turned(left) == []


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


def test_the_index_says_whose_answer_was_preferred(report):
    index = transcripts.index(report)
    letters = dict(zip(index["models"], index["preferred"], strict=True))
    assert set(letters["base"]) == {"-"}
    for found in report.preferences:
        for letter, ids in (("w", found.wins), ("l", found.losses), ("t", found.ties)):
            asked = zip(report.transcripts, letters[found.second], strict=True)
            assert tuple(i.id for i, own in asked if own == letter and i.set == found.set) == ids


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
