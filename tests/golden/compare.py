"""Stores golden arrays, or compares fresh ones with the stored."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np


def parse_check(description: str) -> bool:
    """Reads the one flag of a generator."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--check", action="store_true", help="compare with the stored files and write nothing"
    )
    return parser.parse_args().check


class Golden:
    """Collects what a generator made: writes it, or counts what differs from the stored files."""

    def __init__(self, root: Path, check: bool, tolerance: float):
        self.root, self.check, self.tolerance = root, check, tolerance
        self.failures: list[str] = []

    def arrays(self, path: str, fresh: dict[str, np.ndarray]) -> None:
        if not self.check:
            (self.root / path).parent.mkdir(parents=True, exist_ok=True)
            np.savez_compressed(self.root / path, **fresh)
            return
        stored = dict(np.load(self.root / path))
        if stored.keys() != fresh.keys():
            self.failures.append(f"{path}: keys {sorted(stored.keys() ^ fresh.keys())} differ")
        for key in sorted(stored.keys() & fresh.keys()):
            difference = largest_difference(stored[key], fresh[key])
            if not difference <= self.tolerance:
                self.failures.append(f"{path}: {key} differs by {difference:.3g}")

    def config(self, path: str, fresh: dict[str, Any]) -> None:
        """A `config.json`; the version that wrote it may differ, what it says may not."""
        if not self.check:
            (self.root / path).parent.mkdir(parents=True, exist_ok=True)
            (self.root / path).write_text(json.dumps(fresh, indent=2) + "\n")
            return
        version = {"transformers_version": fresh["transformers_version"]}
        if json.loads((self.root / path).read_text()) | version != fresh:
            self.failures.append(f"{path}: says something else")

    def finish(self) -> int:
        """Prints the verdict; the exit code."""
        for failure in self.failures:
            print(failure, file=sys.stderr)
        verdict = f"{len(self.failures)} differ" if self.failures else "all equal"
        print(f"checked: {verdict}" if self.check else f"written under {self.root}")
        return 1 if self.failures else 0


def largest_difference(left: np.ndarray, right: np.ndarray) -> float:
    """Relative above 1, absolute below; infinite for another shape or for text that differs."""
    if left.shape != right.shape or left.dtype != right.dtype:
        return float("inf")
    if left.dtype.kind == "U":
        return 0.0 if np.array_equal(left, right) else float("inf")
    left, right = left.astype(np.float64), right.astype(np.float64)
    gap = np.abs(left - right) / np.maximum(1.0, np.abs(left))
    return float(gap.max(initial=0.0))
