"""Opens data sets through libraries: `hf:` Hugging Face's datasets, `tfds:` TensorFlow Datasets.

Pictures and sounds are never decoded: they stay files inside their rows (`values.is_file`), which
`attachments.py` refuses.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safety_jax.base import files
from safety_jax.base.errors import ConfigError, DataError
from safety_jax.data import class_labels, readers, values
from safety_jax.data.source_spec import SourceSpec
from safety_jax.data.text_files import PlacedRow

# Files that `save_to_disk` writes for several splits, and for one.
_SAVED = ("dataset_dict.json", "state.json")
# Files that the library writes beside the data, and a card, which may say which files to read.
_ABOUT = ("config.json", "dataset_info.json", "dataset_infos.json")
_CARD = "README.md"


def open_hub(asked: SourceSpec, key: str) -> tuple[str, list[PlacedRow]]:
    """The name and the rows of `hf:NAME:SPLIT` or `hf:NAME:CONFIG:SPLIT`.

    Raises:
        ConfigError: it cannot be loaded, or is a folder that the library would read only in part.
        DataError: it has a value that no row can hold.
    """
    _no_hash(asked, key)
    import datasets

    name, config, split = _name_config_split(asked.location, key)
    name = str(files.expand(name)) if name.startswith("~") else name
    try:
        if any((Path(name) / mark).is_file() for mark in _SAVED):
            dataset = _saved(name, config, split)
        else:
            _check_one_kind(Path(name), asked.location, key)
            dataset = datasets.load_dataset(name, config, split=split)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise ConfigError(
            f"{asked.location}: cannot be loaded ({error}); mend name, config or split, or "
            f"download the data and set {key} to a file"
        ) from error
    classes = class_labels.of_features(dataset.features.to_dict())
    return Path(name).name, _placed(_undecoded(dataset), asked, classes)


def _undecoded(dataset: Any) -> Iterable[Any]:
    """The rows of a data set, without decoding pictures and sounds."""
    import datasets

    def stored(feature: Any) -> Any:
        if isinstance(feature, dict):
            return {name: stored(inner) for name, inner in feature.items()}
        if isinstance(feature, datasets.LargeList):
            return datasets.LargeList(stored(feature.feature))
        if isinstance(feature, datasets.List):
            return datasets.List(stored(feature.feature), length=feature.length)
        if isinstance(feature, datasets.Json) or not hasattr(feature, "decode"):
            return feature
        return dataclasses.replace(feature, decode=False)

    features = datasets.Features(stored(dict(dataset.features)))
    if features == dataset.features:
        return dataset
    return dataset.to_iterable_dataset().cast(features)


def _check_one_kind(folder: Path, location: str, key: str) -> None:
    """Raises a ConfigError for a folder with data files of several kinds, because the library reads
    those of the commonest kind and silently ignores the others."""
    if not folder.is_dir() or _says_what_is_read(folder / _CARD):
        return
    kinds: Counter[str] = Counter()
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith((".", "__")) for part in path.relative_to(folder).parts)
        if not hidden and path.name not in _ABOUT and path.is_file():
            kinds.update(_kind(path.name))
    if len(kinds) > 1:
        listed = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common())
        raise ConfigError(
            f"{key}: {location}: the folder holds files of several kinds ({listed}), of which the "
            f"library datasets reads one alone; name each file with a flag of its own, or let "
            f"{_CARD} say what is read"
        )


def _says_what_is_read(card: Path) -> bool:
    return card.is_file() and b"data_files" in card.read_bytes()


def _kind(name: str) -> list[str]:
    """The kind of a file of rows, the same for JSON and JSON lines; empty for other files."""
    ending = next((end for end in readers.COLUMN_ENDINGS if name.lower().endswith(end)), None)
    if ending is None:
        return []
    kind = "." + ending.split(".")[1]
    return [".json" if kind in (".jsonl", ".ndjson") else kind]


def _saved(folder: str, config: str | None, split: str) -> Any:
    """A split of a data set that `save_to_disk` wrote.

    Raises:
        ValueError: it has no such split, or a config is asked for.
        OSError, ValueError, DatasetsError: it cannot be read.
    """
    import datasets

    found = datasets.load_from_disk(folder)
    if not isinstance(found, datasets.DatasetDict):
        found = {str(found.split or "train"): found}
    sizes = {name: part.num_rows for name, part in found.items()}
    try:
        pieces = datasets.ReadInstruction.from_spec(split).to_absolute(sizes)
    except (ValueError, AssertionError):  # also a split that is not there
        pieces = []
    if config is not None or not pieces:
        raise ValueError(
            f"save_to_disk wrote it with the splits {', '.join(found)}, without a config"
        )
    return datasets.concatenate_datasets(
        [found[one.splitname].select(range(one.from_, one.to)) for one in pieces]
    )


def open_tfds(asked: SourceSpec, key: str) -> tuple[str, list[PlacedRow]]:
    """The name and the rows of `tfds:NAME:SPLIT` or `tfds:NAME:VERSION:SPLIT`.

    Raises:
        ConfigError: it cannot be loaded.
        DataError: a value that no row can hold.
    """
    _no_hash(asked, key)
    import tensorflow_datasets as tfds

    # A TFDS name may hold a version after a colon: `imdb_reviews/plain_text:1.0.0`.
    name, config, split = _name_config_split(asked.location, key)
    name = f"{name}:{config}" if config else name
    try:
        dataset = tfds.data_source(name, split=split)
        rows = list(dataset)
    except (OSError, ValueError, LookupError, ImportError, RuntimeError, AssertionError) as error:
        # TFDS lists all data sets in its message, whose beginning says enough.
        raise ConfigError(
            f"{asked.location}: cannot be loaded ({str(error):.200}); prepare the data set with "
            f"file_format=array_record, or set {key} to a file"
        ) from error
    classes = {
        column: feature.names
        for column, feature in dataset.dataset_info.features.items()
        if isinstance(feature, tfds.features.ClassLabel)
    }
    return name.split("/")[0], _placed(rows, asked, classes)


def _no_hash(asked: SourceSpec, key: str) -> None:
    if asked.sha256 is not None:
        raise ConfigError(f"{key}: {asked.location}: sha256= is of one file; expected none here")


def _placed(rows: Iterable[Any], asked: SourceSpec, classes: class_labels.Names) -> list[PlacedRow]:
    found = []
    for i, row in enumerate(rows):
        where = f"{asked.location} row {i}"
        try:
            found.append((where, values.plain(class_labels.named(row, classes), asked.errors)))
        except values.BadValue as error:
            raise DataError(f"{where}: {error}; mend the data set") from error
    return found


def _name_config_split(location: str, key: str) -> tuple[str, str | None, str]:
    """`hf:NAME:CONFIG:SPLIT` -> its three parts; CONFIG may be absent, a split be `train[:9]`."""
    kind, *parts = re.split(r":(?![^\[]*\])", location)
    if len(parts) not in (2, 3) or not all(parts):
        raise ConfigError(
            f"{key}: {location}: expected {kind}:NAME:SPLIT or {kind}:NAME:CONFIG:SPLIT"
        )
    return parts[0], parts[1] if len(parts) == 3 else None, parts[-1]
