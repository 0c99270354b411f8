"""The table of values: it is that of the code below, and what does not fit is refused by key."""

import dataclasses
import math

import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import dpo as dpo_config
from safety_jax.base.settings import (
    Flag,
    OneOf,
    Real,
    Reals,
    Setting,
    Text,
    Texts,
    Whole,
    expectation,
)
from safety_jax.data import pairs
from safety_jax.evaluation.answers import matching, stored_scores
from safety_jax.judges import judge, registry, sequence
from safety_jax.judges.guards import granite_guardian, harmbench, nemotron, qwen3guard, wildguard
from safety_jax.models import attention, llama
from safety_jax.raft import prompt_pool
from safety_jax.stages import checks, config_files, judge_schema, metric_names, schema
from safety_jax.training import judge_quality, optim

SETTINGS = {
    f"{owner}: {key}": setting
    for tables in (schema.STAGES, judge_schema.JUDGES)
    for owner, table in tables.items()
    for key, setting in table.items()
}


def config(spec: str, **values: object) -> ConfigDict:
    """A config that could run, with values of its keys; `a__b` is the key `a.b`."""
    found = config_files.load(spec)
    found.update_from_flattened_dict({key.replace("__", "."): v for key, v in values.items()})
    return found


# ---------------------------------------------------------------------------- values


@pytest.mark.parametrize(
    ("setting", "good", "bad", "said"),
    [
        (Whole(1), (1, 2**31 - 1), (0, -1, 2**31, 1.0, True, "1"), "a whole number, 1 or more"),
        (Whole(0, 9, "rows"), (0, 9), (10,), "a whole number of rows, 0 to 9"),
        (Whole(1, also=(-1,)), (-1, 1), (0, -2), "a whole number, -1 or 1 or more"),
        (Real(), (-1e30, 0), (math.nan, math.inf, -math.inf, 1e39, False), "a number, finite"),
        (Real(0.0, 1.0, low_open=True), (1e-9, 1), (0.0, 1.1), "a number, above 0, at most 1"),
        (Real(0.0, 1.0, high_open=True), (0, 0.99), (1, -1e-9), "a number, 0 or more, below 1"),
        (Flag(), (True, False), (1, "true", None), "true or false"),
        (OneOf(("a", "b")), ("a",), ("", "A", 1), "a or b"),
        (OneOf(("a",), ("b=",)), ("a", "b=c"), ("b=", "b"), "a or b=NAME"),
        (Text("a folder"), ("", "x"), (1, "\udcff", ("x",)), 'a folder, or ""'),
        (Texts("files"), ((), ("x",), ["x"]), ("x", (1,)), "a tuple of files, or ()"),
        (Texts("files", distinct=True), (("x", "y"),), (("x", "x"),), "files, each once, or ()"),
        (Reals(2), ((), (0, 4.0)), ((1,), (4, 0), ("1", "2"), (0, math.nan)), "2 numbers in asc"),
    ],
    ids=lambda value: type(value).__name__ if dataclasses.is_dataclass(value) else "",
)  # fmt: skip
def test_kinds_of_values(setting: Setting, good, bad, said):
    assert all(setting.fits(value) for value in good)
    assert not any(setting.fits(value) for value in bad)
    assert said in setting.describe()


def test_a_number_too_large_or_too_near_to_zero_is_told_its_limit():
    """In 32 bits the latter would be 0: by such a temperature everything is not a number."""
    for near in (1e-300, -1e-45):
        said = "a number, finite, and no nearer to 0 than 1e-37"
        assert not Real().fits(near) and expectation(Real(), near) == said
    assert Real().fits(float(np.finfo(np.float32).eps) ** 5)
    assert expectation(Whole(1), 2**40) == "a whole number, 1 to 2147483647"
    assert expectation(Text("a folder", needed=True), "\udcff") == "a folder, in UTF-8"


def test_no_number_of_the_table_takes_what_is_not_finite():
    """Nor does any text stand for a number, or a number for a switch."""
    for key, setting in SETTINGS.items():
        strange = [math.nan, math.inf, -math.inf, None, 10**40]
        assert not any(setting.fits(value) for value in strange), key
        if isinstance(setting, Whole | Real):
            assert setting.fits(setting.high) or setting.high_open, key  # type: ignore[union-attr]
            assert not setting.fits(math.nextafter(setting.low, -math.inf)), key


