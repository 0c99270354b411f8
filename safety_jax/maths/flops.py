"""Model FLOPs of training, and peak FLOP/s of devices: numerator and denominator of MFU."""

from collections.abc import Sequence

import numpy as np

# Dense bfloat16 FLOP/s of one jax device, from the vendors' data sheets. The first name with which
# a device kind starts applies. A TPU v3 chip and a TPU7x chip are two devices each.
PEAK_FLOPS: dict[str, float] = {
    "TPU v2": 22.5e12,
    "TPU v3": 61.5e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "TPU7x": 1153.5e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100 NVL": 835e12,
    "NVIDIA H100": 989.4e12,
    "NVIDIA H200": 989.4e12,
    "NVIDIA B200": 2250e12,
    "NVIDIA L40S": 362e12,
    "NVIDIA L40": 181e12,
    "NVIDIA L4": 121e12,
    "NVIDIA A10": 125e12,
}


def flops_per_token(
    *,
    matmul_weights: int,
    adapter_weights: int,
    trains_base: bool,
    layers: int,
    heads: int,
    head_size: int,
    example_tokens: float,
) -> float:
    """Model FLOPs to train on one token, the numerator of MFU (PaLM, arXiv 2204.02311, appendix B).

        forward   2 per matmul weight (projections, MLP, head; not the embedding lookup)
                  2·2·T·H·E·L / 2 for causal scores and their product with the values
        backward  base weights 2x forward, or 1x if they are frozen, because only the gradient of
                  the input is needed; adapters and attention 2x

    Neither recomputation for rematerialisation nor padding counts.

    Args:
        matmul_weights: base weights that multiply activations.
        adapter_weights: LoRA weights; 0 without adapters.
        trains_base: full fine-tuning.
        layers, heads, head_size: L, H, E of the model.
        example_tokens: T, the mean over tokens of the length of the token's example, that is
            sum of squared lengths / sum of lengths; packing does not change it. With windows, see
            `seen_tokens`.
    """
    base = 2 * matmul_weights * (3 if trains_base else 2)
    adapters = 2 * adapter_weights * 3
    attention = 2 * 2 * example_tokens * heads * head_size * layers / 2 * 3
    return base + adapters + attention


def even_tokens(*, matmul_weights: int, layers: int, heads: int, head_size: int) -> float:
    """The length of a row at which attention costs as many FLOPs per token as the weights. A token
    attends to half of its row on average.

    Args:
        matmul_weights: of all layers together.
    """
    return matmul_weights / (layers * heads * head_size)


def seen_tokens(lengths: np.ndarray, windows: Sequence[int | None]) -> float:
    """The `example_tokens` for examples of these lengths, in layers with these windows: the mean
    over layers of Σ 2 · pairs of query and key / Σ lengths, which is Σ n² / Σ n without windows."""
    n = lengths.astype(float)
    spans = [np.minimum(n, np.inf if window is None else window) for window in windows]
    met = [(2 * span * n - span**2).sum() for span in spans]
    return float(np.mean(met) / n.sum())


def peak_flops(device_kind: str) -> float | None:
    """Dense bfloat16 FLOP/s of one device, by `jax.Device.device_kind`; None if not known."""
    found = (peak for name, peak in PEAK_FLOPS.items() if device_kind.startswith(name))
    return next(found, None)


def peak_of(devices: np.ndarray) -> float | None:
    """FLOP/s of all devices of a mesh together; None if their kind is not known."""
    peak = peak_flops(devices.flat[0].device_kind)
    return None if peak is None else peak * devices.size
