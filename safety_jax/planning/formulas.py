"""Work and memory by formula: FLOPs, bytes to and from memory, bytes exchanged, bytes held.

All formulas assume full rows in which every token is trained, and attention that is causal over the
row. Real rows, with prompts that are not trained, cost less.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import NamedTuple

from safety_jax.models import llama, lora
from safety_jax.models.decoding import caches
from safety_jax.models.folders import peft_config
from safety_jax.planning.chips import Group, Slice
from safety_jax.training.footprint import ATTENTION_PASSES, PASSES, FlopParts, TrunkSizes

# Matrix products in the backward pass of attention (the forward pass has two): splash needs three
# for queries and four for keys and values, because each of its two kernels recomputes the scores.
ATTENTION_BACKWARD = 7
# Vectors of the width D, and of the MLP's width F, that a layer writes or reads for each token in
# one pass: norms, projections in and out, residuals; and gate, up, their product, each twice.
WIDTH_VECTORS, MLP_VECTORS = 14, 6
SAMPLING_READS = 6  # of the logits: softmax, penalties, the draw


class Load(NamedTuple):
    """The cost of one run of a program.

    Attributes:
        model_flops: of all devices together, as MFU counts them: without recomputation.
        flops: of one device, with recomputation.
        traffic: bytes between one device and its memory.
        tokens: of all rows, without those that only fill up a microbatch.
    """

    model_flops: float
    flops: float
    traffic: float
    tokens: int


@dataclasses.dataclass(frozen=True)
class TrainedWeights:
    """A model in training.

    Attributes:
        adapter: None if all weights are trained.
        chunk_tokens: the number of tokens whose logits exist at the same time; 0 for a judge, which
            has no vocabulary.
    """

    config: llama.LlamaConfig
    remat: str
    adapter: peft_config.LoraConfig | None
    chunk_tokens: int

    @property
    def head_weights(self) -> int:
        return head_weights(self.config) if self.chunk_tokens else 0

    @property
    def adapter_weights(self) -> int:
        if self.adapter is None:
            return 0
        adapter, declared = self.adapter, llama.parameters(self.config)
        leaves = lora.shapes(declared, adapter.targets, adapter.rank, adapter.layers)
        return sum(math.prod(shape) for shape, _ in leaves.values())

    def chunks(self, row_tokens: int) -> int:
        """The number of passes over the vocabulary for a row."""
        return math.ceil(row_tokens / self.chunk_tokens) if self.chunk_tokens else 0


def kernel_weights(config: llama.LlamaConfig) -> int:
    """Weights of the layers' projections."""
    declared = llama.parameters(config)
    return sum(math.prod(p.shape) for name, p in declared.items() if name.endswith("kernel"))


def all_weights(config: llama.LlamaConfig) -> int:
    return sum(math.prod(p.shape) for p in llama.parameters(config).values())


def head_weights(config: llama.LlamaConfig) -> int:
    return config.vocabulary_size * config.width


def _attention(config: llama.LlamaConfig, row_tokens: int) -> float:
    """FLOPs of one matrix product of causal attention, for each token of a row."""
    return 2 * _seen(config, row_tokens / 2) * config.heads * config.head_size


def _seen(config: llama.LlamaConfig, tokens: float) -> float:
    """The number of keys, over all layers, that a token with `tokens` before it attends to."""
    seen = (tokens if window is None else min(tokens, window) for window in config.windows)
    return float(sum(seen))


def _activation_traffic(config: llama.LlamaConfig, width: int) -> float:
    """Bytes of activations that all layers read and write for a token in one pass."""
    vectors = WIDTH_VECTORS * config.width + MLP_VECTORS * config.mlp_width
    return float(width * vectors * config.layers)


