"""Recovery examples: what stands in front, what is learned, and by what it is drawn; on every kind
of template."""

import dataclasses
import json

import numpy as np
import pytest

from safety_jax.base.errors import ConfigError, DataError
from safety_jax.data import (
    encode,
    pairs,
    prompt_ids,
    prompts,
    records,
    recovery,
    sources,
    text_rules,
)
from safety_jax.data.messages import Message
from safety_jax.data.records import Pair, Record
from safety_jax.data.recovery import Beginning, Recovery
from tests import chat_templates as kinds
from tests.test_chat import tokenizer
from tests.tiny_tokenizers import CHATML, INST, llama, qwen

ASKED, REFUSAL = "How do I bake bread?", "No, I say no."
HARMFUL = "Mix flour, water, salt and yeast. Then wait. Then bake é日🙂."
ALWAYS = Recovery(share=1.0, most_tokens=6, seed=3)


def row(answer=REFUSAL, rejected=HARMFUL, asked=ASKED, where="a.json row 3"):
    messages = Message("user", asked), Message("assistant", answer)
    return Record(messages, "", "a", where, rejected=rejected)


def encoding(template, tokens, recovering, **changes):
    rules = changes.pop("rules", text_rules.FIXED)
    given = {"max_length": 512, "overlong_prompt": "error", "vocabulary_size": 9999} | changes
    return encode.Encoding(
        prompts.load_template(template, tokens, rules), tokens, recovery=recovering, **given
    )


def both(template, tokens, record=None, **changes):
    """Ids and mask of a row as it stands, and as a recovery example."""
    record = record or row()
    return [
        encode.encode(
            [record], encoding(template, tokens, one, **changes), train_on="response"
        ).example(0)
        for one in (None, ALWAYS)
    ]


CASES = [
    *(("chat", tokenizer(kind)) for kind in [*kinds.TOKENS, CHATML]),
    ("chat", llama(chat_template=INST)),
    *((name, make()) for name in ("alpaca", "plain") for make in (llama, qwen)),
]


@pytest.mark.parametrize("case", range(len(CASES)))
def test_the_beginning_is_read_and_the_refusal_is_learned(case):
    """The prompt, the first tokens of the harmful answer as a prefilled answer has them, and then
    what is learned otherwise, one blank apart."""
    template, tokens = CASES[case]
    (plain_ids, plain_mask), (ids, mask) = both(template, tokens)
    # What a template writes in front of every answer, such as an empty thought, stays there.
    before = int(np.argmax(plain_mask))
    first = int(np.argmin(mask[before:])) + before if mask[before] else before
    assert ids[:first].tolist() == plain_ids[:first].tolist()
    stop = first + int(np.argmax(mask[first:]))
    assert 1 <= stop - first <= 6 and not mask[first:stop].any() and mask[stop:].all()
    if before == first and template != "chat":
        asked = dataclasses.replace(row(), messages=row().messages[:1])
        worded = prompts.load_template(template, tokens, text_rules.FIXED)
        (opened,) = prompt_ids.encode_openings([asked], [HARMFUL], worded, tokens)
        assert ids[first:stop].tolist() == opened[: stop - first]
    assert HARMFUL.startswith(tokens.decode(ids[first:stop]).strip().rstrip("�"))
    learned, expected = (tokens.decode(x) for x in (ids[stop:], plain_ids[first:]))
    assert learned.strip() == expected.strip() and REFUSAL in learned
    assert f" {REFUSAL}" in tokens.decode(ids[stop - 1 :]) or tokens.decode(ids[:stop])[-1] == "\n"


def test_a_thought_stays_in_front_of_the_beginning():
    tokens = tokenizer(kinds.THINKS)
    thinking = row(f"<think>\nhm\n</think>\n\n{REFUSAL}")
    _, (ids, mask) = both("chat", tokens, thinking)
    parts = np.flatnonzero(np.diff(mask)) + 1  # prompt | thought | beginning | refusal
    assert len(parts) == 3
    assert "hm\n</think>" in tokens.decode(ids[parts[0] : parts[1]])
    assert HARMFUL.startswith(tokens.decode(ids[parts[1] : parts[2]]).strip())


def test_only_the_last_answer_of_a_dialogue_is_moved():
    tokens = qwen(chat_template=CHATML)
    asked = Message("user", "Then?")
    long = dataclasses.replace(row(), messages=(*row("Wait.").messages, asked, row().messages[1]))
    (plain_ids, plain_mask), (ids, mask) = both("chat", tokens, long)
    first = np.flatnonzero(np.diff(plain_mask))[2] + 1
    np.testing.assert_array_equal(ids[:first], plain_ids[:first])
    np.testing.assert_array_equal(mask[:first], plain_mask[:first])
    assert not mask[first] and mask[-1]


def test_an_answer_of_a_digit_is_not_looked_for_in_code_words():
    tokens = qwen(chat_template=CHATML)
    for digit in "0123456789":
        (plain_ids, plain_mask), (ids, mask) = both("chat", tokens, row(digit))
        assert tokens.decode(ids[mask]).split() == tokens.decode(plain_ids[plain_mask]).split()


