"""The training loop: steps, logs, evaluates, saves, stops when asked, and resumes where it stopped.

Stages differ in the loss inside `step` and in the batches; RAFT runs this loop every round. The
loop is a generator, `walk`, that asks for steps. `drive` takes the steps of a single run, and
`lanes.py` those of many runs at once.
"""

import dataclasses
import functools
import math
import signal
from collections.abc import Callable, Container, Generator
from types import FrameType
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax
import numpy as np
from jax.experimental import multihost_utils

from safety_jax.base.errors import DivergenceError, few
from safety_jax.training.checkpoint import Checkpoints, abstract
from safety_jax.training.steps import State

Metrics = dict[str, float]
Tables = dict[str, np.ndarray]
R = TypeVar("R")


@runtime_checkable
class Batches(Protocol):
    """A stream of batches whose position can be read and set."""

    def __next__(self) -> Any: ...
    def get_state(self) -> dict[str, Any]: ...
    def set_state(self, state: dict[str, Any]) -> None: ...


@dataclasses.dataclass(frozen=True)
class Cadence:
    """How often a run logs, evaluates and saves, in optimizer steps. It evaluates before it saves,
    except when SIGTERM stops it."""

    total_steps: int
    log_every_steps: int
    eval_every_steps: int
    save_every_steps: int

    def logs(self, step: int) -> bool:
        return step % self.log_every_steps == 0 or step in (1, self.total_steps)

    def evaluates(self, step: int) -> bool:
        return step % self.eval_every_steps == 0 or self.saves(step)

    def saves(self, step: int) -> bool:
        return step % self.save_every_steps == 0 or step == self.total_steps


@dataclasses.dataclass(frozen=True)
class Result:
    """How a walk ended.

    Attributes:
        state: the state after the last step, which is saved.
        interrupted: the process was asked to stop before `total_steps`.
    """

    state: State
    interrupted: bool


def resume(checkpoints: Checkpoints, state: State, batches: Batches) -> State:
    """Restores the latest intact checkpoint onto the shardings of `state`, and moves `batches` to
    its position.

    Returns `state` itself if there is no checkpoint.
    """
    latest = checkpoints.newest_intact()
    if latest is None:
        return state
    restored, data_state, _ = checkpoints.restore(latest, abstract(state))
    batches.set_state(data_state)
    return restored


@dataclasses.dataclass(frozen=True)
class Taken:
    """A step that was taken.

    Attributes:
        read: waits for the step and returns its metrics and tables.
        stops: given the step's number, returns whether the process was asked to stop after it.
    """

    read: Callable[[], dict[str, np.ndarray]]
    stops: Callable[[int], bool]


# A generator that yields the batches to step on, receives a `Taken` for each, and returns a result.
Walk = Generator[Any, Taken, R]


class Seat:
    """Holds the state of a run while steps change it. In `lanes.py` the states are stacked."""

    def __init__(self, state: State | None = None):
        self._state = state

    def take(self, state: State) -> None:
        """Stores a state; the caller must not use it any more."""
        self._state = state

    def give(self) -> State:
        """The state, valid until the next step."""
        assert self._state is not None
        return self._state


def drive(
    work: Walk[R],
    seat: Seat,
    frozen: Any,
    *,
    step: Callable[..., tuple[State, dict[str, jax.Array]]],
    place: Callable[[Any], tuple[Any, jax.Array]],
) -> R:
    """Takes the steps that a walk asks for, and returns the walk's result.

    The host reads the metrics of a step while the device works on the next one.

    Args:
        step: `step(state, frozen, arrays, used) -> (state, metrics)`, compiled; donates the state.
        place: puts a batch on the mesh; returns its arrays and number of used microbatches.
    """
    with StopRequest() as stop:
        try:
            batch = next(work)  # resuming makes hosts exchange values, so the guard comes later
            with jax.transfer_guard("disallow"):
                while True:
                    state, metrics = step(seat.give(), frozen, *place(batch))
                    seat.take(state)
                    read = functools.partial(jax.device_get, metrics)
                    batch = work.send(Taken(read, stop.requested))
        except StopIteration as end:
            return end.value


