"""Stage `plan`: whether a run fits a slice, how fast it can be and its price, before renting it.

The programs of the run's own stage are compiled ahead of time for the slice, from shapes alone.

plans/*.json   one for each run, model and slice; a finished one is not compiled again
plan.json      all of them
plan.md        the table
"""

import dataclasses
import hashlib
import importlib.metadata
import itertools
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from safety_jax.base import files, trees
from safety_jax.base.errors import ConfigError, DataError, UserError
from safety_jax.base.memory import GIB
from safety_jax.base.settings import Whole
from safety_jax.planning import chips, formulas, layouts, programs, roofline, sizes, table
from safety_jax.stages import checks, config_files, precision
from safety_jax.stages.planned import PlanRequest, ProgramChoice, StageProgram
from safety_jax.stages.planned_passes import DECODING, JUDGING
from safety_jax.stages.planned_sweep import SWEEPING
from safety_jax.stages.planned_training import TRAINING
from safety_jax.training import config_record, workdir

STAGES = {
    "sft": TRAINING, "dpo": TRAINING, "kto": TRAINING, "orpo": TRAINING, "reward": TRAINING,
    "raft": DECODING, "score": JUDGING, "sweep": SWEEPING,
}  # fmt: skip
PLANS = "plans"
MESHES = ("auto", "run")
COMPILATIONS = 4  # the most that a search may take, the first included
FIRST_TRY_SHARE = 0.8  # of memory, by formula: the rows of the first try need no more


def run(config: ConfigDict, folder: str) -> None:
    """Runs the stage; called again, it continues where it stopped.

    Raises:
        UserError: any error that the user can fix; a single plan that does not fit is one.
    """
    jax.config.update("jax_platforms", "cpu")  # nothing runs, so leave accelerators alone
    if jax.process_count() > 1:
        raise ConfigError("plan runs in one process; leave out --distributed")
    plan = config.plan
    if plan.mesh not in MESHES:
        raise ConfigError(f"plan.mesh {plan.mesh!r}: expected {' or '.join(MESHES)}")
    slices = [chips.parse_slice(name) for name in plan.slice]
    prices = read_prices(plan.price, slices)
    runs = {spec: load_run(spec) for spec in plan.run}
    set_values(runs, tuple(plan.set))
    for spec, one in runs.items():
        checks.check(one, f"plan.run {spec!r}", complete=False)
    runs = {spec: precision.settled(one, "tpu") for spec, one in runs.items()}  # GPUs: the same
    cells = list(itertools.product(runs, config.model.size, slices))
    if not cells:
        raise ConfigError("plan.run, model.size and plan.slice must each name at least one")
    for size in config.model.size:
        sizes.read(size)  # a misspelled one is reported before others are compiled for minutes
    found = []
    with workdir.prepare(folder, config) as place:
        (place.path / PLANS).mkdir(exist_ok=True)
        for number, (spec, size, where) in enumerate(cells, 1):
            made = known_or_made(place, config, runs[spec], spec, size, where)
            made = made | {"price": priced(made, where, prices)}
            found.append(made)
            print(f"[{number}/{len(cells)}] {made['problem'] or table.details(made)}", flush=True)
        text = table.markdown(found, bool(prices))
        said = (*table.ASSUMPTIONS, *table.published(slices))
        notes = "".join(f"- {line}\n" for line in said)
        files.write(place.path / "plan.json", files.canonical({"plans": found}))
        files.write(place.path / "plan.md", f"{text}\n{notes}")
        print(f"\n{table.terminal(found, bool(prices))}\n\n{notes}{place.path / 'plan.md'}")
    if len(found) == 1 and found[0]["problem"]:
        raise ConfigError(found[0]["problem"])


# ---------------------------------------------------------------------------- the request


def load_run(spec: str) -> ConfigDict:
    """A run's config, named as for `--config`: `dpo:loss=safe`.

    Raises:
        ConfigError: no such file, an unknown argument, or a stage that cannot be planned.
    """
    config = config_files.load(spec, "plan.run")
    if config.stage not in STAGES:
        raise ConfigError(f"plan.run {spec!r}: its stage is {config.stage}; expected one of "
                          f"{', '.join(STAGES)}")  # fmt: skip
    return config


