"""A run of RAFT, round by round: what is done in each, and what each leaves behind.

    sample -> score -> select -> fine-tune -> answer the held-out prompts

A phase whose file is there is not done again.
"""

import contextlib
import dataclasses
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

from safety_jax import compilation, trees, workdir
from safety_jax.data.records import Record
from safety_jax.models import decode, llama
from safety_jax.policy import Policy
from safety_jax.raft import folder as files
from safety_jax.raft import judging, measures, people, sampling, selection
from safety_jax.raft.folder import Candidate
from safety_jax.raft.pool import Pool, Prompt, seed_of_round
from safety_jax.raft.selection import Choice
from safety_jax.scoring.judge import Score
from safety_jax.scoring.ledger import as_json

Summary = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Weights:
    """The policy between two rounds."""

    trainable: trees.Tree
    frozen: trees.Tree


@dataclasses.dataclass(frozen=True)
class Tuned:
    """What fine-tuning on a round's selection left.

    Attributes:
        weights: for the next round.
        steps, tokens, flops: optimizer steps, tokens learned from, and what they cost.
        figures: the loop's last numbers.
    """

    weights: Weights
    steps: int
    tokens: int
    flops: float
    figures: Mapping[str, float]


@runtime_checkable
class Tuner(Protocol):
    """Fine-tunes in a round's folder; the stage's, for it knows the config."""

    def tune(
        self, path: Path, number: int, records: Sequence[Record], weights: Weights
    ) -> Tuned | None:
        """None when asked to stop before the end."""
        ...

    def restore(self, path: Path, number: int, weights: Weights) -> Weights:
        """What `tune` left in the folder of a finished round."""
        ...


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a run is, apart from its models.

    Attributes:
        path: the folder of the rounds.
        pool, held_out: prompts to learn from, and those answered after every round.
        rounds: at most so many.
        patience: rounds without a rise of the selected reward before the run ends; 0: never.
        rule, limits: how candidates are chosen, and what is alarming.
        block: prompts sampled between two writes.
        reference_answers: the answer of a prompt's row is one more candidate.
        people: choices come from a file that people fill in.
        keep_checkpoints: whether weights are made of those of all rounds (see `Tuner.restore`).
    """

    path: Path
    pool: Pool
    held_out: Sequence[Prompt]
    seed: int
    rounds: int
    patience: int
    rule: selection.Rule
    limits: measures.Limits
    block: int
    reference_answers: bool
    people: bool
    keep_checkpoints: bool


@dataclasses.dataclass(frozen=True)
class Parts:
    """What a run works with.

    Attributes:
        sample, answer: how candidates are sampled, and how held-out prompts are answered.
        first: the model at the start; None where nothing asks for log p0.
        say: tells the person who watches.
    """

    policy: Policy
    sample: decode.Setup
    answer: decode.Setup
    judges: judging.Judges
    tuner: Tuner
    first: sampling.First | None
    compiled: compilation.Counter
    say: Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a run ended; `weights` is None when it waits for people or was asked to stop."""

    weights: Weights | None
    summaries: list[Summary]


def run(plan: Plan, parts: Parts, weights: Weights) -> Outcome:
    """All rounds that are left, from the weights at the start of the run."""
    summaries: list[Summary] = []
    waiting: list[int] = []  # finished rounds whose weights were not needed yet
    for number in range(plan.rounds + 1):
        path = plan.path / f"{number:02d}"
        found = files.read_summary(path)
        if found is None:
            for earlier in waiting if plan.keep_checkpoints else waiting[-1:]:
                weights = parts.tuner.restore(plan.path / f"{earlier:02d}", earlier, weights)
            waiting = []
            path.mkdir(parents=True, exist_ok=True)
            done = _round(plan, parts, number, path, weights, summaries)
            if done is None:
                return Outcome(None, summaries)
            weights, found = done
            if number and not plan.keep_checkpoints:
                for earlier in range(1, number):
                    if found["optimizer_steps"]:
                        shutil.rmtree(
                            plan.path / f"{earlier:02d}" / "checkpoints", ignore_errors=True
                        )
        elif found["optimizer_steps"]:
            waiting.append(number)
        summaries.append(found)
        if _stalls(summaries, plan.patience):
            parts.say(f"the selected reward has not risen for {plan.patience} rounds; done")
            break
    for earlier in waiting if plan.keep_checkpoints else waiting[-1:]:
        weights = parts.tuner.restore(plan.path / f"{earlier:02d}", earlier, weights)
    return Outcome(weights, summaries)


