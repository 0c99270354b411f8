"""A folder with a finished model: a full one, or a PEFT adapter and the base that it names."""

import dataclasses
import functools
import hashlib
import math
import re
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import DTypeLike
from transformers import PreTrainedTokenizerBase

from safety_jax.base import trees
from safety_jax.base.errors import ConfigError
from safety_jax.models import llama, lora, quantised
from safety_jax.models.decoding.ends import model_ends
from safety_jax.models.execution import Execution
from safety_jax.models.folders import (
    config_hash,
    hf,
    hf_config,
    hub,
    peft,
    peft_config,
    tokenizer_files,
)
from safety_jax.models.model import Model

KERNELS = (quantised.STORED, *quantised.FORMATS)
_SPEC = re.compile(r"(?P<place>.*?)\?(?P<query>(?:strength|base)=.*)", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class ModelFolder:
    """A finished model before its weights are read.

    Attributes:
        path: the name of the full model or the adapter, as the user gave it.
        folder: of the full model, or of the base.
        adapter: the adapter's folder; None for a full model.
        strength: a factor of the adapter: 1 is the trained adapter, 0 would be the base, and values
            between interpolate the weights as in WiSE-FT (arXiv 2109.01903).
        kernels: the format of the layers' kernels, one of `KERNELS`.
        tokenizer_folders: the folders of the tokenizer, see `tokenizer_files.sources`.
    """

    path: str
    folder: Path
    adapter: Path | None
    strength: float
    kernels: str
    config: llama.LlamaConfig
    execution: Execution
    tokenizer_folders: tuple[Path, ...]
    tokenizer: PreTrainedTokenizerBase

    @functools.cached_property
    def weights_sha256(self) -> str:
        """Identifies the weights: the hashes of all weight files, the adapter's strength, and the
        format of quantised kernels."""
        found = hub.shared_fingerprint(self.folder)
        if self.kernels != quantised.STORED:
            found = f"{found} in {self.kernels}"
        if self.adapter is None:
            return found
        times = "" if self.strength == 1 else f"*{self.strength!r}"
        return f"{hub.shared_fingerprint(self.adapter)}{times}+{found}"

    @property
    def base_weights(self) -> tuple[Path, str]:
        """Identifies the weights without the adapter: equal for models that can share them."""
        return self.folder.resolve(), self.kernels

    @functools.cached_property
    def config_sha256(self) -> str:
        """Hashes of the attributes of model and adapter that affect the computation."""
        found = config_hash.of_model(self.folder)
        return found if self.adapter is None else f"{config_hash.of_adapter(self.adapter)}+{found}"

    @functools.cached_property
    def ends(self) -> tuple[int, ...]:
        """Token ids that end an answer."""
        return model_ends(self.folder, self.tokenizer)

    @functools.cached_property
    def tokenizer_sha256(self) -> str:
        """A hash of the tokenizer's files with the chat template, and of the ids in `ends`."""
        files = tokenizer_files.fingerprint(self.tokenizer_folders)
        return hashlib.sha256(f"{files} {self.ends}".encode()).hexdigest()

    def load(self, dtype: DTypeLike, weights: trees.Tree | None = None) -> Model:
        """Loads the model onto its mesh, with weights as `dtype` and adapters as float32.

        Args:
            weights: of the base, if they are already loaded, see `base_weights`.

        Raises:
            CheckpointError: files are damaged or do not fit the config.
            ConfigError: the folder's kernels cannot have the format `kernels`.
        """
        if weights is None:
            mesh = self.execution.mesh
            weights = hf.load(self.folder, self.config, mesh, dtype, self.kernels)
        adapters = self.load_adapters()
        return Model(self.config, self.execution, weights, adapters, self.tokenizer, self.ends)

    def load_adapters(self) -> lora.Adapters | None:
        """The adapter, scaled by its strength; None for a full model.

        Raises:
            CheckpointError: files are damaged or do not fit the model.
        """
        if self.adapter is None:
            return None
        adapters = peft.load(self.adapter, self.config, self.execution.mesh)[0]
        return dataclasses.replace(adapters, scale=adapters.scale * self.strength)

    def adapter_share(self, dtype: DTypeLike) -> float:
        """Bytes of the adapter per byte of the base, in the types in which `load` loads them."""
        if self.adapter is None:
            return 0.0
        size = jnp.dtype(dtype).itemsize
        base = quantised.weights_bytes(llama.parameters(self.config), size, self.kernels)
        return peft.loaded_bytes(self.adapter) / base


def open_model(
    path: str,
    mesh: Mesh,
    *,
    own_tokenizer: str,
    kernels: str,
    compute_dtype: DTypeLike,
    backend: str,
    remat: str,
) -> ModelFolder:
    """Opens a model folder and checks everything in it except the weights, which are not read.

    Args:
        path: a Hugging Face folder, hub id or GGUF file; or a PEFT folder, whose
            `adapter_config.json` names the base, see `peft_config.base_folder`. Settings may follow
            it: `?strength=0.5` for an adapter, `?base=nf4`, or both with `&` between.
        own_tokenizer: a folder; "" for the adapter's tokenizer or, if it has none, the model's.
        kernels: one of `KERNELS`; `?base=` in `path` takes precedence.
        compute_dtype, backend, remat: see `Execution.build`.

    Raises:
        ConfigError, CheckpointError: it cannot be used on this mesh.
    """
    spec = read_spec(path, kernels)
    folder, adapter = hub.resolve(spec.place), None
    if (folder / hub.ADAPTER).is_file():
        folder, adapter = peft_config.base_folder(folder), folder
    elif spec.strength is not None:
        raise ConfigError(f"model {path}: only an adapter has a strength; name a PEFT folder")
    config = hf_config.read_config(folder)
    llama.shardings(config, mesh)
    execution = Execution.build(
        mesh, rules=config.rules, compute_dtype=compute_dtype, backend=backend, remat=remat
    )
    found = tokenizer_files.sources(own_tokenizer, adapter, folder)
    tokens = tokenizer_files.load(found)
    strength = 1.0 if spec.strength is None else spec.strength
    return ModelFolder(
        path, folder, adapter, strength, spec.kernels, config, execution, found, tokens
    )


class ModelSpec(NamedTuple):
    """A model's name and the settings that follow it; `strength` is None if there is none."""

    place: str
    strength: float | None
    kernels: str


def split_spec(path: str) -> tuple[str, str]:
    """Splits `FOLDER?strength=0.5` into the place and its settings, with the question mark."""
    found = _SPEC.fullmatch(path)
    return (found["place"], f"?{found['query']}") if found else (path, "")


def read_spec(path: str, kernels: str) -> ModelSpec:
    """Parses a model's name and its settings; for the arguments, see `open_model`.

    Raises:
        ConfigError: the settings are not valid.
    """
    place, query = split_spec(path)
    asked: dict[str, str] = {}
    for part in query[1:].split("&") if query else ():
        name, _, value = part.partition("=")
        if name not in ("strength", "base") or name in asked:
            raise ConfigError(
                f"model {path}: {part!r}; expected strength=NUMBER and base=FORMAT, each once at "
                "most, with & between them"
            )
        asked[name] = value
    kernels = asked.get("base", kernels)
    if kernels not in KERNELS:
        raise ConfigError(f"model {path}: base {kernels!r}; expected {', '.join(KERNELS)}")
    return ModelSpec(
        place, _strength(path, asked["strength"]) if "strength" in asked else None, kernels
    )


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
