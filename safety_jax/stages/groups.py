"""Groups of a config as the plain values that the layers below take: a config ends here."""

import dataclasses
import functools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict
from transformers import PreTrainedTokenizerBase

from safety_jax.base import meshes
from safety_jax.data import contamination, encode, prefixes, prompts
from safety_jax.data.corpora import Rows
from safety_jax.data.examples import Examples
from safety_jax.data.prefixes import Share
from safety_jax.data.recovery import Recovery
from safety_jax.judges.planned import Resources
from safety_jax.maths import flops
from safety_jax.models import llama, lora, quantised
from safety_jax.models.execution import Execution, float_type
from safety_jax.models.folders import bitsandbytes, hf_config, hub, peft_config, tokenizer_files
from safety_jax.stages import texts
from safety_jax.training import optim, policy
from safety_jax.training.footprint import TrainedModel, TrunkSizes
from safety_jax.training.policy import Policy
from safety_jax.training.settings import Batching, Budget, Logging, Saving, Settings
from safety_jax.training.task import Loaded

# ---------------------------------------------------------------------------- what is learned


@dataclasses.dataclass(frozen=True)
class Base:
    """The language model that a run starts from, before its weights are read.

    Attributes:
        folder: its Hugging Face folder.
        tokens: its tokenizer, or the one that the config names instead.
        kernels: what its kernels are held as: a name of `quantised.FORMATS`, or `STORED`, numbers.
    """

    folder: Path
    config: llama.LlamaConfig
    tokens: PreTrainedTokenizerBase
    kernels: str


def held_kernels(config: ConfigDict, folder: Path) -> str:
    """What a run holds the kernels of this folder as, see `Base.kernels`."""
    asked = str(config.model.base)
    return bitsandbytes.held(folder) if asked == quantised.STORED else asked


def base(config: ConfigDict, mesh: Mesh) -> Base:
    """The `model` group's folder, looked at.

    Raises:
        ConfigError, CheckpointError: it cannot be used, or does not divide over the mesh.
    """
    folder = hub.resolve(config.model.path)
    model = hf_config.read_config(folder)
    llama.shardings(model, mesh)
    tokens = tokenizer_files.load(tokenizer_folders(config, folder))
    return Base(folder, model, tokens, held_kernels(config, folder))


def tokenizer_folders(config: ConfigDict, model: Path) -> tuple[Path, ...]:
    """Where a run's tokenizer lies: in the folder that the config names, or else with the adapter
    to start from, or else with the model."""
    start = config.model.adapter if "adapter" in config.model else ""
    adapter = hub.resolve(start) if start else None
    return tokenizer_files.sources(config.model.tokenizer, adapter, model)


def model_identity(config: ConfigDict, folder: Path) -> dict[str, str]:
    """Hashes of what a run reads of models: the base, an adapter to start from, the tokenizer."""
    model = config.model
    found = {"tokenizer": tokenizer_files.fingerprint(tokenizer_folders(config, folder))}
    if model.init == "pretrained":
        found[f"model.path {model.path}"] = hub.shared_fingerprint(folder)
    if "adapter" in model and model.adapter:
        adapter = hub.resolve(model.adapter)
        found[f"model.adapter {model.adapter}"] = hub.shared_fingerprint(adapter)
    return found


def rows(config: ConfigDict, bad_rows: str) -> Rows:
    """Which rows the `data` group names."""
    data = config.data
    tests = contamination.read(tuple(data.decontaminate))
    return Rows(tuple(data.train), data.eval, data.eval_rows, bad_rows, config.seed, tests)


def encoding(config: ConfigDict, base: Base, overlong_prompt: str) -> encode.Encoding:
    """How the `data` group turns records into token ids."""
    return encode.Encoding(
        template=prompts.load_template(config.data.template, base.tokens, texts.rules(config)),
        tokenizer=base.tokens,
        max_length=config.data.max_length,
        overlong_prompt=overlong_prompt,
        vocabulary_size=base.config.vocabulary_size,
    )


def recovery(config: ConfigDict, answers: Mapping[str, str]) -> Recovery | None:
    """Which rows begin with a harmful answer, as the `data` group says; None for none.

    Args:
        answers: see `Recovery`.
    """
    data = config.data
    if data.recovery_share == 0:
        return None
    return Recovery(data.recovery_share, data.recovery_tokens, config.seed, answers)


# ---------------------------------------------------------------------------- what is trained


