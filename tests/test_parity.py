"""Equal to PyTorch: logits, losses, gradients, updates and schedules against stored answers.

The answers come from transformers, peft and trl by the scripts in tests/golden; nothing here needs
torch. Tolerances are float32's; they are not to be loosened.
"""

import dataclasses
import functools
import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from safety_jax.base import trees
from safety_jax.base.batch import Tokens
from safety_jax.maths import logprobs, losses
from safety_jax.models import lora
from safety_jax.models.folders import hf, hf_config
from safety_jax.models.model import Model
from safety_jax.models.rotary import Rope
from safety_jax.training import likelihood, optim, steps
from tests.golden import cases, rows
from tests.samples import execute_on, golden_adapters


def tokens_of(ids: np.ndarray) -> Tokens:
    """Whole rows, one example each."""
    positions = np.broadcast_to(np.arange(ids.shape[1], dtype=np.int32), ids.shape)
    one = np.ones(ids.shape, np.int32)
    return Tokens(ids.astype(np.int32), positions, one, one.astype(bool))


def logits_of(config, weights, ids, execution, adapters=None) -> np.ndarray:
    @jax.jit
    def forward(weights, adapters, tokens):
        model = Model(config, execution, weights, adapters, None)
        return model.logits(model.forward(tokens))

    return np.asarray(forward(weights, adapters, tokens_of(ids)))


def loaded(folder: Path, mesh):
    config = hf.read_config(folder)
    return config, hf.load(folder, config, mesh, jnp.float32)


# ---------------------------------------------------------------------------- logits


