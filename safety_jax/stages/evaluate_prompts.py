"""What stage `evaluate` asks models: prompts of each set as tokens, and how they are answered."""

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
    """What one model is asked of one set.

    Attributes:
        ids: of each prompt, with the beginning of its answer where an attack prefills one; of
            conversations, whose earlier answers are not there yet, without these.
        begun: of each, how many of its last ids are that beginning.
        choices: of each prompt of a set that is answered by likelihood, the ids of its choices.
        lengths: tokens that each prompt has; of a turn, those that its conversation has at its
            last turn if all answers are as long as they may be.
        room: tokens that a prompt may have, so that an answer of full length fits behind it.
        setup: how answers are written.
        protocol: all that they depend on.
        word: the ids of records, to be used when the answers before a turn are there.
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
    """What a model is asked, by set."""
    positions = config.data.max_length or opened.config.max_positions
    rules = texts.rules(config)
    found: dict[str, ModelAnswers] = {}
    for of in sets:
        group = _answering(config, opened, of)
        ends = (*opened.ends, *texts.ends(config, opened.tokenizer))
        setup = answering.make_setup(group, config.sample, opened.tokenizer, mesh, ends)
        # Prompts that bring their own words are fed as they are; chat models need their turns.
        name = config.data.template
        template = "bare" if of.framed and name != "chat" else name
        rendered = prompts.load_template(template, opened.tokenizer, rules)
        records = [item.record() for item in of.items]
        ids = prompt_ids.encode_prompts(records, rendered, opened.tokenizer)
        begun = _openings(of, records, rendered, opened)
        choices: list[list[list[int]]] = [[] for _ in ids]
        longest = group.max_new_tokens
        if of.by_likelihood:
            choices = _choices(of, records, rendered, opened)
            longest = max(len(choice) for several in choices for choice in several)
        protocol = Protocol(
            opened.weights_sha256,
            opened.tokenizer_sha256,
            worded_as(template, rules),
            _decoding(config, group, of),
            config.seed,
            opened.config_sha256,
        )
        whole = [before + after for before, after in zip(ids, begun, strict=True)]
        found[of.name] = ModelAnswers(
            ids=whole,
            begun=[len(one) for one in begun],
            choices=choices,
            lengths=_longest(of, [len(one) for one in whole], longest),
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


def _answering(config: ConfigDict, opened: ModelFolder, of: Set) -> ConfigDict:
    """The config's `answer` group, as it holds for a set."""
    group = config.answer.copy_and_resolve_references()
    if of.kind == CHOICE:
        group.beams, group.max_new_tokens = 1, _choice_tokens(config, opened, of)
        group.candidates = 1
    if of.kind == CONVERSATION:
        group.candidates = 1  # copies of a conversation are conversations of their own
    return group


def _decoding(config: ConfigDict, group: ConfigDict, of: Set) -> dict[str, Any]:
    """How answers come about, for what answers are compared by."""
    if of.by_likelihood:
        found: dict[str, Any] = {"read": "likelihood"}
    else:
        found = {**group.to_dict(), "stop": list(group.stop)}
    return found | {
        "weights": config.model.parameter_dtype, "activations": config.model.compute_dtype
    }  # fmt: skip


def _openings(
    of: Set, asked: Sequence[Record], template: prompts.Template, opened: ModelFolder
) -> list[list[int]]:
    """Ids of the beginning of each item's answer that an attack prefills; empty without one."""
    if not of.attack or of.attack.prefill is None:
        return [[] for _ in asked]
    texts_of = [item.asked.opening if item.asked else "" for item in of.items]
    whole = prompt_ids.encode_openings(asked, texts_of, template, opened.tokenizer)
    return [one[: of.attack.prefill] for one in whole]


def _choices(
    of: Set, asked: Sequence[Record], template: prompts.Template, opened: ModelFolder
) -> list[list[list[int]]]:
    """Ids of each item's choices, as they would begin its answer."""
    several = [(record, text) for record, item in zip(asked, of.items, strict=True)
               for text in item.choice_texts]  # fmt: skip
    texts_of = [text for _, text in several]
    repeated = [record for record, _ in several]
    found = iter(prompt_ids.encode_openings(repeated, texts_of, template, opened.tokenizer))
    return [[next(found) for _ in item.choice_texts] for item in of.items]


def _answers_are_text(template: Template) -> Template:
    """What a model wrote is text, whatever it spells; what the user says was looked at before."""
    if template.rules.special_text == AS_TEXT:
        return template
    return template.under(dataclasses.replace(template.rules, special_text=AS_TEXT))


def _longest(of: Set, lengths: Sequence[int], answer: int) -> list[int]:
    """Tokens of each prompt; of a turn of a conversation, of its last turn behind answers of
    `answer` tokens."""
    found = list(lengths)
    for i, before in enumerate(of.earlier):
        most = lengths[i] + answer * len(before)
        for place in (*before, i):
            found[place] = max(found[place], most)
    return found


def _choice_tokens(config: ConfigDict, opened: ModelFolder, of: Set) -> int:
    """Tokens of an answer to multiple choice: no fewer than the longest word to choose takes."""
    words = {choice for item in of.items for choice in item.choices if len(choice) > 1}
    encoded = [opened.tokenizer(word, add_special_tokens=False).input_ids for word in words]
    return max([config.evaluate.choice_tokens, *map(len, encoded)])


def worded_as(template: str, rules: TextRules) -> str:
    """How prompts are worded, for what answers are compared by."""
    if template != "chat" or rules.chat.thinking is None:
        return template
    return "chat, thinking" if rules.chat.thinking else "chat, no thinking"


def fit(
    config: ConfigDict,
    sets: Sequence[Set],
    read: subsets.BySet[R],
    asked: Asked,
) -> tuple[list[Set], dict[str, dict[str, list[R]]], Asked, dict[str, int]]:
    """Sets, answers and prompts without those that leave a model no room for its answer; and how
    many these are, by set.

    Raises:
        DataError: there is one and data.overlong_prompt is error, or nothing is left of a set.
    """
    lengths = {m: {of: one.lengths for of, one in by.items()} for m, by in asked.items()}
    rooms = {model: {of: one.room for of, one in by.items()} for model, by in asked.items()}
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
    counts = {of.name: len(of.items) - len(places[of.name]) for of in sets}
    return left, answers, prompts_left, {name: n for name, n in counts.items() if n}


def _refuse(
    sets: Sequence[Set],
    lengths: subsets.BySet[int],
    rooms: Mapping[str, Mapping[str, int]],
    advice: str,
) -> None:
    for model, by_set in lengths.items():
        for of in sets:
            room = rooms[model][of.name]
            for item, count in zip(of.items, by_set[of.name], strict=True):
                if count > room:
                    under = f" under {of.attack.name}" if of.attack else ""
                    under = f" of {of.name}" if of.kind == CONVERSATION else under
                    raise DataError(
                        f"{item.where}: the prompt{under} has {count} tokens, and {model} has room "
                        f"for {max(room, 0)} before its answer; {advice}"
                    )
