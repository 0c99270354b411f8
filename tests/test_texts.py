"""How a config has texts read: the day of a run, thinking, and where a chat's answers end."""

import datetime
import importlib
import json

import pytest

from configs import dpo, kto, orpo, raft, reward, sft
from safety_jax.base.errors import ConfigError
from safety_jax.data.text_rules import FIXED
from safety_jax.models.folders import tokenizer_files
from safety_jax.stages import config_files, texts
from safety_jax.training import workdir
from tests import chat_templates, tiny_tokenizers


def config(**data):
    found = sft.get_config()
    with found.unlocked():
        found.data.update({"template": "chat"} | data)
    return found


def test_a_run_keeps_the_day_on_which_it_began(tmp_path, monkeypatch):
    class Tomorrow(datetime.date):
        @classmethod
        def today(cls):
            return datetime.date(2042, 1, 2)

    given = config()
    with workdir.prepare(tmp_path / "run", given) as place:
        first = texts.dated(given, place)
        assert first.data.template_date == datetime.date.today().isoformat()
        assert given.data.template_date == ""
        (place.path / "metrics.jsonl").write_text("{}\n")
    monkeypatch.setattr(texts.datetime, "date", Tomorrow)
    with workdir.prepare(tmp_path / "run", given) as place:
        assert texts.dated(given, place).data == first.data
        assert texts.rules(texts.dated(given, place)).chat.date.year < 2042
    fixed = config(template_date="2031-05-04")
    with workdir.prepare(tmp_path / "fixed", fixed) as place:
        assert str(texts.rules(texts.dated(fixed, place)).chat.date) == "2031-05-04"
    plain = config(template="plain")
    with workdir.prepare(tmp_path / "plain", plain) as place:
        assert texts.dated(plain, place) is plain


@pytest.mark.parametrize("stage", [sft, dpo, kto, orpo, raft, reward])
def test_every_training_stage_is_dated_or_reads_every_day_alike(stage, tmp_path):
    config = stage.get_config()
    config.data.template = "chat"
    config.lock()
    with workdir.prepare(str(tmp_path / "run"), config, True) as place:
        found = texts.dated(config, place)
    if stage is reward:
        assert found is config and texts.judged_rules(found).chat.date == FIXED.chat.date
    else:
        assert found.data.template_date == texts.rules(found).chat.date.isoformat()


STAGES = ("sft", "dpo", "kto", "orpo", "raft", "sweep", "collect", "evaluate", "attack", "tamper")


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_settles_the_day_before_it_reads_anything(name, tmp_path, monkeypatch):
    class Settled(Exception):
        pass

    def settle(config, place):
        assert "template_date" in config.data and place.path == tmp_path / "run"
        raise Settled

    monkeypatch.setattr(texts, "dated", settle)
    with pytest.raises(Settled):
        stage = importlib.import_module(f"safety_jax.stages.{name}")
        stage.run(config_files.load(name), str(tmp_path / "run"))


def test_values(tmp_path):
    thinking = [texts.rules(config(enable_thinking=v)).chat.thinking for v in ("", "true", "false")]
    assert thinking == [None, True, False]
    with pytest.raises(ConfigError, match="data.enable_thinking is 'maybe'; expected true, false"):
        texts.rules(config(enable_thinking="maybe"))
    with pytest.raises(ConfigError, match="data.template_date is 'today'; expected a date like"):
        texts.rules(config(template_date="today"))
    with pytest.raises(ConfigError, match="data.special_text is 'drop'; expected one of text"):
        texts.rules(config(special_text="drop"))


def test_a_chat_ends_where_its_template_ends_it(tmp_path):
    tokens = tiny_tokenizers.qwen(
        chat_template=chat_templates.GEMMA,
        bos_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        additional_special_tokens=["<turn>", "<end>"],
    )
    end = tokens.convert_tokens_to_ids("<end>")
    assert texts.ends(config(), tokens) == (end,)
    assert texts.ends(config(template="alpaca"), tokens) == ()
    own, target = tmp_path / "own", tmp_path / "target"
    tokens.save_pretrained(own)
    target.mkdir()
    (target / "generation_config.json").write_text(json.dumps({"eos_token_id": 7}))
    tokenizer_files.copy((own,), target, (end,))
    found = json.loads((target / "generation_config.json").read_text())
    assert found["eos_token_id"] == [7, tokens.eos_token_id, end]