class Unread:
    """The last step taken. Its metrics are read one step late: reading waits for the device.

    Args:
        rows, on_step: see `walk`.
    """

    def __init__(
        self,
        rows: Callable[[Any], list[str]],
        on_step: Callable[[int, Metrics, Tables, Any], None],
    ):
        self._rows, self._on_step = rows, on_step
        self._last: tuple[int, Taken, Any] | None = None

    def follow(self, number: int, taken: Taken, batch: Any) -> None:
        """Records a new last step, and reads the metrics of the one before it."""
        self.read()
        self._last = (number, taken, batch)

    def read(self) -> None:
        """Waits for the last step and passes its metrics to `on_step`, once.

        Raises:
            DivergenceError: its loss or gradient is NaN or infinite.
        """
        if self._last is None:
            return
        (number, taken, batch), self._last = self._last, None
        values = taken.read()
        metrics = {name: float(value) for name, value in values.items() if value.ndim == 0}
        tables = {name: value for name, value in values.items() if value.ndim > 0}
        # A finite loss may have a gradient that is not, and so may the weights after the step be.
        broken = [name for name in ("loss", "grad_norm") if not math.isfinite(metrics[name])]
        if broken:
            raise DivergenceError(
                f"{broken[0]} is {metrics[broken[0]]} at step {number}; rows of the batch: "
                f"{few(self._rows(batch), 8)}; earlier checkpoints are intact, but the same "
                "command ends here again: look at these rows, or lower optim.learning_rate in "
                "another --workdir"
            )
        self._on_step(number, metrics, tables, batch)


def walk(
    seat: Seat,
    batches: Batches,
    *,
    evaluate: Callable[[Any], Metrics] | None,
    evaluated: Container[int],
    rows: Callable[[Any], list[str]],
    on_step: Callable[[int, Metrics, Tables, Any], None],
    on_evaluation: Callable[[int, Metrics], None],
    checkpoints: Checkpoints,
    best_metric: str,
    cadence: Cadence,
) -> Walk[Result]:
    """Asks for steps until `cadence.total_steps` or SIGTERM.

    SIGTERM saves without evaluating; when the run resumes, it first makes up for an evaluation that
    was due. Only states after steps with finite loss and gradient are saved.

    Args:
        evaluate: returns metrics of the trainable weights on the validation rows.
        evaluated: steps that an earlier start has evaluated.
        rows: returns names of a batch's rows, for the message about a loss or gradient
            that is not finite.
        on_step: called after every step, one step late, with its number, its metrics, the tables
            by example that its loss returned, and its batch.
        on_evaluation: called with the step and the metrics that `evaluate` returned.
        best_metric: the evaluation metric that is saved with each checkpoint.

    Raises:
        DivergenceError: loss or gradient is NaN or infinite; names step and rows.
        CheckpointError: a checkpoint cannot be written.
    """
    unread = Unread(rows, on_step)
    done = int(jax.device_get(seat.give().step))
    if evaluate is not None and done and cadence.evaluates(done) and done not in evaluated:
        measured: Metrics = evaluate(seat.give().trainable)
        on_evaluation(done, measured)
        checkpoints.note(done, measured.get(best_metric))
    for number in range(done + 1, cadence.total_steps + 1):
        batch = next(batches)
        taken = yield batch
        unread.follow(number, taken, batch)

        stopping = taken.stops(number) and number < cadence.total_steps
        if stopping or cadence.evaluates(number):
            unread.read()
        measured = {}
        if evaluate is not None and cadence.evaluates(number) and not stopping:
            measured = evaluate(seat.give().trainable)
            on_evaluation(number, measured)
        if stopping or cadence.saves(number):
            best = measured.get(best_metric)
            checkpoints.save(number, seat.give(), batches.get_state(), measured, metric=best)
        if stopping:
            checkpoints.wait()
            return Result(seat.give(), interrupted=True)
    checkpoints.wait()
    return Result(seat.give(), interrupted=False)


class StopRequest:
    """Whether SIGTERM has arrived: the loop asks between steps, and all hosts get the same answer.

    With several processes, jax itself handles the signal, whichever process gets it, and picks a
    step that all of them can reach. A Python handler would hide the signal from jax.
    """

    def __init__(self) -> None:
        self._asked = False
        self._alone = jax.process_count() == 1

    def _ask(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self._asked = True

    def __enter__(self) -> "StopRequest":
        if self._alone:
            self._previous = signal.signal(signal.SIGTERM, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        if self._alone:
            signal.signal(signal.SIGTERM, self._previous)

    def requested(self, step: int) -> bool:
        if self._alone:
            return self._asked
        return multihost_utils.reached_preemption_sync_point(step)
