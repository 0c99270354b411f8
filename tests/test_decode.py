"""Decoding: equal to `generate` of transformers, and the same whatever runs beside it."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from safety_jax.base import compilation, meshes, trees
from safety_jax.base.errors import ConfigError, DataError, NotFiniteError
from safety_jax.models import bits, llama, lora, multi_lora, rotary
from safety_jax.models.attention import Rule
from safety_jax.models.decoding import (
    attending,
    caches,
    generation,
    layout,
    programs,
    reading,
    session,
    visiting,
)
from safety_jax.models.model import Model
from safety_jax.planning import abstract, collectives
from safety_jax.planning import decoding as planned
from tests import tiny_tokenizers
from tests.decoding import GREEDY, NUMBERS, PROMPTS, SAMPLED, SEED, generate, setup
from tests.golden import cases
from tests.samples import execute_on, moved, random_adapters, whole_logits

FIRST = dataclasses.replace(SAMPLED, max_new_tokens=1)


def ids_of(found) -> dict[int, list[tuple[list[int], str]]]:
    return {i: [(answer.ids, answer.finish) for answer in row] for i, row in found.items()}


@pytest.fixture(scope="module")
def reference(small_model):
    return generate(small_model, setup())


# ---------------------------------------------------------------------------- independence


def test_answers_end_at_different_lengths(reference):
    lengths = {len(answer.ids) for row in reference.values() for answer in row}
    assert len(lengths) > 5 and max(lengths) == cases.DECODE_TOKENS
    assert {answer.finish for row in reference.values() for answer in row} == {"eos", "length"}


def test_the_same_in_other_lanes_chunks_and_buckets(small_model, reference):
    made = setup(lanes=10, bucket_tokens=16, chunk_steps=5, prefill_tokens=12)
    assert ids_of(generate(small_model, made)) == ids_of(reference)


def test_the_same_alone_and_whatever_the_number_of_candidates(small_model, reference):
    alone = generate(small_model, setup(), [3])
    assert ids_of(alone)[3] == ids_of(reference)[3]
    fewer = dataclasses.replace(SAMPLED, candidates=2)
    found = generate(small_model, setup(fewer))
    assert all(ids_of(found)[i] == row[:2] for i, row in ids_of(reference).items())


@pytest.fixture(scope="module")
def eight_parts():
    """Every kernel in eight parts, four of them of `fsdp`: half a query head, a quarter of a key
    head."""
    return meshes.build(1, 4, 2)


def test_eight_devices_write_the_same(small_model, eight_parts, reference):
    """Weights are lent, and come home bit for bit."""
    model = moved(small_model, eight_parts)
    homes = jax.tree.map(lambda leaf: leaf.sharding, model.weights)
    with layout.lent(model) as speaker:
        kernel = speaker.weights["layers"]["key"]["kernel"]
        assert kernel.addressable_shards[0].data.shape == (2, 2, 32)
        found = generate(speaker, setup(lanes=12, prefill_tokens=8))
    assert ids_of(found) == ids_of(reference)
    assert jax.tree.map(lambda leaf: leaf.sharding, model.weights) == homes
    for ours, known in zip(
        jax.tree.leaves(model.weights), jax.tree.leaves(small_model.weights), strict=True
    ):
        np.testing.assert_array_equal(ours, known)


def test_eight_devices_search_the_same(small_model, eight_devices):
    settings = dataclasses.replace(GREEDY, beams=4, candidates=4)
    alone = generate(small_model, setup(settings, lanes=16))
    made = setup(settings, lanes=16, prefill_tokens=8)
    assert ids_of(generate(moved(small_model, eight_devices), made)) == ids_of(alone)


def test_a_step_gathers_no_weights(small_model, eight_parts):
    """Of four lanes, every activation is smaller than what two devices hold of any kernel; and two
    sums a layer join the products, one behind attention and one behind the MLP."""
    adapted = dataclasses.replace(
        moved(small_model, eight_parts), adapters=random_adapters(small_model.config, eight_parts)
    )
    speaker, made = layout.copied(adapted), setup(lanes=4)
    sizes = session.cache_sizes(made, speaker.mesh, lanes=4, slots=4, prefix=0, longest=32)
    whole = functools.partial(abstract.replicated, speaker.mesh)
    lanes = programs.Lanes(whole(4), whole(4), whole(4, dtype=jnp.bool_))
    seats = attending.Seats(whole(4), whole(4), whole(4, 3), whole(4), whole())
    step = jax.jit(programs.next_logits, donate_argnums=1).lower(
        speaker, planned.cache(speaker, made, sizes), seats, lanes, whole()
    )
    found = collectives.read(step.compile().as_text(), 8)
    smallest = min(leaf.nbytes for leaf in jax.tree.leaves(speaker.weights) if leaf.size > 200)
    gathered = max(one.size for one in found if one.kind == "all-gather")
    assert gathered <= smallest // small_model.config.layers // 4
    stream = [one for one in found if one.kind == "all-reduce" and one.numbers >= 4 * 32]
    assert sum(bool(one.loops) for one in stream) == 2


def test_copies_for_decoding_are_of_the_type_that_is_computed_in(small_model, eight_devices):
    model = moved(small_model, eight_devices)
    run = dataclasses.replace(model.execution, compute_dtype=jnp.dtype(jnp.bfloat16))
    speaker = layout.copied(dataclasses.replace(model, execution=run))
    for name, leaf in trees.flatten(speaker.weights).items():
        assert bits.floats(leaf).dtype == (jnp.float32 if "norm" in name else jnp.bfloat16), name
    assert layout.copied(speaker) is speaker


def test_a_second_call_compiles_nothing(small_model, reference):
    """Nor do other prompts, of other lengths and another number, at another seed, nor another
    tokenizer."""
    counter = compilation.Counter()
    random = np.random.default_rng(1)
    prompts = [random.integers(21, 96, n).tolist() for n in (30, 2, 11, 1, 23, 6, 14, 28, 3)]
    other = dataclasses.replace(small_model, tokenizer=tiny_tokenizers.llama())
    found = generation.generate(other, setup(), prompts, range(9), SEED + 1, None)
    assert [len(row) for row in found] == [SAMPLED.candidates] * 9
    assert counter.programs == 0


@pytest.mark.parametrize("window", [None, 6])
def test_a_shared_beginning_and_prompts_in_pieces_are_exact(window, small_model, one_device):
    """Twenty tokens that all begin with, read once, rests of up to twenty read eight at a time, in
    blocks of eight, of which a layer with a window keeps one, against one forward pass over each
    prompt and its answer."""
    (kind,) = small_model.config.kinds  # of two layers, the first sees `window` tokens
    pattern = (dataclasses.replace(kind, window=window), kind)
    config = dataclasses.replace(small_model.config, pattern=pattern)
    run = execute_on(one_device, rules=config.rules)
    model = dataclasses.replace(small_model, config=config, execution=run)
    random = np.random.default_rng(5)
    shared = random.integers(21, 96, 20).tolist()
    prompts = [shared + random.integers(21, 96, n).tolist() for n in (1, 20, 0, 3, 9, 2)]
    prompts[2] += [50]  # all but the last token of the shortest is shared
    made = setup(prefill_tokens=8, bucket_tokens=8)
    with_prefix = reading.shared(prompts, made.pace.prefill_tokens)
    assert with_prefix == 20
    found = generation.generate(model, made, prompts, range(6), SEED, None)
    for prompt, row in zip(prompts, found, strict=True):
        for answer in row:
            expected = uncached(model, prompt, answer)
            assert answer.logprobs_sum == pytest.approx(expected, abs=1e-4 * len(answer.ids))


def test_programs_do_not_grow_with_depth(small_model):
    sizes_of: dict[int, list[int]] = {}
    made = setup()
    for layers in (2, 8):
        config = dataclasses.replace(small_model.config, layers=layers)
        weights = abstract.weights(llama.parameters(config), small_model.mesh, jnp.float32)
        model = Model(config, small_model.execution, weights, None, None)
        sizes = session.cache_sizes(made, model.mesh, lanes=5, slots=6, prefix=0, longest=32)
        held = planned.cache(model, made, sizes)
        lowered = (
            planned.lower_reading(model, made, held),
            planned.lower_writing(model, made, held, sizes),
        )
        sizes_of[layers] = [len(one.as_text().splitlines()) for one in lowered]
    assert sizes_of[2] == sizes_of[8]


def test_candidates_and_seeds_differ(small_model, reference):
    for row in reference.values():
        assert len({tuple(answer.ids) for answer in row}) > 1
    other = generation.generate(small_model, setup(), PROMPTS, NUMBERS, SEED + 1, None)
    assert [row[0].ids for row in other] != [row[0].ids for row in reference.values()]


# ---------------------------------------------------------------------------- log-probabilities


def uncached(model: Model, prompt, answer) -> float:
    """Log-probability of the answer by one forward pass over prompt and answer."""
    whole = prompt + answer.ids
    ids = np.array([whole + [0] * (64 - len(whole))])  # causal: what follows changes nothing
    found = np.asarray(jax.nn.log_softmax(whole_logits(model, ids)))[0]
    return float(found[np.arange(len(prompt) - 1, len(whole) - 1), answer.ids].sum())


@pytest.mark.parametrize("window", [None, 5])
def test_groups_of_rows_change_nothing(window, config, one_device, monkeypatch):
    """To the bit, where rows look at different numbers of blocks, one at none of its slot's."""
    sizes = caches.CacheSizes(8, 8, prefix_tokens=4, prompt_tokens=16, own_tokens=8, block_tokens=4)
    config = dataclasses.replace(config, layers=1, kv_heads=2, head_size=4)
    random = np.random.default_rng(0)
    drawn = lambda *shape: jnp.asarray(random.standard_normal(shape), jnp.float32)  # noqa: E731
    cache = jax.tree.map(lambda x: drawn(*x.shape), caches.zeros(config, sizes, jnp.float32))
    order = np.arange(8, dtype=np.int32)
    lengths = np.array([15, 13, 9, 8, 4, 3, 1, 0], np.int32)
    seats = attending.Seats(order, 0 * order, order[:, None], lengths, np.int32(3))
    written, alive = np.array([7, 5, 5, 4, 3, 2, 1, 0], np.int32), order != 3
    heads = drawn(8, 1, 4, 4), drawn(8, 1, 2, 4), drawn(8, 1, 2, 4)

    def attended(most_bytes: int):
        monkeypatch.setattr(visiting, "GROUP_BYTES", most_bytes)

        @jax.jit
        def step(cache, seats, written, alive, q, k, v):
            view = attending.look(seats, cache, written, alive, jnp.int32(5), one_device)
            return attending.write(
                jnp.int32(0), cache, q, k, v, 0, seats=seats, view=view,
                rules=(Rule(window=window),), mesh=one_device,
                arrangement=caches.arranged(config, cache),
            )[0]  # fmt: skip

        return np.asarray(step(cache, seats, written, alive, *heads))

    whole, by_two = attended(2**20), attended(2 * 2 * 4 * 4 * 4)
    assert np.isfinite(whole).all() and (whole == by_two).all()


