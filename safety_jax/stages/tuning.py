"""Fine-tuning inside a round of RAFT: stage `sft`'s step, in the folder of the round."""

import contextlib
import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict
from transformers import PreTrainedTokenizerBase

from safety_jax.base import compilation, hosts, trees
from safety_jax.base.errors import CheckpointError
from safety_jax.data import encode, prompts
from safety_jax.data.records import Record
from safety_jax.models import llama, lora
from safety_jax.raft.setup import Tuned, Weights
from safety_jax.stages import assemble
from safety_jax.training import likelihood, metrics, placement, policy, workdir
from safety_jax.training import step as steps
from safety_jax.training.checkpoint import Checkpoints, abstract


class RoundTuner:
    """Fine-tunes on a round's selection as stage `sft` does, with an optimizer of its own.

    Rounds share one compiled step: their batches have one shape, and so have their schedules where
    they have as many steps (any number, where the schedule is constant).
    """

    def __init__(
        self,
        config: ConfigDict,
        place: workdir.Workdir,
        trained: policy.Policy,
        shapes: trees.Tree,
        mesh: Mesh,
        tokens: PreTrainedTokenizerBase,
        compiled: compilation.Counter,
    ):
        """Args: shapes: of the trainable tree."""
        self._shapes = shapes
        self._config, self._place, self._policy = config, place, trained
        self._mesh, self._tokens, self._compiled = mesh, tokens, compiled
        self._merge = jax.jit(lora.merge)
        self._steps = functools.cache(self._make_step)

    def _make_step(self, total: int):
        """Optimizer and compiled step of rounds with so many steps."""
        rate, optimizer = assemble.make_optimizer(self._config.optim, total)
        where = steps.shardings(self._shapes, self._policy.shardings(), optimizer, self._mesh)
        loss = likelihood.make_loss(self._policy)
        return optimizer, where, steps.make(loss, steps.trained_tokens, optimizer, rate, where)

    def _start(self, number: int, weights: Weights, total: int) -> tuple[steps.State, Any]:
        kind = total if self._config.optim.schedule != "constant" else 0
        optimizer, where, step = self._steps(kind)
        key = jax.random.fold_in(jax.random.key(self._config.seed), number)
        return steps.initialize(weights.trainable, optimizer, key, where), step

    def tune(
        self, path: Path, number: int, records: Sequence[Record], weights: Weights
    ) -> Tuned | None:
        config = self._config
        examples = self._encode(records)
        batch = config.train.batch_size
        batches = assemble.make_loader(
            config,
            self._mesh,
            examples,
            batch_size=batch,
            steps=assemble.budgeted_steps(
                config.train,
                len(examples),
                assemble.flops_per_example(config, self._policy.config, examples.lengths),
            ),
            seed=config.seed + number,
            microbatches=-(-batch // config.train.rows_per_microbatch),
        )
        state, step = self._start(number, weights, batches.steps)
        flops = self._policy.flops_per_token(examples.lengths)
        fitted = assemble.fit(
            config,
            dataclasses.replace(self._place, path=path),
            state,
            weights.frozen,
            batches,
            step=step,
            put=placement.place_on(self._mesh, config.train.rows_per_microbatch),
            evaluate=None,
            rows=lambda batch: [examples.where[i] for i in batch.examples],
            flops_per_token=flops,
            compiled=self._compiled,
            watch=None,
            mesh=self._mesh,
        )
        if fitted is None:
            return None
        last = hosts.first_says(lambda: _last_step(path / "metrics.jsonl"))
        figures = {name: last[name] for name in ("loss", "grad_norm", "mean_token_accuracy")}
        tokens = batches.tokens_until(batches.steps)
        return Tuned(
            self._advance(fitted.weights, weights.frozen, number),
            batches.steps,
            tokens,
            flops * tokens,
            figures,
        )

    def restore(self, path: Path, number: int, weights: Weights) -> Weights:
        state, _ = self._start(number, weights, 0)
        with contextlib.closing(
            Checkpoints(
                path / "checkpoints", self._config.checkpoint.keep_last, "loss", highest=False
            )
        ) as saved:
            latest = saved.latest()
            if latest is None:
                raise CheckpointError(
                    f"{path / 'checkpoints'} is empty: the weights of round {number} went into "
                    "those of a later round; ask for at least as many raft.rounds as before, with "
                    "no shorter raft.patience"
                )
            restored, _, _ = saved.restore(latest, abstract(state))
        return self._advance(restored.trainable, weights.frozen, number)

    def _encode(self, records: Sequence[Record]) -> encode.Examples:
        data = self._config.data
        encoding = encode.Encoding(
            prompts.load_template(data.template, self._tokens),
            self._tokens,
            max_length=data.max_length,
            overlong_prompt="skip",
            vocabulary_size=self._policy.config.vocabulary_size,
        )
        return encode.encode(records, encoding, train_on=data.train_on)

    def _advance(self, trainable: trees.Tree, frozen: trees.Tree, number: int) -> Weights:
        """What the next round starts from."""
        adapter = self._policy.adapter
        if self._config.raft.adapter == "continue" or adapter is None:
            return Weights(trainable, frozen)
        merged = self._merge(frozen, self._policy.adapters(trainable))
        fresh = lora.initialize(
            llama.parameters(self._policy.config),
            adapter.targets,
            adapter.rank,
            self._config.lora.initialization,
            jax.random.fold_in(jax.random.key(self._config.seed), number),
            self._mesh,
        )
        return Weights(fresh, merged)


def _last_step(file: Path) -> dict[str, Any]:
    """Metrics of the last step taken."""
    return [row for row in metrics.read(file) if "loss" in row][-1]
