"""Preference pairs: which answer is preferred, what is scored, what is left out and told."""

import dataclasses
import functools
import json

import numpy as np
import pytest

from safety_jax.base.errors import ConfigError, DataError
from safety_jax.data import corpora, encode, judged, pairs, prompts, records, sources
from safety_jax.data.contamination import HeldApart
from safety_jax.data.labels import Labels
from safety_jax.data.messages import Message
from tests import chat_templates, tiny_tokenizers

SAFE_RLHF = {
    "prompt": "Ask",
    "response_0": "bad",
    "response_1": "good",
    "is_response_0_safe": False,
    "is_response_1_safe": True,
    "better_response_id": 1,
    "safer_response_id": 1,
    "response_0_harm_category": {"Theft": True, "Fraud": False},
    "response_1_harm_category": {"Theft": False, "Fraud": False},
}


def read(tmp_path, *rows, options="", skipped=None):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return records.read_pairs(sources.open_source(f"{file}{options}"), skipped)


def contents(pair):
    return pair.chosen[0].content, pair.rejected[0].content


# ---------------------------------------------------------------------------- rows


def test_safe_rlhf_columns(tmp_path):
    (pair,) = read(tmp_path, SAFE_RLHF)
    assert contents(pair) == ("good", "bad")
    assert pair.labels == Labels((False, True), True, ("Theft",))


def test_safe_rlhf_rows_that_disagree(tmp_path):
    """The better answer is unsafe: what the two label columns are for."""
    (pair,) = read(tmp_path, SAFE_RLHF | {"better_response_id": 0})
    assert contents(pair) == ("bad", "good")
    assert pair.labels == Labels((True, False), False, ("Theft",))
    assert pair.swapped.labels == Labels((False, True), True, ("Theft",))
    assert contents(pair.swapped) == ("good", "bad")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"better_response_id": 2}, "'better_response_id' is 2; expected 0 or 1"),
        ({"better_response_id": True}, "expected 0 or 1"),
        ({"is_response_0_safe": "maybe"}, "'is_response_0_safe' is 'maybe'"),
        ({"response_1": ""}, "'response_1' is empty"),
        ({"response_1": "bad"}, "chosen and rejected are equal"),
        ({"response_0_harm_category": 3}, "'response_0_harm_category' is int"),
    ],
)
def test_broken_rows_name_file_and_row(change, message, tmp_path):
    with pytest.raises(DataError, match=message) as error:
        read(tmp_path, SAFE_RLHF, SAFE_RLHF | change)
    assert "rows.jsonl line 2" in str(error.value) and "\n" not in str(error.value)
    skipped = []
    assert len(read(tmp_path, SAFE_RLHF, SAFE_RLHF | change, options="?bad_rows=skip",
                    skipped=skipped)) == 1  # fmt: skip
    assert [row.where for row in skipped] == ["rows.jsonl line 2"]


def test_labels_of_plain_pairs(tmp_path):
    row = {"prompt": "p", "chosen": "a", "rejected": "b"}
    plain, flagged = read(
        tmp_path,
        row | {"chosen_unsafe": None, "rejected_unsafe": None, "category": None},
        row | {"chosen_unsafe": "false", "rejected_unsafe": 1, "category": "Theft"},
    )
    assert plain.labels == Labels()
    assert flagged.labels == Labels((False, True), True, ("Theft",))
    with pytest.raises(DataError, match="'rejected_unsafe' is None; expected true or false"):
        read(tmp_path, row | {"chosen_unsafe": True, "rejected_unsafe": None})


# ---------------------------------------------------------------------------- rules


def pair_of(unsafe, safer=None) -> records.Pair:
    labels = Labels(unsafe, safer)
    answers = ((Message("assistant", "w"),), (Message("assistant", "l"),))
    return records.Pair((Message("user", "p"),), *answers, "", "source", "row 1", labels)


# By (chosen unsafe, rejected unsafe): "w" keeps the order, "l" swaps it, "" leaves the pair out.
@pytest.mark.parametrize(
    ("name", "outcomes"),
    [
        ("all", "wwww"),
        ("safe_and_better", "ww  "),
        ("safe_over_unsafe", " w  "),
        ("safety_first", "wwl "),
    ],
)
def test_rules_on_flags(name, outcomes):
    flags = [(False, False), (False, True), (True, False), (True, True)]
    kept = [pairs.rule(name)(pair_of(unsafe)) for unsafe in flags]
    assert [contents(pair)[0] if pair else " " for pair in kept] == list(outcomes)


@pytest.mark.parametrize(("name", "outcomes"), [("agreed", "w "), ("safer", "wl")])
def test_rules_on_the_safer_answer(name, outcomes):
    kept = [pairs.rule(name)(pair_of(None, safer)) for safer in (True, False)]
    assert [contents(pair)[0] if pair else " " for pair in kept] == list(outcomes)


@pytest.mark.parametrize("name", sorted(pairs.RULES.keys() - {"all", "safe_and_better"}))
def test_rules_say_which_labels_they_miss(name):
    with pytest.raises(DataError, match="row 1: does not say which answer"):
        pairs.rule(name)(pair_of(None))


