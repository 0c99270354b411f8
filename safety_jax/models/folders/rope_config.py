"""Converts the rotary settings of a config.json to `rotary.Rope` and back, in both spellings.

Before transformers 5, files had `rope_theta` and `rope_scaling`; since then, `rope_parameters`. If
layers with a window have their own rope (Gemma 3, OLMo 3), `rope_parameters` is nested by layer
type. In the old spelling, the `rope_scaling` of such a model applies to layers with full attention.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from safety_jax.base.errors import CheckpointError
from safety_jax.models import llama
from safety_jax.models.folders.attributes import Attributes, is_number
from safety_jax.models.folders.families import LOCAL_THETA, Family
from safety_jax.models.folders.layer_kinds import FULL, SLIDING
from safety_jax.models.rotary import Rope

ORIGINAL, PART = "original_max_position_embeddings", "partial_rotary_factor"
# The numbers that each kind needs, and those that it may have, by their names in files.
NEEDED: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", ORIGINAL),
    "yarn": ("factor", ORIGINAL),
    "longrope": (ORIGINAL,),
}
OPTIONAL: dict[str, tuple[str, ...]] = {
    "yarn": ("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"),
    "longrope": ("attention_factor", "factor"),
}
LISTS: dict[str, tuple[str, ...]] = {"longrope": ("short_factor", "long_factor")}
QUERY_BETA = "llama_4_scaling_beta"  # scales queries by position; in Ministral 3's rope settings


def read_ropes(
    attributes: Attributes, given: Mapping[str, Any], family: Family, head_size: int
) -> tuple[dict[str, Rope], int]:
    """The rope of each type of layer, and how many dimensions of a head are rotated.

    Args:
        given: the attributes in the file, without defaults.

    Raises:
        CheckpointError: settings are not supported, or the two spellings disagree.
    """
    where = attributes.where
    scaling, parameters = given.get("rope_scaling") or {}, given.get("rope_parameters") or {}
    for values in (scaling, parameters):
        if not isinstance(values, dict):
            raise CheckpointError(
                f"{where}: rope settings {f'{values!r}'[:60]}; expected an object"
            )
    if not scaling and not parameters:
        parameters = family.rope
    reader = _Reader(attributes, family, head_size)
    theta = given.get("rope_theta")
    theta = family.rope_theta if theta is None else theta
    if family.local_theta is None:
        found = [
            dict.fromkeys((FULL, SLIDING), reader.read(values, theta))
            for values in (scaling, parameters)
            if values
        ] or [dict.fromkeys((FULL, SLIDING), reader.read({}, theta))]
    else:
        local = given.get(LOCAL_THETA) if LOCAL_THETA in family.defaults else None
        local = local or family.local_theta
        found = []
        if parameters:
            extra = sorted(map(str, parameters.keys() - {FULL, SLIDING}))
            if extra:
                raise CheckpointError(
                    f"{where}: rope_parameters has {', '.join(extra)[:100]}; expected settings "
                    f"for {FULL} and {SLIDING}"
                )
            of_full, of_sliding = (parameters.get(kind) or {} for kind in (FULL, SLIDING))
            found += [{FULL: reader.read(of_full, theta), SLIDING: reader.read(of_sliding, local)}]
        if scaling and "rope_type" not in scaling:
            raise CheckpointError(
                f"{where}: rope_scaling without rope_type, which transformers does not apply; add "
                "rope_type"
            )
        if scaling or not parameters:
            found += [{FULL: reader.read(scaling, theta), SLIDING: reader.read({}, local)}]
    if len(found) == 2 and found[0] != found[1]:
        raise CheckpointError(
            f"{where}: rope_scaling and rope_parameters disagree; keep the one that is right"
        )
    return found[0], reader.rotary_size(parameters.get(PART, scaling.get(PART)))


class _Reader:
    """Reads one object of rotary settings."""

    def __init__(self, attributes: Attributes, family: Family, head_size: int):
        self.where, self.family = attributes.where, family
        self.max_positions = attributes.integer("max_position_embeddings")
        self.head_size = head_size
        self.outer_part = attributes.values.get(PART) if PART in family.defaults else None
        self.outer_original = None
        if ORIGINAL in family.defaults:  # Phi-3's is outside the rope settings and has precedence
            self.outer_original = attributes.integer(ORIGINAL)

    def rotary_size(self, inner: Any) -> int:
        """How many dimensions of a head are rotated.

        Raises:
            CheckpointError: the share is not valid, or the family rotates whole heads only.
        """
        share = inner if inner is not None else self.outer_part
        share = 1.0 if share is None else share
        known = PART in self.family.defaults or share == 1.0
        if not is_number(share) or not 0 < share <= 1 or not known:
            raise CheckpointError(
                f"{self.where}: rope settings: {PART} is {f'{share!r}'[:60]}; expected "
                f"{'a share of a head' if PART in self.family.defaults else 'nothing else than 1'}"
            )
        size = int(self.head_size * share)
        if size < 2 or size % 2:
            raise CheckpointError(
                f"{self.where}: {PART} {share} of heads of {self.head_size} dimensions rotates "
                f"{size}; expected an even number"
            )
        return size

    def read(self, values: Any, theta: Any) -> Rope:
        """The rope of these settings; `theta` is the default if they have none."""
        if not isinstance(values, dict):
            raise self._refused(values, "an object")
        kind = values.get("rope_type", values.get("type", "default"))
        # Phi-3's first files have these names.
        if self.family.files == "phi3" and kind in ("su", "yarn"):
            kind = "longrope"
        if not isinstance(kind, str) or kind not in NEEDED:
            raise CheckpointError(
                f"{self.where}: rope type {f'{kind!r}'[:60]} is not supported; expected "
                f"{', '.join(NEEDED)}"
            )
        # `transformers` lets the inner theta win over the outer one.
        numbers: dict[str, Any] = {"rope_theta": theta, ORIGINAL: self.max_positions} | values
        if self.outer_original is not None:
            numbers[ORIGINAL] = self.outer_original
        if numbers.get("factor") is None and "factor" in (*NEEDED[kind], *OPTIONAL.get(kind, ())):
            original = numbers[ORIGINAL]
            if kind in ("yarn", "longrope") and is_number(original) and original > 0:
                numbers["factor"] = self.max_positions / original
        self._check(kind, values, numbers)
        rope = _of_numbers(kind, numbers, self.max_positions)
        beta = values.get(QUERY_BETA) or 0.0
        return dataclasses.replace(rope, query_beta=float(beta)) if beta else rope

    def _check(self, kind: str, values: Mapping[str, Any], numbers: Mapping[str, Any]) -> None:
        needed, optional = ("rope_theta", *NEEDED[kind]), OPTIONAL.get(kind, ())
        lists = LISTS.get(kind, ())
        ignored = {"rope_type", "type", PART}
        if self.outer_original is not None:
            ignored |= {ORIGINAL}
        if QUERY_BETA in self.family.rope:
            optional += (QUERY_BETA,)
            ignored |= {"max_position_embeddings", ORIGINAL}
        extra = [name for name in values if name not in {*ignored, *needed, *optional, *lists}]
        wrong = [name for name in needed if not is_number(numbers.get(name)) or numbers[name] <= 0]
        for name in optional:
            value = numbers.get(name)
            sound = value is None or isinstance(value, bool) or (is_number(value) and value >= 0)
            if not sound:
                wrong.append(name)
        # Formulas divide by the logarithms of both.
        wrong += ["rope_theta"] * (kind == "yarn" and not wrong and numbers["rope_theta"] <= 1)
        wrong += [ORIGINAL] * (kind == "longrope" and not wrong and numbers[ORIGINAL] <= 1)
        for name in lists:
            value = numbers.get(name)
            if not isinstance(value, list) or not all(is_number(x) and x > 0 for x in value):
                wrong.append(name)
        if extra or wrong:
            named = ", ".join((*needed, *lists, *optional))
            shown = {"rope_theta": numbers["rope_theta"]} if "rope_theta" in wrong else {}
            raise CheckpointError(
                f"{self.where}: rope settings {f'{shown | dict(values)!r}'[:200]}: for type {kind} "
                f"expected {named}, nothing else"
            )
        for name in lists:
            if len(numbers[name]) != self.rotary_size(values.get(PART)) // 2:
                raise self._refused(
                    values, f"{name} with one number for each pair of rotated dimensions"
                )

    def _refused(self, values: Any, expected: str) -> CheckpointError:
        return CheckpointError(
            f"{self.where}: rope settings {f'{values!r}'[:200]}; expected {expected}"
        )


def _of_numbers(kind: str, numbers: Mapping[str, Any], max_positions: int) -> Rope:
    plain = Rope(float(numbers["rope_theta"]), kind)
    if kind == "default":
        return plain
    changes: dict[str, Any] = {"factor": float(numbers["factor"])}
    if kind == "dynamic":
        changes |= {"original_max_positions": max_positions}
    elif kind != "linear":
        changes |= {"original_max_positions": int(numbers[ORIGINAL])}
    if kind == "llama3":
        changes |= {"low_frequency_factor": float(numbers["low_freq_factor"])}
        changes |= {"high_frequency_factor": float(numbers["high_freq_factor"])}
    if kind == "yarn":
        changes |= {"magnitude": _yarn_magnitude(numbers)}
        changes |= {"beta_fast": float(numbers.get("beta_fast") or 32)}
        changes |= {"beta_slow": float(numbers.get("beta_slow") or 1)}
        changes |= {"truncate": bool(numbers.get("truncate", True))}
    if kind == "longrope":
        changes |= {"magnitude": _longrope_magnitude(numbers)}
        changes |= {"short_factors": tuple(map(float, numbers["short_factor"]))}
        changes |= {"long_factors": tuple(map(float, numbers["long_factor"]))}
    return Rope(plain.theta, kind, **changes)


def _longrope_magnitude(numbers: Mapping[str, Any]) -> float:
    """The factor of cosine and sine: the file's, or by the formula of arXiv 2402.13753."""
    if numbers.get("attention_factor") is not None:
        return float(numbers["attention_factor"])
    factor, original = numbers["factor"], numbers[ORIGINAL]
    return 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))