@pytest.mark.parametrize(
    ("spec", "key", "value"),
    [
        ("sft:demo", "optim.learning_rate", -0.01),
        ("sft:demo", "optim.beta1", 1.0),
        ("dpo:demo", "optim.beta2", -1.0),
        ("sft:demo", "optim.epsilon", 0.0),
        ("reward:demo", "optim.weight_decay", -1.0),
        ("raft:demo", "optim.clip_norm", -1.0),
        ("sft:demo", "optim.warmup_steps", -1),
        ("sft:demo", "optim.schedule", "cosin"),
        ("sft:demo", "lora.alpha", -1.0),
        ("sft:demo", "lora.dropout", 1.0),
        ("sft:demo", "data.safety_rows", -1),
        ("sft:demo", "data.prefetch_steps", -1),
        ("sft:demo", "data.row_tokens", 10**9),
        ("sft:demo", "seed", 2**64),
        ("sft:demo", "train.rows_per_microbatch", -1),
        ("sft:demo", "train.epochs", math.nan),
        ("sft:demo", "checkpoint.best_metric", "eval_loss"),
        ("dpo:demo", "checkpoint.best_metric", "eval/rewards/accuracies/category="),
        ("raft:demo", "checkpoint.export", "best"),
        ("dpo:demo", "dpo.smoothing", 0.5),
        ("raft:demo", "sample.top_p", 0.0),
        ("raft:demo", "raft.length_alarm", -1.0),
        ("evaluate:demo", "evaluate.match", "rows"),
        ("evaluate:demo", "evaluate.margin_share", 2.0),
        ("evaluate:demo", "answer.candidates", 0),
        ("score:demo", "score.attention", "flash"),
        ("score:demo", "score.compute_dtype", "float64"),
        ("score:demo,moderation", "score.judges.moderation.batch_size", 0),
        ("score:demo,moderation", "score.judges.moderation.url", ""),
        ("score:demo,sequence", "score.judges.sequence.range", (4.0, 0.0)),
        ("score:demo", "score.judges.refusal.kind", "refusals"),
        ("recipe:demo", "sit.optim.beta1", 1.0),
        ("recipe:demo", "recipe.max_flops", -1.0),
        ("plan", "plan.mesh", "best"),
        ("plan", "plan.slice", ("v5e:4x4", "v5e:4x4")),
        ("evaluate:demo", "evaluate.labels", ("sheet.csv", "sheet.csv")),
    ],
)
def test_a_value_that_does_not_fit_is_told_by_its_key(spec: str, key: str, value: object):
    sound = config_files.load(spec)
    changed = config(spec, **{key.replace(".", "__"): value})
    own = [text for text in checks.problems(changed) if text not in checks.problems(sound)]
    assert len(own) == 1 and own[0].startswith(f"{key} is ")
    assert checks.expected(changed, key) in own[0]


def test_keys_too_many_and_too_few():
    """As a config file of one's own may have them."""
    changed = config_files.load("sft:demo")
    changed.optim.beta3 = 0.9
    del changed.optim.beta2
    assert checks.problems(changed) == [
        "optim.beta3 is a key that nothing reads; did you mean optim.beta2?",
        "optim.beta2 is missing; expected a number, 0 or more, below 1",
    ]
    changed.stage = "stf"
    assert checks.problems(changed)[0].startswith("stage is 'stf'; expected one of sft, dpo")


