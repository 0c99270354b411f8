"""A model's weights after some steps of tampering: fine-tuning as in stage `sft`, on a few rows.

Tamperings of a model share one compiled step, as rounds of RAFT do: their batches have one shape,
and the learning rate does not depend on their number of steps.
"""

import contextlib
import dataclasses
import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from safety_jax.base import compilation, files, hosts, trees
from safety_jax.data import corpora
from safety_jax.models import llama, lora
from safety_jax.models.execution import Execution, float_type
from safety_jax.models.folders import tokenizer_files
from safety_jax.models.folders.model_folder import ModelFolder
from safety_jax.models.model import Model
from safety_jax.stages import answering, groups, learners
from safety_jax.stages.tamper_plan import Tampering, trained
from safety_jax.training import likelihood, steps, workdir
from safety_jax.training import run as skeleton
from safety_jax.training.checkpoint import Checkpoints
from safety_jax.training.policy import Policy
from safety_jax.training.settings import Batching, Budget, Logging, Saving, Settings
from safety_jax.training.task import Account, Learner, Learning, Loaded, Task

FOLDER = "tampering"
_SHOWN = 8  # digits of a tampering's hash in the name of its folder


class TamperedWeights:
    """Fine-tunes a model on the rows of a tampering, from listed step to listed step."""

    def __init__(
        self,
        config: ConfigDict,
        place: workdir.Workdir,
        opened: ModelFolder,
        mesh: Mesh,
        compiled: compilation.Counter,
    ):
        self._config, self._place, self._opened = config, place, opened
        self._mesh, self._compiled = mesh, compiled
        model = config.model
        targets = lora.targets(tuple(config.lora.targets), llama.targets(opened.config))
        self._policy = Policy(
            opened.config,
            Execution.build(
                mesh,
                rules=opened.config.rules,
                compute_dtype=float_type("model.compute_dtype", model.compute_dtype),
                backend=model.attention,
                remat=model.remat,
            ),
            opened.folder,
            learners.adapter_settings(config, targets, opened.config.layers, str(opened.folder)),
            config.train.chunk_tokens,
        )
        self._made: tuple[steps.State, Any, Callable[..., Any]] | None = None

    def after(self, one: Tampering, step: int) -> Model | None:
        """The model after `step` steps; None if asked to stop before."""
        adapters = None
        if step:
            trainable = self._train(one, step)
            if trainable is None:
                return None
            adapters = self._policy.adapters(trainable)
        opened = self._opened
        return Model(
            opened.config, opened.execution, self._frozen, adapters, opened.tokenizer, opened.ends
        )

    def finish(self, one: Tampering, last: int, *, keep: bool) -> bool:
        """Removes a tampering's checkpoints, and exports its last weights if `keep`; False if asked
        to stop before."""
        path = self._path(one)
        target, checkpoints = path / "export", path / "checkpoints"
        if keep and not hosts.first_says(target.exists):  # all train, or none does
            trainable = self._train(one, last)
            if trainable is None:
                return False
            # An adapter names the folder of its base; a base with a merged adapter has none.
            learner = self._policy
            write = learner.export if self._opened.adapter is None else learner.export_merged
            write(target, trainable, self._frozen, "float32")
        if jax.process_index() == 0:
            # Remove checkpoints last: as long as they exist, the tokenizer may not be copied yet.
            if keep and checkpoints.exists():
                tokenizer_files.copy(self._opened.tokenizer_folders, target, ())
            shutil.rmtree(checkpoints, ignore_errors=True)
        return True

    def release(self) -> None:
        """Frees the weights."""
        for name in ("_frozen", "_start"):
            if name in self.__dict__:  # it was read
                answering.release(self.__dict__.pop(name))

    # ------------------------------------------------------------------------ training

    def _train(self, one: Tampering, step: int) -> trees.Tree | None:
        """The adapters after `step` steps, trained on from the last checkpoint; None if asked to
        stop."""
        path = self._path(one)
        path.mkdir(parents=True, exist_ok=True)
        self._forget_later(path, step)
        fitted = skeleton.run(
            self._task(one),
            self._settings(step),
            dataclasses.replace(self._place, path=path),
            self._mesh,
            self._compiled,
            key=jax.random.fold_in(jax.random.key(self._config.seed), 1),
            stepper=self._stepper,
        )
        return None if fitted is None else fitted.weights

    def _path(self, one: Tampering) -> Path:
        return self._place.path / FOLDER / files.file_name(f"{one.name} {one.sha256[:_SHOWN]}")

    @staticmethod
    def _forget_later(path: Path, step: int) -> None:
        """Removes checkpoints beyond a step, which may have been added to the list since. No host
        continues before they are gone."""
        folder = path / "checkpoints"
        if not hosts.first_says(folder.exists):
            return
        with contextlib.closing(Checkpoints(folder, 1, "loss", highest=False)) as saved:
            latest = saved.latest() or 0  # the same on every host
        if latest > step:
            hosts.first_says(lambda: shutil.rmtree(folder))

    def _task(self, one: Tampering) -> Task:
        return Task(
            unit="rows",
            sides=("row",),
            corpus=corpora.selected(one.examples, self._opened.tokenizer),
            model=trained(self._config, self._opened.config),
            about_model="",
            flops_per_example=None,
            # The first step donates the trainable buffers.
            load=lambda: Loaded(self._policy, jax.tree.map(jnp.copy, self._start), self._frozen),
            learn=lambda loaded: likelihood.learning(loaded.learner, loaded.frozen, self._mesh),
            account=lambda _: Account("", (), ()),
        )

    def _settings(self, step: int) -> Settings:
        config = self._config
        data, train = config.data, config.train
        rows = train.rows_per_microbatch
        return Settings(
            batching=Batching(
                batch_size=train.batch_size,
                rows_per_microbatch=rows,
                row_tokens=data.row_tokens or data.max_length,
                packing=data.packing,
                prefetch_steps=data.prefetch_steps,
                seed=config.seed,
                most_microbatches=-(-train.batch_size // rows),
            ),
            budget=Budget(max_steps=step, max_flops=0.0, epochs=0.0),
            optimization=groups.optimization(config),
            # Save the last step, whatever its number.
            saving=Saving(step, 1, "eval/loss", "lowest", "last"),
            logging=Logging(1, step, tensorboard=False, wandb=False),
        )

    def _stepper(
        self, learner: Learner, learning: Learning, shapes: trees.Tree, total: int
    ) -> tuple[steps.State, Any, Callable[..., Any]]:
        if self._made is None:
            make = skeleton.make_stepper(groups.optimization(self._config), self._mesh)
            self._made = make(learner, learning, shapes, total)
        return self._made

    # ------------------------------------------------------------------------ weights

    @functools.cached_property
    def _frozen(self) -> trees.Tree:
        """The model's weights, with its own adapter merged."""
        dtype = float_type("model.parameter_dtype", self._config.model.parameter_dtype)
        model = self._opened.load(dtype)
        if model.adapters is None:
            return model.weights
        return jax.jit(lora.merge)(model.weights, model.adapters)

    @functools.cached_property
    def _start(self) -> trees.Tree:
        """Fresh adapters."""
        adapter = self._policy.adapter
        assert adapter is not None
        return lora.initialize(
            llama.parameters(self._opened.config),
            adapter.targets,
            adapter.rank,
            self._config.lora.initialization,
            jax.random.key(self._config.seed),
            self._mesh,
            adapter.layers,
        )
