"""Answers of earlier runs, of the papers and of other tools are found, whatever their columns."""

import csv
import dataclasses
import json
import os
import statistics
from pathlib import Path

import pytest

from safety_jax.base.errors import ConfigError, DataError
from safety_jax.data.messages import Message
from safety_jax.evaluation.answers import existing, stored_scores
from safety_jax.evaluation.answers.existing import read_existing
from safety_jax.evaluation.answers.responses import recorded
from safety_jax.evaluation.sets.items import Item, Set
from safety_jax.evaluation.sets.reading import read_sets
from tests.evaluation_samples import answers, ask, numbered, prompts, write_lists
from tests.test_responses import KEY, PROTOCOL, open_file, replies
from tests.test_stored_scores import judge


@pytest.fixture
def asked():
    return numbered("I-CoNa", 10)


def test_names_that_no_file_can_have(tmp_path):
    asked = ask("a/b", "p")
    write_lists(tmp_path / "a%2Fb.json", prompt=["p"], response=["x"])
    assert read_existing(str(tmp_path), [asked], KEY, "row")["a/b"][0].text == "x"


def test_a_folder_of_a_run(tmp_path, asked):
    other = numbered("Q-Harm", 3)
    open_file(tmp_path / "I-CoNa.jsonl", asked).add(replies(asked, 0, 10))
    open_file(tmp_path / "Q-Harm.jsonl", other).add(replies(other, 0, 3))
    found = read_existing(str(tmp_path), [other, asked, numbered("Third", 1)], KEY, "row")
    assert list(found) == ["Q-Harm", "I-CoNa"]
    assert [(r.id, r.text, r.finish) for r in found["I-CoNa"]] == [
        (r.id, r.text, r.finish) for r in replies(asked, 0, 10)
    ]
    assert found["I-CoNa"][0].stored["template"] == "alpaca"
    assert recorded(found["I-CoNa"], asked) == PROTOCOL.of(asked)
    assert recorded(replies(asked, 0, 10), asked) is None
    changed = dataclasses.replace(found["I-CoNa"][0], stored={"template": "chat"})
    assert recorded([changed, *found["I-CoNa"][1:]], asked) is None
    assert found["I-CoNa"][2].where == "I-CoNa.jsonl line 3"
    edited = ask("I-CoNa", *prompts(asked)[:9], "edited")
    with pytest.raises(DataError, match=r"line 10: answers 'the prompt \w{16}' where .*'edited'"):
        read_existing(str(tmp_path), [edited], KEY, "row")
    with pytest.raises(ConfigError, match="no file is named after any of Third; it holds I-CoNa"):
        read_existing(str(tmp_path), [numbered("Third", 1)], KEY, "row")


def test_scores_of_three_files_come_together(tmp_path, asked):
    said = {"instructions": [f" {text}\n" for text in prompts(asked)], "outputs": answers(10)}
    write_lists(tmp_path / "responses_cm_I-CoNa.json", **said, verdict=["safe"] * 10, parameters={})
    write_lists(tmp_path / "responses_redteam_I-CoNa.json", **said, harm=list(range(10)))
    found = read_existing(str(tmp_path), [asked], KEY, "row")["I-CoNa"]
    assert found[3].stored == {"verdict": "safe", "harm": 3} and found[3].text == "answer 3"
    hashes = existing.existing_files(str(tmp_path), [asked], KEY)
    names = ("responses_cm_I-CoNa.json", "responses_redteam_I-CoNa.json")
    assert sorted(hashes) == [f"{tmp_path.name}/{name}" for name in names]
    assert all(len(value) == 64 for value in hashes.values())

    write_lists(tmp_path / "c_I-CoNa.json", **said, harm=[0, 0, *range(2, 10)])
    with pytest.raises(DataError, match="row 1: 'harm' differs from that in c_I-CoNa.json row 1"):
        read_existing(str(tmp_path), [asked], KEY, "row")
    said["outputs"][4] = "another"
    write_lists(tmp_path / "c_I-CoNa.json", **said)
    with pytest.raises(DataError, match="the answer to I-CoNa item 4 differs from that in c_I-"):
        read_existing(str(tmp_path), [asked], KEY, "row")


