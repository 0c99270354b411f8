"""The mesh of a run, and the sizes that it must divide."""

from jax.sharding import Mesh
from ml_collections import ConfigDict

from safety_jax.base import meshes
from safety_jax.stages import answering, fits
from safety_jax.training import placement


def build_mesh(config: ConfigDict) -> Mesh:
    """The mesh of a stage's config; checks every size that it must divide.

    Raises:
        ConfigError: the mesh does not fill the devices, or does not divide the rows of a microbatch
            or the lanes of the decoder.
    """
    mesh = meshes.build(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
    if "train" in config and config.train.rows_per_microbatch != fits.AUTO:
        placement.put_rows(mesh, config.train.rows_per_microbatch)
    if "sample" in config:
        answering.read_pace(config.sample).check(meshes.row_parts(mesh))
    return mesh
