"""Many runs in one program: as alone, with ends and stops in any order.

Sums of everything are other loops for many runs than for one, and may differ in the last digit.
"""

import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from safety_jax.base import meshes
from safety_jax.base.errors import DivergenceError
from safety_jax.training import lanes, loop, optim, steps
from safety_jax.training.checkpoint import Checkpoints

SIZES = {"short": 2, "long": 3, "middle": 2, "late": 3}  # of the weights; the widest has 3
LENGTHS = {"short": 2, "long": 9, "middle": 5, "late": 4}


class Stream:
    """Batch n of a run holds its own numbers; one may be poisoned, or come with a signal."""

    used = 1

    def __init__(self, name: str, poisoned: int = 0, signalled: int = 0):
        self.step, self._seed = -1, sorted(SIZES).index(name)
        self._poisoned, self._signalled = poisoned, signalled

    def __next__(self):
        batch = Stream.__new__(Stream)
        self.step += 1
        batch.step, batch.value = self.step, self._seed + 0.5 * self.step
        if self.step + 1 == self._poisoned:
            batch.value = np.nan
        if self.step + 1 == self._signalled:
            os.kill(os.getpid(), signal.SIGTERM)
        return batch

    def get_state(self):
        return {"step": self.step}

    def set_state(self, state):
        self.step = state["step"]


class Toy:
    """Runs that pull their weights to their numbers, each at its own rate."""

    def __init__(self, mesh, folder):
        self.mesh, self.folder = mesh, folder
        self.optimizer = optim.Optimization(0.0, "constant", 0, 0.0, 0.9, 0.999, 1e-8, 1.0)
        self.told: dict[str, list] = {name: [] for name in SIZES}
        self.ends: dict[str, loop.Result] = {}

    def rate(self, name):
        return 0.01 * (1 + len(name))

    def advance(self, state, frozen, batch, used, numbers):
        def loss(trainable, frozen, batch, total, key):
            noise = jax.random.normal(key)
            pulled = (trainable["w"] - batch["x"][0, 0] * frozen + noise) ** 2
            return {"loss": jnp.where(trainable["w"] == 0, 0.0, pulled).sum()}

        rate = lambda _: numbers["rate"]  # noqa: E731
        count = lambda batch: {"rows": jnp.float32(1)}  # noqa: E731
        return steps.advance(
            loss, count, self.optimizer.follow(rate), rate, None, state, frozen, batch, used
        )

    def where(self, state):
        return jax.tree.map(lambda _: meshes.sharding(self.mesh, ()), state)

    def start(self, size):
        optimizer = self.optimizer.follow(jnp.float32)
        weights = {"w": jnp.ones(size)}
        moments = optimizer.init(weights)
        state = steps.State(jnp.int32(0), weights, moments, jnp.array([0, 7], jnp.uint32))
        return jax.device_put(state, self.where(state))

    def place(self, batch):
        put = lambda x: meshes.put(self.mesh, (), np.asarray(x))  # noqa: E731
        return {"x": put(np.full((1, 1, 1), batch.value, "f"))}, put(np.int32(1))

    def walk(self, name, stream, seat):
        with Checkpoints(self.folder / name, 1, None) as saved:
            seat.take(loop.resume(saved, seat.give(), stream))
            return (
                yield from loop.walk(
                    seat,
                    stream,
                    evaluate=None,
                    evaluated=(),
                    rows=lambda batch: ["a row"],
                    on_step=lambda number, metrics, tables, batch: self.told[name].append(
                        (number, metrics["loss"], metrics["learning_rate"])
                    ),
                    on_evaluation=lambda *_: None,
                    checkpoints=saved,
                    best_metric="",
                    cadence=loop.Cadence(LENGTHS[name], 1, 100, 3),
                )
            )

    def together(self, width, **streams):
        """All runs, as many at a time; what gave up."""

        def begin(name):
            stream = streams.get(name) or Stream(name)
            return lanes.Begun(
                walk=lambda seat: self.walk(name, stream, seat),
                state=self.start(SIZES[name]),
                place=self.place,
                numbers=lambda step: {"rate": self.rate(name)},
                finish=lambda result: self.ends.update({name: result}),
            )

        pattern = self.start(3)
        program = lanes.TrainingLanes(
            width, self.advance, pattern, self.where(pattern), jnp.float32(0.5), self.mesh
        )
        self.widths = []
        entries = [lanes.WaitingRun(name, lambda name=name: begin(name)) for name in SIZES]
        return lanes.drive(
            entries, program, on_step=lambda taken: self.widths.append((program.width, taken))
        )

    def alone(self):
        step = jax.jit(self.advance)
        for name, size in SIZES.items():
            seat, numbers = loop.Seat(self.start(size)), {"rate": jnp.float32(self.rate(name))}

            def one(state, frozen, batch, used, numbers=numbers):
                return step(state, frozen, batch, used, numbers)

            walk = self.walk(name, Stream(name), seat)
            half = meshes.put(self.mesh, (), np.full((), 0.5, "f"))
            self.ends[name] = loop.drive(walk, seat, half, step=one, place=self.place)


@pytest.fixture(scope="module")
def alone(one_device, tmp_path_factory):
    toy = Toy(one_device, tmp_path_factory.mktemp("alone"))
    toy.alone()
    return toy


def assert_same(found, known, names=tuple(SIZES)):
    for name in names:
        for one, other in zip(found.told[name], known.told[name], strict=True):
            assert one == pytest.approx(other, rel=1e-5), name
        states = (found.ends[name].state, known.ends[name].state)
        for a, b in zip(*map(jax.tree.leaves, states), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, err_msg=name)


def test_runs_of_any_size_and_length_are_as_alone(alone, one_device, tmp_path):
    toy = Toy(one_device, tmp_path)
    assert toy.together(2) == {}
    assert_same(toy, alone)
    # short beside long, then middle, then late, which stays alone in a program of one.
    assert toy.widths == [(2, 2)] * 9 + [(1, 1)] * 2


def test_lanes_without_a_run_are_taken_out(alone, one_device, tmp_path):
    toy = Toy(one_device, tmp_path)
    assert toy.together(4) == {}
    assert_same(toy, alone)
    assert toy.widths == [(4, 4)] * 2 + [(4, 3)] * 2 + [(2, 2)] + [(1, 1)] * 4


def test_a_run_that_diverges_gives_its_lane_up(alone, one_device, tmp_path):
    toy = Toy(one_device, tmp_path)
    failed = toy.together(2, long=Stream("long", poisoned=3))
    assert list(failed) == ["long"]
    with pytest.raises(DivergenceError, match="loss is nan at step 3; rows .* a row"):
        raise failed["long"]
    assert_same(toy, alone, ("short", "middle", "late"))


def test_sigterm_saves_all_and_a_second_start_ends_with_the_same_weights(
    alone, one_device, tmp_path
):
    first = Toy(one_device, tmp_path)
    assert first.together(2, middle=Stream("middle", signalled=2)) == {}
    assert first.ends.keys() == {"short", "long", "middle"}
    assert first.ends["long"].interrupted and first.ends["middle"].interrupted
    second = Toy(one_device, tmp_path)
    assert second.together(3) == {}
    for name in SIZES:
        second.told[name] = first.told[name] + second.told[name]
    assert_same(second, alone)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
