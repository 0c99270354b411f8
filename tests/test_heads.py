"""Score heads on every trunk: equal to transformers, blind to padding, adapted or not."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from safety_jax.base import meshes, trees
from safety_jax.base.batch import Tokens
from safety_jax.base.errors import ConfigError
from safety_jax.data import packing
from safety_jax.judges import batching
from safety_jax.models import layers, lora
from safety_jax.models.encoders import heads, score_head
from tests.golden import score_cases
from tests.samples import execute_on

# One of each kind, and the parts that stand outside the stacked layers.
KINDS = ("deberta_v3", "deberta_convolution", "bert", "gpt2", "llama")
PARTS = ("ids", "types")


def scorer_of(folder, mesh, remat="none"):
    scorer = heads.read_scorer(folder)
    run = execute_on(mesh, remat, scorer.rules)
    return scorer, heads.load(folder, scorer, mesh, jnp.float32), run


def batch_of(golden):
    ids, types = (jnp.asarray(golden[name], jnp.int32) for name in ("ids", "types"))
    return ids, types, jnp.asarray(golden["mask"])


def compiled(function):
    """Quickly: these programs run once or twice."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def forward_of(scorer, run):
    def forward(weights, adapters, ids, types, mask):
        return heads.scores(scorer, weights, ids, types, mask, run, adapters)

    return compiled(forward)


def scores_of(scorer, weights, run, golden, adapters=None) -> np.ndarray:
    return np.asarray(forward_of(scorer, run)(weights, adapters, *batch_of(golden)))


@pytest.fixture(scope="module")
def opened(tmp_path_factory, one_device):
    """Scorer, weights, execution and compiled forward pass of a case, made once."""
    made = {}

    def open_case(name):
        if name not in made:
            folder = score_cases.write_case(tmp_path_factory.mktemp(name), name)
            scorer, weights, run = scorer_of(folder, one_device)
            made[name] = (scorer, weights, run, forward_of(scorer, run))
        return made[name]

    return open_case


# ---------------------------------------------------------------------------- scores


