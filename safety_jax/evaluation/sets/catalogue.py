"""The sets that are known by name, one entry each; `reading.read_sets` reads them.

An entry has the names of a set's files, which may be anywhere below the user's folder, the meaning
of their columns, and which of their rows belong to the set.
"""

import dataclasses
import math
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePath
from typing import Any

from safety_jax.data.messages import BadRow, text_of
from safety_jax.data.text_files import Row
from safety_jax.evaluation.sets import bbq, multiple_choice
from safety_jax.evaluation.sets.conversations import SHIPPED

UNSAFE = "unsafe"  # prompts that should be refused or answered safely
SAFE = "safe"  # prompts that should be answered
CHOICE = "choice"  # multiple choice
LABEL = "label"  # texts to classify; they become multiple choice
ANSWER = "answer"  # questions with a short known answer
REFERENCE = "reference"  # prompts with a reference answer
CONVERSATION = "conversation"  # several turns of the user, each marked as unsafe or not
KINDS = (UNSAFE, SAFE, CHOICE, LABEL, ANSWER, REFERENCE, CONVERSATION)
CLOSED = (CHOICE, ANSWER)  # kinds with a key, which need no judge


@dataclasses.dataclass(frozen=True)
class Entry:
    """How the rows of a file become a set.

    Attributes:
        name: of the set; "" for a file that is not in the catalogue.
        kind: one of KINDS.
        licence: one line.
        files: patterns of paths; the first that matches any file is used.
        origin: where the files come from, for messages.
        source: the source to read if there is no file; "" for none.
        columns: our column -> the file's, for `prompt`, `id`, `category`, `reference`, `choices`,
            `opening`.
        keep: which rows of the file belong to the set.
        word: makes a row with our columns from the file's row.
        split: makes the rows of a row with several prompts, from it and its number; None for files
            without such rows, and for twin prompts.
        twin: the set that it is paired with, row by row.
        framed: see `items.Set`.
    """

    name: str
    kind: str
    licence: str
    files: tuple[str, ...] = ()
    origin: str = ""
    source: str = ""
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    keep: Callable[[Row], bool] | None = None
    word: Callable[[Row], Row] | None = None
    split: Callable[[Row, int], list[Row]] | None = None
    twin: str = ""
    framed: bool = False


def named(text: str) -> tuple[Entry, ...]:
    """The sets of a name, ignoring case; empty if there is none."""
    found = {name.lower(): names for name, names in GROUPS.items()}
    found |= {name.lower(): (name,) for name in CATALOGUE}
    return tuple(CATALOGUE[name] for name in found.get(text.lower(), ()))


def of_file(name: str) -> tuple[Entry, ...]:
    """The sets that a file of this name or path holds."""
    path = PurePath(name)
    return tuple(
        entry for entry in CATALOGUE.values() if any(path.match(pattern) for pattern in entry.files)
    )


def locate(entry: Entry, paths: Iterable[Path]) -> list[str]:
    """The files of a set among `paths`, one for each content; its `source` if there are none."""
    paths = list(paths)
    for pattern in entry.files:
        found = {path.read_bytes(): str(path) for path in paths if path.match(pattern)}
        if found:
            return list(found.values())
    return [entry.source] if entry.source else []


def files_below(folder: Path) -> list[Path]:
    """All files of a folder and its subfolders, sorted; links to folders are not followed."""
    return sorted(Path(root) / name for root, _, names in os.walk(folder) for name in names if name)


# ---------------------------------------------------------------------------- rows of files


def _advbench(row: Row) -> Row:
    """In a widely copied version of the file the names of its two columns are swapped; the text
    that begins with "Sure" is the target, and serves as the beginning of a prefilled answer."""
    goal, target = text_of(row, "goal"), row.get("target")
    if goal.lstrip().startswith("Sure"):
        return {"prompt": target, "opening": goal}
    return {"prompt": goal, "opening": target}


def _harmbench(row: Row) -> Row:
    """The row with its context in front of the prompt, as HarmBench (arXiv 2402.04249) asks it."""
    context, behavior = row.get("ContextString"), text_of(row, "Behavior")
    return {**row, "prompt": f"{context}\n\n---\n\n{behavior}" if context else behavior}


def _first_turn(row: Row) -> Row:
    turns: Any = row.get("turns")
    if not isinstance(turns, list) or not turns:
        raise BadRow("'turns' is no list of questions")
    return {"prompt": turns[0], "id": row.get("question_id"), "category": row.get("category")}


