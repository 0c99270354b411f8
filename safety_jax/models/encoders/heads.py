"""One interface to all models that score a text: a trunk, and a head that reads one of its tokens.

A `Scorer` describes the model in a folder. Weights are a plain tree, `{trunk..., "score": head}`.
The trunk's kernels take LoRA adapters; the head under "score" is small and trained whole.

    scorer = heads.read_scorer(folder)
    weights = heads.load(folder, scorer, mesh, jnp.float32)
    execution = Execution.build(
        mesh, rules=scorer.rules, compute_dtype=jnp.float32, backend="auto", remat="none"
    )
    rewards = heads.scores(scorer, weights, ids, types, mask, execution)[:, 0]
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
from safety_jax.models import attention, declaration, llama, lora, quantised
from safety_jax.models.encoders import llama_heads, score_head
from safety_jax.models.encoders.registry import KINDS, MODEL_TYPES
from safety_jax.models.execution import Execution
from safety_jax.models.folders import hf_config, hub, weight_export, weight_table

SCORE = "score"  # the head's subtree
PROBLEMS = ("regression", "single_label_classification", "multi_label_classification")


@dataclasses.dataclass(frozen=True)
class Scorer:
    """A trunk with a sequence head, without arrays.

    Attributes:
        kind: a key of KINDS.
        config: of the trunk.
        label_names: the names of the outputs, in order.
        problem: the name of the task in `transformers`, one of PROBLEMS; None if it is not given.
        max_tokens: the number of positions for which the model was made.
        pairs: whether prompt and response may be a text pair, which token types or separators tell
            apart.
    """

    kind: str
    config: Any
    head: score_head.HeadConfig
    label_names: tuple[str, ...]
    problem: str | None
    max_tokens: int
    pairs: bool

    @property
    def labels(self) -> int:
        """The number of outputs per sequence: 1 for a reward, more for a classifier."""
        return self.head.labels

    @property
    def of_llama(self) -> bool:
        """Whether the trunk is of the LLaMA family."""
        return isinstance(self.config, llama.LlamaConfig)

    @property
    def causal(self) -> bool:
        """Whether a token attends to earlier ones only."""
        return KINDS[self.kind].causal

    @property
    def rules(self) -> tuple[attention.Rule, ...]:
        """The rules of a LLaMA trunk's attention; encoders have their own attention."""
        return self.config.rules if self.of_llama else attention.PLAIN

    @property
    def gap(self) -> int:
        """How many cells of padding there must be between two texts of a row: a convolution does
        not know segments, but it reads padding as zeros."""
        convolution = getattr(self.config, "convolution", None)
        return 0 if convolution is None else (convolution.size - 1) // 2


# ---------------------------------------------------------------------------- reading


def read_scorer(folder: Path) -> Scorer:
    """The model in a folder with a sequence head.

    Raises:
        CheckpointError: it is not such a folder, or has attributes that are not supported.
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
    """A scorer with a new, untrained head on the trunk of a folder, which may have any head.

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
    # The padding token of the exported config, which decides where a head reads.
    exported = given | score_head.pad_token(given, hub.token_ids(folder))
    head = _skipping(KINDS[kind].head(config, len(label_names)), exported, where)
    return _scorer(kind, config, head, label_names, problem)


def _skipping(
    head: score_head.HeadConfig, given: Mapping[str, Any], where: str
) -> score_head.HeadConfig:
    """The head with the padding token, which `transformers` never reads as the last token."""
    padding = score_head.padding(given)
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
    kind: str, config: Any, head: score_head.HeadConfig, names: tuple[str, ...], problem: str | None
) -> Scorer:
    return Scorer(kind, config, head, names, problem, config.max_positions, KINDS[kind].pairs)


