"""How a config's `data` group has users' text read, the same in training and in use."""

import datetime

from ml_collections import ConfigDict
from transformers import PreTrainedTokenizerBase

from safety_jax.base.errors import ConfigError
from safety_jax.data.chat import ChatSettings, answer_ends
from safety_jax.data.text_rules import FIXED, KEEP, TextRules
from safety_jax.training import workdir

THINKING = {"": None, "true": True, "false": False}
_DATE = "data.template_date"


def dated(config: ConfigDict, place: workdir.Workdir) -> ConfigDict:
    """The config with the day that chat templates write: its own, or that on which the run began,
    which the work directory remembers. Every process must call this.

    Raises:
        ConfigError: the run began on another day than the config names.
    """
    data = config.data
    # Judges read every day alike, see `judged_rules`.
    if data.template != "chat" or "template_date" not in data:
        return config
    day = place.settle(_DATE, data.template_date or datetime.date.today().isoformat())
    if data.template_date not in ("", day):
        raise ConfigError(
            f"{_DATE} is {data.template_date}, but this run began with {day}; use that, or another "
            "--workdir"
        )
    copy = config.copy_and_resolve_references()
    copy.data.template_date = day
    return copy


def rules(config: ConfigDict) -> TextRules:
    """The rules of a stage that trains a model or lets one answer; `config` is `dated`.

    Raises:
        ConfigError: a value that cannot be used.
    """
    data, day = config.data, FIXED.chat.date
    if data.enable_thinking not in THINKING:
        raise ConfigError(
            f"data.enable_thinking is {data.enable_thinking!r}; expected true, false, or an empty "
            "text for the template's own choice"
        )
    if data.template_date:
        try:
            day = datetime.date.fromisoformat(data.template_date)
        except ValueError as error:
            raise ConfigError(
                f"{_DATE} is {data.template_date!r}; expected a day as 2024-07-26, or an empty "
                "text for that on which the run begins"
            ) from error
    reasoning = data.reasoning if "reasoning" in data else KEEP
    settings = ChatSettings(day, THINKING[data.enable_thinking])
    return TextRules(data.special_text, reasoning, settings)


def ends(config: ConfigDict, tokens: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The token by which the chat template ends answers, and so training does; none elsewhere.

    Raises:
        ConfigError, CheckpointError: a chat template that is missing or broken.
    """
    return answer_ends(tokens, FIXED.chat) if config.data.template == "chat" else ()


def judged_rules(config: ConfigDict) -> TextRules:
    """The rules of stage `reward`: those of judges, whose scores do not change from day to day."""
    return TextRules(config.data.special_text, config.data.reasoning, FIXED.chat)
