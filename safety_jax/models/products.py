"""x Wᵀ as each platform does it fastest, forward and backward; the same numbers on all of them.

A product of 16-bit numbers is summed in float32 and rounded once. An accelerator does so for a
product whose result is 16 bits wide. XLA's CPU compiler makes the operands 32 bits wide first,
unless the product says that its sums are; then it takes the processor's 16-bit matrix units, where
there are any, which are several times faster. JAX's own derivative of such a product would multiply
32 by 16 bits again, so this module has its own.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Mesh
from jaxtyping import Array, Float

from safety_jax.models import bits

_KEPT = "worth keeping"
# A policy of `jax.checkpoint`: the backward pass finds what `keep` was given and computes the rest
# again.
KEEP: Callable[..., bool] = jax.checkpoint_policies.save_only_these_names(_KEPT)


def product(
    x: Float[Array, "*P N I"], kernel: Float[Array, "*P O I"], mesh: Mesh
) -> Float[Array, "*P N O"]:
    """x Wᵀ, in the type that both share; axes P in front belong to each other."""
    if bits.lie_as_integers(x.dtype, mesh) and x.dtype == kernel.dtype:
        return _rounded(x, kernel)
    return _contract(x, kernel, (-1, -1), None)


def keep(x: jax.Array, mesh: Mesh) -> jax.Array:
    """x, kept for the backward pass where `KEEP` is the policy: what a layer begins with and what
    its products put out. All between them is quickly made again."""
    return _kept(x, mesh) if bits.lie_as_integers(x.dtype, mesh) else checkpoint_name(x, _KEPT)


def _through_integers(x: jax.Array, mesh: Mesh) -> jax.Array:
    return bits.floats(checkpoint_name(bits.stored(x, mesh), _KEPT))


_kept = jax.custom_vjp(_through_integers, nondiff_argnums=(1,))
_kept.defvjp(lambda x, mesh: (_through_integers(x, mesh), None), lambda mesh, _, slope: (slope,))


def _contract(a: jax.Array, b: jax.Array, axes: tuple[int, int], sums: jnp.dtype | None):
    """Σ over one axis of each; all but the last two of both are batch axes."""
    batch = tuple(range(a.ndim - 2))
    over = (axes[0] % a.ndim,), (axes[1] % b.ndim,)
    return jax.lax.dot_general(a, b, (over, (batch, batch)), preferred_element_type=sums)


def _narrow(a: jax.Array, b: jax.Array, axes: tuple[int, int]) -> jax.Array:
    return _contract(a, b, axes, jnp.dtype(jnp.float32)).astype(a.dtype)


@jax.custom_vjp
def _rounded(x, kernel):
    return _narrow(x, kernel, (-1, -1))


def _forward(x, kernel):
    # What no gradient needs is not kept: of a frozen kernel, its input.
    kept = (x.value if kernel.perturbed else None, kernel.value if x.perturbed else None)
    return _narrow(x.value, kernel.value, (-1, -1)), kept


def _backward(kept, incoming):
    x, kernel = kept
    if isinstance(incoming, jax.custom_derivatives.SymbolicZero):
        return None, None
    of_x = None if kernel is None else _narrow(incoming, kernel, (-1, -2))
    of_kernel = None if x is None else _narrow(incoming, x, (-2, -2))
    return of_x, of_kernel


_rounded.defvjp(_forward, _backward, symbolic_zeros=True)
