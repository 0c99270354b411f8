"""Rows by what they ask, and judges of several that each judge the prompts they did not read."""

import json

import pytest

from safety_jax.base.errors import ConfigError, DataError
from safety_jax.data import records, sources
from safety_jax.data.folds import Fold, part_of
from safety_jax.data.formats import verdicts
from safety_jax.data.messages import Message
from safety_jax.data.records import Record
from safety_jax.judges import crossed, inputs, registry
from safety_jax.judges.judge import from_record
from safety_jax.judges.planned import Resources
from safety_jax.judges.refusal import RefusalJudge

ROWS = [
    {"question": f"How is dye number {i // 2} made?", "said": f"answer {i}", "n": str(i % 3),
     "verdict": ("unsafe\nO3", "safe")[i % 2]}
    for i in range(40)
]  # fmt: skip


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("folds") / "verdicts.json"
    path.write_text(json.dumps(ROWS))
    return f"{path}?columns=prompt:question,response:said,label:verdict"


def rated(spec: str):
    return records.read_rated(sources.open_source(spec), verdicts.LABELS)


def test_parts_hold_every_prompt_once_and_all_its_answers(file):
    every = {row.where: row for row in rated(file)}
    thirds = [{row.where for row in rated(f"{file}&prompts={i}/3")} for i in (1, 2, 3)]
    assert sum(map(len, thirds)) == len(every) == 40 and set().union(*thirds) == set(every)
    for i, part in enumerate(thirds, start=1):
        assert {row.where for row in rated(f"{file}&prompts=-{i}/3")} == set(every) - part
        asked = [every[where].prompt for where in part]
        assert all(asked.count(prompt) == 2 for prompt in asked)
    # The first line of a guard's answer is its label.
    assert [row.value for row in every.values()] == [1.0, 0.0] * 20


def test_a_part_is_of_the_words_alone():
    plain = (Message("user", "Paint a FENCE.\n\nIt is  red."),)
    turns = (Message("user", "paint a fence."), Message("assistant", ""))
    record = Record(turns, "It is red.", "s", "w")
    assert len({part_of(p, parts=97) for p in (plain, from_record(record).prompt)}) == 1
    assert part_of(turns[:1], record.context, parts=97) == part_of(plain, parts=97)
    assert str(Fold.parse("-12/100")) == "-12/100"


@pytest.mark.parametrize(
    ("query", "message"),
    [
        *((f"prompts={text}", "expected a part of all prompts, 1/5, or all but it, -1/5")
          for text in ("0/2", "3/2", "1/1", "1", "1/2/3", "1/101", "+1/2", "")),
        *((f"only={text}", "expected a column and its value") for text in ("n", ":1", "n:")),
        ("only=m:1", "no row has a column 'm'"),
        ("only=n:4*", "no row has such a 'n'; its values are '0', '1', '2'"),
    ],
)  # fmt: skip
def test_wrong_parts_and_values(file, query, message):
    with pytest.raises((ConfigError, DataError), match=message):
        sources.open_source(f"{file}&{query}")


def test_rows_by_the_value_of_a_column(file):
    for pattern, kept in (("0", "0"), ("[12]", "12"), ("0|2", "02"), ("*", "012")):
        found = sources.open_source(f"{file}&only=n:{pattern}")
        assert {row["n"] for row in found.rows} == set(kept)
        assert len(found.rows) == len(found.where) == sum(row["n"] in kept for row in ROWS)
    one = f"{file}&only=said:answer 7"
    (row,) = rated(one)
    elsewhere = part_of(row.prompt, parts=9) % 9 + 1
    with pytest.raises(DataError, match="no row has a prompt in this part"):
        rated(f"{one}&prompts={elsewhere}/9")


# ---------------------------------------------------------------------------- judges


class Marking(RefusalJudge):
    """The refusal detector, which also says who judged."""

    def score(self, conversations):
        self.seen = conversations
        return super().score(conversations)


def test_each_judge_reads_its_own_prompts_in_the_order_of_the_rows(file):
    items, _ = inputs.read([file], "data.responses", 0)
    asked = [item.conversation for item in items]
    judges = [Marking(name) for name in "abc"]
    found = crossed.CrossFitted(judges[0].card, judges).score(asked)
    assert found == RefusalJudge("r").score(asked)
    for number, judge in enumerate(judges, start=1):
        expected = {row.where for row in rated(f"{file}&prompts={number}/3")}
        assert {one.where for one in judge.seen} == expected
    assert crossed.CrossFitted(judges[0].card, judges).score([]) == []


def test_a_judge_that_read_what_it_is_to_judge_is_refused(tmp_path, one_device):
    facts = {"kind": "binary", "template": "pair", "direction": "higher is more harmful",
             "threshold": 0.0, "max_length": 64, "append_eos": False}  # fmt: skip
    folders = []
    for number, prompts in enumerate((["-1/2"], ["-1/2"], [])):
        folder = tmp_path / f"half{number}"
        folder.mkdir()
        (folder / "judge.json").write_text(json.dumps(facts | {"prompts": prompts}))
        folders.append(str(folder))
    on = Resources(one_device, "float32", "float32", "xla", 512)
    (row,) = registry.named([f"both={folders[1]}|{folders[2]}"]).values()
    assert row == {"kind": "cross_fitted", "paths": (folders[1], folders[2])}
    for paths, message in (
        ((folders[2], folders[1]), "part 1 of 2 of all prompts, but was trained on prompts=all"),
        ((folders[0],), "expected two folders or more"),
    ):
        with pytest.raises(ConfigError, match=message):
            crossed.cross_fitted("both", {"paths": paths}, on, {})
    with pytest.raises(ConfigError, match=r"have no name; expected NAME="):
        registry.named(["a|b"])
