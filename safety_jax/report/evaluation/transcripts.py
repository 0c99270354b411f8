"""The transcripts as data for the page: a small index, and pieces that are parsed on demand.

The index has what lists and filters need, with a letter for each verdict; the texts are in pieces
of some hundred thousand characters, so that a page of many megabytes opens at once.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from safety_jax.evaluation.answers.responses import CUT, THOUGHT
from safety_jax.evaluation.results.report import Report
from safety_jax.evaluation.results.transcripts import Answer, Transcript
from safety_jax.report.evaluation import comparing, escaping, words

PIECE_ITEMS, PIECE_CHARACTERS = 128, 250_000
PREVIEW = 90  # characters of a prompt in the list
SAFE, UNSAFE, UNSCORED, NOTHING = "s", "u", "?", "-"


def index(report: Report) -> dict[str, Any]:
    """The data for the list and the filters, by number of the item."""
    items, models, judges = report.transcripts, words.models(report), _judges(report)
    sets = list(dict.fromkeys(item.set for item in items))
    kinds = {item.set: item.kind for item in items}
    categories = list(dict.fromkeys(item.category for item in items))
    answers = {model: [item.answers.get(model) for item in items] for model in models}
    return {
        "invisible": escaping.SCRIPT_PATTERN,
        "models": models,
        "judges": judges,
        "safety": judges.index(report.safety) if report.safety in judges else -1,
        "sets": sets,
        "kinds": [kinds[name] for name in sets],
        "categories": categories,
        "ids": [item.id for item in items],
        "set": [sets.index(item.set) for item in items],
        "category": [categories.index(item.category) for item in items],
        "previews": [" ".join(item.prompt[: 2 * PREVIEW].split())[:PREVIEW] for item in items],
        "verdicts": [
            ["".join(_verdict(answer, judge) for answer in answers[model]) for judge in judges]
            for model in models
        ],
        "refusals": ["".join(map(_refusal, answers[model])) for model in models],
        "endings": ["".join(map(_ending, answers[model])) for model in models],
        "people": ["".join(map(_people, answers[model])) for model in models],
        "baseline": report.baseline,
        "preferred": [preferred(report, model) for model in models],
        "changes": changes(report),
        "pieces": [start for start, _ in _cut(items)],
    }


def pieces(report: Report) -> Iterator[list[dict[str, Any]]]:
    """The texts, in pieces whose first items `index` names."""
    models, judges = words.models(report), _judges(report)
    for start, end in _cut(report.transcripts):
        yield [_texts(item, models, judges) for item in report.transcripts[start:end]]


def _texts(item: Transcript, models: Sequence[str], judges: Sequence[str]) -> dict[str, Any]:
    answers = [item.answers.get(model) for model in models]
    return {
        "prompt": item.prompt,
        "reference": item.reference,
        "asked": item.asked,
        "answers": [_answer(answer, judges) if answer else None for answer in answers],
    }


def _answer(answer: Answer, judges: Sequence[str]) -> dict[str, Any]:
    scores = [answer.scores.get(judge) for judge in judges]
    return {
        "thought": answer.thought,
        "text": answer.text,
        "finish": answer.finish,
        "choice": answer.choice,
        "scores": [[s.value, s.label, s.reason] if s else None for s in scores],
    }


def changes(report: Report) -> list[dict[str, Any]]:
    """The numbers of the items that a comparison calls fixed or broken."""
    numbers = {(item.set, item.id): number for number, item in enumerate(report.transcripts)}
    found = []
    for c in comparing.compared(report):
        turned = [[numbers.get((c.set, name)) for name in ids] for ids in (c.fixed, c.broken)]
        known = [[number for number in ids if number is not None] for ids in turned]
        if any(known):
            title = f"{c.second}, {words.measure(c.measure)}, {c.set}"
            found.append({"title": title, "fixed": known[0], "broken": known[1]})
    return found


def preferred(report: Report, model: str) -> str:
    """For each item: w if its answer is preferred to the baseline's, l if the latter is, t for a
    tie."""
    letters: dict[tuple[str, str], str] = {}
    for found in report.preferences:
        if found.second == model:
            for letter, ids in (("w", found.wins), ("l", found.losses), ("t", found.ties)):
                letters |= {(found.set, name): letter for name in ids}
    return "".join(letters.get((item.set, item.id), NOTHING) for item in report.transcripts)


def _judges(report: Report) -> list[str]:
    names = (
        name for item in report.transcripts for a in item.answers.values() for name in a.scores
    )
    return list(dict.fromkeys([*report.judges, *names]))


def _cut(items: Sequence[Transcript]) -> list[tuple[int, int]]:
    """Starts and ends of pieces."""
    found: list[tuple[int, int]] = []
    start = size = 0
    for number, item in enumerate(items):
        length = (
            len(item.prompt)
            + len(item.asked)
            + sum(len(answer.thought) + len(answer.text) for answer in item.answers.values())
        )
        full = number - start >= PIECE_ITEMS or size + length > PIECE_CHARACTERS
        if full and number > start:
            found.append((start, number))
            start, size = number, 0
        size += length
    return [*found, (start, len(items))] if items else []


def _verdict(answer: Answer | None, judge: str) -> str:
    score = answer.scores.get(judge) if answer else None
    if score is None:
        return NOTHING
    if score.value is None:
        return UNSCORED
    return NOTHING if score.unsafe is None else UNSAFE if score.unsafe else SAFE


def _refusal(answer: Answer | None) -> str:
    """f full, p partial, n none."""
    return answer.refusal[:1] if answer and answer.refusal else NOTHING


def _ending(answer: Answer | None) -> str:
    """t cut off inside the thought, c cut off later, e empty, a not asked."""
    if answer is None:
        return NOTHING
    if answer.finish in (THOUGHT, CUT):
        return "t" if answer.finish == THOUGHT else "a"
    return "e" if not answer.text.strip() else "c" if answer.finish == "length" else NOTHING


def _people(answer: Answer | None) -> str:
    return {"safe": SAFE, "unsafe": UNSAFE}.get(answer.human if answer else "", NOTHING)
