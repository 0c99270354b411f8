"""The task of stage `sft`, and of every run of its sweeps: supervised fine-tuning on answers."""

import dataclasses
import functools
from collections.abc import Sequence

from jax.sharding import Mesh
from ml_collections import ConfigDict

from safety_jax.base.errors import ConfigError
from safety_jax.data import (
    corpora,
    encode,
    mixing,
    prefixes,
    recovery,
    source_spec,
    sources,
    thoughts,
)
from safety_jax.data.contamination import HeldApart
from safety_jax.data.corpora import Corpus
from safety_jax.data.examples import Examples
from safety_jax.data.records import Record
from safety_jax.data.sources import Skipped, Source
from safety_jax.judges import refusal
from safety_jax.maths import losses
from safety_jax.report import plots
from safety_jax.stages import groups, learners, references
from safety_jax.training import constrained, likelihood
from safety_jax.training.policy import Policy
from safety_jax.training.task import Account, Finished, Learning, Loaded, Task

CONSTRAINED = "constrained"  # sft.objective: see `losses.constrained`
SAFETY = "safety"  # name of the source data.safety


def make_task(config: ConfigDict, mesh: Mesh, base: groups.Base | None = None) -> Task:
    """Answers, learned by the config's objective.

    Args:
        base: `groups.base` of this config, if it was read before.
    """
    base = groups.base(config, mesh) if base is None else base
    corpus = read_corpus(config, base)
    load = functools.partial(learners.load_policy, config, base, mesh)
    plain = config.sft.objective != CONSTRAINED
    live = not plain and config.sft.reference == "live"
    # The reference of a constrained objective is kept by token, so rows share nothing.
    share = learners.share_opening(config, base.config, mesh) if plain else prefixes.separate
    return Task(
        unit="rows",
        sides=("row",),
        corpus=corpus,
        model=learners.trained_policy(
            config, base.config, kernels=base.kernels, sides=1, survey=live
        ),
        about_model=groups.describe_base(config, base, mesh),
        flops_per_example=learners.flops_per_example(config, base, corpus.training),
        load=load,
        learn=functools.partial(learn, config, mesh),
        account=functools.partial(account, config, corpus),
        share=share,
    )


def read_corpus(config: ConfigDict, base: groups.Base) -> Corpus[Examples]:
    """The rows of the config's `data` group, as token ids.

    Raises:
        ConfigError, DataError: sources that cannot be used.
    """
    data = config.data
    also = [safety_rows(config)] if data.safety_rows > 0 else []
    begins = groups.recovery(config, recovery.read_answers(data.recovery, config.seed))
    encoding = dataclasses.replace(
        groups.encoding(config, base, data.overlong_prompt), recovery=begins
    )
    rows = groups.rows(config, bad_rows="error")
    return corpora.read(
        rows,
        functools.partial(read_rows, config, rows.tests),
        lambda rows, _: encode.encode(rows, encoding, train_on=data.train_on),
        prompt=encoding.template.prompt,
        tokenizer=base.tokens,
        also=also,
        remark=functools.partial(remarks, config, begins),
    )


def remarks(
    config: ConfigDict, begins: recovery.Recovery | None, rows: Sequence[Record]
) -> list[str]:
    """Messages about recovery examples, and about an unused `data.safety`."""
    found = [] if begins is None else [*begins.describe(rows)]
    if config.data.safety and config.data.safety_rows == 0:
        found.append("data.safety is not mixed in, because data.safety_rows is 0")
    return found


def safety_rows(config: ConfigDict) -> Source:
    """The source `data.safety`, which takes `data.safety_rows` rows.

    Raises:
        ConfigError, DataError: it cannot be used, or sets the number of its rows itself.
    """
    data = config.data
    found = sources.open_source(data.safety, "data.safety")
    if found.take is not None or found.weight is not None:
        raise ConfigError(
            f"data.safety {found.spec} sets the number of its rows, and so does "
            f"data.safety_rows={data.safety_rows}; expected the latter alone, remove rows= and "
            "weight="
        )
    form = data.safety_form or found.form
    return dataclasses.replace(found, name=SAFETY, take=data.safety_rows, form=form)


def read_rows(
    config: ConfigDict, tests: HeldApart | None, source: Source, skipped: list[Skipped]
) -> list[Record]:
    """The demonstrations of a source; of `data.safety`, with `data.safety_choice=refusals`, only
    refusals, drawn after near-duplicates of tests have been left out.

    Raises:
        ConfigError: there are fewer refusals than `data.safety_rows`.
    """
    found, data = corpora.demonstrations(source, skipped), config.data
    if data.safety_choice == "any" or (source.name, source.spec) != (
        SAFETY,
        source_spec.public(data.safety),
    ):
        return found
    found = found if tests is None else tests.apart(found, skipped)
    refusing = [row for row in found if refuses(row)]
    if len(refusing) < data.safety_rows:
        raise ConfigError(
            f"data.safety_choice is refusals, but only {len(refusing)} of the {len(found)} rows of "
            f"{source.spec} refuse; lower data.safety_rows={data.safety_rows}, or set "
            "data.safety_choice to any"
        )
    return mixing.evenly(refusing, data.safety_rows, seed=config.seed)


def refuses(row: Record) -> bool:
    """Whether the refusal detector calls the answer a full refusal."""
    answer = thoughts.split(row.messages[-1].content).answer
    return refusal.classify(answer).label == refusal.FULL


def learn(config: ConfigDict, mesh: Mesh, loaded: Loaded[Policy]) -> Learning:
    """The config's objective on the loaded model."""
    group = config.sft
    if group.objective != CONSTRAINED:
        return likelihood.learning(loaded.learner, loaded.frozen, mesh, early_weight(group))
    return constrained.learning(
        loaded.learner,
        make_betas(group),
        references.frozen(config, group, loaded),
        mesh,
        live=group.reference == "live",
        reference=references.make(config, group, loaded, mesh),
    )


def early_weight(group: ConfigDict) -> losses.EarlyWeight | None:
    """The weight of the first tokens of each answer, from the config's `sft` group; None for 1."""
    if group.early_weight == 1.0:
        return None
    return losses.EarlyWeight(group.early_weight, group.early_tokens)


def make_betas(group: ConfigDict) -> losses.AnswerBetas:
    """The strength of the constraint at each token, from the config's `sft` group."""
    return losses.AnswerBetas(
        group.beta_first, group.beta_early, group.early_tokens, group.beta_rest
    )


def account(config: ConfigDict, corpus: Corpus[Examples], run: Finished) -> Account:
    """Draws the plot; returns the text of the card."""
    plots.loss(run.metrics, run.path / "plots" / "loss.png", run.path.name)
    shares = [share for share in corpus.mixture.shares if share.source == SAFETY]
    safety = sum(share.used // share.times for share in shares)
    form = f", put as {config.data.safety_form}s" if safety and config.data.safety_form else ""
    form += "".join(f", each counting {s.times} times" for s in shares if s.times > 1)
    early = early_weight(config.sft)
    weighed = ""
    if early is not None:
        weighed = f", the first {early.tokens} tokens of answers weighing {early.weight:g} times"
    held = ", constrained token by token" if config.sft.objective == CONSTRAINED else ""
    return Account(
        summary=f"{config.model.path} after supervised fine-tuning on {len(corpus.training):,} "
        f"rows, {safety:,} safety demonstrations drawn for the mix{form}{held}{weighed}.",
        notes=config.sft.protocol_notes,
        plots=("plots/loss.png",),
    )
