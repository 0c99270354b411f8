"""Speed and progress of a run: tokens per second, MFU, a progress bar with the time left."""

import bisect
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from tqdm import tqdm

TIMING = ("tokens_per_second", "mfu", "seconds_per_step")
"""Metrics that differ between two runs of the same config."""


# tqdm puts ", " before the metrics.
_BAR = "{n_fmt}/{total_fmt}{postfix}, {rate_fmt} |{bar}| {elapsed}"


class Throughput:
    """Tokens per second and MFU since the last reading.

    Args:
        flops_per_token: see `flops.flops_per_token`.
        peak: FLOP/s of all devices together; None leaves MFU out.
        clock: returns the time in seconds.
    """

    def __init__(
        self,
        flops_per_token: float,
        peak: float | None,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self._flops, self._peak, self._clock = flops_per_token, peak, clock
        self.restart()

    def restart(self) -> None:
        """Starts measuring anew, after compilation or validation."""
        self._tokens, self._steps, self._since = 0, 0, self._clock()

    def add(self, tokens: int) -> None:
        """Counts a finished step of this many real (not padding) tokens."""
        self._tokens += tokens
        self._steps += 1

    def read(self) -> dict[str, float]:
        """Returns the metrics of `TIMING` and starts anew; empty if no step ran."""
        seconds = self._clock() - self._since
        if not self._steps or seconds <= 0:
            return {}
        speed = self._tokens / seconds
        rates = {"tokens_per_second": speed, "seconds_per_step": seconds / self._steps}
        if self._peak:
            rates["mfu"] = speed * self._flops / self._peak
        self.restart()
        return rates


class ProgressBar:
    """A bar on stderr if that is a terminal, else a line for each `log`; nothing if not `primary`.

        150/1000, loss 1.9312  left 02:01  9,731 tokens/s, 7.02step/s |##        | 00:21

    The time left is estimated from the newer half of the steps after the first one, which compiles,
    so that a busy machine is soon forgotten. A narrow terminal cuts the end off.
    """

    def __init__(
        self,
        total_steps: int,
        done_steps: int,
        primary: bool = True,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self._total, self._primary, self._clock = total_steps, primary, clock
        self._logged: list[tuple[int, float]] = []  # from the first step that is done
        is_bar = primary and sys.stderr.isatty()
        self._bar = tqdm(
            total=total_steps, initial=done_steps, unit="step", disable=not is_bar,
            file=sys.stderr, dynamic_ncols=True, smoothing=0.05, bar_format=_BAR,
        )  # fmt: skip

    def step(self, step: int) -> None:
        """Advances the bar to `step` finished steps."""
        if not self._logged:
            self._logged = [(step, self._clock())]
        self._bar.update(step - self._bar.n)

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Shows the most important metrics, tokens per second and MFU beside the time left."""
        shown, left = _show(metrics), f"left {self._left(step)}"
        self._bar.set_postfix_str("  ".join([*shown[:1], left, *shown[1:]]))
        if self._primary and self._bar.disable:
            parts = [f"step {step}/{self._total}", *shown, left]
            print("  ".join(parts), file=sys.stderr, flush=True)

    def print(self, text: str) -> None:
        """Prints a line without breaking the bar."""
        if self._primary:
            self._bar.write(text, file=sys.stderr)

    def close(self) -> None:
        self._bar.close()

    def _left(self, step: int) -> str:
        if not self._logged or step <= (start := self._logged[0][0]):
            return "unknown"
        now = self._clock()
        half = bisect.bisect_right(self._logged, (start + step) / 2, key=lambda logged: logged[0])
        since, then = self._logged[half - 1]
        self._logged.append((step, now))
        return tqdm.format_interval((now - then) / (step - since) * (self._total - step))


def _show(metrics: Mapping[str, Any]) -> list[str]:
    formats = {
        "loss": "loss {:.4f}",
        "rewards/margins": "margin {:.3f}",
        "eval/loss": "eval loss {:.4f}",
        "eval/rewards/accuracies": "eval accuracy {:.1%}",
        "tokens_per_second": "{:,.0f} tokens/s",
        "mfu": "MFU {:.1%}",
    }
    return [form.format(float(metrics[name])) for name, form in formats.items() if name in metrics]
