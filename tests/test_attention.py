"""Every backend equals a written-out softmax on packed rows; what cannot is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from safety_jax.base.errors import ConfigError
from safety_jax.models import attention


def written_out(q, k, v, segments, prefixes, rule):
    """Loops over rows, heads and queries in numpy: the definition."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    seen_by = [np.asarray(x) for x in (segments, segments if prefixes is None else prefixes)]
    B, T, H, E = q.shape
    group = H // k.shape[2]
    out = np.zeros_like(q)
    for b in range(B):
        for h in range(H):
            for t in range(T):
                first = 0 if rule.window is None else max(0, t - rule.window + 1)
                numbers = {int(numbered[b, t]) for numbered in seen_by}
                seen = [s for s in range(first, t + 1) if int(segments[b, s]) in numbers]
                scores = np.array([q[b, t, h] @ k[b, s, h // group] for s in seen])
                scores = scores * (E**-0.5 if rule.scale is None else rule.scale)
                if rule.softcap is not None:
                    scores = rule.softcap * np.tanh(scores / rule.softcap)
                weights = np.exp(scores - scores.max())
                out[b, t, h] = (weights / weights.sum()) @ v[b, seen, h // group]
    return out


def inputs(T, H, K, E, rows=2):
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = ((rows, T, H, E), (rows, T, K, E), (rows, T, K, E))
    q, k, v = (jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True))
    cuts = [T // 3, T // 2, T - T // 8]
    segments = np.searchsorted(cuts, np.arange(T), side="right") + 1
    segments[cuts[-1] :] = 0
    return q, k, v, jnp.tile(jnp.asarray(segments), (rows, 1))


def as_pairs(segments):
    """The first segment as a prompt, the next two as its answers: segments and prefixes."""
    answers = jnp.where(segments == 1, -1, jnp.maximum(segments - 1, 0))
    return answers, jnp.where(answers == 0, 0, -1)


ALL = attention.Rule()
RULES = {
    "all": ALL,
    "window": attention.Rule(window=5),
    "scale": attention.Rule(scale=0.6, softcap=2.0),
    "cap": attention.Rule(window=21, scale=0.7, softcap=1.5),
}


@pytest.mark.parametrize(
    ("rule", "shared", "kv_heads"),
    [
        *(("all", False, 1), ("all", False, 4), ("all", True, 1), ("all", True, 2)),
        *(("window", False, 2), ("window", False, 4), ("scale", True, 4), ("cap", False, 2)),
    ],
)
def test_xla_equals_the_definition(rule, shared, kv_heads, monkeypatch):
    monkeypatch.setattr(attention, "QUERY_BLOCK", 16)  # several blocks, the last one short
    q, k, v, segments = inputs(T=40, H=4, K=kv_heads, E=8)
    numbers = as_pairs(segments) if shared else (segments, None)
    given = attention.xla(q, k, v, *numbers, RULES[rule])
    np.testing.assert_allclose(given, written_out(q, k, v, *numbers, RULES[rule]), atol=2e-6)
    if shared:
        with pytest.raises(ValueError, match="rows of 40 with a window of 39"):
            attention.xla(q, k, v, *numbers, attention.Rule(39))


@pytest.mark.parametrize(
    ("rule", "shared"), [(ALL, False), (attention.Rule(window=37, scale=0.5), False), (ALL, True)]
)
def test_cudnn_masks_as_xla_does(rule, shared, monkeypatch):
    """The kernel needs a GPU; its mask is checked through the same call's portable kernel."""
    portable = functools.partial(jax.nn.dot_product_attention)
    monkeypatch.setattr(
        jax.nn,
        "dot_product_attention",
        lambda *a, implementation, **k: portable(*a, implementation="xla", **k),
    )
    q, k, v, segments = inputs(T=64, H=4, K=2, E=8)
    numbers = as_pairs(segments) if shared else (segments, None)
    given = attention.cudnn(q, k, v, *numbers, rule)
    np.testing.assert_allclose(given, attention.xla(q, k, v, *numbers, rule), atol=2e-6)


@pytest.mark.parametrize(
    ("T", "E", "rule", "shared"),
    [(256, 128, ALL, False), (200, 64, ALL, True), (256, 64, attention.Rule(50, 0.2, 3.0), False)],
)
def test_splash_equals_xla_with_its_gradient(T, E, rule, shared, eight_devices):
    """The TPU kernel itself, interpreted, on the 2 x 2 x 2 mesh."""
    q, k, v, segments = inputs(T, H=4, K=2, E=E, rows=4)
    real = (segments > 0)[:, :, None, None]
    numbers = as_pairs(segments) if shared else (segments, None)

    def total(function, q, k, v):
        out = jnp.where(real, function(q, k, v, *numbers, rule), 0)
        return (out * jnp.cos(jnp.arange(out.size).reshape(out.shape))).sum(), out

    splash = functools.partial(attention.splash, mesh=eight_devices, interpret=True)
    found = [
        jax.jit(jax.value_and_grad(functools.partial(total, function), (0, 1, 2), has_aux=True))(
            q, k, v
        )
        for function in (splash, attention.xla)
    ]
    (_, given), given_gradients = found[0]
    (_, expected), expected_gradients = found[1]
    np.testing.assert_allclose(given, expected, atol=1e-5)
    for a, b in zip(given_gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_a_backend_is_refused_off_its_platform(one_device):
    with pytest.raises(ConfigError, match="runs on tpu only, this is cpu"):
        attention.build("splash", one_device, attention.PLAIN, jnp.float32)
    with pytest.raises(ConfigError, match="expected auto"):
        attention.build("flash", one_device, attention.PLAIN, jnp.float32)


def test_a_backend_that_mixes_segments_is_refused(one_device):
    faithful = functools.partial(attention.xla, rule=ALL)

    def blind(q, k, v, segments, prefixes):
        return faithful(q, k, v, jnp.ones_like(segments), prefixes)

    def blind_to_prefixes(q, k, v, segments, prefixes):
        return faithful(q, k, v, segments, None)

    attention.check_segments(faithful, faithful, one_device, "same", jnp.float32)
    for wrong in (blind, blind_to_prefixes):
        with pytest.raises(ConfigError, match="does not keep packed examples apart"):
            attention.check_segments(wrong, faithful, one_device, "wrong", jnp.float32)


def test_layers_of_two_kinds_have_a_kernel_each(one_device):
    """By the number of the layer's kind, known or not while compiling, forward and backward."""
    rules = (RULES["window"], RULES["cap"])
    both = attention.build("xla", one_device, rules, jnp.float32)
    q, k, v, segments = inputs(T=24, H=2, K=1, E=8, rows=1)

    @jax.jit
    def found(kind):
        return jax.value_and_grad(lambda q: jnp.sin(both(q, k, v, segments, None, kind)).sum())(q)

    for number, rule in enumerate(rules):
        expected = jax.value_and_grad(
            lambda q, rule=rule: jnp.sin(attention.xla(q, k, v, segments, None, rule)).sum()
        )(q)
        for given in (found(number), found(jnp.int32(number))):
            np.testing.assert_allclose(given[0], expected[0], rtol=1e-6)
            np.testing.assert_allclose(given[1], expected[1], atol=1e-6)


def test_a_soft_cap_is_refused_where_the_kernel_has_none(one_device, monkeypatch):
    monkeypatch.setitem(attention.PLATFORMS, "cudnn", "cpu")
    with pytest.raises(ConfigError, match="'cudnn' has no soft-cap"):
        attention.build("cudnn", one_device, (RULES["cap"],), jnp.bfloat16)
