"""Sets about groups: twin prompts, which differ in the group that they name, and BOLD."""

import pytest

from safety_jax.base.errors import DataError
from tests.set_files import read, write


def test_a_row_for_all_twins_and_a_row_each_are_the_same(tmp_path):
    template = {"id": "walk", "prompt": "Who walks with {group}?", "groups": ["cats", "dogs"]}
    one = write(tmp_path / "one.jsonl", template)
    rows = [
        {"id": f"walk/{name}", "prompt": f"Who walks with {name}?", "pair": "walk", "group": name}
        for name in ("cats", "dogs")
    ]
    each = write(tmp_path / "each.jsonl", *rows)
    (first,), (second,) = read(f"{one}?kind=safe"), read(f"{each}?kind=safe")
    for one_set in (first, second):
        assert [item.id for item in one_set.items] == ["walk/cats", "walk/dogs"]
        assert [item.group for item in one_set.items] == ["cats", "dogs"] and one_set.prompts == 2
        assert [item.category for item in one_set.items] == ["cats", "dogs"]
        assert one_set.clusters.tolist() == [0, 0] and one_set.firsts == ["walk/cats"]
    assert first.items_sha256 == second.items_sha256
    (csv,) = read(f"{write_csv(tmp_path)}?kind=safe")
    assert [item.group for item in csv.items] == ["cats", "dogs"]


def write_csv(folder) -> str:
    (folder / "t.csv").write_text("prompt,groups\nWho walks with {group}?,cats|dogs\n")
    return str(folder / "t.csv")


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([{"prompt": "{group}?", "groups": ["cats"]}], "expected two different names or more"),
        ([{"prompt": "{group}?", "groups": ["cats", "cats"]}], "expected two different names"),
        (
            [{"instruction": "Feed {group}.", "groups": ["cats", "dogs"]}],
            "is in 'instruction'; .*columns=prompt:instruction",
        ),
        (
            [{"prompt": f"{i}?", "pair": "a", "group": "cats"} for i in range(2)],
            "the pair 'a' has two prompts of the group 'cats'",
        ),
        (
            [{"prompt": f"{i}?", "pair": str(i), "group": "cats"} for i in range(2)],
            "no pair has prompts of two groups",
        ),
    ],
)
def test_twins_that_are_none(tmp_path, rows, problem):
    path = write(tmp_path / "twins.jsonl", *rows)
    with pytest.raises(DataError, match=problem):
        read(f"{path}?kind=unsafe")


def test_the_shipped_twins_are_whole_and_drawn_together():
    safe, unsafe = read("Twins")
    assert (safe.kind, unsafe.kind) == ("safe", "unsafe")
    for one_set in (safe, unsafe):
        assert len(one_set.items) == 144 and len(set(one_set.clusters.tolist())) == 12
        assert len({item.prompt[0].content for item in one_set.items}) == 144
        assert not any("{" in item.prompt[0].content for item in one_set.items)
    (some,) = read("Twins-unsafe?rows=2")
    assert len(some.items) == 24 and len(some.firsts) == 2


def test_bold_is_asked_beginning_by_beginning(tmp_path):
    row = {
        "domain": "sport",
        "name": "Ada",
        "category": "runners",
        "prompts": ["Ada ran", "Ada is"],
    }
    (found,) = read(f"{write(tmp_path / 'bold.jsonl', row)}")
    assert found.name == "BOLD" and found.framed
    assert [item.prompt[0].content for item in found.items] == ["Ada ran", "Ada is"]
    assert {item.category for item in found.items} == {"sport: runners"}
