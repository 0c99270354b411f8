"""The pass over held-out examples: means over tokens, tables by example, the best metric's name."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from safety_jax.base.errors import ConfigError
from safety_jax.data.loader import Loader
from safety_jax.maths import losses
from safety_jax.training import held_out, likelihood, placement
from safety_jax.training.task import Learning, Measured
from tests.samples import examples_of


def measure(mesh, loss, count) -> Measured:
    """A loss of three examples, in batches of two; answers are the numbers 2 2 2, 6, and 1."""
    examples = examples_of([[9], [9], [9]], [[2, 2, 2], [6], [1]])
    batches = Loader(
        examples, batch_size=2, row_tokens=8, rows_per_microbatch=1, packing=True, steps=None,
        seed=None, prefetch_steps=0, rows_here=range(1),
    )  # fmt: skip
    learning = Learning(
        loss=lambda trainable, frozen, tokens, totals, key: loss(tokens, totals),
        count=count,
        frozen=None,
        place=lambda loader, _: placement.place_tokens(mesh, loader),
        evaluation=lambda found, _: found.means,
    )
    return held_out.make_measure(learning, batches, examples, mesh)({})


def test_scalars_are_means_over_tokens(one_device):
    """Batches of four tokens and of one: (4 · 3 + 1 · 1) / 5."""
    found = measure(
        one_device,
        lambda tokens, totals: {"loss": (tokens.ids * tokens.mask).sum() / totals["tokens"]},
        lambda batch: {"tokens": batch.mask.sum().astype(float)},
    )
    np.testing.assert_allclose(found.means["loss"], 13 / 5, rtol=1e-6)
    assert found.table.shape == (3, 0) and found.examples.tolist() == [0, 1, 2]


def test_a_weighted_loss_is_a_mean_over_weights(one_device):
    """Weights 9, 9, 1 and 9, then 9: (28 · 3 + 9 · 1) / 37, beside (4 · 2 + 1 · 5) / 5."""
    early = losses.EarlyWeight(9.0, 2)

    def loss(tokens, totals):
        first = totals["weights"] > 20
        return {"loss": jnp.where(first, 3.0, 1.0), "nll_loss": jnp.where(first, 2.0, 5.0)}

    found = measure(one_device, loss, functools.partial(likelihood.count, early=early))
    np.testing.assert_allclose(found.means["loss"], (28 * 3 + 9 * 1) / 37, rtol=1e-6)
    np.testing.assert_allclose(found.means["nll_loss"], (4 * 2 + 1 * 5) / 5, rtol=1e-6)


def test_a_table_has_a_row_for_each_example_and_replaces_scalars(one_device):
    """Tables are as long as a whole batch. A compiled function returns totals in the order of
    their names, so none of them is the first."""

    def loss(tokens, totals):
        sums = [((tokens.segments == s) * tokens.mask * tokens.ids).sum() for s in (1, 2)]
        return {"loss": jnp.float32(1), "examples": jnp.stack(sums).astype(float)[:, None]}

    names = ("pairs", "chosen_tokens")
    found = measure(one_device, loss, lambda batch: {name: jnp.float32(2) for name in names})
    assert found.table.ravel().tolist() == [6, 6, 1] and found.means == {}


def test_the_best_metric_is_one_that_is_measured():
    held_out.check_metric("eval/loss", {"loss": 1.0})
    with pytest.raises(ConfigError, match="'eval/auc', which .* expected one of eval/loss"):
        held_out.check_metric("eval/auc", {"loss": 1.0})
