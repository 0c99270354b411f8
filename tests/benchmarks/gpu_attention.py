"""The GPU check's part `attention`: the platform's attention kernel against a float32 reference."""

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from safety_jax.base.errors import ConfigError
from safety_jax.models import attention, llama
from tests.benchmarks import gpu
from tests.benchmarks.gpu import Size
from tests.benchmarks.gpu_device import DTYPE, facts, one_device

# What errors may come to, relative to the norm of the float32 answer: bfloat16 has eight bits.
VALUES_WITHIN, GRADIENTS_WITHIN = 0.01, 0.02
WINDOW = 96
MOST_TOKENS = 2048  # of a row: `xla` compiles a block of queries after another


def check_attention(size: Size) -> dict[str, Any]:
    """The platform's kernel against `xla` in float32, on packed rows, forward and backward."""
    mesh, config = one_device(), gpu.model_config(size)
    platform = jax.devices()[0].platform
    name = attention.DEFAULTS[platform]
    cases = []
    for window in (None, WINDOW):
        rule = attention.Rule(window=window)
        try:
            kernel = attention.build(name, mesh, (rule,), DTYPE)
        except (ConfigError, jax.errors.JaxRuntimeError) as error:
            cases.append({"name": f"window {window}", "passed": False, "why": str(error)[:500]})
            continue
        for shared in (False, True) if window is None else (False,):
            cases.append(compare(kernel, rule, size, config, shared))
    cases.append(refusal(mesh))
    return {"backend": name, "cases": cases, **facts()}


def compare(
    kernel: attention.Attention,
    rule: attention.Rule,
    size: Size,
    config: llama.LlamaConfig,
    shared: bool,
) -> dict[str, Any]:
    """Errors of values and gradients, what leaks between examples, and the seconds of both."""
    size = dataclasses.replace(size, row_tokens=min(size.row_tokens, MOST_TOKENS))
    T, heads, kv_heads = size.row_tokens, config.heads, config.kv_heads
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = [(1, T, count, config.head_size) for count in (heads, kv_heads, kv_heads, heads)]
    q, k, v, weight = (
        jax.random.normal(key, shape).astype(DTYPE) for key, shape in zip(keys, shapes, strict=True)
    )
    row = np.repeat(np.arange(len(size.pattern)) + 1, gpu.lengths(size))[None]
    before = np.where(row == 2, 1, row) if shared else None  # the second example goes on from it
    segments = jnp.asarray(row)
    links = None if before is None else jnp.asarray(before)
    exact = functools.partial(attention.xla, rule=rule)

    def total(function, q, k, v, weight):
        out = function(q, k, v).astype(jnp.float32)
        return (out * weight.astype(jnp.float32)).sum(), out

    def both_ways(function):
        loss = functools.partial(total, function)
        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))

    ours = both_ways(lambda q, k, v: kernel(q, k, v, segments, links, 0))
    theirs = both_ways(lambda q, k, v: exact(q, k, v, segments, links))
    (_, out), gradients = ours(q, k, v, weight)
    (_, wanted), wanted_gradients = theirs(*(x.astype(jnp.float32) for x in (q, k, v, weight)))
    values = relative(out, wanted)
    worst = max(relative(a, b) for a, b in zip(gradients, wanted_gradients, strict=True))
    # A loss of the last example alone: what stands before it has no gradient whatever.
    alone = jnp.where((segments == len(size.pattern))[..., None, None], weight, 0)
    _, (_, *of_others) = ours(q, k, v, alone)
    others = (segments != len(size.pattern))[..., None, None]
    leak = max(float(jnp.abs(jnp.where(others, x, 0)).max()) for x in of_others)
    passed = values < VALUES_WITHIN and worst < GRADIENTS_WITHIN and leak == 0.0
    return {
        "name": f"window {rule.window}{', a shared prefix' if shared else ''}",
        "passed": passed,
        "values_error": values,
        "gradients_error": worst,
        "leak": leak,
        "seconds": seconds_of(lambda: ours(q, k, v, weight)),
        "xla_seconds": seconds_of(lambda: theirs(q, k, v, weight)),
    }


def relative(given: jax.Array, expected: jax.Array) -> float:
    apart = jnp.linalg.norm(given.astype(jnp.float32) - expected.astype(jnp.float32))
    return float(apart / jnp.linalg.norm(expected.astype(jnp.float32)))


def seconds_of(function: Callable[[], Any], repeats: int = 5) -> float:
    """Of one call, compiled before."""
    jax.block_until_ready(function())
    began = time.perf_counter()
    for _ in range(repeats):
        found = function()
    jax.block_until_ready(found)
    return (time.perf_counter() - began) / repeats


def refusal(mesh: Mesh) -> dict[str, Any]:
    """cuDNN refuses soft-caps, and other platforms, in words; it must not ignore them."""
    try:
        attention.build("cudnn", mesh, (attention.Rule(softcap=30.0),), DTYPE)
    except ConfigError as error:
        return {"name": "soft-caps refused", "passed": True, "why": str(error)}
    return {"name": "soft-caps refused", "passed": False, "why": "they were taken"}
