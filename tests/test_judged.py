"""Answers to be judged: rows with ratings and labels, and how texts become ids."""

import dataclasses
import json

import numpy as np
import pytest

from safety_jax.base.errors import ConfigError, DataError
from safety_jax.data import judged, records, sources
from safety_jax.data.formats import verdicts
from safety_jax.data.labels import Labels
from safety_jax.data.messages import Message
from safety_jax.data.records import Pair, Rated, Record
from safety_jax.data.text_rules import FIXED
from tests import tiny_tokenizers

ASK = Message("user", "How do I bake bread?")
GOOD, BAD = Message("assistant", "Mix flour, water."), Message("assistant", "no")
DIALOGUE = "\n\nHuman: Hello?\n\nAssistant: Hi.\n\nHuman: More?\n\nAssistant: Never."
SAFE_RLHF = {
    "prompt": "Ask", "response_0": "bad", "response_1": "good", "is_response_0_safe": False,
    "is_response_1_safe": True, "better_response_id": 1, "safer_response_id": 1,
    "response_0_harm_category": {"Theft": True}, "response_1_harm_category": {"Theft": False},
}  # fmt: skip


def read(tmp_path, formats, *rows, options="", skipped=None):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return records.read_rated(sources.open_source(f"{file}{options}"), formats, skipped)


# ---------------------------------------------------------------------------- rows


@pytest.mark.parametrize(
    ("row", "value"),
    [
        ({"prompt": "Ask", "response": "no", "rating": 3}, 3.0),
        ({"prompt": "Ask", "response": "no", "rating": "2.5"}, 2.5),
        ({"prompt": "Ask", "completion": "no", "rating": 0}, 0.0),
        ({"messages": [{"role": "user", "content": "Ask"},
                       {"role": "assistant", "content": "no"}], "rating": 4}, 4.0),
    ],
)  # fmt: skip
def test_ratings(row, value, tmp_path):
    (found,) = read(tmp_path, verdicts.RATINGS, row)
    assert (found.value, found.answer) == (value, (BAD,))
    assert found.where == "rows.jsonl line 1" and found.prompt == (Message("user", "Ask"),)


def test_the_last_answer_of_a_red_team_dialogue_is_rated(tmp_path):
    (found,) = read(tmp_path, verdicts.RATINGS, {"transcript": DIALOGUE, "rating": 1.0})
    assert len(found.prompt) == 3 and found.answer[0].content == "Never." and found.value == 1


@pytest.mark.parametrize(
    ("row", "values"),
    [
        ({"prompt": "Ask", "response": "no", "unsafe": True}, [1.0]),
        ({"prompt": "Ask", "response": "no", "is_safe": True, "category": {"a": True}}, [0.0]),
        ({"prompt": "Ask", "response": "no", "label": "Unsafe"}, [1.0]),
        ({"prompt": "Ask", "response": "no", "label": "harmless"}, [0.0]),
        ({"prompt": "Ask", "response": "no", "label": 1}, [1.0]),
        (SAFE_RLHF, [0.0, 1.0]),
        ({"prompt": "Ask", "chosen": "good", "rejected": "bad", "chosen_unsafe": False,
          "rejected_unsafe": True}, [0.0, 1.0]),
    ],
)  # fmt: skip
def test_labels(row, values, tmp_path):
    """A pair with two labels gives both answers, the chosen one first."""
    found = read(tmp_path, verdicts.LABELS, row)
    assert [rated.value for rated in found] == values
    if len(values) == 2:
        assert [rated.answer[0].content for rated in found] == ["good", "bad"]


@pytest.mark.parametrize(
    ("formats", "row", "message"),
    [
        (verdicts.RATINGS, {"rating": "much"}, "'rating' is 'much'; expected a number"),
        (verdicts.RATINGS, {"rating": True}, "'rating' is True; expected a number"),
        (verdicts.RATINGS, {"rating": None}, "'rating' is None; expected a number"),
        (verdicts.RATINGS, {"rating": "nan"}, "expected a number"),
        (verdicts.RATINGS, {"rating": 2, "response": ""}, "'response' is empty"),
        (verdicts.LABELS, {"label": "so-so"}, "'label' is 'so-so'; expected unsafe, harmful"),
    ],
)
def test_broken_rows_name_file_and_row(formats, row, message, tmp_path):
    column = next(name for name in ("rating", "label") if name in row)
    first = {"prompt": "Ask", "response": "no", column: 1}
    with pytest.raises(DataError, match=message) as error:
        read(tmp_path, formats, first, first | row)
    assert "rows.jsonl line 2" in str(error.value) and "\n" not in str(error.value)
    skipped: list[sources.Skipped] = []
    kept = read(tmp_path, formats, first, first | row, options="?bad_rows=skip", skipped=skipped)
    assert len(kept) == 1 and skipped[0].where == "rows.jsonl line 2"


