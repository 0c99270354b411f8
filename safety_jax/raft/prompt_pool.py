"""The prompts of a run, and those that each round draws: seeded, without replacement."""

import dataclasses
import hashlib
import json
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
STREAM = 7000  # of the permutations of prompts; other streams permute training epochs


@dataclasses.dataclass(frozen=True)
class PromptGroup:
    """Prompts of one kind, drawn in a fixed order.

    Attributes:
        name: UNSAFE or ORDINARY.
        records: prompts; each with its answer if reference answers are candidates.
        ids: the token ids of each prompt, rendered by the template.
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
        reference: the answer of its row; "" if that is no candidate.
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
        groups: unsafe prompts, then ordinary ones if there are any.
        skipped: the number of prompts left out, by reason.
        example: the first prompt, rendered by the template.
        files: sha256 of the files that were read, by the config's key and the source's name.
        left_out: the number of rows that are unusable, or whose answer is not to be learned.
        remarks: lines on what was made of the rows.
    """

    groups: tuple[PromptGroup, ...]
    skipped: Counter[str]
    example: str
    files: Mapping[str, str]
    left_out: int = 0
    remarks: Sequence[str] = ()

    def fingerprint(self) -> str:
        """A hash (hex) of the ids of all prompts, of their reference answers, and of the order in
        which rounds draw them."""
        digest = hashlib.sha256()
        for group in self.groups:
            digest.update(group.order.tobytes())
            for record, ids in zip(group.records, group.ids, strict=True):
                digest.update(json.dumps([ids, record.messages[-1].content]).encode())
        return digest.hexdigest()

    def draw(self, number: int) -> list[Prompt]:
        """The prompts of round `number`, from 0; prompts repeat only after the whole group has
        been drawn."""
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
        """A message to the user with one line a group."""
        lines = [
            f"{group.name}: {group.per_round:,} prompts a round of {len(group.records):,}"
            for group in self.groups
        ]
        lines[-1] += _left_out(self.left_out, self.skipped)
        return "\n".join([*lines, *self.remarks])


def _left_out(rows: int, skipped: Mapping[str, int]) -> str:
    """What is left out, as the end of a line."""
    text = f"; {rows:,} rows unusable or not to be learned, left out" if rows else ""
    return text + "".join(f"; {n:,} {why}, left out" for why, n in skipped.items())


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """The prompts of `data.eval`, in order, grouped by source.

    Attributes:
        skipped, left_out, remarks: as in `Pool`.
    """

    prompts: Sequence[Prompt]
    skipped: Mapping[str, int]
    left_out: int = 0
    remarks: Sequence[str] = ()

    def describe(self, pool: Pool) -> str:
        """A message to the user, with a warning of prompts that are also in the pool; empty without
        held-out prompts."""
        if not self.prompts:
            return ""
        count = len(self.prompts)
        line = f"data.eval: {count:,} prompts, answered after every round"
        lines = [line + _left_out(self.left_out, self.skipped), *self.remarks]
        learned = {tuple(ids) for group in pool.groups for ids in group.ids}
        if shared := sum(tuple(prompt.ids) in learned for prompt in self.prompts):
            lines.append(f"warning: {shared:,} of {count:,} prompts of data.eval are trained on")
        return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class Draws:
    """How the rounds of a run draw prompts.

    Attributes:
        rounds: number of rounds.
        per_round: prompts that each of them draws.
        ordinary_share: the share of ordinary prompts among them.
        order: one of ORDERS: shuffled by the seed, or as in the files.
        reuse: whether prompts may repeat, in later rounds, once their whole group has been drawn.
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
    """Reads the prompts and the order in which rounds draw them.

    Args:
        unsafe, ordinary: sources of prompts.
        template, rules: see `prompts.load_template`.
        with_answers: rows must have an answer, which becomes a candidate.
        room: the tokens that a row has for the prompt.
        tests: prompts whose near-duplicates are left out.

    Raises:
        ConfigError, DataError: sources or rows that cannot be used; fewer prompts than the rounds
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
    return Pool(
        tuple(groups), +reader.skipped, example, reader.files, reader.left_out, reader.remarks
    )


