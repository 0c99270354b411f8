"""Runs of other stages as stage `plan` sees them, on devices that are there or not."""

import dataclasses
import importlib
from collections.abc import Sequence
from typing import Any

from safety_jax.models import llama
from safety_jax.planning import chips
from safety_jax.stages import precision
from safety_jax.stages.plan import STAGES
from safety_jax.stages.planned import PlanRequest


def asked(
    stage: str,
    model: llama.LlamaConfig,
    where: str,
    found: Sequence[Any],
    sizes: tuple[int, int, int],
    argument: str | None = None,
    **values: Any,
) -> PlanRequest:
    """A run by its own config, with some values set: `data__max_length=32`."""
    config = importlib.import_module(f"configs.{stage}").get_config(argument)
    flat = {key.replace("__", "."): value for key, value in values.items()}
    axes = ("mesh.data", "mesh.fsdp", "mesh.tensor")
    config.update_from_flattened_dict(flat | dict(zip(axes, sizes, strict=True)))
    config = precision.settled(config, "tpu")
    return PlanRequest(config, model, chips.parse_slice(where), found, keep=True, example_tokens=0)


def programs(run: PlanRequest, rows: int | None = None) -> list[Any]:
    """Of the run as its config has it, or with other rows."""
    planned = STAGES[run.config.stage]
    choice = planned.choose(run)
    if rows is not None:
        choice = dataclasses.replace(choice, rows=rows)
    return planned.programs(run, choice)
