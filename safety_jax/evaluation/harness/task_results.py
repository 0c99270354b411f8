"""Results of lm-evaluation-harness: stored, and turned into blocks that models are compared on.

tasks/MODEL/TASK.json   the harness's own results of a model, with every document
"""

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from safety_jax.base import files
from safety_jax.base.errors import DataError
from safety_jax.data.messages import Message
from safety_jax.evaluation.harness import lm_eval_tasks
from safety_jax.evaluation.measures.counts import Block, rate
from safety_jax.evaluation.sets.items import CHOICE, Item, Set

# Metrics that are right or wrong for each document; the first that a task has is used.
RIGHT = ("acc", "exact_match", "acc_norm")


@dataclasses.dataclass(frozen=True)
class Wanted:
    """The tasks that every model runs.

    Attributes:
        names: of tasks, or paths of their files.
        asking: how they are asked.
        decoding: everything else that answers depend on; JSON values.
        made_by: what defines each task, see `lm_eval_tasks.definition`.
    """

    names: tuple[str, ...]
    asking: lm_eval_tasks.Asking
    decoding: Mapping[str, Any]
    made_by: Mapping[str, Mapping[str, str]]

    def protocol(self, name: str, weights: str, tokenizer: str) -> str:
        """A hash of everything that a model's results of a task depend on, in 16 hex digits.

        Args:
            weights, tokenizer: hashes of the model's, see `ModelFolder`.
        """
        facts: list[Any] = [name, dataclasses.asdict(self.asking), dict(self.decoding)]
        facts += [dict(self.made_by[name]), weights, tokenizer]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def read(path: Path, protocol: str, config: str) -> dict[str, Any] | None:
    """The stored results; None if there are none of this protocol and model.

    Args:
        config: `ModelFolder.config_sha256`, absent from files of early versions.

    Raises:
        DataError: the file is damaged.
    """
    if not path.exists():
        return None
    try:
        kept = json.loads(path.read_text("utf-8"))
        ours = kept["protocol"] == protocol and kept.get("config", config) == config
        return kept["found"] if ours else None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged; remove it to run its tasks again") from error


def write(path: Path, protocol: str, config: str, found: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write(path, json.dumps({"protocol": protocol, "config": config, "found": found}))


def together(several: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The results of several tasks as of one run of the harness."""
    whole: dict[str, Any] = {}
    cut: Counter[str] = Counter()
    for found in several:
        cut.update(found["cut"])
        for key, value in found.items():
            whole[key] = {**whole.get(key, {}), **value} if isinstance(value, dict) else value
    return whole | {"cut": dict(cut)}


def figures(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All metrics, as JSON values."""
    return [dataclasses.asdict(figure) for figure in lm_eval_tasks.figures(found)]


def notes(found: Mapping[str, Any], model: str) -> list[str]:
    """Notes on requests that were cut."""
    return [
        f"{model}: {count} requests of tasks ({kind}) were longer than its window and lost tokens "
        "on their left; with fewer shots they may fit."
        for kind, count in found["cut"].items()
        if count
    ]


def blocks(found: Mapping[str, Any], model: str, taken: Collection[str] = ()) -> list[Block]:
    """The tasks whose documents are right or wrong, as blocks that models are compared on.

    Args:
        taken: names of sets; a task of such a name is called `NAME (task)`.
    """
    made = []
    rows = lm_eval_tasks.figures(found)
    for task in found["samples"]:
        own = [row for row in rows if row.task == task]
        metric = _right(own)
        right = lm_eval_tasks.by_document(found, task, metric) if metric else {}
        if right and set(right.values()) <= {0.0, 1.0}:
            name = f"{task} (task)" if task in taken else task
            made.append(_block(name, model, right, own, metric))
    return made


def _right(own: Sequence[lm_eval_tasks.Figure]) -> str:
    """The metric of a task that is right or wrong for each document; of one that is counted by
    several filters, as in `exact_match/strict-match`, that of the first; "" if there is none."""
    metrics = [row.metric for row in own]
    return next((m for name in RIGHT for m in metrics if m.partition("/")[0] == name), "")


def _block(
    task: str,
    model: str,
    right: Mapping[str, float],
    own: Sequence[lm_eval_tasks.Figure],
    metric: str,
) -> Block:
    first = own[0]
    items = tuple(
        Item(document, (Message("user", f"{task} {document}"),), f"{task} {document[:12]}")
        for document in right
    )
    source = f"lm-evaluation-harness, version {first.version}, {first.num_fewshot} shots, {metric}"
    correct = [value > 0.5 for value in right.values()]
    measured: dict[str, Any] = {"accuracy": dataclasses.asdict(rate(correct))}
    measured |= {row.metric: row.value for row in own if row.value is not None}
    return Block(
        model=model,
        set=Set(task, CHOICE, items, source, None, "see the task"),
        protocol=hashlib.sha256(f"{first.task_hash} {first.num_fewshot}".encode()).hexdigest()[:16],
        answers=[""] * len(items),
        finishes=[""] * len(items),
        scores={},
        cards={},
        choice=measured,
        correct=correct,
    )
