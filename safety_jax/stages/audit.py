"""Stage `audit`: judges, labelled responses -> `audit.json`, `audit.html`, `README.md`, a table.

judgements.jsonl   every score; a killed run resumes from this file
audit.json         every figure, with the judges' cards
audit.html         the report; README.md says the same
"""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
from ml_collections import ConfigDict

from safety_jax.base import compilation, files
from safety_jax.base.errors import ConfigError
from safety_jax.judges import inputs, registry
from safety_jax.judges.audit import labels, perturbations
from safety_jax.judges.audit.labels import LabelRule
from safety_jax.judges.audit.running import Audited, AuditSettings, audit_each
from safety_jax.judges.inputs import ScoreInput
from safety_jax.judges.ledger import Ledger
from safety_jax.report.audit import forms
from safety_jax.report.audit.contents import AuditReport
from safety_jax.stages import devices, groups
from safety_jax.training import environment, workdir

LEDGER, FIGURES, PAGE, TEXT = "judgements.jsonl", "audit.json", "audit.html", "README.md"


def run(config: ConfigDict, folder: str) -> None:
    """Runs the stage; called again, it continues where it stopped.

    Raises:
        UserError: any error that the user can fix.
    """
    primary = jax.process_index() == 0
    compilation.keep(config.log.compilation_cache)
    with workdir.prepare(folder, config, primary) as place:
        # ---- rows and judges: everything is checked before weights are read
        items, sources = inputs.read(config.data.responses, "data.responses", config.seed)
        rule = label_rule(config)
        truths, left_out = labels.read(items, rule) if rule else ([None] * len(items), {})
        rows = audited(config, items, truths)
        mesh = devices.build_mesh(config)
        specs = config.score.judges.to_dict() | registry.named(tuple(config.audit.judges))
        judges = registry.plan(specs, groups.judge_resources(config, mesh))
        changed = place.note(
            {f"data.responses {name}": str(facts["sha256"]) for name, facts in sources.items()}
            | {f"score.judges {name}": one.card.protocol() for name, one in judges.items()}
        )
        if primary:
            for line in changed:
                print(f"note: changed since the last start, so scored again: {line}", flush=True)
            print(
                f"{len(items):,} responses, {sum(t is not None for t in truths):,} with a label, "
                f"{len(rows.sample):,} changed in {len(rows.changed)} ways, {len(judges)} judge(s)"
            )
            for line in inputs.describe(sources):
                print(line, flush=True)

        # ---- one judge after another, so that one model is in memory at a time
        ledger = Ledger(place.path / LEDGER, primary)
        settings = AuditSettings(
            means=rule.means if rule else "",
            resamples=config.audit.resamples,
            seed=config.seed,
            bins=config.audit.bins,
            rows_per_write=config.score.rows_per_write,
        )
        found = audit_each(judges, rows, ledger, settings)

        # ---- results
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
            figures = dataclasses.asdict(whole) | {"versions": environment.versions()}
            files.write(place.path / FIGURES, files.canonical(figures))
            files.write(place.path / TEXT, forms.markdown(whole))
            files.write(place.path / PAGE, forms.html(whole))
            print(f"{forms.terminal(whole)}\n{place.path / PAGE}", flush=True)


def label_rule(config: ConfigDict) -> LabelRule | None:
    """How labels are read; None if no column of labels is named."""
    data = config.data
    if not data.label:
        return None
    return LabelRule(data.label, tuple(data.positive), tuple(data.negative), data.means)


def audited(
    config: ConfigDict, items: Sequence[ScoreInput], truths: Sequence[bool | None]
) -> Audited:
    """The rows, and the sample of them to perturb, which takes labelled ones first.

    Raises:
        ConfigError: a group is no column of any row.
    """
    for column in config.data.groups:
        if not any(column in item.row for item in items):
            raise ConfigError(f"data.groups names {column!r}, but no row has such a column")
    drawn = np.random.default_rng(config.seed).permutation(len(items)).tolist()
    order = sorted(drawn, key=lambda i: truths[i] is None)
    sample = sorted(order[: config.audit.rows or len(items)])
    chosen = [items[i].conversation for i in sample]
    columns = config.data.groups
    return Audited(
        items=items,
        truths=truths,
        groups={name: [labels.as_text(item.row.get(name)) for item in items] for name in columns},
        sample=sample,
        changed={
            name: perturbations.perturb(name, chosen)
            for name in config.audit.changes
            if name in perturbations.PERTURBATIONS
        },
        rewords=perturbations.REWORDED in config.audit.changes,
    )
