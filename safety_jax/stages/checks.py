"""A config against the table: every value is in its range, every key there, none too many.

Looked at once, when the config has all its flags and before anything is read or written: by `main`
for a run and for the steps of a recipe, by stage `plan` for the runs that it plans.
"""

import difflib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from safety_jax.base import trees
from safety_jax.base.errors import ConfigError
from safety_jax.base.settings import Anything, OneOf, Setting, expectation, is_empty
from safety_jax.stages import metric_names
from safety_jax.stages.judge_schema import JUDGES
from safety_jax.stages.schema import CHANGES, STAGES
from safety_jax.stages.shared_schema import HARMFUL, STORED, Table

_SHOWN = 80  # characters of a value in a message
_KIND = OneOf(tuple(JUDGES))


def problems(config: ConfigDict, *, complete: bool = True) -> list[str]:
    """One line for each value that does not fit: key, value, and what is expected.

    Args:
        complete: also what must be given, such as a model's folder; a plan needs none.
    """
    stages = {"": config} | {f"{name}.": config[name] for name in _steps(config)}
    for prefix, one in stages.items():
        if one.stage not in STAGES:
            return [f"{prefix}stage is {one.stage!r}; expected one of {', '.join(STAGES)}"]
    known, flat = table(config), values(config)
    found = [*_unknown_keys(known, flat), *_missing_keys(known, flat)]
    for key, value in flat.items():
        setting = setting_of(known, key)
        if setting is None:
            continue
        if is_empty(setting, value):
            if complete:
                text = f"{key} is empty; expected {setting.describe()}; set --config.{key}=..."
                found.append(text)
        elif not setting.fits(value):
            text = f"{key} is {value!r:.{_SHOWN}}; expected {expectation(setting, value)}"
            found.append(text)
    if not found:
        found = [f"{prefix}{text}" for prefix, one in stages.items() for text in broken_rules(one)]
    return found


def check(config: ConfigDict, what: str, *, complete: bool = True) -> None:
    """Raises a ConfigError for the first of the `problems`; the message begins with `what`."""
    found = problems(config, complete=complete)
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise ConfigError(f"{what}: {found[0]}{more}")


def expected(config: ConfigDict, key: str) -> str:
    """What the table expects of a key: "a number, 0 or more, below 1"."""
    setting = setting_of(table(config), key)
    return "a group of keys" if setting is None else setting.describe()


# ---------------------------------------------------------------------------- keys


def swept(config: ConfigDict) -> str:
    """The stage that runs of a sweep are: the one whose group the config has."""
    return "dpo" if "dpo" in config else "sft"


def stage_table(config: ConfigDict) -> Table:
    """The table of the stage alone; of a sweep, with that of its runs."""
    of_runs = STAGES[swept(config)] if config.stage == "sweep" else {}
    return {**of_runs, **STAGES[config.stage]}


def table(config: ConfigDict) -> Table:
    """The table of this config: of its stage, of the judges that it has, of its steps."""
    found = stage_table(config) if config.stage in STAGES else {}
    if "score" in config and "judges" in config.score:
        for name, row in config.score.judges.items():
            kind = row["kind"] if isinstance(row, ConfigDict) and "kind" in row else ""
            keys = {"kind": _KIND} | (JUDGES[kind] if kind in JUDGES else {"*": Anything()})
            found |= {f"score.judges.{name}.{key}": setting for key, setting in keys.items()}
    for name in _steps(config):
        found |= {f"{name}.{key}": setting for key, setting in table(config[name]).items()}
    return found


def values(config: ConfigDict) -> dict[str, Any]:
    """The values of a config by key, groups as the table has them, without those of a recipe's
    groups that are no steps."""
    steps = _steps(config)
    idle = [key for key, group in config.items() if _is_config(group) and key not in steps]
    flat = trees.flatten(config.to_dict())
    order = list(dict.fromkeys([*table(config), *flat]))
    groups = list(dict.fromkeys(key.partition(".")[0] for key in order))
    by_group = sorted(order, key=lambda key: groups.index(key.partition(".")[0]))
    return {k: flat[k] for k in by_group if k in flat and k.partition(".")[0] not in idle}


def setting_of(known: Table, key: str) -> Setting | None:
    """The table's entry of a key, its own or that of all keys of its group."""
    group = f"{key.rpartition('.')[0]}.*"
    return known[key] if key in known else known[group] if group in known else None


