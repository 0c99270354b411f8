"""Merges adapters into kernels during an export: one layer at a time, in float32."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from safety_jax.models import lora, quantised
from safety_jax.models.folders import streaming


class MergedExport:
    """Adds the adapter to each layer of a kernel, and counts the changes that rounding loses.

    A merged copy of all weights never exists. The sum is computed in float32 and rounded only once,
    to the type of the file, also if the base is in bfloat16. A quantised kernel is dequantised, as
    in PEFT, and the export has the merged numbers.
    """

    def __init__(self, adapters: lora.Adapters):
        self._adapters = adapters
        self._moved = self._stayed = 0

    def touches(self, name: str) -> bool:
        """Whether a weight (ours, dotted) has an adapter."""
        return lora.of_projection(self._adapters.weights, self._projection(name)) is not None

    def on_host(
        self,
        name: str,
        weight: jax.Array | quantised.Kernel,
        layer: int | None,
        dtype: np.dtype,
        transposed: bool,
    ) -> np.ndarray:
        """The same as `streaming.on_host`, with the adapter added."""
        found = lora.of_projection(self._adapters.weights, self._projection(name))
        assert found is not None  # the caller has asked `touches`
        number = row = layer or 0
        if self._adapters.on is not None:
            if not self._adapters.on[number]:
                return streaming.on_host(weight, layer, dtype, transposed)
            row = sum(self._adapters.on[:number])
        places = np.array([number, row], np.int32)
        sum_, moved, stayed = _add(weight, *found, self._adapters.scale, places, dtype)
        self._moved, self._stayed = self._moved + int(moved), self._stayed + int(stayed)
        return streaming.on_host(sum_, None, dtype, transposed)

    def lost(self) -> float:
        """Of all weights so far that an adapter changes, the share whose change rounding undid."""
        return self._stayed / max(1, self._moved + self._stayed)

    @staticmethod
    def _projection(name: str) -> str:
        return name.removeprefix("layers.").removesuffix(".kernel")


@functools.partial(jax.jit, static_argnames="dtype")
def _add(
    weight: jax.Array | quantised.Kernel,
    a: jax.Array,
    b: jax.Array,
    scale: Any,
    places: jax.Array,
    dtype: np.dtype,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """One layer with its adapter; how many weights changed; and how many changes rounding undid.

    Args:
        places: the index of the layer in the weights, and in the adapter's rows.
    """
    kernel = quantised.as_float(streaming.of_layer(weight, places[0]), jnp.float32)
    a, b = streaming.of_layer((a, b), places[1])
    exact = lora.added(kernel, a, b, scale)
    asked = exact != kernel
    moved = asked & (exact.astype(dtype) != kernel.astype(dtype))
    return exact.astype(dtype), moved.sum(), (asked & ~moved).sum()
