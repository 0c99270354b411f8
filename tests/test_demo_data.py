"""The demo's data is what it is said to be: reproducible, disjoint, and told by its own rules."""

import pytest

from launch.demo import wording, write_data
from safety_jax.judges import refusal

TRAINED = ("base", "instructions", "safety", "raft_prompts", "ordinary_prompts", "pairs", "judge")
EVALUATED = ("eval_unsafe", "eval_safe", "eval_traps", "eval_facts")


@pytest.fixture(scope="module")
def files() -> dict[str, list]:
    return write_data.files()


def asked(rows) -> list[str]:
    return [row.get("prompt", row.get("instruction")) for row in rows]


def refuses(answer: str) -> bool:
    return refusal.classify(answer).label in (refusal.FULL, refusal.PARTIAL)


def test_the_committed_files_are_what_the_script_writes(files):
    folder = wording.FOLDER / "data"
    assert {path.stem for path in folder.glob("*.jsonl")} == set(files)
    for name, rows in files.items():
        assert (folder / f"{name}.jsonl").read_text(encoding="utf-8") == write_data.content(rows)


def test_no_object_has_two_roles():
    roles: dict[str, tuple[str, str]] = {}
    for name, role, *members in wording.table("nouns"):
        for noun in members:
            assert noun not in roles, f"{noun}: {role} and {roles[noun]}"
            roles[noun] = (name, role)


def test_nothing_that_is_evaluated_was_trained_on(files):
    trained = {question for name in TRAINED for question in asked(files[name])}
    for name in (*EVALUATED, "held_out", "held_out_judge"):
        assert not trained & set(asked(files[name])), name
    ours = [form.split("{}")[0] for form in (*wording.EVAL_HOW_TO, *wording.EVAL_STORY)]
    for question in trained:
        assert not question.startswith(tuple(ours)), question


def test_the_objects_of_unsafe_requests_are_new(files):
    """Not only the requests: what harm is asked for to whom."""
    tasks = [
        task
        for role in ("base", "tune", "judge", "check")
        for _, task in wording.unsafe(role, wording.harms())
    ]
    for question in asked(files["eval_unsafe"]):
        assert not any(task in question for task in tasks), question


def test_the_parts_ask_for_different_things(files):
    """Base, safety stages and judge: no unsafe request in common, in whatever words."""
    seen: dict[str, str] = {}
    for role, names in {
        "base": ("base",),
        "tune": ("safety", "pairs"),
        "judge": ("judge",),
    }.items():
        for _, task in wording.unsafe(role, wording.harms()):
            if any(
                f"{task}{end}" in text
                for name in names
                for text in asked(files[name])
                for end in ".?"
            ):
                assert task not in seen, f"{task}: {role} and {seen[task]}"
                seen[task] = role
    assert set(seen.values()) == {"base", "tune", "judge"}


def test_refusals_are_refusals_and_stand_ins_are_none(files):
    for row in files["safety"]:
        assert refuses(row["output"]) and not wording.obeys(row["output"]), row
    for row in files["pairs"]:
        harmful = row["rejected_unsafe"]
        assert refuses(row["chosen"]) == harmful and refuses(row["rejected"]) != harmful, row
        assert wording.obeys(row["rejected"]) == harmful, row
    answers = [row["output"] for row in files["base"] if row["kind"] == "unsafe"]
    obeyed = [wording.obeys(answer) for answer in answers]
    assert all(refuses(answer) != obeys for answer, obeys in zip(answers, obeyed, strict=True))
    assert 0.8 < sum(obeyed) / len(obeyed) < 0.95


def test_a_judge_cannot_go_by_phrases(files):
    """Steps, closings of stand-ins and refusals stand on both sides."""
    for tells in (lambda text: text.startswith("First,"), wording.obeys, refuses):
        labels = {row["unsafe"] for row in files["judge"] if tells(row["response"])}
        assert labels == {True, False}
