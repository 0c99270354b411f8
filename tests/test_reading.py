"""How prompts are read: packed without gaps, their common beginning once; codes of a cache."""

import jax.numpy as jnp
import numpy as np

from safety_jax.models.decoding import (
    caches,
    reading,
)


def test_rows_are_packed_without_gaps_and_go_on_where_they_ended():
    """Every token once, at its place; all rows full but the last; a piece follows its past."""
    sizes = caches.CacheSizes(
        4, 9, prefix_tokens=16, prompt_tokens=64, own_tokens=8, block_tokens=8
    )
    prompts = [(slot, list(range(100 * slot, 100 * slot + n))) for slot, n in
               enumerate((5, 0, 30, 1, 12, 3, 17))]  # fmt: skip
    found, batches = {}, list(reading.pack(prompts, 7, sizes, 2, 10))
    for number, rows in enumerate(batches):
        filled = rows.segments > 0
        assert filled.all() or number == len(batches) - 1
        assert (rows.to.slots[~filled] == sizes.prompts).all()
        for row in range(2):
            first = rows.segments[row] == 1
            if rows.past[row]:
                assert set(rows.to.slots[row][first]) == {rows.slots[row]}
                assert rows.to.places[row][first][0] == rows.past[row]
        for slot, place, position, token in zip(
            *(x[filled] for x in (rows.to.slots, rows.to.places, rows.positions, rows.ids)),
            strict=True,
        ):
            assert position == 7 + place and (slot, place) not in found
            found[slot, place] = token
    expected = {(slot, i): token for slot, ids in prompts for i, token in enumerate(ids)}
    assert found == expected and len(batches) == 4  # 68 tokens in rows of 2 x 10


def test_a_beginning_is_shared_where_that_saves_more_than_a_row():
    prompts = [[1, 2, 3, 4], [1, 2, 3], [1, 2, 3, 9, 9]]
    assert reading.shared(prompts, 3) == 2  # never the last token of a prompt
    assert reading.shared(prompts, 4) == 0
    assert reading.shared(prompts[:1], 0) == 0
    assert reading.shared([[1, 2], [3, 2]], 0) == 0


def test_codes_of_a_cache_are_within_half_a_step():
    fresh = np.random.default_rng(0).normal(size=(3, 2, 16)).astype(np.float32)
    fresh[1, 1] = 0
    held = caches.Codes.of(jnp.asarray(fresh))
    assert held.codes.dtype == jnp.int8 and np.abs(held.codes).max(-1).tolist() == [
        [127, 127], [127, 0], [127, 127]
    ]  # fmt: skip
    steps = np.abs(fresh).max(-1, keepdims=True) / 127
    given = np.asarray(held.codes) * np.asarray(held.scales)[..., None]
    assert (np.abs(given - fresh) <= steps * 0.501).all()