def _targets(config: ConfigDict, base: Base) -> tuple[str, ...]:
    return lora.targets(tuple(config.lora.targets), llama.targets(base.config))


def flops_per_example(
    config: ConfigDict, base: Base, *sides: Examples, share: Share = prefixes.separate
) -> float:
    """Model FLOPs to train on one example, of the mean length of each side; what sides share is
    read once."""
    adapter = None
    if config.lora.rank > 0:
        adapter = adapter_settings(config, _targets(config, base), base.config.layers)
    whole = sum(
        policy.flops_per_token(base.config, adapter, side.lengths) * float(side.lengths.mean())
        for side in sides
    )
    shared = share(sides, config.data.row_tokens or config.data.max_length)
    return whole if shared is None else whole * (1 - shared.saved)


def share(config: ConfigDict, model: llama.LlamaConfig, skips: int | None = None) -> Share:
    """How pairs share rows of this model, as the `data` group says.

    Args:
        skips: see `prefixes.common`.
    """
    if not config.data.share_prompts:
        return prefixes.separate
    of_layers = (p.shape for n, p in llama.parameters(model).items() if n.endswith("kernel"))
    even_tokens = flops.even_tokens(
        matmul_weights=sum(map(math.prod, of_layers)),
        layers=model.layers,
        heads=model.heads,
        head_size=model.head_size,
    )
    return functools.partial(
        prefixes.where_it_saves,
        even_tokens=even_tokens,
        longest_row=model.longest_shared_row,
        skips=skips,
    )


def load_policy(
    config: ConfigDict, base: Base, mesh: Mesh, like: Loaded[Policy] | None = None
) -> Loaded[Policy]:
    """The policy with its weights, as the `model` and `lora` groups say.

    Args:
        like: a policy over the same base, whose weights and way to run are taken over.
    """
    adapter = None
    if config.lora.rank > 0:
        adapter = adapter_settings(config, _targets(config, base), base.config.layers)
    return Loaded(
        *policy.build(
            base.config,
            execution(config, base, mesh) if like is None else like.learner.run,
            base.folder,
            init=config.model.init,
            base_dtype=float_type("model.parameter_dtype", config.model.parameter_dtype),
            kernels=config.model.base,
            adapter=adapter,
            initialization=config.lora.initialization,
            start_from=hub.resolve(config.model.adapter) if config.model.adapter else None,
            chunk_tokens=config.train.chunk_tokens,
            key=jax.random.key(config.seed),
            base=None if like is None else like.frozen,
        )
    )


def execution(config: ConfigDict, base: Base, mesh: Mesh) -> Execution:
    """How the model runs, as the `model` group says."""
    return Execution.build(
        mesh,
        rules=base.config.rules,
        compute_dtype=float_type("model.compute_dtype", config.model.compute_dtype),
        backend=config.model.attention,
        remat=config.model.remat,
    )


def adapter_settings(
    config: ConfigDict, targets: tuple[str, ...], depth: int, path: str | None = None
) -> peft_config.LoraConfig:
    """The config's `lora` group, its targets under our names.

    Args:
        depth: layers of the model.
        path: of the model; None: `model.path`.
    """
    return peft_config.LoraConfig(
        rank=config.lora.rank,
        alpha=config.lora.alpha,
        dropout=config.lora.dropout,
        targets=targets,
        rslora=config.lora.rslora,
        base_name=hub.absolute(config.model.path if path is None else path),
        dtype="float32",
        layers=lora.layer_numbers(config.lora.layers, depth),
    )


def trained_policy(
    config: ConfigDict,
    model: llama.LlamaConfig,
    *,
    sides: int,
    survey: bool = False,
    kernels: str = "",
) -> TrainedModel:
    """Sizes of the model as the `model`, `lora` and `train` groups train it.

    Args:
        sides, survey: see `TrainedModel`.
        kernels: what its own are held as; "": as the config says.
    """
    known = llama.targets(model)
    adapted = lora.targets(tuple(config.lora.targets), known) if config.lora.rank > 0 else ()
    declared, vocabulary = llama.parameters(model), model.vocabulary_size
    return trained_model(
        config,
        model,
        declared,
        adapted,
        vocabulary=vocabulary,
        sides=sides,
        survey=survey,
        kernels=kernels or config.model.base,
    )