@pytest.mark.parametrize("name", cases.CASES)
def test_logits_of_every_family(name, tmp_path, one_device):
    config, weights = loaded(cases.write_folder(tmp_path, cases.read_config(name)), one_device)
    golden = cases.read_golden(name)
    execution = execute_on(one_device, rules=config.rules)
    found = logits_of(config, weights, golden["ids"], execution)
    np.testing.assert_allclose(found, golden["logits"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", cases.CASES)
def test_old_spelling_is_the_same_model(name, tmp_path):
    """`make_llama.py` has asked transformers: it gives the same logits for both spellings."""
    new = cases.read_config(name)
    configs = []
    for spelling in (new, cases.old_spelling(new)):
        (tmp_path / "config.json").write_text(json.dumps(spelling))
        configs.append(hf.read_config(tmp_path))
    assert configs[0] == configs[1]


def rope(**changes):
    return kinds(lambda kind: {"rope": dataclasses.replace(kind.rope, **changes)})


def kinds(change, which=None):
    """Changes the kinds of layers, or only those with this window."""

    def changed(kind):
        return dataclasses.replace(kind, **change(kind)) if which in (None, kind.window) else kind

    return lambda config: {"pattern": tuple(changed(kind) for kind in config.pattern)}


WRONG = {
    "epsilon": ("llama_grouped", lambda _: {"norm_epsilon": 1e-6}),
    "epsilon of qwen3": ("qwen3", lambda _: {"norm_epsilon": 1e-5}),
    "rope base": ("llama_rope_base", rope(theta=1e6)),
    "rope base dropped": ("llama_rope_base", rope(theta=1e4)),
    "linear scaling dropped": ("llama_rope_linear", rope(kind="default")),
    "llama3 scaling dropped": ("llama_rope_llama3", rope(kind="default")),
    "llama3 scaling made linear": ("llama_rope_llama3", rope(kind="linear")),
    "llama3 blend": ("llama_rope_llama3", rope(high_frequency_factor=2.0)),
    "llama3 context": ("llama_rope_llama3", rope(original_max_positions=128)),
    "window dropped": ("mistral_window", kinds(lambda _: {"window": None})),
    "activation": ("gemma", lambda _: {"activation": "silu"}),
    "embedding not scaled": ("gemma", lambda _: {"embedding_scale": 1.0}),
    "query scale": ("gemma2", lambda _: {"attention_scale": 16**-0.5}),
    "scores not capped": ("gemma2", lambda _: {"attention_softcap": None}),
    "logits not capped": ("gemma2", lambda _: {"logit_softcap": None}),
    "windows the other way round": ("gemma2", lambda c: {"pattern": c.pattern[::-1]}),
    "windows of another period": ("gemma3", lambda c: {"pattern": c.pattern[1:]}),
    "rope of the windows": ("gemma3", kinds(lambda _: {"rope": Rope(1e4)}, which=16)),
    "yarn dropped": ("olmo3", kinds(lambda _: {"rope": Rope(5e5)})),
    "short factors for a long example": ("phi3_long", rope(original_max_positions=96)),
    "a rope in every layer": ("smollm3", kinds(lambda _: {"rope": Rope(100.0)})),
    "residuals not scaled": ("granite", lambda _: {"residual_scale": 1.0}),
    "queries not scaled": ("ministral3", rope(query_beta=0.0)),
    "norm without its one": ("gemma_untied", lambda _: {"norm_plus_one": False}),
    "window too long": ("mistral_window", kinds(lambda _: {"window": 17})),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_a_wrong_config_value_shows(mistake, tmp_path, one_device):
    """What the parity test would see if a value were lost on the way."""
    name, changes = WRONG[mistake]
    config, weights = loaded(cases.write_folder(tmp_path, cases.read_config(name)), one_device)
    config = dataclasses.replace(config, **changes(config))
    golden = cases.read_golden(name)
    execution = execute_on(one_device, rules=config.rules)
    found = logits_of(config, weights, golden["ids"], execution)
    assert np.abs(found - golden["logits"]).max() > 1e-3


@pytest.mark.real_data
def test_logits_of_a_trained_checkpoint(one_device):
    """The stored answers come from a float64 numpy forward pass, not from transformers."""
    models = Path(os.environ["SAFETY_JAX_SHARED"]) / "models"
    golden = json.loads((models / "aidreams260k" / "golden.json").read_text())
    config, weights = loaded(models / "aidreams260k-hf", one_device)
    ids = np.array([golden["input_ids"]])
    found = logits_of(config, weights, ids, execute_on(one_device))[0]
    np.testing.assert_allclose(found[0], golden["logits_position_0"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(found[-1], golden["logits_position_last"], rtol=0, atol=1e-4)
    written = np.array(golden["greedy_ids"])
    logprobs = np.asarray(jax.nn.log_softmax(found[-len(written) - 1 :]))
    assert logprobs[np.arange(len(written)), written].sum() == pytest.approx(
        golden["sum_logprob_of_greedy"], abs=1e-3
    )


# ---------------------------------------------------------------------------- losses and updates


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, one_device):
    """The model of the SFT goldens."""
    folder = cases.write_folder(tmp_path_factory.mktemp("tuned"), cases.read_config(rows.MODEL))
    return *loaded(folder, one_device), execute_on(one_device)


@pytest.fixture(scope="module")
def golden():
    return dict(np.load(rows.FILE))


def microbatches(
    ids: np.ndarray, mask: np.ndarray, lengths: np.ndarray, per_row: int, rows_each: int
) -> Tokens:
    """Tokens [A, b, T]: `per_row` examples packed into each row, `rows_each` rows a microbatch.

    The answers of torch are for padded rows, one example each, in one batch.
    """
    width = ids.shape[1] * per_row
    packed = [np.zeros((len(ids) // per_row, width), np.int32) for _ in range(4)]
    for row in range(len(ids) // per_row):
        start = 0
        for segment in range(per_row):
            example = row * per_row + segment
            length = lengths[example]
            here = slice(start, start + length)
            start += length
            values = (ids[example, :length], np.arange(length), segment + 1, mask[example, :length])
            for array, value in zip(packed, values, strict=True):
                array[row, here] = value
    arrays = [array.reshape(-1, rows_each, width) for array in packed]
    return Tokens(*arrays[:3], arrays[3].astype(bool))


def sft_batch(number: int) -> Tokens:
    return microbatches(*rows.batch(number), rows.lengths(number), per_row=2, rows_each=1)


def adapters_of(tree) -> lora.Adapters:
    return lora.Adapters(tree, rows.ALPHA / rows.RANK, 0.0)


def make_loss(tuned, full: bool):
    """The SFT loss with all weights trained, or adapters beside frozen weights."""
    config, _, execution = tuned

    def loss(trainable, frozen, tokens, totals, key):
        weights, adapters = (trainable, None) if full else (frozen, adapters_of(trainable))
        model = Model(config, execution, weights, adapters, None)
        scores = logprobs.token_logprobs(
            model.forward(tokens), model.head(), *logprobs.shift(tokens), chunk_tokens=16
        )
        sums, total = losses.sft(scores), totals["tokens"]
        return {"loss": sums.loss / total, "correct": sums.correct / total}

    return loss


def initial(tuned, kind: str):
    """Trainable and frozen trees of one golden."""
    config, weights, _ = tuned
    if kind == "full":
        return jax.tree.map(jnp.copy, weights), {}
    return golden_adapters(rows.TARGETS[kind]), weights


def in_torch_names(tree, full: bool) -> dict[str, np.ndarray]:
    """One array a layer, under the names that the golden file uses."""
    named: dict[str, np.ndarray] = {}
    theirs_of = {ours: theirs for theirs, ours in lora.TARGETS.items()}
    config = hf_config.parse(cases.read_config(rows.MODEL), rows.MODEL)
    names = {row.ours: row.theirs for row in hf.layout(config).rows}
    for ours, array in trees.flatten(tree).items():
        if full:
            pattern = names[ours]
        else:
            target, leaf = ours.split(".")
            weight = names[f"layers.{target}.kernel"].removesuffix(".weight")
            assert theirs_of[target] in weight
            pattern = f"{weight}.{leaf.upper()}"
        if "{layer}" in pattern:
            named |= {pattern.format(layer=i): np.asarray(x) for i, x in enumerate(array)}
        else:
            named[pattern] = np.asarray(array)
    return named


def assert_summary_equal(golden, prefix: str, named: dict[str, np.ndarray], tolerance: float):
    order = list(golden[f"{prefix}/names"])
    assert order == sorted(named)
    norms = [np.linalg.norm(named[name]) for name in order]
    np.testing.assert_allclose(norms, golden[f"{prefix}/norms"], rtol=tolerance)
    for name in order:
        corner = named[name][:3][..., :5]
        scale = np.abs(named[name]).max()
        np.testing.assert_allclose(
            corner, golden[f"{prefix}/corner/{name}"], rtol=0, atol=tolerance * scale, err_msg=name
        )


KINDS = ("full", "all_linear")


@pytest.mark.parametrize("kind", rows.TARGETS)
def test_adapted_logits(kind, tuned, golden):
    tree, weights = initial(tuned, kind)
    config, _, execution = tuned
    ids, _ = rows.batch(0)
    found = logits_of(config, weights, ids[:1, :12], execution, adapters_of(tree))
    np.testing.assert_allclose(found, golden[f"{kind}/logits"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_gradient(kind, tuned, golden):
    trainable, frozen = initial(tuned, kind)
    batch = sft_batch(0)
    gradient, metrics = jax.jit(steps.accumulate, static_argnums=(0, 4))(
        make_loss(tuned, kind == "full"),
        trainable,
        frozen,
        batch,
        likelihood.count,
        len(batch.ids),
        jax.random.key(0),
    )
    assert float(metrics["loss"]) == pytest.approx(golden[f"{kind}/losses"][0], abs=1e-5)
    named = in_torch_names(gradient, kind == "full")
    assert_summary_equal(golden, f"{kind}/gradient", named, tolerance=1e-4)


@pytest.fixture(scope="module")
def trainer(tuned):
    """`trainer(kind, epsilon)`: a fresh state, the frozen tree, the compiled step, made once."""

    @functools.cache
    def compiled(kind: str, epsilon: float):
        numbers = rows.ADAMW | {"epsilon": epsilon}
        rate = optim.schedule(
            "constant",
            learning_rate=numbers.pop("learning_rate"),
            warmup_steps=0,
            total_steps=rows.STEPS,
        )
        adamw = optim.adamw(rate, **numbers)
        trainable, _ = initial(tuned, kind)
        placed = jax.tree.map(lambda leaf: leaf.sharding, trainable)
        where = steps.shardings(trainable, placed, adamw, tuned[2].mesh)
        loss = make_loss(tuned, kind == "full")
        return adamw, where, steps.make(loss, likelihood.count, adamw, rate, where)

    def make(kind: str, epsilon: float = rows.ADAMW["epsilon"]):
        adamw, where, step = compiled(kind, epsilon)
        trainable, frozen = initial(tuned, kind)
        return steps.initialize(trainable, adamw, jax.random.key(0), where), frozen, step

    return make


def run_steps(state, frozen, step, batches):
    """Losses, gradient norms, and the state after the steps."""
    seen, norms = [], []
    for batch in batches:
        state, metrics = step(state, frozen, batch, np.int32(len(batch.ids)))
        seen.append(float(metrics["loss"]))
        norms.append(float(metrics["grad_norm"]))
    return seen, norms, state


@pytest.mark.parametrize("kind", KINDS)
def test_clipped_adamw_steps(kind, trainer, golden):
    batches = [sft_batch(number) for number in range(rows.STEPS)]
    seen, norms, state = run_steps(*trainer(kind), batches)
    np.testing.assert_allclose(seen, golden[f"{kind}/losses"], rtol=1e-4)
    np.testing.assert_allclose(norms, golden[f"{kind}/gradient_norms"], rtol=1e-4)
    named = in_torch_names(state.trainable, kind == "full")
    if kind == "full":
        assert_summary_equal(golden, "full/trained", named, tolerance=1e-4)
        return
    for name, value in named.items():
        np.testing.assert_allclose(
            value, golden[f"{kind}/trained/{name}"], rtol=0, atol=1e-4, err_msg=name
        )


@pytest.mark.parametrize("warmup", [0, rows.SCHEDULE_WARMUP])
@pytest.mark.parametrize("name", optim.SCHEDULES)
def test_schedules(name, warmup, golden):
    rate = optim.schedule(
        name, learning_rate=1.0, warmup_steps=warmup, total_steps=rows.SCHEDULE_STEPS
    )
    found = [float(rate(step)) for step in range(rows.SCHEDULE_STEPS)]
    np.testing.assert_allclose(found, golden[f"schedule/{name}/{warmup}"], atol=1e-6)


# ---------------------------------------------------------------------------- TRL


@pytest.mark.parametrize("kind", rows.TRL_TRAINED)
def test_losses_that_trl_logs(kind, trainer):
    """Two microbatches a step, of unequal numbers of trained tokens: the division is TRL's."""
    golden = {
        key.removeprefix(f"{kind}/"): value
        for key, value in np.load(rows.TRL_FILE).items()
        if key.startswith(f"{kind}/")
    }
    mask = golden["labels"] != -100
    mask[:, 0] = False
    examples = rows.TRL_ROWS * rows.TRL_MICROBATCHES
    batches = [
        microbatches(*(golden["ids"][here], mask[here], golden["lengths"][here]), 1, rows.TRL_ROWS)
        for here in np.split(np.arange(examples * rows.TRL_STEPS), rows.TRL_STEPS)
    ]
    seen, norms, _ = run_steps(*trainer("full", rows.TRL_EPSILON), batches)
    np.testing.assert_allclose(seen, golden["losses"], rtol=1e-4)
    np.testing.assert_allclose(norms, golden["gradient_norms"], rtol=1e-4)
