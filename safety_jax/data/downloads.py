"""Fetches files behind URLs once, and keeps them whole or not at all.

A file is written beside its place in the cache, and moved there once it is complete: it has as many
bytes as the server announced, and the hash that the user gave. If a server breaks off, it is asked
again. A silent or slow server is given up within a time that does not depend on it.
"""

import base64
import gzip
import hashlib
import http.client
import os
import queue
import shutil
import socket
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import IO

import safety_jax
from safety_jax.base import files, redaction, terminal
from safety_jax.base.errors import ConfigError

ATTEMPTS = 3
PAUSE_SECONDS = 1.0  # before the second attempt; twice as long before the third
# A server that sends fewer bytes in so many seconds is given up.
STALL_SECONDS, STALL_BYTES = 30.0, 30 << 10
TOLD_SECONDS = 5.0  # between lines of progress
_PIECE = 1 << 16
_SPARE_DISK = 1 << 30  # bytes of the disk that a download must leave free


class _Again(Exception):
    """A failure that may not happen again."""


def fetch(url: str, key: str, sha256: str | None = None) -> Path:
    """The local copy of the file behind a URL, in the download cache of the datasets library.

    Args:
        url: http or https; `user:password@` in front of the host becomes basic authorization.
        key: the config key that led here, for messages.
        sha256: the hash that the file must have, in hexadecimal digits.

    Raises:
        ConfigError: the file cannot be fetched completely.
    """
    # Imported here because it takes a second to load, and most sources do not need it.
    import datasets

    folder = Path(datasets.config.DOWNLOADED_DATASETS_PATH)
    # The version of what this module guarantees about files in the cache; 2: they are complete.
    path = folder / f"safety_jax-2-{hashlib.sha256(url.encode()).hexdigest()}"
    if path.exists() and (sha256 is None or files.sha256(path) == sha256):
        return path
    # Several hosts may share the folder, so each writes a file of its own and moves it in place.
    partial = path.with_name(f"{path.name}.{socket.gethostname()}-{os.getpid()}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _fetch(_request(url), partial)
        if sha256 is not None and (found := files.sha256(partial)) != sha256:
            raise ValueError(f"its sha256 is {found}, not {sha256}")
        partial.replace(path)
    except (OSError, http.client.HTTPException, ValueError, _Again) as error:
        raise ConfigError(
            f"{redaction.public(url)}: cannot be fetched ({error}); download the file and set "
            f"{key} to its path"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return path


def forget(path: Path) -> None:
    """Removes an unreadable copy from the cache, so that the next run fetches the file again."""
    path.unlink(missing_ok=True)


def _request(url: str) -> urllib.request.Request:
    """The request for a URL; raises a ValueError if it is not one."""
    parts = urllib.parse.urlsplit(url)
    if not parts.hostname:
        raise ValueError("it names no host")
    _ = parts.port  # must be a number
    quoted = {
        "netloc": parts.netloc.rpartition("@")[2],
        "path": urllib.parse.quote(parts.path, safe=_AS_IT_IS),
        "query": urllib.parse.quote(parts.query, safe=_AS_IT_IS),
        "fragment": "",
    }
    request = urllib.request.Request(
        urllib.parse.urlunsplit(parts._replace(**quoted)),
        # Asks for uncompressed bytes, whose number is the announced length.
        headers={
            "Accept-Encoding": "identity",
            "User-Agent": f"safety_jax/{safety_jax.__version__}",
        },
    )
    if parts.username is not None:
        user, password = map(urllib.parse.unquote, (parts.username, parts.password or ""))
        word = base64.b64encode(f"{user}:{password}".encode()).decode()
        # "Unredirected": not sent to other servers that this one redirects to.
        request.add_unredirected_header("Authorization", f"Basic {word}")
    return request


_AS_IT_IS = "%/:=&?~+!$,;'@()*[]"  # characters to leave as they are in a path or query


def _fetch(request: urllib.request.Request, partial: Path) -> None:
    for attempt in range(ATTEMPTS):
        try:
            return _Transfer(request, partial).run()
        except _Again as error:
            if attempt + 1 == ATTEMPTS:
                raise
            pause = PAUSE_SECONDS * 2**attempt
            _say(request, f"{error}; asking again in {pause:g} s")
            time.sleep(pause)


class _Transfer:
    """One attempt: another thread receives, while this one watches the time.

    A socket's own timeout only limits silence, and each byte of an answer's headers restarts it.
    """

    def __init__(self, request: urllib.request.Request, partial: Path):
        self._request, self._partial = request, partial
        self._received, self._expected = 0, 0  # bytes; 0 if the server does not announce them
        self._stop = threading.Event()
        self._end: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

    def run(self) -> None:
        """Raises _Again or an OSError, HTTPException or ValueError."""
        # A daemon, because a thread that waits for a socket must not keep the process alive.
        threading.Thread(target=self._receive, daemon=True).start()
        seen, since, told = 0, time.monotonic(), time.monotonic()
        while True:
            try:
                error = self._end.get(timeout=0.1)
            except queue.Empty:
                error = None
            else:
                if error is None:
                    return
                raise error
            now = time.monotonic()
            if now - told > TOLD_SECONDS:
                told = now
                _say(self._request, self._progress())
            if now - since > STALL_SECONDS:
                if self._received - seen < STALL_BYTES:
                    self._stop.set()
                    raise OSError(
                        f"{self._received - seen:,} bytes came in {STALL_SECONDS:g} seconds"
                    )
                seen, since = self._received, now

    def _progress(self) -> str:
        whole = f" of {self._expected / 1e6:,.1f}" if self._expected else ""
        return f"{self._received / 1e6:,.1f}{whole} MB so far"

    def _receive(self) -> None:
        try:
            with urllib.request.urlopen(self._request, timeout=STALL_SECONDS) as reply:
                if self._stop.is_set():
                    return
                with self._partial.open("wb") as file:
                    self._copy(reply, file)
            _unpack(self._partial, reply.headers.get("Content-Encoding", "identity"))
            self._end.put(None)
        except urllib.error.HTTPError as error:
            error.close()
            may_pass = error.code == 429 or error.code >= 500
            self._end.put(_Again(str(error)) if may_pass else error)
        except (http.client.IncompleteRead, ConnectionError) as error:
            self._end.put(_Again(_words(error)))
        except BaseException as error:
            self._end.put(error)

    def _copy(self, reply: http.client.HTTPResponse, file: IO[bytes]) -> None:
        self._expected = int(reply.headers.get("Content-Length", 0))
        if not self._expected and not reply.chunked:
            _say(self._request, "the server does not say how long it is; add sha256= to be sure")
        room = shutil.disk_usage(self._partial.parent).free - _SPARE_DISK
        while piece := reply.read1(_PIECE):
            file.write(piece)
            self._received += len(piece)
            if self._stop.is_set():
                return
            if self._received > room:
                raise OSError(f"{room / 1e9:,.1f} GB of the disk are free for it")
        if self._received < self._expected:
            raise _Again(
                f"the server broke off after {self._received:,} of {self._expected:,} bytes"
            )


def _unpack(path: Path, encoding: str) -> None:
    """Unpacks gzip, which some servers send although they were asked for the plain file."""
    if encoding in ("identity", ""):
        return
    if encoding not in ("gzip", "x-gzip"):
        raise ValueError(f"the server packs it as {encoding!r}; expected gzip or nothing")
    unpacked = path.with_name(f"{path.name}-unpacked")
    try:
        with gzip.open(path) as packed, unpacked.open("wb") as file:
            shutil.copyfileobj(packed, file)
        unpacked.replace(path)
    finally:
        unpacked.unlink(missing_ok=True)


def _words(error: Exception) -> str:
    if isinstance(error, http.client.IncompleteRead):
        return f"the server broke off after {len(error.partial):,} bytes of a part"
    return str(error) or type(error).__name__


def _say(request: urllib.request.Request, text: str) -> None:
    line = f"{redaction.public(request.full_url)}: {text}"
    print(terminal.clean(line), file=sys.stderr, flush=True)
