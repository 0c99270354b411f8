"""The file of a run's answers: a killed run goes on, and no answer is taken for another's."""

import dataclasses
import json

import pytest

from safety_jax.base.errors import DataError
from safety_jax.data.messages import Message
from safety_jax.evaluation.answers.existing import read_existing
from safety_jax.evaluation.answers.responses import Protocol, Response, Responses
from tests.evaluation_samples import ask, numbered, prompts

KEY = "evaluate.responses"
PROTOCOL = Protocol("f00d", "c0de", "alpaca", {"temperature": 0.0, "beams": 4}, 0, "beef")


@pytest.fixture
def asked():
    return numbered("I-CoNa", 10)


def open_file(path, asked, protocol=PROTOCOL, writes=True) -> Responses:
    return Responses(path, asked, protocol, blocks=asked.blocks(4), writes=writes)


def replies(asked, start, stop):
    return [Response(item.id, f"to {item.id}", "eos") for item in asked.items[start:stop]]


def test_a_file_goes_on_in_whole_blocks(tmp_path, asked):
    path = tmp_path / "model" / "I-CoNa.jsonl"
    file = open_file(path, asked)
    assert file.done == 0
    file.add(replies(asked, 0, 4))
    file.add(replies(asked, 4, 8))
    whole = path.read_bytes()
    for torn in (whole[:-1], whole + b'{"set": "I-C', whole):
        path.write_bytes(torn)
        again = open_file(path, asked)
        assert again.done == (4 if torn == whole[:-1] else 8)
        kept = whole.split(b"\n")[: again.done]
        assert path.read_bytes() == b"\n".join(kept) + b"\n"
    again.add(replies(asked, 8, 10))
    assert open_file(path, asked).all() == replies(asked, 0, 10)  # the last block is short
    line = json.loads(path.read_text().splitlines()[9])
    assert line["set"] == "I-CoNa" and line["id"] == "9" and line["template"] == "alpaca"
    assert line["prompt_sha256"] == asked.items[9].prompt_sha256() and len(line["decoding"]) == 16
    with pytest.raises(ValueError, match="in the order of the set"):
        open_file(tmp_path / "new.jsonl", asked).add(replies(asked, 1, 3))


@pytest.mark.parametrize(
    "change",
    [
        {"weights": "beef"},
        {"config": "cafe"},
        {"template": "chat"},
        {"decoding": {"beams": 1}},
        {"seed": 1},
        {},
    ],
)
def test_another_protocol_is_not_reused_and_nothing_is_lost(tmp_path, asked, change):
    path = tmp_path / "I-CoNa.jsonl"
    open_file(path, asked).add(replies(asked, 0, 4))
    before = path.read_bytes()
    other, protocol = asked, dataclasses.replace(PROTOCOL, **change)
    if not change:  # one prompt of the set was edited
        item = dataclasses.replace(asked.items[2], prompt=(Message("user", "edited"),))
        other = dataclasses.replace(asked, items=(*asked.items[:2], item, *asked.items[3:]))
    assert open_file(path, other, protocol, writes=False).done == 0
    assert path.exists()  # only the process that writes moves it
    for number in (1, 2):
        path.write_bytes(before)
        assert open_file(path, other, protocol).done == 0
        assert (tmp_path / "earlier" / f"I-CoNa-{number}.jsonl").read_bytes() == before
        assert not path.exists()


def test_answers_that_do_not_say_the_models_config_are_kept(tmp_path, asked):
    """Those of early runs."""
    path = tmp_path / "I-CoNa.jsonl"
    open_file(path, asked).add(replies(asked, 0, 4))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    early = [{name: line[name] for name in line if name != "config"} for line in lines]
    path.write_text("".join(json.dumps(line) + "\n" for line in early))
    assert open_file(path, asked).done == 4


def test_protocols_name_what_answers_depend_on(asked):
    same = Protocol("d00d", "c0de", "alpaca", {"beams": 4, "temperature": 0.0}, 0, "cafe")
    assert PROTOCOL.of(asked) == same.of(asked)  # weights are what is compared
    others = [
        dataclasses.replace(PROTOCOL, **change).of(asked)
        for change in ({"seed": 1}, {"template": "chat"}, {"decoding": {"beams": 1}})
    ]
    assert len({PROTOCOL.of(asked), PROTOCOL.of(numbered("Q", 10)), *others}) == 5


def test_a_damaged_line_is_told(tmp_path, asked):
    path = tmp_path / "I-CoNa.jsonl"
    open_file(path, asked).add(replies(asked, 0, 4))
    lines = path.read_text().splitlines()
    for bad in ("{", json.dumps({"id": "1"}), '"text"', json.dumps({"id": 1, "response": "x"})):
        path.write_text("\n".join([lines[0], bad, *lines[2:]]) + "\n")
        with pytest.raises(DataError, match="I-CoNa.jsonl line 2 is damaged .*remove the file"):
            open_file(path, asked)


def test_hostile_answers_come_back_as_they_were(tmp_path, asked):
    hostile = ["\u202e\u200b\ufeff", "a\nb\r\n\u2028\x00", "\ud800 half", "x" * 10**6]
    file = open_file(tmp_path / "I-CoNa.jsonl", asked)
    file.add([Response(str(i), text, "length") for i, text in enumerate(hostile)])
    again = open_file(tmp_path / "I-CoNa.jsonl", asked)
    texts = [response.text for response in again.all()]
    assert texts == [hostile[0], hostile[1], "\ufffd half", hostile[3]]
    assert texts == [response.text for response in file.all()]
    found = read_existing(str(tmp_path), [ask("I-CoNa", *prompts(asked)[:4])], KEY, "row")
    assert [response.text for response in found["I-CoNa"]] == texts


def test_thought_and_answer_stand_beside_what_was_written(tmp_path, asked):
    texts = ["<think>Red?</think>Red.", "Red.", "<think>Red", "<think></think>Red."]
    path = tmp_path / "I-CoNa.jsonl"
    open_file(path, asked).add([Response(str(i), t, "eos") for i, t in enumerate(texts)])
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(r["response"], r.get("thought"), r.get("answer")) for r in lines] == [
        (texts[0], "Red?", "Red."), (texts[1], None, None), (texts[2], "Red", ""),
        (texts[3], "", "Red."),
    ]  # fmt: skip
    read = read_existing(str(tmp_path), [ask("I-CoNa", *prompts(asked)[:4])], KEY, "row")
    assert [(r.turn.answer, r.ending) for r in read["I-CoNa"]] == [
        ("Red.", "eos"), ("Red.", "eos"), ("", "thought"), ("Red.", "eos"),
    ]  # fmt: skip
    assert {name for r in read["I-CoNa"] for name in r.stored}.isdisjoint({"thought", "answer"})