@pytest.mark.parametrize(
    "columns",
    [
        {"instruction": 0, "response": 1},
        {"instructions": 0, "outputs": 2, "model_responses": 1},
        {"prompt": 0, "completion": 1, "label": 2},
        {"question_stem": 2, "inference_prompt": 0, "generated_response": 1},
        {"goal": 0, "generation": 1},
    ],
)
@pytest.mark.parametrize("ending", ["json", "jsonl", "csv"])
def test_columns_are_recognised(tmp_path, asked, columns, ending):
    values = (prompts(asked), answers(10), ["other"] * 10)
    table = {name: values[place] for name, place in columns.items()}
    rows = [dict(zip(table, cells, strict=True)) for cells in zip(*table.values(), strict=True)]
    path = tmp_path / f"I-CoNa.{ending}"
    if ending == "json":
        path.write_text(json.dumps(table))
    elif ending == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(table))
            writer.writeheader()
            writer.writerows(rows)
    (found,) = read_existing(str(path), [asked], KEY, "row").values()
    assert [response.text for response in found] == answers(10)


def test_a_reference_is_not_taken_for_the_models_answer(tmp_path, asked):
    """Of `answer` and `output`, the gold answer was read as the model's, which was right then."""

    def write(gold: str, said: str) -> str:
        path = tmp_path / "I-CoNa.jsonl"
        rows = [
            {"prompt": prompt, gold: "the reference", said: f"answer {i}"}
            for i, prompt in enumerate(prompts(asked))
        ]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    def read(spec: str) -> str:
        return read_existing(spec, [asked], KEY, "row")["I-CoNa"][3].text

    assert read(write("answer", "model_output")) == "answer 3"
    path = write("answer", "output")
    with pytest.raises(DataError, match="'answer' or in 'output', and the other may be a refer"):
        read(path)
    assert read(f"{path}?columns=response:output") == "answer 3"
    assert read(f"{path}?columns=response:answer") == "the reference"
    path = write("output", "response")
    assert read(f"{path}?columns=response:response") == "answer 3"


def test_other_columns_by_name(tmp_path, asked):
    path = write_lists(
        tmp_path / "mine.json", asking=prompts(asked), said=answers(10), output=["no"] * 10,
        stop=["eos"] * 10,
    )  # fmt: skip
    spec = f"{path}?columns=prompt:asking,response:said,finish:stop"
    (found,) = read_existing(spec, [asked], KEY, "row").values()
    assert found[1].text == "answer 1" and found[1].finish == "eos"
    assert found[1].stored == {"output": "no"}
    with pytest.raises(
        ConfigError, match="nothing reads a column 'respons'; did you mean response"
    ):
        read_existing(f"{path}?columns=prompt:asking,respons:said", [asked], KEY, "row")
    with pytest.raises(DataError, match="mine.json row 0: no column of prompts: columns are ask"):
        read_existing(str(path), [asked], KEY, "row")
    path = write_lists(tmp_path / "mine.json", prompt=prompts(asked), told=answers(10))
    with pytest.raises(DataError, match="no column of answers.*or columns=model_resp|or columns="):
        read_existing(str(path), [asked], KEY, "row")


def test_context_and_turns_are_part_of_a_prompt(tmp_path):
    item = Item("0", (Message("user", "q"),), "", context="about")
    asked = Set("Alpaca-test", "reference", (item,), "", None, "")
    spec = str(write_lists(tmp_path / "x_alpaca_test.json", instructions=["q"], inputs=["about"],
                           outputs=["ref"], model_responses=["a"]))  # fmt: skip
    assert read_existing(spec, [asked], KEY, "row")["Alpaca-test"][0].stored == {"outputs": "ref"}
    with pytest.raises(DataError, match="row 0: answers 'q.*about' where Alpaca-test asks 'q'"):
        read_existing(spec, [ask("Alpaca-test", "q")], KEY, "row")
    turns = (Message("user", "a"), Message("assistant", "b"), Message("user", "c"))
    asked = Set("Turns", "safe", (Item("0", turns, ""),), "", None, "")
    said = [{"role": m.role, "content": m.content} for m in turns]
    path = tmp_path / "Turns.json"
    for row in (
        {"messages": [*said, {"role": "assistant", "content": "d"}]},
        {"prompt": said, "response": "d"},
    ):
        path.write_text(json.dumps([row]))
        assert read_existing(str(path), [asked], KEY, "row")["Turns"][0].text == "d"


def test_the_longest_name_tells_the_set(tmp_path):
    names = ("I-Alpaca", "Alpaca", "I-PhysicalSafetySafe", "Alpaca-test")
    sets = [numbered(name, 2) for name in names]
    for asked in sets:
        write_lists(
            tmp_path / f"dpo_{asked.name}_v1.json", prompt=prompts(asked), response=["", "x"]
        )
    write_lists(tmp_path / "LLAMAguard_results.json", model={"I-Alpaca.json": 1.0})
    found = read_existing(str(tmp_path), sets, KEY, "row")
    assert list(found) == [asked.name for asked in sets]
    assert found["Alpaca"][0].text == ""  # an answer may be empty


