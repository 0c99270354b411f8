"""What a model's own answers become: pairs, answers to keep, labelled answers."""

import dataclasses

import pytest

from safety_jax.data import records, sources
from safety_jax.data.formats.verdicts import LABELS
from safety_jax.data.messages import Message
from safety_jax.data.records import Record
from safety_jax.raft import collected
from safety_jax.raft.collected import Asked, Verdict
from safety_jax.raft.prompt_pool import ORDINARY, UNSAFE, Prompt
from safety_jax.raft.round_files import Candidate, write_lines

NO, STEPS = "I will not help with that.", "First, take the key. Then, open the door."


def asked(number: int, group: str, *answers: tuple, reference: str = "") -> Asked:
    """Answers are (text, finish, unsafe, refused, rank)."""
    record = Record((Message("user", f"Question {number}?"),), "", "s", f"row {number}")
    return Asked(
        Prompt(number, group, record, [1], reference),
        [Candidate(text, (5,), -1.0, finish) for text, finish, *_ in answers],
        [Verdict(unsafe, refused, rank) for *_, unsafe, refused, rank in answers],
    )


BOTH = asked(
    0, UNSAFE,
    (NO, "eos", False, True, 1.0),
    (STEPS, "length", True, False, 0.0),
    ("Or so.", "eos", True, False, 0.2),
)  # fmt: skip
SHOWN = asked(1, UNSAFE, (STEPS, "eos", True, False, 0.0), reference="No, that would hurt people.")
SAFE = asked(2, UNSAFE, (NO, "eos", False, True, 1.0))
HELPED = asked(
    3, ORDINARY, ("Cut off", "length", False, False, 1.0), ("Whole.", "eos", False, False, 0.0)
)
DENIED = asked(4, ORDINARY, (NO, "eos", False, True, 1.0), ("Of cour", "length", False, False, 0.0))


def test_a_pair_prefers_the_demonstration_or_the_best_safe_answer_to_the_worst_unsafe_one():
    chosen, shown = collected.pairs([BOTH, SHOWN, SAFE], seed=0)
    assert (chosen["chosen"], chosen["rejected"]) == (NO, STEPS)
    assert chosen["rejected_finish_reason"] == "length"
    assert (shown["chosen"], shown["rejected"]) == ("No, that would hurt people.", STEPS)
    assert chosen["rejected_unsafe"] and not chosen["chosen_unsafe"]


def test_an_ordinary_pair_prefers_the_models_own_answer_to_a_refusal():
    """Its own refusal where there is one, else one that was written for an unsafe prompt."""
    _, helped, denied = collected.pairs([SHOWN, HELPED, DENIED], seed=0)
    assert (helped["chosen"], helped["rejected"]) == ("Whole.", SHOWN.prompt.reference)
    assert (denied["chosen"], denied["rejected"]) == ("Of cour", NO)
    assert not denied["rejected_unsafe"]
    assert collected.pairs([HELPED], seed=0) == []  # nothing to reject


def test_what_a_request_is_about_goes_along():
    """Alpaca's `input`, which the model read below the request."""
    record = dataclasses.replace(HELPED.prompt.record, context="Some text.")
    about = dataclasses.replace(HELPED, prompt=dataclasses.replace(HELPED.prompt, record=record))
    lines = [*collected.pairs([SHOWN, about], 0)[1:], *collected.kept([about])]
    asked = [{"role": "user", "content": "Question 3?\n\nSome text."}]
    assert [line["prompt"] for line in lines] == [asked, asked]


def test_ordinary_answers_are_kept_finished_ones_first():
    lines = collected.kept([BOTH, HELPED, DENIED])
    assert [line["response"] for line in lines] == ["Whole.", "Of cour"]
    assert [line["finish_reason"] for line in lines] == ["stop", "length"]


def test_an_answer_that_ends_in_its_thought_is_no_answer():
    thought = asked(5, ORDINARY, ("<think>So, the", "length", False, False, 1.0))
    unsafe = asked(6, UNSAFE, ("<think>So, the", "length", True, False, 1.0), reference=NO)
    assert collected.kept([thought]) == [] == collected.pairs([thought, unsafe], seed=0)
    assert "" not in [line["response"] for line in collected.judged([thought, unsafe], seed=0)]


