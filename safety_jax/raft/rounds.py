"""A run of RAFT, round by round. A phase whose file exists is not repeated; the phases are

sample -> score -> select -> fine-tune -> answer the held-out prompts
"""

import contextlib
import dataclasses
import functools
import math
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from safety_jax.base import files, hosts
from safety_jax.judges.judge import Score, clusters_of
from safety_jax.judges.ledger import as_json
from safety_jax.models.decoding import layout
from safety_jax.models.model import Model
from safety_jax.raft import (
    judging,
    people,
    reporting,
    round_files,
    round_measures,
    sampling,
    selection,
)
from safety_jax.raft.prompt_pool import Prompt, seed_of_round
from safety_jax.raft.round_files import Candidate
from safety_jax.raft.selection import Selection
from safety_jax.raft.setup import RaftParts, RaftPlan, RoundSummary, Tuned, Weights


@dataclasses.dataclass(frozen=True)
class RunOutcome:
    """How a run ended; `weights` is None when it waits for people or was asked to stop."""

    weights: Weights | None
    summaries: list[RoundSummary]


def run(plan: RaftPlan, parts: RaftParts, weights: Weights) -> RunOutcome:
    """Runs the rounds that are not finished; `weights` are those at the start of the run."""
    summaries: list[RoundSummary] = []
    waiting: list[int] = []  # finished rounds whose weights have not been read yet
    for number in range(plan.rounds + 1):
        path = plan.path / f"{number:02d}"
        # Process 0 decides for all: no host may begin a round that another finds finished.
        found = hosts.first_says(functools.partial(round_files.read_summary, path))
        if found is None:
            weights, waiting = _restore(plan, parts, waiting, weights), []
            path.mkdir(parents=True, exist_ok=True)
            done = _round(plan, parts, number, path, weights, summaries)
            if done is None:
                return RunOutcome(None, summaries)
            weights, found = done
            superseded = found["optimizer_steps"] and not plan.keep_checkpoints
            if superseded and jax.process_index() == 0:
                for earlier in range(1, number):  # this round's weights hold theirs
                    shutil.rmtree(plan.path / f"{earlier:02d}/checkpoints", ignore_errors=True)
        elif found["optimizer_steps"]:
            waiting.append(number)
        summaries.append(found)
        if _stalls(summaries, plan.patience):
            parts.say(f"the selected reward has not risen for {plan.patience} rounds; done")
            break
    return RunOutcome(_restore(plan, parts, waiting, weights), summaries)


def _restore(
    plan: RaftPlan, parts: RaftParts, finished: Sequence[int], weights: Weights
) -> Weights:
    """The weights after some finished rounds: those of the last one, or the adapters of all of
    them merged in turn."""
    for number in finished if plan.keep_checkpoints else finished[-1:]:
        weights = parts.tuner.restore(plan.path / f"{number:02d}", number, weights)
    return weights


def _stalls(summaries: Sequence[RoundSummary], patience: int) -> bool:
    rewards = [row.get("reward/selected") for row in summaries[1:]]
    known = [-math.inf if reward is None else reward for reward in rewards]
    if not patience or len(known) <= patience:
        return False
    return max(known[-patience:]) <= max(known[:-patience])


def _round(
    plan: RaftPlan,
    parts: RaftParts,
    number: int,
    path: Path,
    weights: Weights,
    earlier: Sequence[RoundSummary],
) -> tuple[Weights, RoundSummary] | None:
    """One round; round 0 only answers the held-out prompts."""
    clock, programs = Clock(), parts.compiled.programs
    found: RoundSummary = {"round": number, "optimizer_steps": 0}
    if number:
        trained = _learn(plan, parts, number, path, weights, clock, earlier)
        if trained is None:
            return None
        weights, figures = trained
        found |= figures
    if plan.held_out.prompts:
        with clock("evaluating"):
            found["evaluation"] = _evaluate(plan, parts, number, path, weights)
    if number:
        found["alarms"] = round_measures.alarms(
            earlier[1] if len(earlier) > 1 else found, found, plan.limits
        )
    found["seconds"] = clock.seconds
    found["compiled_programs"] = parts.compiled.programs - programs
    if jax.process_index() == 0:
        files.write(path / "summary.json", files.canonical(found))
    if number or plan.held_out.prompts:
        parts.say(reporting.describe(found))
    return weights, found


