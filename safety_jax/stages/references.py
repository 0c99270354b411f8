"""The reference of a preference method: log-probabilities before training, cached on disk."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from safety_jax.base import files, trees
from safety_jax.data import prefixes
from safety_jax.data.corpora import Sided
from safety_jax.data.loader import Loader
from safety_jax.data.prefixes import Share
from safety_jax.models import quantised
from safety_jax.models.folders import config_hash, hub
from safety_jax.stages import groups
from safety_jax.training import reference
from safety_jax.training.batches import lay_out
from safety_jax.training.placement import TokenValues
from safety_jax.training.preference import Frozen
from safety_jax.training.task import Learner, Loaded

# Examples -> the log-probability of every token of all sides under the reference
Known = Callable[[Any], TokenValues | None]


def make(
    config: ConfigDict,
    group: ConfigDict,
    loaded: Loaded,
    mesh: Mesh,
    share: Share = prefixes.separate,
) -> Known:
    """A function from examples to the reference's log-probability of every token of all sides, read
    from disk or computed; it returns None if the method does not cache its reference.

    Args:
        group: the method's, with `reference` and `reference_folder`.
        share: how the sides of an example share rows.
    """
    if group.reference != "cached":
        return lambda examples: None
    kept = cache(group, facts(config, loaded))
    score = reference.make_score(loaded.learner, mesh)
    start = start_of(config, loaded)

    def known(examples: Sided) -> TokenValues:
        return reference.logprobs(
            kept, examples, shards(config, examples, mesh, share), score, start, loaded.frozen,
            mesh, name=f"{len(examples):,} examples",
        )  # fmt: skip

    return known


def cache(group: ConfigDict, facts: dict[str, Any]) -> reference.ReferenceCache:
    """The cache of a model's log-probabilities.

    Args:
        group: see `make`.
        facts: see `ReferenceCache`.
    """
    root = files.expand(group.reference_folder or files.cache_home("reference"))
    return reference.ReferenceCache(root, facts)


def shards(config: ConfigDict, examples: Sided, mesh: Mesh, share: Share) -> Loader:
    """The examples in order, a batch for each shard of the cache."""
    return lay_out(examples.sides, groups.settings(config).batching, mesh, share)(
        batch_size=reference.EXAMPLES_PER_SHARD, steps=None, seed=None
    )


def frozen(config: ConfigDict, group: ConfigDict, loaded: Loaded) -> Frozen:
    """The arrays that are not trained: the frozen tree and, for a live reference, the start.

    Args:
        group: see `make`.
    """
    start = None
    if group.reference == "live" and (origin := start_of(config, loaded)) is not None:
        # The first step donates the trainable buffers, so the start is a copy.
        start = jax.tree.map(jnp.copy, origin)
    return Frozen(loaded.frozen, start)


def start_of(config: ConfigDict, loaded: Loaded) -> trees.Tree | None:
    """The reference's trainable tree; None for fresh adapters, which add nothing to the base."""
    fresh_adapters = loaded.learner.adapter is not None and not config.model.adapter
    return None if fresh_adapters else loaded.trainable


def facts(config: ConfigDict, loaded: Loaded) -> dict[str, Any]:
    """Everything that reference log-probabilities depend on beside the tokens."""
    model, learner = config.model, loaded.learner
    pretrained, adapter = model.init == "pretrained", model.adapter
    fingerprint = hub.shared_fingerprint
    return {
        "weights": fingerprint(learner.folder) if pretrained else f"seed {config.seed}",
        "model": repr(learner.config),
        "adapter": fingerprint(hub.resolve(adapter)) if adapter else None,
        **({"scale": config_hash.of_adapter(hub.resolve(adapter))} if adapter else {}),
        **precision(config, loaded.learner),
    }


def precision(config: ConfigDict, learner: Learner) -> dict[str, Any]:
    """Everything that log-probabilities depend on beside weights and tokens."""
    model = config.model
    return {
        "template": config.data.template,
        "parameter_dtype": stored_dtype(config, learner),
        "compute_dtype": model.compute_dtype,
    } | ({} if model.base == quantised.STORED else {"base": model.base})


def stored_dtype(config: ConfigDict, learner: Learner) -> str:
    """The type of the base's weights: the config's if it is frozen, float32 if it is trained."""
    return config.model.parameter_dtype if learner.adapter else "float32"
