"""Evaluation sets by name and by file; what is wrong with one takes one line to say."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from safety_jax.base.errors import ConfigError, DataError
from safety_jax.data.sources import open_source
from safety_jax.evaluation.sets import catalogue, subsets
from safety_jax.evaluation.sets.items import REFERENCE, SAFE, UNSAFE
from safety_jax.evaluation.sets.reading import read_sets
from tests.evaluation_samples import numbered, write_csv, write_lists

KEY = "evaluate.sets"


def read(*specs, folder="", seed=0):
    return read_sets(specs, str(folder), KEY, seed)


@pytest.fixture
def data(tmp_path):
    """The layout of the original repositories, with rows of our own."""
    place = tmp_path / "safety-tuned-llamas/data/evaluation"
    write_lists(place / "I-CoNa.json", instructions=[f"cona {i}" for i in range(9)], inputs=[])
    write_lists(
        place / "I-MaliciousInstructions.json", instructions=["a", "a", "b"], tags=["x", "y", "x"]
    )
    for name in ("Safe", "Unsafe"):
        write_lists(place / f"I-PhysicalSafety{name}.json", instructions=[f"{name} 0", f"{name} 1"])
    write_csv(
        tmp_path / "exaggerated-safety/xstest_prompts.csv",
        ("id", "prompt", "type", "label", "note"),
        ("v2-1", "kill a process?", "homonyms", "safe", ""),
        ("v2-2", "kill a person?", "contrast_homonyms", "unsafe", "x"),
        ("v2-3", "kill time?", "homonyms", "safe", "two\nlines"),
    )
    write_csv(
        tmp_path / "HarmBench/data/harmbench_behaviors_text_all.csv",
        ("Behavior", "FunctionalCategory", "SemanticCategory", "ContextString", "BehaviorID"),
        ("do s", "standard", "illegal", "", "s_one"),
        ("do c", "contextual", "cybercrime", "a page", "c_one"),
        ("sing r", "copyright", "copyright", "", "r_one"),
    )
    return tmp_path


def test_sets_by_name(data):
    cona, malicious, safe, unsafe = read(
        "i-cona", "I-MaliciousInstructions", "I-PhysicalSafety", folder=data
    )
    assert (cona.name, cona.kind, len(cona.items), cona.rows) == ("I-CoNa", UNSAFE, 9, 9)
    assert [item.id for item in cona.items] == [str(i) for i in range(9)]
    assert cona.items[3].prompt[0].content == "cona 3"
    assert cona.items[3].where == "I-CoNa.json row 3"
    file = data / "safety-tuned-llamas/data/evaluation/I-CoNa.json"
    assert cona.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert [item.category for item in malicious.items] == ["x", "y", "x"]
    assert "CC BY-NC" in malicious.licence
    assert (safe.kind, safe.twin, unsafe.kind) == (SAFE, unsafe.name, UNSAFE)
    assert [item.twin for item in safe.items] == [item.id for item in unsafe.items]


def test_rows_of_a_set_are_those_of_its_twins(tmp_path):
    """Each drew its own rows before, so that few pairs were left."""
    for name in ("Safe", "Unsafe"):
        file = tmp_path / f"evaluation/I-PhysicalSafety{name}.json"
        write_lists(file, instructions=[f"{name} {i}" for i in range(40)])
    safe, unsafe = read("I-PhysicalSafety?rows=9", folder=tmp_path)
    assert len(safe.items) == 9 and safe.items[0].prompt[0].content.startswith("Safe")
    assert [item.twin for item in safe.items] == [item.id for item in unsafe.items]
    # Of two files of one's own, one names the other.
    for name in ("asked", "wished"):
        rows = [{"prompt": f"{name} {i}", "id": i, "twin": i} for i in range(40)]
        (tmp_path / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    asked, wished = read(
        f"{tmp_path}/asked.jsonl?kind=unsafe&rows=9",
        f"{tmp_path}/wished.jsonl?kind=unsafe&rows=9&twin=asked",
    )
    assert [item.twin for item in wished.items] == [item.id for item in asked.items]


def test_names_as_a_flag_joins_them(data):
    found = read("I-CoNa?rows=2,xstest", folder=data)
    assert [asked.name for asked in found] == ["I-CoNa", "XSTest-safe", "XSTest-unsafe"]
    with pytest.raises(ConfigError, match="I-CoNa,QHarm has no kind"):
        read("I-CoNa,QHarm", folder=data)


def test_halves_of_a_file(data):
    safe, unsafe = read("XSTest", folder=data)
    assert (safe.name, safe.kind, unsafe.name, unsafe.kind) == (
        "XSTest-safe", SAFE, "XSTest-unsafe", UNSAFE,
    )  # fmt: skip
    assert [item.id for item in safe.items] == ["v2-1", "v2-3"]
    assert [item.row for item in safe.items] == [0, 2] and safe.rows == 3
    assert {item.category for item in unsafe.items} == {"contrast_homonyms"}
    assert safe.sha256 == unsafe.sha256 and safe.items_sha256 != unsafe.items_sha256
    assert [s.name for s in read("XSTest-unsafe", folder=data)] == ["XSTest-unsafe"]


def test_a_copy_without_its_types_is_not_all_safe(tmp_path):
    """Its unsafe prompts would count as safe, and refusals of them as over-refusals."""
    file = tmp_path / "copy.csv"
    rows = [("kill time?", "homonyms"), ("kill a person?", "contrast_homonyms")]
    write_csv(file, ("prompt", "kind of prompt"), *rows)
    with pytest.raises(DataError, match="copy.csv line 2: no column 'type' says which.*columns=ty"):
        read(f"{file}?as=XSTest-safe")
    (safe,) = read(f"{file}?as=XSTest-safe&columns=type:kind of prompt")
    assert [item.prompt[0].content for item in safe.items] == ["kill time?"]
    assert safe.items[0].category == "homonyms"
    both = read(f"{file}?as=XSTest&columns=type:kind of prompt,category:kind of prompt")
    assert [len(one.items) for one in both] == [1, 1]
    write_csv(file, ("prompt", "type"), ("kill time?", ""))
    with pytest.raises(DataError, match="copy.csv line 2: 'type' is empty; mend the row"):
        read(f"{file}?as=XSTest-safe")


def test_known_answers_that_spell_lists_are_told(tmp_path):
    """As PopQA has them: compared as one text, none would ever be given."""
    file = tmp_path / "facts.jsonl"
    for spelled, lines in ((['["a", "b"]', "['a' 'b']"], 1), (['["a", "b"]', "a|b"], 0)):
        rows = [{"prompt": f"{i}?", "reference": one} for i, one in enumerate(spelled)]
        file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        (facts,) = read(f"{file}?kind=answer")
        told = 'warning: every known answer of facts spells a list (["a", "b"]) and is compared as'
        assert [line.startswith(told) for line in facts.remarks] == [True] * lines


def test_harmbench_asks_with_its_context(data):
    standard, contextual = read("HarmBench", "HarmBench-contextual", folder=data)
    assert standard.name == "HarmBench-standard"
    assert [(i.id, i.category) for i in standard.items] == [("s_one", "illegal")]
    assert contextual.items[0].prompt[0].content == "a page\n\n---\n\ndo c"


@pytest.mark.parametrize("header", [("goal", "target"), ("target", "goal")])
def test_advbench_whichever_way_its_columns_are_called(tmp_path, header):
    rows = [(f"Do {i}", f"Sure, here is {i}") for i in range(2)]
    write_csv(tmp_path / "harmful_behaviors.csv", header, *rows)
    (found,) = read("AdvBench", folder=tmp_path)
    assert [item.prompt[0].content for item in found.items] == ["Do 0", "Do 1"]
    write_csv(tmp_path / "mine.csv", ("prompt", "x"), *rows)
    with pytest.raises(DataError, match="mine.csv line 2: 'goal' is missing"):
        read(f"{tmp_path}/mine.csv?as=AdvBench")


def test_rows_are_drawn_by_seed_and_keep_their_numbers(data):
    few, again, other = (
        read("I-CoNa?rows=4", folder=data, seed=seed)[0].items for seed in (1, 1, 2)
    )
    assert few == again != other and len(few) == 4
    assert [int(item.id) for item in few] == sorted(item.row for item in few)
    whole, named = read("I-CoNa", "I-CoNa?rows=4&name=few", folder=data)
    assert named.name == "few" and named.rows == 9 and set(named.items) < set(whole.items)


def test_a_file_that_is_known_by_its_name(data):
    path = data / "safety-tuned-llamas/data/evaluation/I-CoNa.json"
    (found,) = read(str(path))
    assert (found.name, found.kind) == ("I-CoNa", UNSAFE)
    copy = path.rename(data / "copy.json")
    assert read(f"{copy}?as=I-CoNa")[0].items[1].id == "1"
    with pytest.raises(ConfigError, match="has no kind; expected a name .*with .kind= one of"):
        read(str(copy))
    with pytest.raises(ConfigError, match="no set is called 'cona'; known are I-Alpaca"):
        read(f"{copy}?as=cona")


def test_a_file_of_ones_own(tmp_path):
    path = write_csv(
        tmp_path / "mine.csv",
        ("question", "topic", "nr", "answer", "other"),
        ("how?", "tools", 7, "so", "a"),
        ("why\nso?", "", 8, "for", "b"),
    )
    columns = "columns=prompt:question,category:topic,id:nr"
    mine = f"{path}?kind=unsafe&{columns},twin:other&twin=theirs&licence=CC0"
    found, _ = read(mine, f"{path}?kind=safe&{columns}&name=theirs")
    assert (found.name, found.kind, found.twin, found.licence) == ("mine", UNSAFE, "theirs", "CC0")
    with pytest.raises(
        ConfigError, match="nothing reads a column 'categry'; expected one of .*cat"
    ):
        read(f"{path}?kind=unsafe&columns=prompt:question,categry:topic")
    with pytest.raises(ConfigError, match="twin=theirs is not among the sets; .* of mine"):
        read(mine)
    assert [(i.id, i.category, i.twin) for i in found.items] == [
        ("7", "tools", "a"),
        ("8", "", "b"),
    ]
    assert found.items[1].prompt[0].content == "why\nso?"
    (found,) = read(f"{path}?kind=reference&{columns},reference:answer&name=r")
    assert [item.reference for item in found.items] == ["so", "for"]
    assert found.licence.startswith("not stated") and found.kind == REFERENCE


def test_references_of_known_formats(tmp_path):
    rows = [{"instruction": "q", "input": "about", "output": "a"}]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows))
    (found,) = read(f"{path}?kind=reference")
    (item,) = found.items
    assert (item.reference, item.context) == ("a", "about")
    assert item.record().context == "about"
    assert item.conversation("x").prompt[0].content == "q\n\nabout"
    path.write_text(json.dumps([{"prompt": "q"}]))
    with pytest.raises(DataError, match="name its column by columns=reference:COLUMN"):
        read(f"{path}?kind=reference")


def test_dialogues_are_prompts(tmp_path):
    turns = [("system", "be kind"), ("user", "hi"), ("assistant", "hello"), ("user", "how?")]
    messages = [{"role": role, "content": text} for role, text in turns]
    path = tmp_path / "turns.jsonl"
    path.write_text(json.dumps({"messages": messages}) + "\n")
    (found,) = read(f"{path}?kind=safe")
    assert [(m.role, m.content) for m in found.items[0].prompt] == turns


# ---------------------------------------------------------------------------- what is wrong


def test_names_that_cannot_be_found(data):
    with pytest.raises(ConfigError, match="evaluate.sets is empty; expected names of sets .I-Alp"):
        read()
    with pytest.raises(ConfigError, match="Q-Harm: no file .*Q-Harm.json below .*comes from data"):
        read("Q-Harm", folder=data)
    with pytest.raises(ConfigError, match="below any folder, because none is given"):
        read("Q-Harm")
    with pytest.raises(ConfigError, match="the folder nowhere with their files does not exist"):
        read("Q-Harm", folder="nowhere")
    with pytest.raises(ConfigError, match="two sets are named I-CoNa; add .name="):
        read("I-CoNa", "I-CoNa?rows=3", folder=data)
    with pytest.raises(ConfigError, match="XSTest.name=x is 2 sets"):
        read("XSTest?name=x", folder=data)
    with pytest.raises(ConfigError, match="10 rows asked for; expected at most the 9"):
        read("I-CoNa?rows=10", folder=data)
    with pytest.raises(ConfigError, match="unknown option 'row'; known are rows.*kind, as, lic"):
        read("I-CoNa?row=10", folder=data)
    with pytest.raises(ConfigError, match="a weight has no meaning here"):
        read("I-CoNa?weight=0.5", folder=data)


def test_two_files_of_one_name(data):
    first = data / "safety-tuned-llamas/data/evaluation/I-CoNa.json"
    second = write_lists(data / "other/evaluation/I-CoNa.json", instructions=["x"])
    with pytest.raises(ConfigError, match=r"I-CoNa differs between .* and .*as=I-CoNa"):
        read("I-CoNa", folder=data)
    second.write_bytes(first.read_bytes())
    assert len(read("I-CoNa", folder=data)[0].items) == 9
    # Answers that are called like the set lie elsewhere, and are not taken for it.
    write_lists(second.parent.parent / "dpo/I-CoNa.json", instruction=["x"], response=["y"])
    assert len(read("I-CoNa", folder=data)[0].items) == 9


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no rows"),
        (b"id,prompt\n1,a\n1,b\n", "line 3: the id '1' is also that of mine.csv line 2"),
        (b"id,prompt\n1,a\n2,\n", "line 3: 'prompt' is empty"),
        (b"id,text\n1,a\n", "'text' does not begin|columns found: id, text"),
        (b"id,prompt\n1,a\xff\n", "line 2: cannot be read as UTF-8"),
        (b'id,prompt\n1,"a\n', "line 2: broken CSV"),
        (b"id,prompt\n1,a,b\n", "line 2: 3 cells; expected 2"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, content, message):
    path = tmp_path / "mine.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        read(f"{path}?kind=unsafe")
    assert "\n" not in str(error.value)


def test_odd_text_is_kept(tmp_path):
    odd = [
        "\u202eright to left\u202c",
        "a\u200bb\ufeff",
        "<script>alert(1)</script>",
        "=1+1",
        "x" * 10**6,
    ]
    path = write_csv(tmp_path / "odd.csv", ("prompt",), *[(text,) for text in odd])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    (found,) = read(f"{path}?kind=unsafe")
    assert [item.prompt[0].content for item in found.items] == odd
    path.write_bytes(b"prompt\n\xffbroken\n")
    (found,) = read(f"{path}?kind=unsafe&broken_text=replace")
    assert found.items[0].prompt[0].content == "\ufffdbroken"


def test_many_rows(tmp_path):
    path = write_csv(tmp_path / "many.csv", ("prompt",), *[(f"prompt {i}",) for i in range(10_000)])
    (found,) = read(f"{path}?kind=unsafe")
    assert len(found.items) == 10_000 and found.items[-1].id == "9999"


def test_rows_that_are_left_out_keep_the_numbers_of_others(tmp_path):
    path = write_csv(tmp_path / "gap.csv", ("prompt",), ("a",), (" ",), ("c",))
    (found,) = read(f"{path}?kind=unsafe&bad_rows=skip")
    assert [item.id for item in found.items] == ["0", "2"]
    assert found.unusable == 1 and found.formless == 0


def test_prompts_that_leave_one_model_no_room_are_left_out_for_all():
    sets = [numbered("one", 4), numbered("two", 2)]
    lengths = {"a": {"one": [3, 9, 4, 2], "two": [1, 1]}, "b": {"one": [4, 4, 4, 8], "two": [2, 2]}}
    rooms = {"a": {"one": 5, "two": 5}, "b": {"one": 6, "two": 2}}
    places = subsets.without_overlong(sets, lengths, rooms, "do less")
    assert places == {"one": [0, 2], "two": [0, 1]}
    kept, answers = subsets.keep(sets, {"c": {"one": [10, 11, 12, 13]}}, places)
    assert [item.id for item in kept[0].items] == ["0", "2"] and len(kept[1].items) == 2
    assert answers == {"c": {"one": [10, 12]}}
    with pytest.raises(DataError, match="every prompt is longer than the 1 tokens .*; do less"):
        subsets.without_overlong(sets, lengths, {**rooms, "b": {"one": 6, "two": 1}}, "do less")


def test_the_catalogue_is_whole():
    for name, members in catalogue.GROUPS.items():
        assert all(member in catalogue.CATALOGUE for member in members), name
    for entry in catalogue.CATALOGUE.values():
        assert entry.licence and (entry.files or entry.source) and (entry.origin or entry.source), (
            entry.name
        )
        assert entry.kind in catalogue.KINDS
        assert not entry.twin or catalogue.CATALOGUE[entry.twin].twin == entry.name


# ---------------------------------------------------------------------------- real files


@pytest.mark.real_data
def test_the_papers_sets():
    shared = Path(os.environ["SAFETY_JAX_SHARED"]) / "data"
    counts = {
        "I-Alpaca": 50, "I-CoNa": 178, "I-Controversial": 40, "I-MaliciousInstructions": 100,
        "I-PhysicalSafetySafe": 100, "I-PhysicalSafetyUnsafe": 100, "Q-Harm": 100,
        "XSTest-safe": 250, "XSTest-unsafe": 200, "AdvBench": 520, "HarmBench-standard": 200,
        "HarmBench-contextual": 100, "HarmBench-copyright": 100, "Alpaca-test": 952,
        "MT-Bench": 80, "Dolly": 1000, "OpenBookQA": 5457,
    }  # fmt: skip
    found = {asked.name: asked for asked in read(*counts, folder=shared)}
    assert {name: len(asked.items) for name, asked in found.items()} == counts
    assert {i.category for i in found["I-MaliciousInstructions"].items} == {"hate", "crime"}
    assert not any(i.prompt[0].content.startswith("Sure") for i in found["AdvBench"].items)
    assert len({i.category for i in found["XSTest-safe"].items}) == 10
    assert all("---" in i.prompt[0].content for i in found["HarmBench-contextual"].items)
    assert all(i.reference for i in found["Alpaca-test"].items)
    # Our wording is the one that the paper's answers were made with.
    rows = open_source(str(shared / "safe_to_serve/helpfulness/obqa_100_safety.csv")).rows
    asked = [item.prompt[0].content for item in found["OpenBookQA"].items]
    assert asked == [row["inference_prompt"] for row in rows]