def test_a_file_that_says_which_set(tmp_path):
    one, two = numbered("One", 3), numbered("Two", 3)
    path = write_lists(tmp_path / "all.json", prompt=prompts(one), response=answers(3))
    assert list(read_existing(f"{path}?set=One", [one, two], KEY, "row")) == ["One"]
    assert list(read_existing(str(path), [one], KEY, "row")) == ["One"]  # only one is asked
    with pytest.raises(ConfigError, match="its name contains none of the sets; add .set= one of O"):
        read_existing(str(path), [one, two], KEY, "row")
    with pytest.raises(
        ConfigError, match="set=Three is not among the sets; expected one of One, Two"
    ):
        read_existing(f"{path}?set=Three", [one, two], KEY, "row")
    for option in ("rows=1", "weight=0.5", "times=2", "form=question", "prompts=1/2"):
        with pytest.raises(
            ConfigError, match="rows=, weight=, times=, form= and prompts= do not apply"
        ):
            read_existing(f"{path}?set=One&{option}", [one, two], KEY, "row")
    with pytest.raises(ConfigError, match="set= is an option of files"):
        read_existing(f"{tmp_path}?set=One", [one, two], KEY, "row")
    both = prompts(one)[:2] + prompts(two) + prompts(one)[2:]
    path = write_lists(
        tmp_path / "all.json", prompt=both, response=answers(6),
        set=["One", "One", "Two", "Two", "Two", "One"],
    )  # fmt: skip
    found = read_existing(str(path), [one, two], KEY, "row")
    assert [r.text for r in found["One"]] == ["answer 0", "answer 1", "answer 5"]
    with pytest.raises(DataError, match="its column 'set' holds One, Two; expected one of Three"):
        read_existing(str(path), [numbered("Three", 1)], KEY, "row")
    path.write_text(json.dumps([{"set": ["One"], "prompt": "p", "response": "r"}]))
    with pytest.raises(DataError, match=r"its column 'set' holds \['One'\]"):
        read_existing(str(path), [ask("Three", "p")], KEY, "row")


def test_halves_of_a_file_find_their_rows(tmp_path):
    texts = [f"case {i}" for i in range(6)]
    whole = ask("XSTest", *texts)
    safe, unsafe = (
        dataclasses.replace(whole, name=f"XSTest-{name}", items=whole.items[start::2])
        for start, name in enumerate(("safe", "unsafe"))
    )
    path = write_lists(tmp_path / "xstest_v2_completions.json", prompt=texts, completion=answers(6))
    found = read_existing(str(path), [safe, unsafe], KEY, "row")
    assert [r.text for r in found["XSTest-unsafe"]] == ["answer 1", "answer 3", "answer 5"]
    write_lists(tmp_path / "XSTest-safe.json", prompt=texts[::2], completion=answers(3))
    found = read_existing(str(tmp_path / "XSTest-safe.json"), [safe], KEY, "row")
    assert len(found["XSTest-safe"]) == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no rows"),
        (b"prompt,response\np,\xff\n", "line 2: cannot be read as UTF-8 .*broken_text=replace"),
        (b"prompt,response\np\n", "line 2: 1 cells; expected 2"),
        (b"prompt,response\n,a\n", "line 2: 'prompt' is empty"),
    ],
)
def test_broken_files(tmp_path, content, message):
    path = tmp_path / "answers.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_existing(str(path), [ask("S", "p")], KEY, "row")


