"""x Wᵀ in the fastest form for each platform, forward and backward, with the same arithmetic.

Products of 16-bit numbers are summed in float32 and rounded once. Accelerators do so for a product
with a 16-bit result. XLA's CPU compiler widens the operands to 32 bits, unless the product has a
32-bit result; then it uses the processor's 16-bit matrix units, if any, which are several times
faster. JAX's derivative of such a product would multiply 32-bit by 16-bit numbers again, so this
module defines its own.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Mesh
from jaxtyping import Array, Float

from safety_jax.models import bits

_KEPT = "worth keeping"
# A policy of `jax.checkpoint`: what passed through `keep` is saved, and the rest is recomputed.
KEEP: Callable[..., bool] = jax.checkpoint_policies.save_only_these_names(_KEPT)


def product(
    x: Float[Array, "*P N I"], kernel: Float[Array, "*P O I"], mesh: Mesh
) -> Float[Array, "*P N O"]:
    """x Wᵀ in the type of both; leading axes P are batch axes."""
    if bits.lie_as_integers(x.dtype, mesh) and x.dtype == kernel.dtype:
        return _rounded(x, kernel)
    return _contract(x, kernel, (-1, -1), None)


def keep(x: jax.Array, mesh: Mesh) -> jax.Array:
    """Marks x as saved for the backward pass under the policy `KEEP`. Layers mark their input and
    the outputs of their products; everything in between is quick to recompute."""
    return _kept(x, mesh) if bits.lie_as_integers(x.dtype, mesh) else checkpoint_name(x, _KEPT)


def _through_integers(x: jax.Array, mesh: Mesh) -> jax.Array:
    return bits.floats(checkpoint_name(bits.stored(x, mesh), _KEPT))


_kept = jax.custom_vjp(_through_integers, nondiff_argnums=(1,))
_kept.defvjp(lambda x, mesh: (_through_integers(x, mesh), None), lambda mesh, _, slope: (slope,))


def _contract(a: jax.Array, b: jax.Array, axes: tuple[int, int], sums: jnp.dtype | None):
    """Contracts one axis of each; all axes but the last two are batch axes."""
    batch = tuple(range(a.ndim - 2))
    over = (axes[0] % a.ndim,), (axes[1] % b.ndim,)
    return jax.lax.dot_general(a, b, (over, (batch, batch)), preferred_element_type=sums)


def _narrow(a: jax.Array, b: jax.Array, axes: tuple[int, int]) -> jax.Array:
    return _contract(a, b, axes, jnp.dtype(jnp.float32)).astype(a.dtype)


@jax.custom_vjp
def _rounded(x, kernel):
    return _narrow(x, kernel, (-1, -1))


def _forward(x, kernel):
    # Only what a gradient needs is kept; the input of a frozen kernel is not.
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
