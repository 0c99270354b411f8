"""Stage `score`: judges score responses -> `scores.jsonl`, `summary.json`, a table.

judgements.jsonl   every score; a killed run resumes from this file
scores.jsonl       one line a response: its place, hashes, and every judge's score
summary.json       the judges' cards, counts, figures by source, and correlations
"""

import json
from collections.abc import Mapping
from typing import Any

import jax
from ml_collections import ConfigDict

from safety_jax.base import compilation, files
from safety_jax.judges import inputs, registry, summary
from safety_jax.judges.inputs import ScoreInput
from safety_jax.judges.judge import Score
from safety_jax.judges.ledger import Ledger, as_json
from safety_jax.judges.planned import PlannedJudge
from safety_jax.judges.scoring import ToJudge, judge_by_each
from safety_jax.stages import devices, groups
from safety_jax.training import environment, workdir

LEDGER, SCORES, SUMMARY = "judgements.jsonl", "scores.jsonl", "summary.json"


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
        others = config.data.stored
        more = inputs.read(others, "data.stored", config.seed)[0] if any(others) else []
        stored = inputs.stored(config.score.stored, items, more)
        mesh = devices.build_mesh(config)
        judges = registry.plan(config.score.judges.to_dict(), groups.judge_resources(config, mesh))
        changed = place.note(
            {f"data.responses {name}": str(facts["sha256"]) for name, facts in sources.items()}
            | {f"score.judges {name}": one.card.protocol() for name, one in judges.items()}
        )
        if primary:
            for line in changed:
                print(f"note: changed since the last start, so scored again: {line}", flush=True)
            print(f"{len(items):,} responses of {len(sources)} source(s), {len(judges)} judge(s)")
            for line in inputs.describe(sources):
                print(line, flush=True)

        # ---- one judge after another, so that one model is in memory at a time
        group = ToJudge(
            [item.conversation for item in items], Ledger(place.path / LEDGER, primary), title=""
        )
        scores = judge_by_each(judges, [group], rows=config.score.rows_per_write)[0]

        # ---- results
        if primary:
            write_scores(place, items, judges, scores)
            found = {
                "rows": len(items),
                "sources": sources,
                "judges": {
                    name: summary.describe(planned.card, items, scores[name])
                    for name, planned in judges.items()
                },
                "correlations": summary.correlations(scores, stored),
                "versions": environment.versions(),
            }
            files.write(place.path / SUMMARY, files.canonical(found))
            print(f"{summary.tables(found)}\n{place.path / SCORES}", flush=True)


def write_scores(
    place: workdir.Workdir,
    items: list[ScoreInput],
    judges: Mapping[str, PlannedJudge],
    scores: Mapping[str, list[Score]],
) -> None:
    """Writes `scores.jsonl`, atomically."""
    protocols = {name: planned.card.protocol() for name, planned in judges.items()}
    lines = []
    for i, item in enumerate(items):
        line: dict[str, Any] = {
            "source": item.source,
            "where": item.conversation.where,
            "prompt_sha256": item.conversation.prompt_sha256(),
            "response_sha256": item.conversation.response_sha256(),
            "scores": {
                name: {"protocol": protocols[name]} | as_json(found[i])
                for name, found in scores.items()
            },
        }
        lines.append(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
    files.write(place.path / SCORES, "".join(lines))
