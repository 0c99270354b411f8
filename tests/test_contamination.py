"""Rows that ask what a test asks are left out; rows that only look alike stay."""

import pytest

from safety_jax.base.errors import DataError
from safety_jax.data import contamination, records
from safety_jax.data.contamination import HeldApart, words
from safety_jax.data.messages import Message
from safety_jax.data.records import Record
from safety_jax.data.sources import Skipped, open_source

ASKED = [
    ("t 0", "How do I kill a Python process?"),
    ("t 1", "Give step-by-step instructions on how to repair the front light of an old bicycle."),
]
APART = HeldApart(ASKED)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("how do I KILL a python process", "t 0"),
        ("How do I kill the Python process?", "t 0"),
        ("How do I kill a person?", None),
        ("How do I kill time at an airport?", None),
        ("Be terse. Give step-by-step instructions on how to repair the front light of a car, and "
         "say what each part costs in a shop nearby, with that shop's address and hours.", "t 1"),
        ("Give step-by-step instructions on how to bake bread.", None),
        ("", None),
    ],
)  # fmt: skip
def test_near_duplicates_are_found_and_look_alikes_are_not(text, where):
    found = APART.match(text)
    assert (found and found.where) == where


def test_likeness_is_jaccards_index_of_words_and_neighbours():
    """Eight words and seven pairs each; the last word differs, and with it one pair."""
    found = HeldApart([("t", "kim left rome by boat at low tide")]).match(
        "Kim left Rome by boat at low water"
    )
    assert found is not None and found.likeness == pytest.approx((7 + 6) / (9 + 8))


def test_words_are_in_their_plainest_form():
    assert words("Don't re-enter the Café, please!") == ["dont", "reenter", "the", "cafe", "please"]
    assert words("がPCで見るニュース。") == ["か", "pc", "て", "見", "る", "ニュース"]
    assert words("हिन्दी में") == words("हिन्दी, में!") and len(words("हिन्दी में")) == 2
    assert words("กขคง") == ["กขค", "ขคง"]


@pytest.mark.parametrize(
    ("asked", "text", "duplicate"),
    [
        ("如何在家制作炸弹?", "如何在家里制作炸弹？", True),
        ("如何制作炸弹?", "如何制作蛋糕?", False),
        ("怎么杀死一个人?", "怎么杀死一个进程?", False),
        ("如何在家里用普通的化肥和柴油制作一枚炸弹而不被发现", "请把这句话翻译成英文并简要说明"
         "理由:如何在家里用普通的化肥和柴油制作一枚炸弹而不被发现?谢谢你的帮助,我下周要交作业。",
         True),
        ("请写一篇关于环境保护的文章", "请写一篇关于环境污染的报道", False),
        ("爆弾の作り方を教えてください", "爆弾の作り方を教えて下さい。", True),
        ("車を盗む方法を教えてください", "車を洗う方法を教えてください", False),
        ("車を盗む方法を教えてください", "車を盗む方法を教えて下さい。", True),
        ("プロセスを殺すにはどうすればいいですか", "人を殺すにはどうすればいいですか", False),
        ("วิธีทำระเบิดที่บ้าน", "วิธีทำระเบิดที่บ้านครับ", True),
        ("วิธีทำขนมเค้กที่บ้าน", "วิธีทำระเบิดที่บ้าน", False),
        ("ខ្ញុំធ្វើគ្រាប់បែកយ៉ាងដូចម្តេច", "ខ្ញុំ ធ្វើគ្រាប់បែកយ៉ាងដូចម្តេច?", True),
    ],
)  # fmt: skip
def test_scripts_without_blanks_between_words_are_compared_by_their_signs(asked, text, duplicate):
    assert (HeldApart([("t", asked)]).match(text) is not None) is duplicate


def test_training_rows_that_tests_ask_are_left_out_and_listed(tmp_path):
    train, tests = tmp_path / "train.jsonl", tmp_path / "tests.csv"
    train.write_text(
        '{"prompt": "How do I kill a python process?", "response": "With kill."}\n'
        '{"prompt": "What do cows eat?", "response": "Grass."}\n'
    )
    tests.write_text("Behavior,id\nHow do I kill a Python process?,7\n")
    found = contamination.read([f"{tests}?columns=prompt:Behavior", ""])
    skipped: list[Skipped] = []
    source = open_source(str(train), "data.train")
    kept = found.apart(records.read_records(source), skipped)
    assert [record.messages[-1].content for record in kept] == ["Grass."]
    (left,) = skipped
    assert "line 1" in left.where and "tests.csv" in left.why and left.unwanted


def test_a_source_that_only_repeats_the_tests_is_refused():
    """It would give nothing, and of a mixture by weights everything else would shrink with it."""
    asked = "Name a fruit that is red"
    row = Record((Message("user", asked), Message("assistant", "A cherry.")), "", "a", "a row 1")
    found = HeldApart([("tests.csv line 2", asked)])
    with pytest.raises(DataError, match=r"a: data.decontaminate leaves none of its 2 rows \(a row"):
        found.apart([row, row], [])
    assert found.apart([], []) == []


def test_no_tests_are_no_work():
    assert contamination.read(["", ""]) is None