def _steps(config: ConfigDict) -> list[str]:
    """The steps of a recipe that are whole configs; what else it may name, stage `recipe` says."""
    if config.stage != "recipe" or "recipe" not in config or "steps" not in config.recipe:
        return []
    names = config.recipe.steps if isinstance(config.recipe.steps, tuple | list) else ()
    return [name for name in dict.fromkeys(names) if name in config and _is_config(config[name])]


def _is_config(group: Any) -> bool:
    return isinstance(group, ConfigDict) and "stage" in group


def _unknown_keys(known: Table, flat: Mapping[str, Any]) -> Iterator[str]:
    for key in flat:
        if setting_of(known, key) is None:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            yield f"{key} is a key that nothing reads{hint}"


def _missing_keys(known: Table, flat: Mapping[str, Any]) -> Iterator[str]:
    for key, setting in known.items():
        if key not in flat and not key.endswith(".*"):
            yield f"{key} is missing; expected {setting.describe()}"


# ---------------------------------------------------------------------------- rules
# What single values cannot say. Each is a function of a config whose values all fit.


def broken_rules(config: ConfigDict) -> list[str]:
    """The lines of the rules that a config breaks."""
    found = [rule(config) for rule in RULES[config.stage]]
    return [text for text in found if text is not None]


def _length(config: ConfigDict) -> str | None:
    train = config.train
    flops = train.max_flops if "max_flops" in train else 0.0
    if flops and train.max_steps:
        return (
            f"train.max_flops is {flops:g} and train.max_steps {train.max_steps}; expected one of "
            "them above 0 and the other 0"
        )
    if not (flops or train.max_steps or train.epochs):
        return "train.epochs and train.max_steps are both 0; expected one of them above 0"
    return None


def _best_is_measured(config: ConfigDict) -> str | None:
    """A best checkpoint is one that was measured."""
    if config.checkpoint.export == "best" and not config.data.eval and not config.data.eval_rows:
        return (
            "checkpoint.export is best, but nothing is measured; expected data.eval, or "
            "data.eval_rows above 0, or checkpoint.export=last"
        )
    return None


def _best_is_good(config: ConfigDict) -> str | None:
    """A metric that everybody wants low or high is not sought for its worst value."""
    saving = config.checkpoint
    wanted = metric_names.best_of(saving.best_metric)
    if saving.export == "best" and wanted not in (None, saving.best_is):
        return (
            f"checkpoint.best_is is {saving.best_is}, which is the worst of "
            f"{saving.best_metric}; expected {wanted}"
        )
    return None


def _metric_of_kind(config: ConfigDict) -> str | None:
    known = metric_names.METRICS_OF_JUDGES[config.reward.kind]
    if known.fits(config.checkpoint.best_metric):
        return None
    return (
        f"checkpoint.best_metric is {config.checkpoint.best_metric!r}, which a judge of the kind "
        f"{config.reward.kind} has not; expected {known.describe()}"
    )


def _direction_of_kind(config: ConfigDict) -> str | None:
    kind, direction = config.reward.kind, config.reward.direction
    if kind in ("cost", "binary") and direction != HARMFUL:
        return (
            f"reward.direction is {direction!r}, but a judge of the kind {kind} scores harm; "
            f"expected {HARMFUL!r}"
        )
    return None


def _beginnings_are_not_learned(config: ConfigDict) -> str | None:
    data = config.data
    if data.train_on == "everything" and data.recovery_share > 0:
        return (
            f"data.recovery_share is {data.recovery_share:g}, but data.train_on is everything, "
            "which would learn harmful beginnings; expected response, or a share of 0"
        )
    return None


def _answers_are_begun_with(config: ConfigDict) -> str | None:
    data = config.data
    if data.recovery and data.recovery_share == 0:
        return (
            "data.recovery is given, but data.recovery_share is 0, so that no row begins with one "
            "of its answers; expected a share above 0, or no data.recovery"
        )
    return None


def _likelihood_alone(config: ConfigDict) -> str | None:
    if config.checkpoint.best_metric == "eval/nll_loss" and config.sft.objective == "likelihood":
        return (
            "checkpoint.best_metric is 'eval/nll_loss', which is the loss itself under "
            "sft.objective=likelihood; expected 'eval/loss'"
        )
    return None


def _reference(config: ConfigDict) -> str | None:
    if config.dpo.reference == "none" and config.dpo.objective != "simpo":
        return (
            f"dpo.reference is none, but dpo.objective {config.dpo.objective} compares with a "
            "reference; expected cached or live; only simpo can do without"
        )
    return None


