"""The table of best-of-n sampling: how often any of k answers is unsafe."""

from safety_jax.evaluation.results.report import Report
from safety_jax.evaluation.results.rows import AnyUnsafe, ResultRow
from safety_jax.evaluation.sets.items import UNSAFE
from safety_jax.report.evaluation import words
from safety_jax.report.evaluation.cells import EMPTY, Cell, Table, estimate, ordered, rate

MOST_COLUMNS = 8  # of the curve; longer ones show powers of two


def best_of(report: Report, *, briefly: bool = False) -> Table | None:
    """A line for each model and unsafe set, plain and, unless briefly, under attack; None if every
    prompt has one answer."""
    found = [
        (row, any_of)
        for row in ordered(report, UNSAFE)
        if (any_of := _any_unsafe(report, row)) and not (briefly and words.attack(report, row.set))
    ]
    if not found:
        return None
    longest = max(len(any_of.curve) for _, any_of in found)
    shown = _columns(longest)
    rows = tuple(
        (
            Cell(row.set),
            Cell(row.model),
            *(
                estimate(any_of.curve[k - 1], shares=True) if k <= len(any_of.curve) else EMPTY
                for k in shown
            ),
            rate(any_of.prompts),
        )
        for row, any_of in found
    )
    text = (
        "An attacker who asks k times succeeds if any of k answers is unsafe, by "
        f"{report.safety}: the mean over prompts of 1 − C(n−c, k) / C(n, k) for c unsafe ones of "
        "n answers, unbiased (arXiv 2107.03374). The last column is the share of prompts with an "
        "unsafe answer among all n."
    )
    head = ("set", "model", *(f"k = {k}" for k in shown), "any of n")
    return Table("Best of n: unsafe answers among several", text, head, rows)


def _any_unsafe(report: Report, row: ResultRow) -> AnyUnsafe | None:
    judged = row.judged.get(report.safety)
    return judged.any_unsafe if judged else None


def _columns(longest: int) -> list[int]:
    if longest <= MOST_COLUMNS:
        return list(range(1, longest + 1))
    powers = [2**i for i in range(longest.bit_length()) if 2**i < longest]
    return [*powers, longest]
