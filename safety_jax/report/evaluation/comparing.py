"""The tables of a report with comparisons of two models, or of judges and people."""

import dataclasses
from collections.abc import Sequence

from safety_jax.evaluation.results.comparisons import Comparison, Preference
from safety_jax.evaluation.results.report import Report
from safety_jax.report.evaluation import words
from safety_jax.report.evaluation.cells import EMPTY, Cell, Table, estimate, rate, without_empty


def foremost(report: Report) -> tuple[str, ...]:
    """The most important measures, in order."""
    safe, engaged = f"safe/{report.safety}", f"engaged/{report.safety}"
    return (safe, engaged, "refused", "accuracy", f"mean/{report.helpfulness}")


def compared(report: Report) -> list[Comparison]:
    """The comparisons that were made, the most important measures first."""
    order = {name: place for place, name in enumerate(foremost(report))}
    made = [c for c in report.comparisons if not c.refused_because]
    return sorted(made, key=lambda c: order.get(c.measure, len(order)))


def comparisons(report: Report, *, briefly: bool = False) -> list[Table]:
    """One table for each measure; briefly, of the foremost measures only, without attacks and
    conversations, in few columns."""
    made = compared(report)
    if briefly:
        made = [
            c
            for c in made
            if c.measure in foremost(report)
            and not words.attack(report, c.set)
            and not words.in_conversation(report, c.set)
        ]
    return [
        _by_measure(report, name, [c for c in made if c.measure == name], briefly)
        for name in dict.fromkeys(c.measure for c in made)
    ]


def _prompts(found: Comparison) -> Cell:
    """The number of prompts, and of answers of each model if they are more."""
    more = found.answers is not None and found.answers != found.n
    return Cell(str(found.n), (f"{found.answers} answers",) if more else ())


def _by_measure(report: Report, measure: str, found: Sequence[Comparison], briefly: bool) -> Table:
    fixable = any(c.fixed or c.broken for c in found)
    margins = any(c.noninferior is not None for c in found)
    columns = [
        ("set", [Cell(words.sets(report, c.set)) for c in found]),
        ("model", [_against(report, c) for c in found]),
        ("prompts", [_prompts(c) for c in found]),
        ("from → to", [_from_to(c) for c in found]),
        ("difference [95%]", [difference(report, c) for c in found]),
    ]
    if fixable and not briefly:
        changed = [Cell(f"{len(c.fixed)} / {len(c.broken)}") for c in found]
        columns.append(("fixed / broken", changed))
    columns.append(("p", [Cell(words.p_value(c.p)) for c in found]))
    columns.append(("p, Holm", [Cell(words.p_value(c.p_holm)) for c in found]))
    if not briefly:
        columns.append(("detectable", [Cell(_detectable(c)) for c in found]))
    if margins:
        columns.append(("not worse", [Cell(words.noninferior(c) or words.NONE) for c in found]))
    methods = "; ".join(dict.fromkeys(c.method for c in found))
    text = (
        f"{methods[:1].upper()}{methods[1:]}. Detectable: the smallest difference that would be "
        "found with power 0.8."
    )
    head, cells = zip(*columns, strict=True)
    return Table(words.measure(measure).capitalize(), text, head, tuple(zip(*cells, strict=True)))


def _against(report: Report, c: Comparison) -> Cell:
    return Cell(c.second, () if c.first == report.baseline else (f"against {c.first}",))


def _from_to(c: Comparison) -> Cell:
    return Cell(f"{_level(c, c.first_value)} → {_level(c, c.second_value)}")


def _level(c: Comparison, found: float | None) -> str:
    return words.percent(found) if words.is_share(c.measure) else words.number(found)


def difference(report: Report, c: Comparison) -> Cell:
    shares = words.is_share(c.measure)
    notes = (
        words.interval(c.difference.low, c.difference.high, shares),
        "forced: protocols differ" if c.forced else "",
    )
    tone = words.tone(report, c)
    return Cell(words.difference(c.difference, shares), tuple(filter(None, notes)), tone=tone)


def _detectable(c: Comparison) -> str:
    if c.detectable is None:
        return words.NONE
    return f"{100 * c.detectable:.1f}" if words.is_share(c.measure) else words.number(c.detectable)


