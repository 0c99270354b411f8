"""Products of 16-bit numbers: those of float32, rounded once, forward and backward."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import print_saved_residuals

from safety_jax.models import products
from safety_jax.models.execution import REMAT


def drawn(*shape: int, dtype=jnp.bfloat16, seed: int = 0) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape, dtype)


@pytest.mark.parametrize("batch", [(), (3,)])
def test_a_narrow_product_and_its_gradients_are_float32s_rounded_once(batch, one_device):
    x, kernel = drawn(*batch, 8, 32), drawn(*batch, 16, 32, seed=1)
    out, pull = jax.vjp(lambda x, kernel: products.product(x, kernel, one_device), x, kernel)
    incoming = drawn(*out.shape, seed=2)
    found = (out, *pull(incoming))
    wide_x, wide_kernel, wide_in = (np.asarray(part, np.float64) for part in (x, kernel, incoming))
    exact = (
        wide_x @ wide_kernel.swapaxes(-1, -2),
        wide_in @ wide_kernel,
        wide_in.swapaxes(-1, -2) @ wide_x,
    )
    for given, expected in zip(found, exact, strict=True):
        assert given.dtype == jnp.bfloat16
        # Half a step of 8 bits, and what float32 sums lose.
        np.testing.assert_allclose(np.asarray(given, np.float64), expected, rtol=2**-8, atol=1e-5)


def test_products_are_summed_in_float32_and_multiplied_in_16_bits_backward_too(one_device):
    """What takes a processor's 16-bit matrix units; 32 bits on either side would not."""
    x, kernel = drawn(8, 32), drawn(16, 32, seed=1)

    def loss(x, kernel):
        return products.product(x, kernel, one_device).astype(jnp.float32).sum()

    text = str(jax.make_jaxpr(jax.grad(loss, (0, 1)))(x, kernel))
    dots = [line for line in text.splitlines() if "dot_general" in line]
    assert len(dots) == 3
    assert text.count("preferred_element_type=float32") == 3
    operands = [value.aval.dtype for eqn in _equations(jax.grad(loss, (0, 1)), x, kernel)
                if eqn.primitive.name == "dot_general" for value in eqn.invars]  # fmt: skip
    assert operands == [jnp.dtype(jnp.bfloat16)] * 6


def _equations(function, *arguments):
    return jax.make_jaxpr(function)(*arguments).jaxpr.eqns


@pytest.mark.parametrize(("dtype", "stored"), [("bfloat16", "u16"), ("float32", "f32")])
def test_a_backward_pass_finds_what_was_kept_and_computes_the_rest_again(
    dtype, stored, one_device, capsys
):
    """Floats of 16 bits as integers: a CPU would widen a stack of them for each layer's."""
    kernels = [drawn(*shape, dtype=dtype, seed=at) for at, shape in enumerate([(16, 32), (32, 16)])]

    def layer(x, keep=lambda x, mesh: x):
        for kernel in kernels:
            x = jnp.tanh(keep(products.product(x, kernel, one_device), one_device))
        return x.astype(jnp.float32).sum()

    kept = jax.checkpoint(lambda x: layer(x, products.keep), policy=REMAT["dots"])
    x = drawn(8, 32, dtype=dtype, seed=3)
    print_saved_residuals(kept, x)
    lines = capsys.readouterr().out.splitlines()
    found = [line.split()[0] for line in lines if "from the argument" not in line]
    assert [one for one in found if "[8," in one] == [f"{stored}[8,16]", f"{stored}[8,32]"]
    assert str(jax.make_jaxpr(jax.grad(kept))(x)).count("dot_general") == 4
    np.testing.assert_array_equal(jax.grad(kept)(x), jax.grad(layer)(x))
