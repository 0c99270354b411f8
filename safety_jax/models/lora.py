"""LoRA as a second tree (Hu et al. 2021, arXiv 2106.09685): y = x Wᵀ + scale · drop(x) Aᵀ Bᵀ.

Adapters are plain arrays, one pair `a` [L, R, in], `b` [L, out, R] for each adapted projection, in
PEFT's orientation. This module does not depend on a model: sizes come from the model's parameter
table, and its projections call `delta`.

Adapters may cover only some layers. The tree then has rows only for these layers, so that nothing
else is trained, decayed, kept by the optimizer or written. The scan over layers treats all layers
alike: `by_layer` gives the other layers zeros.

If the files of a model fuse projections (Phi-3), PEFT adapts the fused one: its projections share
`a`, and each has its own rows of `b`. Such a target is named after its projections,
`query+key+value`, and has the leaves `a`, `query`, `key` and `value`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float

from safety_jax.base import meshes, trees
from safety_jax.base.errors import ConfigError
from safety_jax.models import dropout, products

# Hugging Face's names of the projections that can be adapted, and ours.
TARGETS = {
    "q_proj": "query",
    "k_proj": "key",
    "v_proj": "value",
    "o_proj": "output",
    "gate_proj": "gate",
    "up_proj": "up",
    "down_proj": "down",
}
FUSED_TARGETS = {
    "qkv_proj": "query+key+value",
    "o_proj": "output",
    "gate_up_proj": "gate+up",
    "down_proj": "down",
}
HYBRID_TARGETS = {
    "q_proj": "query",
    "k_proj": "key",
    "v_proj": "value",
    "o_proj": "output",
    "input_linear": "gate+up",
    "output_linear": "down",
}
# By the way in which files name and fuse projections: like LLaMA, Phi-3, or dense Granite 4.
TARGETS_OF = {"llama": TARGETS, "phi3": FUSED_TARGETS, "granite_hybrid": HYBRID_TARGETS}
ALL_LINEAR = "all-linear"
_WHY_NOT = "embeddings and the output head cannot be adapted"


class Owners(NamedTuple):
    """The adapter that each rank and each token belongs to, if several are stacked (`multi_lora`).

    Attributes:
        ranks: by target, [R] the number of the adapter to which each rank belongs.
        scales: by target, [R] the scale of that adapter.
        tokens: [tokens] the number of the adapter that reads each token. An adapter without this
            target adds nothing.
    """

    ranks: Mapping[str, Any]
    scales: Mapping[str, Any]
    tokens: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Adapters:
    """The adapter tree, and how it is applied.

    Attributes:
        weights: `{"query": {"a": [L, R, in], "b": [L, out, R]}, ...}`, float32; for projections
            that share a, `{"gate+up": {"a": [L, R, in], "gate": [L, out, R], "up": ...}}`.
        scale: alpha / rank, or alpha / sqrt(rank) for rank-stabilised LoRA (arXiv 2312.03732). An
            array inside a compiled step for adapters with different scales (`training/lanes.py`).
        dropout: the probability of dropping an input feature of the adapter, in training only.
        key: for the dropout; None outside training.
        on: for every layer, whether it is adapted; None if all are. The leaves have a row for each
            adapted layer, in order, and L is the number of these.
        owners: None for a single adapter, which reads every token.
    """

    weights: trees.Tree
    scale: float | jax.Array = dataclasses.field(metadata={"static": True})
    dropout: float = dataclasses.field(metadata={"static": True})
    key: jax.Array | None = None
    on: tuple[bool, ...] | None = dataclasses.field(default=None, metadata={"static": True})
    owners: Owners | None = None

    @property
    def rows(self) -> np.ndarray:
        """The layer of each row, for adapters on some layers."""
        assert self.on is not None
        return np.flatnonzero(self.on)


class Leaves(NamedTuple):
    """The adapter of one projection in one layer; after `spread` with an axis P in front."""

    a: Float[Array, "*P R I"]
    b: Float[Array, "*P O R"]
    scale: Any  # a number; [R] for several adapters
    keep: Any  # the probability of keeping a feature; None without dropout
    key: Any
    ranks: Any = None  # [R] and [tokens], see `Owners`; None for a single adapter
    tokens: Any = None


def targets(
    names: tuple[str, ...], known: Mapping[str, str | tuple[str, ...]] = TARGETS
) -> tuple[str, ...]:
    """Translates Hugging Face's module names, or ("all-linear",), to ours, in the table's order.

    Args:
        known: the projections of the architecture; several of ours may have one name there.

    Raises:
        ConfigError: a name is not an adaptable projection.
    """
    unknown = [name for name in names if name not in known and names != (ALL_LINEAR,)]
    if unknown or not names:
        listed = any(set(", ") & set(name) for name in unknown)
        hint = "give each by a flag of its own" if listed else _WHY_NOT
        raise ConfigError(
            f"lora.targets {names}: expected {ALL_LINEAR!r} or any of {', '.join(known)}; {hint}"
        )
    taken = [ours for hf, ours in known.items() if hf in names or names == (ALL_LINEAR,)]
    return tuple(one for ours in taken for one in ((ours,) if isinstance(ours, str) else ours))


def layer_numbers(text: str, depth: int) -> tuple[int, ...] | None:
    """`"8-11,20"` as (8, 9, 10, 11, 20); None for "", all layers.

    Raises:
        ConfigError: the text is no such list, or names layers that do not exist.
    """
    if not text:
        return None
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = (piece.strip() for piece in part.partition("-"))
        if not (first.isdecimal() and (last.isdecimal() or not dash)):
            raise ConfigError(f"lora.layers {text!r}: expected numbers and ranges, such as 8-11,20")
        stretch = range(int(first), int(last or first) + 1)
        if not stretch or stretch[-1] >= depth:
            raise ConfigError(
                f"lora.layers {text!r}: {part.strip()} names no layers of this model; expected "
                f"numbers from 0 to {depth - 1}"
            )
        found.update(stretch)
    return None if len(found) == depth else tuple(sorted(found))


def on(layers: tuple[int, ...] | None, depth: int) -> tuple[bool, ...] | None:
    """`Adapters.on` for these layers of a model with `depth` layers."""
    return None if layers is None else tuple(number in layers for number in range(depth))


def parts(target: str) -> dict[str, str]:
    """The projections of a target, and the names of the leaves with their rows of b."""
    names = target.split("+")
    return {target: "b"} if len(names) == 1 else {name: name for name in names}


def of_projection(weights: trees.Tree, projection: str) -> tuple[Any, Any] | None:
    """The factors a and b of a projection; None if it is not adapted."""
    for target, leaves in weights.items():
        if projection in parts(target):
            return leaves["a"], leaves[parts(target)[projection]]
    return None


def scaling(rank: int, alpha: float, rslora: bool) -> float:
    return alpha / rank**0.5 if rslora else alpha / rank


def shapes(
    parameters: Mapping[str, meshes.Parameter],
    adapted: tuple[str, ...],
    rank: int,
    layers: tuple[int, ...] | None = None,
) -> dict[str, tuple[tuple[int, ...], tuple[str, ...]]]:
    """Shape and logical axes of every adapter leaf, by dotted name.

    Args:
        layers: the numbers of the adapted layers; None for all.
    """
    leaves: dict[str, tuple[tuple[int, ...], tuple[str, ...]]] = {}
    for target in adapted:
        for projection, leaf in parts(target).items():
            kernel = parameters[f"layers.{projection}.kernel"]
            depth, size_out, size_in = kernel.shape
            rows = depth if layers is None else len(layers)
            stacked, axis_out, axis_in = kernel.axes
            leaves[f"{target}.a"] = ((rows, rank, size_in), (stacked, "rank", axis_in))
            leaves[f"{target}.{leaf}"] = ((rows, size_out, rank), (stacked, axis_out, "rank"))
    return leaves


def shardings(
    parameters: Mapping[str, meshes.Parameter], adapted: tuple[str, ...], rank: int, mesh: Mesh
) -> trees.Tree:
    declared = shapes(parameters, adapted, rank)
    return trees.unflatten(
        {name: meshes.sharding(mesh, axes, shape) for name, (shape, axes) in declared.items()}
    )


def initialize(
    parameters: Mapping[str, meshes.Parameter],
    adapted: tuple[str, ...],
    rank: int,
    initialization: str,
    key: jax.Array,
    mesh: Mesh,
    layers: tuple[int, ...] | None = None,
) -> trees.Tree:
    """Fresh adapter weights in float32, with which the model starts equal to the base.

    `peft`: A uniform in ±1/sqrt(in) (kaiming with a = sqrt(5), PEFT's default), B zero.
    `zero_a`: A zero, B uniform in ±1/sqrt(rank). With B zero, the first updates reach the output
    only through B, and depend on the order of devices more than they should (marin issue 4755).

    Args:
        layers: see `shapes`.

    Raises:
        ConfigError: `initialization` is neither.
    """
    check_initialization(initialization)
    random_a = initialization == "peft"
    declared = shapes(parameters, adapted, rank, layers)

    def make(key: jax.Array) -> trees.Tree:
        leaves = {}
        for number, (name, (shape, _)) in enumerate(declared.items()):
            if name.endswith(".a") == random_a:
                bound = shape[-1] ** -0.5
                leaf_key = jax.random.fold_in(key, number)
                leaves[name] = jax.random.uniform(leaf_key, shape, minval=-bound, maxval=bound)
            else:
                leaves[name] = jnp.zeros(shape)
        return trees.unflatten(leaves)

    return jax.jit(make, out_shardings=shardings(parameters, adapted, rank, mesh))(key)


def check_initialization(name: str) -> None:
    if name not in ("peft", "zero_a"):
        raise ConfigError(f"lora.initialization {name!r}: expected 'peft' or 'zero_a'")


def spread(adapters: Adapters, parameters: Mapping[str, meshes.Parameter], mesh: Mesh) -> Adapters:
    """Adapters for training on many devices: every shard of rows gets a whole copy, [L, P, ...].

    Gradients then stay with their copy during the loop over layers, and a single reduction after it
    adds them up. If adapters were sharded like their kernels, every layer would reduce their
    gradients in messages so small that latency dominates.
    """
    copies = meshes.row_parts(mesh)

    def copy(name: str, leaf: jax.Array) -> jax.Array:
        target, factor = name.split(".")
        declared = shapes(parameters, (target,), leaf.shape[1 if factor == "a" else 2])
        layers, *axes = declared[name][1]
        whole = meshes.gather(leaf, mesh, (layers, *axes))
        copied = jnp.broadcast_to(whole[:, None], (leaf.shape[0], copies, *leaf.shape[1:]))
        return meshes.gather(copied, mesh, (layers, "rows", *axes))

    return dataclasses.replace(adapters, weights=trees.map_named(copy, adapters.weights))


def by_layer(adapters: Adapters | None) -> dict[str, Leaves]:
    """Leaves with a leading axis of all layers for `lax.scan`; empty without adapters."""
    if adapters is None:
        return {}
    leaves = {}
    for number, (target, pair) in enumerate(sorted(adapters.weights.items())):
        layers = pair["a"].shape[0] if adapters.on is None else len(adapters.on)
        keys = keep = None
        if adapters.key is not None and adapters.dropout > 0:
            keys = jax.random.split(jax.random.fold_in(adapters.key, number), layers)
            keep = jnp.full((layers,), 1 - adapters.dropout)
        scale, ranks, tokens = jnp.full((layers,), adapters.scale), None, None
        if (owners := adapters.owners) is not None:
            scale, ranks, tokens = (
                jnp.broadcast_to(part, (layers, *part.shape))
                for part in (owners.scales[target], owners.ranks[target], owners.tokens)
            )
        for projection, leaf in parts(target).items():
            a, b = (everywhere(pair[factor], adapters) for factor in ("a", leaf))
            leaves[projection] = Leaves(a, b, scale, keep, keys, ranks, tokens)
    return leaves


def everywhere(leaf: jax.Array, adapters: Adapters) -> jax.Array:
    """A leaf with rows of zeros for layers that are not adapted."""
    if adapters.on is None:
        return leaf
    empty = jnp.zeros((len(adapters.on), *leaf.shape[1:]), leaf.dtype)
    return empty.at[adapters.rows].set(leaf)


def delta(x: Float[Array, "tokens I"], leaves: Leaves, mesh: Mesh) -> Float[Array, "tokens O"]:
    """The adapter's part of a projection of `x`, scale · drop(x) Aᵀ Bᵀ, in x's dtype. With several
    adapters, each token gets that of its own adapter."""
    if leaves.keep is not None:
        x = dropout.drop(x, leaves.keep, leaves.key)
    *copies, _, size_in = leaves.a.shape
    by_copy = x.reshape(*copies, -1, size_in)
    narrow = products.product(by_copy, leaves.a.astype(x.dtype), mesh)
    scale = leaves.scale
    if leaves.ranks is not None:
        its_own = leaves.tokens[:, None] == leaves.ranks[None]
        scale = jnp.where(its_own, scale[None], jnp.zeros_like(scale)[None])
    narrow = products.keep(narrow * scale.astype(x.dtype), mesh)
    wide = products.product(narrow, leaves.b.astype(x.dtype), mesh)
    return wide.reshape(-1, wide.shape[-1])


def merge(weights: trees.Tree, adapters: Adapters) -> trees.Tree:
    """Weights with the adapters added, W + scale · B A. Adapted kernels become float32.

    Updates are small compared with the weights: after four steps at a learning rate of 2e-4,
    rounding the sum to bfloat16 would leave nine in ten weights unchanged.
    """
    flat = trees.flatten(weights)
    for target, pair in adapters.weights.items():
        for projection, leaf in parts(target).items():
            name = f"layers.{projection}.kernel"
            kernel = flat[name].astype(jnp.float32)
            rows = slice(None) if adapters.on is None else adapters.rows
            sums = jax.vmap(added, in_axes=(0, 0, 0, None))(
                kernel[rows], pair["a"], pair[leaf], adapters.scale
            )
            flat[name] = sums if adapters.on is None else kernel.at[rows].set(sums)
    return trees.unflatten(flat)


def promote(weights: trees.Tree, adapted: tuple[str, ...]) -> trees.Tree:
    """Weights whose adapted kernels are float32, as after `merge`, so that the same compiled
    programs serve before and after a merge."""
    names = {f"layers.{name}.kernel" for target in adapted for name in parts(target)}
    return trees.map_named(
        lambda name, leaf: leaf.astype(jnp.float32) if name in names else leaf, weights
    )


def added(
    kernel: Float[Array, "O I"], a: Float[Array, "R I"], b: Float[Array, "O R"], scale: Any
) -> Float[Array, "O I"]:
    """A layer's kernel with its adapter added, in float32."""
    update = jnp.matmul(b, a, precision="highest").astype(jnp.float32)
    return kernel.astype(jnp.float32) + scale * update
