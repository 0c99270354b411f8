"""The common part of stages that learn from pairs: their data, task and model card."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

from jax.sharding import Mesh
from ml_collections import ConfigDict

from safety_jax.data import corpora, pairs
from safety_jax.data.corpora import Corpus
from safety_jax.data.recovery import Recovery
from safety_jax.report import plots
from safety_jax.stages import groups, learners
from safety_jax.training import metrics
from safety_jax.training.policy import Policy
from safety_jax.training.task import Account, Finished, Learning, Loaded, Task


def make(
    config: ConfigDict,
    mesh: Mesh,
    base: groups.Base,
    corpus: Corpus[pairs.Pairs],
    *,
    learn: Callable[[Loaded[Policy]], Learning],
    summary: str,
    notes: Sequence[str],
    reward: str,
    live: bool,
) -> Task:
    """The task of a method that learns from pairs.

    Args:
        summary: the method, for the model card.
        reward: its formula, for the plot.
        live: whether every step computes the reference.
    """
    sides, share = corpus.training.sides, learners.share(config, base.config)
    return Task(
        unit="pairs",
        sides=("chosen answer", "rejected answer"),
        corpus=corpus,
        model=learners.trained_policy(
            config, base.config, kernels=base.kernels, sides=2, survey=live
        ),
        about_model=groups.describe_base(config, base, mesh),
        flops_per_example=learners.flops_per_example(config, base, *sides),
        load=functools.partial(learners.load_policy, config, base, mesh),
        learn=learn,
        share=share,
        account=functools.partial(
            account,
            f"{config.model.path} after {summary} on {len(corpus.training):,} pairs.",
            notes,
            reward,
        ),
    )


def read_corpus(
    config: ConfigDict, base: groups.Base, recovery: Recovery | None = None
) -> Corpus[pairs.Pairs]:
    """The pairs of the config's `data` group, as token ids.

    Args:
        recovery: which pairs begin with their rejected answer.
    """
    data = config.data
    left_out: dict[str, int] = {}
    encoding = dataclasses.replace(
        groups.encoding(config, base, data.overlong_prompt), recovery=recovery
    )
    return corpora.read(
        groups.rows(config, data.bad_rows),
        corpora.preferences(data.prefer, left_out),
        functools.partial(pairs.encode_pairs, encoding=encoding, bad_rows=data.bad_rows),
        prompt=encoding.template.prompt,
        tokenizer=base.tokens,
        left_out=left_out,
        remark=functools.partial(pairs.describe_unlabelled, prefer=data.prefer),
    )


def account(summary: str, notes: Sequence[str], reward: str, run: Finished) -> Account:
    """Draws the plots; returns the text of the card, an alarm first."""
    folder, title = run.path / "plots", run.path.name
    plots.loss(run.metrics, folder / "loss.png", title)
    plots.rewards(run.metrics, folder / "rewards.png", title, reward)
    alarms = [row["step"] for row in metrics.read(run.metrics) if "alarms/chosen_collapse" in row]
    if alarms:
        notes = (
            f"ALARM: from step {min(alarms)} on, the reward of chosen answers fell while margins "
            "rose; the policy may be unlearning the answers it should learn",
            *notes,
        )
    return Account(summary, notes, plots=("plots/loss.png", "plots/rewards.png"))
