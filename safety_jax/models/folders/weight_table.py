"""Tables of an architecture's weights in Hugging Face folders, and loading by them.

A row has Hugging Face's name and ours. Kernels are [out, in] on both sides, unless the row says
that the file has [in, out]. Our weights stack the layers on axis 0. Loading works for any table and
any declared parameters; a tensor that is unknown, missing, doubled or of the wrong shape raises.
`weight_export.py` writes folders by the same tables.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import tqdm
from jax.typing import DTypeLike

from safety_jax.base import meshes, trees
from safety_jax.base.errors import CheckpointError, few
from safety_jax.models import quantised
from safety_jax.models.folders import bitsandbytes, hub, quantising, safetensors, streaming

SHOW_PROGRESS_BYTES = 1 << 30
NOTHING = r"(?!)"  # matches no name


class WeightRow(NamedTuple):
    """Hugging Face's name, with `{layer}` if there is one per layer, and our name.

    `transposed`: the file has [in, out], as in GPT-2's Conv1D.
    """

    theirs: str
    ours: str
    transposed: bool = False


def dense_rows(theirs: str, ours: str, transposed: bool = False) -> tuple[WeightRow, WeightRow]:
    """A kernel and its bias."""
    kernel = WeightRow(f"{theirs}.weight", f"{ours}.kernel", transposed)
    return kernel, WeightRow(f"{theirs}.bias", f"{ours}.bias")


def norm_rows(theirs: str, ours: str) -> tuple[WeightRow, WeightRow]:
    """A layer norm's scale and bias."""
    return WeightRow(f"{theirs}.weight", f"{ours}.scale"), WeightRow(
        f"{theirs}.bias", f"{ours}.bias"
    )


class FusedRows(NamedTuple):
    """A weight in files that is several weights here, with their rows concatenated.

    `theirs` and `parts` are names as in the rows of the table. A file with separate parts is
    refused, as one with any other unexpected name.
    """

    theirs: str
    parts: tuple[str, ...]


class GroupedRows(NamedTuple):
    """The same, but with the rows ordered by groups: each group has some rows of every part. Files
    may also have separate parts, and are written with these."""

    theirs: str
    parts: tuple[str, ...]
    groups: int


@dataclasses.dataclass(frozen=True)
class WeightTable:
    """The rows of an architecture, and what else its files may contain.

    Attributes:
        fused: weights that files fuse.
        grouped: weights that some files fuse by groups.
        derived: pattern of names that follow from config.json and are ignored.
        renamed: (pattern, replacement) pairs for the names of old releases.
        copies: names that a file may also have if their bytes equal those of another name: that
            name, and the message if they do not.
        advice: for the message if a name is missing.
        prefix: the beginning of the trunk's names; a folder of only the trunk leaves it out.
        other_heads: pattern of names of other heads on the same trunk.
    """

    rows: tuple[WeightRow, ...]
    fused: tuple[FusedRows, ...] = ()
    grouped: tuple[GroupedRows, ...] = ()
    derived: str = NOTHING
    renamed: tuple[tuple[str, str], ...] = ()
    copies: Mapping[str, tuple[str, str]] = dataclasses.field(default_factory=dict)
    advice: Mapping[str, str] = dataclasses.field(default_factory=dict)
    prefix: str = ""
    other_heads: str = NOTHING


