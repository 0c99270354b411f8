"""The data of `make real`: as its README counts it, readable, and its tests apart from the rest."""

import collections
import csv
import json
import math
import os
import re
from pathlib import Path

import pytest

from safety_jax.data import contamination, records, sources
from safety_jax.evaluation.sets import reading
from safety_jax.judges import refusal

FOLDER = Path(__file__).parent.parent / "launch/real"
ANSWERED = ("refusals", "contrast", "ordinary")
PROMPTS = ("contrast_prompts", "ordinary_prompts")
TESTS = ("test_unsafe", "test_contrast", "test_ordinary", "quiz")
VENDORED = ("harmbench_standard.csv?columns=prompt:Behavior", "xstest_prompts.csv")


def rows(name: str) -> list[dict]:
    path = FOLDER / "data" / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def asked(name: str) -> list[str]:
    return [row.get("prompt") or row["instruction"] for row in rows(name)]


def refuses(answer: str) -> bool:
    return refusal.classify(answer).label in (refusal.FULL, refusal.PARTIAL)


def opening(answer: str) -> str:
    """The first sentence, or what stands before its colon."""
    return re.split(r"(?<=[.:]) ", answer)[0].rstrip(".:") + "."


def test_readme_counts_rows_and_kinds():
    said = dict(re.findall(r"^\| `(\w+)\.(?:jsonl|csv)` \| (\d+) \|",
                           (FOLDER / "README.md").read_text(encoding="utf-8"), re.M))  # fmt: skip
    counted = {name: len(rows(name)) for name in (*ANSWERED, *PROMPTS, *TESTS)}
    for spec in VENDORED:
        counted[spec.split(".")[0]] = len(sources.open_source(f"{FOLDER}/data/{spec}").rows)
    assert {name: int(count) for name, count in said.items()} == counted
    assert {path.stem for path in (FOLDER / "data").iterdir()} >= set(counted)
    kinds = {name: {row["kind"] for row in rows(name)} for name in (*ANSWERED, *PROMPTS)}
    told = (FOLDER / "README.md").read_text(encoding="utf-8")
    for kind in set.union(*kinds.values()):
        assert re.search(rf"\b{kind}\b", told), f"README.md does not name the kind {kind}"


@pytest.mark.parametrize("name", ANSWERED)
def test_answers_are_read(name):
    read = records.read_records(sources.open_source(f"{FOLDER}/data/{name}.jsonl"))
    assert [record.messages[0].content for record in read] == asked(name)
    assert [record.messages[-1].content for record in read] == [r["output"] for r in rows(name)]


@pytest.mark.parametrize("name", PROMPTS)
def test_prompts_are_read(name):
    read = records.read_prompts(sources.open_source(f"{FOLDER}/data/{name}.jsonl"))
    assert [record.messages[0].content for record in read] == asked(name)


def test_sets_are_read():
    found = reading.read_sets(
        ("HarmBench", "XSTest",
         f"{FOLDER}/data/test_unsafe.jsonl?kind=unsafe",
         f"{FOLDER}/data/test_contrast.jsonl?kind=safe",
         f"{FOLDER}/data/test_ordinary.jsonl?kind=reference",
         f"{FOLDER}/data/quiz.jsonl?kind=choice"),
        str(FOLDER / "data"), "evaluate.sets", 0,
    )  # fmt: skip
    assert {one_set.name: len(one_set.items) for one_set in found} == {
        "HarmBench-standard": 200, "XSTest-safe": 250, "XSTest-unsafe": 200,
        "test_unsafe": 100, "test_contrast": 100, "test_ordinary": 60, "quiz": 150,
    }  # fmt: skip
    assert all(item.category for one_set in found for item in one_set.items)
    assert all(item.reference for one_set in found[-2:] for item in one_set.items)


def test_nothing_is_asked_twice():
    seen: dict[str, str] = {}
    for name in (*ANSWERED, *PROMPTS, *TESTS):
        for question in asked(name):
            plain = " ".join(contamination.words(question))
            assert plain not in seen, f"{question}: {name} and {seen[plain]}"
            seen[plain] = name


def test_training_does_not_ask_what_tests_ask():
    specs = [*(f"{name}.jsonl" for name in TESTS), *VENDORED]
    tests = contamination.read([f"{FOLDER}/data/{spec}" for spec in specs])
    assert tests is not None and len(tests) == 200 + 450 + 100 + 100 + 60 + 150
    alike = [
        (name, question, match.text)
        for name in (*ANSWERED, *PROMPTS)
        for question in asked(name)
        if (match := tests.match(question))
    ]
    assert not alike


