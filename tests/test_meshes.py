"""The table of axes: what it gives, and what it refuses."""

import jax
import pytest
from jax.sharding import AxisType, PartitionSpec

from safety_jax.base import meshes
from safety_jax.base.errors import ConfigError


def test_one_size_may_be_left_open():
    mesh = meshes.build(-1, 2, 2)
    assert dict(mesh.shape) == {"data": 2, "fsdp": 2, "tensor": 2}
    assert set(mesh.axis_types) == {AxisType.Auto}


@pytest.mark.parametrize("sizes", [(-1, -1, 1), (0, 1, 1), (3, 1, 1), (-1, 3, 1), (-2, 1, 1)])
def test_sizes_that_do_not_fit_are_refused(sizes):
    with pytest.raises(ConfigError, match="mesh data"):
        meshes.build(*sizes)


def test_specs_follow_the_table():
    assert meshes.spec(("layers", "heads", "embed")) == PartitionSpec(None, "tensor", "fsdp")
    assert meshes.spec(("rows", "tokens")) == PartitionSpec(("data", "fsdp"), None)
    with pytest.raises(KeyError, match="colour"):
        meshes.spec(("colour",))
    with pytest.raises(ValueError, match="use a mesh axis twice"):
        meshes.spec(("vocab", "heads"))


def test_gathering_leaves_the_tensor_axis_split(eight_devices):
    stored = jax.device_put(
        jax.numpy.ones((8, 8)), meshes.sharding(eight_devices, ("mlp", "embed"))
    )
    assert stored.addressable_shards[0].data.shape == (4, 4)
    whole = jax.jit(lambda x: meshes.gather(x, eight_devices, ("mlp", "embed")))(stored)
    assert whole.addressable_shards[0].data.shape == (4, 8)
