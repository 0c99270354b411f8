"""Causal attention over packed rows, behind one signature with three backends.

    attention(q [B T H E], k [B T K E], v [B T K E], segments [B T], prefixes, kind) -> [B T H E]

A token attends to itself and to earlier tokens of its own segment, according to the rule of the
layer's kind. If `prefixes` [B T] is not None, it also attends to the segment named there: so do the
answers to a prompt that the row contains only once (see `batch.Tokens`; Wang and Hegde, arXiv
2410.20305). Segment 0 (padding) is a segment like the others, so that no softmax is empty.

`xla` runs everywhere, `cudnn` on NVIDIA GPUs, `splash` on TPUs. `build` refuses a backend that
cannot run on the platform or does not keep segments apart.

A kernel is compiled for one window. A model whose layers are of several kinds has one kernel for
each kind, and a `lax.switch` inside the scan over its layers.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from safety_jax.base import meshes
from safety_jax.base.errors import ConfigError

# (q, k, v, segments, prefixes, kind); `kind` is the number of the layer's rule.
Attention = Callable[[Any, Any, Any, Any, Any, Any], Any]
Kernel = Callable[[Any, Any, Any, Any, Any], Any]


@dataclasses.dataclass(frozen=True)
class Rule:
    """Which keys the queries of a layer see, and how products become scores.

    Attributes:
        window: how many keys each query sees, including its own; None for all earlier ones.
        scale: multiplies the products; None for 1 / sqrt(E).
        softcap: the c in scores c tanh(product / c) (Gemma 2, arXiv 2408.00118); None for none.
    """

    window: int | None = None
    scale: float | None = None
    softcap: float | None = None

    def factor(self, head_size: int) -> float:
        return head_size**-0.5 if self.scale is None else self.scale

    def scores(self, products: Float[Array, "*B"], head_size: int) -> Float[Array, "*B"]:
        """Turns products of queries and keys into scores."""
        scaled = products * self.factor(head_size)
        return scaled if self.softcap is None else self.softcap * jnp.tanh(scaled / self.softcap)


PLAIN = (Rule(),)

# Queries are processed in blocks. A block meets only the keys before its end, and only one block's
# scores exist at a time, forward and backward.
QUERY_BLOCK = 128
CHECKED_TOKENS = 256  # in the row on which a backend is compared with `xla` before use


def allowed(
    rows: slice,
    columns: slice,
    segments: Int[Array, "B R"],
    prefixes: Int[Array, "B R"] | None,
    window: int | None,
) -> Bool[Array, "B T S"]:
    """The mask of queries `rows` and keys `columns` in packed rows of R tokens."""
    index = jnp.arange(segments.shape[1])
    distance = index[rows, None] - index[None, columns]
    near = distance >= 0 if window is None else (distance >= 0) & (distance < window)
    keys = segments[:, None, columns]
    same = segments[:, rows, None] == keys
    if prefixes is not None:
        _check_window(window, segments.shape[1])
        same |= prefixes[:, rows, None] == keys
    return near[None] & same


def _check_window(window: int | None, row_tokens: int) -> None:
    """Raises a ValueError for a window in rows with shared prefixes: it counts cells of the row,
    and another answer may be between a query and its prefix."""
    if window is not None and window < row_tokens:
        raise ValueError(f"shared prefixes in rows of {row_tokens} with a window of {window}")


def xla(
    q: Float[Array, "B T H E"],
    k: Float[Array, "B T K E"],
    v: Float[Array, "B T K E"],
    segments: Int[Array, "B T"],
    prefixes: Int[Array, "B T"] | None,
    rule: Rule,
) -> Float[Array, "B T H E"]:
    """Masked softmax attention in blocks of queries; scores and softmax in float32."""
    B, T, H, E = q.shape
    K = k.shape[2]
    grouped = q.reshape(B, T, K, H // K, E)

    # Keys and values are sliced inside, because the backward pass would keep every slice otherwise.
    @functools.partial(jax.checkpoint, static_argnums=(5, 6))
    def block(q, k, v, segments, prefixes, rows, seen):
        k, v = k[:, slice(*seen)], v[:, slice(*seen)]
        mask = allowed(slice(*rows), slice(*seen), segments, prefixes, rule.window)
        products = jnp.einsum("btkge,bske->bkgts", q, k, preferred_element_type=jnp.float32)
        scores = rule.scores(products, E)
        scores = jnp.where(mask[:, None, None], scores, jnp.finfo(jnp.float32).min)
        weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
        return jnp.einsum("bkgts,bske->btkge", weights, v)

    outputs = []
    for start in range(0, T, QUERY_BLOCK):
        first = 0 if rule.window is None else max(0, start + 1 - rule.window)
        stop = min(start + QUERY_BLOCK, T)
        rows, seen = (start, stop), (first, stop)
        outputs.append(block(grouped[:, start:stop], k, v, segments, prefixes, rows, seen))
    return jnp.concatenate(outputs, axis=1).reshape(B, T, H, E)


def cudnn(q, k, v, segments, prefixes, rule: Rule):
    """cuDNN's fused kernel. Segments are passed as a mask, which the kernel turns into a bias: its
    own arguments for variable lengths allow only one example per row.
    """
    everything = slice(0, q.shape[1])
    mask = allowed(everything, everything, segments, prefixes, rule.window)[:, None]
    return jax.nn.dot_product_attention(
        q, k, v, mask=mask, scale=rule.scale, implementation="cudnn"
    )


def splash(q, k, v, segments, prefixes, rule: Rule, mesh: Mesh, interpret: bool):
    """The block-sparse TPU kernel; each device computes its own rows and heads.

    The kernel knows only segments. If two of them share a prefix, it runs twice: once with the odd
    segments as a part of their prefix, and once with the even ones.
    """
    if prefixes is None:
        return _splash(q, k, v, segments, rule, mesh, interpret)
    _check_window(rule.window, q.shape[1])
    odd = segments % 2 == 1
    one, other = (
        _splash(q, k, v, jnp.where(joined, prefixes, segments), rule, mesh, interpret)
        for joined in (odd, ~odd)
    )
    return jnp.where(odd[:, :, None, None], one, other)


def _splash(q, k, v, segments, rule: Rule, mesh: Mesh, interpret: bool):
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    T, E = q.shape[1], q.shape[3]
    heads = q.shape[2] // mesh.shape["tensor"]
    # The kernel's blocks are 128 lanes wide: smaller heads and odd lengths are padded with zeros.
    padding = ((0, 0), (0, -T % 128), (0, 0), (0, -E % 128))
    q, k, v = (jnp.pad(x, padding) for x in (q * rule.factor(E), k, v))
    segments = jnp.pad(segments, ((0, 0), (0, -T % 128)))
    length = q.shape[1]
    shape = (length, length)
    mask = (
        masks.CausalMask(shape)
        if rule.window is None
        else masks.LocalMask(shape, window_size=(rule.window - 1, 0), offset=0)
    )
    block = next(size for size in (512, 384, 256, 128) if length % size == 0)
    sizes = kernels.BlockSizes(
        block_q=block, block_kv=block, block_kv_compute=block,
        block_q_dkv=block, block_kv_dkv=block, block_kv_dkv_compute=block,
        block_q_dq=block, block_kv_dq=block,
    )  # fmt: skip
    kernel = kernels.make_splash_mha(
        masks.MultiHeadMask([mask] * heads),
        head_shards=1,
        q_seq_shards=1,
        block_sizes=sizes,
        attn_logits_soft_cap=rule.softcap,
        interpret=interpret,
    )

    def local(q, k, v, segments):
        per_row = jax.vmap(lambda q, k, v, row: kernel(q, k, v, kernels.SegmentIds(row, row)))
        swap = functools.partial(jnp.swapaxes, axis1=1, axis2=2)
        return swap(per_row(swap(q), swap(k), swap(v), segments))

    heads_spec = meshes.spec(("rows", "tokens", "heads", "head_size"))
    rows_spec = meshes.spec(("rows", "tokens"))
    mapped = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(heads_spec, heads_spec, heads_spec, rows_spec),
        out_specs=heads_spec,
        check_vma=False,
    )
    return mapped(q, k, v, segments)[:, :T, :, :E]


PLATFORMS = {"xla": None, "cudnn": "gpu", "splash": "tpu"}
DEFAULTS = {"cpu": "xla", "gpu": "cudnn", "tpu": "splash"}


def takes_many(mesh: Mesh) -> bool:
    """Whether the platform's default backend lets more than two segments share a prefix."""
    return DEFAULTS[mesh.devices.flat[0].platform] != "splash"


