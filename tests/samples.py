"""Small models and rows that several test files build."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from safety_jax.base import trees
from safety_jax.base.batch import Tokens
from safety_jax.data import prefixes
from safety_jax.data.corpora import Sided
from safety_jax.data.examples import Counts, Examples
from safety_jax.data.loader import Loader
from safety_jax.models import attention, llama, lora
from safety_jax.models.execution import Execution
from safety_jax.models.folders import hf
from safety_jax.models.model import Model
from tests.golden import cases, rows


def execute_on(mesh, remat: str = "none", rules=attention.PLAIN) -> Execution:
    return Execution.build(mesh, rules=rules, compute_dtype=jnp.float32, backend="xla", remat=remat)


def with_window(config: llama.LlamaConfig, window: int | None) -> llama.LlamaConfig:
    """The same model with this window in every layer."""
    kinds = (dataclasses.replace(kind, window=window) for kind in config.pattern)
    return dataclasses.replace(config, pattern=tuple(kinds))


def model_of(folder: Path, mesh, tokenizer=None) -> Model:
    """The model of a Hugging Face folder, in float32."""
    config = hf.read_config(folder)
    weights = hf.load(folder, config, mesh, jnp.float32)
    return Model(config, execute_on(mesh, rules=config.rules), weights, None, tokenizer)


def moved(model: Model, mesh) -> Model:
    """The same model on another mesh, without adapters."""
    weights = jax.device_put(jax.device_get(model.weights), llama.shardings(model.config, mesh))
    run = execute_on(mesh, rules=model.config.rules)
    return Model(model.config, run, weights, None, model.tokenizer)


@jax.jit
def whole_logits(model: Model, ids) -> jax.Array:
    """Float32 logits of whole rows [B, T], one example each."""
    return model.logits(model.forward(Tokens.one_a_row(ids, jnp.ones(ids.shape, bool))))


def random_adapters(config: llama.LlamaConfig, mesh, dropout: float = 0.0) -> lora.Adapters:
    """Adapters on every projection with neither factor zero."""
    declared, targets = llama.parameters(config), tuple(llama.targets(config).values())
    shapes = lora.shapes(declared, targets, 4)
    flat = {
        name: 0.2 * jax.random.normal(jax.random.fold_in(jax.random.key(7), i), shape)
        for i, (name, (shape, _)) in enumerate(shapes.items())
    }
    where = lora.shardings(declared, targets, 4, mesh)
    tree = {}
    for name, leaf in flat.items():
        target, factor = name.split(".")
        tree.setdefault(target, {})[factor] = jax.device_put(leaf, where[target][factor])
    return lora.Adapters(tree, 2.0, dropout)


def golden_adapters(targets: tuple[str, ...]) -> trees.Tree:
    """The adapters of the golden files, which torch had too."""
    shared = rows.adapters(cases.read_config(rows.MODEL), targets)
    tree: trees.Tree = {}
    for theirs in targets:
        for leaf in ("A", "B"):
            layers = [value for name, value in shared.items() if name.endswith(f"{theirs}.{leaf}")]
            stacked = jnp.asarray(np.stack(layers))
            tree.setdefault(lora.TARGETS[theirs], {})[leaf.lower()] = stacked
    return tree


def packed_rows(lengths: list[list[int]], T: int, vocabulary: int, prompt: int = 3) -> Tokens:
    """Rows of random examples; the first `prompt` tokens of each are not trained."""
    random = np.random.default_rng(0)
    rows = len(lengths)
    ids = np.zeros((rows, T), np.int32)
    positions, segments, mask = ids.copy(), ids.copy(), np.zeros((rows, T), bool)
    for row, examples in enumerate(lengths):
        start = 0
        for segment, length in enumerate(examples, 1):
            here = slice(start, start + length)
            ids[row, here] = random.integers(1, vocabulary, length)
            positions[row, here] = np.arange(length)
            segments[row, here] = segment
            mask[row, here] = np.arange(length) >= prompt
            start += length
    return Tokens(ids, positions, segments, mask)


def unpacked(rows: Tokens, T: int) -> Tokens:
    """The same examples, one a row."""
    found = []
    for row in range(rows.ids.shape[0]):
        for segment in range(1, rows.segments[row].max() + 1):
            here = rows.segments[row] == segment
            length = int(here.sum())
            parts = [np.zeros(T, np.int32) for _ in range(3)] + [np.zeros(T, bool)]
            sources = (rows.ids, rows.positions, np.minimum(rows.segments, 1), rows.mask)
            for part, source in zip(parts, sources, strict=True):
                part[:length] = source[row][here]
            found.append(parts)
    return Tokens(*[np.stack(column) for column in zip(*found, strict=True)])


def on_device(tokens: Tokens) -> Tokens:
    return jax.tree.map(jnp.asarray, tokens)


def examples_of(prompts: list[np.ndarray], answers: list[np.ndarray]) -> Examples:
    """Prompts with their answers, which alone are trained."""
    ids = [np.concatenate(both).astype(np.int32) for both in zip(prompts, answers, strict=True)]
    masks = [np.arange(len(i)) >= len(p) for i, p in zip(ids, prompts, strict=True)]
    offsets = np.cumsum([0, *map(len, ids)]).astype(np.int64)
    where = [f"row {i}" for i in range(len(ids))]
    source = ["ab"[i % 2] for i in range(len(ids))]
    return Examples(
        np.concatenate(ids), np.concatenate(masks), offsets, where, source, Counts(0, 0, {})
    )


def loader_of(data: Sided, share: bool = False, **changes) -> Loader:
    """All examples in one batch of short packed rows, but for what is changed.

    Args:
        share: the sides read what they have in common once.
    """
    defaults = {
        "batch_size": len(data),
        "row_tokens": 48,
        "rows_per_microbatch": 1,
        "packing": True,
        "steps": None,
        "seed": None,
        "prefetch_steps": 0,
    }
    given = defaults | changes
    if share:
        given["shared"] = prefixes.where_it_saves(
            data.sides, given["row_tokens"], even_tokens=np.inf, longest_row=None
        )
        assert given["shared"].tokens.any(), "nothing is shared"
    return Loader(*data.sides, rows_here=range(given["rows_per_microbatch"]), **given)