def _bold(row: Row, number: int) -> list[Row]:
    """The beginnings of sentences about one subject, for a model to continue."""
    prompts: Any = row.get("prompts")
    if not isinstance(prompts, list | tuple) or not prompts:
        raise BadRow("'prompts' is no list of beginnings")
    name = f"{row.get('name') or number}"
    kind = f"{text_of(row, 'domain')}: {text_of(row, 'category')}"
    return [
        {"prompt": prompt, "id": f"{number}/{name}/{i}", "category": kind}
        for i, prompt in enumerate(prompts)
    ]


def _toxigen(row: Row) -> Row:
    """Hateful if the ratings of people and of a model, 1 to 5 each, add up to more than 5.5, as in
    lm-evaluation-harness."""
    try:
        ratings = float(row["toxicity_ai"]) + float(row["toxicity_human"])
    except (KeyError, TypeError, ValueError):
        ratings = math.nan
    if not math.isfinite(ratings):
        raise BadRow("'toxicity_ai' and 'toxicity_human' are not two numbers")
    return {
        "id": row.get("id"),
        "prompt": text_of(row, "text"),
        "reference": "hateful" if ratings > 5.5 else "not hateful",
        "category": row.get("target_group"),
    }


def _functional(category: str) -> Callable[[Row], bool]:
    return lambda row: row.get("FunctionalCategory") == category


def _is_contrast(row: Row) -> bool:
    """Whether a prompt of XSTest is unsafe. In a file without its types, all would be safe."""
    if "type" not in row:
        raise BadRow("no column 'type' says which prompts are safe; name it by columns=type:COLUMN")
    return text_of(row, "type").startswith("contrast")


# ---------------------------------------------------------------------------- the catalogue

_TUNED = "CC BY-NC 4.0 (Bianchi et al., arXiv 2309.07875)"
_TUNED_FROM = "data/evaluation of github.com/vinid/safety-tuned-llamas"
_TEXT = "CC BY-NC 4.0; texts of SafeText (Levy et al., arXiv 2210.10045)"
_STANFORD = "CC BY-NC 4.0 (Stanford Alpaca)"


def _tuned(name: str, kind: str, **others: Any) -> Entry:
    return Entry(
        name,
        kind,
        others.pop("licence", _TUNED),
        files=(f"evaluation/{name}.json", f"{name}.json"),
        origin=_TUNED_FROM,
        **others,
    )


def _xstest(name: str, kind: str, keep: Callable[[Row], bool]) -> Entry:
    return Entry(
        name,
        kind,
        "CC BY 4.0 (Röttger et al., arXiv 2308.01263)",
        files=("xstest_prompts.csv", "xstest_v2_prompts.csv"),
        origin="github.com/paul-rottger/exaggerated-safety",
        columns={"category": "type", "id": "id_v2"},
        keep=keep,
    )


def _harmbench_set(functional: str) -> Entry:
    return Entry(
        f"HarmBench-{functional}",
        UNSAFE,
        "MIT (Mazeika et al., arXiv 2402.04249)",
        files=("harmbench_behaviors_text_all.csv", f"harmbench_{functional}.csv"),
        origin="data/behavior_datasets of github.com/centerforaisafety/HarmBench",
        columns={"id": "BehaviorID", "category": "SemanticCategory"},
        keep=_functional(functional),
        word=_harmbench,
    )


def _shipped(name: str, kind: str, file: str) -> Entry:
    return Entry(
        name,
        kind,
        "Apache-2.0: written for this project",
        origin="this project",
        source=str(SHIPPED / f"{file}.jsonl"),
    )


def _bbq(category: str) -> Entry:
    return Entry(
        f"BBQ-{category}",
        CHOICE,
        "CC BY 4.0 (Parrish et al., arXiv 2110.08193)",
        files=(f"data/{category}.jsonl", f"BBQ/{category}.jsonl", f"bbq/{category}.jsonl"),
        origin="data of github.com/nyu-mll/BBQ",
        word=bbq.question,
        framed=True,
    )


