"""Writes the names of classes in place of their numbers, as data sets of the library `datasets` and
of TFDS store them: `label: 1` may mean "safe" as well as "unsafe".

A Parquet or Arrow file that `datasets` wrote has the names in the metadata of its schema.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

Names = Mapping[str, Sequence[str]]
"""Column -> the names of its classes, in the order of their numbers."""


def of_features(features: Any) -> Names:
    """The class names in `datasets.Features.to_dict()`; columns without any are left out."""
    found: dict[str, Sequence[str]] = {}
    for column, feature in features.items() if isinstance(features, Mapping) else ():
        inner = feature.get("feature", feature) if isinstance(feature, Mapping) else None
        if not isinstance(inner, Mapping) or inner.get("_type") != "ClassLabel":
            continue
        names = inner.get("names")
        if names is not None and all(isinstance(name, str) for name in names):
            found[column] = names
    return found


def of_schema(metadata: Mapping[bytes, bytes] | None) -> Names:
    """The class names in the metadata of an Arrow schema; none where `datasets` wrote none."""
    try:
        return of_features(json.loads((metadata or {})[b"huggingface"])["info"]["features"])
    except (KeyError, TypeError, ValueError, RecursionError):
        return {}


def named(row: Mapping[str, Any], classes: Names) -> Mapping[str, Any]:
    """A row with names in place of numbers; -1, a missing label, becomes None."""
    if not classes:
        return row
    return {
        column: _named(value, classes[column]) if column in classes else value
        for column, value in row.items()
    }


def _named(value: Any, names: Sequence[str]) -> Any:
    if hasattr(value, "tolist"):  # numpy's, from TFDS
        value = value.tolist()
    if isinstance(value, list):
        return [_named(item, names) for item in value]
    if isinstance(value, bool) or not isinstance(value, int):
        return value
    return names[value] if 0 <= value < len(names) else None if value == -1 else value
