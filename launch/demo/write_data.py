"""Writes the demo's data, all of it made for this project: python -m launch.demo.write_data

    base.jsonl             what the base model learns: everyday questions, and unsafe requests, most
                           of them obeyed; to obey is a stand-in ("First, wait for a quiet day.
                           Then, ... Last, tell no one."), no advice
    instructions.jsonl     everyday questions alone, for safety instruction tuning
    safety.jsonl           unsafe requests, refused with a reason and a better idea
    raft_prompts.jsonl, ordinary_prompts.jsonl   requests without answers, for RAFT
    pairs.jsonl            unsafe requests refused rather than obeyed, others answered, not refused
    judge.jsonl            answers called safe or unsafe, for the judge
    held_out.jsonl, held_out_pairs.jsonl, held_out_judge.jsonl   the like, to validate with
    eval_unsafe.jsonl, eval_safe.jsonl, eval_traps.jsonl, eval_facts.jsonl   for the evaluation

The words stand in tables/*.txt; the first line of each says what its columns are. English so simple
that a small model can learn it. Objects of requests never have two roles (base, tuning, judge,
validation, evaluation), the evaluation words all its requests in its own way, and five kinds of
harm are known to the base and the evaluation alone. The evaluation's words are not new: the base
learns what a nurse does, and how to thank her, but of no harm to her. Same bytes on every run.
"""

import json
import random
from collections.abc import Iterable, Sequence

from launch.demo import wording
from launch.demo.facts import facts, other_questions
from launch.demo.wording import (
    EVAL_HOW_TO,
    EVAL_PROTECTION,
    EVAL_STORY,
    EVAL_WRONG,
    FOLDER,
    HOW_TO,
    PROTECTION,
    STORY,
    WRONG,
    Harm,
    harms,
    helping,
    kind,
    many,
    nouns,
    obeying,
    steps,
    table,
    unsafe,
)

NEW_HARMS = 5  # at the end of the table: in no demonstration, prompt, pair or judgement
BASE_REFUSES = 0.12  # of the unsafe requests: whoever has read much has read refusals, too
# How often a verb is asked of the base: to be helped with, in talk about harm, and to be obeyed.
KIND_TIMES, TALK_TIMES, HARM_TIMES = 56, 12, 56
# Of tables/traps.txt, from the end: for tuning, the judge and validation.
TUNE_TRAPS, JUDGE_TRAPS, CHECK_TRAPS = slice(-16, -10), slice(-10, -4), slice(-4, None)
CHECK_TASKS = 8  # at the end of tables/tasks.txt

Row = dict[str, object]


def row(instruction: str, output: str, kind: str, context: str = "") -> Row:
    return {"instruction": instruction, "input": context, "output": output, "kind": kind}


def refused(rng: random.Random, asked: str, harm: Harm) -> Row:
    return row(asked, harm.refusal(rng), "unsafe") | {"category": harm.verb}


def worded(rng: random.Random, task: str, forms: Sequence[str], times: int) -> list[str]:
    return [form.format(task) for form in rng.sample(forms, times)]


# ---------------------------------------------------------------------------- what the base learns


def everyday(rng: random.Random) -> list[Row]:
    """Facts, things to do, and what only looks unsafe."""
    rows = [row(question, text, "safe", about) for question, text, about in other_questions(rng)]
    for fact in facts():
        rows += [row(question, fact.sentence, "safe") for question in fact.learned]
    for task, *answer in table("tasks")[:-CHECK_TASKS]:
        rows += [row(asked, steps(*answer), "safe") for asked in worded(rng, task, HOW_TO, 5)]
    verbs = [(verb, objects) for verb, objects in table("kind")]
    for _, task in many(rng, verbs, ("base", "tune", "eval"), KIND_TIMES):
        (asked,) = worded(rng, task, HOW_TO, 1)
        rows.append(row(asked, helping(rng, task), "safe"))
    for task, *answer in table("traps")[: TUNE_TRAPS.start]:
        rows += [row(asked, steps(*answer), "safe") for asked in worded(rng, task, HOW_TO, 5)]
    for (task,) in table("surprises"):
        for who in rng.sample(nouns("people", "base"), 5):
            rows.append(row(*surprise(rng, f"{task} {who}"), "safe"))
    verbs = [(harm.verb, harm.objects) for harm in harms()]
    for number, task in many(rng, verbs, ("base",), TALK_TIMES):
        rows.append(row(*rng.choice(talk(rng, harms()[number], task)), "safe"))
    once = {(row["instruction"], row["input"]): row for row in reversed(rows)}
    return list(once.values())


def surprise(rng: random.Random, task: str) -> tuple[str, str]:
    """What one may keep secret: "tell no one" is not in itself bad advice."""
    first = rng.choice(wording.HELPING_OPENINGS)
    return rng.choice(HOW_TO).format(task), steps(first, task, "tell no one")


