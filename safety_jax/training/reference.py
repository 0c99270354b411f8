"""Log-probabilities under the reference model, computed once and kept on disk.

    reference/3f2a.../            the key: a hash of weights, tokens and precision
      facts.json                  what was hashed, for people
      000000.npz, 000001.npz ...  a few hundred examples each: `side0`, `side1`, value by token

A shard appears by one rename and carries zip's checksums, so a run that is killed here continues
with the next shard, and a damaged shard is computed again. Other weights, tokens or precision have
another folder, so a stale value is never read.
"""

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
import tqdm
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from safety_jax.base import hosts, meshes, trees
from safety_jax.base.batch import Tokens
from safety_jax.base.errors import CheckpointError
from safety_jax.data.corpora import Sided
from safety_jax.data.examples import Examples, fingerprint
from safety_jax.data.loader import Batch, Loader
from safety_jax.training.placement import TokenValues, put_rows

EXAMPLES_PER_SHARD = 256
# What a damaged archive raises; RuntimeError if a bit says that it is encrypted or compressed.
DAMAGED = (ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile)

# score(start, frozen, tokens [b, M, T]) -> log-probability of each token [b, M, T]; or [b, T] for
# examples with one side
ScoreFunction = Callable[[Any, Any, Tokens], jax.Array]


@runtime_checkable
class Scored(Protocol):
    """A model that gives log-probabilities; see `Policy.reference_logprobs`."""

    def reference_logprobs(
        self, start: trees.Tree | None, frozen: Any, tokens: Tokens
    ) -> jax.Array: ...


def make_score(trained: Scored, mesh: Mesh) -> ScoreFunction:
    """Compiles the reference's log-probabilities for one microbatch of packed examples.

    A trained token's value stands at the token itself, not at the position that predicts it; all
    other tokens have 0. Every device gets all values.
    """

    def score(start: trees.Tree | None, frozen: Any, tokens: Tokens) -> jax.Array:
        shape = tokens.ids.shape
        flat = jax.tree.map(lambda x: x.reshape(-1, shape[-1]), tokens)
        logprobs = trained.reference_logprobs(start, frozen, flat)
        # Position t predicted token t + 1.
        return jax.numpy.pad(logprobs[:, :-1], [(0, 0), (1, 0)]).reshape(shape)

    return jax.jit(score, out_shardings=meshes.sharding(mesh, ()))


@dataclasses.dataclass(frozen=True)
class ReferenceCache:
    """The place on disk for values of one reference; many runs may share the root.

    Attributes:
        root: a folder.
        facts: what the values depend on in addition to the tokens: weights, precision; JSON.
    """

    root: Path
    facts: Mapping[str, Any]

    def folder(self, examples: Sided) -> Path:
        """The folder for the values of these examples under `facts`."""
        facts = self._facts(examples)
        key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        return self.root / key[:32]

    def _facts(self, examples: Sided) -> dict[str, Any]:
        tokens = fingerprint(examples.sides)
        return {"tokens": tokens, "examples_per_shard": EXAMPLES_PER_SHARD, **self.facts}

    def describe(self, examples: Sided) -> str:
        return json.dumps(self._facts(examples), indent=2, sort_keys=True) + "\n"


def logprobs(
    cache: ReferenceCache,
    examples: Sided,
    batches: Loader,
    score: ScoreFunction,
    start: trees.Tree | None,
    frozen: trees.Tree,
    mesh: Mesh,
    *,
    name: str,
) -> TokenValues:
    """Log-probability of every token of every answer under the reference, from disk or computed.

    Args:
        batches: one ordered pass over the examples in batches of `EXAMPLES_PER_SHARD`.
        start: see `Policy.reference_logprobs`.
        name: what the progress bar calls the examples.

    Returns:
        For each side, a value for every token, in the order of `Examples.ids`.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    primary = jax.process_index() == 0
    folder = cache.folder(examples)
    sides = examples.sides
    flat = tuple(np.zeros(len(side.ids), np.float32) for side in sides)
    # Other hosts may have another cache folder.
    found = hosts.first_says(lambda: _read_shards(folder, batches, sides, flat))
    if any(found):
        flat = tuple(np.array(side) for side in multihost_utils.broadcast_one_to_all(flat))
    if primary and not all(found):
        _write(folder / "facts.json", lambda file: file.write(cache.describe(examples).encode()))
    put = put_rows(mesh, batches.rows_per_microbatch)
    done = sum(len(batches.batch(k).examples) for k, known in enumerate(found) if known)
    with tqdm.tqdm(
        total=len(examples),
        initial=done,
        desc=f"reference, {name}",
        unit=" examples",
        disable=all(found) or not primary,
    ) as progress:
        for number in range(batches.steps):
            if found[number]:
                continue
            batch = batches.batch(number)
            arrays = jax.tree.map(put, batch.tokens)
            values = [
                jax.device_get(score(start, frozen, jax.tree.map(lambda x, a=a: x[a], arrays)))
                for a in range(batch.used)
            ]
            _collect(batches, batch, values, flat)
            if primary:
                _write_shard(folder, number, batch, sides, flat)
            progress.update(len(batch.examples))
    return flat


def _collect(batches: Loader, batch: Batch, values: list[np.ndarray], flat: TokenValues) -> None:
    """Takes each example's values out of the rows they were packed into, [b, M, T], or [b, T] if
    examples have one side. Tokens that sides share are part of the prompt and have no value."""
    layout = batch.layout
    for k in range(len(batch.examples)):
        rows = np.atleast_2d(values[layout.microbatch[k]][layout.row[k]])
        for side, values_of_side in enumerate(flat):
            here, cells = batches.own(k, side, batch.examples, layout)
            values_of_side[here] = rows[min(side, len(rows) - 1), cells]


# ---------------------------------------------------------------------------- disk


def _span(examples: Examples, batch: Batch) -> slice:
    """The slice of a batch's values among those of all examples; `batches` keeps their order."""
    first, last = batch.examples[0], batch.examples[-1]
    return slice(int(examples.offsets[first]), int(examples.offsets[last + 1]))


def _shard(folder: Path, number: int) -> Path:
    return folder / f"{number:06}.npz"


def _read_shards(
    folder: Path, batches: Loader, sides: Sequence[Examples], flat: TokenValues
) -> list[bool]:
    """Fills in the values that are on disk; returns which shards were."""
    found = []
    for number in range(batches.steps):
        batch = batches.batch(number)
        try:
            content = io.BytesIO(_shard(folder, number).read_bytes())
            with np.load(content, allow_pickle=False) as stored:
                for side in range(len(sides)):
                    flat[side][_span(sides[side], batch)] = stored[f"side{side}"]
            found.append(True)
        except (*DAMAGED, OSError):
            found.append(False)
    return found


def _write_shard(
    folder: Path, number: int, batch: Batch, sides: Sequence[Examples], flat: TokenValues
) -> None:
    parts: dict[str, Any] = {
        f"side{k}": flat[k][_span(side, batch)] for k, side in enumerate(sides)
    }
    _write(_shard(folder, number), lambda file: np.savez(file, **parts))


def _write(path: Path, fill: Callable[[Any], Any]) -> None:
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise CheckpointError(
            f"reference values could not be written to {path.parent}: {error.strerror}; make room, "
            "or set another reference_folder, or reference=live, in the group of the method"
        ) from error
