"""Stage `orpo`: preference optimisation by odds ratio, without a reference (ORPO, Hong et al.,
arXiv 2403.07691)."""

import functools

import jax
import numpy as np
import tqdm
from jax.sharding import Mesh
from jaxtyping import Float
from ml_collections import ConfigDict
from scipy import special

from safety_jax.maths import losses
from safety_jax.stages import groups, pair_task, training
from safety_jax.training import preference
from safety_jax.training.loop import Metrics
from safety_jax.training.preference import PairObjective
from safety_jax.training.task import Learning, Loaded, Task


def make_task(config: ConfigDict, mesh: Mesh) -> Task:
    """Pairs, learned by likelihood and odds ratio."""
    base = groups.base(config, mesh)
    return pair_task.make(
        config,
        mesh,
        base,
        pair_task.read_corpus(config, base),
        learn=functools.partial(learn, config, mesh, make_objective(config.orpo.weight)),
        summary=f"odds-ratio preference optimisation (ORPO, λ = {config.orpo.weight:g})",
        notes=config.orpo.protocol_notes,
        reward="λ log π per token",
        live=False,
    )


def make_objective(weight: float) -> PairObjective:
    """L = L_SFT + λ L_OR (eq. 6): the negative log-likelihood per token of chosen answers, and the
    log odds ratio of mean log-probabilities. Rewards are λ times these means, as in TRL."""
    return PairObjective(
        functools.partial(losses.orpo, weight=weight),
        weight,
        averages=True,
        reference=False,
        nll_weight=1.0,
        more=odds,
    )


def odds(means: Float[np.ndarray, "n 2"]) -> Metrics:
    """TRL's `log_odds_chosen` and `log_odds_ratio`, from mean log-probabilities."""
    log_odds = means - np.log(-np.expm1(means.astype(np.float64)))
    chosen = log_odds[:, 0] - log_odds[:, 1]
    return {
        "log_odds_chosen": float(chosen.mean()),
        "log_odds_ratio": float(special.log_expit(chosen).mean()),
    }


def learn(config: ConfigDict, mesh: Mesh, objective: PairObjective, loaded: Loaded) -> Learning:
    """The objective on the loaded model."""
    return preference.learning(
        loaded.learner,
        objective,
        preference.Frozen(loaded.frozen, None),
        mesh,
        live=False,
        batch_size=config.train.batch_size,
        reference=lambda pairs: None,
        say=tqdm.tqdm.write if jax.process_index() == 0 else lambda text: None,
    )


run = functools.partial(training.run, make_task=make_task)
