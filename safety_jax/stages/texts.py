"""How texts are read, from a config's `data` group: the same in training and in generation."""

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
    """The config with a date for chat templates: its own, or the day on which the run began, which
    the work directory records. Every process must call this.

    Raises:
        ConfigError: the run began with another date than the config's.
    """
    data = config.data
    # Judges have a fixed date, see `judged_rules`.
    if data.template != "chat" or "template_date" not in data:
        return config
    day = place.settle(_DATE, data.template_date or datetime.date.today().isoformat())
    if data.template_date not in ("", day):
        raise ConfigError(
            f"{_DATE} is {data.template_date}, but this run began with {day}; use the latter, or "
            "another --workdir"
        )
    copy = config.copy_and_resolve_references()
    copy.data.template_date = day
    return copy


def rules(config: ConfigDict) -> TextRules:
    """The rules of a stage that trains a model or generates answers; `config` is `dated`.

    Raises:
        ConfigError: a value that cannot be used.
    """
    data, day = config.data, FIXED.chat.date
    if data.enable_thinking not in THINKING:
        raise ConfigError(
            f"data.enable_thinking is {data.enable_thinking!r}; expected true, false, or an empty "
            "text for the template's default"
        )
    if data.template_date:
        try:
            day = datetime.date.fromisoformat(data.template_date)
        except ValueError as error:
            raise ConfigError(
                f"{_DATE} is {data.template_date!r}; expected a date like 2024-07-26, or an empty "
                "text for the day on which the run begins"
            ) from error
    reasoning = data.reasoning if "reasoning" in data else KEEP
    settings = ChatSettings(day, THINKING[data.enable_thinking])
    return TextRules(data.special_text, reasoning, settings)


def ends(config: ConfigDict, tokens: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The tokens that end answers in the chat template, and so in training; none without one.

    Raises:
        ConfigError, CheckpointError: the chat template is missing or broken.
    """
    return answer_ends(tokens, FIXED.chat) if config.data.template == "chat" else ()


def unused_chat_template(config: ConfigDict, tokens: PreTrainedTokenizerBase) -> str:
    """A line on a chat template that rows are not written in; "" without one."""
    if config.data.template == "chat" or not tokens.chat_template:
        return ""
    return (
        f"note: the tokenizer has a chat template, and data.template is {config.data.template}; a "
        "model that was made for chats expects data.template=chat"
    )


def judged_rules(config: ConfigDict) -> TextRules:
    """The rules of stage `reward`: a fixed date, because scores must not change from day to day."""
    return TextRules(config.data.special_text, config.data.reasoning, FIXED.chat)