def set_values(runs: dict[str, ConfigDict], values: Sequence[str]) -> None:
    """Sets values, such as `data.max_length=2048`, in every run that has the key.

    Raises:
        ConfigError: no run has the key, or the value is of another type.
    """
    for text in values:
        key, equals, written = text.partition("=")
        having = [config for config in runs.values() if key in trees.flatten(config.to_dict())]
        if not equals or not having:
            raise ConfigError(
                f"plan.set {text!r}: expected KEY=VALUE with a key of plan.run's config, such as "
                "data.max_length=2048"
            )
        for config in having:
            now = trees.flatten(config.to_dict())[key]
            setting = checks.setting_of(checks.table(config), key)
            if isinstance(setting, Whole) and written not in setting.names:
                now = 0
            try:
                config.update_from_flattened_dict({key: _as_type(written, now)})
            except (KeyError, ValueError) as error:
                raise ConfigError(
                    f"plan.set {text!r}: expected {checks.expected(config, key)}"
                ) from error


def _as_type(written: str, now: Any) -> Any:
    """`written` as a value of the type of `now`; raises a KeyError or ValueError."""
    if isinstance(now, bool):
        return {"true": True, "false": False}[written.lower()]
    if isinstance(now, tuple):
        return tuple(written.split(","))
    return type(now)(written)


def read_prices(values: Sequence[str], slices: Sequence[chips.Slice]) -> dict[str, float]:
    """`v5e=1.20` -> {"v5e": 1.2}: the price of a chip-hour of the slices, in any currency."""
    planned = list(dict.fromkeys(where.name.partition(":")[0] for where in slices))
    found = {}
    for text in values:
        kind, _, number = text.partition("=")
        if kind not in chips.CHIPS or not re.fullmatch(r"\d+(\.\d+)?", number):
            raise ConfigError(
                f"plan.price {text!r}: expected CHIP=PRICE for a chip-hour, such as "
                f"{next(iter(chips.CHIPS))}=3.22"
            )
        if kind not in planned:
            known = " or ".join(planned)
            raise ConfigError(f"plan.price {text!r}: plan.slice has no such chip; expected {known}")
        found[kind] = float(number)
    return found


# ---------------------------------------------------------------------------- a plan


def known_or_made(
    place: workdir.Workdir,
    config: ConfigDict,
    run_config: ConfigDict,
    spec: str,
    size: str,
    where: chips.Slice,
) -> dict[str, Any]:
    """The plan that an earlier start wrote, or a new one."""
    facts = {
        "config": config_record.recorded(run_config),
        "model": repr(sizes.read(size)),
        "slice": where.name,
        "mesh": config.plan.mesh,
        "example_tokens": config.plan.example_tokens,
        "search": config.plan.search,
        "compile": config.plan.compile,
        "versions": versions(where, config.plan.compile),
    }
    key = hashlib.sha256(files.canonical(facts).encode()).hexdigest()
    name = re.sub(r"[^\w.-]+", "-", f"{spec}_{size}_{where.name}")
    file = place.path / PLANS / f"{name}-{key[:8]}.json"
    if file.exists():
        return files.read_object(file, DataError, "remove it, and this plan is made again")
    began = time.perf_counter()
    made = {"run": label(spec), "model": Path(size).name, "slice": where.name,
            "chips": where.chips}  # fmt: skip
    try:
        found = layouts.devices(where, compiled=config.plan.compile)
        asked = PlanRequest(
            run_config, sizes.read(size), where, found, config.plan.mesh == "run",
            config.plan.example_tokens,
        )  # fmt: skip
        made |= make(asked, STAGES[run_config.stage], config.plan.search)
    except UserError as error:
        if len(config.plan.run) * len(config.model.size) * len(config.plan.slice) == 1:
            raise
        made |= {"problem": str(error), "memory": None, "needed": None, "fits": False,
                 "largest": None, "exchanges": []}  # fmt: skip
    made |= {"versions": facts["versions"], "seconds": time.perf_counter() - began}
    files.write(file, files.canonical(made))
    return made


