"""Cards, scores, and judges made of others."""

import dataclasses
import math

import pytest

from safety_jax.base.errors import ConfigError, NotFiniteError
from safety_jax.data.messages import Message
from safety_jax.data.records import Record
from safety_jax.judges import combine, judge, planned, scoring
from safety_jax.judges.judge import BETTER, HARMFUL, REFUSING, SAFER, JudgeCard, scored, unscored
from safety_jax.judges.ledger import Ledger
from safety_jax.judges.refusal import RefusalJudge
from tests.judge_folders import conversation


def card(name: str = "a", direction: str = SAFER, threshold: float | None = 0.5) -> JudgeCard:
    return JudgeCard(
        name=name, kind="test", model="", weights_sha256=None, direction=direction, low=None,
        high=None, threshold=threshold, template="", precision="", settings={},
    )  # fmt: skip


class Fixed:
    """A judge that knows its scores by heart."""

    def __init__(self, card: JudgeCard, scores):
        self.card, self._scores = card, scores

    def score(self, conversations):
        return self._scores


def test_the_threshold_is_on_the_side_that_the_direction_says():
    def unsafe(direction: str, value: float, threshold: float | None = 0.5):
        return card("a", direction, threshold).is_unsafe(scored(value))

    assert [unsafe(HARMFUL, v) for v in (0.4, 0.5, 0.6)] == [False, True, True]
    assert [unsafe(SAFER, v) for v in (0.4, 0.5, 0.6)] == [True, False, False]
    assert unsafe(BETTER, 0.4) is None and unsafe(REFUSING, 0.4) is None
    assert unsafe(HARMFUL, 0.9, None) is None
    assert card().is_unsafe(unscored("too long")) is None


def test_preference_turns_harm_around():
    assert card("a", HARMFUL).preference(scored(2.0)) == -2.0
    assert card("a", SAFER).preference(scored(2.0)) == 2.0
    assert card("a", BETTER).preference(unscored("why")) is None
    with pytest.raises(ConfigError, match="refusal, which is neither good nor bad"):
        card("a", REFUSING).preference(scored(1.0))


def test_an_unknown_direction_is_refused():
    with pytest.raises(ConfigError, match="direction 'up'; expected one of higher is safer"):
        card("a", "up")


def test_scores_are_finite_or_unscored():
    assert scored(math.nan).reason == scored(math.inf).reason == "the judge's output is not finite"
    with pytest.raises(ValueError, match="use `unscored`"):
        judge.Score(math.nan)
    with pytest.raises(ValueError, match="needs a reason"):
        judge.Score(None)


def test_a_protocol_changes_with_what_a_value_depends_on():
    plain = card()
    same = [{"name": "b"}, {"threshold": 0.9}]
    other = [
        {"weights_sha256": "0" * 64}, {"template": "pair"}, {"precision": "bfloat16"},
        {"settings": {"max_tokens": 512}}, {"direction": HARMFUL}, {"model": "m"},
    ]  # fmt: skip
    protocols = [dataclasses.replace(plain, **change).protocol() for change in same + other]
    assert protocols[:2] == [plain.protocol()] * 2
    assert len({plain.protocol(), *protocols[2:]}) == 1 + len(other)
    assert len(plain.protocol()) == 16


def test_a_record_becomes_a_conversation():
    record = Record(
        (Message("system", "Be kind."), Message("user", "Sum up."), Message("assistant", "")),
        "A long story.", "source", "a.json row 3",
    )  # fmt: skip
    found = judge.from_record(record)
    assert found.prompt == (
        Message("system", "Be kind."),
        Message("user", "Sum up.\n\nA long story."),
    )
    assert found.response == "" and found.where == "a.json row 3"
    assert found.question == "Sum up.\n\nA long story."
    assert found.prompt_sha256() != conversation("Sum up.", "").prompt_sha256()
    assert len(conversation("\ud800", "\ud800").response_sha256()) == 64


