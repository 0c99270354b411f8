"""Packing, causality, remat and the mesh: what must not change the answer does not."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import print_saved_residuals

from safety_jax.base import meshes, trees
from safety_jax.base.errors import ConfigError
from safety_jax.maths import logprobs, losses
from safety_jax.models import llama, rotary
from safety_jax.models.folders import hf, hf_config
from safety_jax.models.model import Model
from tests.golden import cases
from tests.samples import execute_on, on_device, packed_rows, random_adapters, unpacked, with_window

ROWS = [[11, 7, 9], [20, 5], [29]]


def loss_and_gradient(config, weights, adapters, tokens, run):
    """Summed SFT loss and its gradient to every weight and every adapter leaf."""

    def loss(weights, leaves):
        given = dataclasses.replace(adapters, weights=leaves)
        model = Model(config, run, weights, given, None)
        scores = logprobs.token_logprobs(
            model.forward(tokens), model.head(), *logprobs.shift(tokens), chunk_tokens=8
        )
        return losses.sft(scores).loss

    return jax.jit(jax.value_and_grad(loss, (0, 1)))(weights, adapters.weights)


def assert_trees_close(given, expected, tolerance):
    known = trees.flatten(expected)
    for name, leaf in trees.flatten(given).items():
        scale = max(1.0, float(np.abs(known[name]).max()))
        np.testing.assert_allclose(leaf / scale, known[name] / scale, atol=tolerance, err_msg=name)


@pytest.fixture(scope="module")
def reference(config, weights, execution):
    """One example a row on one device: loss and gradients."""
    tokens = on_device(unpacked(packed_rows(ROWS, 32, 96), 32))
    adapters = random_adapters(config, execution.mesh)
    return loss_and_gradient(config, weights, adapters, tokens, execution)


@pytest.mark.parametrize("remat", ["none", "dots", "full"])
def test_packed_equals_unpacked_under_every_remat(remat, config, weights, one_device, reference):
    tokens = on_device(packed_rows(ROWS, 32, 96))
    run = execute_on(one_device, remat)
    loss, gradients = loss_and_gradient(
        config, weights, random_adapters(config, one_device), tokens, run
    )
    np.testing.assert_allclose(loss, reference[0], rtol=1e-6)
    assert_trees_close(gradients[0], reference[1][0], 1e-5)
    assert_trees_close(gradients[1], reference[1][1], 1e-5)


def test_a_cpu_keeps_nothing_in_16_bits_but_integers(config, weights, one_device, capsys):
    """Of all layers, that is: the compiler would widen a stack of such floats for each of them."""
    tokens = on_device(packed_rows(ROWS, 32, 96))
    run = dataclasses.replace(execute_on(one_device, "dots"), compute_dtype=jnp.dtype("bfloat16"))
    adapters = random_adapters(config, one_device)

    def total(leaves):
        model = Model(config, run, weights, dataclasses.replace(adapters, weights=leaves), None)
        return model.forward(tokens).astype(jnp.float32).sum()

    print_saved_residuals(total, adapters.weights)
    stacks = re.findall(rf"^(\w+)\[{config.layers},[\d,]+\]", capsys.readouterr().out, re.MULTILINE)
    assert stacks.count("u16") > 7 and "bf16" not in stacks, stacks


def test_eight_devices_equal_one(config, weights, eight_devices, reference):
    rows = packed_rows([*ROWS, []], 32, 96)
    spread = jax.device_put(jax.device_get(weights), llama.shardings(config, eight_devices))
    adapters = random_adapters(config, eight_devices)
    tokens = jax.device_put(on_device(rows), meshes.sharding(eight_devices, ("rows", "tokens")))
    loss, gradients = loss_and_gradient(
        config, spread, adapters, tokens, execute_on(eight_devices, "full")
    )
    np.testing.assert_allclose(loss, reference[0], rtol=1e-6)
    assert_trees_close(gradients[0], reference[1][0], 1e-5)
    assert_trees_close(gradients[1], reference[1][1], 1e-5)


# Every way in which layers and families differ: soft-caps, two ropes, shared adapters and lengths
# of examples, norms behind sublayers, no rope, queries scaled by position, multipliers and biases.
SPREAD = {
    name: cases.read_config(name)
    for name in ("gemma2", "gemma3", "phi3_long", "olmo3", "smollm3", "ministral3")
} | {"granite, biased": cases.read_config("granite") | {"attention_bias": True, "mlp_bias": True}}


def traits(given) -> set[tuple[str, object]]:
    """What a model has that others of one code do not, sizes and rounding left out."""
    config = hf_config.parse(given, "")
    fields = (
        *("norms", "norm_plus_one", "query_key_norm", "tied_embeddings", "activation"),
        *("query_key_value_bias", "output_bias", "mlp_bias"),
    )
    scaled = {
        "embedding": config.embedding_scale != 1, "residual": config.residual_scale != 1,
        "logits": config.logit_scale != 1, "capped": config.logit_softcap is not None,
        "capped within": config.attention_softcap is not None,
        "turned in part": config.rotary_size < config.head_size, "fused": config.files != "llama",
    }  # fmt: skip
    found = {(name, getattr(config, name)) for name in fields} | set(scaled.items())
    return found | {("window, rope", (k.window is None, k.rope is None)) for k in config.kinds}


def test_every_family_is_made_of_what_runs_on_eight_devices():
    run = set().union(*map(traits, SPREAD.values()))
    for name in cases.CASES:
        assert traits(cases.read_config(name)) <= run, name


@pytest.mark.parametrize("name", SPREAD)
def test_every_family_packed_on_eight_devices_is_its_examples_alone(
    name, tmp_path, one_device, eight_devices
):
    """Loss, and its gradient to adapters; examples longer and shorter than windows and contexts."""
    folder = cases.write_folder(tmp_path, SPREAD[name])
    config, packed = hf.read_config(folder), packed_rows([[70, 20], [24, 30, 9], [5], []], 96, 96)
    found = []
    for mesh, rows, remat in (
        (one_device, unpacked(packed, 80), "none"),
        (eight_devices, packed, "full"),
    ):
        weights = hf.load(folder, config, mesh, jnp.float32)
        adapters, run = random_adapters(config, mesh), execute_on(mesh, remat, config.rules)

        def loss(leaves, weights, tokens, adapters=adapters, run=run):
            given = dataclasses.replace(adapters, weights=leaves)
            model = Model(config, run, weights, given, None)
            scores = logprobs.token_logprobs(
                model.forward(tokens), model.head(), *logprobs.shift(tokens), chunk_tokens=16
            )
            return losses.sft(scores).loss

        tokens = jax.device_put(on_device(rows), meshes.sharding(mesh, ("rows", "tokens")))
        found.append(jax.jit(jax.value_and_grad(loss))(adapters.weights, weights, tokens))
    (alone, expected), (together, given) = found
    np.testing.assert_allclose(together, alone, rtol=1e-6)
    assert_trees_close(given, expected, 2e-5)


@pytest.mark.parametrize("window", [None, 4])
def test_causality_by_zero_gradient(window, config, weights, one_device):
    """A token's output depends on no later token, no other segment, nothing beyond the window."""
    config = with_window(dataclasses.replace(config, layers=1), window)
    weights = {**weights, "layers": jax.tree.map(lambda x: x[:1], weights["layers"])}
    tokens = on_device(packed_rows([[9, 8]], 20, 96))
    run = execute_on(one_device, rules=config.rules)
    where = 13  # position 4 of the second segment
    table = weights["embedding"][tokens.ids[0]]

    def output(inputs):
        moved = {**weights, "embedding": inputs}
        rows = dataclasses.replace(tokens, ids=jnp.arange(20)[None])
        hidden = Model(config, run, moved, None, None).forward(rows)
        return jnp.sin(hidden[0, where]).sum()

    reach = np.abs(jax.grad(output)(table)).max(axis=1)
    first = 9 if window is None else where - window + 1
    assert (reach[first : where + 1] > 0).all()
    np.testing.assert_array_equal(reach[:first], 0)
    np.testing.assert_array_equal(reach[where + 1 :], 0)