def _stalls(summaries: Sequence[Summary], patience: int) -> bool:
    rewards = [row.get("reward/selected") for row in summaries[1:]]
    known = [-math.inf if reward is None else reward for reward in rewards]
    if not patience or len(known) <= patience:
        return False
    return max(known[-patience:]) <= max(known[:-patience])


def _round(
    plan: Plan,
    parts: Parts,
    number: int,
    path: Path,
    weights: Weights,
    earlier: Sequence[Summary],
) -> tuple[Weights, Summary] | None:
    """One round; round 0 only answers the held-out prompts."""
    clock, programs = Clock(), parts.compiled.programs
    found: Summary = {"round": number, "optimizer_steps": 0}
    if number:
        trained = _learn(plan, parts, number, path, weights, clock, earlier)
        if trained is None:
            return None
        weights, figures = trained
        found |= figures
    if plan.held_out:
        with clock("evaluating"):
            found["evaluation"] = _evaluate(plan, parts, number, path, weights)
    if number:
        found["alarms"] = measures.alarms(
            earlier[1] if len(earlier) > 1 else found, found, plan.limits
        )
    found["seconds"] = clock.seconds
    found["compiled_programs"] = parts.compiled.programs - programs
    if jax.process_index() == 0:
        workdir.write(path / "summary.json", workdir.canonical(found))
    parts.say(describe(found))
    return weights, found


def _learn(
    plan: Plan,
    parts: Parts,
    number: int,
    path: Path,
    weights: Weights,
    clock: "Clock",
    earlier: Sequence[Summary],
) -> tuple[Weights, Summary] | None:
    drawn = plan.pool.draw(number - 1)
    title = f"round {number}"
    with clock("sampling"):
        sampled = _sample(plan, parts, drawn, path, weights, seed_of_round(plan.seed, number))
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
        judging.answered(prompt, row[choice.index].text)
        for prompt, row, choice in zip(drawn, candidates, choices, strict=True)
        if choice.index is not None
    ]
    if jax.process_index() == 0:
        _write(path, drawn, candidates, rows, log_ratios, choices)
    with clock("training"):
        tuned = parts.tuner.tune(path, number, chosen, weights) if chosen else Tuned(
            weights, 0, 0, 0.0, {}
        )  # fmt: skip
        if tuned is None:
            return None
    return tuned.weights, {
        **measures.of_choices(choices),
        **_rewards(plan, parts, rows, choices),
        **measures.of_texts(candidates, choices),
        **(measures.of_distance(sampled, log_ratios) if parts.first else {}),
        **{f"training/{name}": value for name, value in tuned.figures.items()},
        **_cost(parts, drawn, candidates, tuned),
        "learned_from": len(chosen),
        "optimizer_steps": tuned.steps,
    }


# ---------------------------------------------------------------------------- phases


def _sample(
    plan: Plan, parts: Parts, drawn: Sequence[Prompt], path: Path, weights: Weights, seed: int
) -> list[list[Candidate]]:
    samples = files.Samples(
        path / "samples.jsonl",
        [prompt.number for prompt in drawn],
        plan.block,
        jax.process_index() == 0,
    )
    base, adapters = speaking(parts.policy, weights)
    sampling.fill(
        samples, drawn, parts.sample, base, adapters, seed=seed, block=plan.block, title=path.name
    )
    return samples.candidates