def trained_model(
    config: ConfigDict,
    trunk: Any,
    declared: Mapping[str, meshes.Parameter],
    adapted: tuple[str, ...],
    *,
    vocabulary: int,
    sides: int,
    survey: bool,
    kernels: str,
) -> TrainedModel:
    """Sizes of a model with these weights.

    Args:
        kernels: what those of a frozen base are held as.
        trunk: the config of its layers.
        adapted: projections that adapters go on; none where all weights are trained.
        vocabulary: entries of the output; 0 without.
    """
    layers = lora.layer_numbers(config.lora.layers, trunk.layers)
    leaves = lora.shapes(declared, adapted, config.lora.rank, layers)
    weights = sum(math.prod(p.shape) for p in declared.values())
    stored = float_type("model.parameter_dtype", config.model.parameter_dtype).itemsize
    return TrainedModel(
        TrunkSizes.of(trunk, declared),
        weights=weights,
        adapter_weights=sum(math.prod(shape) for shape, _ in leaves.values()),
        vocabulary=vocabulary,
        chunk_tokens=config.train.chunk_tokens if vocabulary else 0,
        base_bytes=quantised.weights_bytes(declared, stored, kernels) / weights,
        dequantised=kernels != quantised.STORED,
        number_bytes=float_type("model.compute_dtype", config.model.compute_dtype).itemsize,
        sides=sides,
        survey=survey,
    )


# ---------------------------------------------------------------------------- how it is trained


# Padded tokens of a judge's batch, where the config leaves them open. A CPU is busy with few rows,
# and of few rows little is padding.
JUDGED_TOKENS, JUDGED_ON_CPU = 16_384, 2_048


def tokens_per_batch(config: ConfigDict, platform: str) -> int:
    """Padded tokens of a judge's batch, over all devices."""
    asked = config.score.tokens_per_batch
    if asked != "auto":
        return asked
    return JUDGED_ON_CPU if platform == "cpu" else JUDGED_TOKENS


def judge_resources(config: ConfigDict, mesh: Mesh) -> Resources:
    """What judges run on, as the `score` group says."""
    score = config.score
    return Resources(
        mesh=mesh,
        parameter_dtype=score.parameter_dtype,
        compute_dtype=score.compute_dtype,
        attention=score.attention,
        tokens_per_batch=tokens_per_batch(config, mesh.devices.flat[0].platform),
        special_text=config.data.special_text,
        kernels=score.base,
    )


def settings(config: ConfigDict) -> Settings:
    """The numbers of a training run."""
    data, train, checkpoint, log = config.data, config.train, config.checkpoint, config.log
    return Settings(
        batching=Batching(
            batch_size=train.batch_size,
            rows_per_microbatch=train.rows_per_microbatch,
            row_tokens=data.row_tokens or data.max_length,
            packing=data.packing,
            prefetch_steps=data.prefetch_steps,
            seed=config.seed,
        ),
        # Judges are compared by what they were trained on, not by what that cost.
        budget=Budget(
            train.max_steps, train.max_flops if "max_flops" in train else 0.0, train.epochs
        ),
        optimization=optimization(config),
        saving=Saving(
            every_steps=checkpoint.every_steps,
            keep_last=checkpoint.keep_last,
            best_metric=checkpoint.best_metric,
            best_is=checkpoint.best_is,
            export=checkpoint.export,
        ),
        logging=Logging(
            every_steps=log.every_steps,
            eval_every_steps=log.eval_every_steps,
            tensorboard=log.tensorboard,
            wandb=log.wandb,
        ),
    )


def optimization(config: ConfigDict) -> optim.Optimization:
    return optim.Optimization(**config.optim.to_dict())


def describe_model(
    config: ConfigDict,
    declared: Mapping[str, meshes.Parameter],
    max_positions: int,
    mesh: Mesh,
    kernels: str = quantised.STORED,
) -> str:
    """One line on weights and mesh, and a warning where rows are longer than the model's own."""
    weights = sum(math.prod(p.shape) for p in declared.values())
    held = "" if kernels == quantised.STORED else f", the layers' kernels in {kernels},"
    kind = mesh.devices.flat[0].device_kind
    text = f"{weights:,} weights{held} on {mesh.size} {kind} as {sizes(mesh)}"
    if config.data.max_length > max_positions:
        text += (
            f"\nwarning: data.max_length {config.data.max_length} is more than the "
            f"{max_positions} positions the model was made for"
        )
    return text


def sizes(mesh: Mesh) -> str:
    return " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items())


def describe_base(config: ConfigDict, base: Base, mesh: Mesh) -> str:
    """`describe_model` of a language model."""
    return describe_model(
        config, llama.parameters(base.config), base.config.max_positions, mesh, base.kernels
    )
