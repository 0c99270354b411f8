"""The model in training: which weights are trained or frozen, how they run and are exported.

With LoRA the adapters are trained and the base is frozen; with rank 0 all weights are trained. Code
above this file treats both cases alike, as a `trainable` and a `frozen` tree.
"""

import dataclasses
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from safety_jax.base import trees
from safety_jax.base.batch import Tokens
from safety_jax.base.errors import ConfigError
from safety_jax.maths import flops, logprobs
from safety_jax.models import llama, lora, quantised
from safety_jax.models.execution import Execution
from safety_jax.models.folders import bitsandbytes, hf, peft, peft_config, peft_names
from safety_jax.models.model import Model

SHARD_BYTES = 5 * 10**9  # the most in an exported file, as the Hub and `transformers` have it


@dataclasses.dataclass(frozen=True)
class Policy:
    """A causal language model and which of its weights are trained; holds no arrays.

    Attributes:
        config: sizes and switches of the model.
        execution: how it runs.
        folder: the Hugging Face folder it came from.
        adapter: rank, scale and targets; None if all weights are trained.
        chunk_tokens: see `logprobs.token_logprobs`.
        scale: the adapters' scale if it is an input of the compiled step (`lanes.py`); None takes
            that of `adapter`.
    """

    config: llama.LlamaConfig
    execution: Execution
    folder: Path
    adapter: peft_config.LoraConfig | None
    chunk_tokens: int
    scale: jax.Array | None = None

    def shardings(self) -> trees.Tree:
        """The shardings of the trainable tree."""
        if self.adapter is None:
            return llama.shardings(self.config, self.execution.mesh)
        parameters, adapter = llama.parameters(self.config), self.adapter
        return lora.shardings(parameters, adapter.targets, adapter.rank, self.execution.mesh)

    def adapters(self, trainable: trees.Tree, key: jax.Array | None = None) -> lora.Adapters:
        """The trainable tree of a LoRA run with its scale; a key switches dropout on."""
        adapter = self.adapter
        assert adapter is not None
        own = lora.scaling(adapter.rank, adapter.alpha, adapter.rslora)
        scale = own if self.scale is None else self.scale
        on = lora.on(adapter.layers, self.config.layers)
        return lora.Adapters(trainable, scale, adapter.dropout, key, on)

    def model(
        self, trainable: trees.Tree, frozen: trees.Tree, key: jax.Array | None = None
    ) -> Model:
        """The policy with these weights; a key switches dropout on."""
        weights, adapters = trainable, None
        if self.adapter is not None:
            weights, adapters = frozen, self.adapters(trainable, key)
        return Model(self.config, self.execution, weights, adapters, tokenizer=None)

    def token_logprobs(
        self, trainable: trees.Tree, frozen: trees.Tree, tokens: Tokens, key: jax.Array | None
    ) -> logprobs.TokenLogprobs:
        """Log-probabilities of the trained tokens; a key switches dropout on."""
        model = self.model(trainable, frozen, key)
        if model.adapters is not None:
            spread = lora.spread(model.adapters, llama.parameters(self.config), model.mesh)
            model = dataclasses.replace(model, adapters=spread)
        targets, mask = logprobs.shift(tokens)
        return logprobs.token_logprobs(
            model.forward(tokens), model.head(), targets, mask, chunk_tokens=self.chunk_tokens
        )

    def reference_logprobs(
        self, start: trees.Tree | None, frozen: trees.Tree, tokens: Tokens
    ) -> jax.Array:
        """Log-probabilities of the trained tokens before training, without a gradient.

        Args:
            start: the trainable tree at step 0; None for fresh adapters, which add nothing yet, so
                that the base alone is the same model.
        """
        if start is not None:
            scores = self.token_logprobs(start, frozen, tokens, None)
        else:
            base = dataclasses.replace(self, adapter=None)
            scores = base.token_logprobs(frozen, {}, tokens, None)
        return jax.lax.stop_gradient(scores.logprobs)

    def flops_per_token(self, lengths: np.ndarray) -> float:
        """Model FLOPs to train on one token of examples with these lengths."""
        return flops_per_token(self.config, self.adapter, lengths)

    def export(self, folder: Path, trainable: trees.Tree, frozen: trees.Tree, dtype: str) -> float:
        """Writes what was trained: a PEFT adapter folder, or the full model."""
        if self.adapter is None:
            return self.export_merged(folder, trainable, frozen, dtype)
        trunk, files = peft_names.trunk_of(self.config), self.config.files
        settings = dataclasses.replace(self.adapter, trunk=trunk, files=files)
        peft.export(folder, self.adapters(trainable), settings)
        return 0.0

    def export_merged(
        self, folder: Path, trainable: trees.Tree, frozen: trees.Tree, dtype: str
    ) -> float:
        """Writes the full model with merged adapters. The kernels of a quantised base are
        dequantised first."""
        model = self.model(trainable, frozen)
        return hf.export(
            folder, model.weights, self.config, self.folder, dtype, SHARD_BYTES, model.adapters
        )