def test_weights_of_judges_are_numbers():
    changed = config_files.load("score:demo")
    row = {"kind": "weighted_sum", "weights": {"refusal": 1.0, "other": math.inf}}
    changed.score.judges.both = ConfigDict(row)
    (text,) = checks.problems(changed)
    assert text == "score.judges.both.weights.other is inf; expected a number, finite"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (config("sft:demo", train__epochs=0.0), "train.epochs and train.max_steps are both 0"),
        (config("dpo:demo", train__max_steps=9, train__max_flops=1e9), "train.max_flops is 1e+09"),
        (config("sft:demo", checkpoint__export="best", data__eval="", data__eval_rows=0),
         "checkpoint.export is best, but nothing is measured"),
        (config("dpo:demo", checkpoint__export="best", checkpoint__best_metric="eval/loss"),
         "checkpoint.best_is is highest, but eval/loss is best when lowest; expected lowest"),
        (config("dpo:demo", checkpoint__export="best", checkpoint__best_is="lowest",
                checkpoint__best_metric="eval/rewards/margins/source=a"), "expected highest"),
        (config("sft:demo", data__recovery="harm.jsonl"), "but data.recovery_share is 0"),
        (config("sft:demo", sft__early_weight=2.0, data__train_on="everything"),
         "so the first tokens of prompts would get that weight"),
        (config("sft:demo", sft__early_weight=2.0, sft__objective="constrained"),
         "sft.objective constrained does not use it"),
        (config("sft:demo", data__train_on="everything", sft__objective="constrained"),
         "so the first tokens of prompts, not of answers, would be held by sft.beta_first"),
        (config("kto:demo", lora__rank=0, lora__layers="1"), "lora.layers is '1', but lora.rank"),
        (config("dpo:demo", dpo__reference="none"), "dpo.reference is none, but dpo.objective sig"),
        (config("dpo:demo", dpo__proxy="runs/dpo"), "dpo.objective sigmoid uses no token weights"),
        (
            config("dpo:demo,loss=weighted_door", dpo__reference="live"),
            "dpo.reference is live, but dpo.objective weighted_door needs the",
        ),
        (config("reward:demo", checkpoint__best_metric="eval/mse"), "not measured for a judge of"),
        (config("reward:demo,kind=binary", reward__direction="higher is safer"), "scores harm"),
        (config("raft:demo", raft__adapter="merge", lora__rank=0), "lora.rank is 0"),
        (config("raft:demo", sample__max_new_tokens=128), "leaves no room for a prompt"),
        (config("recipe:demo", judge__reward__direction="higher is better"), "judge.reward.direct"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_values_that_do_not_go_together(changed: ConfigDict, said: str):
    (text,) = checks.problems(changed)
    assert said in text


# ---------------------------------------------------------------------------- the code below

DPO, RAFT, REWARD, SCORE = (schema.STAGES[name] for name in ("dpo", "raft", "reward", "score"))
SEQUENCE = judge_schema.JUDGES["sequence"]


@pytest.mark.parametrize(
    ("setting", "known"),
    [
        (RAFT["optim.schedule"], optim.SCHEDULES),
        (RAFT["model.remat"], ("auto", *llama.REMAT)),
        (SCORE["score.attention"], ("auto", *attention.PLATFORMS)),
        (DPO["data.prefer"], pairs.RULES),
        (DPO["dpo.objective"], dpo_config.OBJECTIVES),
        (RAFT["data.order"], prompt_pool.ORDERS),
        (schema.STAGES["evaluate"]["evaluate.match"], matching.MATCHES),
        (SEQUENCE["direction"], judge.DIRECTIONS),
        (SEQUENCE["activation"], sequence.ACTIVATIONS),
        (SEQUENCE["overlong"], sequence.OVERLONG),
        (judge_schema.JUDGES["wildguard"]["field"], wildguard.FIELDS),
        (judge_schema.JUDGES["qwen3guard"]["field"], qwen3guard.FIELDS),
        (judge_schema.JUDGES["nemotron"]["field"], nemotron.FIELDS),
        (judge_schema.JUDGES["harmbench"]["variant"], harmbench.FORMS),
        (judge_schema.JUDGES["granite_guardian"]["version"], granite_guardian.VERSIONS),
        (OneOf(tuple(judge_schema.JUDGES)), (*registry.KINDS, stored_scores.KIND)),
    ],
)
def test_names_are_those_that_the_code_knows(setting: OneOf, known):
    assert set(setting.names) == set(known)


def test_rows_of_judges_have_the_keys_that_the_code_reads():
    for kind, table in judge_schema.JUDGES.items():
        keys = stored_scores.KEYS if kind == stored_scores.KIND else registry.KINDS[kind].keys
        assert {key.removesuffix(".*") for key in table} == set(keys)


@pytest.mark.parametrize("kind", metric_names.METRICS_OF_JUDGES)
def test_metrics_of_judges_are_those_that_are_measured(kind: str):
    rng = np.random.default_rng(0)
    sides = 2 if kind in ("pairs", "cost") else 1
    targets = np.tile([[1.0, 0.0], [0.0, 1.0]], (10, 1))[:, :sides]
    held = judge_quality.Held(
        kind=kind,
        scores=rng.normal(size=(20, sides)),
        targets=targets,
        lengths=rng.integers(1, 9, (20, sides)).astype(float),
        losses=rng.random(20),
        categories=[()] * 20,
        sources=["a"] * 20,
        prompts=np.arange(20),
    )
    measured = {f"eval/{name}" for name in judge_quality.evaluation(held)}
    known = set(metric_names.METRICS_OF_JUDGES[kind].names)
    assert known <= measured <= known | {"eval/margin_length_correlation"}
    assert known <= set(REWARD["checkpoint.best_metric"].names)