def test_cached_equals_uncached(small_model, reference):
    for number in (1, 3):
        for answer in reference[number]:
            expected = uncached(small_model, PROMPTS[number], answer)
            assert answer.logprobs_sum == pytest.approx(expected, abs=1e-4 * len(answer.ids))


def test_adapters_applied_equal_adapters_merged(small_model):
    adapters = random_adapters(small_model.config, small_model.mesh)
    adapted = dataclasses.replace(small_model, adapters=adapters)
    whole = dataclasses.replace(small_model, weights=lora.merge(small_model.weights, adapters))
    applied = generate(adapted, setup(), [0, 1])
    merged = generate(whole, setup(), [0, 1])
    assert ids_of(applied) == ids_of(merged)
    answer = applied[1][0]
    expected = uncached(adapted, PROMPTS[1], answer)
    assert answer.logprobs_sum == pytest.approx(expected, abs=1e-4 * len(answer.ids))


def test_adapters_in_one_batch_answer_as_each_alone(small_model, eight_parts):
    """Other ranks, targets, layers and scales, and the base, on eight devices: equal to models with
    one of them merged, on one device."""
    every = random_adapters(small_model.config, small_model.mesh)
    narrow = {
        target: {"a": pair["a"][:, :3] / 2, "b": pair["b"][..., :3]}
        for target, pair in every.weights.items()
        if target in ("query", "down")
    }
    last = jax.tree.map(lambda leaf: -leaf[1:], every.weights)
    several = [
        every,
        lora.Adapters(narrow, 3.0, 0.0),
        None,
        dataclasses.replace(every, weights=last, scale=1.5, on=lora.on((1,), 2)),
    ]
    which = [0, 1, 3]
    merged = [
        ids_of(generate(dataclasses.replace(small_model, weights=weights), setup(), which))
        for weights in (
            small_model.weights if one is None else lora.merge(small_model.weights, one)
            for one in several
        )
    ]
    assert len({str(found) for found in merged}) == len(several)
    model, declared = moved(small_model, eight_parts), llama.parameters(small_model.config)
    placed = jax.device_get(several)
    model = dataclasses.replace(model, adapters=multi_lora.stack(placed, declared, model.mesh))
    asked = [(who, i) for i in which for who in range(len(several))]
    with layout.lent(model) as speaker:
        found = generation.generate(
            speaker, setup(lanes=12, prefill_tokens=8), [PROMPTS[i] for _, i in asked],
            [NUMBERS[i] for _, i in asked], SEED, None, [who for who, _ in asked],
        )  # fmt: skip
    for (who, i), answers in zip(asked, found, strict=True):
        assert [(answer.ids, answer.finish) for answer in answers] == merged[who][i]


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.int8])
def test_a_smaller_cache_is_near(dtype, small_model):
    exact, near = (
        generate(small_model, setup(FIRST, eos=(), cache_dtype=kind))
        for kind in (jnp.float32, dtype)
    )
    gaps = []
    for number in range(len(PROMPTS)):
        for one, other in zip(exact[number], near[number], strict=True):
            if one.ids == other.ids:
                gaps.append(abs(one.logprobs_sum - other.logprobs_sum))
    assert len(gaps) > 15 and 0 < max(gaps) < 0.3


