"""Tensors of GGUF files under Hugging Face's names, dequantised a few rows at a time.

llama.cpp's converter makes three changes, which this module undoes. It renames tensors. It reorders
the rows of queries and keys of the architecture `llama`, because llama.cpp rotates neighbouring
pairs and Hugging Face rotates halves. And it adds 1 to the norms of Gemma, which Hugging Face's
model does itself.
"""

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from safety_jax.base.errors import CheckpointError
from safety_jax.models.folders import gguf_header, safetensors
from safety_jax.models.folders.gguf_header import Header, StoredTensor

OUTER = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
ROTARY = "rope_freqs.weight"  # read with the config
INTERLEAVED = {"attn_q": "attention.head_count", "attn_k": "attention.head_count_kv"}
# Types of plain numbers, which are read without the package.
PLAIN = {0: "F32", 1: "F16", 30: "BF16"}


@dataclasses.dataclass(frozen=True)
class QuantisedTensor(safetensors.Tensor):
    """A tensor whose float32 numbers are computed from the content of the file.

    Attributes:
        stored: the tensor in the file.
        heads: rows are interleaved within this many heads; 0 if they are in their usual order.
        less: subtracted from every number.
    """

    stored: StoredTensor
    heads: int = 0
    less: float = 0.0

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.float32)

    def check(self, shape: tuple[int, ...]) -> None:
        if self.shape != shape:
            raise CheckpointError(
                f"{self.file}: tensor {self.name} has shape {list(self.shape)}, but the metadata "
                f"asks for {list(shape)}; the file is damaged; download it again"
            )

    def fill(self, start: int, rows: np.ndarray) -> None:
        stop = start + len(rows)
        if not self.heads:
            rows[:] = self._decoded(start, stop)
        else:
            # Whole heads are read: row 2 i + s of a head in the file becomes row s E/2 + i.
            size = self.shape[0] // self.heads
            first, last = start // size * size, -(-stop // size) * size
            pairs = self._decoded(first, last).reshape(-1, size // 2, 2, *self.shape[1:])
            halves = pairs.swapaxes(1, 2).reshape(last - first, *self.shape[1:])
            rows[:] = halves[start - first : stop - first]
        if self.less:
            rows -= np.float32(self.less)

    def _decoded(self, start: int, stop: int) -> np.ndarray:
        """Rows in the file's order."""
        gguf = gguf_header.library(self.file)
        kind = gguf.GGMLQuantizationType(self.stored.kind)
        block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        row_bytes = math.prod(self.shape[1:]) // block * block_bytes
        raw = np.empty((stop - start, row_bytes), np.uint8)
        self.read_bytes(start * row_bytes, raw)
        with np.errstate(all="ignore"):  # the caller reports numbers that are not finite
            return gguf.dequantize(raw, kind).reshape(stop - start, *self.shape[1:])


def locate(file: Path) -> dict[str, safetensors.Tensor]:
    """The tensors of a file by Hugging Face's names; unknown ones keep their own names.

    Raises:
        CheckpointError: see `gguf_header.read`; or the package cannot dequantise a type.
    """
    return tensors(file, gguf_header.read(file))


def tensors(file: Path, header: Header) -> dict[str, safetensors.Tensor]:
    """The same as `locate`, for a header that is already read."""
    architecture = str(header.metadata.get("general.architecture"))
    found = {}
    for name, stored in header.tensors.items():
        if name != ROTARY:
            found[hugging_face_name(name)] = _tensor(file, stored, architecture, header)
    return found


def hugging_face_name(name: str) -> str:
    """`blk.3.attn_q.weight` -> `model.layers.3.self_attn.q_proj.weight`."""
    if match := re.fullmatch(r"blk\.(0|[1-9]\d*)\.(\w+)\.(weight|bias)", name):
        if match[2] in LAYER:
            return f"model.layers.{match[1]}.{LAYER[match[2]]}.{match[3]}"
    outer, _, what = name.partition(".")
    return f"{OUTER[outer]}.{what}" if outer in OUTER else name


def own_name(name: str) -> str:
    """The reverse of `hugging_face_name`."""
    if match := re.fullmatch(r"model\.layers\.(\d+)\.(.+)\.(weight|bias)", name):
        part = next(ours for ours, theirs in LAYER.items() if theirs == match[2])
        return f"blk.{match[1]}.{part}.{match[3]}"
    module, _, what = name.rpartition(".")
    return f"{next(ours for ours, theirs in OUTER.items() if theirs == module)}.{what}"


def _tensor(
    file: Path, stored: StoredTensor, architecture: str, header: Header
) -> safetensors.Tensor:
    part = stored.name.split(".")[-2] if "." in stored.name else stored.name
    heads: Any = 0
    less = 0.0
    if architecture == "llama" and part in INTERLEAVED:
        key = f"{architecture}.{INTERLEAVED[part]}"
        heads = header.metadata.get(
            key, header.metadata.get(f"{architecture}.attention.head_count")
        )
        if not isinstance(heads, int) or heads < 1 or stored.shape[0] % (2 * heads):
            raise CheckpointError(
                f"{file}: tensor {stored.name} has {stored.shape[0]} rows, which are not those of "
                f"{heads!r:.40} heads ({key})"
            )
    elif architecture == "gemma" and part.endswith("norm"):
        less = 1.0
    code = PLAIN.get(stored.kind)
    if code and not heads and not less:
        return safetensors.Tensor(file, stored.name, code, stored.shape, stored.offset)
    code = code or _name(file, stored)
    return QuantisedTensor(
        file, stored.name, code, stored.shape, stored.offset, stored, heads, less
    )


def _name(file: Path, stored: StoredTensor) -> str:
    """The name of a quantised type that the package can read.

    Raises:
        CheckpointError: the package cannot read it, or a tensor of one axis is quantised.
    """
    gguf = gguf_header.library(file)
    kind = gguf.GGMLQuantizationType(stored.kind)
    try:
        with np.errstate(all="ignore"):
            gguf.dequantize(np.zeros((1, gguf.GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
    except NotImplementedError as error:
        raise CheckpointError(
            f"{file}: tensor {stored.name} has the type {kind.name}, which cannot be dequantised; "
            "use a file of another quantisation"
        ) from error
    if len(stored.shape) == 1:
        raise CheckpointError(
            f"{file}: tensor {stored.name} of one axis is quantised ({kind.name}); expected F32"
        )
    return str(kind.name)