@pytest.mark.parametrize("name", score_cases.CASES)
def test_scores_of_every_architecture(name, opened):
    scorer, weights, _, forward = opened(name)
    golden = score_cases.read_golden(name)
    found = forward(weights, None, *batch_of(golden))
    assert found.shape == (score_cases.ROWS, scorer.labels) and found.dtype == jnp.float32
    np.testing.assert_allclose(found, golden["logits"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", score_cases.ENDED)
def test_an_end_of_text_that_is_padding_too_is_not_read(name, opened, tmp_path):
    """`transformers` reads the last token that is not config.json's padding, whatever it means."""
    _, weights, run, _ = opened(name)
    folder = score_cases.write_case(tmp_path / name, name, pad_token_id=score_cases.ENDED_BY)
    scorer = heads.read_scorer(folder)
    ids, logits = score_cases.read_ended(name)
    golden = score_cases.read_golden(name) | {"ids": ids}
    found = scores_of(scorer, weights, run, golden)
    np.testing.assert_allclose(found, logits, rtol=0, atol=1e-4)


def test_packed_segments_are_read_where_rows_are():
    ids = jnp.array([[5, 2, 6, 2, 2, 2, 2, 7, 0]])
    segments = jnp.array([[1, 1, 2, 2, 2, 3, 3, 4, 0]])
    positions = jnp.array([[0, 1, 0, 1, 2, 0, 1, 0, 0]])
    tokens = Tokens(ids, positions, segments, jnp.zeros(ids.shape, bool))
    ends = jnp.array([[1, 4, 6, 7]])

    def cells(reads, skips):
        head = score_head.HeadConfig(8, 1, reads, None, False, (0.0,), (1.0,), 0.02, skips)
        return score_head.cells_read(head, tokens, ends)

    # The third is nothing but padding: `transformers` reads its first token.
    np.testing.assert_array_equal(cells("last", 2), [[0, 2, 5, 7]])
    np.testing.assert_array_equal(cells("last", None), ends)
    np.testing.assert_array_equal(cells("first", None), [[0, 2, 5, 7]])


@pytest.mark.parametrize("name", (*KINDS, "deberta_absolute", "deberta_types", "roberta"))
def test_texts_that_share_a_row_score_as_alone(name, opened):
    """Shortest first, with one cell between them for the convolution: positions, distances, types
    and what is read are each text's own."""
    scorer, weights, run, _ = opened(name)
    golden = score_cases.read_golden(name)
    texts = [
        batching.TokenRow(
            *(golden[part][row, : golden["mask"][row].sum()].tolist() for part in PARTS)
        )
        for row in range(score_cases.ROWS)
    ]
    packed = packing.PackedRows([[3, 2, 1], [0]], rows=2, length=48, segments=4, common=0)
    batch = batching.fill(texts, packed, gap=1)
    scores = compiled(functools.partial(heads.packed_scores, scorer, execution=run))
    found = np.asarray(scores(weights, *jax.tree.map(jnp.asarray, (batch.tokens, batch.ends))))
    expected = golden["logits"][batch.indices]
    np.testing.assert_allclose(found[batch.places], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("at_once", [4 * 2 * 5 * 5, 8 * 2 * 5 * 5])
def test_heads_attend_in_groups_as_all_at_once(at_once, one_device, monkeypatch):
    """Six heads, one or two at a time; some have a third part, as positions are to DeBERTa."""
    run = execute_on(one_device)
    q, k, v = jax.random.normal(jax.random.key(0), (3, 6, 2, 5, 4))
    segments = jnp.array([[1, 1, 2, 2, 0], [1, 2, 3, 3, 3]])

    def attended(added):
        def scores_of(q, k, added):
            scores = jnp.einsum("hbte,hbse->hbts", q, k)
            return scores if added is None else scores + added

        return layers.attend(scores_of, (q, k, added), v, segments, segments, run)

    added = (None, jax.random.normal(jax.random.key(1), (6, 1, 1, 5)))
    expected = [attended(one) for one in added]
    monkeypatch.setattr(layers, "SCORES_AT_ONCE", at_once)
    for one, whole in zip(added, expected, strict=True):
        np.testing.assert_allclose(attended(one), whole, rtol=1e-6, atol=1e-6)
    alone = np.asarray(v[:, 1, 0]).reshape(-1)  # a segment of one token takes all of its value
    np.testing.assert_allclose(expected[0][1, 0], alone, rtol=1e-6)


def changed(**changes):
    return lambda scorer: dataclasses.replace(scorer.config, **changes)


WRONG = {
    "buckets": ("deberta_v3", changed(buckets=6)),
    "bucket size": ("deberta_v3", changed(max_distance=48)),
    "distance": ("deberta_short_distances", changed(max_distance=5)),
    "one product": ("deberta_v3", changed(content_to_position=False)),
    "other product": ("deberta_v3", changed(position_to_content=False)),
    "scale without positions": ("deberta_absolute", changed(content_to_position=False)),
    "epsilon": ("bert_relu", changed(norm_epsilon=1e-2)),
    "first position": ("roberta", changed(first_position=0)),
    "activation": ("gpt2_two_labels", changed(activation="relu")),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_a_wrong_config_value_shows(mistake, opened):
    """What the parity test would see if a value were lost on the way."""
    name, change = WRONG[mistake]
    scorer, weights, run, _ = opened(name)
    wrong = dataclasses.replace(scorer, config=change(scorer))
    flat = trees.flatten(weights)
    fitted = {
        ours: flat[ours][tuple(map(slice, parameter.shape))]
        for ours, parameter in heads.parameters(wrong).items()
    }
    golden = score_cases.read_golden(name)
    found = scores_of(wrong, trees.unflatten(fitted), run, golden)
    assert np.abs(found - golden["logits"]).max() > 1e-3


def gradient_of(scorer, run):
    def total(weights, ids, types, mask):
        scores = heads.scores(scorer, weights, ids, types, mask, run)
        return jnp.sin(scores).sum(), scores

    return compiled(jax.value_and_grad(total, has_aux=True))


@pytest.mark.parametrize("name", KINDS)
def test_padding_moves_nothing(name, opened):
    """The ids that stand there change no score and get no gradient; all gradients are finite."""
    scorer, weights, run, _ = opened(name)
    golden = score_cases.read_golden(name)
    free = max(set(range(score_cases.VOCABULARY)) - set(golden["ids"].ravel().tolist()))
    filled = golden | {"ids": np.where(golden["mask"], golden["ids"], free)}
    (_, scores), gradients = gradient_of(scorer, run)(weights, *batch_of(filled))
    np.testing.assert_allclose(scores, golden["logits"], rtol=0, atol=1e-4)
    flat = trees.flatten(gradients)
    np.testing.assert_array_equal(flat["embedding"][free], 0)
    for ours, gradient in flat.items():
        assert np.isfinite(gradient).all(), ours
        # A constant on all keys cancels in the softmax.
        assert np.abs(gradient).max() > 0 or "bias" in ours, ours


def test_more_padding_moves_nothing(opened):
    scorer, weights, run, forward = opened("deberta_v3")
    golden = score_cases.read_golden("deberta_v3")
    longer = {name: np.pad(golden[name], ((0, 0), (0, 8))) for name in ("ids", "types", "mask")}
    found = forward(weights, None, *batch_of(longer))
    np.testing.assert_allclose(found, golden["logits"], rtol=0, atol=1e-4)


def test_remat_changes_no_gradient(opened):
    scorer, weights, run, _ = opened("deberta_v3")
    batch = batch_of(score_cases.read_golden("deberta_v3"))
    plain, *again = (
        gradient_of(scorer, dataclasses.replace(run, remat=remat))(weights, *batch)[1]
        for remat in ("none", "dots", "full")
    )
    for gradients in again:
        for found, expected in zip(*map(jax.tree.leaves, (gradients, plain)), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", KINDS)
def test_eight_devices_give_the_same_scores(name, tmp_path, eight_devices):
    scorer, weights, run = scorer_of(score_cases.write_case(tmp_path, name), eight_devices)
    split = [array for array in jax.tree.leaves(weights) if not array.is_fully_replicated]
    assert len(split) > 5
    golden = score_cases.read_golden(name)
    found = scores_of(scorer, weights, run, golden)
    np.testing.assert_allclose(found, golden["logits"], rtol=0, atol=1e-4)


def test_mesh_that_does_not_divide(tmp_path):
    scorer = heads.read_scorer(score_cases.write_case(tmp_path, "deberta_v3"))
    with pytest.raises(ConfigError, match="mesh does not divide the model"):
        heads.shardings(scorer, meshes.build(1, 1, 8))


# ---------------------------------------------------------------------------- adapters


@pytest.mark.parametrize("name", [*KINDS, "deberta_own_projections"])
def test_adapters_on_every_trunk(name, opened):
    """Merged = adapted, on all projections."""
    scorer, weights, _, forward = opened(name)
    adapted = heads.targets(scorer, ("all-linear",))
    declared = heads.parameters(scorer)
    kernels = {name for name in declared if name.startswith("layers.") and "kernel" in name}
    assert {f"layers.{target}.kernel" for target in adapted} == kernels
    random = np.random.RandomState(0)
    leaves = {
        leaf: jnp.asarray(0.3 * random.standard_normal(shape), jnp.float32)
        for leaf, (shape, _) in lora.shapes(declared, adapted, 3).items()
    }
    adapters = lora.Adapters(trees.unflatten(leaves), 0.5, 0.0)
    golden = score_cases.read_golden(name)
    found = np.asarray(forward(weights, adapters, *batch_of(golden)))
    assert np.abs(found - golden["logits"]).max() > 1e-2
    merged = lora.merge(weights, adapters)
    again = forward(merged, None, *batch_of(golden))
    np.testing.assert_allclose(again, found, rtol=0, atol=1e-4)


def test_targets_by_name(tmp_path):
    folder = score_cases.write_case(tmp_path, "deberta_v3")
    scorer = heads.read_scorer(folder)
    assert heads.targets(scorer, ("query_proj", "dense")) == ("query", "output", "up", "down")
    with pytest.raises(ConfigError, match="expected 'all-linear' or any of query_proj"):
        heads.targets(scorer, ("q_proj",))


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("remat", ["none", "full"])
def test_the_last_layer_makes_what_is_read_as_among_all(count, remat, one_device):
    """And no layer's weights get another gradient for it."""
    run = execute_on(one_device, remat)

    class Mixes(nnx.Module):
        def __init__(self, rngs):
            self.kernel = nnx.Param(jax.random.normal(rngs.params(), (4, 4)))

        def __call__(self, x, read=None):
            asking = x if read is None else layers.at(x, read)
            return asking + jnp.tanh(x.mean(axis=1, keepdims=True) @ self.kernel[...])

    stack = layers.stacked(Mixes, count, nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(1), (2, 3, 4))

    def call(layer, x, leaves, read=None):
        return layer(x, read)

    read = jnp.array([[0, 2], [1, 1]])

    def few(stack):
        return (layers.run_to_read(stack, {}, x, read, run, call) ** 2).sum()

    def among_all(stack):
        return (layers.at(layers.run_layers(stack, {}, x, run, call), read) ** 2).sum()

    (found, slopes), (expected, known) = (nnx.value_and_grad(f)(stack) for f in (few, among_all))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(slopes.kernel[...], known.kernel[...], rtol=1e-5, atol=1e-5)
    nothing = layers.split(stack, {}, count)[1]
    found = layers.run_to_read(*nothing, x, read, run, call)
    np.testing.assert_array_equal(found, layers.at(x, read))