# ---------------------------------------------------------------------------- ends and errors


def test_stop_strings_cut_text_tokens_and_log_probability(small_model, reference):
    def text(ids) -> str:
        return "".join(f"<{number}>" for number in ids)

    whole = reference[3][0]
    assert len(whole.ids) > 4
    # Ends inside the fourth token's text, and begins inside the third's.
    string = text(whole.ids)[len(text(whole.ids[:3])) - 1 : len(text(whole.ids[:4])) - 1]
    stopped = generate(small_model, setup(stop=generation.Stop((string,), text)))
    answer = stopped[3][0]
    assert answer.finish == "stop"
    assert answer.ids == whole.ids[: len(answer.ids)] and string in text(answer.ids)
    assert string not in text(answer.ids[:-1])
    assert answer.text == text(whole.ids).split(string)[0]
    expected = uncached(small_model, PROMPTS[3], answer)
    assert answer.logprobs_sum == pytest.approx(expected, abs=1e-3)
    for number, row in reference.items():
        for before, after in zip(row, stopped[number], strict=True):
            plain = before.ids[:-1] if before.finish == "eos" else before.ids
            assert (after.finish == "stop") == (string in text(plain))
            if after.finish != "stop":
                assert (after.ids, after.text) == (before.ids, text(plain))