def test_the_default_rule_takes_pairs_without_labels_and_tells():
    plain, labelled = pair_of(None), pair_of((False, True))
    assert pairs.rule("safe_and_better")(plain) is plain
    assert pairs.describe_unlabelled([labelled], "safe_and_better") == []
    assert pairs.describe_unlabelled([plain], "all") == []
    (line,) = pairs.describe_unlabelled([plain, labelled, plain], "safe_and_better")
    assert line.startswith("2 of 3 pairs do not say which answers are unsafe; data.prefer=safe_and")


def test_unknown_rule():
    with pytest.raises(ConfigError, match="data.prefer 'best': expected one of all, safe_and"):
        pairs.rule("best")


# ---------------------------------------------------------------------------- token ids


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizers.llama()


def encoded(tokenizer, *rows, template="plain", max_length=40, **changes):
    chosen = [pair_of(None) if row is None else row for row in rows]
    skipped: list[sources.Skipped] = []
    settings = {"overlong_prompt": "error", "bad_rows": "error"} | changes
    encoding = encode.Encoding(
        prompts.load_template(template, tokenizer), tokenizer, max_length,
        settings["overlong_prompt"], len(tokenizer),
    )  # fmt: skip
    found = pairs.encode_pairs(chosen, skipped, encoding=encoding, bad_rows=settings["bad_rows"])
    return found, skipped


def texts(prompt: str, chosen: str, rejected: str) -> records.Pair:
    return records.Pair(
        (Message("user", prompt),),
        (Message("assistant", chosen),),
        (Message("assistant", rejected),),
        "",
        "source",
        f"row {prompt[:5]}",
    )


def test_both_sides_begin_with_the_same_prompt_and_only_answers_are_scored(tokenizer):
    found, _ = encoded(tokenizer, texts("what is it", "a cat", "a dog and a cat"))
    (chosen, chosen_mask), (rejected, rejected_mask) = (
        side.example(0) for side in (found.chosen, found.rejected)
    )
    start = int(np.argmax(chosen_mask))
    assert start == np.argmax(rejected_mask) > 0
    np.testing.assert_array_equal(chosen[:start], rejected[:start])
    assert chosen_mask[start:].all() and rejected_mask[start:].all()
    assert chosen[-1] == rejected[-1] == tokenizer.eos_token_id


def test_the_prompt_loses_as_much_on_both_sides(tokenizer):
    """The longer answer decides; the shorter side would have fitted as it was."""
    long, short = "a cat and a dog " * 3, "a cat"
    prompt = "what is it and what is it and what is it"
    whole, _ = encoded(tokenizer, texts(prompt, long, short), max_length=500)
    longest = int(whole.chosen.lengths[0])
    found, _ = encoded(tokenizer, texts(prompt, long, short), max_length=longest - 4)
    starts = [int(np.argmax(side.example(0)[1])) for side in (found.chosen, found.rejected)]
    whole_start = int(np.argmax(whole.chosen.example(0)[1]))
    assert starts == [whole_start - 4] * 2
    a, b = (side.example(0)[0][: starts[0]] for side in (found.chosen, found.rejected))
    np.testing.assert_array_equal(a, b)
    assert found.chosen.counts.cut_prompts == 1 and found.chosen.counts.cut_answers == 0


def test_long_prompts_and_equal_answers_are_errors_or_counted(tokenizer):
    good = texts("short", "a cat", "a dog")
    long = texts("what is it " * 30, "a cat", "a dog")
    alike = texts("alike", "a cat " * 30 + "a", "a cat " * 30 + "a dog")
    with pytest.raises(DataError, match="row what .*its prompt has .* tokens; expected fewer"):
        encoded(tokenizer, good, long)
    with pytest.raises(DataError, match="row alike: its answers do not differ within"):
        encoded(tokenizer, good, alike)
    found, skipped = encoded(tokenizer, good, long, alike, overlong_prompt="skip", bad_rows="skip")
    assert len(found) == 1
    assert [row.where for row in skipped] == ["row what ", "row alike"]


def test_answers_are_compared_as_they_are_trained(tokenizer):
    """They begin alike, and differ where only a prompt that was cut leaves room."""
    pair = texts("what is it " * 8, "a cat and a dog and a cat", "a cat and a dog and a hen")
    whole, _ = encoded(tokenizer, pair, max_length=500)
    (ids, mask), (other, _) = (side.example(0) for side in (whole.chosen, whole.rejected))
    differ = int(np.argmax(ids[: len(other)] != other[: len(ids)]))
    found, _ = encoded(tokenizer, pair, max_length=differ)
    answer = ids[np.argmax(mask) :]
    np.testing.assert_array_equal(found.chosen.example(0)[0][-len(answer) :], answer)
    wording = judged.wording("plain", tokenizer, takes_pairs=False, append_eos=True)
    judges = judged.encode_answers(
        [pair], wording, max_length=differ, overlong_prompt="error", bad_rows="error",
        vocabulary_size=len(tokenizer), skipped=[],
    )  # fmt: skip
    assert not np.array_equal(judges.sides[0].ids, judges.sides[1].ids)