def speaking(policy: Policy, weights: Weights):
    """Base weights and adapters of the policy, as `decode.generate` takes them."""
    if policy.adapter is None:
        return weights.trainable, None
    return weights.frozen, policy.adapters(weights.trainable)


def _log_ratios(
    parts: Parts, drawn: Sequence[Prompt], sampled: Sequence[Sequence[Candidate]]
) -> list[np.ndarray]:
    """log(p / p0) of every sampled candidate; zeros where nobody asks."""
    if parts.first is None:
        return [np.zeros(len(row)) for row in sampled]
    first = parts.first.logprobs(drawn, sampled)
    return [
        np.array([candidate.logprob for candidate in row]) - known
        for row, known in zip(sampled, first, strict=True)
    ]


def with_references(
    drawn: Sequence[Prompt], sampled: Sequence[Sequence[Candidate]]
) -> list[list[Candidate]]:
    """The answers of the prompts' own rows as last candidates; nobody sampled them, so that their
    log(p / p0) counts as 0."""
    return [
        [*row, *([Candidate(prompt.reference, (), 0.0, "reference")] if prompt.reference else [])]
        for prompt, row in zip(drawn, sampled, strict=True)
    ]


def _select(
    plan: Plan,
    parts: Parts,
    drawn: Sequence[Prompt],
    candidates: Sequence[Sequence[Candidate]],
    rows: Sequence[Mapping[str, Sequence[Score]]],
    log_ratios: Sequence[np.ndarray],
    path: Path,
) -> list[Choice] | None:
    """The choices; None while people have not made them."""
    if plan.people:
        out, back = path / "for_people.csv", path / "choices.csv"
        if not out.exists() and jax.process_index() == 0:
            people.export(out, drawn, candidates, plan.seed)
        if not back.exists():
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
            [candidate.finished for candidate in answers],
        )
        for row, ratios, answers in zip(rows, log_ratios, candidates, strict=True)
    ]


