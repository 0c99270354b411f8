"""Stages `kto` and `orpo`: equal to TRL's trainers, whatever the layout; a run of each."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import kto as kto_config
from configs import orpo as orpo_config
from safety_jax.base.errors import DataError
from safety_jax.data import encode, prompts, records, sources
from safety_jax.data.loader import Loader
from safety_jax.data.messages import Message
from safety_jax.data.pairs import Pairs
from safety_jax.data.sources import Skipped
from safety_jax.data.text_rules import FIXED
from safety_jax.maths import losses
from safety_jax.stages import kto, orpo
from safety_jax.training import metrics, placement, preference, reference, steps
from safety_jax.training.task import Loaded, Measured
from tests import tiny_tokenizers
from tests.golden import rows
from tests.samples import examples_of
from tests.test_end_to_end import inputs  # noqa: F401
from tests.test_preference_training import GOLDEN as PAIRS
from tests.test_preference_training import folder, golden_pairs, model_of  # noqa: F401

GOLDEN = dict(np.load(rows.KTO_FILE))


def column(name: str) -> list[np.ndarray]:
    lengths = GOLDEN[f"{name}/lengths"]
    return [row[:n] for row, n in zip(GOLDEN[name], lengths, strict=True)]


def golden_answers() -> Pairs:
    """The rows as TRL tokenized them, with the answers that it rotated to them."""
    asked = column("prompt_ids")
    sides = [examples_of(asked, column(name)) for name in ("completion_ids", "KL_completion_ids")]
    unsafe = np.stack([~GOLDEN["kto/label"]] * 2, axis=1)
    return Pairs(*sides, unsafe=unsafe, categories=[()] * len(asked))


def measure(mesh, folder, **layout):  # noqa: F811
    """(parts, gradient) of one batch of all rows; the reference has the adapters."""
    model, data = model_of("full", mesh, folder), golden_answers()
    config = kto_config.get_config()
    config.kto.beta = rows.KTO["beta"]
    config.kto.desirable_weight = rows.KTO["desirable_weight"]
    config.kto.undesirable_weight = rows.KTO["undesirable_weight"]
    config.train.batch_size = len(data)
    given = {"rows_per_microbatch": 8, "packing": True, "row_tokens": 48} | layout
    batches = Loader(
        *data.sides, batch_size=len(data), steps=None, seed=None, prefetch_steps=0,
        rows_here=range(given["rows_per_microbatch"]), **given,
    )  # fmt: skip
    score = reference.make_score(model.policy, mesh)
    place = placement.place_answers(mesh, batches, data)
    tokens = place(batches.batch(0))[0].tokens
    known = [np.zeros(len(side.ids), np.float32) for side in data.sides]
    values = [
        jax.device_get(score(model.trainable, {}, jax.tree.map(lambda x, a=a: x[a], tokens)))
        for a in range(batches.batch(0).used)
    ]
    reference._collect(batches, batches.batch(0), values, known)
    learning = kto.learn(config, mesh, Loaded(model.policy, model.start, {}), known=lambda _: known)
    arrays, used = learning.place(batches, data)(batches.batch(0))
    accumulate = jax.jit(steps.accumulate, static_argnums=(0, 4, 7))
    slope, parts = accumulate(
        learning.loss, model.start, {}, arrays, learning.count, used, jax.random.key(0),
        learning.survey,
    )  # fmt: skip
    return jax.device_get(parts), jax.device_get(slope)


@pytest.fixture(scope="module")
def found(folder, one_device):  # noqa: F811
    return measure(one_device, folder)


def test_loss_gradient_and_metrics_are_those_of_trl(found):
    parts, slope = found
    np.testing.assert_allclose(parts["loss"], GOLDEN["kto/loss"], rtol=1e-5)
    norm = np.sqrt(sum((leaf.astype(float) ** 2).sum() for leaf in jax.tree.leaves(slope)))
    np.testing.assert_allclose(norm, GOLDEN["kto/grad_norm"], rtol=1e-4)
    data, table = golden_answers(), parts["examples"]
    metrics = kto.summarize(Measured({}, table, np.arange(len(data))), data, beta=rows.KTO["beta"])
    assert GOLDEN["kto/kl"] > 0.1, "the reference point was not clipped"
    for name, value in metrics.items():
        np.testing.assert_allclose(value, GOLDEN[f"kto/{name}"], rtol=1e-5, err_msg=name)
    assert len(metrics) == 6


@pytest.mark.parametrize("layout", [{"packing": False, "rows_per_microbatch": 2}, {}])
def test_the_reference_point_is_the_batchs_in_every_layout(layout, found, folder, eight_devices,  # noqa: F811
                                                           one_device):  # fmt: skip
    """Neither microbatches nor devices change it: it is not TRL's point of each microbatch."""
    mesh = one_device if layout else eight_devices
    parts, slope = measure(mesh, folder, **layout)
    np.testing.assert_allclose(parts["examples"], found[0]["examples"], rtol=1e-5, atol=1e-5)
    for a, b in zip(*map(jax.tree.leaves, (slope, found[1])), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def test_kto_by_hand():
    """λ (1 - σ(±β (r - z))), z given: σ(0) = 1/2, σ(ln 3) = 3/4."""
    ratios = jnp.array([2.0, 2.0 + np.log(3.0), 2.0, 2.0 + np.log(3.0)])
    found = losses.kto(
        ratios, jnp.array([1.0, 1.0, 0.0, 0.0]), jnp.float32(2.0),
        beta=1.0, desirable_weight=1.0, undesirable_weight=2.0,
    )  # fmt: skip
    np.testing.assert_allclose(found, [0.5, 0.25, 1.0, 1.5], rtol=1e-6)


# ---------------------------------------------------------------------------- ORPO


def test_orpo_is_trls(folder, one_device):  # noqa: F811
    """The odds ratio and its metrics; the likelihood is that of the answers alone, where TRL's
    also learns prompts."""
    pairs, model = golden_pairs(), model_of("lora", one_device, folder)
    objective = orpo.make_objective(rows.ORPO)
    batches = Loader(
        *pairs.sides, batch_size=4, row_tokens=48, rows_per_microbatch=2, packing=True, steps=None,
        seed=None, prefetch_steps=0, rows_here=range(2),
    )  # fmt: skip
    loss = preference.make_loss(model.policy, objective, live=False, batch_size=4)
    arrays, used = placement.place_answers(one_device, batches, pairs)(batches.batch(0))
    frozen = preference.Frozen(model.base, None)
    accumulate = jax.jit(steps.accumulate, static_argnums=(0, 4))
    key = jax.random.key(0)
    slope, parts = accumulate(loss, model.trainable, frozen, arrays, preference.count, used, key)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slope))
    table = jax.device_get(parts["examples"])
    np.testing.assert_allclose(table[:, preference.LOSS], GOLDEN["orpo/odds_loss"], rtol=1e-5)
    seen = preference.summarize(Measured({}, table, np.arange(4)), pairs, objective)
    for key, value in GOLDEN.items():
        if key.startswith("orpo/") and key != "orpo/odds_loss":
            ours = seen[key.removeprefix("orpo/")]
            np.testing.assert_allclose(ours, value, rtol=1e-5, err_msg=key)
    total = table[:, preference.LOSS].mean() + seen["nll_loss"]
    np.testing.assert_allclose(parts["loss"], total, rtol=1e-6)
    lengths = PAIRS["chosen_ids/lengths"].sum()
    np.testing.assert_allclose(seen["nll_loss"], -table[:, 0].sum() / lengths, rtol=1e-6)


