"""Reference log-probabilities on disk: never stale, resumed where they stopped, mended."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from safety_jax.base.errors import CheckpointError
from safety_jax.data.pairs import Pairs
from safety_jax.training import reference
from safety_jax.training.pooling import ExamplePool
from tests.samples import examples_of, loader_of
from tests.test_preference_training import random_pairs

PAIRS = random_pairs(8)


def test_a_pool_has_every_pair_once():
    def some(*numbers):
        parts = [[side.example(i) for i in numbers] for side in PAIRS.sides]
        sides = [
            examples_of([ids[~mask] for ids, mask in part], [ids[mask] for ids, mask in part])
            for part in parts
        ]
        return Pairs(*sides, unsafe=None, categories=[()] * len(numbers))

    runs = [some(1, 4, 2), some(4, 7), some(2, 0, 1)]
    pool = ExamplePool.of(runs)
    assert len(pool) == 5
    for side, known in zip(pool.sides, some(1, 4, 2, 7, 0).sides, strict=True):
        np.testing.assert_array_equal(side.ids, known.ids)
        np.testing.assert_array_equal(side.offsets, known.offsets)
    values = [-side.ids / 100 for side in pool.sides]
    for run in runs:
        for side, found in zip(run.sides, pool.values_of(run, values), strict=True):
            np.testing.assert_array_equal(found, -side.ids / 100)
    # Other tokens, or others of them trained, are other pairs.
    trained = PAIRS.rejected.mask.copy()
    trained[-1] ^= True
    masked = dataclasses.replace(PAIRS, rejected=dataclasses.replace(PAIRS.rejected, mask=trained))
    assert len(ExamplePool.of([PAIRS, changed_ids(PAIRS), masked, PAIRS])) == 8 + 1 + 1


class Interrupted(Exception):
    pass


@pytest.fixture
def known(one_device, tmp_path):
    """`known(...)`: values as `logprobs` gives them, and the number of microbatches scored.

    The model is arithmetic: the value of token v is -v / 100, on answers only.
    """

    @jax.jit
    def compiled(tokens):
        return jnp.where(tokens.mask, -tokens.ids / 100.0, 0.0).astype(jnp.float32)

    def run(pairs=PAIRS, facts=None, stop_after=None):
        calls = 0

        def score(start, frozen, tokens):
            nonlocal calls
            if calls == stop_after:
                raise Interrupted
            calls += 1
            return compiled(tokens)

        cache = reference.ReferenceCache(tmp_path / "reference", facts or {"weights": "abc"})
        batches = loader_of(pairs, batch_size=3, packing=False, rows_per_microbatch=3)
        values = reference.logprobs(cache, pairs, batches, score, None, {}, one_device, name="test")
        for side, found in zip(pairs.sides, values, strict=True):
            np.testing.assert_allclose(found, np.where(side.mask, -side.ids / 100, 0), rtol=1e-6)
        return calls, cache.folder(pairs)

    return run


def test_the_second_time_nothing_is_computed(known):
    first, folder = known()
    assert first == 3
    assert sorted(path.name for path in folder.iterdir()) == [
        "000000.npz",
        "000001.npz",
        "000002.npz",
        "facts.json",
    ]
    assert json.loads((folder / "facts.json").read_text())["weights"] == "abc"
    assert known() == (0, folder)


def test_single_answers_have_values_too(known):
    """As those that `sft.objective=constrained` holds to the start."""
    first, folder = known(PAIRS.chosen)
    assert first == 3 and known(PAIRS.chosen) == (0, folder)


def test_interrupted_it_goes_on_with_the_next_shard(known):
    with pytest.raises(Interrupted):
        known(stop_after=2)
    assert known()[0] == 1


def changed_ids(pairs):
    ids = pairs.rejected.ids.copy()
    ids[-1] += 1
    return dataclasses.replace(pairs, rejected=dataclasses.replace(pairs.rejected, ids=ids))


def changed_mask(pairs):
    mask = pairs.chosen.mask.copy()
    mask[np.flatnonzero(mask)[0]] = False
    return dataclasses.replace(pairs, chosen=dataclasses.replace(pairs.chosen, mask=mask))


@pytest.mark.parametrize("change", [changed_ids, changed_mask])
def test_other_tokens_are_another_folder(change, known):
    _, folder = known()
    calls, other = known(change(PAIRS))
    assert calls == 3 and other != folder


def test_other_weights_are_another_folder(known):
    _, folder = known()
    calls, other = known(facts={"weights": "abd"})
    assert calls == 3 and other != folder


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "encrypted", "other shape"])
def test_a_damaged_shard_is_computed_again(damage, known):
    _, folder = known()
    shard = folder / "000001.npz"
    content = bytearray(shard.read_bytes())
    if damage == "truncated":
        shard.write_bytes(content[:-200])
    elif damage == "flipped":
        content[130] ^= 0xFF  # inside the first array's numbers
        shard.write_bytes(content)
    elif damage == "empty":
        shard.write_bytes(b"")
    elif damage == "encrypted":  # as the archive's list of files says of the first one
        content[content.index(b"PK\1\2") + 8] ^= 1
        shard.write_bytes(content)
    else:
        np.savez(shard, chosen=np.zeros(2, np.float32), rejected=np.zeros(3, np.float32))
    assert known()[0] == 1
    assert known()[0] == 0


def test_a_folder_that_cannot_be_written(known, tmp_path):
    (tmp_path / "reference").write_text("a file where the folder should be")
    with pytest.raises(CheckpointError, match="reference values could not be written.*live"):
        known()
