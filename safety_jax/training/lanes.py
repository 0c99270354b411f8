"""Trains many runs in one program: a step of the program steps every run and reads the base once.

    lane          a slot of the program: a state, a batch, numbers such as the learning rate
    WaitingRun    a run that has no lane yet; with its lane it also gets a walk (`loop.walk`)

Every run has its own order of examples, optimizer state, schedule, checkpoints and length. When a
run ends, the next one takes over its lane; when none waits, the program is narrowed to the lanes
that are in use. The program is `jax.vmap` of one run's step over everything except the weights of
the base. Adapters of lower rank are padded with zeros, which stay zero: the gradient of either
factor's padding is a product with the padding of the other.
"""

import collections
import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from safety_jax.base import meshes
from safety_jax.base.errors import DivergenceError
from safety_jax.training import loop, placement
from safety_jax.training.checkpoint import abstract
from safety_jax.training.loop import R
from safety_jax.training.steps import Parts, State

Numbers = Mapping[str, float]
NumbersOf = Callable[[int], Numbers]
# (state, frozen, batch, used, numbers) -> (state, metrics): the step of one run, see `steps.make`.
# Settings that differ between runs are among the numbers.
Advance = Callable[[State, Any, Any, jax.Array, dict[str, jax.Array]], tuple[State, Parts]]


# ---------------------------------------------------------------------------- the program


def stacked(where: State) -> State:
    """The shardings of several stacked states, given those of one."""
    return jax.tree.map(_stacked, where)


def make_step(advance: Advance, where: State, mesh: Mesh) -> Any:
    """Compiles `step(states, frozen, batches, used, numbers) -> (states, metrics)` of all lanes.

    Args:
        where: shardings of the stacked states.

    The states are donated. `batches` is a tuple with one batch for each lane, `numbers` has arrays
    [lanes].
    """

    def step(states: State, frozen: Any, batches: Any, used: jax.Array, numbers: Any):
        together = jax.tree.map(lambda *x: jnp.stack(x), *batches)
        many = jax.vmap(advance, in_axes=(0, None, 0, None, 0))
        return many(states, frozen, together, used, numbers)

    return jax.jit(step, donate_argnums=0, out_shardings=(where, meshes.sharding(mesh, ())))


class TrainingLanes:
    """The states of several runs, stacked, and the compiled step of all of them."""

    def __init__(
        self, width: int, advance: Advance, pattern: State, where: State, frozen: Any, mesh: Mesh
    ):
        """Allocates the states.

        Args:
            width: the number of lanes.
            pattern: shapes of the largest state.
            where: shardings of one state.
            frozen: weights of the base, which all steps read and none changes.
        """
        self.width, self.steps = width, 0
        self._frozen, self._mesh, self._one = frozen, mesh, where
        self._all = stacked(where)
        zeros = functools.partial(
            jax.tree.map, lambda x: jnp.zeros((width, *x.shape), x.dtype), pattern
        )
        self._states = jax.jit(zeros, out_shardings=self._all)()
        self._put = jax.jit(_put, donate_argnums=0, out_shardings=self._all)
        self._narrowed = jax.jit(_taken, out_shardings=self._all)
        self._step = make_step(advance, self._all, mesh)
        self._readers: dict[Any, Callable[[State, jax.Array], State]] = {}

    def step(
        self, batches: list[Any], used: int, numbers: list[Numbers]
    ) -> Callable[[], dict[str, np.ndarray]]:
        """Takes a step of every lane. Returns a function that waits for the step and returns its
        metrics, [lanes, ...].

        Args:
            batches: one for each lane, on the mesh, all of one shape.
            used: microbatches that hold examples in any of the batches.
        """
        columns = {
            name: meshes.put(
                self._mesh, (None,), np.array([row[name] for row in numbers], np.float32)
            )
            for name in numbers[0]
        }
        self._states, metrics = self._step(
            self._states,
            self._frozen,
            tuple(batches),
            placement.put_everywhere(self._mesh, used),
            columns,
        )
        self.steps += 1
        return functools.cache(functools.partial(jax.device_get, metrics))

    def put(self, lane: int, state: State) -> None:
        """Writes a run's state into a lane, padded with zeros to the lane's size."""
        self._states = self._put(self._states, self._index(lane), state)

    def state(self, lane: int, shapes: State) -> State:
        """Reads a run's state from a lane, cut to these shapes."""
        key = tuple(x.shape for x in jax.tree.leaves(shapes))
        if key not in self._readers:
            read = functools.partial(_cut, jax.tree.map(lambda x: x.shape, shapes))
            self._readers[key] = jax.jit(read, out_shardings=self._one)
        return self._readers[key](self._states, self._index(lane))

    def narrow(self, kept: list[int]) -> None:
        """Keeps only these lanes, in this order."""
        chosen = meshes.put(self._mesh, (None,), np.array(kept, np.int32))
        self._states = self._narrowed(self._states, chosen)
        self.width = len(kept)

    def _index(self, lane: int) -> jax.Array:
        return placement.put_everywhere(self._mesh, lane)


def _stacked(one: NamedSharding) -> NamedSharding:
    return NamedSharding(one.mesh, PartitionSpec(None, *one.spec))


def _put(states: State, lane: jax.Array, state: State) -> State:
    def into(all: jax.Array, one: jax.Array) -> jax.Array:
        short = [(0, most - size) for most, size in zip(all.shape[1:], one.shape, strict=True)]
        whole = jnp.pad(one, short) if short else one
        return jax.lax.dynamic_update_index_in_dim(all, whole, lane, 0)

    return jax.tree.map(into, states, state)


