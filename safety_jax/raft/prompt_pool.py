"""The prompts of a run, and which of them each round draws: without replacement, seeded."""

import dataclasses
import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase

from safety_jax.base.errors import ConfigError, DataError
from safety_jax.data import prompt_ids, prompts, records, sources
from safety_jax.data.building import PromptRoom
from safety_jax.data.contamination import HeldApart
from safety_jax.data.records import Record
from safety_jax.data.shuffling import permutation
from safety_jax.data.template import Template
from safety_jax.data.text_rules import TextRules

ORDERS = ("shuffled", "file")
STREAM = 7000  # of the permutations of prompts, beside those of training epochs


@dataclasses.dataclass(frozen=True)
class PromptGroup:
    """Prompts of one kind, drawn from in a fixed order.

    Attributes:
        name: "unsafe" or "ordinary".
        records: prompts; with an answer behind each where reference answers take part.
        ids: what the model is fed for each.
        per_round: prompts that every round draws.
        order: positions in `records`.
    """

    name: str
    records: list[Record]
    ids: list[list[int]]
    per_round: int
    order: np.ndarray


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A prompt of a round.

    Attributes:
        number: its place in the pool, which its randomness is folded from.
        reference: the answer of its row; "" where none takes part.
    """

    number: int
    group: str
    record: Record
    ids: list[int]
    reference: str


@dataclasses.dataclass(frozen=True)
class Pool:
    """All prompts of a run.

    Attributes:
        groups: unsafe prompts, then ordinary ones where there are any.
        skipped: prompts left out, by reason.
        example: what the model is fed for the first prompt.
        files: sha256 of the files that were read, by the config's key and the source's name.
        left_out: rows that are unusable, or whose answer is not to be learned.
    """

    groups: tuple[PromptGroup, ...]
    skipped: Counter[str]
    example: str
    files: Mapping[str, str]
    left_out: int = 0

    def fingerprint(self) -> str:
        """A hash (hex) of all prompts as the model reads them, of their own answers, and of the
        order in which rounds draw them."""
        digest = hashlib.sha256()
        for group in self.groups:
            digest.update(group.order.tobytes())
            for record, ids in zip(group.records, group.ids, strict=True):
                digest.update(json.dumps([ids, record.messages[-1].content]).encode())
        return digest.hexdigest()

    def draw(self, number: int) -> list[Prompt]:
        """The prompts of round `number`, from 0; a prompt drawn once comes again only when its
        group has been used up."""
        found, offset = [], 0
        for group in self.groups:
            for k in range(number * group.per_round, (number + 1) * group.per_round):
                i = int(group.order[k % len(group.order)])
                record = group.records[i]
                last = record.messages[-1]
                reference = last.content if last.role == "assistant" else ""
                found.append(Prompt(offset + i, group.name, record, group.ids[i], reference))
            offset += len(group.records)
        return found

    def describe(self) -> str:
        """One line a group, for people."""
        lines = [
            f"{group.name}: {group.per_round:,} prompts a round of {len(group.records):,}"
            for group in self.groups
        ]
        text = "\n".join(lines)
        if self.left_out:
            text += f"; {self.left_out} rows unusable or not to be learned, left out"
        return text + "".join(f"; {n} {why}, left out" for why, n in self.skipped.items())


def read(
    specs: Sequence[str],
    ordinary: Sequence[str],
    *,
    share: float,
    per_round: int,
    rounds: int,
    reuse: bool,
    order: str,
    template: str,
    rules: TextRules,
    with_answers: bool,
    room: PromptRoom,
    tokens: PreTrainedTokenizerBase,
    seed: int,
    tests: HeldApart | None = None,
) -> Pool:
    """Opens prompts and plans the rounds.

    Args:
        specs, ordinary: sources of unsafe and of ordinary prompts.
        share: of ordinary prompts in every round.
        per_round: prompts of both kinds.
        reuse: begin again when a group is used up.
        order: "shuffled" by the seed, or "file".
        template, rules: see `prompts.load_template`.
        with_answers: rows must have an answer, which takes part as a candidate.
        room: for prompts, beside their candidates.
        tests: prompts whose near-duplicates are left out.

    Raises:
        ConfigError, DataError: values and rows that cannot be used; fewer prompts than the rounds
            need.
    """
    _check_numbers(order, share, per_round, rounds)
    count = round(share * per_round)
    wanted = (
        ("unsafe", "data.prompts", specs, per_round - count),
        ("ordinary", "data.ordinary", ordinary, count),
    )
    reader = _Reader(
        prompts.load_template(template, tokens, rules),
        records.read_records if with_answers else records.read_prompts,
        room,
        tokens,
        seed,
        tests,
    )
    groups: list[PromptGroup] = []
    for stream, (name, key, given, needed) in enumerate(wanted):
        if not needed:
            continue
        if not any(given):
            raise ConfigError(f"{key} is empty; expected a source of {needed} prompts a round")
        rows, ids = reader.usable(given, key)
        if not rows or not reuse:
            _check_enough(key, len(rows), needed, rounds)
        places = np.arange(len(rows))
        if order == "shuffled":
            places = permutation(len(rows), seed=seed, stream=STREAM + stream)
        groups.append(PromptGroup(name, rows, ids, needed, places))
    example = reader.template.prompt(groups[0].records[0])
    return Pool(tuple(groups), +reader.skipped, example, reader.files, reader.left_out)


@dataclasses.dataclass
class _Reader:
    """Reads sources of prompts, and keeps account of what it leaves out; see `read` and `Pool`."""

    template: Template
    read_rows: Callable[[sources.Source], list[Record]]
    room: PromptRoom
    tokens: PreTrainedTokenizerBase
    seed: int
    tests: HeldApart | None
    skipped: Counter[str] = dataclasses.field(default_factory=Counter)
    files: dict[str, str] = dataclasses.field(default_factory=dict)
    left_out: int = 0

    def usable(self, specs: Sequence[str], key: str) -> tuple[list[Record], list[list[int]]]:
        """The rows that a model can be asked, and the ids of each."""
        opened = [sources.open_source(spec, key) for spec in specs]
        self.files |= {f"{key} {one.name}": one.sha256() or "" for one in opened}
        rows = self._draw(opened, key)
        self.left_out += sum(len(one.left_out) for one in opened)
        rows, ids = prompt_ids.usable_prompts(rows, self.template, self.tokens, self.skipped)
        kept = [i for i, prompt in enumerate(ids) if self.room.takes(rows[i].where, len(prompt))]
        self.skipped.update({"too long": len(rows) - len(kept)})
        return [rows[i] for i in kept], [ids[i] for i in kept]

    def _draw(self, opened: Sequence[sources.Source], key: str) -> list[Record]:
        """What sources give by their options, without near-duplicates of tests."""
        rows: list[Record] = []
        for one in opened:
            found = self.read_rows(one)
            if self.tests is not None:
                found = self.tests.apart(found, one.left_out)
            rows += sources.draw(found, one, key, self.seed)
        return rows


def _check_numbers(order: str, share: float, per_round: int, rounds: int) -> None:
    if order not in ORDERS:
        raise ConfigError(f"data.order {order!r}: expected {' or '.join(ORDERS)}")
    if not 0 <= share <= 1:
        raise ConfigError(f"data.ordinary_share is {share}; expected 0 to 1")
    if per_round < 1 or rounds < 1:
        raise ConfigError(f"raft.prompts {per_round}, raft.rounds {rounds}: expected at least 1")


def _check_enough(key: str, there: int, needed: int, rounds: int) -> None:
    """Raises a DataError where prompts run out before the last round."""
    if there < needed * rounds:
        raise DataError(
            f"{key} has {there} usable prompts; {rounds} rounds of {needed} need "
            f"{rounds * needed}: give more, lower raft.prompts or raft.rounds, or set "
            "raft.reuse_prompts"
        )


def seed_of_round(seed: int, number: int) -> int:
    """What the randomness of a round's candidates is folded from."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0] % math.floor(2**31))
