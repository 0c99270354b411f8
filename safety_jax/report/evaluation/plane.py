"""The geometry of the page's trade-off drawing: safety upwards, help to the right.

The drawing is about as wide as a phone, so that its units are close to pixels and its text is
readable at every width.
"""

from collections.abc import Sequence
from typing import Any

from safety_jax.report.evaluation import words
from safety_jax.report.evaluation.tradeoff import TradeOff

WIDTH, HEIGHT = 380, 320
LEFT, RIGHT, TOP, BOTTOM = 46, WIDTH - 16, 28, HEIGHT - 44  # edges of the plane
LINE = 13  # height of a name
ASIDE = 8  # of a name from its point


def place(found: TradeOff) -> dict[str, Any]:
    """Points, names, front and ticks in the drawing's units."""
    across = ticks([value for point in found.points for value in point.across], found.shares)
    up = ticks([value for point in found.points for value in point.up], True)

    def x(value: float) -> float:
        return round(LEFT + (value - across[0]) / (across[-1] - across[0]) * (RIGHT - LEFT), 1)

    def y(value: float) -> float:
        return round(BOTTOM - (value - up[0]) / (up[-1] - up[0]) * (BOTTOM - TOP), 1)

    points = [
        {
            "model": point.model, "place": point.place, "best": point.best,
            "x": x(point.across[1]), "left": x(point.across[0]), "right": x(point.across[2]),
            "y": y(point.up[1]), "low": y(point.up[0]), "high": y(point.up[2]),
            "help": label(point.across[1], found.shares), "safe": words.percent(point.up[1]),
        }
        for point in found.points
    ]  # fmt: skip
    return {
        "title": found.title, "points": _named(points), "front": _front(points),
        "x_ticks": [(x(tick), label(tick, found.shares)) for tick in across],
        "y_ticks": [(y(tick), label(tick, True)) for tick in up],
        "width": WIDTH, "height": HEIGHT,
        "left": LEFT, "right": RIGHT, "top": TOP, "bottom": BOTTOM,
    }  # fmt: skip


def ticks(values: Sequence[float], shares: bool) -> list[float]:
    """Round numbers around the values; for shares between 0 and 1."""
    from matplotlib.ticker import MaxNLocator

    low, high = min(values), max(values)
    if low == high:
        low, high = low - 0.05, high + 0.05
    found = [float(tick) for tick in MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(low, high)]
    inside = [tick for tick in found if not shares or -1e-9 <= tick <= 1 + 1e-9]
    return inside if len(inside) > 1 else [0.0, 1.0]


def label(value: float, shares: bool) -> str:
    return f"{100 * value:.0f}%" if shares else words.minus(f"{value:.3g}")


def _front(points: Sequence[dict[str, Any]]) -> str:
    """The Pareto front as a path with steps."""
    best = sorted((point["x"], point["y"]) for point in points if point["best"])
    if len(best) < 2:
        return ""
    return f"M{best[0][0]} {best[0][1]}" + "".join(f"V{y}H{x}" for x, y in best[1:])


def _named(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Places names beside their points, on the left near the right edge, without overlap."""
    taken: list[tuple[float, bool]] = []
    for point in sorted(points, key=lambda point: point["y"]):
        left = point["x"] > LEFT + 0.6 * (RIGHT - LEFT)
        at = point["y"] - ASIDE / 2
        while any(abs(at - other) < LINE and side == left for other, side in taken):
            at += LINE
        taken.append((at, left))
        point["name_x"] = point["x"] + (-ASIDE if left else ASIDE)
        point["name_y"], point["anchor"] = at, "end" if left else "start"
    return points
