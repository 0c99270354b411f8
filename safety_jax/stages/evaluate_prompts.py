"""What stage `evaluate` asks models: the prompts of each set as tokens, and how to answer them."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from jax.sharding import Mesh
from ml_collections import ConfigDict

from safety_jax.base.errors import DataError
from safety_jax.data import prompt_ids, prompts
from safety_jax.data.records import Record
from safety_jax.data.template import Template
from safety_jax.data.text_rules import AS_TEXT, TextRules
from safety_jax.evaluation.answers.responses import Protocol
from safety_jax.evaluation.sets import subsets
from safety_jax.evaluation.sets.items import CHOICE, CONVERSATION, Set
from safety_jax.models.decoding import generation
from safety_jax.models.folders.model_folder import ModelFolder
from safety_jax.stages import answering, texts

R = TypeVar("R")


@dataclasses.dataclass(frozen=True)
class ModelAnswers:
    """The prompts of one set for one model.

    Attributes:
        ids: of each prompt, with the beginning of its answer if an attack prefills one; for a turn
            of a conversation, without the earlier answers, which do not exist yet.
        begun: how many of the last ids of each are that beginning.
        choices: for sets that are answered by likelihood, the ids of the choices of each prompt.
        lengths: tokens of each prompt; of a turn, those of its conversation up to the last turn,
            with answers of full length.
        room: the most tokens that a prompt may have before an answer of full length.
        setup: how answers are decoded.
        protocol: everything that answers depend on.
        word: encodes records; for turns, once the earlier answers exist.
    """

    ids: Sequence[Sequence[int]]
    begun: Sequence[int]
    choices: Sequence[Sequence[Sequence[int]]]
    lengths: Sequence[int]
    room: int
    setup: generation.Setup
    protocol: Protocol
    word: Callable[[Sequence[Record]], list[list[int]]]


Asked = Mapping[str, Mapping[str, ModelAnswers]]  # by model and set


def ask(
    config: ConfigDict, opened: ModelFolder, sets: Sequence[Set], mesh: Mesh
) -> dict[str, ModelAnswers]:
    """The prompts for a model, by set."""
    positions = config.data.max_length or opened.config.max_positions
    rules = texts.rules(config)
    found: dict[str, ModelAnswers] = {}
    for one_set in sets:
        group = _answering(config, opened, one_set)
        ends = (*opened.ends, *texts.ends(config, opened.tokenizer))
        setup = answering.make_setup(group, config.sample, opened.tokenizer, mesh, ends)
        # Prompts with a form of their own are not wrapped again, except in chat turns.
        name = config.data.template
        template = "bare" if one_set.framed and name != "chat" else name
        rendered = prompts.load_template(template, opened.tokenizer, rules)
        records = [item.record() for item in one_set.items]
        ids = prompt_ids.encode_prompts(records, rendered, opened.tokenizer)
        begun = _openings(one_set, records, rendered, opened)
        choices: list[list[list[int]]] = [[] for _ in ids]
        longest = group.max_new_tokens
        if one_set.by_likelihood:
            choices = _choices(one_set, records, rendered, opened)
            longest = max(len(choice) for several in choices for choice in several)
        protocol = Protocol(
            opened.weights_sha256,
            opened.tokenizer_sha256,
            worded_as(template, rules),
            _decoding(config, group, one_set),
            config.seed,
            opened.config_sha256,
        )
        whole = [before + after for before, after in zip(ids, begun, strict=True)]
        found[one_set.name] = ModelAnswers(
            ids=whole,
            begun=[len(one) for one in begun],
            choices=choices,
            lengths=_longest(one_set, [len(one) for one in whole], longest),
            room=positions - longest,
            setup=setup,
            protocol=protocol,
            word=functools.partial(
                prompt_ids.encode_prompts,
                template=_answers_are_text(rendered),
                tokenizer=opened.tokenizer,
            ),
        )
    return found


def _answering(config: ConfigDict, opened: ModelFolder, one_set: Set) -> ConfigDict:
    """The config's `answer` group with the changes that a set needs."""
    group = config.answer.copy_and_resolve_references()
    if one_set.kind == CHOICE:
        group.beams, group.max_new_tokens = 1, _choice_tokens(config, opened, one_set)
        group.candidates = 1
    if one_set.kind == CONVERSATION:
        group.candidates = 1  # `Set.repeated` copies whole conversations instead
    return group


def _decoding(config: ConfigDict, group: ConfigDict, one_set: Set) -> dict[str, Any]:
    """How answers are decoded, as their protocol records it."""
    if one_set.by_likelihood:
        found: dict[str, Any] = {"read": "likelihood"}
    else:
        found = {**group.to_dict(), "stop": list(group.stop)}
    found |= {"weights": config.model.parameter_dtype, "activations": config.model.compute_dtype}
    cache = config.sample.cache_dtype
    usual = one_set.by_likelihood or cache == config.model.compute_dtype
    return found if usual else found | {"cache": cache}