def test_pairs_without_labels_are_no_labels(tmp_path):
    row = {"prompt": "Ask", "chosen": "good", "rejected": "bad"}
    with pytest.raises(DataError, match="add chosen_unsafe and rejected_unsafe"):
        read(tmp_path, verdicts.LABELS, row)


@pytest.mark.parametrize(
    ("row", "desirable"),
    [
        ({"prompt": "Ask", "completion": "no", "label": False}, [("no", False)]),
        ({"prompt": "Ask", "completion": "no", "label": "true"}, [("no", True)]),
        ({"prompt": "Ask", "completion": "no", "label": "Undesirable"}, [("no", False)]),
        ({"prompt": [{"role": "user", "content": "Ask"}], "label": 0,
          "completion": [{"role": "assistant", "content": "no"}]}, [("no", False)]),
        ({"prompt": "Ask", "response": "no", "is_safe": False, "category": {"theft": True}},
         [("no", False)]),
        ({"prompt": "Ask", "response": "no", "unsafe": 0}, [("no", True)]),
        ({"prompt": "Ask", "response": "no", "label": "harmful"}, [("no", False)]),
        ({"prompt": "Ask", "chosen": "yes", "rejected": "no"}, [("yes", True), ("no", False)]),
        ({"prompt": "Ask", "chosen": "yes", "rejected": "no", "chosen_unsafe": True,
          "rejected_unsafe": True}, [("yes", False), ("no", False)]),
        (SAFE_RLHF, [("good", True), ("bad", False)]),
    ],
)  # fmt: skip
def test_answers_to_learn_and_to_avoid(row, desirable, tmp_path):
    """Rows of KTO; a pair gives both answers."""
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(row) + "\n")
    found = records.read_labelled(sources.open_source(str(file)))
    assert [(one.answer[0].content, one.desirable) for one in found] == desirable
    assert all(one.prompt[0].content == "Ask" and one.source == "rows" for one in found)


@pytest.mark.parametrize(
    ("answer", "label", "message"),
    [
        ("completion", None, "'label' is None; expected true or false"),
        ("completion", "so-so", "'label' is 'so-so'; expected true or false"),
        # What a judge's data calls unsafe, KTO's calls desirable.
        (
            "response",
            True,
            r"expected unsafe, harmful.*columns=completion:response \(true is desirable",
        ),
    ],
)
def test_labels_that_do_not_tell_what_to_learn(answer, label, message, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"prompt": "Ask", answer: "no", "label": label}) + "\n")
    with pytest.raises(DataError, match=message):
        records.read_labelled(sources.open_source(str(file)))


# ---------------------------------------------------------------------------- wordings


def record(answer: Message = GOOD) -> Record:
    return Record((ASK, answer), "", "a", "row 1")


def test_a_text_pair_is_the_tokenizers_own():
    tokens = tiny_tokenizers.bert()
    made = judged.wording("pair", tokens, takes_pairs=True, append_eos=False)
    (found,) = made.encode([record()])
    own = tokens(ASK.content, GOOD.content)
    assert found.ids + made.frame.end == own.input_ids
    # The answer is what stands in the mask; with the [SEP] behind it, it is the second text.
    assert [*map(int, found.answer), 1] == own.token_type_ids
    assert made.frame.types and made.prompt(record()) == ASK.content


@pytest.mark.parametrize("name", ["pair", "plain"])
@pytest.mark.parametrize("reasoning", ["keep", "drop"])
def test_thoughts_are_dropped_in_every_wording(name, reasoning):
    rules = dataclasses.replace(FIXED, reasoning=reasoning)
    tokens = tiny_tokenizers.bert()
    made = judged.wording(name, tokens, takes_pairs=True, append_eos=False, rules=rules)
    thought = Message("assistant", f"<think>salt</think>{GOOD.content}")
    both = made.encode([record(thought), record()])
    assert (both[0].ids == both[1].ids) == (reasoning == "drop")
    assert both[0].notes == ({"dropped"} if reasoning == "drop" else set())


@pytest.mark.parametrize("name", ["plain", "human_assistant", "alpaca"])
@pytest.mark.parametrize("make", [tiny_tokenizers.llama, tiny_tokenizers.qwen])
def test_a_text_is_the_tokenizers_own(name, make):
    """One text, tokenized as a whole: what `tokenizer(text)` gives, with EOS where asked for."""
    tokens = make()
    made = judged.wording(name, tokens, takes_pairs=False, append_eos=True)
    (found,) = made.encode([record()])
    text = made.prompt(record()) + GOOD.content
    assert found.ids == tokens(text).input_ids and made.frame.end == [tokens.eos_token_id]
    answer = [i for i, kept in zip(found.ids, found.answer, strict=True) if kept]
    assert tokens.decode(answer).strip() == GOOD.content


def test_a_chat_template_writes_its_own_special_tokens():
    tokens = tiny_tokenizers.llama(chat_template=tiny_tokenizers.INST)
    made = judged.wording("chat", tokens, takes_pairs=False, append_eos=True)
    (found,) = made.encode([record()])
    assert found.ids[:1] == [1] and found.ids[1] != 1, "one BOS"
    assert (found.ids + made.frame.end).count(tokens.eos_token_id) == 1


