"""Fine-tuning in a round of RAFT: as in stage `sft`, in the folder of the round."""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from safety_jax.base import compilation, hosts, trees
from safety_jax.base.errors import CheckpointError
from safety_jax.data import corpora, encode
from safety_jax.data.records import Record
from safety_jax.models import llama, lora
from safety_jax.raft.setup import Tuned, Weights
from safety_jax.stages import groups, learners
from safety_jax.training import likelihood, metrics, steps, workdir
from safety_jax.training import run as skeleton
from safety_jax.training.checkpoint import Checkpoints, abstract
from safety_jax.training.policy import Policy
from safety_jax.training.task import Account, Learner, Learning, Loaded, Task

# Of the answers of a round, under `train.max_flops`: a round may select few. Text repeated so often
# teaches hardly anything more (Muennighoff et al., arXiv 2305.16264, section 6).
MOST_EPOCHS = 16.0


class RoundTuner:
    """Fine-tunes on a round's selection as stage `sft` does, with a fresh optimizer.

    Rounds share one compiled step, because their batches have one shape; if the learning rate is
    not constant, only rounds with the same number of steps do.
    """

    def __init__(
        self,
        config: ConfigDict,
        place: workdir.Workdir,
        base: groups.Base,
        trained: Policy,
        shapes: trees.Tree,
        mesh: Mesh,
        compiled: compilation.Counter,
    ):
        """Args: shapes: of the trainable tree."""
        self._config, self._place, self._base = config, place, base
        self._policy, self._shapes, self._mesh = trained, shapes, mesh
        self._compiled = compiled
        self._merge = jax.jit(lora.merge)
        self._steps: dict[int, Any] = {}
        settings = groups.settings(config)
        # Batches have one shape whatever a round selects.
        size, rows = settings.batching.batch_size, settings.batching.rows_per_microbatch
        batching = dataclasses.replace(settings.batching, most_microbatches=-(-size // rows))
        budget = dataclasses.replace(settings.budget, most_epochs=MOST_EPOCHS)
        self._settings = dataclasses.replace(settings, batching=batching, budget=budget)

    def _stepper(
        self, learner: Learner, learning: Learning, shapes: trees.Tree, total: int
    ) -> tuple[steps.State, Any, Callable[..., Any]]:
        """As `run.make_stepper`, once for all rounds that can share a compiled step."""
        constant = self._settings.optimization.schedule == "constant"
        kind = 0 if constant else total
        if kind not in self._steps:
            make = skeleton.make_stepper(self._settings.optimization, self._mesh)
            self._steps[kind] = make(learner, learning, shapes, kind)
        return self._steps[kind]

    def tune(
        self, path: Path, number: int, records: Sequence[Record], weights: Weights
    ) -> Tuned | None:
        task = self._task(records, weights)
        seed = self._config.seed + number
        settings = dataclasses.replace(
            self._settings, batching=dataclasses.replace(self._settings.batching, seed=seed)
        )
        fitted = skeleton.run(
            task,
            settings,
            dataclasses.replace(self._place, path=path),
            self._mesh,
            self._compiled,
            key=self._key(number),
            stepper=self._stepper,
        )
        if fitted is None:
            return None
        last = hosts.first_says(lambda: _last_step(path / "metrics.jsonl"))
        batches, per_example = fitted.batches, task.flops_per_example
        assert per_example is not None
        figures = {name: last[name] for name in ("loss", "grad_norm", "mean_token_accuracy")}
        return Tuned(
            self._advance(fitted.weights, weights.frozen, number),
            batches.steps,
            fitted.tokens,
            per_example * batches.examples_until(batches.steps),
            figures,
            fitted.remark,
        )

    def restore(self, path: Path, number: int, weights: Weights) -> Weights:
        learning = likelihood.learning(self._policy, weights.frozen, self._mesh)
        where, optimizer, _ = self._stepper(self._policy, learning, self._shapes, 0)
        state = steps.initialize(weights.trainable, optimizer, self._key(number), where)
        with contextlib.closing(
            Checkpoints(
                path / "checkpoints", self._config.checkpoint.keep_last, "loss", highest=False
            )
        ) as saved:
            latest = saved.latest()
            if latest is None:
                raise CheckpointError(
                    f"{path / 'checkpoints'} is empty: round {number} was superseded by a later "
                    "one; set raft.rounds, and raft.patience, no lower than before"
                )
            restored, _, _ = saved.restore(latest, abstract(state))
        return self._advance(restored.trainable, weights.frozen, number)

    def _key(self, number: int) -> jax.Array:
        """The key of a round: of its dropout, and of the adapters that the next one starts with."""
        return jax.random.fold_in(jax.random.key(self._config.seed), number)

    def _task(self, records: Sequence[Record], weights: Weights) -> Task:
        """Supervised fine-tuning on a round's selection."""
        data, base = self._config.data, self._base
        encoding = groups.encoding(self._config, base, overlong_prompt="skip").of_own_answers()
        examples = encode.encode(records, encoding, train_on=data.train_on)
        loaded = Loaded(self._policy, weights.trainable, weights.frozen)
        return Task(
            unit="answers",
            sides=("answer",),
            corpus=corpora.selected(examples, base.tokens),
            model=learners.trained_policy(self._config, base.config, kernels=base.kernels, sides=1),
            about_model="",
            flops_per_example=learners.flops_per_example(self._config, base, examples),
            load=lambda: loaded,
            learn=lambda loaded: likelihood.learning(loaded.learner, loaded.frozen, self._mesh),
            account=lambda _: Account("", (), ()),
            share=learners.share_opening(self._config, base.config, self._mesh),
        )

    def _advance(self, trainable: trees.Tree, frozen: trees.Tree, number: int) -> Weights:
        """The weights from which the next round starts."""
        adapter = self._policy.adapter
        if self._config.raft.adapter == "continue" or adapter is None:
            return Weights(trainable, frozen)
        merged = self._merge(frozen, self._policy.adapters(trainable))
        fresh = lora.initialize(
            llama.parameters(self._policy.config),
            adapter.targets,
            adapter.rank,
            self._config.lora.initialization,
            self._key(number),
            self._mesh,
            adapter.layers,
        )
        return Weights(fresh, merged)


def _last_step(file: Path) -> dict[str, Any]:
    """Metrics of the last step taken."""
    return [row for row in metrics.read(file) if "loss" in row][-1]
