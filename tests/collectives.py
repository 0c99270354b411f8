"""Reads, from the text of a compiled program, how its devices talk to each other."""

import collections
import re
from typing import NamedTuple

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")
_INSTRUCTION = re.compile(rf"= (.*?) (ragged-)?({'|'.join(KINDS)})(-start)?\(.*channel_id=(\d+)")
_CALL = re.compile(r"(?:body|calls|to_apply|condition)=%?([\w.\-]+)")
_SHAPE = re.compile(r"[a-z]+\d*\[([\d,]*)\]")


class Collective(NamedTuple):
    """One exchange; arrays that the compiler combined count as one.

    Attributes:
        place: "once", or the loop it is in as JAX names it: "jvp()/while" is the forward pass over
            layers, "transpose(jvp())/while" the backward pass.
        numbers: elements of its result.
    """

    kind: str
    place: str
    numbers: int


def read(program: str) -> list[Collective]:
    """Every collective of an HLO module, in the order of the text; a loop's stand there once.

    TPU programs spell one asynchronous collective as several fused pieces: they share a channel.
    """
    computations: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in program.splitlines():
        opened = re.match(r"(?:ENTRY )?%?([\w.\-]+) \(.*\{$", line)
        if opened:
            lines = computations.setdefault(opened.group(1), [])
        lines.append(line)
    loops = _loops(computations)
    found: dict[tuple[str, str], Collective] = {}
    for name, body in computations.items():
        for line in body:
            match = _INSTRUCTION.search(line)
            if match:
                shapes, _, kind, start, channel = match.groups()
                sizes = [_numbers(shape) for shape in _SHAPE.findall(shapes)]
                # A start carries its operand, and a gather's result is the larger.
                numbers = max(sizes) if start else sum(sizes)
                found.setdefault((kind, channel), Collective(kind, loops[name], numbers))
    return list(found.values())


def _numbers(dimensions: str) -> int:
    total = 1
    for size in filter(None, dimensions.split(",")):
        total *= int(size)
    return total


def _loops(computations: dict[str, list[str]]) -> dict[str, str]:
    """The innermost loop that each computation runs in."""
    callers: dict[str, tuple[str, str | None]] = {}
    for name, body in computations.items():
        for line in body:
            loop = None
            if " while(" in line:
                named = re.search(r'op_name="(?:jit\(\w+\)/)?([^"]*)"', line)
                loop = named.group(1) if named else "while"
            for called in _CALL.findall(line):
                callers.setdefault(called, (name, loop))

    def place(name: str) -> str:
        while name in callers:
            name, loop = callers[name]
            if loop is not None:
                return loop
        return "once"

    return {name: place(name) for name in computations}


def count(found: list[Collective]) -> dict[tuple[str, str], int]:
    return dict(collections.Counter((one.kind, one.place) for one in found))
