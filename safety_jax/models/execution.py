"""How a forward pass runs: its mesh, dtype and attention backend. None of it changes the model."""

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
    """How the forward pass of a model runs. Hashable, so that compiled functions can depend on it.

    Attributes:
        compute_dtype: of activations; weights are cast to it when they are used.
        attention: see `attention.build`.
        remat: what the backward pass recomputes, a name in REMAT.
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
            rules: one for each kind of layer (`LlamaConfig.rules`); `attention.PLAIN` for encoders,
                which have their own attention.
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
    """The default float type of stored weights on a platform: float32 on a CPU, which slices layers
    and blocks out of other arrays only after a conversion."""
    return "float32" if platform == "cpu" else "bfloat16"


def computed_type(platform: str) -> str:
    """The float type with the fastest products on a platform. Not all CPUs have 16-bit ones."""
    return "bfloat16" if platform != "cpu" or _multiplies_bfloat16() else "float32"


@functools.cache
def _multiplies_bfloat16() -> bool:
    """Whether this processor has products of bfloat16 (Intel's AMX; AVX512_BF16, as AMD's Zen 4 has
    it), according to Linux."""
    try:
        described = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    flags = next((line for line in described.splitlines() if line.startswith("flags")), "")
    return not {"amx_bf16", "avx512_bf16"}.isdisjoint(flags.split())


def float_type(key: str, name: str) -> jnp.dtype:
    """The float type with this name.

    Args:
        key: of the config, for the message.

    Raises:
        ConfigError: models do not run in this type.
    """
    if name not in ("bfloat16", "float32"):
        raise ConfigError(f"{key} {name!r}: expected bfloat16 or float32")
    return jnp.dtype(name)