def test_a_pair_learns_its_own_answers_not_those_of_its_prompt():
    tokenizer = tiny_tokenizers.qwen(chat_template=chat_templates.THINKS)
    history = tuple(Message(r, t) for r, t in (("user", "Q"), ("assistant", "A"), ("user", "Q2")))
    thought = "<think>\nhm\n</think>\n\nB"
    pair = dataclasses.replace(texts("", thought, "C"), prompt=history)
    found, _ = encoded(tokenizer, pair, template="chat", max_length=200)
    learned = [
        tokenizer.decode(ids[mask])
        for ids, mask in (side.example(0) for side in (found.chosen, found.rejected))
    ]
    assert learned == [f"{thought}<|im_end|>", "<think>\n\n</think>\n\nC<|im_end|>"]


def test_answers_of_several_turns_need_a_template_with_marks(tokenizer, tmp_path):
    turns = (Message("assistant", "a cat"), Message("user", "no"), Message("assistant", "a dog"))
    pair = dataclasses.replace(texts("what", "x", "a dog"), chosen=turns)
    with pytest.raises(DataError, match="several turns.*data.template=chat"):
        encoded(tokenizer, pair)
    left_out = dataclasses.replace(pair, optional=True)
    found, skipped = encoded(tokenizer, left_out, texts("what", "x", "a dog"))
    assert len(found) == 1 and "several turns" in skipped[0].why


def test_corpus_reports_what_was_left_out(tokenizer, tmp_path):
    file = tmp_path / "rows.jsonl"
    rows = [SAFE_RLHF | {"prompt": f"Ask {i}"} for i in range(6)]
    rows[1] |= {"response_0": "good"}  # equal answers
    rows[2] |= {"better_response_id": 0}  # the better one is unsafe
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    template = prompts.load_template("plain", tokenizer)
    encoding = encode.Encoding(template, tokenizer, 64, "error", len(tokenizer))

    def read(bad_rows: str, tests: HeldApart | None = None) -> corpora.Corpus:
        left_out = {}
        return corpora.read(
            corpora.Rows((str(file),), "", 1, bad_rows, 0, tests),
            corpora.preferences("safe_and_better", left_out),
            functools.partial(pairs.encode_pairs, encoding=encoding, bad_rows=bad_rows),
            prompt=template.prompt,
            tokenizer=tokenizer,
            left_out=left_out,
        )

    found = read("skip")
    assert (len(found.training), len(found.evaluation)) == (3, 1)
    assert found.left_out == {"data.prefer=safe_and_better": 1}
    counts = found.counts("pairs")
    assert counts["rows skipped"] == 1 and counts["left out by data.prefer=safe_and_better"] == 1
    text = found.describe("pairs")
    assert "1 left out by data.prefer=safe_and_better" in text
    assert "rows.jsonl line 2: chosen and rejected are equal" in text
    apart = read("skip", HeldApart([("test 9", "ask 4!")]))
    assert len(apart.training) == 2
    assert "rows.jsonl line 5: is a near-duplicate of test 9" in apart.describe("pairs")
    with pytest.raises(DataError, match="rows.jsonl line 2"):
        read("error")
    with pytest.raises(ConfigError, match="data.bad_rows 'drop': expected error or skip"):
        read("drop")


def test_rows_of_the_source_that_is_measured_on_are_drawn(tokenizer, tmp_path):
    file = tmp_path / "rows.jsonl"
    rows = [{"prompt": f"Ask {i}", "response": "good"} for i in range(8)]
    rows[5] |= {"is_safe": False}
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    template = prompts.load_template("plain", tokenizer)
    encoding = encode.Encoding(template, tokenizer, 64, "error", len(tokenizer))

    def measured(evaluation: str, seed: int) -> tuple[list[str], list[sources.Skipped]]:
        found = corpora.read(
            corpora.Rows((str(file),), evaluation, 0, "error", seed),
            corpora.demonstrations,
            lambda rows, skipped: encode.encode(rows, encoding, train_on="response"),
            prompt=template.prompt,
            tokenizer=tokenizer,
        )
        told.append(found.describe("rows"))
        return found.evaluation.where, found.skipped

    told: list[str] = []
    where, skipped = measured(f"{file}?rows=3", seed=0)
    assert "warning: 3 of 3 rows of data.eval have prompts that are trained on" in told[0]
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps({"prompt": "Something else", "response": "good"}))
    measured(str(other), seed=0)
    assert "warning" not in told[1]
    assert len(where) == 3 and where != measured(f"{file}?rows=3", seed=1)[0]
    assert [row.where for row in skipped] == ["rows.jsonl line 6"] * 2  # of either source
    with pytest.raises(ConfigError, match="data.eval: .* 8 rows asked for; expected at most the 7"):
        measured(f"{file}?rows=8", seed=0)