def _labels(given: Mapping[str, Any], where: str) -> tuple[tuple[str, ...], str | None]:
    """Names of the outputs, and the task. The default is two labels, as in `transformers`."""
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
    """All weights by their dotted names; those of the head begin with "score."."""
    kind = KINDS[scorer.kind]
    declared = declaration.parameters(kind.module, scorer.config)
    head = declaration.parameters(score_head.Head, scorer.head)
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
    """Our names of Hugging Face's modules, or of ("all-linear",): `lora.targets` for this trunk.

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
    """Random weights, created with their shardings."""
    kind, where = KINDS[scorer.kind], shardings(scorer, mesh)
    trunk_key, head_key = jax.random.split(key)
    trunk = declaration.initialize(kind.module, scorer.config, trunk_key, _trunk(where), dtype)
    return trunk | {
        SCORE: declaration.initialize(score_head.Head, scorer.head, head_key, where[SCORE], dtype)
    }


def _trunk(weights: trees.Tree) -> trees.Tree:
    return {name: weight for name, weight in weights.items() if name != SCORE}


# ---------------------------------------------------------------------------- folders


def kernels_of(scorer: Scorer, kernels: str) -> str:
    """The format of this judge's kernels if `kernels` is the setting for all judges: only those of
    the LLaMA family are quantised, because encoders are small."""
    return kernels if scorer.of_llama else quantised.STORED


def load(
    folder: Path, scorer: Scorer, mesh: Mesh, dtype: DTypeLike, kernels: str = quantised.STORED
) -> trees.Tree:
    """The weights of a folder with a sequence head.

    Args:
        kernels: see `weight_table.load`, and `kernels_of`.

    Raises:
        CheckpointError: the files are damaged, or do not have exactly the weights of `scorer`.
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
    """Loads the trunk of a folder with any head or none, and adds a fresh head.

    If the folder has the dense layer of the head (BERT's pooler), it is loaded, too.

    Raises:
        CheckpointError: the files are damaged, lack weights of the trunk, or have unknown ones.
        ConfigError: the mesh does not divide the model.
    """
    where, declared = shardings(scorer, mesh), parameters(scorer)
    fresh = f"{SCORE}.output."
    wanted = {name: p for name, p in declared.items() if not name.startswith(fresh)}
    optional = [name for name in wanted if name.startswith(f"{SCORE}.")]
    rows = KINDS[scorer.kind].layout(scorer.config)
    found = weight_table.load_trunk(folder, rows, wanted, where, dtype, optional, kernels)
    head = declaration.initialize(score_head.Head, scorer.head, key, where[SCORE], dtype)
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

    A "beaver" scorer keeps its own layout, which safe-rlhf opens. Returns the share of the
    adapters' changes that rounding lost, see `weight_export.export`.

    Args:
        source: the folder of the trunk, with any head; or None. Its tokenizer and licence are
            copied, and its config.json is kept if it describes exactly this trunk.
        dtype: of the written weights.

    Raises:
        CheckpointError: the disk is full, or `folder` is the source or has other content.
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
        attributes.pop("num_labels", None)  # id2label already gives it
        head = scorer.head
        if head.reads == "last" and head.skips != score_head.padding(attributes):
            attributes["pad_token_id"] = head.skips
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
    execution: Execution,
    adapters: lora.Adapters | None = None,
) -> Float[Array, "B labels"]:
    """The head's raw outputs, without sigmoid or softmax, in float32.

    Args:
        types: token types of a text pair, 0 and 1; zeros if the trunk has no types.
        mask: True for real tokens, which come first in every row. A row without real tokens gets a
            finite but meaningless score.
    """
    tokens = Tokens.one_a_row(ids, mask, types)
    ends = jnp.maximum(mask.sum(axis=1, keepdims=True, dtype=jnp.int32) - 1, 0)
    return packed_scores(scorer, weights, tokens, ends, execution, adapters)[:, 0]


def packed_scores(
    scorer: Scorer,
    weights: trees.Tree,
    tokens: Tokens,
    ends: Int[Array, "B S"],
    execution: Execution,
    adapters: lora.Adapters | None = None,
) -> Float[Array, "B S labels"]:
    """The scores of the segments of packed rows, each the same as if it were alone in its row.

    Args:
        ends: the cell of the last token of each segment.
    """
    cells = score_head.cells_read(scorer.head, tokens, ends)
    forward = KINDS[scorer.kind].forward
    read = forward(scorer.config, _trunk(weights), tokens, cells, execution, adapters)
    head = declaration.bind(score_head.Head, scorer.head, weights[SCORE])
    B, S, D = read.shape
    return head(read.reshape(B * S, D), execution).reshape(B, S, -1)
