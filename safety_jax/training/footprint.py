"""What a training step holds on a device, by formula: nothing is compiled, nothing is read.

`fitting.py` chooses rows and rematerialisation by it, stage `plan` asks it where nothing compiles;
`tests/test_fitting.py` holds it against what XLA says of a compiled step.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from safety_jax.base import meshes
from safety_jax.models import llama
from safety_jax.models.attention import QUERY_BLOCK

# Times the layers' forward pass runs, by `model.remat`, and the attention within it: saved dots do
# not include the attention kernel's.
PASSES = {"none": 1, "dots": 1, "full": 2}
ATTENTION_PASSES = {"none": 1, "dots": 2, "full": 2}
# Scores of attention's block at work: before and after softmax, and the gradients of both.
BLOCK_SCORES = 4
# Float32 numbers of a trained weight: itself, its gradient and the sum of it, two moments.
TRAINED_COPIES = 5


@dataclasses.dataclass(frozen=True)
class FlopParts:
    """How many devices share what.

    Attributes:
        rows: devices among which rows are divided where products are made, data x fsdp.
        stored: devices among which a kernel is divided where it is stored, fsdp x tensor.
        tensor: devices among which a kernel is divided where it is used.
    """

    rows: int
    stored: int
    tensor: int

    @classmethod
    def of(cls, mesh: Mapping[str, int]) -> "FlopParts":
        return cls(mesh["data"] * mesh["fsdp"], mesh["fsdp"] * mesh["tensor"], mesh["tensor"])

    @classmethod
    def of_decoding(cls, mesh: Mapping[str, int]) -> "FlopParts":
        """The parts on `meshes.decoding`, where kernels are used as they are stored."""
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
        narrow: numbers of a token in queries, keys and values.
        attended: likewise in what attention gives.
        gates: projections that widen to the MLP.
        square: scores of all heads and tokens stand whole; else in blocks that do not last.
        kernels: weights of all layers' projections.
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
        """FLOPs of one matrix product of causal attention, for each token of a row."""
        return 2 * row_tokens / 2 * self.attended * self.layers

    def numbers(self, parts: FlopParts) -> tuple[float, float]:
        """Numbers of a token on a device: what a layer's projections give; all that exist."""
        outputs = self.narrow / parts.tensor + 2 * self.width
        outputs += self.gates * self.mlp_width / parts.tensor
        return outputs, 4 * self.width + 2 * (outputs + self.mlp_width / parts.tensor)


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """A model in training.

    Attributes:
        weights: all of them, the vocabulary's too.
        adapter_weights: that are trained beside a base that stands still; 0: all are trained.
        vocabulary: entries of the output head; 0: a judge.
        chunk_tokens: of a row, whose logits exist at the same time.
        base_bytes, number_bytes: of a weight that stands still, the mean of all; of a number that
            is computed with.
        sides: rows of an example that the gradient goes through.
        survey: the step makes another forward pass over as many rows.
        dequantised: kernels that stand still are codes; those of a layer are numbers at work.
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
        """Bytes of one device that stay from step to step, gradients among them."""
        moving = self.adapter_weights or self.weights
        still = self.weights * self.base_bytes if self.adapter_weights else 0
        return (still + 4 * TRAINED_COPIES * moving) / parts.stored

    def temporaries(self, parts: FlopParts, *, remat: str, rows: int, row_tokens: int) -> float:
        """Bytes of one device beside its arguments while it works on a microbatch: what the
        backward pass needs of every layer, one layer at work, a layer's kernels gathered, the head,
        a chunk of logits.

        Args:
            rows: of the microbatch, examples of one side.
        """
        trunk, width = self.trunk, self.number_bytes
        tokens = self.sides * rows * row_tokens / parts.rows
        outputs, at_work = trunk.numbers(parts)
        scores = 2 * trunk.heads / parts.tensor * row_tokens if trunk.square else 0
        kept = {"full": trunk.width, "dots": trunk.width + outputs, "none": at_work + scores}
        found = tokens * width * (trunk.layers * kept[remat] + at_work + scores)
        if not trunk.square:  # a block's, in float32, with what the backward pass makes of them
            found += tokens * 4 * BLOCK_SCORES * trunk.heads / parts.tensor * QUERY_BLOCK
        if parts.gathered or self.dequantised:
            found += width * trunk.kernels / trunk.layers / parts.tensor
        found += width * self.vocabulary * trunk.width / parts.tensor
        chunk = self.sides * rows / parts.rows * min(self.chunk_tokens, row_tokens)
        return found + 2 * 4 * chunk * self.vocabulary / parts.tensor

    def work(self, *, remat: str, row_tokens: int) -> float:
        """FLOPs of the layers for a token of a row, both ways; those of a chip as the mesh has."""
        trunk, passes = self.trunk, PASSES[remat] + self.survey
        backward = 1 if self.adapter_weights else 2
        attention = 2 * (ATTENTION_PASSES[remat] + self.survey) + 4
        products = 2 * trunk.kernels * (passes + backward)
        return products + attention * trunk.attention(row_tokens)