def test_parameters_cover_the_weights(config, weights):
    declared = llama.parameters(config)
    assert {name: leaf.shape for name, leaf in trees.flatten(weights).items()} == {
        name: parameter.shape for name, parameter in declared.items()
    }
    assert set(declared) == set(
        llama.parameters(dataclasses.replace(config, tied_embeddings=True))
    ) | {"head"}


def test_a_mesh_that_does_not_divide_is_refused(config):
    odd = dataclasses.replace(config, kv_heads=1)
    with pytest.raises(ConfigError, match="kv_heads = 1, which mesh tensor = 2 does not divide"):
        llama.shardings(odd, meshes.build(2, 2, 2))
    with pytest.raises(ConfigError, match="change mesh.data, mesh.fsdp or mesh.tensor"):
        meshes.build(3, 1, 1)


def test_rope_by_hand():
    """theta 100, head size 4: frequencies 1 and 1/10; linear scaling divides by the factor."""
    rope = rotary.Rope(100.0, factor=4.0, high_frequency_factor=4.0, original_max_positions=64)
    np.testing.assert_allclose(rotary.frequencies(rope, 4), [1.0, 0.1], rtol=1e-6)
    linear = dataclasses.replace(rope, kind="linear")
    np.testing.assert_allclose(rotary.frequencies(linear, 4), [0.25, 0.025], rtol=1e-6)
    # 64 tokens hold 10.2 turns of the first pair (kept) and 1.02 of the second (1.02 - 1) / 3 kept
    share = (6.4 / (2 * np.pi) - 1) / 3
    llama3 = dataclasses.replace(rope, kind="llama3")
    expected = [1.0, 0.1 * share + 0.025 * (1 - share)]
    np.testing.assert_allclose(rotary.frequencies(llama3, 4), expected, rtol=1e-5)
