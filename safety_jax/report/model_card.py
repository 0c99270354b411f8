"""The model card: README.md of a run's folder and of its export.

A pure function from facts to Markdown. The front matter is for the Hugging Face Hub
(https://huggingface.co/docs/hub/model-cards); the rest tells the method, the data, the settings,
the results, and how to reproduce them.
"""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from safety_jax.base import trees

GENERATION, CLASSIFICATION = "text-generation", "text-classification"  # the Hub's names


@dataclasses.dataclass(frozen=True)
class CardSource:
    """One source of training rows.

    Attributes:
        name: short name.
        spec: the source in the config.
        rows: rows that were trained on.
        share: `rows` over the rows of all sources.
        skipped: unusable rows that were left out.
        sha256: of the file's bytes; None if it is not one file.
    """

    name: str
    spec: str
    rows: int
    share: float
    skipped: int
    sha256: str | None


@dataclasses.dataclass(frozen=True)
class ModelCard:
    """The facts of a run.

    Attributes:
        title: name of the model.
        summary: one or two sentences on the method and the model.
        stage: `sft`, `dpo`, ...; a tag.
        base: the base model's folder or hub id.
        base_on_hub: the base is a repository of the Hub, not a folder.
        base_sha256: hash of its weight files; None if training began at random weights.
        library: `peft` for an adapter folder, `transformers` for a whole model.
        task: GENERATION, or CLASSIFICATION for a judge.
        export: path of the exported folder, relative to the card.
        command: reproduces the model.
        config: the whole config.
        sources: of the training rows.
        counts: other numbers about the rows, for instance how many were cut.
        prompt: an example request, rendered by the template.
        results: name -> number or text, for instance loss, perplexity, best step, tokens, seconds.
        hardware: name -> text: device, number of devices, mesh.
        notes: on the protocol, such as departures from the paper's recipe.
        versions: library -> version.
        commit: of the code; None if unknown.
        plots: paths of PNG files, relative to the card.
    """

    title: str
    summary: str
    stage: str
    base: str
    base_on_hub: bool
    base_sha256: str | None
    library: str
    task: str
    export: str
    command: str
    config: Mapping[str, Any]
    sources: Sequence[CardSource]
    counts: Mapping[str, int]
    prompt: str
    results: Mapping[str, float | int | str]
    hardware: Mapping[str, str]
    notes: Sequence[str]
    versions: Mapping[str, str]
    commit: str | None
    plots: Sequence[str]


def render(card: ModelCard) -> str:
    """The card as Markdown, ending in a newline."""
    sections = [
        _front_matter(card),
        f"# {card.title}",
        card.summary,
        *[f"![{plot}]({plot})" for plot in card.plots],
        "## Use",
        _usage(card),
        "The model was trained on prompts of this form:",
        _fenced(card.prompt, "text"),
        "## Results",
        _table(("", "value"), [(name, _text(value)) for name, value in card.results.items()]),
        "## Data",
        _data(card),
        "## Recipe",
        _recipe(card),
        *(["## Protocol", _bullets(card.notes)] if card.notes else []),
        "## Reproduce",
        _reproduce(card),
    ]
    return "\n\n".join(sections) + "\n"


def _front_matter(card: ModelCard) -> str:
    """YAML, with strings quoted as in JSON, which is valid YAML."""
    tags = ["safety_jax", "safety", card.stage, *(["lora"] if card.library == "peft" else [])]
    lines = [f"library_name: {card.library}", f"pipeline_tag: {card.task}"]
    # The Hub refuses a card whose base model is a folder.
    if card.base_on_hub and card.base_sha256 and _is_hub_id(card.base):
        lines.append(f"base_model: {json.dumps(card.base)}")
        lines.append(f"base_model_relation: {'adapter' if card.library == 'peft' else 'finetune'}")
    lines += ["tags:", *(f"- {json.dumps(tag)}" for tag in tags)]
    datasets = list(dict.fromkeys(filter(None, map(_hub_dataset, card.sources))))
    if datasets:
        lines += ["datasets:", *(f"- {json.dumps(name)}" for name in datasets)]
    return "\n".join(["---", *lines, "---"])


def _is_hub_id(name: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", name) is not None and not name.endswith(
        ".gguf"
    )


def _hub_dataset(source: CardSource) -> str | None:
    """`hf:NAME[:CONFIG]:SPLIT[?options]` -> NAME."""
    found = re.match(r"hf:([^:?]+)", source.spec)
    return found[1] if found and _is_hub_id(found[1]) else None


def _usage(card: ModelCard) -> str:
    export, base = json.dumps(card.export), json.dumps(card.base)
    folder, _, file = card.base.rpartition("/")
    if file.endswith(".gguf"):
        base = f"{json.dumps(folder or '.')}, gguf_file={json.dumps(file)}"
    if card.library == "peft":
        code = f"""\
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained({export})
base = AutoModelForCausalLM.from_pretrained({base}, dtype="bfloat16")
model = PeftModel.from_pretrained(base, {export})"""
    elif card.task == CLASSIFICATION:
        code = f"""\
from transformers import AutoModelForSequenceClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained({export})
model = AutoModelForSequenceClassification.from_pretrained({export})"""
    else:
        code = f"""\
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained({export})
model = AutoModelForCausalLM.from_pretrained({export}, dtype="bfloat16")"""
    return _fenced(code, "python")


def _data(card: ModelCard) -> str:
    rows = [
        (
            source.name,
            f"`{source.spec}`",
            f"{source.rows:,}",
            f"{source.share:.2%}",
            f"{source.skipped:,}",
            f"`{source.sha256}`" if source.sha256 else "",
        )
        for source in card.sources
    ]
    table = _table(("source", "opened from", "rows", "share", "skipped", "sha256"), rows)
    return "\n\n".join([table, _bullets([f"{k}: {v:,}" for k, v in card.counts.items()])]).rstrip()


def _recipe(card: ModelCard) -> str:
    rows = [(f"`{key}`", f"`{_value(v)}`") for key, v in trees.flatten(card.config).items()]
    return _table(("config", "value"), rows)


def _reproduce(card: ModelCard) -> str:
    weights = card.base_sha256 or "none: training began at random weights"
    facts = {
        "base model": f"`{card.base}`",
        "base weights, sha256": f"`{weights}`",
        **card.hardware,
        "safety_jax commit": f"`{card.commit}`" if card.commit else "not known",
        **{name: version for name, version in card.versions.items()},
    }
    return "\n\n".join([_fenced(card.command, "sh"), _table(("", "value"), list(facts.items()))])


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _fenced(text: str, language: str) -> str:
    """A code block whose fence is longer than any run of backticks inside."""
    longest = max(map(len, re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def _value(value: Any) -> str:
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)


def _text(value: float | int | str) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1e5 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else value