def versions(where: chips.Slice, compiled: bool) -> dict[str, str]:
    """The versions that a plan depends on."""
    names = ["jax", "libtpu"] if where.is_tpu and compiled else ["jax"]
    try:
        return {name: importlib.metadata.version(name) for name in names}
    except importlib.metadata.PackageNotFoundError as error:
        raise ConfigError(chips.NO_LIBTPU) from error


def label(spec: str) -> str:
    """configs/dpo.py:loss=safe -> dpo:loss=safe"""
    path, colon, argument = spec.partition(":")
    return f"{Path(path).stem}{colon}{argument}"


def make(asked: PlanRequest, planned: StageProgram, search: bool) -> dict[str, Any]:
    """Compiles the run's programs; if rows may be chosen, with the fastest of those that fit."""
    choice = begin(asked, planned, planned.choose(asked))
    tries = {choice.rows: attempt(asked, planned, choice)}
    while len(tries) < COMPILATIONS:
        fits = any(one["fits"] for one in tries.values())
        if not search and (fits or not choice.free):
            break
        rows = next_try(choice, tries, asked.memory, planned.microbatched)
        if rows is None:
            break
        tries[rows] = attempt(asked, planned, dataclasses.replace(choice, rows=rows))
    fitting = [rows for rows, one in tries.items() if one["fits"]]
    most = max(fitting, default=0)
    fastest = min(fitting, key=lambda rows: (per_token(tries[rows]), -rows), default=0)
    rows = fastest if fastest and choice.free else choice.rows
    taken = tries[rows]
    return {
        **taken,
        "unit": planned.unit,
        "mesh": list(choice.mesh),
        "rows": rows,
        "largest": largest(choice, tries, most) if search and most else None,
        "formula": asked.by_formula,
        "problem": None if taken["fits"] else too_large(asked, planned, choice, taken, fastest),
    }


