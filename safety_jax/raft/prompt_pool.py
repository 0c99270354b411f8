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

UNSAFE, ORDINARY = "unsafe", "ordinary"  # the kinds of prompts
SHUFFLED = "shuffled"
ORDERS = (SHUFFLED, "file")
STREAM = 7000  # of the permutations of prompts, beside those of training epochs


@dataclasses.dataclass(frozen=True)
class PromptGroup:
    """Prompts of one kind, drawn from in a fixed order.

    Attributes:
        name: UNSAFE or ORDINARY.
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
        number: its place in the pool, from which the seed of its candidates is derived.
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
        example: the first prompt as the model reads it.
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


@dataclasses.dataclass(frozen=True)
class Draws:
    """How the rounds of a run draw prompts.

    Attributes:
        rounds: that draw.
        per_round: prompts that each of them draws.
        ordinary_share: of these, how many are ordinary.
        order: of ORDERS: shuffled by the seed, or as the files have them.
        reuse: begin again when a group is used up.
    """

    rounds: int
    per_round: int
    ordinary_share: float
    order: str
    reuse: bool
    seed: int


def read(
    unsafe: Sequence[str],
    ordinary: Sequence[str],
    draws: Draws,
    *,
    template: str,
    rules: TextRules,
    with_answers: bool,
    room: PromptRoom,
    tokens: PreTrainedTokenizerBase,
    tests: HeldApart | None = None,
) -> Pool:
    """Opens prompts and plans the rounds.

    Args:
        unsafe, ordinary: sources of prompts.
        template, rules: see `prompts.load_template`.
        with_answers: rows must have an answer, which takes part as a candidate.
        room: for prompts, beside their candidates.
        tests: prompts whose near-duplicates are left out.

    Raises:
        ConfigError, DataError: sources and rows that cannot be used; fewer prompts than the rounds
            need.
    """
    reader = _Reader(
        prompts.load_template(template, tokens, rules),
        records.read_records if with_answers else records.read_prompts,
        room,
        tokens,
        draws.seed,
        tests,
    )
    count = round(draws.ordinary_share * draws.per_round)
    groups = []
    for stream, (name, key, specs, needed) in enumerate(
        (
            (UNSAFE, "data.prompts", unsafe, draws.per_round - count),
            (ORDINARY, "data.ordinary", ordinary, count),
        )
    ):
        if needed:
            rows, ids = reader.usable(specs, key, needed)
            _check_enough(key, len(rows), needed, draws)
            order = np.arange(len(rows))
            if draws.order == SHUFFLED:
                order = permutation(len(rows), seed=draws.seed, stream=STREAM + stream)
            groups.append(PromptGroup(name, rows, ids, needed, order))
    example = reader.template.prompt(groups[0].records[0])
    return Pool(tuple(groups), +reader.skipped, example, reader.files, reader.left_out)


@dataclasses.dataclass
class _Reader:
    """Reads sources of prompts, and counts what it leaves out; see `read` and `Pool`."""

    template: Template
    read_rows: Callable[[sources.Source], list[Record]]
    room: PromptRoom
    tokens: PreTrainedTokenizerBase
    seed: int
    tests: HeldApart | None
    skipped: Counter[str] = dataclasses.field(default_factory=Counter)
    files: dict[str, str] = dataclasses.field(default_factory=dict)
    left_out: int = 0

    def usable(
        self, specs: Sequence[str], key: str, needed: int
    ) -> tuple[list[Record], list[list[int]]]:
        """The rows that a model can be asked, and the ids of each.

        Args:
            key: of the config.
            needed: prompts a round.
        """
        if not any(specs):
            raise ConfigError(f"{key} is empty; expected a source of {needed} prompts a round")
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


def _check_enough(key: str, there: int, needed: int, draws: Draws) -> None:
    """Raises a DataError where prompts run out before the last round."""
    rounds = draws.rounds
    if there < (1 if draws.reuse else needed * rounds):
        raise DataError(
            f"{key} has {there} usable prompts; {rounds} rounds of {needed} need "
            f"{rounds * needed}: give more, lower raft.prompts or raft.rounds, or set "
            "raft.reuse_prompts"
        )


def seed_of_round(seed: int, number: int) -> int:
    """What the randomness of a round's candidates is folded from."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0] % math.floor(2**31))
