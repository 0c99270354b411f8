"""Runs workers as processes of their own, alternating, and sets their figures side by side.

A worker reads the folder that a benchmark prepared, runs one variant of one side, and prints one
line of JSON, see `Result`. Every run is pinned to the same cores; the order of runs turns round in
every second round, so that a machine that drifts drifts for both.
"""

import argparse
import dataclasses
import datetime
import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

OURS, PEER = "tests.benchmarks.jax_worker", "tests.benchmarks.trl_worker"
NUMBERS = ("float32", "own")
SIDES = {OURS: "safety_jax", PEER: "TRL"}
WARMUP_STEPS = 2

Key = tuple[str, str]  # worker, variant


@dataclasses.dataclass(frozen=True)
class Result:
    """What a worker prints.

    Attributes:
        seconds: of each optimizer step, the wait for its batch included.
        examples, trained_tokens: of each step.
        losses: of each step.
        padding_share: of the cells that were computed.
        before_seconds: a pass over the data before the first step, without compiling.
        compile_seconds: of the whole run; none of it is in `seconds`.
        peak_bytes: resident memory.
    """

    seconds: list[float]
    examples: list[int]
    trained_tokens: list[int]
    losses: list[float]
    padding_share: float
    before_seconds: float
    compile_seconds: float
    peak_bytes: int

    def rate(self, counts: list[int]) -> float:
        """Per second, after warm-up."""
        return sum(counts[WARMUP_STEPS:]) / sum(self.seconds[WARMUP_STEPS:])

    @property
    def tokens_per_second(self) -> float:
        return self.rate(self.trained_tokens)

    @property
    def examples_per_second(self) -> float:
        return self.rate(self.examples)

    @property
    def whole_rate(self) -> float:
        """Examples per second with the pass before the first step counted in."""
        return self._rate_after(self.before_seconds)

    @property
    def compiled_rate(self) -> float:
        """Likewise with compiling, which shrinks with the number of steps."""
        return self._rate_after(self.before_seconds + self.compile_seconds)

    def _rate_after(self, seconds: float) -> float:
        return 1 / (1 / self.examples_per_second + seconds / sum(self.examples))


@dataclasses.dataclass(frozen=True)
class Defaults:
    """What runs, and how much of it, where the command does not say.

    Attributes:
        ours, peers: variants, joined by commas.
    """

    ours: str
    peers: str
    rounds: int
    steps: int


def parse(
    doc: str,
    plain: Defaults,
    of_model: Defaults,
    add: Callable[[argparse.ArgumentParser], Any] = lambda parser: None,
) -> argparse.Namespace:
    """The command's arguments.

    Args:
        of_model: with `--model`.
        add: arguments of one benchmark alone.
    """
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--model", type=Path, help="a Hugging Face folder; else a new small model")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--threads", type=int, default=2)
    ask_numbers(parser)
    parser.add_argument("--ours")
    parser.add_argument("--peers")
    add(parser)
    asked = parser.parse_args()
    for name, value in vars(plain if asked.model is None else of_model).items():
        if getattr(asked, name) is None:
            setattr(asked, name, value)
    return asked


def ask_numbers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--numbers",
        choices=NUMBERS,
        default=NUMBERS[0],
        help="of products: float32 on both sides, or what each takes where nothing is asked for",
    )


def settings(asked: argparse.Namespace) -> dict[str, Any]:
    """What every worker reads of the command's arguments."""
    return {"threads": asked.threads, "numbers": asked.numbers}


def conditions(asked: argparse.Namespace) -> str:
    own = "products as each side has them by itself"
    return f"{asked.threads} threads, {own if asked.numbers == 'own' else asked.numbers}"


def run(key: Key, folder: Path, threads: int) -> Result:
    return Result(**call(key, folder, threads))