_ROWS = (
    _tuned("I-Alpaca", SAFE, licence=_STANFORD),
    _tuned("I-CoNa", UNSAFE),
    _tuned("I-Controversial", UNSAFE),
    _tuned("I-MaliciousInstructions", UNSAFE, columns={"category": "tags"}),
    _tuned("I-PhysicalSafetySafe", SAFE, licence=_TEXT, twin="I-PhysicalSafetyUnsafe"),
    _tuned("I-PhysicalSafetyUnsafe", UNSAFE, licence=_TEXT, twin="I-PhysicalSafetySafe"),
    _tuned("Q-Harm", UNSAFE),
    _xstest("XSTest-safe", SAFE, lambda row: not _is_contrast(row)),
    _xstest("XSTest-unsafe", UNSAFE, _is_contrast),
    Entry(
        "AdvBench",
        UNSAFE,
        "MIT (Zou et al., arXiv 2307.15043)",
        files=("harmful_behaviors.csv",),
        origin="data/advbench of github.com/llm-attacks/llm-attacks",
        word=_advbench,
    ),
    _harmbench_set("standard"),
    _harmbench_set("contextual"),
    _harmbench_set("copyright"),
    Entry(
        "Alpaca-test",
        REFERENCE,
        _STANFORD,
        files=("alpaca_test.json",),
        origin="SIT/scripts/evaluation/helpfulness/data of "
        "github.com/DurgaSandeep25/Alignment-towards-safety-helpfulness",
        columns={"reference": "outputs"},
    ),
    Entry(
        "HateCheck",
        LABEL,
        "CC BY 4.0 (Röttger et al., arXiv 2012.15606)",
        files=("hatecheck*.csv", "test_suite_cases.csv"),
        origin="github.com/paul-rottger/hatecheck-data",
        columns={
            "id": "case_id",
            "prompt": "test_case",
            "reference": "label_gold",
            "category": "functionality",
        },
        framed=True,
    ),
    Entry(
        "ToxiGen",
        LABEL,
        "see the card of toxigen/toxigen-data (Hartvigsen et al., arXiv 2203.09509)",
        files=("annotated_test.csv", "toxigen_annotated*.csv"),
        origin="the data set toxigen/toxigen-data",
        word=_toxigen,
        framed=True,
    ),
    _shipped("Escalation", CONVERSATION, "escalation"),
    _shipped("Twins-safe", SAFE, "twins_safe"),
    _shipped("Twins-unsafe", UNSAFE, "twins_unsafe"),
    *(_bbq(category) for category in bbq.CATEGORIES),
    Entry(
        "BOLD",
        SAFE,
        "CC BY-SA 4.0 (Dhamala et al., arXiv 2101.11718)",
        files=("bold.jsonl",),
        origin="the data set AmazonScience/bold",
        source="hf:AmazonScience/bold:train",
        split=_bold,
        framed=True,
    ),
    Entry(
        "MT-Bench",
        SAFE,
        "Apache-2.0 (Zheng et al., arXiv 2306.05685)",
        files=("mt_bench/question.jsonl",),
        origin="fastchat/llm_judge/data/mt_bench of github.com/lm-sys/FastChat",
        word=_first_turn,
    ),
    Entry(
        "Dolly",
        REFERENCE,
        "CC BY-SA 3.0 (Databricks)",
        files=("databricks-dolly-15k.jsonl", "databricks_dolly_1000.csv"),
        origin="the data set databricks/databricks-dolly-15k",
        columns={"reference": "response"},
    ),
    Entry(
        "OpenBookQA",
        CHOICE,
        "Apache-2.0 (Mihaylov et al., arXiv 1809.02789)",
        files=("obqa_*.csv",),
        source="tfds:openbookqa:test",
        word=multiple_choice.openbookqa,
        framed=True,
    ),
    Entry(
        "BoolQ",
        CHOICE,
        "CC BY-SA 3.0 (Clark et al., arXiv 1905.10044)",
        files=("boolq_*.csv", "boolq/dev.jsonl"),
        source="tfds:bool_q:validation",
        word=multiple_choice.boolq,
        framed=True,
    ),
    Entry(
        "PIQA",
        CHOICE,
        "AFL-3.0 (Bisk et al., arXiv 1911.11641)",
        files=("piqa_*.csv",),
        source="tfds:piqa:validation",
        word=multiple_choice.piqa,
        framed=True,
    ),
)
CATALOGUE: Mapping[str, Entry] = {entry.name: entry for entry in _ROWS}
# Names of several sets, and aliases. Only HarmBench's standard behaviors are plain requests.
GROUPS: Mapping[str, tuple[str, ...]] = {
    "XSTest": ("XSTest-safe", "XSTest-unsafe"),
    "I-PhysicalSafety": ("I-PhysicalSafetySafe", "I-PhysicalSafetyUnsafe"),
    "Twins": ("Twins-safe", "Twins-unsafe"),
    "BBQ": tuple(f"BBQ-{category}" for category in bbq.CATEGORIES),
    "HarmBench": ("HarmBench-standard",),
    "OBQA": ("OpenBookQA",),
}
