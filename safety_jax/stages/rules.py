"""Rules that relate several values of a config; `checks.py` checks single values.

Each is a function of a config whose values all fit: the line that says what is wrong, or None.
"""

from collections.abc import Callable

from ml_collections import ConfigDict

from safety_jax.stages import metric_names
from safety_jax.stages.schema import CHANGES
from safety_jax.stages.shared_schema import HARMFUL, STORED


def broken_rules(config: ConfigDict) -> list[str]:
    """One line for each rule that the config breaks."""
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
    if config.checkpoint.export == "best" and not config.data.eval and not config.data.eval_rows:
        return (
            "checkpoint.export is best, but nothing is measured; expected data.eval, or "
            "data.eval_rows above 0, or checkpoint.export=last"
        )
    return None


def _best_is_good(config: ConfigDict) -> str | None:
    saving = config.checkpoint
    wanted = metric_names.best_of(saving.best_metric)
    if saving.export == "best" and wanted not in (None, saving.best_is):
        return (
            f"checkpoint.best_is is {saving.best_is}, but {saving.best_metric} is best when "
            f"{wanted}; expected {wanted}"
        )
    return None


def _metric_of_kind(config: ConfigDict) -> str | None:
    known = metric_names.METRICS_OF_JUDGES[config.reward.kind]
    if known.fits(config.checkpoint.best_metric):
        return None
    return (
        f"checkpoint.best_metric is {config.checkpoint.best_metric!r}, which is not measured for a "
        f"judge of the kind {config.reward.kind}; expected {known.describe()}"
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
            f"data.recovery_share is {data.recovery_share:g}, but data.train_on is everything, so "
            "harmful beginnings would be learned; expected response, or a share of 0"
        )
    return None


def _answers_are_begun_with(config: ConfigDict) -> str | None:
    data = config.data
    if data.recovery and data.recovery_share == 0:
        return (
            "data.recovery is given, but data.recovery_share is 0, so no row begins with one of "
            "its answers; expected a share above 0, or no data.recovery"
        )
    return None


def _likelihood_alone(config: ConfigDict) -> str | None:
    sft = config.sft
    equal = sft.objective == "likelihood" and sft.early_weight == 1
    if config.checkpoint.best_metric == "eval/nll_loss" and equal:
        return (
            "checkpoint.best_metric is 'eval/nll_loss', which is the loss itself under "
            "sft.objective=likelihood with sft.early_weight=1; expected 'eval/loss'"
        )
    return None


def _early_tokens_are_answers(config: ConfigDict) -> str | None:
    sft = config.sft
    if sft.early_weight == 1:
        return None
    given = f"sft.early_weight is {sft.early_weight:g}, but "
    if sft.objective != "likelihood":
        return (
            f"{given}sft.objective {sft.objective} does not use it; expected likelihood, or "
            "sft.early_weight=1"
        )
    if config.data.train_on == "everything":
        return (
            f"{given}data.train_on is everything, so the first tokens of prompts would get that "
            "weight; expected response, or sft.early_weight=1"
        )
    return None


def _answers_are_constrained(config: ConfigDict) -> str | None:
    if config.sft.objective != "constrained" or config.data.train_on != "everything":
        return None
    return (
        "sft.objective is constrained, but data.train_on is everything, so the first tokens of "
        "prompts, not of answers, would be held by sft.beta_first and sft.beta_early; expected "
        "response, or sft.objective=likelihood"
    )


def _reference(config: ConfigDict) -> str | None:
    if config.dpo.reference == "none" and config.dpo.objective != "simpo":
        return (
            f"dpo.reference is none, but dpo.objective {config.dpo.objective} needs a reference; "
            "expected cached or live; only simpo needs none"
        )
    return None


def _tokens_are_weighted(config: ConfigDict) -> str | None:
    dpo, weighted = config.dpo, config.dpo.objective == "weighted_door"
    if dpo.proxy and not weighted:
        return (
            f"dpo.proxy is {dpo.proxy!r}, but dpo.objective {dpo.objective} uses no token weights; "
            'expected weighted_door, or dpo.proxy=""'
        )
    if weighted and dpo.reference != "cached":
        return (
            f"dpo.reference is {dpo.reference}, but dpo.objective weighted_door needs the "
            "reference before training, for its token weights; expected cached"
        )
    return None


def _codes_are_frozen(config: ConfigDict) -> str | None:
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


def _codes_are_not_merged(config: ConfigDict) -> str | None:
    base = config.model.base
    if base != STORED and config.raft.adapter == "merge":
        return (
            f"raft.adapter is merge, but model.base is {base}, and adapters cannot be merged into "
            f"codes; expected raft.adapter=continue, or model.base={STORED}"
        )
    return None


def _something_to_merge(config: ConfigDict) -> str | None:
    if config.raft.adapter == "merge" and config.lora.rank == 0:
        return "raft.adapter is merge, but lora.rank is 0; expected continue, or a rank above 0"
    return None


def _fresh_adapters(config: ConfigDict) -> str | None:
    if not config.model.adapter:
        return None
    return "model.adapter is given; expected none: runs of a sweep start with fresh adapters"


def _plain_likelihood(config: ConfigDict) -> str | None:
    if "sft" not in config or config.sft.objective == "likelihood":
        return None
    return f"sft.objective is {config.sft.objective}; expected likelihood, the only one for a sweep"


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
    _codes_are_frozen,
    _layers_have_adapters,
)
RULES: dict[str, tuple[Rule, ...]] = {
    "sft": (
        *_TRAINING,
        _beginnings_are_not_learned,
        _answers_are_begun_with,
        _likelihood_alone,
        _early_tokens_are_answers,
        _answers_are_constrained,
    ),
    "dpo": (*_TRAINING, _reference, _tokens_are_weighted),
    "kto": _TRAINING,
    "orpo": _TRAINING,
    "reward": (*_TRAINING, _metric_of_kind, _direction_of_kind),
    "raft": (
        _length,
        _codes_are_frozen,
        _layers_have_adapters,
        _something_to_merge,
        _codes_are_not_merged,
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