def test_log_odds_of_near_certainty_are_finite():
    x = jnp.array([-1e-6, -1e-3, -1.0, -50.0])
    wide = np.asarray(x, np.float64)
    wanted = np.where(wide > -1, np.log(-np.expm1(wide)), np.log1p(-np.exp(wide)))
    found, slope = losses.log1mexp(x), jax.grad(lambda x: losses.log1mexp(x).sum())(x)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert np.isfinite(slope).all()


# ---------------------------------------------------------------------------- the stages


def test_rows_of_every_kind_become_answers_with_labels(tmp_path):
    """Rotated by one row; a label, a verdict of safety, or a pair says what is desirable."""
    tokenizer = tiny_tokenizers.llama()
    file = tmp_path / "rows.jsonl"
    given = [
        {"prompt": "Ask a", "completion": "flour", "label": True},
        {"prompt": "Ask b", "response": "salt", "is_safe": False},
        {"prompt": "Ask c", "chosen": "milk", "rejected": "salt"},
    ]
    found = []
    for row in given:
        file.write_text(json.dumps(row) + "\n")
        found += records.read_labelled(sources.open_source(str(file)), [])
    encoding = encode.Encoding(
        prompts.load_template("plain", tokenizer), tokenizer, 64, "error", len(tokenizer)
    )
    data = kto.encode(found, [], encoding=encoding, bad_rows="error")
    assert kto.desirable(data).tolist() == [True, False, True, False]
    answers = [
        [tokenizer.decode(ids[mask], skip_special_tokens=True).strip() for ids, mask in
         map(side.example, range(4))]
        for side in data.sides
    ]  # fmt: skip
    assert answers == [["flour", "salt", "milk", "salt"], ["salt", "flour", "salt", "milk"]]


