"""Memory and FLOPs of a training step on a device, by formula: compiles nothing, reads no weights.

`fitting.py` chooses rows and rematerialisation by it; stage `plan` uses it if it compiles nothing.
`tests/test_fitting.py` compares it with what XLA reports of a compiled step.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from safety_jax.base import meshes
from safety_jax.models import llama
from safety_jax.models.attention import QUERY_BLOCK

# How often the forward pass of the layers runs, by `model.remat`, and how often attention does:
# "dots" does not save the output of the attention kernel.
PASSES = {"none": 1, "dots": 1, "full": 2}
ATTENTION_PASSES = {"none": 1, "dots": 2, "full": 2}
# Arrays of scores that exist for a block of queries: before and after softmax, with gradients.
BLOCK_SCORES = 4
# Float32 numbers held for each trained weight: itself, its gradient, the accumulated gradient, and
# two moments.
TRAINED_COPIES = 5


@dataclasses.dataclass(frozen=True)
class FlopParts:
    """The numbers of devices that rows and kernels are divided over.

    Attributes:
        rows: for the rows of a batch in matrix products: data x fsdp.
        stored: for a kernel in storage: fsdp x tensor.
        tensor: for a kernel in a matrix product.
    """

    rows: int
    stored: int
    tensor: int

    @classmethod
    def of(cls, mesh: Mapping[str, int]) -> "FlopParts":
        return cls(mesh["data"] * mesh["fsdp"], mesh["fsdp"] * mesh["tensor"], mesh["tensor"])

    @classmethod
    def of_decoding(cls, mesh: Mapping[str, int]) -> "FlopParts":
        """The parts on `meshes.decoding`, which uses kernels as they are stored."""
        parts = cls.of(mesh)
        return cls(mesh["data"], parts.stored, parts.stored)

    @property
    def devices(self) -> int:
        return self.rows * self.tensor

    @property
    def gathered(self) -> bool:
        """Whether kernels are gathered before use."""
        return self.stored > self.tensor


@dataclasses.dataclass(frozen=True)
class TrunkSizes:
    """Sizes of stacked layers.

    Attributes:
        narrow: numbers for each token in queries, keys and values together.
        attended: numbers for each token in the output of attention.
        gates: projections from the width to the MLP's width: 2 if it is gated, else 1.
        square: attention holds the scores of all pairs of tokens at once, not block by block.
        kernels: weights of the projections of all layers.
    """

    layers: int
    width: int
    mlp_width: int
    heads: int
    narrow: int
    attended: int
    gates: int
    square: bool
    kernels: int

    @classmethod
    def of(cls, config: Any, declared: Mapping[str, meshes.Parameter]) -> "TrunkSizes":
        """The sizes of a LLaMA or an encoder; `declared` are its weights."""
        causal = isinstance(config, llama.LlamaConfig)
        keys = config.kv_heads if causal else config.heads
        kernels = (p for name, p in declared.items() if name.endswith("kernel"))
        return cls(
            layers=config.layers,
            width=config.width,
            mlp_width=config.mlp_width,
            heads=config.heads,
            narrow=(config.heads + 2 * keys) * config.head_size,
            attended=config.heads * config.head_size,
            gates=2 if causal else 1,
            square=not causal,
            kernels=sum(math.prod(p.shape) for p in kernels if p.axes[0] == "layers"),
        )

    def attention(self, row_tokens: int) -> float:
        """FLOPs of one matrix product of attention, for each token of a row: with all tokens if it
        is `square`, else with half of them on average."""
        return 2 * (row_tokens if self.square else row_tokens / 2) * self.attended * self.layers

    def numbers(self, parts: FlopParts) -> tuple[float, float]:
        """Numbers for each token on a device: the outputs of a layer's projections, and all arrays
        that exist while the layer runs."""
        outputs = self.narrow / parts.tensor + 2 * self.width
        outputs += self.gates * self.mlp_width / parts.tensor
        return outputs, 4 * self.width + 2 * (outputs + self.mlp_width / parts.tensor)


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """A model in training.

    Attributes:
        weights: number of all weights, embeddings included.
        adapter_weights: number of adapter weights, if only these are trained; 0 if all weights are.
        vocabulary: entries of the output head; 0 for a judge.
        chunk_tokens: positions of a row whose logits exist at the same time.
        base_bytes: mean bytes of a frozen weight.
        number_bytes: bytes of an activation.
        sides: rows of an example that the gradient goes through.
        survey: the step makes one more forward pass over as many rows.
        dequantised: the frozen kernels are quantised, and the step dequantises one layer at a time.
    """

    trunk: TrunkSizes
    weights: int
    adapter_weights: int
    vocabulary: int
    chunk_tokens: int
    base_bytes: float
    number_bytes: int
    sides: int
    survey: bool = False
    dequantised: bool = False

    def held(self, parts: FlopParts) -> float:
        """Bytes of one device that stay from step to step, including gradients."""
        moving = self.adapter_weights or self.weights
        still = self.weights * self.base_bytes if self.adapter_weights else 0
        return (still + 4 * TRAINED_COPIES * moving) / parts.stored

    def temporaries(self, parts: FlopParts, *, remat: str, rows: int, row_tokens: int) -> float:
        """Bytes of one device, in addition to `held`, while it works on a microbatch: the arrays
        that the backward pass needs of every layer, those of the layer that runs, a layer's
        gathered kernels, the head, and a chunk of logits.

        Args:
            rows: rows of the microbatch, for one side of the examples.
        """
        trunk, width = self.trunk, self.number_bytes
        tokens = self.sides * rows * row_tokens / parts.rows
        outputs, at_work = trunk.numbers(parts)
        scores = 2 * trunk.heads / parts.tensor * row_tokens if trunk.square else 0
        kept = {"full": trunk.width, "dots": trunk.width + outputs, "none": at_work + scores}
        found = tokens * width * (trunk.layers * kept[remat] + at_work + scores)
        if not trunk.square:  # scores of one block in float32, with their gradients
            found += tokens * 4 * BLOCK_SCORES * trunk.heads / parts.tensor * QUERY_BLOCK
        if parts.gathered or self.dequantised:
            found += width * trunk.kernels / trunk.layers / parts.tensor
        found += width * self.vocabulary * trunk.width / parts.tensor
        chunk = self.sides * rows / parts.rows * min(self.chunk_tokens, row_tokens)
        return found + 2 * 4 * chunk * self.vocabulary / parts.tensor

    def work(self, *, remat: str, row_tokens: int) -> float:
        """FLOPs of the layers for a token of a row, forward and backward, over all devices."""
        trunk, passes = self.trunk, PASSES[remat] + self.survey
        backward = 1 if self.adapter_weights else 2
        attention = 2 * (ATTENTION_PASSES[remat] + self.survey) + 4
        products = 2 * trunk.kernels * (passes + backward)
        return products + attention * trunk.attention(row_tokens)
