"""One face for every model that scores a text: a trunk, and a head that reads one of its tokens.

A `Scorer` says what a folder holds; weights are a plain tree, `{trunk..., "score": head}`. The
trunk's kernels take LoRA adapters; the head under "score" is small and trained whole.

    scorer = heads.read_scorer(folder)
    weights = heads.load(folder, scorer, mesh, jnp.float32)
    run = Execution.build(
        mesh, rules=scorer.rules, compute_dtype=jnp.float32, backend="auto", remat="none"
    )
    rewards = heads.scores(scorer, weights, ids, types, mask, run)[:, 0]
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from safety_jax.base import meshes, trees
from safety_jax.base.batch import Tokens
from safety_jax.base.errors import CheckpointError, ConfigError
from safety_jax.models import attention, declaration, layers, llama, lora, quantised
from safety_jax.models.encoders import llama_heads
from safety_jax.models.encoders.registry import KINDS, MODEL_TYPES
from safety_jax.models.execution import Execution
from safety_jax.models.folders import hf_config, hub, weight_export, weight_table

SCORE = "score"  # the head's subtree
PROBLEMS = ("regression", "single_label_classification", "multi_label_classification")


@dataclasses.dataclass(frozen=True)
class Scorer:
    """A trunk with a sequence head; holds no arrays.

    Attributes:
        kind: a key of KINDS.
        config: the trunk's.
        label_names: what each output is called, in order.
        problem: what `transformers` calls the task, one of PROBLEMS; None where nobody said.
        max_tokens: positions the model was made for.
        pairs: prompt and response may come as a text pair, told apart by token types or separators.
    """

    kind: str
    config: Any
    head: layers.HeadConfig
    label_names: tuple[str, ...]
    problem: str | None
    max_tokens: int
    pairs: bool

    @property
    def labels(self) -> int:
        """Outputs a sequence: 1 for a reward, more for a classifier."""
        return self.head.labels

    @property
    def of_llama(self) -> bool:
        """The trunk is of the LLaMA family."""
        return isinstance(self.config, llama.LlamaConfig)

    @property
    def rules(self) -> tuple[attention.Rule, ...]:
        """The rules of a LLaMA trunk's attention; encoders have one of their own."""
        return self.config.rules if self.of_llama else attention.PLAIN

    @property
    def gap(self) -> int:
        """Cells of padding that must stand between two texts of a row: a convolution sees no
        segments, but padding is zero to it."""
        convolution = getattr(self.config, "convolution", None)
        return 0 if convolution is None else (convolution.size - 1) // 2


# ---------------------------------------------------------------------------- reading


def read_scorer(folder: Path) -> Scorer:
    """What a folder with a sequence head holds.

    Raises:
        CheckpointError: not such a folder, or one with attributes that are not supported.
    """
    given, where = hub.read_json(folder / "config.json"), str(folder / "config.json")
    kind = _kind(given, where)
    config = KINDS[kind].parse(given, where)
    if kind == "beaver":
        head = llama_heads.beaver_head(given, config, folder)
        names = tuple(f"score_{number}" for number in range(head.labels))
        return _scorer(kind, config, head, names, "regression")
    expected = KINDS[kind].architecture(given["model_type"])
    if given.get("architectures") != [expected]:
        raise CheckpointError(
            f"{where}: architectures {given.get('architectures')}; expected ['{expected}'], a "
            "model with a sequence head"
        )
    names, problem = _labels(given, where)
    head = _skipping(KINDS[kind].head(config, len(names)), given, where)
    return _scorer(kind, config, head, names, problem)


def new_scorer(folder: Path, label_names: tuple[str, ...], problem: str) -> Scorer:
    """A scorer on the trunk of a folder, whatever head that has; the head is still to be trained.

    Raises:
        CheckpointError: the trunk is not supported.
        ConfigError: `problem` is not one of PROBLEMS.
    """
    if problem not in PROBLEMS:
        raise ConfigError(f"problem {problem!r}: expected one of {', '.join(PROBLEMS)}")
    given, where = hub.read_json(folder / "config.json"), str(folder / "config.json")
    given = dict(hf_config.text_part(given))
    kind = "llama" if _kind(given, where) == "beaver" else _kind(given, where)
    config = KINDS[kind].parse(given, where)
    # What the export will say, and with that what it will read.
    exported = layers.pad_token(given, hub.token_ids(folder))
    head = _skipping(KINDS[kind].head(config, len(label_names)), exported, where)
    return _scorer(kind, config, head, label_names, problem)


def _skipping(head: layers.HeadConfig, given: Mapping[str, Any], where: str) -> layers.HeadConfig:
    """The head with its padding token, which `transformers` does not read as the last one."""
    padding = given.get("pad_token_id")
    if head.reads != "last" or padding is None:
        return head
    if isinstance(padding, bool) or not isinstance(padding, int):
        raise CheckpointError(
            f"{where}: pad_token_id is {f'{padding!r}'[:60]}; expected a token id"
        )
    return dataclasses.replace(head, skips=padding)