def _cut(shapes: State, states: State, lane: jax.Array) -> State:
    def out_of(all: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        one = jax.lax.dynamic_index_in_dim(all, lane, keepdims=False)
        return one[tuple(slice(size) for size in shape)]

    return jax.tree.map(out_of, states, shapes)


def _taken(states: State, lanes: jax.Array) -> State:
    return jax.tree.map(lambda all: jnp.take(all, lanes, axis=0), states)


class _LaneSeat(loop.Seat):
    """The seat of a run whose state lies in a lane."""

    def __init__(self, lanes: TrainingLanes, number: int, state: State):
        super().__init__(state)
        self.number, self._lanes, self._shapes = number, lanes, abstract(state)
        self.take(state)

    def take(self, state: State) -> None:
        super().take(state)
        self._as_of = self._lanes.steps
        self._lanes.put(self.number, state)

    def give(self) -> State:
        if self._as_of != self._lanes.steps:
            super().take(self._lanes.state(self.number, self._shapes))
            self._as_of = self._lanes.steps
        return super().give()


# ---------------------------------------------------------------------------- the runs


@dataclasses.dataclass(frozen=True)
class Begun(Generic[R]):
    """A run whose steps are being taken.

    Attributes:
        place: puts a batch on the mesh; returns its arrays and number of used microbatches.
        numbers: given how many steps were taken, returns the numbers of the next one.
        finish: called with the walk's result.
    """

    walk: Callable[[loop.Seat], loop.Walk[R]]
    state: State
    place: Callable[[Any], tuple[Any, jax.Array]]
    numbers: NumbersOf
    finish: Callable[[R], None]


@dataclasses.dataclass(frozen=True)
class WaitingRun(Generic[R]):
    """A run that waits for a lane; `begin` reads what it needs."""

    name: str
    begin: Callable[[], Begun[R]]


@dataclasses.dataclass
class _Running:
    entry: WaitingRun[Any]
    begun: Begun[Any]
    seat: _LaneSeat
    walk: loop.Walk[Any]
    batch: Any


def drive(
    entries: Iterable[WaitingRun[Any]],
    lanes: TrainingLanes,
    *,
    on_step: Callable[[int], None],
) -> dict[str, DivergenceError]:
    """Trains all runs, begun in the order given, as many at a time as there are lanes.

    A run whose loss or gradient is not finite gives up its lane; the others continue.

    Args:
        on_step: called after each step of the program, with the number of runs that took one.

    Returns:
        The runs that gave up, by name.
    """
    waiting = collections.deque(entries)
    running: dict[int, _Running] = {}
    failed: dict[str, DivergenceError] = {}
    with loop.StopRequest() as stop:
        stopping = False
        while True:
            if not stopping:
                _fill(lanes, waiting, running, failed)
            if not running:
                return failed
            if len(running) <= lanes.width // 2:
                running = _narrow(lanes, running)
            ends: dict[int, Callable[[], None]] = {}
            with jax.transfer_guard("disallow"):
                read = _step(lanes, running)
                stopping = stop.requested(lanes.steps)
                answer = functools.partial(_answer, read, stopping)
                for lane, one in running.items():
                    if (end := _go_on(one, answer(lane), failed)) is not None:
                        ends[lane] = end
            on_step(len(running))
            for lane, end in ends.items():
                del running[lane]
                end()


def _fill(
    lanes: TrainingLanes,
    waiting: collections.deque[WaitingRun[Any]],
    running: dict[int, _Running],
    failed: dict[str, DivergenceError],
) -> None:
    """Begins waiting runs in the empty lanes; a finished one may end before its first step."""
    for lane in range(lanes.width):
        while waiting and lane not in running:
            entry = waiting.popleft()
            begun = entry.begin()
            seat = _LaneSeat(lanes, lane, begun.state)
            one = _Running(entry, begun, seat, begun.walk(seat), None)
            if (end := _go_on(one, None, failed)) is None:
                running[lane] = one
            else:
                end()


def _go_on(
    one: _Running, taken: loop.Taken | None, failed: dict[str, DivergenceError]
) -> Callable[[], None] | None:
    """Continues a run. Returns None if it asks for another step; otherwise a function that finishes
    the run or records in `failed` why it gave up."""
    try:
        one.batch = next(one.walk) if taken is None else one.walk.send(taken)
        return None
    except StopIteration as end:
        return functools.partial(one.begun.finish, end.value)
    except DivergenceError as error:
        return functools.partial(failed.__setitem__, one.entry.name, error)


def _answer(read: Callable[[], dict[str, np.ndarray]], stopping: bool, lane: int) -> loop.Taken:
    """What a run's walk is sent after its step, with the metrics of its lane."""
    return loop.Taken(
        lambda: {name: values[lane] for name, values in read().items()}, lambda _: stopping
    )


def _step(
    lanes: TrainingLanes, running: Mapping[int, _Running]
) -> Callable[[], dict[str, np.ndarray]]:
    placed = {lane: one.begun.place(one.batch)[0] for lane, one in running.items()}
    numbers = {lane: one.begun.numbers(one.batch.step) for lane, one in running.items()}
    # A lane without a run repeats another's batch, and its result is never read.
    some = next(iter(running))
    return lanes.step(
        [placed.get(lane, placed[some]) for lane in range(lanes.width)],
        max(one.batch.used for one in running.values()),
        [numbers.get(lane, numbers[some]) for lane in range(lanes.width)],
    )


def _narrow(lanes: TrainingLanes, running: Mapping[int, _Running]) -> dict[int, _Running]:
    """Removes empty lanes; the program is compiled again for the rest."""
    kept = sorted(running)
    lanes.narrow(kept)
    for number, lane in enumerate(kept):
        running[lane].seat.number = number
    return {number: running[lane] for number, lane in enumerate(kept)}