def _tokens_are_weighed(config: ConfigDict) -> str | None:
    dpo, weighted = config.dpo, config.dpo.objective == "weighted_door"
    if dpo.proxy and not weighted:
        return (
            f"dpo.proxy is {dpo.proxy!r}, but dpo.objective {dpo.objective} weighs no tokens; "
            'expected weighted_door, or dpo.proxy=""'
        )
    if weighted and dpo.reference != "cached":
        return (
            f"dpo.reference is {dpo.reference}, but dpo.objective weighted_door needs the "
            "reference before training, to weigh tokens; expected cached"
        )
    return None


def _codes_stand_still(config: ConfigDict) -> str | None:
    base = config.model.base
    if base != STORED and config.lora.rank == 0:
        return (
            f"model.base is {base}, but lora.rank is 0: a quantised base cannot be trained in "
            f"full, only adapters beside it; expected a rank above 0, or model.base={STORED}"
        )
    return None


def _layers_have_adapters(config: ConfigDict) -> str | None:
    if config.lora.layers and config.lora.rank == 0:
        return (
            f"lora.layers is {config.lora.layers!r}, but lora.rank is 0, which trains every layer "
            'in full; expected a rank above 0, or lora.layers=""'
        )
    return None


def _codes_take_nothing_up(config: ConfigDict) -> str | None:
    base = config.model.base
    if base != STORED and config.raft.adapter == "merge":
        return (
            f"raft.adapter is merge, but model.base is {base}, which cannot take adapters up; "
            f"expected raft.adapter=continue, or model.base={STORED}"
        )
    return None


def _something_to_merge(config: ConfigDict) -> str | None:
    if config.raft.adapter == "merge" and config.lora.rank == 0:
        return "raft.adapter is merge, but lora.rank is 0; expected continue, or a rank above 0"
    return None


def _fresh_adapters(config: ConfigDict) -> str | None:
    if not config.model.adapter:
        return None
    return "model.adapter is given; expected none: runs of a sweep begin with fresh adapters"


def _plain_likelihood(config: ConfigDict) -> str | None:
    if "sft" not in config or config.sft.objective == "likelihood":
        return None
    return (
        f"sft.objective is {config.sft.objective}; expected likelihood, which runs of a sweep share"
    )


def _room_for_prompts(config: ConfigDict) -> str | None:
    longest, new = config.data.max_length, config.sample.max_new_tokens
    if new >= longest:
        return (
            f"sample.max_new_tokens is {new}, which leaves no room for a prompt; expected less "
            f"than data.max_length, {longest}"
        )
    return None


def _room_for_answers(config: ConfigDict) -> str | None:
    longest, new = config.data.max_length, config.answer.max_new_tokens
    if new < longest:
        return None
    return (
        f"answer.max_new_tokens is {new}, which leaves no room for a prompt; expected less than "
        f"data.max_length, {longest}"
    )


def _known_changes(config: ConfigDict) -> str | None:
    unknown = [name for name in config.audit.changes if name not in CHANGES]
    if not unknown:
        return None
    return f"audit.changes names {unknown[0]!r}; expected some of {', '.join(CHANGES)}"


def _labels_are_whole(config: ConfigDict) -> str | None:
    data = config.data
    named = {"label": data.label, "positive": data.positive, "negative": data.negative}
    missing = [key for key, value in named.items() if not value]
    if len(missing) in (0, len(named)):
        return None
    return (
        f"data.{missing[0]} is empty; expected a column of labels (data.label), its values that "
        "say yes (data.positive) and those that say no (data.negative); or none of the three"
    )


Rule = Callable[[ConfigDict], str | None]
_TRAINING: tuple[Rule, ...] = (
    _length,
    _best_is_measured,
    _best_is_good,
    _codes_stand_still,
    _layers_have_adapters,
)
RULES: dict[str, tuple[Rule, ...]] = {
    "sft": (*_TRAINING, _beginnings_are_not_learned, _answers_are_begun_with, _likelihood_alone),
    "dpo": (*_TRAINING, _reference, _tokens_are_weighed),
    "kto": _TRAINING,
    "orpo": _TRAINING,
    "reward": (*_TRAINING, _metric_of_kind, _direction_of_kind),
    "raft": (
        _length,
        _codes_stand_still,
        _layers_have_adapters,
        _something_to_merge,
        _codes_take_nothing_up,
        _room_for_prompts,
    ),
    "sweep": (*_TRAINING, _fresh_adapters, _plain_likelihood),
    "collect": (_room_for_answers,),
    "score": (),
    "audit": (_known_changes, _labels_are_whole),
    "tamper": (_room_for_answers,),
    "evaluate": (),
    "attack": (),
    "curve": (),
    "recipe": (),
    "plan": (),
}