def training(
    trained: TrainedWeights,
    parts: FlopParts,
    *,
    width: int,
    rows: int,
    row_tokens: int,
    microbatches: int,
    flops_per_token: float,
    live_reference: bool,
    needed: int | None = None,
    dequantised: bool = False,
    lanes: int = 1,
) -> Load:
    """One optimizer step.

    Args:
        width: bytes of a number in the compute dtype.
        rows: of all microbatches and lanes; both sides of a pair count.
        flops_per_token: for MFU, without the reference; see `flops.flops_per_token`.
        live_reference: whether the step has another forward pass for the reference.
        needed: those of the rows that have examples; the others fill up the last microbatch.
            None: all.
        dequantised: whether every pass dequantises the kernels.
        lanes: runs that share the base, each with its own adapter.
    """
    config, remat = trained.config, trained.remat
    tokens, full = rows * row_tokens, trained.adapter is None
    kernels, head = kernel_weights(config), trained.head_weights
    passes, reference = PASSES[remat], int(live_reference)
    attention_passes = ATTENTION_PASSES[remat]
    by_token = 2.0 * kernels * (passes + reference + (2 if full else 1))
    by_token += 2 * head * ((4 if full else 2) + reference)
    by_token += 2 * trained.adapter_weights * (passes + 2)
    products = 2 * (attention_passes + reference) + ATTENTION_BACKWARD
    by_token += _attention(config, row_tokens) * products

    moves = passes + reference + 1
    # A gathered or dequantised kernel is written and read, any other kernel is only read.
    written = parts.gathered or dequantised
    traffic = microbatches * moves * kernels * width / parts.tensor * (1 + written)
    chunks = trained.chunks(row_tokens) * microbatches
    traffic += chunks * (2 + reference) * head * width / parts.tensor
    traffic += tokens / parts.rows * moves * _activation_traffic(config, width) / parts.tensor
    trainable = kernels + 2 * head if full else trained.adapter_weights
    # AdamW reads weight, gradient and two moments, and writes all but the gradient.
    traffic += 7 * 4 * lanes * trainable / parts.stored
    useful = (rows if needed is None else needed) * row_tokens
    model_flops = useful * (flops_per_token + reference * 2 * (kernels + head))
    return Load(model_flops, tokens * by_token / parts.devices, traffic, useful)


def reading(
    config: llama.LlamaConfig,
    parts: FlopParts,
    *,
    width: int,
    rows: int,
    row_tokens: int,
    outputs: bool,
    dequantised: bool = False,
) -> Load:
    """One forward pass over rows: a judge's, or a decoder's over prompts.

    Args:
        outputs: whether logits are computed for the last token of each row.
        dequantised: whether the pass dequantises the kernels; see `training`.
    """
    kernels, tokens = kernel_weights(config), rows * row_tokens
    work = tokens * (2 * kernels + 2 * _attention(config, row_tokens))
    work += 2 * rows * head_weights(config) * outputs
    traffic = kernels * width / parts.tensor * (1 + (parts.gathered or dequantised))
    traffic += tokens / parts.rows * _activation_traffic(config, width) / parts.tensor
    return Load(work, work / parts.devices, traffic, tokens)


def writing(
    config: llama.LlamaConfig,
    parts: FlopParts,
    sizes: caches.CacheSizes,
    *,
    width: int,
    cache_width: float,
    dequantised: bool = False,
) -> Load:
    """A step that writes one token in each lane, with full caches.

    Args:
        dequantised: whether the step dequantises the kernels; see `training`.
    """
    kernels, head = kernel_weights(config), head_weights(config)
    seen = _seen(config, float(sizes.prompt_tokens + sizes.own_tokens))
    attention = 4 * seen * config.heads * config.head_size
    work = float(sizes.lanes * (2 * (kernels + head) + attention))
    traffic = kernels * width / parts.tensor * (1 + (parts.gathered or dequantised))
    traffic += head * width / parts.tensor * (1 + parts.gathered)
    traffic += cache_bytes(config, sizes, cache_width) / parts.devices
    traffic += SAMPLING_READS * 4 * sizes.lanes * config.vocabulary_size / parts.devices
    return Load(work, work / parts.devices, traffic, sizes.lanes)


