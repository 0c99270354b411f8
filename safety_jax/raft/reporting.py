"""The readable results of a round: its candidates and choices, its figures, a short message."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from safety_jax.data.parsing import CUT_OFF
from safety_jax.judges.judge import Score, from_record
from safety_jax.judges.ledger import as_json
from safety_jax.models import llama
from safety_jax.raft import judging, round_files, round_measures
from safety_jax.raft.prompt_pool import Prompt
from safety_jax.raft.round_files import Candidate
from safety_jax.raft.selection import Selection
from safety_jax.raft.setup import RaftParts, RaftPlan, RoundSummary, Tuned


def write(
    path: Path,
    drawn: Sequence[Prompt],
    candidates: Sequence[Sequence[Candidate]],
    rows: Sequence[Mapping[str, Sequence[Score]]],
    log_ratios: Sequence[np.ndarray],
    choices: Sequence[Selection],
) -> None:
    """Writes `candidates.jsonl` and `selected.jsonl` (see `round_files`)."""
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
            selected.append(_learned(prompt, answers[choice.index]))
    round_files.write_lines(path / "candidates.jsonl", everything)
    round_files.write_lines(path / "selected.jsonl", selected)


def _learned(prompt: Prompt, answer: Candidate) -> dict[str, Any]:
    """A row from which stage `sft` learns what the round learned."""
    record = judging.to_learn(prompt, answer)
    messages = (*from_record(record).prompt, record.messages[-1])
    turns = [
        {"role": m.role, "content": m.content} | ({} if m.learned else {"weight": 0})
        for m in messages
    ]
    return {"messages": turns, "finish_reason": CUT_OFF if record.cut else "stop"}


def rewards(
    plan: RaftPlan,
    parts: RaftParts,
    rows: Sequence[Mapping[str, Sequence[Score]]],
    choices: Sequence[Selection],
) -> RoundSummary:
    card = parts.judges.cards.get(plan.rule.rank_by)
    if card is None:  # people choose, without a judge beside them
        return {}
    return round_measures.measure_rewards(card, [row[card.name] for row in rows], choices)


def cost(
    parts: RaftParts,
    drawn: Sequence[Prompt],
    candidates: Sequence[Sequence[Candidate]],
    tuned: Tuned,
) -> RoundSummary:
    """The cost of a round, to compare methods at equal compute: FLOPs of the policy, and tokens
    read by the judges, whose sizes differ."""
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


def describe(summary: RoundSummary) -> str:
    """A message to the user about a finished round."""
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