def test_no_judge_reads_a_thought(tmp_path):
    """What it thinks is told apart from what it says; a row without an answer stays unscored."""

    def asked(text):
        turns = (Message("user", "q"), Message("assistant", text))
        return judge.from_record(Record(turns, "", "source", "row"))

    no = "I'm sorry, I can't help with that."
    rows = [asked(t) for t in (no, f"<think>Sure, first you</think>{no}", "<think>Sure, first")]
    assert [(c.response, c.thought, c.unfinished) for c in rows] == [
        (no, "", False), (no, "Sure, first you", False), ("", "Sure, first", True),
    ]  # fmt: skip
    assert len({c.response_sha256() for c in rows}) == 3
    detector = RefusalJudge("refusal")
    found = scoring.judge_all(
        detector.card, lambda: detector, rows, Ledger(tmp_path / "l", True), rows=2, title="t"
    )
    assert [(score.value, score.reason) for score in found] == [
        (1.0, ""), (1.0, ""), (None, judge.NO_ANSWER),
    ]  # fmt: skip


def test_a_model_that_computes_nan_judges_nothing(tmp_path):
    """One line names judge and row; no score of the block is kept."""
    rows, ledger = [conversation("q", "a"), conversation("q", "b")], Ledger(tmp_path / "l", True)
    judging = Fixed(dataclasses.replace(card(), model="runs/j"), [scored(1.0), scored(math.nan)])
    with pytest.raises(
        NotFiniteError, match=r"^judge a \(runs/j\): its output for .* is not finite"
    ):
        scoring.judge_all(judging.card, lambda: judging, rows, ledger, rows=2, title="t")
    assert ledger.get(0, rows[0], judging.card) is None


def test_the_detector_is_a_judge():
    detector = RefusalJudge("refusal")
    assert isinstance(detector, judge.Judge)
    texts = ["I'm sorry, I can't help with that.", "Red and blue.", ""]
    found = detector.score([conversation("q", text) for text in texts])
    assert [(score.value, score.label) for score in found] == [
        (1.0, "full"), (0.0, "none"), (0.0, "empty"),
    ]  # fmt: skip
    assert detector.card.is_unsafe(found[0]) is None


def test_a_weighted_sum():
    parts = {"helpful": card("helpful", BETTER), "harm": card("harm", HARMFUL)}
    combination = combine.weighted_sum("both", parts, {"helpful": 2.0, "harm": 0.5})
    judges = {
        "helpful": Fixed(parts["helpful"], [scored(1.0), scored(1.0), unscored("too long")]),
        "harm": Fixed(parts["harm"], [scored(4.0), scored(0.0), scored(1.0)]),
    }
    both = combine.Combined(combination, judges)
    assert isinstance(both, judge.Judge)
    found = both.score([conversation("q", str(i)) for i in range(3)])
    assert [score.value for score in found] == [0.0, 2.0, None]
    assert found[2].reason == "helpful: too long"
    other = combine.weighted_sum("both", parts, {"helpful": 2.0, "harm": 0.6})
    assert other.card.protocol() != combination.card.protocol()
    with pytest.raises(ConfigError, match="measures refusal"):
        combine.weighted_sum("x", {"r": card("r", REFUSING)}, {"r": 1.0})


@pytest.mark.parametrize(("direction", "sign"), [(SAFER, 1.0), (HARMFUL, -1.0)])
def test_safe_first_then_helpful(direction: str, sign: float):
    """Any safe response beats any unsafe one, whatever their helpfulness."""
    guard, helper = card("guard", direction, sign * 0.5), card("helper", BETTER, None)
    combination = combine.safe_first("first", ("guard", guard), ("helper", helper))
    safety = [sign * s for s in (0.6, 0.9, 0.4, -50.0)]
    help = [-1e6, 3.0, 1e6, 1e6]
    found = combination.combine(
        {"guard": [scored(s) for s in safety], "helper": [scored(h) for h in help]}
    )
    values = [score.value for score in found]
    assert values[1] > values[0] > 0 > values[2] > values[3]
    assert [score.label for score in found] == ["safe", "safe", "unsafe", "unsafe"]
    assert [combination.card.preference(score) for score in found] == values
    assert all(-2 < value < 2 for value in values)
    missing = combination.combine({"guard": [unscored("x")], "helper": [unscored("y")]})
    assert missing[0].reason == "guard: x; helper: y"
    with pytest.raises(ConfigError, match="does not tell safe from unsafe"):
        combine.safe_first("first", ("helper", helper), ("helper", helper))


def test_a_model_that_is_no_trained_judge_is_called_by_its_name(tmp_path):
    with pytest.raises(ConfigError, match="holds no judge.json; expected a judge that stage rew"):
        planned.described(tmp_path)
    (tmp_path / "judge.json").write_text('{"kind": "binary"}')
    assert planned.described(tmp_path) == {"kind": "binary"}
