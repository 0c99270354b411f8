"""Programs before compilation, and what their compilation tells: memory and exchanges."""

import dataclasses
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

from safety_jax.base.memory import GIB
from safety_jax.planning import collectives
from safety_jax.planning.chips import Group
from safety_jax.planning.formulas import Load

# XLA's messages that a program does not fit on a TPU: "... (24.31G) exceeds available HBM
# (15.75G)", or "Used 24.31G of 15.75G hbm".
_TOO_LARGE = (
    re.compile(r"\(([\d.]+)([KMGT])\) exceeds available"),
    re.compile(r"Used ([\d.]+)([KMGT]) of "),
)
_UNITS = {"K": 2**10, "M": 2**20, "G": GIB, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Program:
    """One compiled function of a run.

    Attributes:
        name: what it does, for reports.
        lower: lowers it for abstract arrays; `compile()` the result.
        arguments: bytes of the arguments on one device, by what they are.
        held: bytes of other arrays that stay on the device while it runs, by what they are.
        unknown_trips: of loops whose length depends on data, see `collectives.Collective.times`.
        load: of one run, by formula.
        temporaries: bytes of one device by formula, for chips without a compiler here.
        exchanged: bytes that one device receives by formula, by group, for such chips.
    """

    name: str
    lower: Callable[[], Any]
    arguments: Mapping[str, int]
    held: Mapping[str, int]
    unknown_trips: tuple[int, ...]
    load: Load
    temporaries: float
    exchanged: Mapping[Group, float]


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of one device.

    Attributes:
        parts: arguments and held arrays by what they are, without padding.
        arguments: of the program in the compiler's layout, with padding.
        held: other arrays that stay on the device, see `Program`.
        temporaries: what the program needs beside its arguments: activations, gathered kernels.
        program: its code.
    """

    parts: Mapping[str, int]
    arguments: int
    held: int
    temporaries: int
    program: int

    @property
    def total(self) -> int:
        return self.arguments + self.held + self.temporaries + self.program


@dataclasses.dataclass(frozen=True)
class CompiledProgram:
    """What is known about a program.

    Attributes:
        memory: None if the program is too large to compile.
        needed: bytes of one device; for a program that is too large, by the compiler's message.
        exchanges: see `collectives.totals`; None if the program did not compile, or jax cannot
            print it.
        seconds: of compilation.
    """

    memory: Memory | None
    needed: float
    exchanges: tuple[collectives.Total, ...] | None
    seconds: float


def measure(program: Program, devices: int) -> CompiledProgram:
    """Compiles a program, and reads what it needs.

    Args:
        devices: the number of devices on which it runs.
    """
    began = time.perf_counter()
    held = sum(program.held.values())
    try:
        compiled = program.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        needed = too_large(str(error))
        if needed is None:
            raise
        return CompiledProgram(None, needed + held, None, time.perf_counter() - began)
    memory = read_memory(program, compiled.memory_analysis())
    exchanges = read_exchanges(compiled, devices, program.unknown_trips)
    return CompiledProgram(memory, float(memory.total), exchanges, time.perf_counter() - began)


def read_exchanges(
    compiled: Any, devices: int, unknown_trips: tuple[int, ...]
) -> tuple[collectives.Total, ...] | None:
    """What a compiled program exchanges; None if jax cannot print it."""
    try:
        text = compiled.as_text()
    except jax.errors.JaxRuntimeError:
        # A libtpu that is newer than jax may use instructions that jax cannot read back.
        return None
    return tuple(collectives.totals(collectives.read(text, devices), unknown_trips))


def by_formula(program: Program) -> CompiledProgram:
    """What a program needs by formula, for chips without a compiler here."""
    memory = Memory(
        parts={**program.arguments, **program.held},
        arguments=sum(program.arguments.values()),
        held=sum(program.held.values()),
        temporaries=round(program.temporaries),
        program=0,
    )
    return CompiledProgram(memory, float(memory.total), None, 0.0)


def read_memory(program: Program, stats: Any) -> Memory:
    """The compiler's account of a program's memory; donated arguments count once."""
    fresh = stats.output_size_in_bytes - stats.alias_size_in_bytes
    return Memory(
        parts={**program.arguments, **program.held},
        arguments=stats.argument_size_in_bytes,
        held=sum(program.held.values()),
        temporaries=stats.temp_size_in_bytes + fresh,
        program=stats.generated_code_size_in_bytes,
    )


def too_large(message: str) -> float | None:
    """Bytes that a program would need, from the compiler's message; None for other messages."""
    for spelling in _TOO_LARGE:
        found = spelling.search(message)
        if found:
            return float(found.group(1)) * _UNITS[found.group(2)]
    return None
