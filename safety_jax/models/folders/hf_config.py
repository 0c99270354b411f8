"""Converts `config.json` to `llama.LlamaConfig` and back. An attribute that might matter and is not
implemented raises.

Each attribute is handled here, or listed as irrelevant to what the model computes, or has a value
that switches its feature off. `attributes.py` decides on all others: a checkpoint of a newer kind
must give a clear error, not slightly wrong numbers.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safety_jax.base.errors import CheckpointError
from safety_jax.models import llama
from safety_jax.models.folders import auto_map, bitsandbytes, hub, internlm2, layer_kinds
from safety_jax.models.folders.attributes import Attributes, refuse_unknown, tell_once
from safety_jax.models.folders.families import (
    FAMILIES,
    LOCAL_THETA,
    NESTED,
    ROPE_ATTRIBUTES,
    Family,
)
from safety_jax.models.folders.layer_kinds import FULL, SLIDING
from safety_jax.models.folders.rope_config import read_ropes, rope_attributes
from safety_jax.models.rotary import Rope

POSITIONS = "position_embedding_type"  # of Granite 4; any value other than "rope" means no rope
# Attributes outside `text_config` that apply to the text model, too.
CARRIED = (
    *("auto_map", "quantization_config", "tie_word_embeddings"),
    *("bos_token_id", "eos_token_id", "pad_token_id"),
    *("dtype", "torch_dtype", "transformers_version"),
)

# ---------------------------------------------------------------------------- reading


def read_config(folder: Path) -> llama.LlamaConfig:
    """The model that a folder's `config.json` describes.

    Raises:
        CheckpointError: the file is missing, of another architecture, or has an attribute or a
            value that is not supported.
    """
    file = folder / "config.json"
    return parse(hub.read_json(file), str(file))


def parse(given: Mapping[str, Any], where: str) -> llama.LlamaConfig:
    """The model that the attributes of a config.json describe.

    Args:
        where: names the file in messages; "" prints no notes on attributes that change nothing.

    Raises:
        CheckpointError: as `read_config`.
    """
    given = internlm2.as_llama(given)
    nested = text_part(given) is not given
    given = text_part(given)
    if given.get(bitsandbytes.SETTINGS):
        bitsandbytes.parse(given[bitsandbytes.SETTINGS], where)
        given = {name: value for name, value in given.items() if name != bitsandbytes.SETTINGS}
    family = _family(given, where)
    attributes = Attributes(given, family.defaults, where)
    layers = attributes.integer("num_hidden_layers")
    named = "layer_types" in family.defaults
    types = layer_kinds.layer_types(attributes, family.windows, named, layers)
    known = ROPE_ATTRIBUTES | family.defaults.keys() | family.unused
    alike = {} if named else {"layer_types": (None, types)}
    own = auto_map.without_known(given, family.library_code)
    refuse_unknown(own, known, dict(family.switched_off) | alike, where)
    width = attributes.integer("hidden_size")
    heads, kv_heads, head_size = _heads(attributes, width, where)
    ropes, rotary_size = read_ropes(attributes, given, family, head_size)
    number = _Numbers(attributes, family)
    attention_bias = number.switch("attention_bias")
    return llama.LlamaConfig(
        vocabulary_size=attributes.integer("vocab_size"),
        width=width,
        mlp_width=attributes.integer(family.mlp_width),
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_size=head_size,
        rotary_size=rotary_size,
        pattern=_shortest(_kinds(attributes, family, types, ropes)),
        norms=family.norms,
        norm_epsilon=attributes.number("rms_norm_eps"),
        norm_plus_one=family.norm_plus_one,
        query_key_norm=family.query_key_norm,
        tied_embeddings=attributes.boolean("tie_word_embeddings"),
        query_key_value_bias=_decided(family.query_key_value_bias, attention_bias),
        output_bias=_decided(family.output_bias, attention_bias),
        mlp_bias=number.switch("mlp_bias"),
        activation=family.activations[attributes.one_of(family.activation, family.activations)],
        attention_scale=number.attention_scale(head_size),
        attention_softcap=number.optional("attn_logit_softcapping"),
        embedding_scale=number.embedding_scale(width),
        residual_scale=number.value("residual_multiplier", 1.0),
        logit_scale=1 / number.value("logits_scaling", 1.0),
        logit_softcap=number.optional("final_logit_softcapping"),
        files=family.files,
        nested=nested,
        max_positions=attributes.integer("max_position_embeddings"),
        initializer_range=attributes.number("initializer_range"),
    )


def _heads(attributes: Attributes, width: int, where: str) -> tuple[int, int, int]:
    """Query heads, key-value heads, and the size of a head."""
    heads = attributes.integer("num_attention_heads")
    head_size = attributes.integer("head_dim", when_absent=width // heads)
    kv_heads = attributes.integer("num_key_value_heads", when_absent=heads)
    derived = attributes.values["head_dim"] is None
    if heads % kv_heads or head_size % 2 or (derived and width % heads):
        raise CheckpointError(
            f"{where}: {heads} heads of size {head_size} over {kv_heads} key-value heads do not "
            f"fit hidden_size {width}; heads must divide evenly and head_dim must be even"
        )
    return heads, kv_heads, head_size


def _kinds(
    attributes: Attributes, family: Family, types: list[str], ropes: Mapping[str, Rope]
) -> list[llama.LayerKind]:
    """The window and the rope of each layer, from the name of its type."""
    turned = [True] * len(types)
    if "no_rope_layers" in family.defaults:
        turned = layer_kinds.with_rope(attributes, len(types))
    elif POSITIONS in family.defaults and attributes.values[POSITIONS] != "rope":
        turned = [False] * len(types)
    window = layer_kinds.window(attributes, types)
    return [
        llama.LayerKind(window if kind == SLIDING else None, ropes[kind] if turns else None)
        for kind, turns in zip(types, turned, strict=True)
    ]


def text_part(given: Mapping[str, Any]) -> Mapping[str, Any]:
    """The attributes of the text model inside a vision-language model; those of other models
    unchanged.

    Outer attributes that apply to the text model are added: its code, how its weights are stored
    and tied, and its token ids.
    """
    outside = given.get("model_type")
    inside = given.get("text_config")
    if not isinstance(outside, str) or outside not in NESTED or not isinstance(inside, dict):
        return given
    shared = {name: given[name] for name in CARRIED if name in given}
    found = {"model_type": NESTED[outside]} | inside | shared
    return {name: value for name, value in found.items() if name != "architectures"}


class _Numbers:
    """Attributes that only some families have. For the others, a file's value is not read."""

    def __init__(self, attributes: Attributes, family: Family):
        self.attributes, self.family = attributes, family

    def value(self, name: str, otherwise: float) -> float:
        """A number above 0.

        Raises:
            CheckpointError: the file has another value.
        """
        if name not in self.family.defaults:
            return otherwise
        found = self.attributes.number(name)
        if found <= 0:
            raise self.attributes.refuse(name, "a number above 0")
        return found

    def optional(self, name: str) -> float | None:
        """A number above 0; None if the file says null or the family lacks the attribute."""
        absent = self.attributes.values.get(name) is None
        return None if absent or name not in self.family.defaults else self.value(name, 1.0)

    def switch(self, name: str) -> bool:
        return name in self.family.defaults and self.attributes.boolean(name)

    def attention_scale(self, head_size: int) -> float:
        scale = self.value("query_pre_attn_scalar", float(head_size)) ** -0.5
        return self.value("attention_multiplier", scale)

    def embedding_scale(self, width: int) -> float:
        if self.family.embedding == "width":
            return float(width**0.5)
        return self.value("embedding_multiplier", 1.0)