def call(key: Key, folder: Path, threads: int) -> dict[str, Any]:
    """What a worker says, run in its own process on the first `threads` cores."""
    environment = os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "JAX_PLATFORMS": "cpu",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "TQDM_DISABLE": "1",
    }
    module, variant = key
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[:threads])  # the worker inherits it
    try:
        done = subprocess.run(
            [sys.executable, "-m", module, str(folder), variant],
            env=environment,
            capture_output=True,
            text=True,
        )
    finally:
        os.sched_setaffinity(0, allowed)
    if done.returncode:
        raise RuntimeError(f"{module} {variant} failed:\n{done.stderr[-4000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def compete(given: argparse.Namespace, prepare: Callable[[Path], None]) -> dict[Key, list[Result]]:
    """Every variant of both sides, round after round."""
    keys = [(OURS, name) for name in given.ours.split(",") if name]
    keys += [(PEER, name) for name in given.peers.split(",") if name]
    results: dict[Key, list[Result]] = {key: [] for key in keys}
    versions = {name: importlib.metadata.version(name) for name in ("jax", "torch", "trl", "peft")}
    print(f"{datetime.date.today()}: {', '.join(' '.join(pair) for pair in versions.items())}")
    with tempfile.TemporaryDirectory() as temporary:
        prepare(Path(temporary))
        for number in range(given.rounds):
            for key in keys if number % 2 == 0 else reversed(keys):
                found = run(key, Path(temporary), given.threads)
                results[key].append(found)
                print(
                    f"  round {number + 1}: {name(key)}: {found.tokens_per_second:.0f} tokens/s, "
                    f"load {os.getloadavg()[0]:.1f}",
                    flush=True,
                )
    return results


def name(key: Key) -> str:
    return f"{SIDES[key[0]]} {key[1]}"


def median(found: list[Result], quantity: Callable[[Result], float]) -> float:
    return statistics.median(quantity(result) for result in found)


def speed(found: list[Result]) -> float:
    return median(found, lambda result: result.tokens_per_second)


def table(results: dict[Key, list[Result]], examples: str) -> None:
    """A line for each variant; medians over rounds."""
    print(
        f"\n{'':<26}{f'{examples}/s':>9}{'tokens/s':>10}{'range':>14}{'peak MiB':>10}{'padding':>9}"
        f"{'before s':>10}{'compile s':>11}{'trained':>9}{'first loss':>12}{'last loss':>11}"
    )
    for key, found in results.items():
        speeds = [result.tokens_per_second for result in found]
        print(
            f"{name(key):<26}{median(found, lambda r: r.examples_per_second):>9.2f}"
            f"{speed(found):>10.0f}{f'{min(speeds):.0f}..{max(speeds):.0f}':>14}"
            f"{median(found, lambda r: r.peak_bytes) / 2**20:>10.0f}"
            f"{found[0].padding_share:>9.1%}{median(found, lambda r: r.before_seconds):>10.1f}"
            f"{median(found, lambda r: r.compile_seconds):>11.1f}"
            f"{sum(found[0].trained_tokens):>9}"
            f"{found[0].losses[0]:>12.4f}{found[0].losses[-1]:>11.4f}"
        )


def best(results: dict[Key, list[Result]], side: str, variants: Sequence[str]) -> Key | None:
    """The quickest of some variants of one side, of those that ran."""
    ran = [key for key in results if key[0] == side and key[1] in variants]
    return max(ran, key=lambda key: speed(results[key]), default=None)


def ratios(results: dict[Key, list[Result]], ours: Key, peer: Key, examples: str) -> None:
    """Ours against the peer, round by round."""
    pairs = list(zip(results[ours], results[peer], strict=True))

    def ratio(quantity: Callable[[Result], float]) -> tuple[float, str]:
        by_round = [quantity(a) / quantity(b) for a, b in pairs]
        return statistics.median(by_round), f"{min(by_round):.2f} to {max(by_round):.2f} by round"

    tokens, tokens_range = ratio(lambda result: result.tokens_per_second)
    whole, _ = ratio(lambda result: result.whole_rate)
    compiled, _ = ratio(lambda result: result.compiled_rate)
    memory, memory_range = ratio(lambda result: result.peak_bytes)
    print(
        f"\n{name(ours)} against {name(peer)}:\n"
        f"  {tokens:.2f}x the trained tokens per second ({tokens_range}), "
        f"{ratio(lambda result: result.examples_per_second)[0]:.2f}x the {examples}, "
        f"{whole:.2f}x with the pass before the first step, {compiled:.2f}x with compiling too, in "
        f"{len(results[ours][0].seconds)} steps\n"
        f"  {memory:.2f}x the peak memory ({memory_range})"
    )
