"""Writes a run's own files, whole or line by line, and reads files of others with care."""

import contextlib
import errno
import hashlib
import json
import os
import re
import stat
import tempfile
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from safety_jax.base import mistaken
from safety_jax.base.errors import ConfigError, DataError, UserError

PART = ".part"  # the end of the name of a file that is being written
JSON_BYTES = 256 << 20  # the largest JSON document; the largest tokenizer.json has 40 MB

T = TypeVar("T")


def cache_home(name: str) -> Path:
    """The user's folder for files that can be computed again, such as compiled programs; it may not
    exist."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(home):  # the XDG specification says to ignore a relative one
        return Path(home) / "safety_jax" / name
    try:
        return Path.home() / ".cache" / "safety_jax" / name
    except RuntimeError:  # a user without a home, as in some containers
        return Path(tempfile.gettempdir()) / f"safety_jax-{os.getuid()}" / name


def file_name(name: str, ending: str = "") -> str:
    """A safe file name for any text: it is in the same folder, not hidden and not too long.

    `gpt/4 new` becomes `gpt%2F4 new`, and `..` becomes `%2E.`.
    """
    quoted = urllib.parse.quote(name, safe=" +", errors="surrogatepass")
    if quoted.startswith("."):
        quoted = f"%2E{quoted[1:]}"
    if len(quoted) + len(ending) > _LONGEST_NAME - len(PART):
        digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        quoted = f"{quoted[:150]}-{digest}"
    return quoted + ending


# ---------------------------------------------------------------------------- written whole


def write(path: Path, content: str | bytes) -> None:
    """Writes a file whole or not at all: after a kill it has the old content or the new one."""
    part = path.with_name(path.name + PART)
    data = content.encode() if isinstance(content, str) else content
    with writing(path):
        try:
            with open(part, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                part.unlink()  # on a full disk, this room is needed
            raise


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Gives an OSError of the block the name of the file that it writes: the system names a file
    that cannot be opened, but not one that cannot grow."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def canonical(value: Any) -> str:
    """JSON with sorted keys, for files that will be compared."""
    return json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"


def line(row: Mapping[str, Any]) -> bytes:
    """A line of a JSON lines file. Lone surrogates, which models may write, are preserved."""
    text = json.dumps(row, ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "surrogatepass") + b"\n"


# ---------------------------------------------------------------------------- appended


class Lines:
    """A file of JSON lines that grows at its end: a kill loses at most the rows being written.

    The rest after the last line break is ignored, because a kill cut it short.

    Args:
        path: the file; it and its folder need not exist yet.
        writes: whether this process writes; exactly one process of a run does.
        remedy: what to do about a damaged line; the end of the message.
    """

    def __init__(self, path: Path, *, writes: bool, remedy: str):
        self.path, self._writes, self._remedy = path, writes, remedy
        self._ends: list[int] = []  # the byte offset after each line read

    def read(self, parse: Callable[[dict[str, Any]], T]) -> list[T]:
        """The results of `parse` for all lines of the file; an empty list without a file.

        Raises:
            DataError: a whole line is not a JSON object, or not what `parse` expects.
        """
        try:
            content = read_bytes(self.path, most=None)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read ({reason(error)})") from error
        found, end = [], 0
        for number, text in enumerate(content.split(b"\n")[:-1], start=1):
            end += len(text) + 1
            if not text.strip():
                continue
            try:
                row = parse_json(text.decode("utf-8", "surrogatepass"))
                if not isinstance(row, dict):
                    raise TypeError
                found.append(parse(row))
            except (ValueError, LookupError, TypeError, AttributeError) as error:
                raise DataError(
                    f"{self.path} line {number} is damaged ({type(error).__name__}); {self._remedy}"
                ) from error
            self._ends.append(end)
        if self._writes and end < len(content):
            os.truncate(self.path, end)
        return found

    def keep(self, count: int) -> None:
        """Removes all lines after the first `count` that were read."""
        if self._writes and count < len(self._ends):
            os.truncate(self.path, self._ends[count - 1] if count else 0)
        del self._ends[count:]

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Adds rows; they are on disk when this returns."""
        lines = [line(row) for row in rows]
        if self._writes and lines:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with writing(self.path), open(self.path, "ab") as file:
                file.write(b"".join(lines))
                file.flush()
                os.fsync(file.fileno())