def test_no_answer_is_left_out_for_the_asking(tmp_path):
    """Every prompt has an answer, so that leaving rows out is no way on."""
    path = tmp_path / "answers.jsonl"
    rows = [{"prompt": f"p{i}", "response": None if i == 1 else "a"} for i in range(3)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = ask("S", "p0", "p1", "p2")
    with pytest.raises(DataError, match="line 2: 'response' is null; .*; mend the row$"):
        read_existing(str(path), [asked], KEY, "row")
    for match in ("row", "prompt"):
        with pytest.raises(DataError, match=r"\(1 rows were left out by bad_rows=skip, the first"):
            read_existing(f"{path}?bad_rows=skip", [asked], KEY, match)
    (found,) = read_existing(f"{path}?bad_rows=skip", [ask("S", "p0", "p2")], KEY, "row").values()
    assert len(found) == 2


def test_hostile_files(tmp_path):
    asked = ask("S", *[f"p{i}" for i in range(2_000)])
    path = tmp_path / "answers.csv"
    odd = {0: "=cmd()", 1: "\u202e<script>\u200b", 2: "line\nbreak", 3: "x" * 10**6}
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file)
        writer.writerow(("prompt", "response"))
        writer.writerows((f"p{i}", odd.get(i, "")) for i in range(2_000))
    (found,) = read_existing(str(path), [asked], KEY, "row").values()
    assert [found[i].text for i in odd] == list(odd.values()) and found[1999].text == ""
    path.write_bytes(b"prompt,response\np0,\xff!\n")
    (found,) = read_existing(f"{path}?broken_text=replace", [ask("S", "p0")], KEY, "row").values()
    assert found[0].text == "\ufffd!"
    path = tmp_path / "answers.json"
    path.write_text('[{"prompt": "p0", "response": "\\ud800!"}]')
    (found,) = read_existing(f"{path}?broken_text=replace", [ask("S", "p0")], KEY, "row").values()
    assert found[0].text == "\ufffd!"


# ---------------------------------------------------------------------------- real files


@pytest.fixture(scope="module")
def shared():
    return Path(os.environ["SAFETY_JAX_SHARED"]) / "data"


@pytest.mark.real_data
def test_the_papers_table_comes_out_again(shared):
    """The row n = 100 of Safe to Serve (arXiv 2412.00074), from the files of its authors."""
    names = ("I-CoNa", "I-MaliciousInstructions", "I-Controversial")
    sets = read_sets(names, str(shared), KEY, 0)
    found = read_existing(str(shared / "safe_to_serve/sit/safety_100"), sets, KEY, "row")
    guard = judge(threshold=(0.5,), column="llama_guard_response")
    safe = {
        name: sum(
            guard.is_unsafe(score) is False for score in stored_scores.scores(guard, responses)
        )
        for name, responses in found.items()
    }
    assert safe == {"I-CoNa": 116, "I-MaliciousInstructions": 65, "I-Controversial": 28}
    for column, medians in (
        ("harmfulness_score", (1.35, 1.06, 1.43)),
        ("deberta_score", (-2.02, -2.38, -1.52)),
    ):
        card = judge(column=column)
        scores = [stored_scores.scores(card, found[name]) for name in names]
        assert tuple(round(statistics.median(s.value for s in row), 2) for row in scores) == medians


@pytest.mark.real_data
def test_the_papers_other_files(shared):
    names = ("I-Alpaca", "I-MaliciousInstructions", "I-Controversial", "I-PhysicalSafety",
             "Alpaca-test", "OBQA")  # fmt: skip
    sets = read_sets(names, str(shared), KEY, 0)
    found = read_existing(str(shared / "safe_to_serve/dpo"), sets, KEY, "row")
    assert {name: len(responses) for name, responses in found.items()} == {
        "I-Alpaca": 50, "I-MaliciousInstructions": 100, "I-Controversial": 40,
        "I-PhysicalSafetySafe": 100, "I-PhysicalSafetyUnsafe": 100, "Alpaca-test": 952,
    }  # fmt: skip
    path = shared / "safe_to_serve/helpfulness/obqa_100_safety.csv"
    (answered,) = read_existing(str(path), sets, KEY, "row").values()
    right = [item.reference for item in sets[-1].items]
    hits = sum(r.stored["predicted_label"] == a for r, a in zip(answered, right, strict=True))
    assert round(100 * hits / len(right), 2) == 33.44


@pytest.mark.real_data
def test_completions_of_an_earlier_edition_are_refused(shared):
    """One prompt of XSTest was reworded after these completions were made."""
    folder = shared / "xstest/automated_evaluation_labels"
    path = folder / "xstest_v2_completions_llama2orig_gpteval.csv"
    sets = read_sets(["XSTest"], str(shared), KEY, 0)
    with pytest.raises(DataError, match="line 1230: .*1 of 200 rows have another prompt"):
        read_existing(str(path), sets, KEY, "row")
    own = read_sets([f"{path}?as=XSTest"], "", KEY, 0)  # its own prompts as the set
    found = read_existing(str(path), own, KEY, "row")
    assert [len(found[name]) for name in ("XSTest-safe", "XSTest-unsafe")] == [250, 200]
    assert found["XSTest-safe"][0].stored["final_label"] == "2_full_refusal"
