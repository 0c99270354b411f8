"""A folder with a finished model: a full one, or a PEFT adapter and the base that it names."""

import dataclasses
import functools
import hashlib
import math
from pathlib import Path

import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import DTypeLike
from transformers import PreTrainedTokenizerBase

from safety_jax.base import trees
from safety_jax.base.errors import ConfigError
from safety_jax.models import llama, lora, quantised
from safety_jax.models.decoding.ends import model_ends
from safety_jax.models.execution import Execution
from safety_jax.models.folders import hf, hf_config, hub, peft, peft_config, tokenizer_files
from safety_jax.models.model import Model


@dataclasses.dataclass(frozen=True)
class ModelFolder:
    """A finished model before its weights are read.

    Attributes:
        path: as somebody named it: of a full model, or of an adapter.
        folder: of the full model, or of the base.
        adapter: the adapter's folder; None for a full model.
        strength: the adapter's, 1 as it was trained: the base is 0, and between both lies the line
            of WiSE-FT (arXiv 2109.01903).
        tokenizer_folders: where the tokenizer came from, see `tokenizer_files.sources`.
    """

    path: str
    folder: Path
    adapter: Path | None
    strength: float
    config: llama.LlamaConfig
    execution: Execution
    tokenizer_folders: tuple[Path, ...]
    tokenizer: PreTrainedTokenizerBase

    @functools.cached_property
    def weights_sha256(self) -> str:
        """The hash of all weight files that the model is made of, and how strong its adapter is."""
        found = hub.shared_fingerprint(self.folder)
        if self.adapter is None:
            return found
        times = "" if self.strength == 1 else f"*{self.strength!r}"
        return f"{hub.shared_fingerprint(self.adapter)}{times}+{found}"

    @functools.cached_property
    def ends(self) -> tuple[int, ...]:
        """Token ids that end an answer."""
        return model_ends(self.folder, self.tokenizer)

    @functools.cached_property
    def tokenizer_sha256(self) -> str:
        """A hash of the tokenizer's files, chat template included, and of where answers end."""
        files = tokenizer_files.fingerprint(self.tokenizer_folders)
        return hashlib.sha256(f"{files} {self.ends}".encode()).hexdigest()

    def load(
        self,
        dtype: DTypeLike,
        kernels: str = quantised.STORED,
        weights: trees.Tree | None = None,
    ) -> Model:
        """The model on its mesh, its weights as `dtype`; adapters are float32.

        Args:
            kernels: what the layers' kernels are held as, see `weight_table.load`.
            weights: those of `folder`, where they were read before.

        Raises:
            CheckpointError: files that do not fit.
            ConfigError: `kernels` does not fit.
        """
        if weights is None:
            weights = hf.load(self.folder, self.config, self.execution.mesh, dtype, kernels)
        adapters = self.load_adapters()
        return Model(self.config, self.execution, weights, adapters, self.tokenizer, self.ends)

    def load_adapters(self) -> lora.Adapters | None:
        """The adapter as strong as it is asked for; None of a full model.

        Raises:
            CheckpointError: files that do not fit.
        """
        if self.adapter is None:
            return None
        adapters = peft.load(self.adapter, self.config, self.execution.mesh)[0]
        return dataclasses.replace(adapters, scale=adapters.scale * self.strength)

    def adapter_share(self, dtype: DTypeLike, kernels: str) -> float:
        """Bytes of the adapter for each byte of the base, loaded as `load` does it."""
        if self.adapter is None:
            return 0.0
        size = jnp.dtype(dtype).itemsize
        base = quantised.weights_bytes(llama.parameters(self.config), size, kernels)
        return peft.loaded_bytes(self.adapter) / base


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
        path: a Hugging Face folder, hub id or GGUF file; or a PEFT folder, whose
            `adapter_config.json` names the base, see `peft_config.base_folder`, and may be followed
            by `?strength=0.5`.
        own_tokenizer: a folder; "" for the adapter's, or where that has none, the model's.
        compute_dtype, backend, remat: see `Execution.build`.

    Raises:
        ConfigError, CheckpointError: it cannot be used on this mesh.
    """
    place, asked, strength = path.partition("?strength=")
    folder, adapter = hub.resolve(place), None
    if (folder / hub.ADAPTER).is_file():
        folder, adapter = peft_config.base_folder(folder), folder
    elif asked:
        raise ConfigError(f"model {path}: only an adapter has a strength; name a PEFT folder")
    config = hf_config.read_config(folder)
    llama.shardings(config, mesh)
    execution = Execution.build(
        mesh, rules=config.rules, compute_dtype=compute_dtype, backend=backend, remat=remat
    )
    found = tokenizer_files.sources(own_tokenizer, adapter, folder)
    tokens = tokenizer_files.load(found)
    times = _strength(path, strength) if asked else 1.0
    return ModelFolder(path, folder, adapter, times, config, execution, found, tokens)


def _strength(path: str, text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not 0 < found < math.inf:
        raise ConfigError(
            f"model {path}: strength {text!r}; expected a number above 0, such as 0.5"
        )
    return found
