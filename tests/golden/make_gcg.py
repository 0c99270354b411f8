"""GCG (arXiv 2307.15043) in PyTorch: gradients of one-hot tokens, losses, searches; needs torch.

    python -m tests.golden.make_gcg            writes tests/golden/gcg.npz
    python -m tests.golden.make_gcg --check    compares with it at 1e-5; exit code 1 on difference

Written from the paper's two algorithms, on a model of transformers that is given embeddings: a
one-hot matrix times the table, by which torch differentiates. Searches try every replacement among
the best tokens of every place, where the paper draws some, so that nothing is random.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from tests.golden import cases, compare, gcg_rows
from tests.golden.make_sft import adapted_model

Goal = tuple[list[int], list[int], list[int]]


def reference_model(name: str) -> torch.nn.Module:
    if name == gcg_rows.ADAPTED:
        model = adapted_model(gcg_rows.TARGETS).merge_and_unload()
    else:
        with tempfile.TemporaryDirectory() as folder:
            cases.write_folder(Path(folder), cases.read_config(name))
            model = AutoModelForCausalLM.from_pretrained(
                folder, dtype=torch.float32, attn_implementation="eager"
            )
    return model.eval().requires_grad_(False)


def loss_of(model: torch.nn.Module, goal: Goal, one_hot: torch.Tensor) -> tuple[torch.Tensor, bool]:
    """Mean cross-entropy of the target, and whether each of its tokens is the most likely."""
    before, after, target = goal
    table = model.get_input_embeddings().weight
    parts = [table[before], one_hot @ table, table[after], table[target]]
    logits = model(inputs_embeds=torch.cat(parts)[None]).logits[0]
    start = len(before) + len(one_hot) + len(after)
    logits, wanted = logits[start - 1 : start - 1 + len(target)], torch.tensor(target)
    loss = torch.nn.functional.cross_entropy(logits, wanted)
    return loss, bool((logits.argmax(-1) == wanted).all())


def gradient_of(
    model: torch.nn.Module, goal: Goal, suffix: list[int]
) -> tuple[float, torch.Tensor]:
    one_hot = torch.nn.functional.one_hot(torch.tensor(suffix), cases.VOCABULARY).float()
    one_hot.requires_grad_(True)
    loss, _ = loss_of(model, goal, one_hot)
    loss.backward()
    return loss.item(), one_hot.grad


def loss_at(model: torch.nn.Module, goal: Goal, suffix: list[int]) -> tuple[float, bool]:
    one_hot = torch.nn.functional.one_hot(torch.tensor(suffix), cases.VOCABULARY).float()
    with torch.no_grad():
        loss, reached = loss_of(model, goal, one_hot)
    return loss.item(), reached


def search(
    model: torch.nn.Module, goals: list[Goal], progressive: bool
) -> tuple[list[list[int]], list[float], list[int]]:
    """Suffix, mean loss and number of requests of every step."""
    suffix, count = list(gcg_rows.START), 1 if progressive else len(goals)
    suffixes, losses, counts = [], [], []
    for _ in range(gcg_rows.STEPS):
        active = goals[:count]
        total = torch.zeros(len(suffix), cases.VOCABULARY)
        for goal in active:
            gradient = gradient_of(model, goal, suffix)[1]
            total += gradient / gradient.norm(dim=-1, keepdim=True)
        total[:, : gcg_rows.FIRST] = torch.inf
        best = (-total).topk(gcg_rows.TOP_K, dim=-1).indices.tolist()
        tried = [
            [*suffix[:place], token, *suffix[place + 1 :]]
            for place, tokens in enumerate(best)
            for token in tokens
        ]
        tried = [ids for ids in tried if ids != suffix]
        found = [[loss_at(model, goal, ids) for goal in active] for ids in tried]
        means = [sum(loss for loss, _ in row) / len(row) for row in found]
        place = int(np.argmin(means))
        suffix = tried[place]
        suffixes.append(suffix)
        losses.append(means[place])
        counts.append(count)
        if all(reached for _, reached in found[place]):
            count = min(count + 1, len(goals))
    return suffixes, losses, counts


def within_reach(model: torch.nn.Module, goals: list[Goal]) -> list[Goal]:
    """The goals, with the token as target that the model writes when one of the suffix's tokens is
    another: a search gets there within a few steps."""
    found = []
    for number, (before, after, _) in enumerate(goals):
        suffix = list(gcg_rows.START)
        suffix[number] = int(gcg_rows.candidates()[number + 1, number])
        with torch.no_grad():
            logits = model(torch.tensor([[*before, *suffix, *after]])).logits[0, -1]
        found.append((before, after, [int(logits[gcg_rows.FIRST :].argmax()) + gcg_rows.FIRST]))
    return found


def main() -> int:
    torch.set_num_threads(1)
    golden = compare.Golden(cases.FOLDER, compare.parse_check(__doc__ or ""), tolerance=1e-5)
    made: dict[str, np.ndarray] = {}
    goals = gcg_rows.goals(gcg_rows.SEARCHES["together"][0])
    for name in gcg_rows.CASES:
        model = reference_model(name)
        found = [gradient_of(model, goal, list(gcg_rows.START)) for goal in goals]
        made[f"{name}/loss"] = np.array([loss for loss, _ in found])
        made[f"{name}/gradient"] = torch.stack([slope for _, slope in found]).numpy()
        made[f"{name}/candidates"] = np.array(
            [
                [loss_at(model, goal, ids)[0] for ids in gcg_rows.candidates().tolist()]
                for goal in goals
            ]
        )
        print(name, made[f"{name}/loss"], np.abs(made[f"{name}/gradient"]).max())
    model = reference_model(gcg_rows.ADAPTED)
    for name, (sizes, progressive) in gcg_rows.SEARCHES.items():
        goals = gcg_rows.goals(sizes)
        if progressive:
            goals = within_reach(model, goals)
            made[f"{name}/targets"] = np.array([target for _, _, target in goals])
        suffixes, losses, counts = search(model, goals, progressive)
        made[f"{name}/suffixes"] = np.array(suffixes)
        made[f"{name}/losses"] = np.array(losses)
        made[f"{name}/counts"] = np.array(counts)
        print(name, losses, counts)
    golden.arrays(gcg_rows.FILE.name, made)
    return golden.finish()


if __name__ == "__main__":
    sys.exit(main())
