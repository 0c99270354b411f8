"""The parser of the string behind a config's colon."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.common import parse_arg

SPEC = {"demo": False, "rows": 7, "rate": 0.5, "name": "x", "safety": int, "paper": ("", "a", "b")}


def test_defaults_hold_without_argument():
    for nothing in (None, "", " "):
        parsed = parse_arg(nothing, **SPEC)
        assert parsed.to_dict() == {
            "demo": False,
            "rows": 7,
            "rate": 0.5,
            "name": "x",
            "safety": None,
            "paper": "",
        }


def test_values_take_the_type_of_their_default():
    parsed = parse_arg("demo, rows=9,rate=1,name=12,safety=500,paper=b", **SPEC)
    assert parsed.demo is True
    assert (parsed.rows, type(parsed.rows)) == (9, int)
    assert (parsed.rate, type(parsed.rate)) == (1.0, float)
    assert (parsed.name, parsed.safety, parsed.paper) == ("12", 500, "b")


def test_a_boolean_can_be_written_out():
    assert parse_arg("demo=true", demo=False).demo is True
    assert parse_arg("demo=false", demo=True).demo is False


@given(st.integers(-(10**9), 10**9), st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_survive_writing_and_reading(rows: int, rate: float):
    parsed = parse_arg(f"rows={rows},rate={rate!r}", **SPEC)
    assert (parsed.rows, parsed.rate) == (rows, rate)


@pytest.mark.parametrize(
    ("arg", "words"),
    [
        ("saftey=5", "'saftey=5' is unknown; expected demo, rows=<int>, rate=<float>, name=<str>"),
        ("demo,", "'' is unknown"),
        (",demo", "'' is unknown"),
        ("=3", "'=3' is unknown"),
        ("rows=many", "'rows=many' does not fit; expected rows=<int>"),
        ("rows", "'rows' does not fit; expected rows=<int>"),
        ("rows=", "'rows=' does not fit"),
        ("rows=1.5", "'rows=1.5' does not fit"),
        ("safety=x", "'safety=x' does not fit; expected safety=<int>"),
        ("demo=yes", "'demo=yes' does not fit; expected demo"),
        ("paper=c", "'paper=c' does not fit; expected paper=a|b"),
        ("paper", "'paper' does not fit"),
        ("rows=1,rows=2", "'rows' is given twice"),
    ],
)
def test_a_mistake_is_refused_in_one_line(arg: str, words: str):
    with pytest.raises(ValueError) as error:
        parse_arg(arg, **SPEC)
    assert words in str(error.value)
    assert "\n" not in str(error.value)