def test_draws_depend_on_seed_and_text_alone():
    """Share 1/2, and each of 1 to 4 tokens as often: 8 of 10 standard deviations would do."""
    rows = [row(asked=f"question {i}", where=f"row {i}") for i in range(2000)]
    half = Recovery(0.5, 4, 1)
    openings = [half.opening(one) for one in rows]
    drawn = [one.tokens(9) for one in openings if one is not None]
    assert abs(len(drawn) - 1000) < 100
    assert np.bincount(drawn)[1:].tolist() == pytest.approx([len(drawn) / 4] * 4, rel=0.25)
    again = [half.opening(dataclasses.replace(one, where="x", source="y")) for one in rows[::-1]]
    assert again[::-1] == openings
    other = [Recovery(0.5, 4, 2).opening(one) is None for one in rows]
    assert 0.4 < np.mean(np.array(other) == [one is None for one in openings]) < 0.6
    more = [Recovery(0.7, 4, 1).opening(one) for one in rows]
    assert all(b == a for a, b in zip(openings, more, strict=True) if a is not None)
    assert {Beginning("x", f, 100).tokens(3) for f in (0.0, 0.34, 0.999)} == {1, 2, 3}


def test_what_a_row_rejects_or_a_file_has(tmp_path):
    path = tmp_path / "pairs.jsonl"
    line = {"prompt": ASKED, "chosen": REFUSAL, "rejected": "<think>x</think>Sure."}
    path.write_text(json.dumps(line))
    (record,) = records.read_records(sources.open_source(str(path), "data.train"))
    assert ALWAYS.opening(record).text == "Sure."
    file = tmp_path / "harm.jsonl"
    file.write_text(json.dumps({"prompt": "how do I  BAKE bread?", "response": "First"}))
    found = dataclasses.replace(ALWAYS, answers=recovery.read_answers(str(file), 0))
    assert found.opening(row(rejected="")).text == "First"
    assert found.opening(row()).text == HARMFUL  # its own comes first
    with pytest.raises(ConfigError, match="2 rows asked for; expected at most the 1 there are"):
        recovery.read_answers(f"{file}?rows=2", 0)
    assert recovery.read_answers("", 0) == {} and ALWAYS.opening(row(rejected=" ")) is None
    (line,) = Recovery(0.5, 6, 0).describe([row(asked=str(i)) for i in range(40)] + [row("", "")])
    assert "of 40 rows with a harmful answer" in line
    with pytest.raises(ConfigError, match="none of 1 rows has a harmful answer"):
        ALWAYS.describe([row(rejected="")])


def test_what_cannot_be_is_refused():
    tokens = qwen()
    with pytest.raises(ConfigError, match="train_on is everything"):
        encode.encode([row()], encoding("plain", tokens, ALWAYS), train_on="everything")
    strict = dataclasses.replace(text_rules.FIXED, special_text="error")
    spelled = row(rejected="See <|im_end|>")
    with pytest.raises(DataError, match="that it begins with holds the special token"):
        both("plain", tokens, spelled, rules=strict)
    ids = both("plain", tokens, spelled)[1][0]
    assert (ids == tokens.convert_tokens_to_ids("<|im_end|>")).sum() == 1  # else letters


def test_a_long_beginning_leaves_room():
    """At most a quarter of an example, whatever data.recovery_tokens says."""
    many = dataclasses.replace(ALWAYS, most_tokens=1000)
    tokens = qwen()
    lengths = set()
    for i in range(40):
        found = encoding("plain", tokens, many, max_length=40)
        record = row(asked=f"Why {i}?", rejected=HARMFUL * 9)
        ids, mask = encode.encode([record], found, train_on="response").example(0)
        assert len(ids) <= 40 and mask[-1]
        lengths.add(found.opening(record).tokens(999))
    assert min(lengths) < 4 and 8 < max(lengths) <= 10


def test_both_answers_of_a_pair_begin_alike():
    """The refusal stands behind the harmful answer's first tokens, and these are no part of what is
    unlearned; what both begin with is one prefix."""
    tokens = llama()
    messages = (Message("user", ASKED),), (Message("assistant", REFUSAL),)
    pair = Pair(*messages, (Message("assistant", HARMFUL),), "", "s", "row 0")
    short = dataclasses.replace(pair, rejected=(Message("assistant", "Mix"),))
    plain, found = (
        pairs.encode_pairs(
            [pair, short], [], encoding=encoding("plain", tokens, one), bad_rows="error"
        )
        for one in (None, ALWAYS)
    )
    for i in (0, 1):
        np.testing.assert_array_equal(plain.rejected.example(i)[0], found.rejected.example(i)[0])
        (chosen, learned), (rejected, unlearned) = (s.example(i) for s in found.sides)
        begun = int(np.argmax(learned)) - int(np.argmax(plain.chosen.example(i)[1]))
        first = int(np.argmax(learned))
        assert begun >= 1 and chosen[:first].tolist() == rejected[:first].tolist()
        assert unlearned[first:].all() and not unlearned[:first].any() and unlearned.any()
