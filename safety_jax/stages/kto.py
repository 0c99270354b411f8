"""Stage `kto`: learning from single answers labelled desirable or undesirable (KTO, arXiv
2402.01306). Rows need no pairs: a label, or a verdict of safety, is enough.

The reference point z0 = KL(π ‖ π_ref) is estimated over the whole batch, in a pass without
gradient, from mismatched answers: an example has two sides, its prompt with its own answer, and
its prompt with the answer of another row.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from safety_jax.base.batch import Answers, Tokens
from safety_jax.data import corpora, pairs, records
from safety_jax.data.encode import Encoding
from safety_jax.data.pairs import Pairs
from safety_jax.data.records import Labelled
from safety_jax.data.sources import Skipped
from safety_jax.maths import logprobs, losses
from safety_jax.report import plots
from safety_jax.stages import groups, learners, references, training
from safety_jax.training import placement
from safety_jax.training.loop import Metrics
from safety_jax.training.policy import Policy
from safety_jax.training.task import Account, Finished, Learning, Loaded, Measured, Task

# Columns of the table: log π, log π_ref, z0, loss
POLICY, REFERENCE, KL, LOSS = range(4)
MOST_DESIRABLE = 4 / 3  # weight times count of the desirable answers over that of the others


def make_task(config: ConfigDict, mesh: Mesh) -> Task:
    """Answers to learn and answers to avoid."""
    data, base = config.data, groups.base(config, mesh)
    encoding = groups.encoding(config, base, data.overlong_prompt)
    corpus = corpora.read(
        groups.rows(config, data.bad_rows),
        records.read_labelled,
        functools.partial(encode, encoding=encoding, bad_rows=data.bad_rows),
        prompt=encoding.template.prompt,
        tokenizer=base.tokens,
        remark=functools.partial(
            balance,
            desirable_weight=config.kto.desirable_weight,
            undesirable_weight=config.kto.undesirable_weight,
        ),
    )
    good = f"{desirable(corpus.training).sum():,} of {len(corpus.training):,} answers desirable"
    summary = f"{config.model.path} after KTO (β = {config.kto.beta:g}); {good}."
    return Task(
        unit="answers",
        sides=("answer", "answer of another row, for the reference point"),
        corpus=corpus,
        model=learners.trained_policy(
            config, base.config, kernels=base.kernels, sides=1, survey=True
        ),
        about_model=groups.describe_base(config, base, mesh),
        flops_per_example=learners.flops_per_example(config, base, *corpus.training.sides),
        load=functools.partial(learners.load_policy, config, base, mesh),
        learn=lambda loaded: learn(
            config, mesh, loaded, known=references.make(config, config.kto, loaded, mesh)
        ),
        account=functools.partial(account, summary, config.kto.protocol_notes),
    )


def balance(
    rows: Sequence[Labelled], *, desirable_weight: float, undesirable_weight: float
) -> list[str]:
    """A warning where there is one kind of answers only, or weight times count of the two kinds is
    outside what the paper recommends (equation 8), as TRL warns; none otherwise."""
    good = sum(row.desirable for row in rows)
    bad = len(rows) - good
    if not good or not bad:
        kind = "desirable" if good else "undesirable"
        return [
            f"warning: all {len(rows):,} answers are {kind}, and KTO learns to tell desirable ones "
            "from undesirable ones; add rows of the other kind"
        ]
    most = MOST_DESIRABLE
    learned, avoided = desirable_weight * good, undesirable_weight * bad
    if round(avoided, 6) <= round(learned, 6) <= round(most * avoided, 6):
        return []
    ranges = (avoided / good, most * avoided / good, learned / most / bad, learned / bad)
    low, high, lower, higher = (f"{round(weight, 2):g}" for weight in ranges)
    return [
        f"warning: {good:,} desirable answers of weight {desirable_weight:g} and {bad:,} "
        f"undesirable ones of weight {undesirable_weight:g}; the paper recommends "
        f"kto.desirable_weight from {low} to {high}, or kto.undesirable_weight from {lower} to "
        f"{higher}"
    ]


def encode(
    rows: Sequence[Labelled], skipped: list[Skipped], *, encoding: Encoding, bad_rows: str
) -> Pairs:
    """Encodes each row with its own and another's answer; `unsafe` marks undesirable rows."""
    return pairs.encode_labelled(rows, skipped, encoding=encoding, bad_rows=bad_rows)