def _shortest(kinds: list[llama.LayerKind]) -> tuple[llama.LayerKind, ...]:
    """The shortest list that, repeated, gives the kinds of all layers."""
    for period in range(1, len(kinds) + 1):
        if all(kind == kinds[layer % period] for layer, kind in enumerate(kinds)):
            return tuple(kinds[:period])
    raise AssertionError("a list repeats itself at its whole length")


def _decided(fixed: bool | None, attention_bias: bool) -> bool:
    return attention_bias if fixed is None else fixed


def _family(given: Mapping[str, Any], where: str) -> Family:
    kind = given.get("model_type")
    family = FAMILIES.get(kind) if isinstance(kind, str) else None
    if family is None:
        raise CheckpointError(
            f"{where}: model_type {f'{kind!r}'[:60]} is not supported; expected one of "
            f"{', '.join([*FAMILIES, *NESTED, internlm2.MODEL_TYPE])}"
        )
    named = given.get("architectures") or [family.architecture]
    trunk = family.architecture.removesuffix("ForCausalLM") + "Model"
    if named in ([family.architecture], [trunk]):
        return family
    # `transformers` chooses the class by model_type; the name matters only if its head is another.
    if not isinstance(named, list) or not str(named[0]).endswith(("ForCausalLM", "Model")):
        raise CheckpointError(
            f"{where}: architectures {f'{named!r}'[:100]} is not supported; expected "
            f"['{family.architecture}']"
        )
    tell_once(str(kind), where, f"architectures = {named!r}"[:100])
    return family


# ---------------------------------------------------------------------------- writing


