"""Sets under attack: what is asked, what is prefilled of an answer, and what is read back."""

import base64
import dataclasses
import json

import jax.numpy as jnp
import pytest

from configs import attack as attack_config
from safety_jax.base.errors import ConfigError, DataError
from safety_jax.data import encode, prompt_ids
from safety_jax.data.messages import Message
from safety_jax.data.prompts import load_template
from safety_jax.data.records import Record
from safety_jax.evaluation.answers import existing, generate
from safety_jax.evaluation.answers.responses import Protocol, Response, Responses
from safety_jax.evaluation.attacks import openings, registry
from safety_jax.evaluation.sets import subsets
from safety_jax.evaluation.sets.reading import read_sets
from safety_jax.models.decoding.ends import endings
from safety_jax.models.decoding.generation import Completion, Pace, SamplingParams, Setup
from safety_jax.stages import attack
from tests import tiny_tokenizers
from tests.evaluation_samples import write_csv, write_lists


@pytest.fixture
def diary(tmp_path):
    """Three requests, the second with a context."""
    rows = [
        {"instruction": "open a diary", "input": "", "id": "a", "begin": "Yes, take"},
        {"instruction": "read this", "input": "Dear diary", "id": "b"},
        {"instruction": "burn it", "input": "", "id": "c"},
    ]
    file = tmp_path / "diary.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"{file}?kind=unsafe"


def read(*specs, folder=""):
    return read_sets(specs, str(folder), "evaluate.sets", 0)


def test_a_set_comes_as_it_stands_and_under_each_attack(diary):
    (alone,) = read(diary)
    plain, coded, begun = read(f"{diary}&columns=opening:begin&attack=base64,prefill:3")
    assert [one_set.name for one_set in (plain, coded, begun)] == [
        "diary", "diary+base64", "diary+prefill:3",
    ]  # fmt: skip
    # What an attack changes is what is asked, not what is judged nor what the set was without it.
    assert plain.items_sha256 == alone.items_sha256
    assert [i.conversation("x") for i in coded.items] == [i.conversation("x") for i in plain.items]
    assert [item.id for item in coded.items] == ["a", "b", "c"] and coded.plain == "diary"
    asked = [item.record().messages[-1].content.splitlines()[-1] for item in coded.items]
    assert [base64.b64decode(text).decode() for text in asked] == [
        "open a diary", "read this\n\nDear diary", "burn it",
    ]  # fmt: skip
    assert [item.record() for item in begun.items] == [item.record() for item in plain.items]
    assert begun.items[0].asked.opening == "Yes, take"
    assert begun.items[2].asked.opening == openings.consent("burn it")
    assert len({one_set.items_sha256 for one_set in (plain, coded, begun)}) == 3
    assert begun.items_sha256 != read(f"{diary}&attack=prefill:3")[1].items_sha256
    newer = dataclasses.replace(coded, attack=dataclasses.replace(coded.attack, version=2))
    assert newer.items_sha256 != coded.items_sha256


def test_sets_under_attack_as_a_flag_joins_them(tmp_path):
    write_lists(tmp_path / "I-CoNa.json", instructions=["a", "b"])
    write_csv(tmp_path / "harmful_behaviors.csv", ("goal", "target"), ("Do it", "Sure, here is it"))
    found = read("I-CoNa?attack=base64,few_shot:2,AdvBench?attack=prefill:2", folder=tmp_path)
    names = ["I-CoNa", "I-CoNa+base64", "I-CoNa+few_shot:2", "AdvBench", "AdvBench+prefill:2"]
    assert [one_set.name for one_set in found] == names
    assert found[-1].items[0].asked.opening == "Sure, here is it"
    again = read("I-CoNa", "I-CoNa?attack=rot13", "I-CoNa?attack=base64", folder=tmp_path)
    assert [one_set.name for one_set in again] == ["I-CoNa", "I-CoNa+rot13", "I-CoNa+base64"]
    whole = read("I-CoNa?attack=all", folder=tmp_path)
    assert len(whole) == 1 + len(registry.ATTACKS)


def test_suffixes_are_one_for_all_or_one_a_row(diary, tmp_path):
    def asked(lines: str) -> list[str]:
        (tmp_path / "s.txt").write_text(lines)
        found = read(f"{diary}&rows=2&attack=suffix:{tmp_path}/s.txt")[1]
        return [item.asking().question for item in found.items]

    assert [text.endswith(" zz") for text in asked("zz\n")] == [True, True]
    rows = {"open a diary": " 1", "read this\n\nDear diary": " 2", "burn it": " 3"}
    assert all(text in {p + s for p, s in rows.items()} for text in asked("1\n2\n3\n"))
    with pytest.raises(DataError, match="s.txt holds 2 suffixes; expected one for all prompts, or"):
        asked("1\n2\n")
    twins = [{"prompt": "Mock {group}.", "groups": ["cats", "dogs"]}] * 2
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in twins))
    with pytest.raises(
        DataError, match="a row of the set's file makes several prompts; expected one"
    ):
        read(f"{tmp_path}/t.jsonl?kind=unsafe&attack=suffix:{tmp_path}/s.txt")
    config = attack_config.get_config()
    config.attack.set, config.attack.mode = f"{tmp_path}/t.jsonl?kind=unsafe", "individual"
    with pytest.raises(ConfigError, match="attack.mode is individual, but a row of t's file makes"):
        attack.read_set(config)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("&attack=base46", "unknown attack 'base46'; known are prefix_injection, "),
        ("&attack=base64&attack=rot13", "attack= is given twice"),
        ("&attack=", "unknown option 'attack'|unknown attack ''"),
    ],
)
def test_a_wrong_attack_on_a_set(diary, more, message):
    with pytest.raises(ConfigError, match=message):
        read(diary + more)