def _kind(given: Mapping[str, Any], where: str) -> str:
    if llama_heads.is_beaver(given) and given.get("model_type") == "llama":
        return "beaver"
    model_type = given.get("model_type")
    if not isinstance(model_type, str) or model_type not in MODEL_TYPES:
        raise CheckpointError(
            f"{where}: model_type {f'{model_type!r}'[:60]} is not supported; expected one of "
            f"{', '.join(MODEL_TYPES)}"
        )
    return MODEL_TYPES[model_type]


def _scorer(
    kind: str, config: Any, head: layers.HeadConfig, names: tuple[str, ...], problem: str | None
) -> Scorer:
    return Scorer(kind, config, head, names, problem, config.max_positions, KINDS[kind].pairs)


def _labels(given: Mapping[str, Any], where: str) -> tuple[tuple[str, ...], str | None]:
    """Names of the outputs, and the task. Two labels where nothing is said, as `transformers`."""
    named = given.get("id2label")
    count = given.get("num_labels")
    if count is None:
        count = len(named) if isinstance(named, dict) else 2
    if not isinstance(count, int) or not 1 <= count <= llama_heads.MOST_LABELS:
        raise CheckpointError(
            f"{where}: num_labels is {f'{count!r}'[:60]}; expected 1 to {llama_heads.MOST_LABELS}"
        )
    if named is None:
        named = {str(number): f"LABEL_{number}" for number in range(count)}
    if not isinstance(named, dict) or set(map(str, named)) != set(map(str, range(count))):
        raise CheckpointError(
            f"{where}: id2label {f'{named!r}'[:200]}; expected a name for each of the {count} "
            "labels from 0"
        )
    problem = given.get("problem_type")
    if problem not in (None, *PROBLEMS):
        raise CheckpointError(
            f"{where}: problem_type {problem!r}; expected one of {', '.join(PROBLEMS)}"
        )
    by_number = {int(number): str(name) for number, name in named.items()}
    return tuple(by_number[number] for number in range(count)), problem


# ---------------------------------------------------------------------------- parameters


def parameters(scorer: Scorer) -> dict[str, meshes.Parameter]:
    """Every weight by its dotted name, the head's below "score"."""
    kind = KINDS[scorer.kind]
    declared = declaration.parameters(kind.module, scorer.config)
    head = declaration.parameters(layers.Head, scorer.head)
    return declared | {f"{SCORE}.{name}": parameter for name, parameter in head.items()}


def shardings(scorer: Scorer, mesh: Mesh) -> trees.Tree:
    """The sharding of every weight.

    Raises:
        ConfigError: the mesh does not divide the model.
    """
    heads = {"heads": scorer.config.heads}
    if scorer.of_llama:
        heads["kv_heads"] = scorer.config.kv_heads
    return declaration.shardings(parameters(scorer), mesh, heads)


def targets(scorer: Scorer, names: tuple[str, ...]) -> tuple[str, ...]:
    """Hugging Face module names, or ("all-linear",), to ours: `lora.targets` for this trunk.

    Raises:
        ConfigError: a name is not an adaptable projection.
    """
    known, declared = KINDS[scorer.kind].targets(scorer.config), parameters(scorer)
    return tuple(
        name
        for name in lora.targets(names, known)
        if all(f"layers.{part}.kernel" in declared for part in lora.parts(name))
    )


def initialize(scorer: Scorer, key: jax.Array, mesh: Mesh, dtype: DTypeLike) -> trees.Tree:
    """Random weights, made where they live."""
    kind, where = KINDS[scorer.kind], shardings(scorer, mesh)
    trunk_key, head_key = jax.random.split(key)
    trunk = declaration.initialize(kind.module, scorer.config, trunk_key, _trunk(where), dtype)
    return trunk | {
        SCORE: declaration.initialize(layers.Head, scorer.head, head_key, where[SCORE], dtype)
    }


def _trunk(weights: trees.Tree) -> trees.Tree:
    return {name: weight for name, weight in weights.items() if name != SCORE}


# ---------------------------------------------------------------------------- folders


def kernels_of(scorer: Scorer, kernels: str) -> str:
    """What this judge's kernels are held as where so much is asked of all judges: only those of
    the LLaMA family are quantised, encoders are small."""
    return kernels if scorer.of_llama else quantised.STORED


