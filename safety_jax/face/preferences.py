"""Log-probabilities of given answers, and loss, gradient and rewards of pairs of answers."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from safety_jax.base import meshes, trees
from safety_jax.base.batch import Tokens
from safety_jax.base.errors import ConfigError, DataError
from safety_jax.data import buckets, encode, records
from safety_jax.data.examples import Examples
from safety_jax.data.pairs import encode_pairs
from safety_jax.face import given
from safety_jax.maths import losses
from safety_jax.maths.logprobs import shift, token_logprobs
from safety_jax.models import lora, quantised
from safety_jax.models.decoding import generation
from safety_jax.models.model import Model

SHORTEST = 64  # the shortest compiled length, in tokens
CHUNK_TOKENS = 128  # tokens of a row whose logits exist at the same time


class Preferred(NamedTuple):
    """Loss, gradient and rewards of a model for n pairs of answers.

    Attributes:
        loss: the mean over the pairs, in nats.
        gradient: of the loss, with the structure of `model.adapters`, or of `model.weights` without
            adapters.
        rewards: β log π/π_ref of the chosen and the rejected answer, in nats [n 2].
    """

    loss: float
    gradient: lora.Adapters | trees.Tree
    rewards: Float[np.ndarray, "n 2"]

    @property
    def margins(self) -> Float[np.ndarray, " n"]:
        """The rewards of chosen answers minus those of rejected ones."""
        return self.rewards[:, 0] - self.rewards[:, 1]


def dpo(
    model: Model,
    pairs: Sequence[Mapping[str, Any]],
    *,
    beta: float = 0.1,
    reference: Model | None = None,
    template: str = "",
) -> Preferred:
    """The loss of direct preference optimisation, its gradient, and the implicit rewards (Rafailov
    et al., arXiv 2305.18290, eq. 7): -log σ(β (log π/π_ref(chosen) - log π/π_ref(rejected))).

        tuned = sj.lora(model)
        pairs = [{"prompt": "How do I steal a boat?", "chosen": "I cannot help with that.",
                  "rejected": "First, ..."}]
        found = sj.dpo(tuned, pairs)  # fresh adapters: the loss is ln 2
        step = jax.tree.map(lambda a, g: a - 0.1 * g, tuned.adapters, found.gradient)
        tuned = dataclasses.replace(tuned, adapters=step)

    All pairs go through the model at once.

    Args:
        pairs: rows with prompt, chosen and rejected, which are texts or lists of messages; or in
            any other format of preferences.
        beta: β; the larger it is, the closer the model stays to its reference.
        reference: π_ref; None is the model without its adapters.
        template: as in `sample`.

    Raises:
        ConfigError: there is no reference, and the model has no adapters; the reference has
            another vocabulary or mesh; the weights have no gradient, as they are codes; or beta is
            not above 0.
        DataError: a row is not a pair, or longer than the model can read, or prefers neither
            answer by its own scores.
    """
    beta = given.number("beta", beta, given.POSITIVE)
    if given.loaded(model).adapters is None:
        _check_gradient(model)
    if reference is None and model.adapters is None:
        raise ConfigError(
            "a model without adapters would be its own reference; give one, or adapters by sj.lora"
        )
    encoding = given.encoding(model, template)
    if reference is None:
        reference = dataclasses.replace(model, adapters=None)
    else:
        _check_reference(reference, model)
    read = given.every(records.read_pairs, "pair", pairs)
    encoded = encode_pairs(read, [], encoding=encoding, bad_rows="error")
    batch = _lay_out(model, encoded.chosen, encoded.rejected)
    known = _answer_logprobs(reference.bare, batch).reshape(-1, 2)
    n, policy = len(read), model.bare
    (loss, found), gradient = _dpo_gradient(policy, batch, known, beta, n)
    rewards = beta * np.asarray(found - known, np.float64)[:n]
    return Preferred(float(loss), gradient, rewards)


def logprobs(
    model: Model, rows: Sequence[Mapping[str, Any]], *, template: str = ""
) -> Float[np.ndarray, " n"]:
    """log p(answer | prompt) in nats, summed over the tokens of each answer, including its end.

        sj.logprobs(model, [{"prompt": "What does a cow eat?", "response": "Grass."}])

    Args:
        rows: with prompt and response, or in any other format of answers for training.
        template: as in `sample`.

    Raises:
        DataError: a row has no answer, says that its answer is not to be learned (`"is_safe":
            false`), or is longer than the model can read.
    """
    read = given.every(records.read_records, "row", rows)
    encoded = encode.encode(read, given.encoding(model, template), train_on="response")
    batch = _lay_out(model, encoded)
    return np.asarray(_answer_logprobs(model.bare, batch), np.float64)[: len(read)]


def _check_gradient(model: Model) -> None:
    """Raises a ConfigError for quantised weights, of which jax.grad knows no gradient."""
    if any(map(quantised.is_quantised, trees.flatten(model.weights).values())):
        raise ConfigError(
            "the model is quantised, and codes have no gradient; give it adapters by sj.lora"
        )


def _check_reference(reference: Model, model: Model) -> None:
    """Raises a ConfigError if the reference cannot read the model's token ids where they lie."""
    theirs = given.loaded(reference, "reference").tokenizer
    mine = given.tokenizer(model).get_vocab()
    size, rows = model.config.vocabulary_size, reference.config.vocabulary_size
    if theirs is None:
        alike = rows == size
    else:  # embeddings may have more rows than there are tokens
        alike = theirs.get_vocab() == mine and rows >= min(size, max(mine.values()) + 1)
    if not alike:
        raise ConfigError(
            f"the reference has another vocabulary than the model; expected the model's "
            f"{len(mine)} tokens, such as in the folder that its training began with"
        )
    if reference.mesh != model.mesh:
        raise ConfigError(
            "the reference is on another mesh than the model; expected the same, load it by "
            "sj.load(..., mesh=model.mesh)"
        )