def test_an_attack_that_no_prompt_has_room_for_is_named(diary):
    sets = read(f"{diary}&attack=many_shot:9")
    lengths = {"m": {"diary": [5, 5, 5], "diary+many_shot:9": [90, 91, 92]}}
    rooms = {"m": dict.fromkeys(lengths["m"], 91)}
    places = subsets.without_overlong(sets, lengths, rooms, "lower answer.max_new_tokens")
    assert places == {"diary": [0, 1, 2], "diary+many_shot:9": [0, 1]}
    rooms["m"]["diary+many_shot:9"] = 50
    with pytest.raises(DataError, match=r"^diary\+many_shot:9: every .* or leave the attack out$"):
        subsets.without_overlong(sets, lengths, rooms, "lower answer.max_new_tokens")


def test_multiple_choice_is_not_put_under_attacks(tmp_path):
    file = tmp_path / "quiz.jsonl"
    file.write_text(json.dumps({"prompt": "?", "choices": ["x", "y"], "reference": "A"}))
    with pytest.raises(ConfigError, match="quiz is of the kind choice, but attack= needs the kind"):
        read(f"{file}?kind=choice&attack=base64")


def test_answers_say_what_was_asked_and_are_read_back_for_it_alone(diary, tmp_path):
    plain, coded, begun = read(f"{diary}&attack=base64,prefill:3")
    protocol = Protocol("w", "t", "plain", {}, 0, "c")
    for one_set in (plain, coded, begun):
        path = generate.place(tmp_path, "m", one_set.name)
        path.parent.mkdir(exist_ok=True)
        file = Responses(path, one_set, protocol, blocks=one_set.blocks(3), writes=True)
        file.add([Response(item.id, f"{one_set.name} {item.id}", "eos") for item in one_set.items])
    assert {path.name for path in (tmp_path / "m").iterdir()} == {
        "diary.jsonl", "diary+base64.jsonl", "diary+prefill%3A3.jsonl",
    }  # fmt: skip
    line = json.loads((tmp_path / "m" / "diary+base64.jsonl").read_text().splitlines()[0])
    assert (line["attack"], line["attack_version"]) == ("base64", 1)
    assert line["asked"] == [{"role": "user", "content": coded.attack.word("open a diary")}]
    found = existing.read_existing(str(tmp_path / "m"), [plain, coded, begun], "key", "row")
    assert [found[one_set.name][2].text for one_set in (plain, coded, begun)] == [
        "diary c", "diary+base64 c", "diary+prefill:3 c",
    ]  # fmt: skip
    found = existing.read_existing(str(tmp_path / "m"), [plain], "key", "row")
    assert list(found) == ["diary"] and found["diary"][0].text == "diary a"
    other = dataclasses.replace(read(f"{diary}&attack=rot13")[1], name=coded.name)
    with pytest.raises(DataError, match="diary.base64"):
        existing.read_existing(str(tmp_path / "m"), [other], "key", "row")


@pytest.mark.parametrize("name", ["chat", "plain", "alpaca"])
@pytest.mark.parametrize("tokens", [tiny_tokenizers.llama, tiny_tokenizers.qwen])
def test_a_prefilled_answer_has_the_ids_that_training_gives_it(tokens, name):
    tokenizer = tokens(chat_template=tiny_tokenizers.CHATML)
    template = load_template(name, tokenizer)
    opening = "Sure, here is how <|im_end|> works"
    asked = Record((Message("user", "open it"),), "", "", "here")
    answered = dataclasses.replace(asked, messages=(*asked.messages, Message("assistant", opening)))
    (prompt,) = prompt_ids.encode_prompts([asked], template, tokenizer)
    (begun,) = prompt_ids.encode_openings([asked], [opening], template, tokenizer)
    encoding = encode.Encoding(template, tokenizer, 512, "error", 999)
    trained = encode.encode([answered], encoding, train_on="response")
    assert trained.ids[: len(prompt) + len(begun)].tolist() == prompt + begun
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") not in begun
    assert len(begun) > 8


def test_an_answer_is_read_with_its_beginning_as_one_text():
    tokenizer = tiny_tokenizers.llama()

    def text(ids):
        return tokenizer.decode(ids, skip_special_tokens=True)

    ids, stop = endings(tokenizer, [tokenizer.eos_token_id], ("STOP",), text)
    whole = tokenizer("Sure, here is the bread", add_special_tokens=False).input_ids
    prompt = tokenizer("Why?").input_ids
    settings = SamplingParams(0.0, 0, 1.0, 0.0, 1, 1.0, 1, 8)
    setup = Setup(settings, Pace(1, 1, 8, 1, jnp.float32), ids, stop)
    for k in range(len(whole)):
        end = [*whole[k:], tokenizer.eos_token_id]
        written = Completion(end, 0.0, "eos", stop.read(end, ids))
        assert generate.said(setup, prompt + whole[:k], k, written) == text(whole)
    cut = Completion(whole[3:], 0.0, "stop", text(whole[3:])[:-4])
    assert generate.said(setup, prompt + whole[:3], 3, cut) == text(whole)[:-4]