def test_refusals_refuse_in_their_first_sentence_and_say_more():
    for row in rows("refusals"):
        answer = row["output"]
        assert refuses(answer) and refuses(opening(answer)), answer
        assert 18 <= len(answer.split()) <= 50, answer
        assert len(re.findall(r"[.!?](?: |$)", answer)) >= 2, answer
    openings = collections.Counter(" ".join(r["output"].split()[:4]) for r in rows("refusals"))
    assert len(openings) > 60 and max(openings.values()) < 0.1 * len(rows("refusals"))


@pytest.mark.parametrize("name", ["contrast", "ordinary"])
def test_answers_to_safe_requests_do_not_refuse(name):
    assert [row["output"] for row in rows(name) if refuses(row["output"])] == []


def test_the_look_of_a_request_does_not_tell():
    """Verbs, groups and frames stand on both sides."""
    unsafe = [q.lower() for q in asked("refusals")]
    safe = [q.lower() for name in ("contrast", "contrast_prompts") for q in asked(name)]
    tells = (
        *("kill", "shoot", "steal", "poison", "attack", "bomb", "hack", "burn", "hit ", "blow up"),
        *("muslim", "jewish", "black", "women", "gay", "immigrant", "refugee", "roma", "drug"),
        *(
            "explain why",
            "write a reason why",
            "describe why",
            "why should",
            "how do i",
            "how can i",
        ),
        *(
            "what is",
            "write a",
            "create a",
            "develop a",
            "design a",
            "give me",
            "help me",
            "step-by",
        ),
    )
    for tell in tells:
        assert sum(tell in q for q in unsafe) >= 3, tell
        assert sum(tell in q for q in safe) >= 3, tell


def test_words_alone_do_not_solve_the_tests():
    """Naive Bayes on the words of all requests that train: what a model gets by their look."""
    sides = [
        [set(contamination.words(q)) for name in names for q in asked(name)]
        for names in (("refusals",), ("contrast", "contrast_prompts"))
    ]
    unsafe, safe = (collections.Counter(w for words in side for w in words) for side in sides)
    odds = {
        word: math.log((unsafe[word] + 0.5) / len(sides[0]) / (safe[word] + 0.5) * len(sides[1]))
        for word in unsafe | safe
    }

    def flagged(prompts: list[str]) -> float:
        called = [sum(odds.get(w, 0.0) for w in set(contamination.words(q))) > 0 for q in prompts]
        return sum(called) / len(called)

    xstest = table(FOLDER / "data/xstest_prompts.csv")
    harmless = [row["prompt"] for row in xstest if not row["type"].startswith("contrast")]
    found = flagged(asked("test_unsafe")), flagged(asked("test_contrast")), flagged(harmless)
    assert 0.8 < found[0] and 0.3 < found[1] < 0.7 and 0.2 < found[2] < 0.5, found


def test_no_letter_of_the_quiz_is_a_better_guess():
    letters = collections.Counter(row["reference"] for row in rows("quiz"))
    assert set(letters) == set("ABCD") and max(letters.values()) - min(letters.values()) <= 1
    for row in rows("quiz"):
        assert len(set(row["choices"])) == 4, row
    longest = sum(
        max(row["choices"], key=len) == row["choices"]["ABCD".index(row["reference"])]
        for row in rows("quiz")
    )
    assert longest < 0.45 * len(rows("quiz"))


@pytest.mark.real_data
def test_what_is_of_others_is_theirs_word_for_word():
    shared = Path(os.environ["SAFETY_JAX_SHARED"]) / "data"
    goals = {
        cell for row in table(shared / "advbench/harmful_behaviors.csv") for cell in row.values()
    }
    ours = [row["instruction"] for row in rows("refusals") if row["source"] == "AdvBench"]
    assert len(ours) == 258 and set(ours) <= goals
    theirs = table(shared / "harmbench/harmbench_behaviors_text_all.csv")
    standard = [row for row in theirs if row["FunctionalCategory"] == "standard"]
    assert table(FOLDER / "data/harmbench_standard.csv") == standard
    assert (FOLDER / "data/xstest_prompts.csv").read_bytes() == (
        shared / "xstest/xstest_prompts.csv"
    ).read_bytes()


@pytest.mark.real_data
def test_nothing_is_near_the_sets_that_do_not_ship():
    shared = Path(os.environ["SAFETY_JAX_SHARED"]) / "data/safety_tuned_llamas/evaluation"
    tests = contamination.read([str(path) for path in sorted(shared.glob("*.json"))])
    assert tests is not None
    for name in (*ANSWERED, *PROMPTS, *TESTS):
        assert [q for q in asked(name) if tests.match(q)] == [], name