def _evaluate(
    plan: Plan, parts: Parts, number: int, path: Path, weights: Weights
) -> dict[str, dict[str, Any]]:
    """Answers the held-out prompts; the share of safe answers, by judge and source."""
    asked = plan.held_out
    numbers = [prompt.number for prompt in asked]
    samples = files.Samples(
        path / "evaluation_samples.jsonl", numbers, plan.block, jax.process_index() == 0
    )
    base, adapters = speaking(parts.policy, weights)
    title = f"{path.name} held out"
    sampling.fill(
        samples, asked, parts.answer, base, adapters, seed=plan.seed, block=plan.block, title=title
    )
    answers = [row[0] for row in samples.candidates]
    conversations = [
        judging.conversation(prompt, answer.text)
        for prompt, answer in zip(asked, answers, strict=True)
    ]
    scores = parts.judges.score(conversations, path / "evaluation_judgements.jsonl", title)
    if jax.process_index() == 0:
        files.write_lines(
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
    return {
        name: {
            source: measures.of_answers(
                card,
                [
                    s
                    for s, prompt in zip(scores[name], asked, strict=True)
                    if prompt.group == source
                ],
            )
            for source in dict.fromkeys(prompt.group for prompt in asked)
        }
        for name, card in parts.judges.cards.items()
    }


# ---------------------------------------------------------------------------- what is written


def _write(
    path: Path,
    drawn: Sequence[Prompt],
    candidates: Sequence[Sequence[Candidate]],
    rows: Sequence[Mapping[str, Sequence[Score]]],
    log_ratios: Sequence[np.ndarray],
    choices: Sequence[Choice],
) -> None:
    everything, selected = [], []
    for prompt, answers, row, ratios, choice in zip(
        drawn, candidates, rows, log_ratios, choices, strict=True
    ):
        asked = judging.conversation(prompt, "")
        everything.append(
            {
                "prompt_number": prompt.number,
                "group": prompt.group,
                "where": prompt.record.where,
                "prompt": asked.question,
                "responses": [candidate.text for candidate in answers],
                "finish": [candidate.finish for candidate in answers],
                "scores": {
                    name: [as_json(score) for score in found] for name, found in row.items()
                },
                "log_ratio_to_start": [float(ratio) for ratio in ratios],
                "verdicts": list(choice.verdicts),
                "choice": choice.index,
                "why": choice.why,
            }
        )
        if choice.index is not None:
            messages = judging.answered(prompt, answers[choice.index].text).messages
            turns = [{"role": m.role, "content": m.content} for m in messages]
            selected.append({"messages": turns})
    files.write_lines(path / "candidates.jsonl", everything)
    files.write_lines(path / "selected.jsonl", selected)


def _rewards(
    plan: Plan,
    parts: Parts,
    rows: Sequence[Mapping[str, Sequence[Score]]],
    choices: Sequence[Choice],
) -> Summary:
    card = parts.judges.cards.get(plan.rule.rank_by)
    if card is None:  # people choose, and no judge looks on
        return {}
    return measures.of_rewards(card, [row[card.name] for row in rows], choices)


def _cost(
    parts: Parts,
    drawn: Sequence[Prompt],
    candidates: Sequence[Sequence[Candidate]],
    tuned: Tuned,
) -> Summary:
    """What the round cost, so that methods can be compared at equal compute."""
    declared = llama.parameters(parts.policy.config)
    weights = sum(math.prod(p.shape) for name, p in declared.items() if name.endswith("kernel"))
    weights += parts.policy.config.vocabulary_size * parts.policy.config.width
    generated = sum(len(candidate.ids) for row in candidates for candidate in row)
    read = sum(len(prompt.ids) for prompt in drawn)
    judged = generated + sum(
        len(prompt.ids) * len(row) for prompt, row in zip(drawn, candidates, strict=True)
    )
    return {
        "generated_tokens": generated,
        "candidates_sampled": sum(bool(c.ids) for row in candidates for c in row),
        "judged_tokens": judged * parts.judges.models,
        "trained_tokens": tuned.tokens,
        "sampling_flops": 2.0 * weights * (generated + read),
        "training_flops": tuned.flops,
    }


class Clock:
    """Seconds by phase, of this start."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - began


def describe(summary: Summary) -> str:
    """A finished round in a few lines, for people."""
    number = summary["round"]
    lines = []
    if number:
        without = summary["prompts_without_choice"]
        lines.append(
            f"round {number}: {summary['prompts']:,} prompts, "
            f"{summary['candidates_sampled']:,} candidates, {without:,} prompts without an "
            f"acceptable one; {summary['optimizer_steps']} steps on {summary['learned_from']:,}"
        )
        known = [
            f"{label} {summary[key]:.3f}"
            for key, label in REWARDS.items()
            if summary.get(key) is not None
        ]
        if known:
            lines.append("  reward: " + ", ".join(known))
        spent = summary["seconds"]
        phases = ", ".join(f"{phase} {seconds:.0f} s" for phase, seconds in spent.items())
        rate = summary["candidates_sampled"] / max(spent.get("sampling", 0.0), 1e-9)
        lines.append(
            f"  {phases}; {rate:.1f} candidates/s, {summary['compiled_programs']} programs compiled"
        )
    for judge, sources in summary.get("evaluation", {}).items():
        for source, found in sources.items():
            if "safe_share" in found:
                low, high = found["safe_share_95"]
                lines.append(
                    f"  after round {number}, {source}: {found['safe_share']:.1%} safe "
                    f"[{low:.1%}, {high:.1%}] by {judge}"
                )
    return "\n".join(lines + [f"warning: {alarm}" for alarm in summary.get("alarms", [])])


REWARDS = {
    "reward/mean": "mean",
    "reward/best_of_candidates": "best of the candidates",
    "reward/selected": "selected",
}
