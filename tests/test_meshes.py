"""The table of axes: what it gives, and what it refuses."""

import functools

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


def test_a_decoding_mesh_divides_products_by_all_that_holds_the_model():
    """By as many axes as divide: 6 by `tensor` alone, 7 by none."""
    training = meshes.build(1, 4, 2)
    mesh = meshes.decoding(training)
    kernel = functools.partial(meshes.sharding, mesh, ("layers", "heads", "embed"))
    parts = ("tensor", "attention")
    assert kernel((2, 16, 8)).spec == PartitionSpec(None, parts, None)
    assert kernel((2, 6, 8)).spec == PartitionSpec(None, "tensor", None)
    assert kernel((2, 7, 8)).spec == PartitionSpec(None, None, None)
    assert meshes.row_parts(mesh) == meshes.row_parts(training) == 4
    assert meshes.sharding(mesh, ("stream", "width")).spec == PartitionSpec("data", None)
    assert meshes.decoding(mesh) is mesh
    without = meshes.build(4, 1, 2)
    assert meshes.decoding(without) is without


def test_gathering_leaves_the_tensor_axis_split(eight_devices):
    stored = jax.device_put(
        jax.numpy.ones((8, 8)), meshes.sharding(eight_devices, ("mlp", "embed"))
    )
    assert stored.addressable_shards[0].data.shape == (4, 4)
    whole = jax.jit(lambda x: meshes.gather(x, eight_devices, ("mlp", "embed")))(stored)
    assert whole.addressable_shards[0].data.shape == (4, 8)