class WeightPlace(NamedTuple):
    """The names of one of our weights in files: one name, or one per layer."""

    names: list[str]
    stacked: bool
    transposed: bool

    def shape(self, ours: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of each tensor in the file."""
        each = ours[1:] if self.stacked else ours
        return each[::-1] if self.transposed else each


def places(layout: WeightTable, declared: Mapping[str, meshes.Parameter]) -> dict[str, WeightPlace]:
    """The place of each declared weight, in the order of declaration."""
    rows = {row.ours: row for row in layout.rows}
    found = {}
    for ours, parameter in declared.items():
        row = rows[ours]
        stacked = "{layer}" in row.theirs
        names = [
            row.theirs.format(layer=layer) for layer in range(parameter.shape[0] if stacked else 1)
        ]
        found[ours] = WeightPlace(names, stacked, row.transposed)
    return found


# ---------------------------------------------------------------------------- loading


def load(
    folder: Path,
    layout: WeightTable,
    declared: Mapping[str, meshes.Parameter],
    shardings: trees.Tree,
    dtype: DTypeLike,
    kernels: str = quantised.STORED,
) -> trees.Tree:
    """The declared weights of a model folder as sharded arrays of `dtype`.

    Args:
        kernels: the format of the layers' kernels in memory: a name of `quantised.FORMATS`, or
            `quantised.STORED` for the folder's own format.

    Raises:
        CheckpointError: the files are damaged, or do not have exactly these weights.
        ConfigError: `kernels` does not fit the folder, the model or the mesh.
    """
    tensors = rename(_prefixed(_located(folder), layout), layout, folder)
    tensors = split(tensors, layout, declared)
    check(tensors, layout, declared, folder)
    return read(tensors, layout, declared, shardings, dtype, folder.name, kernels)


def _located(folder: Path) -> dict[str, safetensors.Tensor]:
    return bitsandbytes.joined(hub.locate(folder))


def _prefixed(
    tensors: Mapping[str, safetensors.Tensor], layout: WeightTable
) -> Mapping[str, safetensors.Tensor]:
    """Tensors with the trunk's prefix, which a folder of only the trunk leaves out."""
    if any(name.startswith(layout.prefix) for name in tensors):
        return tensors
    return {layout.prefix + name: tensor for name, tensor in tensors.items()}


def load_trunk(
    folder: Path,
    layout: WeightTable,
    declared: Mapping[str, meshes.Parameter],
    shardings: trees.Tree,
    dtype: DTypeLike,
    optional: Iterable[str],
    kernels: str = quantised.STORED,
) -> trees.Tree:
    """The same as `load`, from a folder with any head or none. Weights in `optional` are loaded
    only if the folder has them in the declared shape.

    Raises:
        CheckpointError: as `load`; all weights that are not optional must be there.
    """
    tensors = rename(_prefixed(_located(folder), layout), layout, folder)
    tensors = split(tensors, layout, declared)
    absent = {
        ours
        for ours in optional
        if not _fits(tensors, places(layout, declared)[ours], declared[ours])
    }
    wanted = {ours: parameter for ours, parameter in declared.items() if ours not in absent}
    names = {name for place in places(layout, wanted).values() for name in place.names}
    others = re.compile(f"({re.escape(layout.prefix)})?({layout.other_heads})")
    kept = {
        name: tensor
        for name, tensor in tensors.items()
        if name in names or not others.fullmatch(name)
    }
    check(kept, layout, wanted, folder)
    return read(kept, layout, wanted, shardings, dtype, folder.name, kernels)


def _fits(
    tensors: Mapping[str, safetensors.Tensor], place: WeightPlace, parameter: meshes.Parameter
) -> bool:
    shape = place.shape(parameter.shape)
    return all(name in tensors and tensors[name].shape == shape for name in place.names)


def rename(
    tensors: Mapping[str, safetensors.Tensor], layout: WeightTable, folder: Path
) -> dict[str, safetensors.Tensor]:
    """Tensors under their current names.

    Raises:
        CheckpointError: two tensors have the same current name.
    """
    found: dict[str, safetensors.Tensor] = {}
    for name, tensor in tensors.items():
        for pattern, replacement in layout.renamed:
            name = re.sub(pattern, replacement, name)
        if name in found:
            raise CheckpointError(
                f"{folder}: {found[name].name} and {tensor.name} are two names of one weight; "
                "remove the one that does not belong to this model"
            )
        found[name] = tensor
    return found


def fused(
    rows: Iterable[FusedRows | GroupedRows],
    layout: WeightTable,
    declared: Mapping[str, meshes.Parameter],
) -> dict[str, dict[str, int]]:
    """For each fused weight in files, the number of rows of each of its parts, by name."""
    found: dict[str, dict[str, int]] = {}
    heights: dict[str, int] = {}
    for ours, place in places(layout, declared).items():
        heights |= dict.fromkeys(place.names, place.shape(declared[ours].shape)[0])
    layers = max((len(place.names) for place in places(layout, declared).values()), default=0)
    for row in rows:
        for layer in range(layers):
            parts = [part.format(layer=layer) for part in row.parts]
            found[row.theirs.format(layer=layer)] = {part: heights[part] for part in parts}
    return found


def split(
    tensors: dict[str, safetensors.Tensor],
    layout: WeightTable,
    declared: Mapping[str, meshes.Parameter],
) -> dict[str, safetensors.Tensor]:
    """Replaces each fused tensor by its parts, which are ranges of its rows.

    A fused tensor with the wrong number of rows stays, and `check` reports it as unexpected. It
    does the same for parts that a file has separately instead of `fused`.
    """
    found = dict(tensors)
    for name, parts in fused(layout.fused, layout, declared).items():
        for part in parts.keys() & tensors.keys():
            found[f"{part} (expected within {name})"] = found.pop(part)
        whole = tensors.get(name)
        if whole is None or not whole.shape or whole.shape[0] != sum(parts.values()):
            continue
        del found[name]
        start = 0
        for part, height in parts.items():
            found[part] = whole.rows(start, start + height)
            start += height
    for row in layout.grouped:
        for name, parts in fused((row,), layout, declared).items():
            whole = tensors.get(name)
            if whole is not None and whole.shape and whole.shape[0] == sum(parts.values()):
                found |= _ungrouped(found.pop(name), parts, row.groups)
    return found


def _ungrouped(
    whole: safetensors.Tensor, parts: Mapping[str, int], groups: int
) -> dict[str, safetensors.Tensor]:
    """The parts of a tensor whose rows are ordered by groups."""
    found, first = {}, 0
    for part, height in parts.items():
        each = height // groups
        found[part] = whole.every(first, first + each, groups)
        first += each
    return found


def check(
    tensors: Mapping[str, safetensors.Tensor],
    layout: WeightTable,
    declared: Mapping[str, meshes.Parameter],
    folder: Path,
) -> None:
    """Raises a CheckpointError unless `tensors` are exactly the declared weights, with their
    shapes."""
    expected: dict[str, tuple[int, ...]] = {}
    for ours, place in places(layout, declared).items():
        expected |= dict.fromkeys(place.names, place.shape(declared[ours].shape))
    missing = [name for name in expected if name not in tensors]
    derived = re.compile(layout.derived)
    unexpected = [name for name in tensors if name not in expected and not derived.fullmatch(name)]
    for name, (original, advice) in layout.copies.items():
        if name in unexpected and original in tensors:
            tensors[name].check(expected[original])
            if not safetensors.equal(tensors[name], tensors[original]):
                raise CheckpointError(f"{folder}: {advice}")
            unexpected.remove(name)
    if missing or unexpected:
        parts = [
            f"{what} {few(found, 4)}"
            for what, found in (("missing", missing), ("unexpected", unexpected))
            if found
        ]
        parts += [advice for name, advice in layout.advice.items() if name in missing]
        raise CheckpointError(
            f"{folder}: weights and config.json do not belong together: {'; '.join(parts)}"
        )
    for name, shape in expected.items():
        tensors[name].check(shape)


def read(
    tensors: Mapping[str, safetensors.Tensor],
    layout: WeightTable,
    declared: Mapping[str, meshes.Parameter],
    shardings: trees.Tree,
    dtype: DTypeLike,
    title: str,
    kernels: str = quantised.STORED,
) -> trees.Tree:
    """Reads checked tensors into sharded arrays, with a progress bar for large models."""
    where = trees.flatten(shardings)
    found = {
        ours: [tensors[name] for name in place.names]
        for ours, place in places(layout, declared).items()
    }
    kinds = {ours: quantising.kind_of(ours, held, kernels) for ours, held in found.items()}
    size = sum(
        streaming.local_bytes(
            parameter.shape, where[ours], found[ours][0].dtype if kinds[ours] else dtype
        )
        for ours, parameter in declared.items()
    )
    weights: dict[str, Any] = {}
    hidden = size < SHOW_PROGRESS_BYTES or jax.process_index() != 0
    with tqdm.tqdm(
        total=size, desc=f"loading {title}", unit="B", unit_scale=True, disable=hidden
    ) as progress:
        for ours, place in places(layout, declared).items():
            if (kind := kinds[ours]) is not None:
                weights[ours] = quantising.assemble(
                    found[ours], ours, declared[ours], where[ours].mesh, kind, progress.update
                )
                continue
            weights[ours] = streaming.assemble(
                found[ours],
                declared[ours].shape,
                where[ours],
                dtype,
                progress.update,
                transposed=place.transposed,
            )
    return trees.unflatten(weights)