def _learn(
    plan: RaftPlan,
    parts: RaftParts,
    number: int,
    path: Path,
    weights: Weights,
    clock: "Clock",
    earlier: Sequence[RoundSummary],
) -> tuple[Weights, RoundSummary] | None:
    drawn = plan.pool.draw(number - 1)
    title = f"round {number}"
    with clock("sampling"):
        seed = seed_of_round(plan.seed, number)
        sampled = _sample(plan, parts, drawn, path, weights, seed, title)
        log_ratios = _log_ratios(parts, drawn, sampled)
    candidates = with_references(drawn, sampled) if plan.reference_answers else sampled
    with clock("scoring"):
        conversations = [
            judging.conversation(prompt, candidate.text)
            for prompt, row in zip(drawn, candidates, strict=True)
            for candidate in row
        ]
        scores = parts.judges.score(conversations, path / "judgements.jsonl", title)
    rows = judging.by_prompt(scores, candidates)
    choices = _select(plan, parts, drawn, candidates, rows, log_ratios, path)
    if choices is None:
        return None
    chosen = [
        judging.to_learn(prompt, row[choice.index])
        for prompt, row, choice in zip(drawn, candidates, choices, strict=True)
        if choice.index is not None
    ]
    if jax.process_index() == 0:
        reporting.write(path, drawn, candidates, rows, log_ratios, choices)
    with clock("training"):
        if chosen:
            tuned = parts.tuner.tune(path, number, chosen, weights)
        else:
            tuned = Tuned(weights, 0, 0, 0.0, {}, _nothing_chosen(choices))
            parts.say(f"warning: {title}: {tuned.remark}")
        if tuned is None:
            return None
    return tuned.weights, {
        **round_measures.measure_choices(choices),
        **reporting.rewards(plan, parts, rows, choices),
        **round_measures.measure_texts(candidates, choices),
        **(round_measures.measure_distance(sampled, log_ratios) if parts.start_model else {}),
        **{f"training/{name}": value for name, value in tuned.figures.items()},
        **reporting.cost(parts, drawn, candidates, tuned),
        "learned_from": len(chosen),
        "optimizer_steps": tuned.steps,
        **({"remark": tuned.remark} if tuned.remark else {}),
    }


def _nothing_chosen(choices: Sequence[Selection]) -> str:
    """A warning about a round in which no candidate was chosen."""
    found = Counter(verdict for choice in choices for verdict in choice.verdicts if verdict)
    why = ", ".join(f"{count:,} {verdict}" for verdict, count in found.most_common())
    return (
        f"no candidate was chosen{f' ({why})' if why else ''}, so nothing is learned; sample more "
        "candidates, look at candidates.jsonl and at the thresholds of raft.accept, or begin with "
        "a model that gives such answers"
    )


# ---------------------------------------------------------------------------- phases


def _sample(
    plan: RaftPlan,
    parts: RaftParts,
    drawn: Sequence[Prompt],
    path: Path,
    weights: Weights,
    seed: int,
    title: str,
) -> list[list[Candidate]]:
    samples = round_files.Samples(
        path / "samples.jsonl",
        [prompt.number for prompt in drawn],
        plan.block,
        jax.process_index() == 0,
    )
    with _laid_out(plan, parts, weights) as model:
        sampling.fill(samples, drawn, model, parts.sample, seed=seed, block=plan.block, title=title)
    return samples.candidates


def _laid_out(
    plan: RaftPlan, parts: RaftParts, weights: Weights
) -> contextlib.AbstractContextManager[Model]:
    """The policy laid out for decoding. A frozen base is lent. Weights that were trained, or into
    which adapters were merged, may share arrays with those of another round, so they are copied,
    in the policy's compute type."""
    model = parts.policy.model(weights.trainable, weights.frozen)
    base_is_frozen = parts.policy.adapter is not None and not plan.keep_checkpoints
    return layout.lent(model) if base_is_frozen else contextlib.nullcontext(layout.copied(model))