@pytest.mark.parametrize("optional", [False, True])
def test_rows_without_a_place_in_the_template_are_left_out_if_their_source_says_so(optional):
    tokenizer = tiny_tokenizers.llama()
    ask, answer = Message("user", "Ask"), (Message("assistant", "milk"),)
    found = [
        records.Labelled(prompt, answer, "", "rows", f"row {i}", True, optional=optional)
        for i, prompt in enumerate([(ask,), (Message("system", "Be kind."), ask), (ask,)])
    ]
    encoding = encode.Encoding(
        prompts.load_template("alpaca", tokenizer), tokenizer, 200, "error", len(tokenizer)
    )
    skipped: list[Skipped] = []
    if not optional:
        with pytest.raises(DataError, match="row 1: has a system message"):
            kto.encode(found, skipped, encoding=encoding, bad_rows="error")
        return
    data = kto.encode(found, skipped, encoding=encoding, bad_rows="error")
    assert data.where == ["row 0", "row 2"] and [row.where for row in skipped] == ["row 1"]


def kto_rows(*answers: str) -> list[records.Labelled]:
    prompt = (Message("user", "bake bread " * 6),)
    return [
        records.Labelled(prompt, (Message("assistant", one),), "", "rows", f"row {i}", True)
        for i, one in enumerate(answers)
    ]


def test_a_row_that_is_left_out_takes_no_other_with_it():
    """The answer of row 1 spells EOS; row 2 gets the answer of row 0."""
    tokenizer = tiny_tokenizers.llama()
    rules = dataclasses.replace(FIXED, special_text="skip")
    encoding = encode.Encoding(
        prompts.load_template("plain", tokenizer, rules), tokenizer, 200, "error", len(tokenizer)
    )
    skipped: list[Skipped] = []
    rows = kto_rows("milk", "</s> flour", "salt")
    data = kto.encode(rows, skipped, encoding=encoding, bad_rows="error")
    assert data.where == ["row 0", "row 2"] and [row.where for row in skipped] == ["row 1"]
    ids, mask = data.rejected.example(1)
    assert tokenizer.decode(ids[mask], skip_special_tokens=True) == "milk"