def begin(asked: PlanRequest, planned: StageProgram, choice: ProgramChoice) -> ProgramChoice:
    """The choice with as many rows as are likely to fit, by formula, if rows may be chosen."""
    rows = choice.rows
    while choice.free and rows > choice.step:
        listed = planned.programs(asked, dataclasses.replace(choice, rows=rows))
        if max(programs.by_formula(one).needed for one in listed) <= FIRST_TRY_SHARE * asked.memory:
            break
        rows = layouts.round_up(rows // 2, choice.step)
    return dataclasses.replace(choice, rows=rows)


def largest(choice: ProgramChoice, tries: dict[int, dict[str, Any]], most: int) -> dict[str, Any]:
    """The most rows that fitted; `exact` if the next larger number did not."""
    failing = [rows for rows, one in tries.items() if not one["fits"]]
    whole = most >= choice.most
    exact = whole or min(failing, default=choice.most) - most <= choice.step
    return {"rows": most, "all": whole, "exact": exact, "times": tries[most]["times"]}


def per_token(made: dict[str, Any]) -> float:
    """Seconds for a token, if nothing overlaps."""
    return float(made["times"]["worst"] / made["times"]["tokens"])


def next_try(
    choice: ProgramChoice, tries: dict[int, dict[str, Any]], room: float, microbatched: bool
) -> int | None:
    """The rows to try next: those of `next_rows`. A step in microbatches has as few empty rows as
    possible in its first try that fits; and its last try is the same for the most rows that fit."""
    rows = next_rows(choice, tries, room)
    most = max((rows for rows, one in tries.items() if one["fits"]), default=0)
    if not microbatched:
        return rows
    if not most:
        return None if rows is None else choice.even(rows)
    if rows is None or len(tries) == COMPILATIONS - 1:
        even = choice.even(most)
        return rows if even in tries else even
    return rows


def next_rows(choice: ProgramChoice, tries: dict[int, dict[str, Any]], room: float) -> int | None:
    """The rows to try next: memory is extrapolated linearly from two tries, and the result lies
    between the most rows that fitted and the fewest that did not; None if these are neighbours."""
    unit = choice.step
    fitting = [rows for rows, one in tries.items() if one["fits"]]
    failing = [rows for rows, one in tries.items() if not one["fits"]]
    low, high = max(fitting, default=0), min(failing, default=choice.most + unit)
    if high - low <= unit:
        return None
    known = sorted((rows, one["needed"]) for rows, one in tries.items())
    if len(known) == 1:
        rows = choice.most if fitting else known[0][0] // 2
    else:
        (r0, m0), (r1, m1) = known[-2:] if fitting else known[:2]
        slope = max((m1 - m0) / (r1 - r0), 1.0)
        rows = int(r0 + (room - m0) / slope)
    return min(max(rows // unit * unit, low + unit), high - unit)


def attempt(asked: PlanRequest, planned: StageProgram, choice: ProgramChoice) -> dict[str, Any]:
    """Memory, collectives and times of the run's programs; the memory is that of the largest, the
    rest that of the last."""
    where, devices = asked.where, asked.where.devices
    available = asked.memory
    listed = planned.programs(asked, choice)
    measured = []
    for one in listed:
        if asked.by_formula:
            measured.append(programs.by_formula(one))
            continue
        print(f"compiling for {where.name}: {one.name}", flush=True)
        measured.append(programs.measure(one, devices))
    fullest = max(measured, key=lambda one: one.needed)
    timed, shown = measured[-1], listed[-1]
    fits = all(one.memory is not None and one.needed <= available for one in measured)
    received = dict(shown.exchanged)
    exchanges = [
        {
            "kind": table.FORMULA,
            "place": f"{group.stride} apart",
            "group": group.size,
            "times": 1,
            "received": size,
        }
        for group, size in received.items()
    ]
    if timed.exchanges is not None:
        exchanges = [total._asdict() for total in timed.exchanges]
        received = dict.fromkeys((chips.Group(total.group) for total in timed.exchanges), 0.0)
        for total in timed.exchanges:
            received[chips.Group(total.group)] += total.received
    seconds = formulas.network_seconds(received, where)
    times = roofline.estimate(shown.load, seconds, where)
    return {
        "program": shown.name,
        "fits": fits,
        "needed": fullest.needed,
        "available": available,
        "memory": None if fullest.memory is None else dataclasses.asdict(fullest.memory)
        | {"total": fullest.memory.total},
        "exchanges": exchanges,
        "times": dataclasses.asdict(times) | {
            "best": times.best, "worst": times.worst, "bound": times.bound,
            "mfu_best": times.mfu(times.best), "mfu_worst": times.mfu(times.worst),
        },
        "compile_seconds": sum(one.seconds for one in measured),
    }  # fmt: skip


def too_large(
    asked: PlanRequest,
    planned: StageProgram,
    choice: ProgramChoice,
    made: dict[str, Any],
    fitting: int,
) -> str:
    """The message that says what to change.

    Args:
        fitting: rows that fit; 0 if none are known.
    """
    needed, available = made["needed"] / GIB, made["available"] / GIB
    text = (
        f"{made['program']} on {asked.where.name} needs {needed:.2f} GiB a device, which has "
        f"{available:.2f}; "
    )
    mesh, config = choice.mesh, asked.config
    changes = []
    if fitting:
        changes.append(f"{planned.setting(asked, fitting)}, which fits")
    elif choice.rows > choice.step:
        changes.append(f"fewer rows (less than {planned.setting(asked, choice.rows)})")
    if "model" in config and choice.remat != "full" and config.stage != "raft":
        changes.append("model.remat=full")
    if mesh.data > 1:
        changes.append(f"mesh.fsdp={mesh.fsdp * mesh.data} with mesh.data=1")
    wider = [n for n in layouts.tensor_sizes(asked.model, len(asked.found)) if n > mesh.tensor]
    if wider:
        changes.append(f"mesh.tensor={wider[0]}")
    return text + "change " + ", or ".join([*changes, "the slice to a larger one"])


def priced(
    made: dict[str, Any], where: chips.Slice, prices: dict[str, float]
) -> list[float] | None:
    """The price of a million tokens, best and worst case."""
    rate = prices.get(where.name.partition(":")[0])
    if rate is None or not made["fits"]:
        return None
    fields = {field.name for field in dataclasses.fields(roofline.Times)}
    times = roofline.Times(**{name: v for name, v in made["times"].items() if name in fields})
    return list(roofline.price(times, where, rate))
