"""Turns groups of a config into the plain values that lower layers take."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path

from jax.sharding import Mesh
from ml_collections import ConfigDict
from transformers import PreTrainedTokenizerBase

from safety_jax.base import meshes
from safety_jax.data import contamination, encode, prompts
from safety_jax.data.corpora import Rows
from safety_jax.data.recovery import Recovery
from safety_jax.judges.planned import Resources
from safety_jax.models import llama, quantised
from safety_jax.models.decoding.ends import model_ends
from safety_jax.models.folders import (
    bitsandbytes,
    config_hash,
    hf_config,
    hub,
    model_folder,
    tokenizer_files,
)
from safety_jax.stages import texts
from safety_jax.training import optim
from safety_jax.training.settings import Batching, Budget, Logging, Saving, Settings

# ---------------------------------------------------------------------------- model and data


@dataclasses.dataclass(frozen=True)
class Base:
    """The language model that a run starts from, before its weights are read.

    Attributes:
        folder: its Hugging Face folder.
        tokens: its tokenizer, or the one that the config names instead.
        kernels: the format in which its kernels are held: a name in `quantised.FORMATS`, or
            `STORED` for plain numbers.
    """

    folder: Path
    config: llama.LlamaConfig
    tokens: PreTrainedTokenizerBase
    kernels: str


def held_kernels(config: ConfigDict, folder: Path) -> str:
    """The format in which a run holds the kernels of this folder, see `Base.kernels`."""
    asked = str(config.model.base)
    return bitsandbytes.held(folder) if asked == quantised.STORED else asked


def base(config: ConfigDict, mesh: Mesh) -> Base:
    """The model of the `model` group, checked.

    Raises:
        ConfigError, CheckpointError: it cannot be used, or does not divide over the mesh.
    """
    folder = hub.resolve(config.model.path)
    model = hf_config.read_config(folder)
    llama.shardings(model, mesh)
    tokens = tokenizer_files.load(tokenizer_folders(config, folder))
    if tokens.eos_token_id is not None:
        model_ends(folder, tokens)  # fails now rather than at the export, hours later
    return Base(folder, model, tokens, held_kernels(config, folder))


def tokenizer_folders(config: ConfigDict, model: Path) -> tuple[Path, ...]:
    """The folders of a run's tokenizer: that of the config, else that of the adapter to start from,
    else that of the model."""
    start = config.model.adapter if "adapter" in config.model else ""
    adapter = hub.resolve(start) if start else None
    return tokenizer_files.sources(config.model.tokenizer, adapter, model)


def model_identity(config: ConfigDict, folder: Path) -> dict[str, str]:
    """Hashes of the models that a run reads: base, adapter to start from, tokenizer, proxy."""
    model = config.model
    found = {"tokenizer": tokenizer_files.fingerprint(tokenizer_folders(config, folder))}
    found[f"model.path {model.path}, config"] = config_hash.of_model(folder)
    if model.init == "pretrained":
        found[f"model.path {model.path}"] = hub.shared_fingerprint(folder)
    if "adapter" in model and model.adapter:
        adapter = hub.resolve(model.adapter)
        found[f"model.adapter {model.adapter}"] = hub.shared_fingerprint(adapter)
        found[f"model.adapter {model.adapter}, config"] = config_hash.of_adapter(adapter)
    if "dpo" in config and config.dpo.proxy:
        proxy = hub.resolve(model_folder.split_spec(config.dpo.proxy)[0])
        found[f"dpo.proxy {config.dpo.proxy}"] = hub.shared_fingerprint(proxy)
        if (proxy / hub.ADAPTER).is_file():
            found[f"dpo.proxy {config.dpo.proxy}, config"] = config_hash.of_adapter(proxy)
    return found


def rows(config: ConfigDict, bad_rows: str) -> Rows:
    """The rows that the `data` group names."""
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
    """Which rows begin with a harmful answer, by the `data` group; None if no row does.

    Args:
        answers: see `Recovery`.
    """
    data = config.data
    if data.recovery_share == 0:
        return None
    return Recovery(data.recovery_share, data.recovery_tokens, config.seed, answers)


# ---------------------------------------------------------------------------- judges and training


# Padded tokens of a judge's batch if the config says "auto". Few rows keep a CPU busy, and have
# less padding.
JUDGED_TOKENS, JUDGED_ON_CPU = 16_384, 2_048


def tokens_per_batch(config: ConfigDict, platform: str) -> int:
    """Padded tokens of a judge's batch, over all devices."""
    asked = config.score.tokens_per_batch
    if asked != "auto":
        return asked
    return JUDGED_ON_CPU if platform == "cpu" else JUDGED_TOKENS


def judge_resources(config: ConfigDict, mesh: Mesh) -> Resources:
    """The devices and precision of judges, from the `score` group."""
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
        # Judges have no budget of FLOPs: they are compared by their training data.
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
    """One line on weights and mesh, and a warning if rows are longer than the model's context."""
    weights = sum(math.prod(p.shape) for p in declared.values())
    held = "" if kernels == quantised.STORED else f", the layers' kernels in {kernels},"
    kind = mesh.devices.flat[0].device_kind
    text = f"{weights:,} weights{held} on {mesh.size} {kind} as {sizes(mesh)}"
    if config.data.max_length > max_positions:
        text += (
            f"\nwarning: data.max_length {config.data.max_length} is more than the model's "
            f"{max_positions} positions"
        )
    return text


def sizes(mesh: Mesh) -> str:
    return " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items())


def describe_base(config: ConfigDict, base: Base, mesh: Mesh) -> str:
    """`describe_model` of a language model, and whether rows ignore its chat template."""
    text = describe_model(
        config, llama.parameters(base.config), base.config.max_positions, mesh, base.kernels
    )
    return "\n".join(filter(None, [text, texts.unused_chat_template(config, base.tokens)]))