# ---------------------------------------------------------------------------- of others


def expand(path: str | Path) -> Path:
    """A path from a user, in which `~` is the user's home, and `~name` that of another user.

    Raises:
        ConfigError: there is no such user, the name is too long for a disk, or it is a URL, which
            would become a folder `gs:`.
    """
    if scheme := re.match(r"([A-Za-z][\w+.-]+):/", str(path)):  # a Path has lost the second slash
        mount = _MOUNTS.get(scheme[1].lower())
        hint = f"mount the bucket ({mount}), and give the mount's path" if mount else "copy it"
        raise ConfigError(f"{path} is a URL; expected a path on a disk: {hint}")
    try:
        found = Path(path).expanduser()
    except RuntimeError as error:
        raise ConfigError(
            f"{path}: no user has the home {Path(path).parts[0]}; expected a path"
        ) from error
    try:
        names = [len(os.fsencode(part)) for part in found.parts]
    except UnicodeEncodeError as error:  # JSON can hold a lone surrogate
        raise ConfigError(f"{str(path)!a:.60}: not in UTF-8; expected a path") from error
    if max(names, default=0) > _LONGEST_NAME or sum(names) + len(names) > _LONGEST_PATH:
        raise ConfigError(f"{str(path):.60}...: too long for a path; expected a path")
    return found


_LONGEST_NAME = 255  # bytes
_LONGEST_PATH = 4096 - 1024  # bytes; there is room for files below it
# A checkpoint is written in a folder that is then renamed. By default gcsfuse does not rename the
# folders of a flat bucket; mount-s3 never does.
_MOUNTS = {
    "gs": "gcsfuse --rename-dir-limit=100000",
    "s3": "mount-s3, to read from it",
    "az": "blobfuse2",
    "abfs": "blobfuse2",
}


def check_regular(path: Path) -> None:
    """Raises an OSError unless the path is a file (or a link to one): opening a pipe would block
    until somebody writes to it, and reading a device may never end."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        kind = errno.EISDIR if path.is_dir() else errno.EINVAL
        raise OSError(kind, "a folder" if kind == errno.EISDIR else "not a regular file", str(path))


def sha256(path: Path) -> str:
    """The hash (hex) of a file of any size."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_bytes(path: Path, most: int | None) -> bytes:
    """The content of a regular file.

    Args:
        most: the largest size in bytes; None for a file that this program wrote.

    Raises:
        OSError: it cannot be read, is not a regular file, or is larger.
    """
    check_regular(path)
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if most is not None and size > most:
            raise OSError(errno.EFBIG, f"larger than {most >> 20} MiB", str(path))
        return file.read()


def parse_json(data: bytes | str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is not JSON, not UTF-8, or nested too deeply for Python.
    """
    try:
        return json.loads(data.decode("utf-8-sig") if isinstance(data, bytes) else data)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def read_object(path: Path, raises: type[UserError], advice: str) -> dict[str, Any]:
    """The JSON object in a file.

    Args:
        raises: the error for a file that exists but cannot be used.
        advice: what to do about it; the end of the message.

    Raises:
        FileNotFoundError: there is no such file.
    """
    try:
        value = parse_json(read_bytes(path, JSON_BYTES))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise raises(f"{path}: cannot be read ({reason(error)}); {advice}") from error
    except ValueError as error:
        if what := mistaken.look(path):
            raise raises(f"{path}: {what}") from error
        raise raises(f"{path}: not valid JSON ({error}); {advice}") from error
    if not isinstance(value, dict):
        found = type(value).__name__
        raise raises(f"{path}: expected a JSON object, found {found}; {advice}")
    return value


def reason(error: OSError) -> str:
    """The system's description of an error, without number and path."""
    return error.strerror or str(error)