def build(
    name: str,
    mesh: Mesh,
    rules: tuple[Rule, ...],
    compute_dtype: DTypeLike,
    verify: bool = True,
) -> Attention:
    """The backend of this name, for a mesh and one rule for each kind of layer; "auto" chooses the
    platform's default.

    Args:
        verify: compare the backend with `xla` on a small packed row first. Off only for
            ahead-of-time compilation, when the devices do not exist.

    Raises:
        ConfigError: the name is unknown, the backend does not run on this platform or cannot follow
            a rule, or its result on packed rows differs from that of `xla`.
    """
    platform = mesh.devices.flat[0].platform
    capped = any(rule.softcap is not None for rule in rules)
    if name == "auto":
        name = DEFAULTS[platform]
        if name == "cudnn" and (capped or jnp.dtype(compute_dtype) == jnp.float32):
            name = "xla"  # cuDNN's fused kernel accepts only 16-bit floats, and has no soft-cap
    if name not in PLATFORMS:
        raise ConfigError(f"model.attention {name!r}: expected auto, {', '.join(PLATFORMS)}")
    if PLATFORMS[name] not in (None, platform):
        raise ConfigError(
            f"model.attention {name!r} runs on {PLATFORMS[name]} only, this is {platform}; "
            "use model.attention=auto"
        )
    if name == "cudnn" and capped:
        raise ConfigError(
            "model.attention 'cudnn' has no soft-cap, and this model's scores have one; use "
            "model.attention=xla"
        )
    if verify and name != "xla":
        for rule in rules:
            candidate, reference = (_kernel(one, mesh, rule) for one in (name, "xla"))
            check_segments(candidate, reference, mesh, name, compute_dtype, rule.window)
    return _by_kind(name, mesh, rules)