def read_held_out(
    specs: Sequence[str],
    *,
    template: str,
    rules: TextRules,
    room: PromptRoom,
    tokens: PreTrainedTokenizerBase,
    seed: int,
) -> HeldOut:
    """Reads the prompts that are answered after every round.

    Args:
        specs: sources of prompts; others as in `read`.

    Raises:
        ConfigError, DataError: sources or rows that cannot be used; a source none of whose prompts
            can be used.
    """
    reader = _Reader(
        prompts.load_template(template, tokens, rules),
        records.read_prompts,
        room,
        tokens,
        seed,
        None,
    )
    found: list[Prompt] = []
    for spec in filter(None, specs):
        rows, ids = reader.usable([spec], "data.eval", 0)
        if not rows:
            why = _left_out(0, +reader.skipped).removeprefix("; ")
            raise DataError(f"data.eval: {spec}: no prompt can be used ({why})")
        for record, asked in zip(rows, ids, strict=True):
            found.append(Prompt(len(found), record.source, record, asked, ""))
    return HeldOut(found, +reader.skipped, reader.left_out, reader.remarks)


@dataclasses.dataclass
class _Reader:
    """Reads sources of prompts, and counts what it leaves out; fields as in `read` and `Pool`."""

    template: Template
    read_rows: Callable[[sources.Source], list[Record]]
    room: PromptRoom
    tokens: PreTrainedTokenizerBase
    seed: int
    tests: HeldApart | None
    skipped: Counter[str] = dataclasses.field(default_factory=Counter)
    files: dict[str, str] = dataclasses.field(default_factory=dict)
    left_out: int = 0
    remarks: list[str] = dataclasses.field(default_factory=list)

    def usable(
        self, specs: Sequence[str], key: str, needed: int
    ) -> tuple[list[Record], list[list[int]]]:
        """The usable prompts of sources, and the ids of each.

        Args:
            key: the config key that names the sources.
            needed: prompts a round.
        """
        if not any(specs):
            raise ConfigError(f"{key} is empty; expected a source of {needed} prompts a round")
        opened = [sources.open_source(spec, key) for spec in specs]
        self.files |= {f"{key} {one.name}": one.sha256() or "" for one in opened}
        rows = self._draw(opened, key)
        self.left_out += sum(len(one.left_out) for one in opened)
        self.remarks += [line for one in opened for line in one.remarks]
        rows, ids = prompt_ids.usable_prompts(rows, self.template, self.tokens, self.skipped)
        kept = [i for i, prompt in enumerate(ids) if self.room.takes(rows[i].where, len(prompt))]
        self.skipped.update({"too long": len(rows) - len(kept)})
        return [rows[i] for i in kept], [ids[i] for i in kept]

    def _draw(self, opened: Sequence[sources.Source], key: str) -> list[Record]:
        """The rows that the sources' options select, without near-duplicates of tests."""
        rows: list[Record] = []
        for one in opened:
            found = self.read_rows(one)
            if self.tests is not None:
                found = self.tests.apart(found, one.left_out)
            rows += sources.draw(found, one, key, self.seed)
        return rows


def _check_enough(key: str, usable: int, needed: int, draws: Draws) -> None:
    """Raises a DataError if the prompts do not last until the final round; or, if they may repeat,
    not for a round: the second time in a round a prompt would get the same answers again."""
    rounds = draws.rounds
    if draws.reuse and usable < needed:
        raise DataError(
            f"{key} has {usable} usable prompts, and every round draws {needed}; "
            "raft.reuse_prompts repeats prompts in later rounds, not within one: give more, or "
            "lower raft.prompts"
        )
    if not draws.reuse and usable < needed * rounds:
        raise DataError(
            f"{key} has {usable} usable prompts; {rounds} rounds of {needed} need "
            f"{rounds * needed}: give more, lower raft.prompts or raft.rounds, or set "
            "raft.reuse_prompts"
        )


def seed_of_round(seed: int, number: int) -> int:
    """The seed from which a round samples its candidates."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0] % 2**31)
