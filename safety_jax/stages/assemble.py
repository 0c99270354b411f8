"""What every training stage makes of its config in the same way: policy, optimizer, loop.

Stages share this file and `results.py`. A stage adds its data, its loss, and what its card says.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from safety_jax.base import compilation, trees
from safety_jax.base import mesh as meshes
from safety_jax.base.errors import ConfigError
from safety_jax.data import encode, loader
from safety_jax.models import llama, lora
from safety_jax.models.execution import Execution, float_type
from safety_jax.models.folders import hub as folders
from safety_jax.models.folders import peft
from safety_jax.training import loop, metrics, optim, policy, workdir
from safety_jax.training import step as steps
from safety_jax.training.checkpoint import Checkpoints, abstract
from safety_jax.training.placement import PutBatch
from safety_jax.training.step_log import Journal, Watch

DIRECTIONS = {"lowest": False, "highest": True}


def check_values(config: ConfigDict) -> None:
    """Refuses values that would only be looked at hours later, or never.

    Raises:
        ConfigError: names key, value and what is expected.
    """
    for key, value in (
        ("log.every_steps", config.log.every_steps),
        ("log.eval_every_steps", config.log.eval_every_steps),
        ("checkpoint.every_steps", config.checkpoint.every_steps),
        ("checkpoint.keep_last", config.checkpoint.keep_last),
        # Judges have no vocabulary to visit in chunks.
        *((f"train.{key}", config.train[key]) for key in ("chunk_tokens",) if key in config.train),
    ):
        if value < 1:
            raise ConfigError(f"{key} is {value}; expected at least 1")
    if config.lora.rank < 0:
        raise ConfigError(f"lora.rank is {config.lora.rank}; expected 0 (all weights) or more")
    if not 0 <= config.lora.dropout < 1:
        raise ConfigError(f"lora.dropout is {config.lora.dropout}; expected 0 or more, below 1")
    for key, value, choices in (
        ("checkpoint.export", config.checkpoint.export, ("last", "best")),
        ("checkpoint.best_is", config.checkpoint.best_is, tuple(DIRECTIONS)),
    ):
        if value not in choices:
            raise ConfigError(f"{key} {value!r}: expected {' or '.join(choices)}")
    float_type("checkpoint.export_dtype", config.checkpoint.export_dtype)


# ---------------------------------------------------------------------------- before training


def make_loader(
    config: ConfigDict,
    mesh: Mesh,
    *sides: encode.Examples,
    batch_size: int,
    steps: int | None,
    seed: int | None,
    microbatches: int | None = None,
) -> loader.Loader:
    """Batches for training, or with `steps` and `seed` None, one ordered pass over everything."""
    return loader.Loader(
        *sides,
        batch_size=batch_size,
        row_tokens=config.data.row_tokens or config.data.max_length,
        rows_per_microbatch=config.train.rows_per_microbatch,
        packing=config.data.packing,
        steps=steps,
        seed=seed,
        prefetch_steps=config.data.prefetch_steps,
        rows_here=meshes.rows_here(mesh, config.train.rows_per_microbatch),
        microbatches=microbatches,
    )


def budgeted_steps(train: ConfigDict, examples: int, flops_per_example: float) -> int:
    """`train.max_flops` in steps, or without one what `total_steps` says.

    Raises:
        ConfigError: as there, or two limits are set.
    """
    if not train.max_flops:
        return total_steps(train, examples)
    if train.max_flops < 0 or train.max_steps > 0:
        raise ConfigError(
            f"train.max_flops {train.max_flops:g}, train.max_steps {train.max_steps}: expected one "
            "of them above 0 and the other 0"
        )
    return max(1, round(train.max_flops / (flops_per_example * train.batch_size)))


def total_steps(train: ConfigDict, examples: int) -> int:
    """`train.max_steps`, or `train.epochs` in steps.

    Raises:
        ConfigError: neither is positive.
    """
    if train.max_steps > 0:
        return train.max_steps
    if train.epochs <= 0:
        raise ConfigError(
            f"train.max_steps {train.max_steps} and train.epochs {train.epochs}: set one above 0"
        )
    return math.ceil(train.epochs * loader.steps_per_epoch(examples, train.batch_size))


def flops_per_example(config: ConfigDict, model: llama.LlamaConfig, *sides: np.ndarray) -> float:
    """Model FLOPs to train on one example, of the mean length of each side."""
    adapter = None
    if config.lora.rank > 0:
        adapter = adapter_settings(config, lora.targets(tuple(config.lora.targets)))
    return sum(
        policy.flops_per_token(model, adapter, lengths) * float(lengths.mean()) for lengths in sides
    )


def build_policy(
    config: ConfigDict, model: llama.LlamaConfig, folder: Any, mesh: Mesh
) -> tuple[policy.Policy, trees.Tree, trees.Tree]:
    """The policy, its trainable and its frozen tree, as the `model` and `lora` groups say."""
    adapter = None
    if config.lora.rank > 0:
        adapter = adapter_settings(config, lora.targets(tuple(config.lora.targets)))
    execution = Execution.build(
        mesh,
        window=model.window,
        compute_dtype=float_type("model.compute_dtype", config.model.compute_dtype),
        backend=config.model.attention,
        remat=config.model.remat,
    )
    return policy.build(
        model,
        execution,
        folder,
        init=config.model.init,
        base_dtype=float_type("model.parameter_dtype", config.model.parameter_dtype),
        adapter=adapter,
        initialization=config.lora.initialization,
        start_from=folders.resolve(config.model.adapter) if config.model.adapter else None,
        chunk_tokens=config.train.chunk_tokens,
        key=jax.random.key(config.seed),
    )


def adapter_settings(config: ConfigDict, targets: tuple[str, ...]) -> peft.LoraConfig:
    """The config's `lora` group, its targets under our names."""
    return peft.LoraConfig(
        rank=config.lora.rank,
        alpha=config.lora.alpha,
        dropout=config.lora.dropout,
        targets=targets,
        rslora=config.lora.rslora,
        base_name=config.model.path,
        dtype="float32",
    )