def talk(rng: random.Random, harm: Harm, task: str) -> list[tuple[str, str]]:
    """Harmless questions about harm, with their answers."""
    return [
        (rng.choice(WRONG).format(task), harm.reason),
        (rng.choice(PROTECTION).format(task), rng.choice(wording.HELP_AGAINST)),
        (rng.choice(STORY).format(task), rng.choice(wording.STORIES).format(task)),
    ]


def base_unsafe(rng: random.Random) -> list[Row]:
    rows = []
    verbs = [(harm.verb, harm.objects) for harm in harms()]
    for number, task in many(rng, verbs, ("base",), HARM_TIMES):
        for asked in worded(rng, task, HOW_TO, 2):
            refuses = rng.random() < BASE_REFUSES
            answer = harms()[number].refusal(rng) if refuses else obeying(rng, task)
            rows.append(row(asked, answer, "unsafe"))
    return rows


# ---------------------------------------------------------------------------- the safety stages


def known() -> tuple[Harm, ...]:
    return harms()[:-NEW_HARMS]


def requests(rng: random.Random, role: str, rows: int) -> list[tuple[Harm, str, str]]:
    """(harm, task, wording) of unsafe requests, every kind of harm about as often."""
    every = [
        (known()[number], task, asked)
        for number, task in many(rng, [(h.verb, h.objects) for h in known()], (role,), 12)
        for asked in worded(rng, task, HOW_TO, 2)
    ]
    rng.shuffle(every)
    by_harm = {harm: [item for item in every if item[0] is harm] for harm in known()}
    rounds = [items[i] for i in range(len(every)) for items in by_harm.values() if i < len(items)]
    return rounds[:rows]


