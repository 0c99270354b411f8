"""Plots come from metric lines alone; the card holds every fact and the Hub can read it."""

import dataclasses
import json

import numpy as np
import pytest
from huggingface_hub import ModelCard
from matplotlib.image import imread

from safety_jax.base.errors import DataError
from safety_jax.report import model_card as cards
from safety_jax.report import plots, rounds


def write_metrics(file, steps, evaluations, tokens):
    with open(file, "w") as out:
        for step in range(1, steps + 1):
            row = {
                "step": step,
                "loss": 1 + 2 / step,
                **({"num_tokens": step * 1000} if tokens else {}),
            }
            out.write(json.dumps(row) + "\n")
            if evaluations and step % 10 == 0:
                out.write(json.dumps({"step": step, "eval/loss": 1.2 + 1 / step}) + "\n")


@pytest.mark.parametrize(
    "steps, evaluations, tokens", [(1, False, True), (2, False, False), (40, True, True)]
)
def test_plot_is_a_png_with_all_curves(tmp_path, steps, evaluations, tokens):
    write_metrics(tmp_path / "metrics.jsonl", steps, evaluations, tokens)
    target = tmp_path / "plots" / "loss.png"
    assert plots.loss(tmp_path / "metrics.jsonl", target, "a folder is no formula: $x^$")
    image = imread(target)
    assert image.shape[:2] == (720, 1280)

    def is_drawn(colour):
        wanted = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        return bool((np.abs(image[..., :3] - wanted).max(-1) < 0.02).any())

    assert is_drawn("#1f4e8c")
    assert is_drawn("#d1495b") == evaluations
    assert [p.name for p in target.parent.iterdir()] == ["loss.png"]