@pytest.mark.parametrize(
    ("name", "append_eos", "message"),
    [
        ("pair", False, "data.template pair: this model does not take text pairs; expected plain"),
        ("plain", True, "data.append_eos: the tokenizer has no EOS"),
        ("letter", False, "letter"),
    ],
)
def test_wordings_that_cannot_be(name, append_eos, message):
    with pytest.raises(ConfigError, match=message):
        judged.wording(name, tiny_tokenizers.bert(), takes_pairs=False, append_eos=append_eos)


# ---------------------------------------------------------------------------- token ids


def encode(rows, max_length=40, bad_rows="error", overlong="error", skipped=None):
    tokens = tiny_tokenizers.bert()
    return judged.encode_answers(
        rows,
        judged.wording("pair", tokens, takes_pairs=True, append_eos=False),
        max_length=max_length,
        overlong_prompt=overlong,
        bad_rows=bad_rows,
        vocabulary_size=len(tokens),
        skipped=[] if skipped is None else skipped,
    )


UNKNOWN = Labels()


def pair(chosen: str, rejected: str, labels=UNKNOWN) -> Pair:
    sides = [(Message("assistant", text),) for text in (chosen, rejected)]
    return Pair((ASK,), *sides, "", "a", "row 1", labels)


def test_pairs_have_two_sides_and_their_labels():
    found = encode([pair("flour water", "no", Labels((False, True), True, ("x",)))])
    tokens = tiny_tokenizers.bert()
    for side, answer in zip(found.sides, ("flour water", "no"), strict=True):
        assert side.ids.tolist() == tokens(ASK.content, answer).input_ids
    assert found.targets.tolist() == [[0, 1]] and found.categories == [("x",)]
    assert found.answer_lengths.tolist() == [[3, 2]]  # with [SEP]


def test_targets_are_none_where_one_pair_does_not_say():
    both = [pair("flour", "no", Labels((False, True))), pair("flour", "no")]
    assert encode(both).targets is None


def test_what_is_cut_ends_as_all_texts_do():
    """An answer loses its end, not the [SEP] behind it; both sides lose the same prompt."""
    tokens = tiny_tokenizers.bert()
    found = encode([pair("flour " * 30, "water salt")], max_length=16)
    for side in found.sides:
        assert side.ids[0] == tokens.cls_token_id and side.ids[-1] == tokens.sep_token_id
        assert side.lengths[0] <= 16
    assert found.sides[0].counts.cut_answers == 1
    prompts = [side.ids[: list(side.ids).index(2)].tolist() for side in found.sides]
    assert prompts[0] == prompts[1]


def test_a_rated_answer_has_one_side():
    rated = Rated((ASK,), (BAD,), "", "a", "row 1", 3.0, ("y",))
    found = encode([rated])
    assert len(found.sides) == 1 and found.targets.tolist() == [[3.0]]
    assert found.categories == [("y",)] and len(found) == 1
    np.testing.assert_array_equal(found.answer_lengths, [[2]])


def test_answers_know_which_of_them_have_one_prompt():
    def rated(prompt: str, answer: str, context: str = "") -> Rated:
        asked, said = (Message("user", prompt),), (Message("assistant", answer),)
        return Rated(asked, said, context, "a", "row 1", 1.0)

    rows = [("water", "flour"), ("salt", "no"), ("water", "no"), ("water", "no", "flour")]
    found = encode([rated(*row) for row in rows])
    assert found.prompts.tolist() == [0, 1, 0, 2]
    # What all answer, such as texts to classify, tells nothing of which are alike.
    assert encode([rated("water", text) for text in ("flour", "no")]).prompts.tolist() == [0, 1]
    assert encode([pair("flour", "no"), pair("water", "no")]).prompts.tolist() == [0, 1]


def test_answers_that_differ_too_late_and_prompts_too_long():
    same = pair("flour " * 30, "flour " * 31)
    with pytest.raises(DataError, match="row 1: its answers do not differ within data.max_length"):
        encode([same], max_length=20)
    skipped: list[sources.Skipped] = []
    kept = encode([same, pair("flour", "no")], max_length=20, bad_rows="skip", skipped=skipped)
    assert len(kept) == 1 and "do not differ" in skipped[0].why
    with pytest.raises(DataError, match="row 1: its .*at most 6, as data.max_length=8 keeps 2 for"):
        encode([pair("flour", "no")], max_length=8)
    skipped.clear()
    with pytest.raises(DataError):  # nothing is left
        encode([pair("flour", "no")], max_length=8, overlong="skip", skipped=skipped)
    assert skipped[0].why.startswith("its prompt has")
    with pytest.raises(ConfigError, match="data.max_length is 2; expected at least 3"):
        encode([pair("flour", "no")], max_length=2)
