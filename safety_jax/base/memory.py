"""Available memory: for accelerators, as reported by the device; for CPUs, what the machine or a
cgroup has left."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

GIB = 2**30
SHARE = 0.75  # a run plans with this share, because compilers and libraries need memory, too
UNKNOWN = 8 * GIB  # assumed for a device that does not report its memory


class Room(NamedTuple):
    """Bytes of one device that a run may plan with, and the source of this number."""

    bytes: float
    source: str


def at_hand(devices: Sequence[Any]) -> Room:
    """The room on each of these devices, which are of one kind: this process asks its first one."""
    here = jax.process_index()
    local = [device for device in devices if device.process_index == here]
    device = local[0]
    if device.platform == "cpu":
        free, source = _host()
        return Room(SHARE * free / len(local), source)
    found = device.memory_stats() or {}
    if "bytes_limit" not in found:
        return Room(SHARE * UNKNOWN, f"a guess, {device.device_kind} does not say")
    return Room(SHARE * (found["bytes_limit"] - found.get("bytes_in_use", 0)), device.device_kind)


def _host() -> tuple[float, str]:
    """Bytes of memory left on the machine, or, if this is less, in this process's cgroup."""
    left = {"the machine": _available(), "the cgroup": left_by_cgroup()}
    known = {name: size for name, size in left.items() if size is not None}
    name = min(known, key=lambda name: known[name])
    return known[name], f"left on {name}"


def _available() -> float:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found = dict(line.split(":", 1) for line in lines)
        return 1024.0 * int(found["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        # Not every system reports free memory, but all report their whole memory.
        return 0.5 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def left_by_cgroup(
    root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> float | None:
    """The bytes left under the limits of this process's control groups; None without limits."""
    left: list[float] = []
    for folder, limit, used in _groups(root, own):
        try:
            most, now = (folder / limit).read_text().strip(), int((folder / used).read_text())
            if most != "max":
                left.append(float(int(most) - now) + _reclaimable(folder / "memory.stat"))
        except (OSError, ValueError):
            continue
    return min(left, default=None)


def _groups(root: Path, own: Path) -> list[tuple[Path, str, str]]:
    """The folders of this process's groups and of all groups around them, each with the names of
    its files for the limit and the usage."""
    try:
        lines = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        return []
    found = []
    for number, controllers, path in lines:
        if number == "0" and not controllers:
            base, names = root, ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            base, names = root / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        folder = base / path.lstrip("/")
        found += [(one, *names) for one in (folder, *folder.parents) if one.is_relative_to(base)]
    return found


def _reclaimable(file: Path) -> int:
    """Bytes of cached files, which the kernel frees when memory is needed."""
    counted = dict(line.split() for line in file.read_text().splitlines())
    return int(counted.get("inactive_file", counted.get("total_inactive_file", 0)))
