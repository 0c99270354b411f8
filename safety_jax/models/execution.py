"""How a forward pass runs: on which mesh, in which dtype, with which attention; never what it
computes."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import DTypeLike

from safety_jax.base.errors import ConfigError
from safety_jax.models import attention, products

REMAT: dict[str, Callable[..., Any] | None] = {
    "none": None,
    "dots": products.KEEP,
    "full": jax.checkpoint_policies.nothing_saveable,
}


@dataclasses.dataclass(frozen=True)
class Execution:
    """How the forward pass of a model runs; hashable, so that compiled functions can depend on it.

    Attributes:
        compute_dtype: of activations; weights are cast to it where they are used.
        attention: see `attention.build`.
        remat: what the backward pass computes again, a name in REMAT.
    """

    mesh: Mesh
    compute_dtype: DTypeLike
    attention: attention.Attention
    remat: str

    @classmethod
    def build(
        cls,
        mesh: Mesh,
        *,
        rules: tuple[attention.Rule, ...],
        compute_dtype: DTypeLike,
        backend: str,
        remat: str,
        verify: bool = True,
    ) -> "Execution":
        """How to run a model on this mesh.

        Args:
            rules: of the model's kinds of layers (`LlamaConfig.rules`); `attention.PLAIN` for
                encoders, which have an attention of their own.
            backend: a name of `attention.PLATFORMS`, or "auto".
            verify: see `attention.build`.

        Raises:
            ConfigError: an unknown remat name, or a backend that cannot run here.
        """
        if remat not in REMAT:
            raise ConfigError(f"model.remat {remat!r}: expected one of {', '.join(REMAT)}")
        dtype = jnp.dtype(compute_dtype)
        function = attention.build(backend, mesh, rules, dtype, verify)
        return cls(mesh, dtype, function, remat)


def stored_type(platform: str) -> str:
    """The float type that is kept where nothing else is asked for, by jax's platform: a CPU cuts
    layers and blocks out of arrays of float32 alone without a detour."""
    return "float32" if platform == "cpu" else "bfloat16"


def computed_type(platform: str) -> str:
    """The float type that a platform multiplies fastest. Few CPUs have units for 16-bit numbers."""
    return "bfloat16" if platform != "cpu" or _has_matrix_units() else "float32"


@functools.cache
def _has_matrix_units() -> bool:
    """Whether this processor multiplies matrices of bfloat16 itself (Intel's AMX), by Linux."""
    try:
        described = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    flags = next((line for line in described.splitlines() if line.startswith("flags")), "")
    return "amx_bf16" in flags.split()


def float_type(key: str, name: str) -> jnp.dtype:
    """The float type that a config calls so.

    Raises:
        ConfigError: names `key`; expected is one of the types that models run in here.
    """
    if name not in ("bfloat16", "float32"):
        raise ConfigError(f"{key} {name!r}: expected bfloat16 or float32")
    return jnp.dtype(name)
