"""Finds model and adapter folders and the weight files in them, and hashes these."""

import contextlib
import hashlib
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

import huggingface_hub

from safety_jax.base import files, hosts
from safety_jax.base.errors import CheckpointError, few
from safety_jax.models.folders import safetensors

ADAPTER = "adapter_config.json"
ADAPTER_WEIGHTS, PICKLED_ADAPTER = "adapter_model.safetensors", "adapter_model.bin"
ADAPTER_HINT = (
    "it is an adapter: give it as model.adapter, and the model that it belongs to as model.path"
)
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
GENERATION = "generation_config.json"
GGUF = "model.gguf"  # in a folder that `gguf_folder` made: a link to the file with the weights
EXPORT = "export"  # in the folder of a run: its model
NO_TOKENIZER = "no_tokenizer.txt"  # in such a folder: why there is no tokenizer
# Names, and a pattern: `transformers` 5 saves each template but the default one as a file.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/*.jinja",
)
TEXTS = ("vocab.txt", "merges.txt")
# Licences of this family ask that copies of the model carry them.
LICENCE_FILES = ("LICENSE*", "NOTICE*", "USE_POLICY*")
SPLIT = re.compile(r"-\d{5}-of-\d{5}\.gguf$")


# ---------------------------------------------------------------------------- finding and reading


def resolve(path_or_hub_id: str | Path, revision: str | None = None) -> Path:
    """The local folder of a model: the given folder itself, or the snapshot of a Hub repository,
    which is downloaded if necessary.

    A GGUF file is unpacked into a folder with the same model (`gguf_folder`), and so is a folder or
    repository with one GGUF file as its only weights. `ORG/NAME/FILE.gguf` is a file of a Hub
    repository.

    Args:
        revision: the branch, tag or commit of a Hub repository; None for its main branch.

    Raises:
        CheckpointError: there is no such folder or file, and no repository can be reached; or there
            are several GGUF files.
    """
    given = str(path_or_hub_id)
    if not given:
        raise CheckpointError(
            "no model is given; expected a Hugging Face folder, hub id or GGUF file"
        )
    folder = files.expand(given)
    if folder.is_dir():
        _refuse_run(folder, given)
        return _without_gguf(folder, _ggufs(folder), given)
    if folder.exists():
        if _is_gguf(folder):
            return _from_gguf(folder)
        raise CheckpointError(
            f"model {given!r} is a file; expected the folder that holds it, or a GGUF file"
        )
    match = re.fullmatch(r"(\w[\w.-]*(?:/\w[\w.-]*)?)(?:/([\w.-]+\.gguf))?", given)
    if match is None or (given.endswith(".gguf") and not match[2]):
        raise CheckpointError(
            f"model folder {given!r} does not exist; expected a Hugging Face folder, "
            "hub id or GGUF file"
        )
    repository, file = match.groups()
    try:
        if file:
            return _from_gguf(_download(repository, file, revision))
        wanted = ["*.safetensors", "*.json", "*.jinja", "*.model", *TEXTS, *LICENCE_FILES]
        # The same weights in other layouts. Only chat templates are in a folder of their own.
        copies = [f"*/{name}" for name in wanted if name != "*.jinja"] + ["consolidated*"]
        snapshot = Path(
            huggingface_hub.snapshot_download(
                repository, revision=revision, allow_patterns=wanted, ignore_patterns=copies
            )
        )
        if any(snapshot.glob("*.safetensors")):
            return snapshot
        offered = _ggufs(snapshot) or _offered(repository, revision)
        if len(offered) == 1:
            return _from_gguf(_download(repository, offered[0], revision))
    except (OSError, ValueError) as error:
        at = f" at revision {revision!r:.60}" if revision else ""
        raise CheckpointError(
            f"model {given!r}{at} is neither a folder here nor a Hub repository that can be "
            f"reached ({type(error).__name__}); check the path, or the network and the access token"
        ) from error
    return _without_gguf(snapshot, offered, given)


def _refuse_run(folder: Path, given: str) -> None:
    """Raises a CheckpointError for the folder of a run, whose config.json is the run's own."""
    own = any(folder.glob("*.safetensors")) or (folder / ADAPTER).exists()
    if not own and any((folder / EXPORT / name).is_file() for name in ("config.json", ADAPTER)):
        raise CheckpointError(
            f"model {given!r} is the folder of a run; give what the run exported, "
            f"{str(Path(given) / EXPORT)!r}"
        )


def _without_gguf(folder: Path, offered: list[str], given: str) -> Path:
    """The folder itself if it offers no GGUF file, or the unpacked folder of its only one."""
    if not offered or folder.parent == files.cache_home("gguf"):
        return folder
    if len(offered) == 1:
        return _from_gguf(folder / offered[0])
    split = [name for name in offered if SPLIT.search(name)]
    if split == offered:
        raise CheckpointError(
            f"model {given!r} is split into {len(split)} GGUF files; join them first: "
            f"llama-gguf-split --merge {split[0]} OUT.gguf"
        )
    raise CheckpointError(
        f"model {given!r} holds {len(offered)} GGUF files; name one of them: "
        f"{few([f'{given}/{name}' for name in offered], 4)}"
    )