def refuse_training(folder: Path, kernels: str) -> None:
    """Raises a ConfigError if all weights would be trained, but kernels are quantised."""
    held = bitsandbytes.held(folder) if kernels == quantised.STORED else kernels
    if held != quantised.STORED:
        raise ConfigError(
            f"{folder} in {held} with lora.rank=0: codes cannot be trained, only adapters beside "
            "them; set lora.rank, or give the model in float32, bfloat16 or float16 with "
            f"model.base={quantised.STORED}"
        )


def flops_per_token(
    model: llama.LlamaConfig, adapter: peft_config.LoraConfig | None, lengths: np.ndarray
) -> float:
    """Model FLOPs to train on one token of examples with these lengths, see `maths.flops`."""
    declared = llama.parameters(model)
    kernels = [p.shape for name, p in declared.items() if name.endswith("kernel")]
    leaves = lora.shapes(declared, adapter.targets, adapter.rank, adapter.layers) if adapter else {}
    return flops.flops_per_token(
        matmul_weights=sum(map(math.prod, kernels)) + model.vocabulary_size * model.width,
        adapter_weights=sum(math.prod(shape) for shape, _ in leaves.values()),
        trains_base=adapter is None,
        layers=model.layers,
        heads=model.heads,
        head_size=model.head_size,
        example_tokens=flops.seen_tokens(lengths, model.windows),
    )


def check_init(init: str, adapts: bool, instead: str) -> None:
    """Raises a ConfigError for an unknown `model.init`, and for adapters on random weights.

    Args:
        instead: what to change if there are adapters, for the message.
    """
    if init not in ("pretrained", "random"):
        raise ConfigError(f"model.init {init!r}: expected 'pretrained' or 'random'")
    if init == "random" and adapts:
        raise ConfigError(f"model.init=random with adapters would fit them to noise; {instead}")


def build(
    config: llama.LlamaConfig,
    execution: Execution,
    folder: Path,
    *,
    init: str,
    base_dtype: jnp.dtype,
    kernels: str = quantised.STORED,
    adapter: peft_config.LoraConfig | None,
    initialization: str,
    start_from: Path | None,
    chunk_tokens: int,
    key: jax.Array,
    base: trees.Tree | None = None,
) -> tuple[Policy, trees.Tree, trees.Tree]:
    """The policy with its trainable and its frozen tree.

    Args:
        init: "pretrained" reads the folder's weights, "random" only uses its sizes.
        base_dtype: type of a frozen base; trained weights are float32.
        kernels: the form of the frozen base's kernels, see `weight_table.load`.
        adapter: fresh LoRA adapters; None trains all weights.
        initialization: of fresh adapters, see `lora.initialize`.
        start_from: a PEFT folder to continue from. It brings its own rank, alpha, targets and
            layers; dropout stays that of `adapter`. Without `adapter` it is merged, and all weights
            are trained.
        base: the folder's weights if they were read before; they are frozen.

    Raises:
        ConfigError: an unknown `init`, adapters on random weights, or full training of a quantised
            base.
        CheckpointError: a folder that cannot be used.
    """
    adapts = adapter is not None or start_from is not None
    check_init(init, adapts, "set lora.rank=0 and no model.adapter to train all weights")
    lora.check_initialization(initialization)
    mesh = execution.mesh
    base_key, adapter_key = jax.random.split(key)
    dtype = jnp.dtype(jnp.float32) if adapter is None else base_dtype
    if init == "pretrained":
        if adapter is None:
            refuse_training(folder, kernels)
        base = hf.load(folder, config, mesh, dtype, kernels) if base is None else base
    else:
        base = llama.initialize(config, base_key, mesh, dtype)
    started = None if start_from is None else peft.load(start_from, config, mesh)

    if adapter is None:
        trainable = base if started is None else jax.jit(lora.merge)(base, started[0])
        return Policy(config, execution, folder, None, chunk_tokens), trainable, {}
    if started is not None:
        settings = dataclasses.replace(
            started[1], dropout=adapter.dropout, base_name=adapter.base_name, dtype=adapter.dtype
        )
        return Policy(config, execution, folder, settings, chunk_tokens), started[0].weights, base
    fresh = lora.initialize(
        llama.parameters(config), adapter.targets, adapter.rank, initialization, adapter_key, mesh,
        adapter.layers,
    )  # fmt: skip
    return Policy(config, execution, folder, adapter, chunk_tokens), fresh, base
