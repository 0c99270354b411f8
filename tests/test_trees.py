"""Names of leaves, and rules that must hit."""

import pytest

from safety_jax.base import trees
from safety_jax.base.errors import ConfigError

TREE = {"embedding": 1, "layers": {"query": {"kernel": 2, "bias": 3}, "mlp_norm": 4}}
FLAT = {"embedding": 1, "layers.query.kernel": 2, "layers.query.bias": 3, "layers.mlp_norm": 4}


def test_flatten_and_back():
    assert trees.flatten(TREE) == FLAT
    assert trees.unflatten(FLAT) == TREE
    assert trees.map_named(lambda name, leaf: (name.count("."), -leaf), TREE) == {
        "embedding": (0, -1),
        "layers": {"query": {"kernel": (2, -2), "bias": (2, -3)}, "mlp_norm": (1, -4)},
    }


def test_select_takes_whole_names_and_refuses_a_rule_without_a_hit():
    names = list(FLAT)
    assert trees.select(names, (r".*\.bias", "embedding"), "decay") == [
        "embedding",
        "layers.query.bias",
    ]
    with pytest.raises(ConfigError, match="decay: rule 'kernel' matches nothing"):
        trees.select(names, ("kernel",), "decay")