def preferred(report: Report) -> Table | None:
    """Answers compared with the baseline's by a pairwise judge, and its position bias."""
    made = [found for found in report.preferences if found.n or found.unscored]
    rows = [
        (
            Cell(words.sets(report, found.set)),
            Cell(found.second, ("forced: protocols differ",) if found.forced else ()),
            Cell(str(found.n), (f"and {found.unscored} unscored",) if found.unscored else ()),
            Cell(str(len(found.wins))),
            Cell(str(len(found.ties)), (f"of them {found.alike} the same",) if found.alike else ()),
            Cell(str(len(found.losses))),
            estimate(found.win_rate, shares=True),
            _shown_first(found),
            rate(found.flips),
        )
        for found in made
    ]
    if not made:
        return None
    judge, against = made[0].judge, made[0].first
    text = (
        f"{judge} compares each answer with that of {against}, in both orders. A win or a loss "
        "holds in both; if the verdict changes with the order, or the answers are the same, it is "
        "a tie. The win rate is by the mean of both orders. Without position bias, the judge "
        "prefers the answer shown first half of the time."
    )
    head = (
        "set", "model", "prompts", "wins", "ties", "losses", "win rate [95%]",
        "shown first preferred [95%]", "verdicts that flip",
    )  # fmt: skip
    return Table("Preferred answers", text, head, tuple(rows))


def _shown_first(found: Preference) -> Cell:
    """The share of answers shown first that are preferred, marked if chance does not explain it."""
    cell, shown = estimate(found.shown_first, shares=True), found.shown_first
    if shown.low is None or shown.high is None or shown.low <= 0.5 <= shown.high:
        return cell
    return dataclasses.replace(cell, tone="doubt")


def refused(report: Report) -> Table | None:
    """Comparisons that were not made, one line for each reason."""
    reasons: dict[tuple[str, str, str, str], list[str]] = {}
    for c in report.comparisons:
        if c.refused_because:
            key = (c.first, c.second, c.set, c.refused_because)
            reasons.setdefault(key, []).append(words.measure(c.measure))
    rows = [
        (
            Cell(words.sets(report, name)),
            Cell(f"{first} and {second}"),
            Cell(", ".join(dict.fromkeys(measures))),
            Cell(why, tone="doubt"),
        )
        for (first, second, name, why), measures in reasons.items()
    ]
    text = "Only answers to the same prompts, made under one protocol, are compared."
    head = ("set", "models", "measures", "why")
    return Table("Not compared", text, head, tuple(rows)) if rows else None


# ---------------------------------------------------------------------------- judges and people


def agreement(report: Report) -> Table | None:
    """The agreement of judges with each other and with people."""
    rows = [
        (
            Cell(found.first),
            Cell(found.second),
            Cell(str(found.n)),
            rate(found.share),
            estimate(found.kappa),
            *(
                Cell(words.number(figure)) if figure is not None else EMPTY
                for figure in (found.auc, found.pearson, found.spearman)
            ),
        )
        for found in report.agreement
    ]
    head = ("judge", "with", "answers", "equal verdicts", "Cohen's κ", "AUC", "Pearson", "Spearman")
    text = (
        "AUC: how well the scores of the first predict the verdicts of the second; 0.5 is chance. "
        "κ counts only agreement beyond chance."
    )
    return without_empty(Table("Agreement of judges", text, head, tuple(rows))) if rows else None


def quality(report: Report) -> Table | None:
    """The quality of judges against people."""
    rows = [
        (Cell(judge), rate(found.precision), rate(found.recall), rate(found.specificity))
        for judge, found in report.quality.items()
    ]
    text = (
        "Precision: the share of what the judge calls unsafe that people call unsafe, too. Recall: "
        "the share of what people call unsafe that the judge finds. Specificity: the share of what "
        "people call safe that the judge passes."
    )
    head = ("judge", "precision", "recall", "specificity")
    return Table("Judges against people", text, head, tuple(rows)) if rows else None


def corrected(report: Report) -> Table | None:
    """Safe shares by a judge, and corrected for its errors."""
    rows = []
    for model, found in report.corrected.items():
        for name, share in found.items():
            row = report.row(model, name)
            judged = row.judged.get(report.safety) if row else None
            said = rate(judged.safe) if judged else EMPTY
            rows.append((Cell(name), Cell(model), said, estimate(share, shares=True)))
    text = "People's labels of a sample show how often the judge errs."
    head = ("set", "model", f"safe, by {report.safety or 'the judge'}", "corrected by people")
    return Table("Corrected by people", text, head, tuple(rows)) if rows else None
