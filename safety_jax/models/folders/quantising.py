"""Loads quantised kernels: unchanged if the folder has them quantised, or else quantised on load.

This happens layer by layer. The kernel of one layer is read in its own type, sharded over the mesh
like any weight, quantised on its devices, and written into the stack. At any time, at most one
layer of one kernel exists unquantised.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from safety_jax.base import meshes
from safety_jax.base.errors import CheckpointError, ConfigError
from safety_jax.models import quantised
from safety_jax.models.folders import safetensors, streaming
from safety_jax.models.folders.bitsandbytes import StoredKernel

Shardings = tuple[tuple[str, NamedSharding], ...]  # of a kernel's parts, hashable


def kind_of(name: str, tensors: Sequence[safetensors.Tensor], kernels: str) -> str | None:
    """The format of a weight in memory: a name of `quantised.FORMATS`, or None for numbers.

    Args:
        name: our name of the weight.
        tensors: those of its layers.
        kernels: the requested format of kernels, see `model.base`.

    Raises:
        CheckpointError: layers have different formats, or a weight is quantised that must not be.
        ConfigError: the requested format is unknown, or differs from the folder's.
    """
    if kernels not in (quantised.STORED, *quantised.FORMATS):
        known = ", ".join((quantised.STORED, *quantised.FORMATS))
        raise ConfigError(f"base {kernels!r}: expected one of {known}")
    stored = {t.layout() if isinstance(t, StoredKernel) else None for t in tensors}
    first = tensors[0]
    if stored == {None}:
        asked = kernels != quantised.STORED and quantised.quantisable(name)
        return kernels if asked else None
    if len(stored) > 1 or not isinstance(first, StoredKernel):
        raise CheckpointError(
            f"{first.file}: {name} has different formats in different layers; expected one format; "
            "use the model it was made from"
        )
    if not quantised.quantisable(name):
        raise CheckpointError(
            f"{first.file}: tensor {first.name} is quantised; only the layers' projections may be "
            "(llm_int8_skip_modules); use the model it was made from"
        )
    if kernels not in (quantised.STORED, first.kind):
        raise ConfigError(
            f"base {kernels}: {first.file.parent} has {first.kind}, which would be rounded "
            f"twice; expected {quantised.STORED}, or the model it was made from"
        )
    return first.kind


def assemble(
    tensors: Sequence[safetensors.Tensor],
    name: str,
    parameter: meshes.Parameter,
    mesh: Mesh,
    kind: str,
    report: Callable[[int], Any],
) -> quantised.Kernel:
    """A stacked, quantised kernel from one tensor per layer.

    `report` receives the number of bytes that each read delivers.

    Raises:
        CheckpointError: a file cannot be read.
        ConfigError: the format does not fit the kernel or the mesh.
    """
    first = tensors[0]
    if isinstance(first, StoredKernel):
        held, skipped = first.parts(name, parameter), first.skipped
    else:
        held, skipped = quantised.parts(name, parameter, kind), 0
    stacked = tuple(quantised.shardings(held, name, mesh).items())
    each = tuple((key, meshes.sharding(mesh, part.axes[1:])) for key, part in held.items())

    def layers() -> Iterator[quantised.Kernel]:
        for tensor in tensors:
            if isinstance(tensor, StoredKernel):
                yield _as_stored(tensor, held, each, report)
            else:
                where = meshes.sharding(mesh, parameter.axes[1:])
                shape = parameter.shape[1:]
                kernel = streaming.assemble([tensor], shape, where, tensor.dtype, report)
                yield _quantiser(kind, each)(kernel)

    stack = _stack(kind, stacked, tuple((k, p.shape, p.dtype) for k, p in held.items()), skipped)()
    for number, layer in enumerate(layers()):
        stack = _placer(kind, stacked, skipped)(stack, layer, np.int32(number))
    return stack


def _as_stored(
    tensor: StoredKernel,
    held: dict[str, quantised.Part],
    where: Shardings,
    report: Callable[[int], Any],
) -> quantised.Kernel:
    """One layer from its file. A process reads only the rows for its own devices."""
    found = {}
    for key, sharding in where:
        shape = held[key].shape[1:]
        found[key] = jax.make_array_from_callback(shape, sharding, _box_of(tensor, key, shape))
        report(found[key].nbytes)
    return quantised.assembled(tensor.kind, found, tensor.skipped)


def _box_of(tensor: StoredKernel, key: str, shape: tuple[int, ...]) -> Callable[[Any], np.ndarray]:
    """Reads a box of a part; column shards of the same rows share the read."""
    read = functools.lru_cache(maxsize=1)(functools.partial(tensor.part, key))

    def box(index: tuple[slice, ...]) -> np.ndarray:
        if not shape:
            return read(0, 1)
        start, stop, _ = index[0].indices(shape[0])
        return read(start, stop)[:, *index[1:]]

    return box


@functools.lru_cache
def _quantiser(kind: str, where: Shardings) -> Callable[[jax.Array], quantised.Kernel]:
    def quantise(kernel: jax.Array) -> quantised.Kernel:
        # bitsandbytes' int8 layers round to float16 first, whatever the type of the file.
        given = kernel.astype(jnp.float16) if kind == "int8" else kernel
        return quantised.quantise(given, kind)

    return jax.jit(quantise, out_shardings=quantised.assembled(kind, dict(where)))


@functools.lru_cache
def _stack(
    kind: str, where: Shardings, shapes: tuple[tuple[str, Any, Any], ...], skipped: int
) -> Callable[[], quantised.Kernel]:
    def zeros() -> quantised.Kernel:
        found = {key: jnp.zeros(shape, dtype) for key, shape, dtype in shapes}
        return quantised.assembled(kind, found, skipped)

    return jax.jit(zeros, out_shardings=quantised.assembled(kind, dict(where), skipped))


@functools.lru_cache
def _placer(kind: str, where: Shardings, skipped: int) -> Callable[..., quantised.Kernel]:
    """Writes a layer into the stack. The stack is donated, so that it is updated in place."""

    def place(
        stack: quantised.Kernel, layer: quantised.Kernel, number: jax.Array
    ) -> quantised.Kernel:
        put = functools.partial(jax.lax.dynamic_update_index_in_dim, index=number, axis=0)
        return jax.tree.map(put, stack, layer)

    out = quantised.assembled(kind, dict(where), skipped)
    return jax.jit(place, donate_argnums=0, out_shardings=out)
