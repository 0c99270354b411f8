"""The task of stage `dpo`, and of every run of its sweeps: preference pairs and their objective."""

import functools
from collections.abc import Callable

import jax
import tqdm
from jax.sharding import Mesh
from ml_collections import ConfigDict

from safety_jax.base.errors import ConfigError
from safety_jax.maths import losses
from safety_jax.stages import groups, learners, pair_task, references
from safety_jax.stages.references import Known
from safety_jax.stages.token_weights import TokenWeights
from safety_jax.training import preference
from safety_jax.training.policy import Policy
from safety_jax.training.preference import PairObjective
from safety_jax.training.task import Learning, Loaded, Task

WEIGHTED = "weighted_door"  # the only dpo.objective that is a loss by token


def make_task(config: ConfigDict, mesh: Mesh, base: groups.Base | None = None) -> Task:
    """Pairs, learned by the config's objective.

    Args:
        base: `groups.base` of this config, if it was read before.
    """
    base = groups.base(config, mesh) if base is None else base
    corpus = pair_task.read_corpus(config, base, groups.recovery(config, {}))
    parts = [part for part in (corpus.training, corpus.evaluation) if part is not None]
    if config.dpo.objective == "safe" and any(part.unsafe is None for part in parts):
        raise ConfigError(
            "dpo.objective safe needs to know which answers are unsafe; expected PKU-SafeRLHF's "
            "columns, or chosen_unsafe and rejected_unsafe, in every row of data.train, and of "
            "data.eval if it is given"
        )
    weights = TokenWeights(config, mesh, base, parts) if config.dpo.objective == WEIGHTED else None
    return pair_task.make(
        config,
        mesh,
        base,
        corpus,
        learn=functools.partial(learn, config, mesh, weights=weights),
        summary=describe(config.dpo),
        notes=config.dpo.protocol_notes,
        reward="β log π per token" if config.dpo.objective == "simpo" else "β log π/π_ref",
        live=config.dpo.reference == "live",
    )


def describe(group: ConfigDict) -> str:
    """The method of the config's `dpo` group, for the model card."""
    numbers = f"{group.objective}, β = {group.beta:g}"
    if group.objective == WEIGHTED:
        numbers += f", tokens of chosen answers weighted by {group.proxy}: {group.token_weights}"
        numbers += f", τ = {group.temperature:g}"
    return f"preference optimisation ({numbers})"


# ---------------------------------------------------------------------------- objectives


def pair_loss(
    name: str, *, beta: losses.Number, smoothing: losses.Number, margin: losses.Number
) -> Callable[[losses.PairLogprobs], jax.Array]:
    """The loss of this name: any `dpo.objective` but `WEIGHTED`."""
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
    return known[name]


def make_objective(group: ConfigDict) -> PairObjective:
    """The objective that the config's `dpo` group names, with its numbers."""
    if group.objective == WEIGHTED:
        by_token = functools.partial(losses.weighted_door, beta=group.beta)
        return PairObjective(None, group.beta, nll_weight=group.nll_weight, by_token=by_token)
    simpo = group.objective == "simpo"
    return PairObjective(
        pair_loss(group.objective, beta=group.beta, smoothing=group.smoothing, margin=group.margin),
        group.beta,
        averages=simpo,
        reference=not simpo,
        nll_weight=group.nll_weight,
    )


def learn(
    config: ConfigDict,
    mesh: Mesh,
    loaded: Loaded[Policy],
    *,
    objective: PairObjective | None = None,
    known: Known | None = None,
    weights: TokenWeights | None = None,
    say: Callable[[str], None] = tqdm.tqdm.write,
) -> Learning:
    """The config's objective on the loaded model, with its reference.

    Args:
        objective: used instead of the config's.
        known: the reference's log-probabilities, if the caller computes them.
        weights: of tokens, for `WEIGHTED`.
        say: shows a warning to the user; called on the first process only.
    """
    tell = say if jax.process_index() == 0 else lambda text: None
    if known is None:
        share = learners.share(config, loaded.learner.config)
        known = references.make(config, config.dpo, loaded, mesh, share)
    return preference.learning(
        loaded.learner,
        make_objective(config.dpo) if objective is None else objective,
        references.frozen(config, config.dpo, loaded),
        mesh,
        live=config.dpo.reference == "live",
        batch_size=config.train.batch_size,
        reference=known,
        say=tell,
        weigh=None if weights is None else weights.make(loaded, tell),
    )