@functools.cache
def _by_kind(name: str, mesh: Mesh, rules: tuple[Rule, ...]) -> Attention:
    """The same function for all models with these rules, so that they share compiled programs."""
    kernels = [_kernel(name, mesh, rule) for rule in rules]

    def attention(q, k, v, segments, prefixes, kind):
        if len(kernels) == 1:
            return kernels[0](q, k, v, segments, prefixes)
        return jax.lax.switch(kind, kernels, q, k, v, segments, prefixes)

    return attention


def _kernel(name: str, mesh: Mesh, rule: Rule) -> Kernel:
    return {
        "xla": functools.partial(xla, rule=rule),
        "cudnn": functools.partial(cudnn, rule=rule),
        "splash": functools.partial(splash, rule=rule, mesh=mesh, interpret=False),
    }[name]


def check_segments(
    candidate: Kernel,
    reference: Kernel,
    mesh: Mesh,
    name: str,
    dtype: DTypeLike,
    window: int | None = None,
) -> None:
    """Compares a backend with the reference on packed rows.

    Raises:
        ConfigError: they differ; the message has the largest difference.
    """
    rows = meshes.row_parts(mesh)
    heads = mesh.shape["tensor"]
    keys = jax.random.split(jax.random.key(0), 3)
    q, k, v = (
        jax.random.normal(key, (rows, CHECKED_TOKENS, heads, 64)).astype(dtype) for key in keys
    )
    layouts: list[tuple[Any, Any]] = [(_checked_row(rows, 1, 2, 3, 0), None)]
    if window is None or window >= CHECKED_TOKENS:
        layouts.append((_checked_row(rows, -1, 1, 2, 0), _checked_row(rows, -1, -1, -1, 0)))
    differences = []
    for numbers in layouts:
        given, expected = (jax.jit(f)(q, k, v, *numbers) for f in (candidate, reference))
        apart = jnp.abs(given.astype(jnp.float32) - expected.astype(jnp.float32))
        differences.append(float(apart.max()))
    difference = float(np.max(differences))
    if not difference < 0.05:
        raise ConfigError(
            f"model.attention {name!r} does not keep packed examples apart on this device (largest "
            f"difference to xla {difference:.3g}); use model.attention=xla"
        )


def _checked_row(rows: int, *numbers: int) -> Int[Array, "B T"]:
    """A row of four segments with these numbers."""
    counts = np.array([60, 100, 70, 26])
    row = jnp.repeat(jnp.array(numbers), counts, total_repeat_length=CHECKED_TOKENS)
    return jnp.tile(row, (rows, 1))