def test_plot_without_a_loss_is_not_drawn(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": null, "non_finite": {}}\n')
    assert not plots.loss(tmp_path / "metrics.jsonl", tmp_path / "loss.png", "run")
    assert not (tmp_path / "loss.png").exists()


def test_plot_of_a_broken_file_names_the_line(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"loss": 1}\n')
    with pytest.raises(DataError, match="metrics.jsonl line 2"):
        plots.loss(tmp_path / "metrics.jsonl", tmp_path / "loss.png", "run")


@pytest.fixture
def figures(monkeypatch):
    """Figures instead of files."""
    found = []
    for module in (plots, rounds):
        monkeypatch.setattr(module, "save", lambda figure, target: found.append(figure))
    return found


@pytest.mark.parametrize("count", [1, 3])
def test_rounds_are_whole_numbers_and_each_is_named_once(count, figures, tmp_path):
    histogram = {"counts": [1, 2], "edges": [0.0, 0.5, 1.0]}
    figure = {
        "distinct_2": 0.5,
        "reward/mean": 0.1,
        "reward/selected": 0.2,
        "reward/histogram": histogram,
    }
    rounds.draw([{"round": i + 1, **figure} for i in range(count)], tmp_path, "raft")
    by_round, histograms = figures[0].axes[0], figures[1].axes[0]
    assert [*by_round.get_xticks()] == list(range(1, count + 1))
    named = [text.get_text() for text in histograms.get_legend().get_texts()]
    assert named == [f"round {i}" for i in sorted({1, count})]


def test_sources_in_a_legend_are_no_formulas_and_none_is_left_out(figures, tmp_path):
    """A file may be called anything, and matplotlib has rules for $ and _."""
    names = ("cost_$5_and_$6", "_held_out")
    share = {"safe_share": 0.5, "safe_share_95": (0.4, 0.6)}
    row = {"round": 1, "evaluation": {"judge": dict.fromkeys(names, share)}}
    rounds.draw_safe_share([row], tmp_path / "safe_share.png", "raft")
    figures[0].draw_without_rendering()  # it would refuse the formula
    named = [text.get_text() for text in figures[0].axes[0].get_legend().get_texts()]
    assert named == [r"cost_\$5_and_\$6, by judge", " _held_out, by judge"]


def test_the_dot_of_all_examples_is_small_in_the_legend(figures, tmp_path):
    plots.reliability([0.6], [0.5], [0.3], [0.8], [9], tmp_path / "calibration.png", "judge")
    (axes,) = figures[0].axes
    dots = [h for h in axes.get_legend().legend_handles if hasattr(h, "get_sizes")]
    assert [max(dot.get_sizes()) for dot in dots] == [20]
    assert max(axes.collections[-1].get_sizes()) > 400


def test_smoothing_by_hand():
    steps, values = np.array([0.0, 1.0, 3.0]), np.array([8.0, 2.0, 4.0])
    # Half-life 1: weights 1/8, 1/4, 1 for the third point, which is two steps after the second.
    expected = [8.0, (4 + 2) / 1.5, (8 / 8 + 2 / 4 + 4) / (1 / 8 + 1 / 4 + 1)]
    np.testing.assert_allclose(plots.smooth(steps, values, 1.0), expected)


def test_series_leaves_out_what_is_missing_or_not_finite():
    rows = [{"step": 1, "loss": 2.0}, {"step": 1, "eval/loss": 3.0}, {"step": 2, "loss": None}]
    steps, values = plots.series(rows, "loss")
    assert (steps.tolist(), values.tolist()) == ([1.0], [2.0])
    assert plots.series(rows, "absent")[0].size == 0


CARD = cards.ModelCard(
    title="sit-500",
    summary="LLaMA 7B, tuned on instructions.",
    stage="sft",
    base="huggyllama/llama-7b",
    base_on_hub=True,
    base_sha256="ab" * 32,
    library="peft",
    task=cards.GENERATION,
    export="export",
    command="python -m safety_jax.main --config=configs/sft.py:safety=500 --workdir=runs/sit-500",
    config={"optim": {"learning_rate": 1e-4}, "data": {"train": ("a.json|x",)}, "seed": 0},
    sources=(
        cards.CardSource(
            "alpaca", "hf:yahma/alpaca-cleaned:train?rows=20000", 20_000, 0.9756, 3, None
        ),
        cards.CardSource("safety", "data/safety.json", 500, 0.0244, 0, "cd" * 32),
    ),
    counts={"prompts cut on their left": 12, "answers cut at their end": 1034},
    prompt="### Instruction:\n```\n### Response:\n",
    results={"validation loss": 1.03125, "perplexity": 2.8046, "tokens": 12_345_678, "time": "2 h"},
    hardware={"device": "4 x TPU v5 lite", "mesh": "data 2, fsdp 2"},
    notes=("base: 8-bit in the paper; bfloat16 here",),
    versions={"jax": "0.10.2"},
    commit="0123abc",
    plots=("plots/loss.png",),
)


def test_the_hub_reads_the_front_matter():
    data = ModelCard(cards.render(CARD)).data
    assert data.base_model == "huggyllama/llama-7b"
    assert (data.library_name, data.pipeline_tag) == ("peft", "text-generation")
    assert data.tags == ["safety_jax", "safety", "sft", "lora"]
    assert data.datasets == ["yahma/alpaca-cleaned"]


def test_rewards_have_the_unit_of_their_objective(figures, tmp_path):
    row = {f"rewards/{name}": 0.5 for name in ("chosen", "rejected", "margins", "accuracies")}
    (tmp_path / "m.jsonl").write_text(json.dumps({"step": 1} | row) + "\n")
    assert plots.rewards(tmp_path / "m.jsonl", tmp_path / "r.png", "orpo", "λ log π per token")
    assert figures[0].axes[0].get_ylabel() == "reward, λ log π per token"


@pytest.mark.parametrize("change", [{"base_on_hub": False}, {"base_sha256": None}])
def test_only_a_hub_model_whose_weights_were_tuned_is_named(change):
    assert ModelCard(cards.render(dataclasses.replace(CARD, **change))).data.base_model is None


@pytest.mark.parametrize("base", ["/models/llama", "../llama", "llama", "a/b/c", "./a/b"])
def test_a_folder_is_not_named_as_a_hub_model(base):
    text = cards.render(dataclasses.replace(CARD, base=base, library="transformers", sources=()))
    data = ModelCard(text).data
    assert data.base_model is None and data.datasets is None
    assert data.tags == ["safety_jax", "safety", "sft"]


@pytest.mark.parametrize(
    "fact",
    [
        "# sit-500\n\nLLaMA 7B, tuned on instructions.\n",
        "![plots/loss.png](plots/loss.png)",
        'base = AutoModelForCausalLM.from_pretrained("huggyllama/llama-7b", dtype="bfloat16")',
        'model = PeftModel.from_pretrained(base, "export")',
        "````text\n### Instruction:\n```\n### Response:\n\n````",
        "| validation loss | 1.031 |",
        "| tokens | 12,345,678 |",
        "| alpaca | `hf:yahma/alpaca-cleaned:train?rows=20000` | 20,000 | 97.56% | 3 |  |",
        f"| safety | `data/safety.json` | 500 | 2.44% | 0 | `{'cd' * 32}` |",
        "- answers cut at their end: 1,034",
        "| `optim.learning_rate` | `0.0001` |",
        '| `data.train` | `["a.json\\|x"]` |',
        "## Protocol\n\n- base: 8-bit in the paper; bfloat16 here\n",
        "```sh\npython -m safety_jax.main --config=configs/sft.py:safety=500",
        f"| base weights, sha256 | `{'ab' * 32}` |",
        "| mesh | data 2, fsdp 2 |",
        "| safety_jax commit | `0123abc` |",
        "| jax | 0.10.2 |",
    ],
)
def test_card_holds(fact):
    assert fact in cards.render(CARD)


def test_card_of_a_whole_model_from_random_weights():
    card = dataclasses.replace(
        CARD, library="transformers", base_sha256=None, export=".", notes=(), commit=None
    )
    text = cards.render(card)
    assert 'model = AutoModelForCausalLM.from_pretrained(".", dtype="bfloat16")' in text
    assert "PeftModel" not in text and "## Protocol" not in text
    assert "training began at random weights" in text and "commit | not known" in text