def test_a_demonstration_that_was_cut_off_stays_cut_off():
    last = Message("assistant", SHOWN.prompt.reference, cut=True)
    record = SHOWN.prompt.record
    record = dataclasses.replace(record, messages=(*record.messages, last))
    shown = dataclasses.replace(SHOWN, prompt=dataclasses.replace(SHOWN.prompt, record=record))
    demonstrated, helped = collected.pairs([shown, HELPED], seed=0)
    assert demonstrated["chosen_finish_reason"] == helped["rejected_finish_reason"] == "length"


def test_beginnings_that_are_kept_have_no_end():
    lines = collected.kept([BOTH, HELPED, DENIED], lambda answer: answer[:6])
    assert [line["response"] for line in lines] == ["Whole.", "Of cou"]
    assert [line["finish_reason"] for line in lines] == ["stop", "length"]
    lines = collected.kept([HELPED], lambda answer: answer[:3])
    assert [(line["response"], line["finish_reason"]) for line in lines] == [("Who", "length")]


def test_a_thought_alone_is_no_answer():
    """Nor are two answers that differ in the thought before them a pair."""
    thought = "<think>They ask about locks.</think>"
    cut = ("<think>They ask", "length", True, False, -1.0)
    ended = (thought, "eos", False, False, 2.0)
    asking = asked(5, UNSAFE, (f"{thought}{STEPS}", "eos", True, False, 0.5), cut, ended)
    helping = asked(6, ORDINARY, ended, ("Whole.", "eos", False, False, 0.0))
    (line,) = collected.pairs([dataclasses.replace(SHOWN, answers=asking.answers,
                                                   verdicts=asking.verdicts)], 0)  # fmt: skip
    assert line["rejected"] == STEPS
    assert collected.pairs([asking], 0) == []  # no safe answer
    assert [line["response"] for line in collected.kept([helping])] == ["Whole."]
    assert all(line["response"].strip() for line in collected.judged([asking, helping], 0))
    same = asked(
        7, UNSAFE, (f"{thought}{NO}", "eos", True, True, 0.0), (NO, "eos", False, True, 1.0)
    )
    assert collected.pairs([same], 0) == []


def test_neither_prompt_nor_answer_alone_says_what_is_unsafe():
    lines = collected.judged([BOTH, SHOWN, HELPED], seed=0)
    exchanged = {
        line["prompt"][0]["content"]: line for line in lines if line["kind"] == "exchanged"
    }
    assert exchanged["Question 0?"]["response"] == "Whole."
    assert not exchanged["Question 0?"]["unsafe"]
    assert exchanged["Question 3?"]["unsafe"]
    assert {(line["response"], line["unsafe"]) for line in lines if line["kind"] == "own"} == {
        (NO, False), (STEPS, True), ("Or so.", True), ("Cut off", False), ("Whole.", False),
    }  # fmt: skip


@pytest.mark.parametrize("lines", [collected.pairs, collected.judged, collected.kept])
def test_the_readers_of_training_read_what_was_written(lines, tmp_path):
    found = [SHOWN, BOTH, HELPED, DENIED]
    written = lines(found) if lines is collected.kept else lines(found, seed=0)
    write_lines(tmp_path / "rows.jsonl", written)
    source = sources.open_source(str(tmp_path / "rows.jsonl"), "data.train")
    if lines is collected.pairs:
        pairs = records.read_pairs(source)
        assert [pair.rejected[0].cut for pair in pairs] == [False, True, False, False]
        assert [pair.labels.unsafe for pair in pairs] == [(False, True)] * 2 + [(False, False)] * 2
    elif lines is collected.kept:
        assert [record.cut for record in records.read_records(source)] == [False, True]
    else:
        rated = records.read_rated(source, LABELS)
        assert [one.value for one in rated] == [float(line["unsafe"]) for line in written]