def test_one_token_and_no_prompts(small_model):
    found = generate(small_model, setup(FIRST, eos=()))
    assert all(len(a.ids) == 1 and a.finish == "length" for row in found.values() for a in row)
    assert all(math.isfinite(a.logprobs_sum) for row in found.values() for a in row)
    assert generate(small_model, setup(), []) == {}


def test_the_bar_counts_tokens_and_prompts(small_model, capsys):
    generation.generate(small_model, setup(), PROMPTS[:2], NUMBERS[:2], SEED, "answers")
    shown = capsys.readouterr().err
    assert "answers: 100%" in shown and "2/2" in shown and "tokens/s" in shown


def test_refused(small_model, one_device, eight_devices):
    for prompt in ([], [small_model.config.vocabulary_size], [-1]):
        with pytest.raises(DataError, match="prompt 7 has .* use the model's own tokenizer"):
            generation.generate(small_model, setup(), [prompt], [7], SEED, None)
    rope = rotary.Rope(1e4, "dynamic", 2.0, original_max_positions=9)
    kinds = (llama.LayerKind(None, rope),)
    dynamic = dataclasses.replace(
        small_model, config=dataclasses.replace(small_model.config, pattern=kinds)
    )
    with pytest.raises(DataError, match="prompt 7 has 3 tokens.*change beyond 9 tokens"):
        generation.generate(dynamic, setup(), [[1, 2, 3]], [7], SEED, None)
    with pytest.raises(ConfigError, match="lanes 6 does not divide over mesh data x fsdp = 4"):
        setup(lanes=6).check(eight_devices)
    beams = dataclasses.replace(GREEDY, beams=4)
    with pytest.raises(ConfigError, match="beam search ends at token ids only"):
        setup(beams, stop=generation.Stop(("x",), str)).check(one_device)
    with pytest.raises(ConfigError, match="chunk_steps 0"):
        setup(chunk_steps=0).check(one_device)


# ---------------------------------------------------------------------------- damaged models


@pytest.mark.parametrize("way", ["sampled", "searched"])
def test_a_model_that_computes_nan_answers_nothing(way, small_model, reference):
    """Whether a weight is damaged, which is named, or the numbers overflow."""
    del reference  # with the program that samples; that of the search is another test's, too
    searching = dataclasses.replace(GREEDY, beams=4, candidates=4)
    made = setup() if way == "sampled" else setup(searching, lanes=16)
    flat = trees.flatten(small_model.weights)
    up = next(name for name in flat if name.endswith("up.kernel"))
    for name, damage, said in (
        (up, lambda x: x.at[1, 2, 3].set(jnp.nan), f"the weight {up} holds numbers that are not"),
        (
            "final_norm",
            lambda x: x * 1e38,
            "all weights are finite, so the numbers overflow in float32",
        ),
    ):
        weights = trees.unflatten(flat | {name: damage(flat[name])})
        model = dataclasses.replace(small_model, weights=weights)
        with pytest.raises(NotFiniteError, match=f"^some: the logits are .* at token .*{said}"):
            generation.generate(model, made, PROMPTS, NUMBERS, SEED, "some")
