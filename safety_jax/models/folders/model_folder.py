"""A folder with a finished model: a full one, or a PEFT adapter and the base that it names."""

import dataclasses
import functools
from pathlib import Path

from jax.sharding import Mesh
from jax.typing import DTypeLike
from transformers import PreTrainedTokenizerBase

from safety_jax.base.errors import ConfigError
from safety_jax.models import llama
from safety_jax.models.execution import Execution
from safety_jax.models.folders import hf, hf_config, peft
from safety_jax.models.folders import hub as folders
from safety_jax.models.folders import tokenizer as tokenizers
from safety_jax.models.model import Model

_ADAPTER = "adapter_config.json"


@dataclasses.dataclass(frozen=True)
class ModelFolder:
    """A finished model before its weights are read.

    Attributes:
        path: as somebody named it: of a full model, or of an adapter.
        folder: of the full model, or of the base.
        adapter: the adapter's folder; None for a full model.
    """

    path: str
    folder: Path
    adapter: Path | None
    config: llama.LlamaConfig
    execution: Execution
    tokenizer: PreTrainedTokenizerBase

    @functools.cached_property
    def weights_sha256(self) -> str:
        """Of all weight files that the model is made of."""
        parts = [self.folder] if self.adapter is None else [self.adapter, self.folder]
        return "+".join(folders.shared_fingerprint(part) for part in parts)

    def load(self, dtype: DTypeLike) -> Model:
        """The model on its mesh, its weights as `dtype`; adapters are float32.

        Raises:
            CheckpointError: files that do not fit.
        """
        mesh = self.execution.mesh
        weights = hf.load(self.folder, self.config, mesh, dtype)
        adapters = None if self.adapter is None else peft.load(self.adapter, self.config, mesh)[0]
        return Model(self.config, self.execution, weights, adapters, self.tokenizer)


def open_model(
    path: str,
    mesh: Mesh,
    *,
    own_tokenizer: str,
    compute_dtype: DTypeLike,
    backend: str,
    remat: str,
) -> ModelFolder:
    """Looks at everything that can be wrong with a model folder, and reads no weights.

    Args:
        path: a Hugging Face folder or hub id; or a PEFT folder, whose `adapter_config.json` names
            the base, relative to where the command runs.
        own_tokenizer: a folder; "" for the model's own.
        compute_dtype, backend, remat: see `Execution.build`.

    Raises:
        ConfigError, CheckpointError: it cannot be used on this mesh.
    """
    folder, adapter = folders.resolve(path), None
    if (folder / _ADAPTER).is_file():
        base = folders.read_json(folder / _ADAPTER).get("base_model_name_or_path")
        if not base:
            raise ConfigError(
                f"{folder / _ADAPTER}: 'base_model_name_or_path' is missing; expected the folder "
                "or hub id of the model that the adapter belongs to"
            )
        folder, adapter = folders.resolve(str(base)), folder
    config = hf_config.read_config(folder)
    llama.shardings(config, mesh)
    execution = Execution.build(
        mesh, window=config.window, compute_dtype=compute_dtype, backend=backend, remat=remat
    )
    tokens = tokenizers.load_tokenizer(folders.resolve(own_tokenizer) if own_tokenizer else folder)
    return ModelFolder(path, folder, adapter, config, execution, tokens)
