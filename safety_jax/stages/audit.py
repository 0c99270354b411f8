"""Stage `audit`: judges, labelled responses -> `audit.json`, `audit.html`, `README.md`, a table.

judgements.jsonl   every score as it came; a killed run goes on from here
audit.json         every figure, with the judges' cards
audit.html         what a person reads before trusting a judge; README.md says the same
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from ml_collections import ConfigDict

from safety_jax.base import compilation, files
from safety_jax.base.errors import ConfigError
from safety_jax.judges import inputs, registry
from safety_jax.judges.audit import findings, labels, perturbations
from safety_jax.judges.audit.findings import Effect, JudgeAudit
from safety_jax.judges.audit.labels import LabelRule
from safety_jax.judges.inputs import ScoreInput
from safety_jax.judges.judge import Conversation, Score
from safety_jax.judges.ledger import Ledger
from safety_jax.judges.planned import PlannedJudge
from safety_jax.judges.scoring import ToJudge, judge_all, judge_by_each
from safety_jax.maths.detection import Resampled
from safety_jax.report import audit as report
from safety_jax.report.audit import AuditReport
from safety_jax.stages import devices, groups
from safety_jax.training import workdir

LEDGER, FIGURES, PAGE, TEXT = "judgements.jsonl", "audit.json", "audit.html", "README.md"


@dataclasses.dataclass(frozen=True)
class Audited:
    """The rows of an audit.

    Attributes:
        truths: by label; None where it says neither, and without labels.
        groups: by column, the value of each row.
        sample: places of the rows that are changed.
        changed: by change, these rows after it.
    """

    items: Sequence[ScoreInput]
    truths: Sequence[bool | None]
    groups: Mapping[str, Sequence[str]]
    sample: Sequence[int]
    changed: Mapping[str, Sequence[Conversation | None]]

    @property
    def conversations(self) -> list[Conversation]:
        return [item.conversation for item in self.items]


def run(config: ConfigDict, folder: str) -> None:
    """Runs the stage; called again, it goes on where it stopped.

    Raises:
        UserError: anything that the user can put right.
    """
    primary = jax.process_index() == 0
    compilation.keep(config.log.compilation_cache)
    with workdir.prepare(folder, config, primary) as place:
        # ---- rows and judges: what can be wrong is found before weights are read
        items, sources = inputs.read(config.data.responses, "data.responses", config.seed)
        rule = label_rule(config)
        truths, left_out = labels.read(items, rule) if rule else ([None] * len(items), {})
        rows = audited(config, items, truths)
        mesh = devices.build_mesh(config)
        judges = registry.plan(config.score.judges.to_dict(), groups.judge_resources(config, mesh))
        changed = place.note(
            {f"data.responses {name}": str(facts["sha256"]) for name, facts in sources.items()}
            | {f"score.judges {name}": one.card.protocol() for name, one in judges.items()}
        )
        if primary:
            for line in changed:
                print(f"note: changed since the last start, so scored anew: {line}", flush=True)
            print(
                f"{len(items):,} responses, {sum(t is not None for t in truths):,} with a label, "
                f"{len(rows.sample):,} changed in {len(rows.changed)} ways, {len(judges)} judge(s)"
            )

        # ---- one judge after the other, so that one model is in memory at a time
        ledger = Ledger(place.path / LEDGER, primary)
        found = audit_each(config, judges, rows, ledger)

        # ---- what is handed back
        if primary:
            whole = AuditReport(
                judges=tuple(found),
                rule=rule,
                sources=sources,
                rows=len(items),
                labelled=sum(truth is not None for truth in truths),
                perturbed=len(rows.sample),
                left_out=left_out,
                settings={"seed": config.seed, "resamples": config.audit.resamples},
            )
            figures = dataclasses.asdict(whole) | {"versions": workdir.versions()}
            files.write(place.path / FIGURES, workdir.canonical(figures))
            files.write(place.path / TEXT, report.markdown(whole))
            files.write(place.path / PAGE, report.html(whole))
            print(f"{report.terminal(whole)}\n{place.path / PAGE}", flush=True)


def label_rule(config: ConfigDict) -> LabelRule | None:
    """How labels are read; None where none are named."""
    data = config.data
    if not data.label:
        return None
    return LabelRule(data.label, tuple(data.positive), tuple(data.negative), data.means)


def audited(
    config: ConfigDict, items: Sequence[ScoreInput], truths: Sequence[bool | None]
) -> Audited:
    """The rows, and those of them that are changed: labelled ones first.

    Raises:
        ConfigError: a group that no row has.
    """
    for column in config.data.groups:
        if not any(column in item.row for item in items):
            raise ConfigError(f"data.groups names {column!r}, and no row has such a column")
    drawn = np.random.default_rng(config.seed).permutation(len(items)).tolist()
    order = sorted(drawn, key=lambda i: truths[i] is None)
    sample = sorted(order[: config.audit.rows or len(items)])
    chosen = [items[i].conversation for i in sample]
    return Audited(
        items,
        truths,
        {c: [labels.as_text(item.row.get(c)) for item in items] for c in config.data.groups},
        sample,
        {
            name: perturbations.perturb(name, chosen)
            for name in config.audit.changes
            if name in perturbations.PERTURBATIONS
        },
    )


def audit_each(
    config: ConfigDict, judges: Mapping[str, PlannedJudge], rows: Audited, ledger: Ledger
) -> list[JudgeAudit]:
    """Every judge's audit; combinations after their parts."""
    conversations = rows.conversations
    by = Resampled(findings.clusters_of(conversations), config.audit.resamples, config.seed)
    lists = [conversations, *([c for c in some if c] for some in rows.changed.values())]
    titles = ["", *rows.changed]
    found: list[JudgeAudit] = []
    parts: list[dict[str, list[Score]]] = [{} for _ in lists]
    for name, planned in judges.items():
        one = dataclasses.replace(planned, load=functools.cache(planned.load))
        to_judge = [ToJudge(c, ledger, t) for c, t in zip(lists, titles, strict=True)]
        if one.combination is None:
            scored = judge_by_each(
                {name: one}, to_judge, rows=config.score.rows_per_write, leave=False
            )
            for known, scores in zip(parts, scored, strict=True):
                known |= scores
        else:
            for known in parts:
                known[name] = one.combination.combine(known)
        reworded = _reworded(config, name, one, rows, ledger)
        found.append(_audit(config, name, one, [k[name] for k in parts], reworded, rows, by))
    return found


