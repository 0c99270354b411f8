"""`config.json` to `llama.LlamaConfig` and back; an attribute that might matter and is not
implemented raises.

Each attribute is handled here, or listed as irrelevant to what the model computes, or equal to a
value that switches its feature off. What becomes of others, `attributes.py` says: a checkpoint of a
newer kind must give a clear error, not slightly wrong numbers.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safety_jax.base.errors import CheckpointError
from safety_jax.models import llama
from safety_jax.models.folders import hub
from safety_jax.models.folders.attributes import Attributes, is_number, refuse_unknown, tell_once
from safety_jax.models.folders.families import (
    FAMILIES,
    ROPE_ATTRIBUTES,
    ROPE_NUMBERS,
    ROPE_THETA,
    Family,
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
    """The model that the attributes of a config.json describe; `where` names it in errors, "" tells
    nothing of attributes that change nothing.

    Raises:
        CheckpointError: as `read_config`.
    """
    family = _family(given, where)
    attributes = Attributes(given, family.defaults, where)
    layers = attributes.integer("num_hidden_layers")
    window = _window(attributes, layers)
    alike = {"layer_types": (None, _layer_types(window, layers))}
    known = ROPE_ATTRIBUTES | family.defaults.keys()
    refuse_unknown(given, known, dict(family.switched_off) | alike, where)
    heads = attributes.integer("num_attention_heads")
    width = attributes.integer("hidden_size")
    max_positions = attributes.integer("max_position_embeddings")
    head_size = attributes.integer("head_dim", when_absent=width // heads)
    kv_heads = attributes.integer("num_key_value_heads", when_absent=heads)
    derived = attributes.values["head_dim"] is None
    if heads % kv_heads or head_size % 2 or (derived and width % heads):
        raise CheckpointError(
            f"{where}: {heads} heads of size {head_size} over {kv_heads} key-value heads do not "
            f"fit hidden_size {width}; heads must divide evenly and head_dim must be even"
        )
    attention_bias = attributes.boolean("attention_bias")
    return llama.LlamaConfig(
        vocabulary_size=attributes.integer("vocab_size"),
        width=width,
        mlp_width=attributes.integer("intermediate_size"),
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_size=head_size,
        norm_epsilon=attributes.number("rms_norm_eps"),
        rope=_rope(given, max_positions, where),
        tied_embeddings=attributes.boolean("tie_word_embeddings"),
        query_key_value_bias=_decided(family.query_key_value_bias, attention_bias),
        output_bias=_decided(family.output_bias, attention_bias),
        mlp_bias=attributes.boolean("mlp_bias"),
        query_key_norm=family.query_key_norm,
        activation=family.activations[attributes.one_of("hidden_act", family.activations)],
        scaled_embeddings=family.scaled_embeddings,
        norm_plus_one=family.norm_plus_one,
        window=window,
        max_positions=max_positions,
        initializer_range=attributes.number("initializer_range"),
    )


def _decided(fixed: bool | None, attention_bias: bool) -> bool:
    return attention_bias if fixed is None else fixed


def _family(given: Mapping[str, Any], where: str) -> Family:
    kind = given.get("model_type")
    family = FAMILIES.get(kind) if isinstance(kind, str) else None
    if family is None:
        raise CheckpointError(
            f"{where}: model_type {f'{kind!r}'[:60]} is not supported; expected one of "
            f"{', '.join(FAMILIES)}"
        )
    named = given.get("architectures") or [family.architecture]
    trunk = family.architecture.removesuffix("ForCausalLM") + "Model"
    if named in ([family.architecture], [trunk]):
        return family
    # `transformers` takes the class from model_type; the name matters where it says another head.
    if not isinstance(named, list) or not str(named[0]).endswith(("ForCausalLM", "Model")):
        raise CheckpointError(
            f"{where}: architectures {f'{named!r}'[:100]} is not supported; expected "
            f"['{family.architecture}']"
        )
    tell_once(str(kind), where, f"architectures = {named!r}"[:100])
    return family


def _window(attributes: Attributes, layers: int) -> int | None:
    """The sliding window that every layer has, or None.

    Raises:
        CheckpointError: some layers have one and others do not.
    """
    values = attributes.values
    if values.get("sliding_window") is None:
        return None
    if "use_sliding_window" not in values:
        return attributes.integer("sliding_window")
    sliding = attributes.boolean("use_sliding_window")
    first = values["max_window_layers"] if sliding else layers
    kinds = values["layer_types"]
    if kinds is None and isinstance(first, int):
        kinds = ["full_attention"] * max(0, min(first, layers))
        kinds += ["sliding_attention"] * (layers - len(kinds))
    if kinds == _layer_types(None, layers):
        return None
    if kinds == _layer_types(1, layers) and sliding:
        return attributes.integer("sliding_window")
    raise CheckpointError(
        f"{attributes.where}: use_sliding_window, max_window_layers and layer_types together give "
        f"some of the {layers} layers a sliding window; expected all layers alike"
    )


def _layer_types(window: int | None, layers: int) -> list[str]:
    return ["full_attention" if window is None else "sliding_attention"] * layers


def _rope(given: Mapping[str, Any], max_positions: int, where: str) -> llama.Rope:
    """Reads `rope_theta` and `rope_scaling` (old spelling) or `rope_parameters` (new)."""
    scaling, parameters = given.get("rope_scaling") or {}, given.get("rope_parameters") or {}
    read = [
        _rope_of(values, given, max_positions, where) for values in (scaling, parameters) if values
    ]
    if len(read) == 2 and read[0] != read[1]:
        raise CheckpointError(
            f"{where}: rope_scaling and rope_parameters disagree; keep the one that is right"
        )
    return read[0] if read else _rope_of({}, given, max_positions, where)


def _rope_of(values: Any, given: Mapping[str, Any], max_positions: int, where: str) -> llama.Rope:
    if not isinstance(values, dict):
        raise CheckpointError(f"{where}: rope settings {f'{values!r}'[:60]}; expected an object")
    kind = values.get("rope_type", values.get("type", "default"))
    if not isinstance(kind, str) or kind not in ROPE_NUMBERS:
        raise CheckpointError(
            f"{where}: rope type {f'{kind!r}'[:60]} is not supported; expected "
            f"{', '.join(ROPE_NUMBERS)}"
        )
    numbers: dict[str, Any] = {"original_max_position_embeddings": max_positions} | values
    # `transformers` lets the inner theta win over the outer one.
    numbers = {"rope_theta": given.get("rope_theta") or ROPE_THETA} | numbers
    whole = values.get("partial_rotary_factor") in (None, 1.0)
    known = {"rope_type", "type", "rope_theta", "partial_rotary_factor", *ROPE_NUMBERS[kind]}
    extra = [name for name in values if name not in known]
    wrong = [
        name
        for name in ("rope_theta", *ROPE_NUMBERS[kind])
        if not is_number(numbers.get(name)) or numbers[name] <= 0
    ]
    if extra or wrong or not whole:
        raise CheckpointError(
            f"{where}: rope settings {f'{values!r}'[:200]}: for type {kind} expected "
            f"{', '.join(('rope_theta', *ROPE_NUMBERS[kind]))}, nothing else"
        )
    scaled = {name: numbers[name] for name in ROPE_NUMBERS[kind]}
    return llama.Rope(
        theta=float(numbers["rope_theta"]),
        kind=kind,
        factor=float(scaled.get("factor", 1.0)),
        low_frequency_factor=float(scaled.get("low_freq_factor", 1.0)),
        high_frequency_factor=float(scaled.get("high_freq_factor", 1.0)),
        original_max_positions=int(scaled.get("original_max_position_embeddings", max_positions)),
    )


# ---------------------------------------------------------------------------- writing


def to_hf_config(
    config: llama.LlamaConfig,
    source: Mapping[str, Any] | None,
    dtype: str,
    token_ids: Mapping[str, int | None],
) -> dict[str, Any]:
    """The config.json of an exported model, in the old and the new spelling of rope and dtype.

    Args:
        source: the attributes the weights came with, which are carried through; None for a model
            that never had any.
        dtype: of the exported weights, as `transformers` names it.
        token_ids: `bos_token_id` and its kin, for a model without source.

    Raises:
        CheckpointError: no supported family has this combination of switches.
    """
    carried = dict(source) if source is not None else _fresh(config) | dict(token_ids)
    attributes = {name: value for name, value in carried.items() if name not in ROPE_ATTRIBUTES}
    return attributes | _rope_attributes(config.rope) | {"dtype": dtype, "torch_dtype": dtype}


def describes(attributes: Mapping[str, Any], config: llama.LlamaConfig) -> bool:
    """Whether a config.json with these attributes is of exactly this model."""
    rope = _rope(_rope_attributes(config.rope), config.max_positions, "config.json")
    try:
        # Rope numbers that the kind does not use may differ.
        return parse(attributes, "") == dataclasses.replace(config, rope=rope)
    except CheckpointError:
        return False


def _fresh(config: llama.LlamaConfig) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        "vocab_size": config.vocabulary_size,
        "hidden_size": config.width,
        "intermediate_size": config.mlp_width,
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
        "sliding_window": config.window,
        "use_sliding_window": config.window is not None,
        "max_window_layers": config.layers if config.window is None else 0,
        "layer_types": _layer_types(config.window, config.layers),
    }
    activation = config.activation
    for model_type, family in FAMILIES.items():
        spellings = [theirs for theirs, ours in family.activations.items() if ours == activation]
        if not spellings:
            continue
        attributes["hidden_act"] = spellings[0]
        known = {name: value for name, value in attributes.items() if name in family.defaults}
        named = {"model_type": model_type, "architectures": [family.architecture], **known}
        if describes(named | _rope_attributes(config.rope), config):
            return named
    raise CheckpointError(
        f"no supported Hugging Face architecture has this combination of switches: {config}"
    )


def _rope_attributes(rope: llama.Rope) -> dict[str, Any]:
    numbers = {
        "factor": rope.factor,
        "low_freq_factor": rope.low_frequency_factor,
        "high_freq_factor": rope.high_frequency_factor,
        "original_max_position_embeddings": rope.original_max_positions,
    }
    scaling = {name: numbers[name] for name in ROPE_NUMBERS[rope.kind]}
    # Releases that know llama3 read `rope_type`; those before it read `type` and count the keys.
    old_name = "rope_type" if rope.kind == "llama3" else "type"
    return {
        "rope_theta": rope.theta,
        "rope_scaling": {old_name: rope.kind, **scaling} if scaling else None,
        "rope_parameters": {"rope_type": rope.kind, "rope_theta": rope.theta, **scaling},
    }
