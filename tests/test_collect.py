"""Stage `collect` as a user runs it: what it writes, what it leaves out, going on after a kill."""

import json
from pathlib import Path

import pytest
import transformers

from configs import collect as collect_config
from safety_jax.base.errors import ConfigError
from safety_jax.stages import collect
from tests.test_end_to_end import inputs  # noqa: F401
from tests.test_raft import given, read_lines  # noqa: F401

MODEL = Path(__file__).parent.parent / "launch/demo/model"


def configure(given: Path, **overrides):  # noqa: F811
    config = collect_config.get_config()
    settings = {
        "model.path": str(given / "model"),
        "model.parameter_dtype": "float32",
        "model.compute_dtype": "float32",
        "data.demonstrations": (f"{given}/unsafe.jsonl",),
        "data.ordinary": (f"{given}/ordinary.jsonl",),
        "data.template": "plain",
        "data.max_length": 64,
        "answer.candidates": 2,
        "answer.max_new_tokens": 12,
        "sample.lanes": 16,
        "sample.prefill_tokens": 64,
        "sample.bucket_tokens": 64,
        "sample.chunk_steps": 6,
        "sample.cache_dtype": "float32",
        "sample.prompts_per_write": 8,
    } | overrides
    config.update_from_flattened_dict(settings)
    return config.lock()


def test_answers_become_pairs_kept_and_labelled_answers(given, tmp_path, capsys):  # noqa: F811
    """Random words refuse nothing: every answer to the unsafe prompts is unsafe by `complies`."""
    first = read_lines(given / "ordinary.jsonl")[0]["instruction"]
    (tmp_path / "tests.jsonl").write_text(json.dumps({"prompt": first}) + "\n")
    tests = str(tmp_path / "tests.jsonl")
    config = configure(given, **{"data.decontaminate": (tests,)})
    folder = tmp_path / "own"
    collect.run(config, str(folder))
    said = capsys.readouterr().out
    assert "\n1 prompts are left out: unusable or not to be learned\n" in said
    pairs = [row for name in collect.PAIRS.values() for row in read_lines(folder / name)]
    kept = read_lines(folder / collect.KEPT)
    assert [pair["category"] for pair in pairs] == ["unsafe"] * 20 + ["ordinary"] * 9
    assert {pair["chosen"] for pair in pairs[:20]} == {"salt and bread"}
    assert {pair["rejected"] for pair in pairs[20:]} == {"salt and bread"}
    assert [pair["chosen"] for pair in pairs[20:]] == [line["response"] for line in kept]
    halves = [read_lines(folder / name) for name in collect.JUDGED]
    asked = [{line["prompt"][-1]["content"] for line in half} for half in halves]
    assert not asked[0] & asked[1] and len(asked[0] | asked[1]) == 29
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["answers"]["unsafe"] == {
        "answers": 40, "unsafe": 40, "unscored": 0, "refused": 0,
    }  # fmt: skip

    # ---- cut off after two blocks, it ends with the same files
    before = {path.name: path.read_bytes() for path in folder.glob("*.jsonl")}
    samples = (folder / "samples.jsonl").read_text().splitlines(keepends=True)
    (folder / "samples.jsonl").write_text("".join(samples[:19]))
    for name in (*collect.PAIRS.values(), collect.KEPT, *collect.JUDGED, "summary.json"):
        (folder / name).unlink()
    collect.run(config, str(folder))
    assert {path.name: path.read_bytes() for path in folder.glob("*.jsonl")} == before


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"collect.unsafe_by": "refusal"}, "'refusal': expected a judge with a threshold"),
        ({"data.demonstrations": ("",), "data.ordinary": ()}, "name no prompts"),
    ],
)
def test_what_cannot_be_used_is_said_before_weights_are_read(given, tmp_path, overrides, message):  # noqa: F811
    with pytest.raises(ConfigError, match=message):
        collect.run(configure(given, **overrides), str(tmp_path / "run"))


def test_the_first_tokens_of_an_answer_are_its_beginning():
    tokens = transformers.AutoTokenizer.from_pretrained(MODEL)
    text = "Salt and bread are in the kitchen: bon appétit! ✿✿"
    ids = tokens.encode(text, add_special_tokens=False)
    for count in range(1, len(ids)):
        found = collect.first_tokens(tokens, count, text)
        assert text.startswith(found) and len(found) < len(text)
        short = tokens.decode(ids[:count])
        assert found == short or (short.endswith("\ufffd") and found == short.rstrip("\ufffd"))
    for count in (None, len(ids), 1000):
        assert collect.first_tokens(tokens, count, text) == text