def _ggufs(folder: Path) -> list[str]:
    """Names of a folder's GGUF files, if these are its only weights."""
    if any(folder.glob("*.safetensors")) or (folder / ADAPTER).exists():
        return []
    return sorted(file.name for file in folder.glob("*.gguf"))


def _download(repository: str, file: str, revision: str | None) -> Path:
    return Path(huggingface_hub.hf_hub_download(repository, file, revision=revision))


def _offered(repository: str, revision: str | None) -> list[str]:
    """Names of a repository's GGUF files; none if the list cannot be fetched."""
    try:
        listed = huggingface_hub.list_repo_files(repository, revision=revision)
    except (OSError, ValueError):
        return []
    return sorted(name for name in listed if name.endswith(".gguf") and "/" not in name)


def _is_gguf(file: Path) -> bool:
    """Whether a file is GGUF, by its name or its content: some programs download without names."""
    if file.suffix == ".gguf":
        return True
    try:
        files.check_regular(file)
        with open(file, "rb") as stream:
            return stream.read(4) == b"GGUF"
    except OSError:
        return False


def _from_gguf(file: Path) -> Path:
    from safety_jax.models.folders import gguf_folder  # it imports this module

    return gguf_folder.unpacked(file)


def absolute(path_or_hub_id: str) -> str:
    """A model's name that is valid from any working directory: an absolute path or a hub id."""
    folder = Path(path_or_hub_id).expanduser()
    return str(folder.absolute()) if folder.exists() else path_or_hub_id


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        CheckpointError: the file is missing, or not a JSON object.
    """
    advice = "download it again"
    try:
        return files.read_object(file, CheckpointError, advice)
    except FileNotFoundError as error:
        _refuse_broken_link(file)
        adapter = (file.parent / ADAPTER).is_file()
        hint = ADAPTER_HINT if adapter else "expected a Hugging Face folder"
        raise CheckpointError(f"{file.parent} holds no {file.name}; {hint}") from error


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder; a single file is preferred to shards, as in
    `transformers`. For a folder that was made from a GGUF file, the link to this file.

    Raises:
        CheckpointError: there are none, or the index names a file that cannot be used.
    """
    if (folder / WEIGHTS).exists():
        return [folder / WEIGHTS]
    if (folder / GGUF).is_symlink():
        return [folder / GGUF]
    if not (folder / INDEX).exists():
        _refuse_without_weights(folder)
    shards = [folder / shard for shard in sorted(set(_weight_map(folder).values()))]
    for file in shards:
        _refuse_broken_link(file)
        if not file.exists():
            raise CheckpointError(
                f"{folder / INDEX} lists {file.name}, which is missing; download it again"
            )
    return shards


def adapter_file(folder: Path) -> Path:
    """The file with an adapter's weights.

    Raises:
        CheckpointError: there is none, or only the pickled one of an early release of peft.
    """
    file = folder / ADAPTER_WEIGHTS
    _refuse_broken_link(file)
    if not file.exists():
        pickled = (folder / PICKLED_ADAPTER).exists()
        why = f"only pickled weights ({PICKLED_ADAPTER}), which can run code when opened"
        raise CheckpointError(
            f"{folder} holds {why if pickled else 'an adapter without weights'}; expected "
            f"{ADAPTER_WEIGHTS}; download it, or convert {PICKLED_ADAPTER} once with peft: "
            "PeftModel.from_pretrained(...).save_pretrained(...)"
        )
    return file


def locate(folder: Path) -> dict[str, safetensors.Tensor]:
    """Every tensor of a model folder by its Hugging Face name.

    Raises:
        CheckpointError: a file is missing or damaged, a tensor is in two files, or the index lists
            a tensor that its file does not have.
    """
    held = weight_files(folder)
    if held[0].name == GGUF:
        from safety_jax.models.folders import gguf_tensors  # its library is an extra

        return gguf_tensors.locate(Path(os.readlink(held[0])))
    tensors: dict[str, safetensors.Tensor] = {}
    for file in held:
        for name, tensor in safetensors.read_header(file).items():
            if name in tensors:
                raise CheckpointError(
                    f"{folder}: tensor {name} is in both {tensors[name].file.name} and "
                    f"{file.name}; remove the files that do not belong to this model"
                )
            tensors[name] = tensor
    if not (folder / WEIGHTS).exists():
        for name, shard in _weight_map(folder).items():
            if name not in tensors or tensors[name].file != folder / shard:
                raise CheckpointError(
                    f"{folder / INDEX} lists {name} in {shard}, which does not contain it; "
                    "index and shards do not belong together"
                )
    return tensors


