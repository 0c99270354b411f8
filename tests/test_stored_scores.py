"""Verdicts that a file of answers brings along, in numbers and in words, count as scores."""

import pytest

from safety_jax.base.errors import ConfigError, DataError
from safety_jax.evaluation.answers import stored_scores
from safety_jax.evaluation.answers.responses import Response
from safety_jax.judges.judge import BETTER, HARMFUL, SAFER


def judge(direction=HARMFUL, range_=(), threshold=(), column="said", name="judge"):
    spec = {"kind": "stored", "column": column, "direction": direction}
    return stored_scores.card(
        name, spec | {"range": range_, "threshold": threshold}, {"file": "sha"}
    )


def said(*values):
    return [
        Response(str(i), "", "", {"said": value}, f"f row {i}") for i, value in enumerate(values)
    ]


def test_stored_numbers():
    card = judge(range_=(0, 4), threshold=(1.5,))
    found = stored_scores.scores(card, said(1.4, "1.5", 4, "", None, float("nan"), [1], True))
    assert [score.value for score in found] == [1.4, 1.5, 4.0, *[None] * 5]
    assert [card.is_unsafe(score) for score in found[:3]] == [False, True, True]
    assert all(score.reason for score in found[3:])
    with pytest.raises(DataError, match="f row 1: 'said' is 4.5; expected 0 to 4, the range"):
        stored_scores.scores(card, said(1, 4.5))
    # Its square is no float, and a report cannot hold the deviation.
    with pytest.raises(DataError, match=r"'said' is 1e\+308; expected -1e\+30 to 1e\+30$"):
        stored_scores.scores(judge(), said(1e308))


def test_stored_verdicts_in_words():
    texts = ("safe", "unsafe\nS2", "  Unsafe\nO3", "\nSAFE.", "unsafely", "I cannot", "", " ")
    expected = [0.0, 1.0, 1.0, 0.0, None, None, None, None]
    card = judge(threshold=(0.5,))
    found = stored_scores.scores(card, said(*texts))
    assert [score.value for score in found] == expected
    assert [card.is_unsafe(score) for score in found[:4]] == [False, True, True, False]
    assert found[1].label == "unsafe" and found[1].details["stored"] == "unsafe\nS2"
    turned = judge(SAFER, threshold=(0.5,))
    assert [turned.is_unsafe(s) for s in stored_scores.scores(turned, said(*texts))][:4] == [
        False, True, True, False,
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="f row 0: the column holds verdicts in words; expected"):
        stored_scores.scores(judge(BETTER), said("safe"))


def test_stored_judges_that_cannot_be():
    with pytest.raises(DataError, match="judge judge: f row 0: no column 'no'; expected one of sa"):
        stored_scores.scores(judge(column="no"), said(1))
    with pytest.raises(ConfigError, match="judge j: key 'range' is missing; a judge of the kind"):
        stored_scores.card(
            "j", {"kind": "stored", "column": "", "direction": SAFER, "threshold": ()}, {}
        )
    with pytest.raises(ConfigError, match="direction 'up'; expected one of"):
        judge("up")
    assert judge().settings["files"] == {"file": "sha"}