def to_hf_config(
    config: llama.LlamaConfig,
    source: Mapping[str, Any] | None,
    dtype: str,
    token_ids: Mapping[str, int | None],
) -> dict[str, Any]:
    """The config.json of an exported model, with both the old and the new spelling of rope and
    dtype.

    Args:
        source: the attributes of the folder from which the weights came, of which all but those of
            rope, dtype, quantisation and code are kept; None for a model that never had any.
        dtype: of the exported weights, as `transformers` names it.
        token_ids: `bos_token_id` and its kin, for a model without source.

    Raises:
        CheckpointError: no supported family has this combination of switches.
    """
    if source is None:
        carried = _fresh(config) | dict(token_ids)
    else:
        carried = dict(text_part(internlm2.as_llama(source)))
    family = FAMILIES[carried["model_type"]]
    carried |= {} if "architectures" in carried else {"architectures": [family.architecture]}
    spelled = ROPE_ATTRIBUTES | {LOCAL_THETA}
    spelled |= {bitsandbytes.SETTINGS}  # exported weights are not quantised
    spelled |= {auto_map.NAME}  # the code that it names is not copied
    attributes = {name: value for name, value in carried.items() if name not in spelled}
    ropes = rope_attributes(_ropes(config, family), config, family)
    return attributes | ropes | {"dtype": dtype, "torch_dtype": dtype}


def describes(attributes: Mapping[str, Any], config: llama.LlamaConfig) -> bool:
    """Whether a config.json with these attributes describes exactly this model."""
    try:
        return parse(attributes, "") == config
    except CheckpointError:
        return False


def _ropes(config: llama.LlamaConfig, family: Family) -> dict[str, Rope]:
    """The rope of each type of layer. If no layer has a type, it gets the other type's rope or, in
    a family with two ropes, a default."""
    found = {
        FULL if kind.window is None else SLIDING: kind.rope
        for kind in config.kinds
        if kind.rope is not None
    }
    other = Rope(family.local_theta or family.rope_theta)
    if family.local_theta is None:
        other = next(iter(found.values()), other)
    return {kind: found.get(kind, other) for kind in (FULL, SLIDING)}


def _fresh(config: llama.LlamaConfig) -> dict[str, Any]:
    """The attributes of a model that came without any, for the first family that can express it."""
    windows = [kind.window for kind in config.kinds if kind.window is not None]
    types = [FULL if window is None else SLIDING for window in config.windows]
    scale = config.attention_scale
    attributes: dict[str, Any] = {
        "vocab_size": config.vocabulary_size,
        "hidden_size": config.width,
        "intermediate_size": config.mlp_width,
        "shared_intermediate_size": config.mlp_width,
        "num_local_experts": 0,
        "mamba_n_heads": 1,  # no layer uses it, but transformers requires a divisor of the width
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_size,
        "max_position_embeddings": config.max_positions,
        "initializer_range": config.initializer_range,
        "rms_norm_eps": config.norm_epsilon,
        "tie_word_embeddings": config.tied_embeddings,
        "attention_bias": config.output_bias,
        "mlp_bias": config.mlp_bias,
        "sliding_window": windows[0] if windows else None,
        "use_sliding_window": bool(windows),
        "max_window_layers": types.count(FULL),
        "layer_types": types,
        "query_pre_attn_scalar": round(scale**-2),
        "attn_logit_softcapping": config.attention_softcap,
        "final_logit_softcapping": config.logit_softcap,
        "embedding_multiplier": config.embedding_scale,
        "attention_multiplier": scale,
        "residual_multiplier": config.residual_scale,
        "logits_scaling": 1 / config.logit_scale,
        POSITIONS: "rope" if any(kind.rope for kind in config.kinds) else "nope",
        "no_rope_layers": [int(config.kinds[n].rope is not None) for n in config.layer_kinds],
        "partial_rotary_factor": config.rotary_size / config.head_size,
        "original_max_position_embeddings": max(
            (kind.rope.original_max_positions for kind in config.kinds if kind.rope), default=0
        )
        or config.max_positions,
    }
    activation = config.activation
    for model_type, family in FAMILIES.items():
        spellings = [theirs for theirs, ours in family.activations.items() if ours == activation]
        if not spellings:
            continue
        named = {"model_type": model_type, "architectures": [family.architecture]}
        known = family.defaults.keys() | family.unused
        named |= {name: value for name, value in attributes.items() if name in known}
        named |= {family.activation: spellings[0]}
        if describes(named | rope_attributes(_ropes(config, family), config, family), config):
            return named
    raise CheckpointError(
        f"no supported Hugging Face architecture has this combination of switches: {config}"
    )
