"""Greedy Coordinate Gradient (Zou et al., arXiv 2307.15043): a suffix that makes a model comply.

Each step takes the gradient of the loss by the suffix's one-hot tokens, tries suffixes with one
token replaced by one of those with the largest negative gradient, and keeps the best. The search
for a universal suffix starts with the first request, and adds the next one whenever the targets of
all so far are reached (algorithm 2).

    steps.jsonl   a line for each step, the only state of the search

A killed search continues from its last line with the same result, because draws depend only on the
seed and the step.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from safety_jax.base import meshes
from safety_jax.base.errors import ConfigError, NotFiniteError
from safety_jax.base.files import Lines
from safety_jax.evaluation.search import goals as aims
from safety_jax.evaluation.search import layout, losses, proposals
from safety_jax.evaluation.search.goals import Goal
from safety_jax.models import attention
from safety_jax.models.model import Model

# Rows per device whose gradients are taken at a time: they hold activations, and [S, V] gradients.
GRADIENT_ROWS = 4


@dataclasses.dataclass(frozen=True)
class SearchSettings:
    """The settings of a search.

    Attributes:
        steps: the most steps.
        candidates: suffixes that are tried in a step.
        top_k: replacement tokens to draw from at each position.
        progressive: add requests one after another; else use all from the first step on.
        stop_when_reached: end the search when the target of every request is reached.
        max_evaluations: end it after so many losses, each of a candidate and a request; 0: never.
    """

    steps: int
    candidates: int
    top_k: int
    progressive: bool
    stop_when_reached: bool
    max_evaluations: int
    seed: int


@dataclasses.dataclass(frozen=True)
class SearchPace:
    """How a search runs; results depend on it only by the rounding of losses.

    Attributes:
        row_tokens: the most tokens of a row with several suffixes.
        tokens_per_batch: padded tokens of a batch of candidates, over all devices.
        chunk_tokens: see `logprobs.token_logprobs`.
    """

    row_tokens: int
    tokens_per_batch: int
    chunk_tokens: int


@dataclasses.dataclass(frozen=True)
class Step:
    """The result of a step; number 0 is the suffix that the search starts from.

    Attributes:
        search: number of the search: that of its request, or 0 for a universal suffix.
        goals: the number of requests so far.
        ids, text: the suffix after the step.
        loss: its mean over these requests, in nats per token.
        reached: the number of these requests whose target is reached.
        tried: the number of candidates.
        seconds: its duration.
    """

    search: int
    step: int
    goals: int
    ids: tuple[int, ...]
    text: str
    loss: float
    reached: int
    tried: int
    seconds: float

    @classmethod
    def parse(cls, row: dict[str, Any]) -> "Step":
        """A line of `steps.jsonl`."""
        return cls(**{**row, "ids": tuple(map(int, row["ids"]))})

    @property
    def evaluations(self) -> int:
        return self.tried * self.goals

    @property
    def done(self) -> bool:
        return self.reached == self.goals


class Searcher:
    """A model and the layout of all goals of a run.

    Args:
        goals: of every search, so that all rows have one size.
        allowed: tokens that a suffix may contain.
        together: requests of the largest search.

    Raises:
        ConfigError: there are fewer allowed tokens than `top_k`.
    """

    def __init__(
        self,
        model: Model,
        goals: Sequence[Goal],
        start: Sequence[int],
        allowed: Bool[np.ndarray, " V"],
        settings: SearchSettings,
        pace: SearchPace,
        together: int,
    ):
        if int(allowed.sum()) < settings.top_k:
            raise ConfigError(
                f"attack.top_k is {settings.top_k}, but a suffix may contain only "
                f"{int(allowed.sum())} tokens; lower it, or set attack.tokens to printable"
            )
        self.model, self.settings, self.pace = model.bare, settings, pace
        self.goals, self.start = list(goals), tuple(start)
        assert model.tokenizer is not None  # it reads and writes suffixes
        self.tokenizer = model.tokenizer
        self.mesh = model.mesh
        self.allowed = meshes.put(self.mesh, (None,), allowed)
        parts = meshes.row_parts(self.mesh)
        shape = {"slots": len(start), "row_tokens": pace.row_tokens}
        limit = model.config.longest_shared_row
        most = -(-settings.candidates // parts) if attention.takes_many(self.mesh) else 2
        self.rows = layout.plan(goals, **shape, longest_shared=limit, most_tails=most)
        self.single = layout.plan(goals, **shape, longest_shared=limit, most_tails=1)
        # Rows of a batch of candidates: batches of equal size, as few as fit.
        fitting = max(1, pace.tokens_per_batch // self.rows.tokens // parts)
        needed = -(-settings.candidates // (self.rows.tails * parts))
        self.batch_rows = parts * -(-needed // -(-needed // fitting))
        self.group = parts * min(GRADIENT_ROWS, -(-together // parts))

    def describe(self) -> str:
        """One line on the layout of a batch."""
        return (
            f"{self.rows.slots} tokens of a suffix; {self.batch_rows} rows of {self.rows.tokens} "
            f"tokens at a time, {self.rows.tails} candidates in each"
        )

    # ------------------------------------------------------------------------ losses

    def slopes(
        self, active: Sequence[Goal], suffix: Sequence[int]
    ) -> tuple[Float[np.ndarray, " goals"], Bool[np.ndarray, " goals"], jax.Array]:
        """For a suffix: the loss of each request, whether its target is reached, and the sum of
        the normalised gradients."""
        found, total = [], None
        ids = meshes.put(self.mesh, (None,), np.array(suffix, np.int32))
        for start in range(0, len(active), self.group):
            part = active[start : start + self.group]
            laid = [layout.lay_out(goal, self.single) for goal in part]
            laid += laid[:1] * (self.group - len(part))
            stacked = jax.tree.map(lambda *rows: self._put_rows(np.stack(rows)), *laid)
            counts = self._put(np.array([1.0] * len(part) + [0.0] * (self.group - len(part))))
            own, slope = losses.slopes(
                self.model, stacked, ids, counts, self.single, self.pace.chunk_tokens
            )
            found.append(jax.tree.map(lambda x: np.asarray(x)[: len(part), 0], own))  # noqa: B023
            total = slope if total is None else total + slope
        assert total is not None
        loss, reached = (np.concatenate(column) for column in zip(*found, strict=True))
        return loss, reached, total

    def candidates(
        self, goal: Goal, suffixes: Int[np.ndarray, "count S"]
    ) -> tuple[Float[np.ndarray, " count"], Bool[np.ndarray, " count"]]:
        """For each suffix: the loss of a request, and whether its target is reached."""
        row = layout.lay_out(goal, self.rows)
        laid = jax.tree.map(lambda x: meshes.put(self.mesh, (None,), x), row)
        each = self.batch_rows * self.rows.tails
        made = []
        for start in range(0, len(suffixes), each):
            part = suffixes[start : start + each]
            filled = np.concatenate([part, np.repeat(part[:1], each - len(part), axis=0)])
            shaped = filled.reshape(self.batch_rows, self.rows.tails, -1)
            batch = meshes.put(self.mesh, ("rows", None, None), shaped)
            made.append(
                losses.candidate_losses(self.model, laid, batch, self.rows, self.pace.chunk_tokens)
            )
        # All batches are dispatched before the first result is fetched.
        flat = [[np.asarray(x).reshape(-1) for x in one] for one in made]
        loss, reached = (np.concatenate(column) for column in zip(*flat, strict=True))
        return loss[: len(suffixes)], reached[: len(suffixes)]

    def _put(self, values: np.ndarray) -> jax.Array:
        return meshes.put(self.mesh, (None,), values.astype(np.float32))

    def _put_rows(self, rows: np.ndarray) -> jax.Array:
        return meshes.put(self.mesh, ("rows", "tokens"), rows)

    # ------------------------------------------------------------------------ a search

    def run(
        self,
        search: int,
        goals: Sequence[Goal],
        earlier: Sequence[Step],
        lines: Lines,
        tell: Callable[[Step, float], None],
    ) -> list[Step]:
        """Searches for one suffix for all of the goals; returns all its steps.

        Args:
            search: its number.
            earlier: its steps that the file already has.
            tell: called with each new step, and the candidates per second.

        Raises:
            NotFiniteError: no candidate has a loss.
        """
        found = list(earlier)
        if not found:
            began = time.perf_counter()
            active = goals[:1] if self.settings.progressive else goals
            loss, reached, _ = self.slopes(active, self.start)
            found.append(self._step(search, 0, active, self.start, loss, reached, 0, began))
            lines.append([dataclasses.asdict(found[-1])])
        while (count := self._next(found, len(goals))) is not None:
            found.append(self._take(search, goals, count, found[-1]))
            lines.append([dataclasses.asdict(found[-1])])
            tell(found[-1], found[-1].evaluations / max(found[-1].seconds, 1e-9))
        return found

    def _next(self, found: Sequence[Step], total: int) -> int | None:
        """The number of requests in the next step; None if the search is over."""
        last, settings = found[-1], self.settings
        if settings.stop_when_reached and last.done and last.goals == total:
            return None
        spent = sum(step.evaluations for step in found)
        if last.step >= settings.steps or 0 < settings.max_evaluations <= spent:
            return None
        # As in algorithm 2, which checks the result of a step, not the start.
        return min(total, last.goals + 1) if last.done and last.step else last.goals

    def _take(self, search: int, goals: Sequence[Goal], count: int, last: Step) -> Step:
        """One step on the first requests: gradients, candidates, and the best candidate that
        survives tokenization after every request, including later ones. Without one, the suffix
        stays."""
        began, number, settings = time.perf_counter(), last.step + 1, self.settings
        active = goals[:count]
        before, done, slope = self.slopes(active, last.ids)
        best = np.asarray(losses.best_tokens(slope, self.allowed, settings.top_k))
        tried = proposals.propose(
            active[0], last.ids, best, settings.candidates, settings.seed, search, number,
            self.tokenizer,
        )  # fmt: skip
        if not len(tried):  # no draw survives tokenization; the next step draws others
            return self._step(search, number, active, last.ids, before, done, 0, began)
        rows = [self.candidates(goal, tried) for goal in active]
        loss, reached = (np.stack(column) for column in zip(*rows, strict=True))
        mean = loss.mean(axis=0)
        if not np.isfinite(mean).any():
            raise NotFiniteError(
                f"search {search}, step {number}: no candidate has a finite loss; expected a model "
                "whose outputs are finite"
            )
        for place in np.argsort(np.where(np.isfinite(mean), mean, np.inf), kind="stable").tolist():
            ids = tuple(tried[place].tolist())
            if all(aims.survive(goal, [ids], self.tokenizer)[0] for goal in goals[1:]):
                return self._step(
                    search, number, active, ids, loss[:, place], reached[:, place], len(tried),
                    began,
                )  # fmt: skip
        return self._step(search, number, active, last.ids, before, done, len(tried), began)

    def _step(
        self,
        search: int,
        number: int,
        active: Sequence[Goal],
        ids: Sequence[int],
        loss: np.ndarray,
        reached: np.ndarray,
        tried: int,
        began: float,
    ) -> Step:
        return Step(
            search=search,
            step=number,
            goals=len(active),
            ids=tuple(ids),
            text=aims.spell([ids], self.tokenizer)[0],
            loss=float(np.mean(loss, dtype=np.float64)),
            reached=int(reached.sum()),
            tried=tried,
            seconds=round(time.perf_counter() - began, 3),
        )


def best(found: Sequence[Step]) -> Step:
    """The step with the resulting suffix: the lowest loss among those with the most requests."""
    most = max(step.goals for step in found)
    return min((step for step in found if step.goals == most), key=lambda step: step.loss)