def _openings(
    one_set: Set, asked: Sequence[Record], template: prompts.Template, opened: ModelFolder
) -> list[list[int]]:
    """Ids of the beginning of each item's answer that an attack prefills; empty without one."""
    if not one_set.attack or one_set.attack.prefill is None:
        return [[] for _ in asked]
    openings = [item.asked.opening if item.asked else "" for item in one_set.items]
    whole = prompt_ids.encode_openings(asked, openings, template, opened.tokenizer)
    return [one[: one_set.attack.prefill] for one in whole]


def _choices(
    one_set: Set, asked: Sequence[Record], template: prompts.Template, opened: ModelFolder
) -> list[list[list[int]]]:
    """Ids of each item's choices, encoded as the beginning of its answer."""
    several = [(record, text) for record, item in zip(asked, one_set.items, strict=True)
               for text in item.choice_texts]  # fmt: skip
    choices = [text for _, text in several]
    repeated = [record for record, _ in several]
    found = iter(prompt_ids.encode_openings(repeated, choices, template, opened.tokenizer))
    return [[next(found) for _ in item.choice_texts] for item in one_set.items]


def _answers_are_text(template: Template) -> Template:
    """The template with special tokens in messages read as text: a model's own answers may contain
    them, and the user's turns were checked before."""
    if template.rules.special_text == AS_TEXT:
        return template
    return template.under(dataclasses.replace(template.rules, special_text=AS_TEXT))


def _longest(one_set: Set, lengths: Sequence[int], answer: int) -> list[int]:
    """Tokens of each prompt; for a turn, those of its conversation's last turn with earlier answers
    of `answer` tokens."""
    found = list(lengths)
    for i, before in enumerate(one_set.earlier):
        most = lengths[i] + answer * len(before)
        for place in (*before, i):
            found[place] = max(found[place], most)
    return found


def _choice_tokens(config: ConfigDict, opened: ModelFolder, one_set: Set) -> int:
    """Tokens of an answer to multiple choice: at least those of the longest word to choose."""
    words = {choice for item in one_set.items for choice in item.choices if len(choice) > 1}
    encoded = [opened.tokenizer(word, add_special_tokens=False).input_ids for word in words]
    return max([config.evaluate.choice_tokens, *map(len, encoded)])


def worded_as(template: str, rules: TextRules) -> str:
    """The template, as the protocol of answers records it."""
    if template != "chat" or rules.chat.thinking is None:
        return prompts.identified(template)
    return "chat, thinking" if rules.chat.thinking else "chat, no thinking"


def fit(
    config: ConfigDict,
    sets: Sequence[Set],
    read: subsets.BySet[R],
    asked: Asked,
) -> tuple[list[Set], dict[str, dict[str, list[R]]], Asked, dict[str, int]]:
    """Sets, answers and prompts without those that leave a model no room for its answer; and their
    number by set.

    Raises:
        DataError: there is one and data.overlong_prompt is error, or none of a set is left.
    """
    lengths = {
        m: {set_name: one.lengths for set_name, one in by.items()} for m, by in asked.items()
    }
    rooms = {
        model: {set_name: one.room for set_name, one in by.items()} for model, by in asked.items()
    }
    shorter = "lower answer.max_new_tokens"
    if config.data.max_length:
        shorter += ", or raise data.max_length"
    if config.data.overlong_prompt == "error":
        _refuse(sets, lengths, rooms, f"{shorter}, or set data.overlong_prompt to skip")
    places = subsets.without_overlong(sets, lengths, rooms, shorter)
    left, answers = subsets.keep(sets, read, places)
    prompts_left = {
        model: {
            name: dataclasses.replace(
                one,
                ids=[one.ids[i] for i in places[name]],
                begun=[one.begun[i] for i in places[name]],
                choices=[one.choices[i] for i in places[name]],
                lengths=[one.lengths[i] for i in places[name]],
            )
            for name, one in by.items()
        }
        for model, by in asked.items()
    }
    counts = {one_set.name: len(one_set.items) - len(places[one_set.name]) for one_set in sets}
    return left, answers, prompts_left, {name: n for name, n in counts.items() if n}


def _refuse(
    sets: Sequence[Set],
    lengths: subsets.BySet[int],
    rooms: Mapping[str, Mapping[str, int]],
    advice: str,
) -> None:
    for model, by_set in lengths.items():
        for one_set in sets:
            room = rooms[model][one_set.name]
            for item, count in zip(one_set.items, by_set[one_set.name], strict=True):
                if count > room:
                    under = f" under {one_set.attack.name}" if one_set.attack else ""
                    under = f" of {one_set.name}" if one_set.kind == CONVERSATION else under
                    raise DataError(
                        f"{item.where}: the prompt{under} has {count} tokens, and {model} has room "
                        f"for {max(room, 0)} before its answer; {advice}"
                    )