def load(
    folder: Path, scorer: Scorer, mesh: Mesh, dtype: DTypeLike, kernels: str = quantised.STORED
) -> trees.Tree:
    """The weights of a folder with a sequence head.

    Args:
        kernels: see `weight_table.load`, and `kernels_of`.

    Raises:
        CheckpointError: the files are damaged, or do not hold exactly the weights of `scorer`.
        ConfigError: the mesh does not divide the model.
    """
    where = shardings(scorer, mesh)
    held = KINDS[scorer.kind].layout(scorer.config)
    return weight_table.load(folder, held, parameters(scorer), where, dtype, kernels)


def load_trunk(
    folder: Path,
    scorer: Scorer,
    key: jax.Array,
    mesh: Mesh,
    dtype: DTypeLike,
    kernels: str = quantised.STORED,
) -> trees.Tree:
    """The trunk of a folder, whatever head that has, below a fresh head.

    A dense layer of the head that the folder holds (BERT's pooler) is read too.

    Raises:
        CheckpointError: the files are damaged, or do not hold the trunk's weights and nothing
            that is unknown.
        ConfigError: the mesh does not divide the model.
    """
    where, declared = shardings(scorer, mesh), parameters(scorer)
    fresh = f"{SCORE}.output."
    wanted = {name: p for name, p in declared.items() if not name.startswith(fresh)}
    optional = [name for name in wanted if name.startswith(f"{SCORE}.")]
    rows = KINDS[scorer.kind].layout(scorer.config)
    found = weight_table.load_trunk(folder, rows, wanted, where, dtype, optional, kernels)
    head = declaration.initialize(layers.Head, scorer.head, key, where[SCORE], dtype)
    return found | {SCORE: head | found.get(SCORE, {})}


def export(
    folder: Path,
    weights: trees.Tree,
    scorer: Scorer,
    source: Path | None,
    dtype: DTypeLike,
    shard_bytes: int,
    adapters: lora.Adapters | None = None,
) -> float:
    """Writes a folder that `transformers.AutoModelForSequenceClassification` opens.

    A "beaver" scorer keeps its own layout, which safe-rlhf opens. Says what rounding took of
    adapters, see `weight_export.export`.

    Args:
        source: the folder the trunk came from, with any head: its tokenizer, its licence, and,
            where it describes this very trunk, its config.json go along.
        dtype: of the written weights.

    Raises:
        CheckpointError: the disk is full, or `folder` is the source or holds something else.
    """
    given = None
    if source is not None and (source / "config.json").exists():
        given = hub.read_json(source / "config.json")
    name, kind = jnp.dtype(dtype).name, KINDS[scorer.kind]
    if scorer.kind == "beaver":
        attributes = llama_heads.beaver_attributes(given or {}, name)
    else:
        attributes = kind.attributes(scorer.config, given, name, source) | {
            "id2label": {str(i): label for i, label in enumerate(scorer.label_names)},
            "label2id": {label: i for i, label in enumerate(scorer.label_names)},
            "problem_type": scorer.problem,
        }
        attributes.pop("num_labels", None)  # id2label says it
        if scorer.head.skips is not None:
            attributes["pad_token_id"] = scorer.head.skips
    configs = {"config.json": attributes}
    declared, held = parameters(scorer), kind.layout(scorer.config)
    return weight_export.export(
        folder, held, weights, declared, source, configs, dtype, shard_bytes, adapters
    )


# ---------------------------------------------------------------------------- forward


def scores(
    scorer: Scorer,
    weights: trees.Tree,
    ids: Int[Array, "B T"],
    types: Int[Array, "B T"],
    mask: Bool[Array, "B T"],
    run: Execution,
    adapters: lora.Adapters | None = None,
) -> Float[Array, "B labels"]:
    """The head's raw outputs, without sigmoid or softmax, in float32.

    Args:
        types: token types of a text pair, 0 and 1; zeros where the trunk knows none.
        mask: True at real tokens, which come first in every row. A row without any gives a finite
            number that means nothing.
    """
    tokens = Tokens.one_a_row(ids, mask, types)
    ends = jnp.maximum(mask.sum(axis=1, keepdims=True, dtype=jnp.int32) - 1, 0)
    return packed_scores(scorer, weights, tokens, ends, run, adapters)[:, 0]


def packed_scores(
    scorer: Scorer,
    weights: trees.Tree,
    tokens: Tokens,
    ends: Int[Array, "B S"],
    run: Execution,
    adapters: lora.Adapters | None = None,
) -> Float[Array, "B S labels"]:
    """`scores` of the segments of packed rows, each read as if it stood alone.

    Args:
        ends: the last token of each segment.
    """
    cells = layers.cells_read(scorer.head, tokens, ends)
    forward = KINDS[scorer.kind].forward
    read = forward(scorer.config, _trunk(weights), tokens, cells, run, adapters)
    head = declaration.bind(layers.Head, scorer.head, weights[SCORE])
    B, S, D = read.shape
    return head(read.reshape(B * S, D), run).reshape(B, S, -1)
