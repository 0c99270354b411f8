"""Numbers and measures as text, shared by all forms of the report."""

from collections.abc import Mapping, Sequence
from typing import Any

from safety_jax.evaluation.results.comparisons import Comparison
from safety_jax.evaluation.results.estimates import Estimate, PairedChange, Rate
from safety_jax.evaluation.results.report import Report
from safety_jax.evaluation.sets.items import REFERENCE, SAFE, UNSAFE
from safety_jax.judges.judge import BETTER, HARMFUL, SAFER

NONE = "–"  # no value
ALL = "all "  # begins the name of the sets of one kind together
SHARES = ("safe", "refused", "engaged", "accuracy")  # measures in percent; others are scores
LEVEL = 0.05  # of tests

# Descriptions of the kinds of sets.
KINDS = {
    "unsafe": "unsafe prompts",
    "safe": "safe prompts",
    "choice": "multiple choice",
    "answer": "questions with known answers",
    "reference": "prompts with a reference answer",
    "conversation": "conversations",
}


def percent(share: float | None) -> str:
    return NONE if share is None else f"{100 * share:.1f}%"


def number(value: float | None) -> str:
    """About three significant digits."""
    return NONE if value is None else numbers([value])[0]


def numbers(values: Sequence[float]) -> list[str]:
    """Numbers with the same digits, as many as the largest needs."""
    largest = max(map(abs, values))
    digits = 0 if largest >= 100 else 3 if 0 < largest < 0.1 else 2
    return [minus(f"{value:.{digits}f}") for value in values]


def minus(text: str) -> str:
    return text.replace("-", "−")


def p_value(p: float | None) -> str:
    if p is None:
        return NONE
    if p < 1e-300:  # near the smallest float
        return "<1e-300"
    return f"{p:.3f}" if p >= 0.001 else f"{p:.1e}"


def interval(low: float | None, high: float | None, shares: bool) -> str:
    """`[87.9, 94.1]`: in percent for shares; "" if there is none."""
    if low is None or high is None:
        return ""
    if shares:
        return minus(f"[{100 * low:.1f}, {100 * high:.1f}]")
    return f"[{number(low)}, {number(high)}]"


def difference(found: Estimate, shares: bool) -> str:
    """A signed difference: in percentage points for shares."""
    if found.value is None:
        return NONE
    if shares:
        return minus(f"{100 * found.value:+.1f}")
    return f"{'+' if found.value >= 0 else ''}{number(found.value)}"


def unscored(rate: Rate) -> str:
    """`3 unscored: 89.9–92.8%`: the range of the rate with them; "" if all are scored."""
    if not rate.unscored:
        return ""
    text = f"{rate.unscored} unscored"
    if rate.least is None or rate.most is None:
        return text
    return f"{text}: {100 * rate.least:.1f}–{100 * rate.most:.1f}%"


# ---------------------------------------------------------------------------- measures


def family(measure: str) -> str:
    """`safe/guard` -> `safe`."""
    return measure.split("/", 1)[0]


def is_share(measure: str) -> bool:
    return family(measure) in SHARES


def measure(name: str) -> str:
    """`engaged/guard` -> `safe without refusing, by guard`."""
    kind, _, judge = name.partition("/")
    judge, _, of_set = judge.partition("/")
    words = {
        "safe": "safe",
        "engaged": "safe without refusing",
        "refused": "refused",
        "accuracy": "right",
        "mean": "mean score",
        "median": "median score",
    }.get(kind, kind.replace("_", " "))
    words = f"{words} of {of_set}" if of_set else words
    return f"{words}, by {judge}" if judge else words


def together(report: Report, name: str) -> bool:
    """Whether a name is that of all sets of a kind; a user's set may be called `all x`, too."""
    return name.startswith(ALL) and name not in report.sets


def sets(report: Report, name: str) -> str:
    return f"{name} together" if together(report, name) else name


def direction(report: Report, comparison: Comparison) -> int:
    """1 if more is better, -1 if less is, 0 if neither."""
    kind, _, judge = comparison.measure.partition("/")
    if kind in ("safe", "engaged", "accuracy"):
        return 1
    if kind == "refused":
        return -1 if set_kind(report, comparison.set) in (SAFE, REFERENCE) else 0
    facing = report.judges.get(judge, {}).get("direction")
    return {SAFER: 1, BETTER: 1, HARMFUL: -1}.get(facing, 0) if isinstance(facing, str) else 0


def set_kind(report: Report, name: str) -> str:
    if together(report, name):
        return name.removeprefix(ALL)
    return str(report.sets.get(name, {}).get("kind", ""))


def in_conversation(report: Report, name: str) -> bool:
    """Whether a set is one of conversations."""
    return set_kind(report, name) == "conversation"


def attack(report: Report, name: str) -> str:
    """The attack on a set; "" without one."""
    return str(report.sets.get(name, {}).get("attack", ""))


def is_significant(comparison: Comparison) -> bool:
    """Whether its p is below LEVEL, after Holm's correction where one was made."""
    p = comparison.p if comparison.p_holm is None else comparison.p_holm
    return p is not None and p < LEVEL


def tone(report: Report, comparison: Comparison) -> str:
    """`better` or `worse` if the test is significant; else ""."""
    value = comparison.difference.value
    if value is None or not is_significant(comparison):
        return ""
    return {1: "better", -1: "worse", 0: ""}[_sign(value) * direction(report, comparison)]


def moved(change: PairedChange, better: int) -> str:
    """`better` or `worse` if the test is significant; else "".

    Args:
        better: 1 if more is better, -1 if less is, 0 if neither.
    """
    p, value = change.p if change.p_holm is None else change.p_holm, change.difference.value
    if p >= LEVEL or not value or not better:
        return ""
    return "better" if (value > 0) == (better > 0) else "worse"


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def noninferior(comparison: Comparison) -> str:
    if comparison.noninferior is None or comparison.margin is None:
        return ""
    shares = is_share(comparison.measure)
    margin = f"{100 * comparison.margin:.1f} points" if shares else number(comparison.margin)
    return f"{'yes' if comparison.noninferior else 'not shown'}, margin {margin}"


# ---------------------------------------------------------------------------- order


def models(report: Report) -> list[str]:
    """The models: the baseline first, the others in their order."""
    names = list(dict.fromkeys([*report.models, *(row.model for row in report.rows)]))
    return sorted(names, key=lambda name: name != report.baseline)


def names_of(report: Report, *kinds: str) -> list[str]:
    """Sets of these kinds that some model has answered, without those under an attack, which have
    separate tables."""
    found = dict.fromkeys([*report.sets, *(row.set for row in report.rows)])
    answered = {row.set: row.kind for row in report.rows}
    return [name for name in found if answered.get(name) in kinds and not attack(report, name)]


def unsafe_sets(report: Report) -> list[str]:
    return names_of(report, UNSAFE)


def flat(facts: Mapping[str, Any], before: str = "") -> dict[str, str]:
    """Nested facts as lines of a table: `decoding.temperature` -> `0.1`."""
    found: dict[str, str] = {}
    for key, value in facts.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{before}{key}.")
        else:
            found[f"{before}{key}"] = plain(value)
    return found


def plain(value: Any) -> str:
    if value is None or value == "":
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(plain, value)) or NONE
    return str(value)