def _yarn_magnitude(numbers: Mapping[str, Any]) -> float:
    """The factor of cosine and sine: the file's, or by the paper's formula (arXiv 2309.00071,
    equation 22), or DeepSeek's quotient of two such formulas."""
    if numbers.get("attention_factor") is not None:
        return float(numbers["attention_factor"])
    factor, over, under = numbers["factor"], numbers.get("mscale"), numbers.get("mscale_all_dim")

    def formula(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    return formula(over) / formula(under) if over and under else formula(1.0)


# ---------------------------------------------------------------------------- writing


def rope_attributes(
    ropes: Mapping[str, Rope], config: llama.LlamaConfig, family: Family
) -> dict[str, Any]:
    """The attributes of `ropes` (see `read_ropes`) in both spellings."""
    full = ropes[FULL]
    scaling = _written(full)
    # Releases that know llama3 read `rope_type`; older ones read `type`, and refuse more keys.
    newer = full.kind == "llama3" or family.local_theta is not None
    old_name = "rope_type" if newer else "type"
    part = {PART: config.rotary_size / config.head_size} if PART in family.defaults else {}
    found: dict[str, Any] = {
        "rope_theta": full.theta,
        "rope_scaling": {old_name: full.kind, **_older(full, config, family)} if scaling else None,
        "rope_parameters": _parameters(full) | part,
        **part,  # beside `rope_scaling`, which takes precedence but does not contain it
    }
    if family.local_theta is not None:
        by_type = {kind: _parameters(ropes[kind]) for kind in (FULL, SLIDING)}
        found |= {"rope_parameters": by_type}
        if LOCAL_THETA in family.defaults:
            found |= {LOCAL_THETA: ropes[SLIDING].theta}
        elif ropes[SLIDING].theta != family.local_theta:  # the old spelling cannot express this
            found |= {"rope_scaling": None}
    return found


def _older(rope: Rope, config: llama.LlamaConfig, family: Family) -> dict[str, Any]:
    """The numbers of `rope_scaling`. Until transformers 5, Phi-3's configuration refused all but
    the lists; the others are written only if they do not follow from the positions."""
    numbers = _written(rope)
    if family.files != "phi3" or rope.kind != "longrope":
        return numbers
    ratio = {"factor": config.max_positions / rope.original_max_positions}
    follows = _longrope_magnitude(ratio | {ORIGINAL: rope.original_max_positions})
    if (rope.factor, rope.magnitude) != (ratio["factor"], follows):
        return numbers
    return {name: numbers[name] for name in LISTS[rope.kind]}


def _parameters(rope: Rope) -> dict[str, Any]:
    return {"rope_type": rope.kind, "rope_theta": rope.theta, **_written(rope)}


def _written(rope: Rope) -> dict[str, Any]:
    values = {
        "factor": rope.factor,
        "low_freq_factor": rope.low_frequency_factor,
        "high_freq_factor": rope.high_frequency_factor,
        ORIGINAL: rope.original_max_positions,
        "attention_factor": rope.magnitude,
        "beta_fast": rope.beta_fast,
        "beta_slow": rope.beta_slow,
        "short_factor": list(rope.short_factors),
        "long_factor": list(rope.long_factors),
    }
    named = (*NEEDED[rope.kind], *LISTS.get(rope.kind, ()), *OPTIONAL.get(rope.kind, ()))
    found: dict[str, Any] = {name: values[name] for name in named if name in values}
    found |= {} if rope.truncate else {"truncate": False}
    return found | ({QUERY_BETA: rope.query_beta} if rope.query_beta else {})