def test_an_answer_is_not_cut_for_the_sake_of_the_one_beside_it():
    tokenizer = tiny_tokenizers.llama()
    encoding = encode.Encoding(
        prompts.load_template("plain", tokenizer), tokenizer, 60, "error", len(tokenizer)
    )
    alone = kto.encode(kto_rows("milk", "milk"), [], encoding=encoding, bad_rows="error")
    data = kto.encode(kto_rows("milk", "wait " * 30), [], encoding=encoding, bad_rows="error")
    np.testing.assert_array_equal(data.chosen.example(0)[0], alone.chosen.example(0)[0])
    assert data.rejected.lengths.tolist() == [60, len(alone.chosen.example(0)[0])]
    # The long answer is cut once, although it also stands beside the first row.
    assert [side.counts.cut_answers for side in data.sides] == [1, 0]


def labelled(good: int, bad: int) -> list[records.Labelled]:
    labels = [True] * good + [False] * bad
    return [records.Labelled((), (), "", "a", str(i), label) for i, label in enumerate(labels)]


@pytest.mark.parametrize(("good", "bad", "kind"), [(4, 0, "desirable"), (0, 4, "undesirable")])
def test_answers_of_one_kind_are_trained_on_with_a_warning(good, bad, kind):
    (line,) = kto.balance(labelled(good, bad), desirable_weight=1.0, undesirable_weight=1.0)
    assert line.startswith(f"warning: all 4 answers are {kind}, and KTO learns to tell")


@pytest.mark.parametrize(
    ("good", "bad", "weights", "ranges"),
    [
        (3, 3, (1.0, 1.0), None),
        (4, 3, (1.0, 1.0), None),
        (30, 10, (1.0, 2.25), None),
        # What trl 1.16 says of these counts and weights, but for its 1.33 in place of 4/3.
        (30, 10, (1.0, 1.0), "desirable_weight from 0.33 to 0.44, or kto.undesirable_weight from "
                             "2.25 to 3"),
        (10, 30, (1.0, 1.0), "desirable_weight from 3 to 4, or kto.undesirable_weight from 0.25 "
                             "to 0.33"),
        (4, 3, (2.0, 1.0), "desirable_weight from 0.75 to 1, or kto.undesirable_weight from 2 to"),
    ],
)  # fmt: skip
def test_weights_outside_of_what_the_paper_recommends(good, bad, weights, ranges):
    rows = labelled(good, bad)
    found = kto.balance(rows, desirable_weight=weights[0], undesirable_weight=weights[1])
    assert [f"kto.{ranges}" in line for line in found] == ([] if ranges is None else [True])


@pytest.mark.parametrize(("stage", "config"), [(kto, kto_config), (orpo, orpo_config)])
def test_a_run_lowers_the_loss_and_exports_an_adapter(stage, config, inputs, tmp_path, capsys):  # noqa: F811
    file = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"Ask {i}", "chosen": "milk flour", "rejected": "salt"} for i in range(16)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = config.get_config("demo")
    run.update_from_flattened_dict(
        {
            "model.path": str(inputs / "model"), "lora.rank": 2, "data.train": (str(file),),
            "data.eval": "", "data.eval_rows": 8, "data.max_length": 32, "data.row_tokens": 64,
            "train.batch_size": 8, "train.rows_per_microbatch": 8, "train.max_steps": 4,
            "optim.warmup_steps": 0, "optim.learning_rate": 1e-2, "checkpoint.every_steps": 4,
            "log.every_steps": 1, "log.eval_every_steps": 4,
        }
    )  # fmt: skip
    run.lock()
    stage.run(run, str(tmp_path / "run"))
    assert "warning" not in capsys.readouterr().out
    lines = metrics.read(tmp_path / "run" / "metrics.jsonl")
    trained = [line["loss"] for line in lines if "loss" in line]
    assert trained[-1] < trained[0] and "eval/rewards/chosen" in lines[-1]
    assert (tmp_path / "run" / "export" / "adapter_model.safetensors").is_file()
    assert "answers" in (tmp_path / "run" / "README.md").read_text() or stage is orpo
