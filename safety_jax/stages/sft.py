"""Stage `sft`: instruction tuning, with safety demonstrations mixed in when the config asks."""

import dataclasses
import functools

from jax.sharding import Mesh
from ml_collections import ConfigDict

from safety_jax.data import corpora, encode, sources
from safety_jax.data.corpora import Corpus
from safety_jax.report import plots
from safety_jax.stages import groups, training
from safety_jax.training import likelihood
from safety_jax.training.task import Account, Finished, Task


def make_task(config: ConfigDict, mesh: Mesh) -> Task:
    """Answers learned as they stand."""
    base = groups.base(config, mesh)
    corpus = read_corpus(config, base)
    load = functools.partial(groups.load_policy, config, base, mesh)
    return Task(
        unit="rows",
        sides=("row",),
        corpus=corpus,
        model=groups.trained_policy(config, base.config, sides=1),
        about_model=groups.describe_base(config, base, mesh),
        flops_per_example=groups.flops_per_example(config, base, corpus.training),
        load=load,
        learn=lambda loaded: likelihood.learning(loaded.learner, loaded.frozen, mesh),
        account=functools.partial(account, config, corpus),
    )


def read_corpus(config: ConfigDict, base: groups.Base) -> Corpus[encode.Examples]:
    """What the config's `data` group names, as token ids."""
    data = config.data
    also = []
    if data.safety_rows > 0:
        safety = sources.open_source(data.safety, "data.safety")
        also = [dataclasses.replace(safety, name="safety", take=data.safety_rows)]
    encoding = groups.encoding(config, base, data.overlong_prompt)
    return corpora.read(
        groups.rows(config, bad_rows="error"),
        corpora.demonstrations,
        lambda rows, _: encode.encode(rows, encoding, train_on=data.train_on),
        prompt=encoding.template.prompt,
        tokenizer=base.tokens,
        also=also,
    )


def account(config: ConfigDict, corpus: Corpus[encode.Examples], run: Finished) -> Account:
    """The plot, and what the card says."""
    plots.loss(run.metrics, run.path / "plots" / "loss.png", run.path.name)
    safety = next((s.used for s in corpus.mixture.shares if s.source == "safety"), 0)
    return Account(
        summary=f"{config.model.path} after supervised fine-tuning on "
        f"{len(corpus.training):,} rows, {safety:,} safety demonstrations drawn for the mix.",
        notes=config.sft.protocol_notes,
        plots=("plots/loss.png",),
    )


run = functools.partial(training.run, make_task=make_task)
