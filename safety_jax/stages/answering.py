"""How stages let a model answer: a config's groups become a plan of decoding; a folder a model."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict
from transformers import PreTrainedTokenizerBase

from safety_jax.base import trees
from safety_jax.base.errors import ConfigError
from safety_jax.data import thoughts, tokenizer
from safety_jax.models import llama, lora
from safety_jax.models.decoding import generation
from safety_jax.models.execution import Execution, float_type
from safety_jax.models.folders import hf, hf_config, peft
from safety_jax.models.folders import hub as folders

_ADAPTER = "adapter_config.json"


def make_setup(
    group: ConfigDict,
    sample: ConfigDict,
    model: llama.LlamaConfig,
    run: Execution,
    tokens: PreTrainedTokenizerBase,
    path: str,
) -> generation.Setup:
    """How answers are written.

    Args:
        group: temperature and so on, see `configs/raft.py`.
        sample: the pace: lanes, buckets, chunks.
        path: the model's, for messages.

    Raises:
        ConfigError: values that cannot be used, or a tokenizer without an EOS.
    """
    if tokens.eos_token_id is None:
        raise ConfigError(f"{path}: the tokenizer has no EOS, so no answer would end")
    stop = generation.Stop(tuple(group.stop), thoughts.reader(tokens))
    ends = (int(tokens.eos_token_id),)
    setup = generation.Setup(model, run, read_settings(group), read_pace(sample), ends, stop)
    setup.check()
    return setup


def read_settings(group: ConfigDict) -> generation.SamplingParams:
    """What is asked of the decoder."""
    return generation.SamplingParams(
        temperature=group.temperature,
        top_k=group.top_k,
        top_p=group.top_p,
        frequency_penalty=group.frequency_penalty,
        beams=group.beams,
        length_penalty=group.length_penalty,
        candidates=group.candidates,
        max_new_tokens=group.max_new_tokens,
    )


def read_pace(sample: ConfigDict) -> generation.Pace:
    """How the decoder runs."""
    return generation.Pace(
        lanes=sample.lanes,
        prefill_prompts=sample.prefill_prompts,
        bucket_tokens=sample.bucket_tokens,
        chunk_steps=sample.chunk_steps,
        cache_dtype=float_type("sample.cache_dtype", sample.cache_dtype),
    )


@dataclasses.dataclass(frozen=True)
class Opened:
    """A finished model before its weights are read.

    Attributes:
        path: as the config names it: a full model, or a PEFT adapter, which names its base.
        folder: of the full model, or of the base.
        adapter: the adapter's folder; None for a full model.
        weights_sha256: of all weight files it is made of.
    """

    path: str
    folder: Path
    adapter: Path | None
    config: llama.LlamaConfig
    tokens: PreTrainedTokenizerBase
    weights_sha256: str

    def load(self, mesh: Mesh, dtype: Any) -> tuple[trees.Tree, lora.Adapters | None]:
        """Weights on the mesh, and adapters where there are some.

        Raises:
            CheckpointError: files that do not fit.
        """
        weights = hf.load(self.folder, self.config, mesh, dtype)
        if self.adapter is None:
            return weights, None
        return weights, peft.load(self.adapter, self.config, mesh)[0]


def open_model(path: str, own_tokenizer: str, mesh: Mesh) -> Opened:
    """Looks at everything that can be wrong with a model folder, and reads no weights.

    Args:
        path: a Hugging Face folder or hub id; or a PEFT folder, whose `adapter_config.json` names
            the base, relative to where the command runs.
        own_tokenizer: a folder; "" for the model's own.

    Raises:
        ConfigError, CheckpointError: it cannot be used on this mesh.
    """
    folder, adapter = folders.resolve(path), None
    hashes = [folders.shared_fingerprint(folder)]
    if (folder / _ADAPTER).is_file():
        base = folders.read_json(folder / _ADAPTER).get("base_model_name_or_path")
        if not base:
            raise ConfigError(
                f"{folder / _ADAPTER}: 'base_model_name_or_path' is missing; expected the folder "
                "or hub id of the model that the adapter belongs to"
            )
        folder, adapter = folders.resolve(str(base)), folder
        hashes.append(folders.shared_fingerprint(folder))
    config = hf_config.read_config(folder)
    llama.shardings(config, mesh)
    tokens = tokenizer.load_tokenizer(folders.resolve(own_tokenizer) if own_tokenizer else folder)
    return Opened(path, folder, adapter, config, tokens, "+".join(hashes))


def release(*trees_: Any) -> None:
    """Frees the arrays of a model that is not needed any more, before the next is read."""
    for leaf in jax.tree.leaves(trees_):
        if isinstance(leaf, jax.Array) and not leaf.is_deleted():
            leaf.delete()