def cache_bytes(config: llama.LlamaConfig, sizes: caches.CacheSizes, cache_width: float) -> float:
    """The bytes of prompt slots and lanes. The shared prefix is short and stored only once, so it
    is not counted."""
    arrangement = caches.arrange(config, sizes)
    tokens = sum(
        len(layers) * (one.prompts * one.prompt_tokens + one.lanes * one.own_tokens)
        for one, layers in zip(arrangement.sizes, arrangement.layers, strict=True)
    )
    return 2 * cache_width * config.kv_heads * config.head_size * tokens


# ---------------------------------------------------------------------- for chips without compiler


def passing(
    config: llama.LlamaConfig,
    parts: FlopParts,
    *,
    width: int,
    rows: int,
    row_tokens: int,
    keeps: bool,
) -> float:
    """Bytes of one device beside the arguments, in a program that is only a forward pass.

    Args:
        keeps: whether the keys and values of all layers are kept.
    """
    tokens = rows * row_tokens / parts.rows
    _, at_work = TrunkSizes.of(config, llama.parameters(config)).numbers(parts)
    kept = 2 * config.layers * config.kv_heads * config.head_size / parts.tensor
    return tokens * width * (at_work + keeps * kept) + _gathered(config, parts, width)


def sampling(config: llama.LlamaConfig, parts: FlopParts, lanes: int) -> float:
    """Bytes of one device beside the arguments while tokens are drawn: four arrays of logits."""
    return 4 * 4.0 * lanes * config.vocabulary_size / parts.devices


def _gathered(config: llama.LlamaConfig, parts: FlopParts, width: int) -> float:
    """Bytes of a layer's kernels if they are gathered, else 0."""
    layer = kernel_weights(config) / config.layers
    return width * layer / parts.tensor if parts.gathered else 0.0


def exchanged(
    config: llama.LlamaConfig,
    parts: FlopParts,
    *,
    width: int,
    tokens: int,
    passes: int,
    repeats: int,
    reduced: int,
    kernel_bytes: float,
    full: bool = False,
) -> dict[Group, float]:
    """Bytes that each device receives, by the group from which it receives them.

    Args:
        tokens: of all rows.
        passes: over the layers, including the backward pass, which gathers once although it may
            also recompute.
        repeats: the number of microbatches.
        reduced: float32 numbers of a shard that are summed over rows: gradients.
        kernel_bytes: bytes per number of a gathered kernel: `width`, or less for codes.
        full: all weights are trained. Each layer's backward pass then exchanges its gradients, in
            every microbatch; the gradients of adapters are exchanged once.
    """
    found: dict[Group, float] = {}
    # The devices of a mesh are numbered along `tensor` first, so that members of the other groups
    # are that many devices apart.
    fsdp, apart = parts.stored // parts.tensor, parts.tensor
    if fsdp > 1:
        gathered = repeats * passes * kernel_weights(config) * kernel_bytes
        gathered += 2 * head_weights(config) * width
        found[Group(fsdp, apart)] = gathered / parts.tensor * (fsdp - 1) / fsdp
    if full and parts.rows > 1:
        # Summed over rows into shards, and over the copies of a shard.
        copies = Group(parts.rows // fsdp, apart * fsdp)
        if fsdp > 1:
            found[Group(fsdp, apart)] += repeats * 4 * reduced * (fsdp - 1)
        if copies.size > 1:
            found[copies] = repeats * 2 * 4 * reduced * (copies.size - 1) / copies.size
    elif parts.rows > 1:
        share = 2 * 4 * reduced * (parts.rows - 1) / parts.rows
        rows = Group(parts.rows, apart)
        found[rows] = found.get(rows, 0.0) + share
    if parts.tensor > 1:
        # Two sums of activations per layer and pass: after attention, and after the MLP.
        sums = 2 * passes * config.layers * tokens / parts.rows * config.width * width
        found[Group(parts.tensor)] = 2 * sums * (parts.tensor - 1) / parts.tensor
    return found


def network_seconds(received: Mapping[Group, float], where: Slice) -> float:
    """Seconds in which a device receives these bytes, given by the sending group."""
    alone = math.fsum(size / where.network(*group) for group, size in received.items())
    return alone * where.chip.devices  # they share the links of their chip
