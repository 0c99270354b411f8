"""Which layers have full attention and which a sliding window, by a config.json's attributes."""

from collections.abc import Callable, Mapping

from safety_jax.models.folders.attributes import Attributes

FULL, SLIDING = "full_attention", "sliding_attention"


def _never(attributes: Attributes, layers: int) -> list[str]:
    return [FULL] * layers


def _always(attributes: Attributes, layers: int) -> list[str]:
    windowed = attributes.values["sliding_window"] is not None
    return [SLIDING if windowed else FULL] * layers


def _every_other(attributes: Attributes, layers: int) -> list[str]:
    return _periodic(layers, 2)


def _all_but_every_fourth(attributes: Attributes, layers: int) -> list[str]:
    return _periodic(layers, 4)


def _by_pattern(attributes: Attributes, layers: int) -> list[str]:
    return _periodic(layers, attributes.integer("sliding_window_pattern"))


def _periodic(layers: int, period: int) -> list[str]:
    """Every `period`-th layer has full attention, all others have the window."""
    return [SLIDING if (layer + 1) % period else FULL for layer in range(layers)]


def _qwen(attributes: Attributes, layers: int) -> list[str]:
    first = layers
    if attributes.boolean("use_sliding_window") and attributes.values["sliding_window"] is not None:
        first = min(layers, attributes.integer("max_window_layers", least=0))
    return [FULL] * first + [SLIDING] * (layers - first)


def _without_rope(attributes: Attributes, layers: int) -> list[str]:
    """The layers without rope have the window, if there is one."""
    windowed = attributes.boolean("use_sliding_window")
    windowed = windowed and attributes.values["sliding_window"] is not None
    turned = with_rope(attributes, layers)
    return [FULL if rope or not windowed else SLIDING for rope in turned]


def _hybrid(attributes: Attributes, layers: int) -> list[str]:
    """Full attention in all layers; models with state spaces or experts are refused.

    Raises:
        CheckpointError: some layers are of another kind, or there are experts.
    """
    if attributes.integer("num_local_experts", least=0):
        raise attributes.refuse("num_local_experts", "0: mixtures of experts are not supported")
    given = attributes.values["layer_types"]
    if not isinstance(given, list) or not all(kind in ("attention", FULL) for kind in given):
        raise attributes.refuse("layer_types", "attention in all layers: no state spaces")
    attributes.values["layer_types"] = [FULL] * len(given)  # the current spelling
    return [FULL] * layers


def with_rope(attributes: Attributes, layers: int) -> list[bool]:
    """Whether each layer has a rope (SmolLM3; arXiv 2501.18795)."""
    given = attributes.values.get("no_rope_layers")
    if given is None:
        interval = attributes.integer("no_rope_layer_interval")
        return [(layer + 1) % interval != 0 for layer in range(layers)]
    binary = isinstance(given, list) and all(type(x) is int and x in (0, 1) for x in given)
    if not binary or len(given) != layers:
        raise attributes.refuse("no_rope_layers", f"1 (a rope) or 0 for each of {layers} layers")
    return [bool(entry) for entry in given]


# The rules for files without `layer_types`.
WINDOWS: Mapping[str, Callable[[Attributes, int], list[str]]] = {
    "never": _never,
    "always": _always,
    "every other": _every_other,
    "by pattern": _by_pattern,
    "all but every fourth": _all_but_every_fourth,
    "without rope": _without_rope,
    "hybrid": _hybrid,
    "qwen": _qwen,
}


def layer_types(attributes: Attributes, rule: str, named: bool, layers: int) -> list[str]:
    """FULL or SLIDING for every layer.

    Args:
        rule: a name in WINDOWS.
        named: whether the family has the attribute `layer_types`.

    Raises:
        CheckpointError: `layer_types` is not such a list, or has a window that is switched off.
    """
    found = WINDOWS[rule](attributes, layers)
    given = attributes.values["layer_types"] if named else None
    if given is None or given == found:
        return found
    known = isinstance(given, list) and all(kind in (FULL, SLIDING) for kind in given)
    if not known or len(given) != layers:
        raise attributes.refuse("layer_types", f"{FULL} or {SLIDING} for each of {layers} layers")
    switched = "use_sliding_window" in attributes.values
    off = switched and not attributes.boolean("use_sliding_window")
    if off and SLIDING in given:
        raise attributes.refuse("layer_types", "no window if use_sliding_window is false")
    return given


def window(attributes: Attributes, types: list[str]) -> int | None:
    """The size of the sliding window; None if no layer has one."""
    return attributes.integer("sliding_window") if SLIDING in types else None
