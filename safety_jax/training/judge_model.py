"""The judge in training: which weights are trained or frozen, how they run and are exported.

With LoRA the adapters and the head are trained and the trunk is frozen; with rank 0 all weights are
trained.
"""

import dataclasses
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from safety_jax.base import trees
from safety_jax.base.batch import Tokens
from safety_jax.base.errors import ConfigError
from safety_jax.maths import flops
from safety_jax.models import lora, quantised
from safety_jax.models.encoders import heads, llama_heads
from safety_jax.models.execution import Execution
from safety_jax.models.folders import hub, peft_config
from safety_jax.training import policy


@dataclasses.dataclass(frozen=True)
class Trainee:
    """A judge and which of its weights are trained; holds no arrays.

    Attributes:
        scorer: trunk and head, one output.
        execution: how it runs.
        folder: the Hugging Face folder it came from.
        adapter: rank, scale and targets; None if all weights are trained.
        typed: the answer's tokens have token type 1.
    """

    scorer: heads.Scorer
    execution: Execution
    folder: Path
    adapter: peft_config.LoraConfig | None
    typed: bool

    def shardings(self) -> trees.Tree:
        """The shardings of the trainable tree."""
        whole, adapter = heads.shardings(self.scorer, self.execution.mesh), self.adapter
        if adapter is None:
            return whole
        parameters, mesh = heads.parameters(self.scorer), self.execution.mesh
        adapters = lora.shardings(parameters, adapter.targets, adapter.rank, mesh)
        return {"adapters": adapters, heads.SCORE: whole[heads.SCORE]}

    def scores(
        self,
        trainable: trees.Tree,
        frozen: trees.Tree,
        tokens: Tokens,
        ends: Int[Array, "B S"],
        key: jax.Array | None,
    ) -> Float[Array, "B S"]:
        """The score of every segment, in float32; a key switches the adapters' dropout on."""
        weights, adapters = self._split(trainable, frozen, key)
        if self.typed:
            tokens = dataclasses.replace(tokens, types=tokens.mask.astype(jnp.int32))
        if adapters is not None and self.scorer.of_llama:
            declared = heads.parameters(self.scorer)
            adapters = lora.spread(adapters, declared, self.execution.mesh)
        return heads.packed_scores(self.scorer, weights, tokens, ends, self.execution, adapters)[
            ..., 0
        ]

    def _split(
        self, trainable: trees.Tree, frozen: trees.Tree, key: jax.Array | None
    ) -> tuple[trees.Tree, lora.Adapters | None]:
        """All weights, and the adapters on them."""
        if self.adapter is None:
            return trainable, None
        scale = lora.scaling(self.adapter.rank, self.adapter.alpha, self.adapter.rslora)
        on = lora.on(self.adapter.layers, self.scorer.config.layers)
        adapters = lora.Adapters(trainable["adapters"], scale, self.adapter.dropout, key, on)
        return frozen | {heads.SCORE: trainable[heads.SCORE]}, adapters

    def flops_per_token(self, lengths: np.ndarray) -> float:
        """Model FLOPs to train on one token of examples with these lengths, see `maths.flops`."""
        config, adapter, declared = self.scorer.config, self.adapter, heads.parameters(self.scorer)
        kernels = [
            p.shape
            for name, p in declared.items()
            if name.endswith("kernel") and not name.startswith(heads.SCORE)
        ]
        leaves = (
            lora.shapes(declared, adapter.targets, adapter.rank, adapter.layers) if adapter else {}
        )
        seen = flops.seen_tokens(lengths, config.windows if self.scorer.of_llama else (None,))
        return flops.flops_per_token(
            matmul_weights=sum(map(math.prod, kernels)),
            adapter_weights=sum(math.prod(shape) for shape, _ in leaves.values()),
            trains_base=adapter is None,
            layers=config.layers,
            heads=config.heads,
            head_size=config.head_size,
            # The formula counts the keys of causal attention, which are half of all.
            example_tokens=seen if self.scorer.causal else 2 * seen,
        )

    def export(self, folder: Path, trainable: trees.Tree, frozen: trees.Tree, dtype: str) -> float:
        """Writes the whole judge, with merged adapters, as a folder with a sequence head."""
        weights, adapters = self._split(trainable, frozen, None)
        return heads.export(
            folder, weights, self.scorer, self.folder, dtype, policy.SHARD_BYTES, adapters
        )

    export_merged = export  # a judge is always exported whole


def read_scorer(folder: Path, *, init: str, label: str, problem: str) -> tuple[heads.Scorer, bool]:
    """The scorer with one output of a folder, and whether the folder's head is used.

    A fresh head replaces a missing one and one with another number of outputs.

    Raises:
        CheckpointError: the trunk is not supported.
    """
    given = hub.read_json(folder / "config.json")
    has_head = "ForSequenceClassification" in str(given.get("architectures"))
    if init == "pretrained" and (has_head or llama_heads.is_beaver(given)):
        known = heads.read_scorer(folder)
        if known.labels == 1:
            return dataclasses.replace(known, label_names=(label,), problem=problem), True
    return heads.new_scorer(folder, (label,), problem), False


def build(
    scorer: heads.Scorer,
    execution: Execution,
    folder: Path,
    *,
    own_head: bool,
    typed: bool,
    init: str,
    base_dtype: jnp.dtype,
    kernels: str = quantised.STORED,
    adapter: peft_config.LoraConfig | None,
    initialization: str,
    key: jax.Array,
) -> tuple[Trainee, trees.Tree, trees.Tree]:
    """The judge with its trainable and its frozen tree.

    Args:
        own_head: use the folder's head; otherwise a fresh one.
        init: "pretrained" reads the folder's weights, "random" only uses its sizes.
        base_dtype: type of a frozen trunk; trained weights are float32.
        kernels: the form of the frozen trunk's kernels, see `weight_table.load`.
        adapter: LoRA adapters; None trains all weights.
        initialization: of adapters, see `lora.initialize`.

    Raises:
        ConfigError: an unknown `init`, adapters on random weights, or `kernels` that do not fit the
            trunk.
        CheckpointError: a folder that cannot be used.
    """
    policy.check_init(init, adapter is not None, "set lora.rank=0 to train all weights")
    lora.check_initialization(initialization)
    mesh = execution.mesh
    base_key, adapter_key = jax.random.split(key)
    dtype = jnp.dtype(jnp.float32) if adapter is None else base_dtype
    if kernels != heads.kernels_of(scorer, kernels):
        raise ConfigError(
            f"model.base {kernels}: a trunk of the kind {scorer.kind} is not quantised; expected "
            f"{quantised.STORED}"
        )
    if adapter is None and init == "pretrained":
        policy.refuse_training(folder, kernels)
    if init == "random":
        weights = heads.initialize(scorer, base_key, mesh, dtype)
    elif own_head:
        weights = heads.load(folder, scorer, mesh, dtype, kernels)
    else:
        weights = heads.load_trunk(folder, scorer, base_key, mesh, dtype, kernels)
    trainee = Trainee(scorer, execution, folder, adapter, typed)
    if adapter is None:
        return trainee, weights, {}
    head = jax.tree.map(lambda weight: weight.astype(jnp.float32), weights.pop(heads.SCORE))
    adapters = lora.initialize(
        heads.parameters(scorer), adapter.targets, adapter.rank, initialization, adapter_key, mesh,
        adapter.layers,
    )  # fmt: skip
    return trainee, {"adapters": adapters, heads.SCORE: head}, weights