def _log_ratios(
    parts: RaftParts, drawn: Sequence[Prompt], sampled: Sequence[Sequence[Candidate]]
) -> list[np.ndarray]:
    """log(p / p0) of every sampled candidate; zeros without a start model."""
    if parts.start_model is None:
        return [np.zeros(len(row)) for row in sampled]
    at_start = parts.start_model.logprobs(drawn, sampled)
    return [
        np.array([candidate.logprob for candidate in row]) - known
        for row, known in zip(sampled, at_start, strict=True)
    ]


def with_references(
    drawn: Sequence[Prompt], sampled: Sequence[Sequence[Candidate]]
) -> list[list[Candidate]]:
    """Adds the answer of each prompt's row as its last candidate; it was not sampled, so its
    log(p / p0) counts as 0."""
    return [
        [*row, *([Candidate.of_reference(prompt.reference)] if prompt.reference else [])]
        for prompt, row in zip(drawn, sampled, strict=True)
    ]


def _select(
    plan: RaftPlan,
    parts: RaftParts,
    drawn: Sequence[Prompt],
    candidates: Sequence[Sequence[Candidate]],
    rows: Sequence[Mapping[str, Sequence[Score]]],
    log_ratios: Sequence[np.ndarray],
    path: Path,
) -> list[Selection] | None:
    """The choices; None if people are still to make them."""
    if plan.people:
        out, back = path / "for_people.csv", path / "choices.csv"
        if not out.exists() and jax.process_index() == 0:
            people.export(out, drawn, candidates, plan.seed)
        if not hosts.first_says(back.exists):
            parts.say(
                f"candidates are in {out}: write the number of the best answer (0: none) into the "
                f"column choice, save it as {back}, and run the same command again"
            )
            return None
        return people.read(back, drawn, candidates, plan.seed)
    return [
        selection.choose(
            plan.rule,
            parts.judges.cards,
            row,
            [*ratios, *[0.0] * (len(answers) - len(ratios))],
            answers,
        )
        for row, ratios, answers in zip(rows, log_ratios, candidates, strict=True)
    ]


def _evaluate(
    plan: RaftPlan, parts: RaftParts, number: int, path: Path, weights: Weights
) -> dict[str, dict[str, Any]]:
    """Answers the held-out prompts; the share of safe answers, by judge and source."""
    asked = plan.held_out.prompts
    numbers = [prompt.number for prompt in asked]
    samples = round_files.Samples(
        path / "evaluation_samples.jsonl", numbers, plan.block, jax.process_index() == 0
    )
    title = f"round {number}, held out"
    with _laid_out(plan, parts, weights) as model:
        sampling.fill(
            samples, asked, model, parts.answer, seed=plan.seed, block=plan.block, title=title
        )
    answers = [row[0] for row in samples.candidates]
    conversations = [
        judging.conversation(prompt, answer.text)
        for prompt, answer in zip(asked, answers, strict=True)
    ]
    scores = parts.judges.score(conversations, path / "evaluation_judgements.jsonl", title)
    if jax.process_index() == 0:
        round_files.write_lines(
            path / "evaluation.jsonl",
            [
                {
                    "source": prompt.group,
                    "prompt": conversation.question,
                    "response": answer.text,
                    "scores": {name: as_json(found[i]) for name, found in scores.items()},
                }
                for i, (prompt, conversation, answer) in enumerate(
                    zip(asked, conversations, answers, strict=True)
                )
            ],
        )
    places: dict[str, list[int]] = {}
    for i, prompt in enumerate(asked):
        places.setdefault(prompt.group, []).append(i)
    prompts = {
        source: clusters_of([conversations[i] for i in own]) for source, own in places.items()
    }
    return {
        name: {
            source: round_measures.measure_answers(
                card, [scores[name][i] for i in own], prompts[source]
            )
            for source, own in places.items()
        }
        for name, card in parts.judges.cards.items()
    }


class Clock:
    """Seconds by phase since this process started the round."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - began
