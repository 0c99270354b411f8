"""What devices exchange in a training step, read from the compiled program."""

import pytest
from abstract_steps import Run
from collectives import count, read
from samples import execute_on

from safety_jax import mesh as meshes
from safety_jax import trees

KERNELS = 7  # of a layer


@pytest.fixture(scope="module")
def run(config):
    """Eight devices that share rows and weights."""
    return Run(config, execute_on(meshes.build(1, 8, 1), "full"), rank=4, chunk=16)


@pytest.fixture(scope="module")
def exchanged(run):
    return read(run.dpo(rows=8, T=32, segments=4).as_text())


@pytest.fixture(scope="module")
def adapter_numbers(run):
    return sum(leaf.size for leaf in trees.flatten(run.adapters).values())


def test_layers_gather_their_kernels_forward_and_backward_and_nothing_else(exchanged):
    assert count([one for one in exchanged if one.place != "once"]) == {
        ("all-gather", "jvp()/while"): KERNELS,
        ("all-gather", "transpose(jvp())/while"): KERNELS,
    }


def test_gradients_of_all_adapters_meet_once(exchanged, adapter_numbers):
    once = [one for one in exchanged if one.place == "once"]
    assert {one.kind for one in once} == {"all-reduce", "all-gather"}
    # The number of pairs, the most tokens a row trains; then gradients, with loss and table.
    reduced = sorted(one.numbers for one in once if one.kind == "all-reduce")
    assert len(reduced) == 3
    assert reduced[:2] == [1, 1] and reduced[2] >= adapter_numbers


def test_embedding_head_and_adapters_are_gathered_once(exchanged, adapter_numbers, config):
    gathered = sorted(
        one.numbers for one in exchanged if one.place == "once" and one.kind == "all-gather"
    )
    table = config.vocabulary_size * config.width
    assert gathered[-2:] == [table, table]
    # Factors that do not have the model's width among their sides are whole already.
    assert sum(gathered) - 2 * table < adapter_numbers