def learn(
    config: ConfigDict, mesh: Mesh, loaded: Loaded[Policy], *, known: references.Known
) -> Learning:
    """The loss on the loaded model; `known` gives the log-probabilities of its start."""
    policy, group = loaded.learner, config.kto

    def chances(trainable: Any, frozen: Any, batch: Answers, side: int, key: Any) -> jax.Array:
        """log π and log π_ref of a side's answers, [b, S, 2]."""
        tokens: Tokens = jax.tree.map(lambda x: x[:, side], batch.tokens)
        scores = policy.token_logprobs(trainable, frozen, tokens, key)
        assert batch.reference is not None, "KTO's reference is always cached"
        reference = logprobs.at_predictions(batch.reference[:, side])
        both = scores.logprobs, jnp.where(logprobs.shift(tokens)[1], reference, 0.0)
        most = batch.slots.shape[-1]
        sums = [logprobs.segment_sums(values, tokens.segments, most) for values in both]
        return jnp.stack(sums, axis=-1)

    def survey(trainable: Any, frozen: Any, batch: Answers) -> dict[str, jax.Array]:
        both = chances(trainable, frozen, batch, 1, None)
        return {"kl": jnp.where(batch.slots >= 0, both[..., 0] - both[..., 1], 0.0).sum()}

    def loss(trainable: Any, frozen: Any, batch: Answers, totals: Any, key: Any) -> dict[str, Any]:
        both = chances(trainable, frozen, batch, 0, key)
        kl = jnp.maximum(totals["kl"] / totals["answers"], 0.0)
        each = losses.kto(
            both[..., 0] - both[..., 1],
            1 - batch.targets[..., 0],
            kl,
            beta=group.beta,
            desirable_weight=group.desirable_weight,
            undesirable_weight=group.undesirable_weight,
        )
        mean = jnp.where(batch.slots >= 0, each, 0.0).sum() / totals["answers"]
        rows = jnp.stack([both[..., 0], both[..., 1], jnp.full_like(each, kl), each], axis=-1)
        table = placement.table_of(rows, batch.slots, config.train.batch_size)
        return {"loss": mean, "examples": table}

    return Learning(
        loss=loss,
        count=lambda batch: {"answers": (batch.slots >= 0).sum().astype(jnp.float32)},
        survey=survey,
        frozen=loaded.frozen,
        place=lambda loader, data: placement.place_answers(mesh, loader, data, known(data)),
        summarize=functools.partial(summarize, beta=group.beta),
        evaluation=functools.partial(evaluation, beta=group.beta),
    )


def desirable(data: Pairs) -> np.ndarray:
    """Whether each answer is desirable, [n]."""
    assert data.unsafe is not None
    return ~data.unsafe[:, 0]


def summarize(found: Measured, data: Pairs, *, beta: float) -> Metrics:
    """TRL's metrics: rewards β log π/π_ref and log-probabilities by label; the reference point."""
    good = desirable(data)[found.examples]
    rewards = beta * (found.table[:, POLICY] - found.table[:, REFERENCE])
    metrics = {"kl": float(found.table[:, KL].mean())}
    for name, members in {"chosen": good, "rejected": ~good}.items():
        if members.any():
            metrics[f"rewards/{name}"] = float(rewards[members].mean())
            metrics[f"logps/{name}"] = float(found.table[members, POLICY].mean())
    if good.any() and not good.all():
        metrics["rewards/margins"] = metrics["rewards/chosen"] - metrics["rewards/rejected"]
    return metrics


def evaluation(found: Measured, data: Pairs, *, beta: float) -> Metrics:
    return {"loss": float(found.table[:, LOSS].mean())} | summarize(found, data, beta=beta)


def account(summary: str, notes: Sequence[str], run: Finished) -> Account:
    plots.loss(run.metrics, run.path / "plots" / "loss.png", run.path.name)
    return Account(summary, notes, plots=("plots/loss.png",))


run = functools.partial(training.run, make_task=make_task)
