"""Reads from the text of a compiled program what its devices exchange.

A collective inside a loop appears in the text once, but happens in every trip. The text gives the
number of trips of a loop over layers, but not of a loop whose length depends on data.
"""

import collections
import math
import re
from collections.abc import Iterable
from typing import NamedTuple

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")
_INSTRUCTION = re.compile(rf"= (.*?) (ragged-)?({'|'.join(KINDS)})(-start)?\(.*channel_id=(\d+)")
_CALL = re.compile(r"(?:body|calls|to_apply|condition)=%?([\w.\-]+)")
_OPENING = re.compile(r"(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_SHAPE = re.compile(r"([a-z]+\d*)\w*\[([\d,]*)\]")
_TRIPS = re.compile(r'known_trip_count"?[:=] ?\{"?n"?[:=]"?(\d+)')
ONCE = "once"


class Loop(NamedTuple):
    """A loop by its name in JAX: "jvp()/while" is the forward pass over layers, and
    "transpose(jvp())/while" the backward pass. `trips` is None if the length depends on data."""

    name: str
    trips: int | None


class Collective(NamedTuple):
    """One exchange; arrays that the compiler combined count as one.

    Attributes:
        loops: the loops around it, outermost first.
        numbers, size: elements and bytes of its result on one device.
        group: how many devices exchange with each other.
    """

    kind: str
    loops: tuple[Loop, ...]
    numbers: int
    size: int
    group: int

    @property
    def place(self) -> str:
        """The innermost loop's name, or "once"."""
        return self.loops[-1].name if self.loops else ONCE

    def times(self, unknown_trips: tuple[int, ...]) -> int:
        """How often it happens in a run of the program.

        Args:
            unknown_trips: trips of the loops around it whose length depends on data, outermost
                first; the last one also applies to all loops further in.
        """
        trips, number = 1, 0
        for loop in self.loops:
            if loop.trips is not None:
                trips *= loop.trips
            else:
                trips *= unknown_trips[min(number, len(unknown_trips) - 1)]
                number += 1
        return trips

    def received(self) -> float:
        """The least bytes that each device receives in one such exchange."""
        others = (self.group - 1) / self.group
        if self.kind == "all-reduce":
            return 2 * self.size * others  # a reduce-scatter, then an all-gather
        if self.kind == "reduce-scatter":
            return self.size * (self.group - 1)
        if self.kind == "collective-permute":
            return float(self.size)
        return self.size * others


def read(program: str, devices: int) -> list[Collective]:
    """All collectives of an HLO module in the order of the text; those in a loop appear once.

    TPU programs may write one asynchronous collective as several fused pieces, which share a
    channel and count once.

    Args:
        devices: of the program; the group of a collective that names none.
    """
    computations: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in program.splitlines():
        opened = _OPENING.match(line)
        if opened:
            lines = computations.setdefault(opened.group(1), [])
        lines.append(line)
    around = _loops(computations)
    found: dict[tuple[str, str], Collective] = {}
    for name, body in computations.items():
        for line in body:
            match = _INSTRUCTION.search(line)
            if match:
                shapes, _, kind, start, channel = match.groups()
                sizes = [(_numbers(dims), _bytes(kind)) for kind, dims in _SHAPE.findall(shapes)]
                # The shape of a start also has the operand; the result of a gather is the larger.
                kept = [max(sizes)] if start else sizes
                numbers = sum(count for count, _ in kept)
                size = sum(count * width for count, width in kept)
                one = Collective(kind, around[name], numbers, size, _group(line, devices))
                found.setdefault((kind, channel), one)
    return list(found.values())


def _numbers(dimensions: str) -> int:
    return math.prod(int(size) for size in filter(None, dimensions.split(",")))


def _bytes(dtype: str) -> int:
    """The bytes of one element; a boolean takes one."""
    bits = re.search(r"\d+", dtype)
    return max(1, int(bits.group()) // 8) if bits else 1


def _group(line: str, devices: int) -> int:
    """Devices of a replica group: `{{0,1},{2,3}}`, `[2,8]<=[16]`, `mesh['a'=2,'b'=8] {'b'}` or, in
    another order, `mesh['a'=8,'b'=2], device_ids=([2,8]T(1,0)) {'a'}`."""
    listed = re.search(r"replica_groups=\{\{([\d,]*)\}", line)
    if listed:
        return listed.group(1).count(",") + 1
    iota = re.search(r"replica_groups=\[(\d+),(\d+)\]", line)
    if iota:
        return int(iota.group(2))
    named = re.search(
        r"replica_groups=@?\w*mesh\w*\[(.*?)\](?:, device_ids=[^{]*)? ?\{(.*?)\}", line
    )
    if named:
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", named.group(1)))
        # An axis may be split: 'a':(1)4 is the first four of it.
        parts = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", named.group(2))
        return math.prod(int(part or sizes[axis]) for axis, part in parts)
    pairs = re.search(r"source_target_pairs=\{(.*?)\}\}", line)
    return 2 if pairs else devices


def _loops(computations: dict[str, list[str]]) -> dict[str, tuple[Loop, ...]]:
    """The loops that each computation runs in, outermost first."""
    callers: dict[str, tuple[str, Loop | None]] = {}
    for name, body in computations.items():
        for line in body:
            loop = None
            if " while(" in line:
                named = re.search(r'op_name="(?:jit\(\w+\)/)?([^"]*)"', line)
                loop = Loop(named.group(1) if named else "while", _trips(line, computations))
            for called in _CALL.findall(line):
                callers.setdefault(called, (name, loop))

    def around(name: str) -> tuple[Loop, ...]:
        found: list[Loop] = []
        while name in callers:
            name, loop = callers[name]
            if loop is not None:
                found.insert(0, loop)
        return tuple(found)

    return {name: around(name) for name in computations}


def _trips(line: str, computations: dict[str, list[str]]) -> int | None:
    """The trips of a loop: noted by the compiler, or the constant up to which it counts from 0."""
    noted = _TRIPS.search(line)
    if noted:
        return int(noted.group(1))
    named = re.search(r"condition=%?([\w.\-]+)", line)
    body = computations.get(named.group(1), []) if named else []
    compared = next((one for one in body if " compare(" in one and "direction=LT" in one), "")
    for operand in re.findall(r"%([\w.\-]+)", compared.partition(" compare(")[2].partition(")")[0]):
        for one in body:
            constant = re.search(rf"%{re.escape(operand)} = \S+ constant\((\d+)\)", one)
            if constant:
                return int(constant.group(1))
    return None


def count(found: Iterable[Collective]) -> dict[tuple[str, str], int]:
    """The number of collectives of each kind in each place of the text."""
    return dict(collections.Counter((one.kind, one.place) for one in found))


class Total(NamedTuple):
    """Exchanges of one kind in one place, over a run of the program.

    Attributes:
        times: the number of exchanges.
        received: bytes that each device receives in all of them.
    """

    kind: str
    place: str
    group: int
    times: int
    received: float


def totals(found: Iterable[Collective], unknown_trips: tuple[int, ...]) -> list[Total]:
    """What a run of the program exchanges, by kind, place and size of the group; most bytes first.

    Args:
        unknown_trips: see `Collective.times`.
    """
    sums: dict[tuple[str, str, int], tuple[int, float]] = {}
    for one in found:
        key = (one.kind, one.place, one.group)
        times, received = sums.get(key, (0, 0.0))
        trips = one.times(unknown_trips)
        sums[key] = times + trips, received + trips * one.received()
    return sorted(
        (Total(*key, *value) for key, value in sums.items()), key=lambda total: -total.received
    )