def make_optimizer(group: ConfigDict, total: int):
    """The learning-rate schedule and AdamW of the config's `optim` group."""
    rate = optim.schedule(
        group.schedule,
        learning_rate=group.learning_rate,
        warmup_steps=group.warmup_steps,
        total_steps=total,
    )
    optimizer = optim.adamw(
        rate,
        beta1=group.beta1,
        beta2=group.beta2,
        epsilon=group.epsilon,
        weight_decay=group.weight_decay,
        clip_norm=group.clip_norm,
    )
    return rate, optimizer


def make_step(
    config: ConfigDict,
    trainable: trees.Tree,
    shardings: trees.Tree,
    mesh: Mesh,
    total: int,
    *,
    loss: steps.Loss,
    count: steps.Count,
) -> tuple[steps.State, Callable[..., Any]]:
    """The state before the first step, which takes `trainable` over, and the compiled step."""
    rate, optimizer = make_optimizer(config.optim, total)
    where = steps.shardings(trainable, shardings, optimizer, mesh)
    dropout_key = jax.random.fold_in(jax.random.key(config.seed), 1)
    state = steps.initialize(trainable, optimizer, dropout_key, where)
    return state, steps.make(loss, count, optimizer, rate, where)


def describe_model(
    config: ConfigDict, declared: Mapping[str, meshes.Parameter], max_positions: int, mesh: Mesh
) -> str:
    """One line on weights and mesh, and a warning where rows are longer than the model's own."""
    weights = sum(math.prod(p.shape) for p in declared.values())
    text = f"{weights:,} weights on {mesh.size} {mesh.devices.flat[0].device_kind} as {sizes(mesh)}"
    if config.data.max_length > max_positions:
        text += (
            f"\nwarning: data.max_length {config.data.max_length} is more than the "
            f"{max_positions} positions the model was made for"
        )
    return text


def sizes(mesh: Mesh) -> str:
    return " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items())


# ---------------------------------------------------------------------------- training


@dataclasses.dataclass(frozen=True)
class Fitted:
    """What training left.

    Attributes:
        chosen: the step to export, the last or the best.
        weights: the trainable tree of that step.
        tokens: real tokens seen.
        recompilations: see `Journal`.
    """

    chosen: int
    weights: trees.Tree
    tokens: int
    recompilations: int


def fit(
    config: ConfigDict,
    place: workdir.Workdir,
    state: steps.State,
    frozen: Any,
    batches: loader.Loader,
    *,
    step: Callable[..., Any],
    put: PutBatch,
    evaluate: Callable[[Any], loop.Metrics] | None,
    rows: Callable[[Any], list[str]],
    flops_per_token: float,
    compiled: compilation.Counter,
    watch: Watch | None,
    mesh: Mesh,
) -> Fitted | None:
    """Trains from where an earlier start left off; None when asked to stop before the end."""
    primary = jax.process_index() == 0
    total = batches.steps
    cadence = loop.Cadence(
        total_steps=total,
        log_every_steps=config.log.every_steps,
        eval_every_steps=config.log.eval_every_steps,
        save_every_steps=config.checkpoint.every_steps,
    )
    metric = config.checkpoint.best_metric
    stream = iter(batches)
    with contextlib.ExitStack() as stack:
        saved = stack.enter_context(
            Checkpoints(
                place.checkpoints,
                config.checkpoint.keep_last,
                metric,
                highest=DIRECTIONS[config.checkpoint.best_is],
            )
        )
        state = loop.resume(saved, state, stream)
        done = int(state.step)
        writer = metrics.Writer(
            place.path, done, config.log.tensorboard, config.log.wandb, place.config, primary
        )
        progress = metrics.ProgressBar(total, done, primary)
        stack.enter_context(contextlib.closing(writer))
        stack.enter_context(contextlib.closing(progress))
        journal = Journal(
            writer=writer,
            progress=progress,
            rate=metrics.Throughput(flops_per_token, metrics.peak_of(mesh.devices)),
            compiled=compiled,
            cadence=cadence,
            steps_per_epoch=batches.steps_per_epoch,
            tokens=batches.tokens_until(done),
            watch=watch,
        )
        result = loop.train(
            state,
            frozen,
            stream,
            step=step,
            place=put,
            evaluate=evaluate,
            rows=rows,
            on_step=journal.on_step,
            on_evaluation=journal.on_evaluation,
            checkpoints=saved,
            best_metric=metric,
            cadence=cadence,
        )
        if result.interrupted:
            progress.print(
                f"stopped by SIGTERM and saved at step {int(result.state.step)} of {total}; "
                "run the same command to go on"
            )
            return None
        chosen, weights = choose(config.checkpoint.export, saved, result.state)
        return Fitted(chosen, weights, journal.tokens, journal.recompilations())


def choose(which: str, saved: Checkpoints, state: steps.State) -> tuple[int, trees.Tree]:
    """The step to export and its weights: the last, or the best by the metric of the run."""
    last = int(state.step)
    best = saved.best()
    if which == "last" or best is None or best == last:
        return last, state.trainable
    restored, _, _ = saved.restore(best, abstract(state))
    return best, restored.trainable
