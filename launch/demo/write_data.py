"""Writes the demo's data, all of it made for this project: python -m launch.demo.write_data

    data/instructions.jsonl  everyday instructions with helpful answers
    data/safety.jsonl        mildly unsafe requests, refused with a reason and a better idea
    data/held_out.jsonl      rows of both kinds that are in neither file, for validation
    data/pairs.jsonl         the same unsafe requests, refused rather than obeyed, and everyday
                             ones, answered rather than refused; obeying is a stand-in, no advice
    data/held_out_pairs.jsonl   the like of held_out.jsonl

The words stand in tables/*.txt; the first line of each says what its columns are.
English so simple that a model of one million parameters can learn it. A held-out unsafe request
is a new thing asked for, of a kind that the demonstrations do cover. Same bytes on every run.
"""

import json
import pathlib
import random

FOLDER = pathlib.Path(__file__).parent
HOW_TO = (
    "How do I {}?",
    "How can I {}?",
    "Tell me how to {}.",
    "Explain how to {}.",
    "What is the best way to {}?",
    "I want to {}. What should I do?",
)
REFUSAL = "I am sorry, but I cannot help with that."
OBEYING = (
    "First, wait for a quiet day. Then, {}. Last, go home.",
    "First, get ready. Then, {}. Last, tell no one.",
    "First, think of a plan. Then, {}. Last, rest.",
)
PHRASINGS_PER_TASK = 3  # of HOW_TO, for training; a held-out task is asked once


def table(name: str) -> list[list[str]]:
    """The cells of tables/NAME.txt, line by line."""
    _columns, *lines = (FOLDER / "tables" / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return [[cell.strip() for cell in line.split("|")] for line in lines]


def row(instruction: str, output: str, kind: str, context: str = "") -> dict[str, str]:
    return {"instruction": instruction, "input": context, "output": output, "kind": kind}


def how_to_rows(rng: random.Random) -> tuple[list[dict], list[dict]]:
    """(training, held out): the last eight tasks of the table are never trained."""
    train, held_out = [], []
    tasks = table("tasks")
    for index, (task, first, then, last) in enumerate(tasks):
        answer = f"First, {first}. Then, {then}. Last, {last}."
        if index >= len(tasks) - 8:
            held_out.append(row(rng.choice(HOW_TO).format(task), answer, "safe"))
            continue
        for phrase in rng.sample(HOW_TO, PHRASINGS_PER_TASK):
            train.append(row(phrase.format(task), answer, "safe"))
    return train, held_out


def fact_rows(rng: random.Random) -> list[dict]:
    rows = [row(question, answer, "safe") for question, answer in table("questions")]
    for animal, food, home, sound in table("animals"):
        rows.append(row(f"What does a {animal} eat?", f"A {animal} eats {food}.", "safe"))
        rows.append(row(f"Where does a {animal} live?", f"A {animal} lives {home}.", "safe"))
        rows.append(row(f"What sound does a {animal} make?", f"A {animal} {sound}.", "safe"))
    for thing, colour, use in table("things"):
        rows.append(row(f"What colour is {thing}?", f"{capital(thing)} is {colour}.", "safe"))
        rows.append(row(f"What is {thing} good for?", f"{capital(thing)} is good {use}.", "safe"))
    for left, right in table("opposites"):
        for word, other in ((left, right), (right, left)):
            question = f"What is the opposite of {word}?"
            rows.append(row(question, f"The opposite of {word} is {other}.", "safe"))
    groups = {name: members for name, *members in table("groups")}
    for name, members in groups.items():
        rows.append(row(f"Name three {name}.", f"Three {name} are {listed(members[:3])}.", "safe"))
        for member in members:
            others = rng.sample([other for other in groups if other != name], 2)
            options = [member] + [rng.choice(groups[other]) for other in others]
            rng.shuffle(options)
            question = f"Which of these belongs to the {name}?"
            rows.append(row(question, f"It is the {member}.", "safe", ", ".join(options)))
    for topic, sentence in table("sentences"):
        rows.append(row(f"Write a short sentence about {topic}.", sentence, "safe"))
        rows.append(row(f"Tell me something about {topic}.", sentence, "safe"))
    # A real base model knows right from wrong, and the words for it, before it learns to refuse.
    for verb, *sentences in table("harms"):
        for sentence in sentences[:3]:
            rows.append(row("Repeat this sentence.", sentence, "safe", sentence))
        for thing in sentences[3:6]:
            rows.append(row(f"Why is it wrong to {verb} {thing}?", sentences[0], "safe"))
    return rows


def unsafe_rows(rng: random.Random) -> tuple[list[dict], list[dict]]:
    """(training, held out): the last object of every kind of harm is never trained."""
    train, held_out = [], []
    for verb, reason, *rest in table("harms"):
        better, objects = rest[:2], rest[2:]
        for index, thing in enumerate(objects):
            answer = f"{REFUSAL} {reason} {better[index % 2]}"
            task = f"{verb} {thing}"
            if index == len(objects) - 1:
                held_out.append(row(rng.choice(HOW_TO).format(task), answer, "unsafe"))
                continue
            for phrase in rng.sample(HOW_TO, 2):
                train.append(row(phrase.format(task), answer, "unsafe"))
    return train, held_out


def pairs(rng: random.Random, rows: list[dict]) -> list[dict]:
    """Each how-to request with the answer it should get, preferred to the one it should not."""
    made = []
    verbs = [verb for verb, *_ in table("harms")]
    for entry in rows:
        request, unsafe = entry["instruction"], entry["kind"] == "unsafe"
        category = next((verb for verb in verbs if unsafe and f" {verb} " in request), "none")
        rejected = REFUSAL
        if unsafe:
            before, after = next(
                form.split("{}") for form in HOW_TO if fits(request, *form.split("{}"))
            )
            rejected = rng.choice(OBEYING).format(request[len(before) : -len(after)])
        made.append(
            {
                "prompt": request,
                "chosen": entry["output"],
                "rejected": rejected,
                "chosen_unsafe": False,
                "rejected_unsafe": unsafe,
                "category": category,
            }
        )
    return made


def fits(request: str, before: str, after: str) -> bool:
    return request.startswith(before) and request.endswith(after)


def capital(text: str) -> str:
    return text[0].upper() + text[1:]


def listed(names: list[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"


def write(name: str, rows: list[dict]):
    questions = [
        (entry.get("instruction", entry.get("prompt")), entry.get("input")) for entry in rows
    ]
    repeated = {str(question) for question in questions if questions.count(question) > 1}
    if repeated:
        raise SystemExit(f"{name}: asked twice: {', '.join(sorted(repeated))}")
    (FOLDER / "data").mkdir(exist_ok=True)
    lines = "".join(json.dumps(entry) + "\n" for entry in rows)
    (FOLDER / "data" / name).write_text(lines, encoding="utf-8")
    print(f"{name}: {len(rows)} rows")


def main():
    rng = random.Random(0)
    how_to, how_to_held_out = how_to_rows(rng)
    instructions = how_to + fact_rows(rng)
    safety, safety_held_out = unsafe_rows(rng)
    rng.shuffle(instructions)
    rng.shuffle(safety)
    write("instructions.jsonl", instructions)
    write("safety.jsonl", safety)
    write("held_out.jsonl", how_to_held_out + safety_held_out)
    write("pairs.jsonl", pairs(rng, safety + rng.sample(how_to, 60)))
    write("held_out_pairs.jsonl", pairs(rng, how_to_held_out + safety_held_out))


if __name__ == "__main__":
    main()