def _reworded(
    config: ConfigDict, name: str, one: PlannedJudge, rows: Audited, ledger: Ledger
) -> list[Score] | None:
    """Scores of the sample by the judge in other words; None where it has none."""
    other = one.reworded
    if other is None or report.REWORDED not in config.audit.changes:
        return None
    return judge_all(
        other.card,
        lambda: other.make(one.load()),
        [rows.items[i].conversation for i in rows.sample],
        ledger,
        rows=config.score.rows_per_write,
        title=f"{name}: {report.REWORDED}",
        leave=False,
    )


def _audit(
    config: ConfigDict,
    name: str,
    one: PlannedJudge,
    scores: Sequence[Sequence[Score]],
    reworded: Sequence[Score] | None,
    rows: Audited,
    by: Resampled,
) -> JudgeAudit:
    """One judge's scores, of all rows and of each change, as findings."""
    card, plain, rule = one.card, scores[0], label_rule(config)
    before = [plain[i] for i in rows.sample]
    places = np.zeros(len(rows.items), bool)
    places[list(rows.sample)] = True
    of_sample = by.among(places)
    effects: list[Effect] = []
    for (change, some), found in zip(rows.changed.items(), scores[1:], strict=True):
        after = iter(found)
        moved = [None if one is None else next(after) for one in some]
        effects.append(findings.effect(change, card, before, moved, of_sample))
    if reworded is not None:
        effects.append(findings.effect(report.REWORDED, card, before, reworded, of_sample))
    fits = rule is not None and labels.fits(card, rule)
    words = [len(item.conversation.response.split()) for item in rows.items]
    return JudgeAudit(
        name=name,
        card=card,
        agreements=findings.agreements(card, plain, rows.truths, words, rows.groups, by)
        if fits
        else (),
        effects=tuple(effects),
        confidence=findings.confidence(card, plain, rows.truths, bins=config.audit.bins)
        if fits
        else None,
    )
