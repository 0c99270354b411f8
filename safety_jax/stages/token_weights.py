"""Weights of the tokens of chosen answers by a proxy: a model that DPO trained from the reference
(W-DOOR, see `losses.token_weights`). Its log-probabilities are cached on disk like the
reference's."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from safety_jax.base import trees
from safety_jax.base.batch import Tokens
from safety_jax.base.errors import ConfigError
from safety_jax.data.pairs import Pairs
from safety_jax.maths import logprobs, losses
from safety_jax.models.execution import float_type
from safety_jax.models.model import Model
from safety_jax.stages import answering, groups, learners, references
from safety_jax.training import reference
from safety_jax.training.placement import TokenValues
from safety_jax.training.policy import Policy
from safety_jax.training.pooling import ExamplePool
from safety_jax.training.task import Loaded

INVERSE = "inverse"  # dpo.token_weights: tokens that the proxy made more likely weigh less


class TokenWeights:
    """The weights of the tokens of all pairs of a run."""

    def __init__(self, config: ConfigDict, mesh: Mesh, base: groups.Base, parts: Sequence[Pairs]):
        """Checks the proxy; reads no weights.

        Args:
            base: of the run.
            parts: its training and its held-out pairs.

        Raises:
            ConfigError, CheckpointError: the proxy is missing or cannot be used.
        """
        path = config.dpo.proxy
        if not path:
            raise ConfigError(
                "dpo.objective weighted_door weights tokens by a model that DPO trained from the "
                "same start, but dpo.proxy is empty; expected its folder, such as runs/dpo/export"
            )
        self._config, self._mesh = config, mesh
        self._opened = answering.open_speaker(config, path, mesh)
        if self._opened.tokenizer.get_vocab() != base.tokens.get_vocab():
            raise ConfigError(
                f"dpo.proxy {path} has another vocabulary than {config.model.path}; expected a "
                "model that DPO trained from it"
            )
        self._pool = ExamplePool.of(parts)
        self._values: TokenValues | None = None

    def make(
        self, loaded: Loaded[Policy], say: Callable[[str], None]
    ) -> Callable[[Pairs, TokenValues], TokenValues]:
        """The weights, as a function of pairs and their log-probabilities under the reference.

        Args:
            loaded: the run's model.
            say: shows a line to the user.
        """
        group = self._config.dpo
        temperature = -group.temperature if group.token_weights == INVERSE else group.temperature

        def weigh(pairs: Pairs, known: TokenValues) -> TokenValues:
            if self._values is None:
                self._values = self._scored(loaded)
            proxy = self._pool.values_of(pairs, self._values)
            with np.errstate(over="ignore"):
                found = tuple(
                    losses.token_weights(ours, theirs, temperature=temperature)
                    for ours, theirs in zip(proxy, known, strict=True)
                )
            chosen = found[0][pairs.chosen.mask]
            if not np.isfinite(chosen).all():
                raise ConfigError(
                    f"dpo.temperature {group.temperature:g}: a token's weight by {group.proxy} is "
                    "not finite; expected a larger temperature"
                )
            low, middle, high = np.quantile(chosen, (0.05, 0.5, 0.95))
            say(
                f"weights of the {len(chosen):,} tokens of {len(pairs):,} chosen answers by "
                f"{group.proxy}: median {middle:.3g}, nine in ten from {low:.3g} to {high:.3g}"
            )
            return found

        return weigh

    def _scored(self, loaded: Loaded[Policy]) -> TokenValues:
        """The proxy's log-probability of every token of the pool, from disk or computed; the
        proxy's weights are not kept."""
        config, opened, learner = self._config, self._opened, loaded.learner
        share = learners.share(config, opened.config)
        compiled = reference.make_score(_Finished(learner.chunk_tokens), self._mesh)

        @functools.cache
        def proxy() -> Model:
            dtype = float_type("model.parameter_dtype", references.stored_dtype(config, learner))
            same = opened.base_weights == (learner.folder.resolve(), config.model.base)
            base = loaded.frozen if same and learner.adapter is not None else None
            return opened.load(dtype, base)

        facts = {
            "weights": opened.weights_sha256,
            "config": opened.config_sha256,
            "model": repr(opened.config),
            **references.precision(config, learner),
        }
        return reference.logprobs(
            references.cache(config.dpo, facts),
            self._pool,
            references.shards(config, self._pool, self._mesh, share),
            lambda start, frozen, tokens: compiled(start, proxy(), tokens),  # loads it if needed
            None,
            {},
            self._mesh,
            name=f"{len(self._pool):,} examples under the proxy",
        )


@dataclasses.dataclass(frozen=True)
class _Finished:
    """Scores a finished model with `reference.make_score`; `frozen` is the model."""

    chunk_tokens: int

    def reference_logprobs(
        self, start: trees.Tree | None, frozen: Model, tokens: Tokens
    ) -> jax.Array:
        assert start is None
        targets, mask = logprobs.shift(tokens)
        hidden, head = frozen.forward(tokens), frozen.head()
        scores = logprobs.token_logprobs(
            hidden, head, targets, mask, chunk_tokens=self.chunk_tokens
        )
        return scores.logprobs