class _Rows(NamedTuple):
    """Right-padded examples, one per row; `mask` is True for the tokens of answers."""

    ids: Int[Any, "B T"]
    real: Bool[Any, "B T"]
    mask: Bool[Any, "B T"]


def _lay_out(model: Model, *sides: Examples) -> _Rows:
    """Puts examples onto the mesh, with the sides of each in neighbouring rows, in few shapes.

    Raises:
        DataError: a row is longer than the model can read.
    """
    most = model.config.max_positions
    for side in sides:
        for i in np.flatnonzero(side.lengths >= most):
            raise DataError(
                f"{side.where[i]}: fills the {most} positions of the model or more; shorten it"
            )
    examples = [side.example(i) for i in range(len(sides[0])) for side in sides]
    longest = max(len(ids) for ids, _ in examples)
    T = next(rung for rung in buckets.ladder(min(SHORTEST, most), most) if rung >= longest)
    B = generation.bucket(len(examples), len(sides) * meshes.row_parts(model.mesh))
    rows = _Rows(np.zeros((B, T), np.int32), np.zeros((B, T), bool), np.zeros((B, T), bool))
    for row, (ids, mask) in enumerate(examples):
        here = (row, slice(len(ids)))
        rows.ids[here], rows.real[here], rows.mask[here] = ids, True, mask
    return _Rows(*(meshes.put(model.mesh, ("rows", "tokens"), part) for part in rows))


def _sums(model: Model, rows: _Rows) -> Float[jax.Array, " B"]:
    tokens = dataclasses.replace(Tokens.one_a_row(rows.ids, rows.real), mask=rows.mask)
    targets, mask = shift(tokens)
    scores = token_logprobs(
        model.forward(tokens), model.head(), targets, mask, chunk_tokens=CHUNK_TOKENS
    )
    return scores.logprobs.sum(axis=1)


_answer_logprobs = jax.jit(_sums)


@functools.partial(jax.jit, static_argnames=("beta",))
def _dpo_gradient(model: Model, rows: _Rows, known: jax.Array, beta: float, pairs: Any):
    """((loss, log π of both sides), gradient); only the first `pairs` pairs of rows are real."""
    name = "weights" if model.adapters is None else "adapters"

    def loss(part: Any) -> tuple[jax.Array, jax.Array]:
        policy = _sums(dataclasses.replace(model, **{name: part}), rows).reshape(-1, 2)
        nothing = jnp.zeros_like(policy)
        each = losses.dpo(losses.PairLogprobs(policy, known, nothing, nothing), beta=beta)
        return jnp.where(jnp.arange(len(each)) < pairs, each, 0.0).sum() / pairs, policy

    return jax.value_and_grad(loss, has_aux=True)(getattr(model, name))