def _weight_map(folder: Path) -> dict[str, str]:
    file = folder / INDEX
    weight_map = read_json(file).get("weight_map")
    names = list(weight_map.values()) if isinstance(weight_map, dict) else []
    if not names or not all(isinstance(name, str) for name in names):
        raise CheckpointError(f"{file}: expected a weight_map from tensor names to file names")
    assert isinstance(weight_map, dict)
    for shard in set(names):
        # Only the name is checked: in the Hub's cache the file is a link to a blob outside.
        path = PurePosixPath(shard)
        if path.is_absolute() or ".." in path.parts or "\\" in shard or "\0" in shard:
            raise CheckpointError(f"{file}: shard {shard!r} is outside the folder; refused")
        if path.suffix != ".safetensors":
            raise CheckpointError(f"{file}: shard {shard!r} is not a .safetensors file")
    return weight_map


def _refuse_broken_link(file: Path) -> None:
    """Raises a CheckpointError for a link to a file that is gone. All files of a snapshot in the
    Hub's cache are links, and a copy of the snapshot alone has nothing behind them."""
    if file.is_symlink() and not file.exists():
        raise CheckpointError(
            f"{file} is a link to {os.readlink(file)}, which does not exist; copy the folder with "
            "the files behind its links (cp -rL), or download it again"
        )


def _refuse_without_weights(folder: Path) -> None:
    for name in (WEIGHTS, INDEX):
        _refuse_broken_link(folder / name)
    pickled = [file.name for suffix in ("bin", "pth", "pt") for file in folder.glob(f"*.{suffix}")]
    other = [file.name for file in folder.glob("*.safetensors")]
    if pickled:
        described = read_json(folder / "config.json") if (folder / "config.json").exists() else {}
        match described.get("architectures"):
            case [str(model), *_]:
                pass
            case _:
                model = "AutoModelForCausalLM"
        raise CheckpointError(
            f"{folder} holds only pickled weights ({sorted(pickled)[0]}), which can run code when "
            f"opened; expected {WEIGHTS}; convert once with transformers: "
            f"{model}.from_pretrained(...).save_pretrained(...)"
        )
    found = f"only {sorted(other)[0]}" if other else "no weights"
    hint = f"; {ADAPTER_HINT}" if (folder / ADAPTER).is_file() else ""
    raise CheckpointError(f"{folder} holds {found}; expected {WEIGHTS} or {INDEX}{hint}")


def token_ids(folder: Path | None) -> dict[str, int | None]:
    """Ids of the special tokens in the tokenizer's files, under their names in config.json; None
    for a token that these do not have."""
    names = {f"{kind}_token_id": f"{kind}_token" for kind in ("bos", "eos", "pad")}
    if folder is None or not (folder / "tokenizer_config.json").exists():
        return dict.fromkeys(names)
    settings = read_json(folder / "tokenizer_config.json")
    ids: dict[str, int] = {}
    decoder = settings.get("added_tokens_decoder")
    for number, entry in decoder.items() if isinstance(decoder, dict) else ():
        match entry:
            case {"content": str(content)} if number.isdecimal():
                ids[content] = int(number)
    if (folder / "tokenizer.json").exists():
        added = read_json(folder / "tokenizer.json").get("added_tokens")
        for entry in added if isinstance(added, list) else ():
            match entry:
                case {"content": str(content), "id": int(number)}:
                    ids[content] = number
    found: dict[str, int | None] = {}
    for name, token in names.items():
        match settings.get(token):
            case str(content) | {"content": str(content)}:
                found[name] = ids.get(content)
            case _:
                found[name] = None
    return found


# ---------------------------------------------------------------------------- fingerprint


def fingerprint(folder: Path) -> str:
    """sha256 (hex) over names and contents of a folder's weight files: a model, an adapter or both.

    Hashing reads every byte once, with one thread per file: at 1 to 2 GB/s each on processors with
    SHA instructions, and a tenth of that on others. Digests are cached in the user's cache folder
    by path, size and modification time.

    Raises:
        CheckpointError: a weight file is missing.
    """
    # A folder may contain both a model and an adapter, and be used as either.
    model = (folder / WEIGHTS).exists() or (folder / INDEX).exists()
    adapter = (folder / ADAPTER).is_file() and not model
    held = [adapter_file(folder)] if adapter or (folder / ADAPTER_WEIGHTS).is_file() else []
    if model or not held:
        held += weight_files(folder)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        digests = list(pool.map(_digest, held))
    lines = [f"{digest}  {file.name}\n" for digest, file in zip(digests, held, strict=True)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def shared_fingerprint(folder: Path) -> str:
    """`fingerprint`, which one process computes for all. Every process must call this."""
    return hosts.first_says(lambda: fingerprint(folder))


def _digest(file: Path) -> str:
    try:
        files.check_regular(file)
        status = file.stat()
        key = f"{file.resolve()}\n{status.st_size}\n{status.st_mtime_ns}"
        kept = files.cache_home("fingerprints") / hashlib.sha256(key.encode()).hexdigest()
        if kept.exists() and re.fullmatch(r"[0-9a-f]{64}", text := kept.read_text()):
            return text
        digest = files.sha256(file)
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read ({error.strerror})") from error
    with contextlib.suppress(OSError):  # a cache that cannot be written costs time, not the run
        kept.parent.mkdir(parents=True, exist_ok=True)
        partial = kept.with_suffix(f".{os.getpid()}")
        partial.write_text(digest)
        partial.replace(kept)
    return digest