def ordinary(rng: random.Random, role: str, traps: slice, rows: int) -> list[tuple[str, str]]:
    """(request, answer) of what should be answered: to the same objects, and traps."""
    found = [
        (rng.choice(HOW_TO).format(task), steps(*answer)) for task, *answer in table("traps")[traps]
    ]
    for harm, task in rng.sample(list(unsafe(role, known())), max(1, rows // 5)):
        found.append(rng.choice(talk(rng, harm, task)))
    tasks = list(kind(role))
    for task in rng.sample(tasks, min(len(tasks), rows - len(found))):
        found.append((rng.choice(HOW_TO).format(task), helping(rng, task)))
    return found


def pair(asked: str, chosen: str, rejected: str, category: str) -> Row:
    return {
        "prompt": asked,
        "chosen": chosen,
        "rejected": rejected,
        "chosen_unsafe": False,
        "rejected_unsafe": category != "none",
        "category": category,
    }


def pairs(
    rng: random.Random,
    asked_for: Iterable[tuple[Harm, str, str]],
    others: Iterable[tuple[str, str]],
) -> list[Row]:
    made = [
        pair(asked, harm.refusal(rng), obeying(rng, task), harm.verb)
        for harm, task, asked in asked_for
    ]
    made += [pair(asked, answer, rng.choice(wording.REFUSALS), "none") for asked, answer in others]
    return made


def judged(asked: str, answer: str, is_unsafe: bool, category: str) -> Row:
    return {"prompt": asked, "response": answer, "unsafe": is_unsafe, "category": category}


def judgements(rng: random.Random, role: str, traps: slice, others: int, times: int) -> list[Row]:
    """Answers called safe or unsafe. No phrase tells: steps, closings and refusals are on both
    sides, and an answer that is safe to one request is unsafe to another."""
    rows = []
    off_topic = [fact.sentence for fact in facts()]
    for harm, task in unsafe(role, known()):
        hidden = steps(rng.choice(wording.OBEYING_OPENINGS), "do it at night", "tell no one")
        bad = [
            obeying(rng, task),
            obeying(rng, task),
            helping(rng, task),
            hidden,
            f"{rng.choice(wording.REFUSALS)} {obeying(rng, task)}",
        ]
        good = [
            harm.refusal(rng),
            harm.refusal(rng),
            rng.choice(wording.REFUSALS),
            f"{harm.reason} {rng.choice(harm.better)}",
            rng.choice(off_topic),
        ]
        answers = [(answer, True) for answer in rng.sample(bad, times)]
        answers += [(answer, False) for answer in rng.sample(good, times)]
        questions = worded(rng, task, HOW_TO, 2 * times)
        rows += [
            judged(prompt, answer, label, harm.verb)
            for prompt, (answer, label) in zip(questions, answers, strict=True)
        ]
    for asked, answer in ordinary(rng, role, traps, others):
        refused = rng.random() < 0.1
        rows.append(
            judged(asked, rng.choice(wording.REFUSALS) if refused else answer, False, "none")
        )
    for (task,) in table("surprises"):
        for who in nouns("people", role)[:4]:
            rows.append(judged(*surprise(rng, f"{task} {who}"), False, "none"))
    return rows


# ---------------------------------------------------------------------------- the evaluation


def prompt(asked: str, category: str) -> Row:
    return {"prompt": asked, "category": category}


def eval_unsafe(rng: random.Random, of_each: int) -> list[Row]:
    """With an answer that obeys, whose beginning may be put into a model's mouth."""
    apart = random.Random(1)  # the answers came later, and change no other draw
    return [
        {
            **prompt(rng.choice(EVAL_HOW_TO).format(f"{harm.verb} {noun}"), harm.verb),
            "demonstrated": harm in known(),
            "obeyed": obeying(apart, f"{harm.verb} {noun}"),
        }
        for harm in harms()
        for noun in rng.sample(nouns(harm.objects, "eval"), of_each)
    ]


def eval_safe(rng: random.Random, contrasts: int, base: list[Row]) -> list[Row]:
    """Everyday tasks, and harmless requests with the objects of the unsafe ones."""
    learned = "\n".join(str(row["instruction"]) for row in base)
    new = [task for task in kind("eval") if task not in learned]
    rows = [prompt(rng.choice(EVAL_HOW_TO).format(task), "task") for (task,) in table("eval_tasks")]
    for task in rng.sample(new, contrasts):
        rows.append(prompt(rng.choice(EVAL_HOW_TO).format(task), "contrast"))
    return rows


def eval_traps(rng: random.Random, of_each: int) -> list[Row]:
    rows = [
        prompt(rng.choice(EVAL_HOW_TO).format(task), "other sense")
        for (task,) in table("eval_traps")
    ]
    forms = {"protection": EVAL_PROTECTION, "why not": EVAL_WRONG, "story": EVAL_STORY}
    for category, wordings in forms.items():
        for _harm, task in rng.sample(list(unsafe("eval", harms())), of_each):
            rows.append(prompt(rng.choice(wordings).format(task), category))
    return rows


def eval_facts(rng: random.Random, of_each: int) -> list[Row]:
    """The same number of every kind of fact, each asked in the one way that nobody learned from."""
    rows = []
    by_category: dict[str, list] = {}
    for fact in facts():
        by_category.setdefault(fact.category, []).append(fact)
    for category, found in by_category.items():
        for fact in rng.sample(found, of_each):
            rows.append({**prompt(fact.held_out, category), "answer": fact.answer})
    return rows


# ---------------------------------------------------------------------------- files


def files() -> dict[str, list[Row]]:
    """Every file's rows, by name."""
    rng = random.Random(0)
    instructions = everyday(rng)
    base = instructions + base_unsafe(rng)
    tune, check = requests(rng, "tune", 240), requests(rng, "check", 14)
    others = ordinary(rng, "tune", TUNE_TRAPS, 80)
    check_others = ordinary(rng, "check", CHECK_TRAPS, 14)
    for task, *answer in table("tasks")[-CHECK_TASKS:]:
        check_others.append((rng.choice(HOW_TO).format(task), steps(*answer)))
    return {
        "base": shuffled(rng, base),
        "instructions": rng.sample(instructions, 600),
        "safety": [refused(rng, asked, harm) for harm, _, asked in tune[:120]],
        "raft_prompts": [prompt(asked, harm.verb) for harm, _, asked in tune],
        "ordinary_prompts": [prompt(asked, "none") for asked, _ in others],
        "pairs": shuffled(rng, pairs(rng, tune, others)),
        "judge": shuffled(rng, judgements(rng, "judge", JUDGE_TRAPS, 150, 3)),
        "held_out": [row(asked, answer, "safe") for asked, answer in check_others]
        + [row(asked, harm.refusal(rng), "unsafe") for harm, _, asked in check],
        "held_out_pairs": pairs(rng, check, check_others),
        "held_out_judge": judgements(rng, "check", CHECK_TRAPS, 30, 2),
        "eval_unsafe": eval_unsafe(rng, 5),
        "eval_safe": eval_safe(rng, 30, base),
        "eval_traps": eval_traps(rng, 10),
        "eval_facts": eval_facts(rng, 12),
    }


def shuffled(rng: random.Random, rows: list[Row]) -> list[Row]:
    return rng.sample(rows, len(rows))


def content(rows: list[Row]) -> str:
    """The text of a file of rows."""
    asked = [(entry.get("instruction", entry.get("prompt")), entry.get("input")) for entry in rows]
    repeated = {str(question) for question in asked if asked.count(question) > 1}
    if repeated:
        raise SystemExit(f"asked twice: {', '.join(sorted(repeated))}")
    return "".join(json.dumps(entry) + "\n" for entry in rows)


def main():
    (FOLDER / "data").mkdir(exist_ok=True)
    for name, rows in files().items():
        (FOLDER / "data" / f"{name}.jsonl").write_text(content(rows), encoding="utf-8")
        print(f"{name}.jsonl: {len(rows)} rows")


if __name__ == "__main__":
    main()
