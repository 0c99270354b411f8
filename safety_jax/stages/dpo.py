"""Stage `dpo`: learning from preferred and rejected answers, by DPO or one of its relatives."""

import functools

import jax
import tqdm
from jax.sharding import Mesh
from ml_collections import ConfigDict

from safety_jax.base.errors import ConfigError
from safety_jax.maths import losses
from safety_jax.stages import groups, pair_task, references, training
from safety_jax.training import preference
from safety_jax.training.preference import PairObjective
from safety_jax.training.task import Learning, Loaded, Task


def make_task(config: ConfigDict, mesh: Mesh) -> Task:
    """Pairs learned from by the config's objective."""
    objective = make_objective(config.dpo)
    base = groups.base(config, mesh)
    corpus = pair_task.read_corpus(config, base, groups.recovery(config, {}))
    if config.dpo.objective == "safe" and corpus.training.unsafe is None:
        raise ConfigError(
            "dpo.objective safe needs to know which answers are unsafe; expected PKU-SafeRLHF's "
            "columns or chosen_unsafe and rejected_unsafe in every row of data.train"
        )
    return pair_task.make(
        config,
        mesh,
        base,
        corpus,
        learn=functools.partial(learn, config, mesh, objective),
        summary=f"preference optimisation ({config.dpo.objective}, β = {config.dpo.beta:g})",
        notes=config.dpo.protocol_notes,
        live=config.dpo.reference == "live",
    )


# ---------------------------------------------------------------------------- what is learned


def make_objective(group: ConfigDict) -> PairObjective:
    """The objective that the config's `dpo` group names, with its numbers."""
    beta, smoothing, margin = group.beta, group.smoothing, group.margin
    bind = functools.partial
    known = {
        "sigmoid": bind(losses.dpo, beta=beta),
        "conservative": bind(losses.conservative, beta=beta, smoothing=smoothing),
        "robust": bind(losses.robust, beta=beta, smoothing=smoothing),
        "hinge": bind(losses.hinge, beta=beta),
        "ipo_sum": bind(losses.ipo_sum, beta=beta),
        "ipo_mean": bind(losses.ipo_mean, beta=beta),
        "sigmoid_mean": bind(losses.dpo_mean, beta=beta),
        "simpo": bind(losses.simpo, beta=beta, margin=margin),
        "safe": bind(losses.safe_dpo, beta=beta, margin=margin),
        "door": bind(losses.door, beta=beta),
    }
    simpo = group.objective == "simpo"
    return PairObjective(
        known[group.objective],
        beta,
        averages=simpo,
        reference=not simpo,
        nll_weight=group.nll_weight,
    )


def learn(config: ConfigDict, mesh: Mesh, objective: PairObjective, loaded: Loaded) -> Learning:
    """The objective on the loaded model, against the reference that the config asks for."""
    share = groups.share(config, loaded.learner.config)
    known = references.make(config, config.dpo, loaded, mesh, share)
    return preference.learning(
        loaded.learner,
        objective,
        references.frozen(config, config.dpo, loaded),
        mesh,
        live=config.dpo.reference == "live",
        batch_size=config.train.batch_size,
        reference=known,
        say=tqdm.tqdm.write if jax.process_index() == 0 else lambda text: None,
    )


run = functools.partial(training.run, make_task=make_task)
