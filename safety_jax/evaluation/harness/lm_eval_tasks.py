"""Runs tasks of lm-evaluation-harness (Gao et al., github.com/EleutherAI/lm-evaluation-harness) on
our models: any of its own tasks, by name, or a YAML file.

The harness is an optional extra, `lm-eval`, and is imported only when tasks are named. Its base
install needs no PyTorch.
"""

import contextlib
import dataclasses
import difflib
import functools
import importlib
import importlib.metadata
import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from safety_jax.base import files
from safety_jax.base.errors import ConfigError
from safety_jax.data.text_rules import FIXED, TextRules
from safety_jax.evaluation.harness.loglikelihood import RequestLimits
from safety_jax.models.decoding import generation
from safety_jax.models.model import Model

EXTRA = "lm-eval"
_NAMED = re.compile(r"[^\s'\"\[\]{},]+\.\w+")  # what may be the name of a file in YAML
NO_FILTER = "none"


@dataclasses.dataclass(frozen=True)
class Asking:
    """How tasks are asked.

    Attributes:
        num_fewshot: examples in each prompt; None for each task's own number. A task whose file
            says 0 keeps 0.
        limit: the number of documents of each task, from the first; None for all.
        chat: whether prompts go through the tokenizer's chat template.
        system: a system message; "" for none.
        seed: of the choice of examples, and of tasks that sample.
        bootstrap: resamples of the standard errors that have no closed form; 0 leaves these out.
    """

    num_fewshot: int | None
    limit: int | None
    chat: bool
    system: str
    seed: int
    bootstrap: int


@dataclasses.dataclass(frozen=True)
class Figure:
    """One metric of one task, or of a group of tasks.

    Attributes:
        metric: as the harness names it; followed by `/filter` if the task has several.
        value, stderr: None if it is not a number.
        n, of: documents that were asked, and all documents of the task.
        version: of the task; "" if its file has none.
        task_hash: of all documents, prompts and targets; "" for a group.
    """

    task: str
    metric: str
    value: float | None
    stderr: float | None
    higher_is_better: bool | None
    n: int
    of: int
    num_fewshot: int
    version: str
    task_hash: str


def check_tasks(tasks: Sequence[str]) -> None:
    """Checks that tasks exist, without loading them.

    Raises:
        ConfigError: the extra is missing, a name is no task, group or tag, or a file does not
            exist.
    """
    _library("lm_eval")
    names = [task for task in tasks if not files.expand(task).is_file()]
    for name in names:
        if name.endswith((".yaml", ".yml")) or os.sep in name:
            raise ConfigError(f"evaluate.tasks: the file {name} does not exist; expected YAML")
    known = _manager(True).task_index if names else {}
    for name in names:
        if name not in known:
            near = ", ".join(difflib.get_close_matches(name, known, n=3))
            raise ConfigError(
                f"evaluate.tasks: no task, group or tag is called {name!r}; expected "
                f"{f'{near} or another' if near else 'a'} name that `lm-eval ls tasks` lists, or "
                "the path of a YAML file"
            )


def definition(task: str) -> dict[str, str]:
    """What defines a task: the version of the harness; and of a task in a file, the SHA-256 of this
    file and of those that it names, such as its data."""
    found = {EXTRA: importlib.metadata.version("lm_eval")}
    path = files.expand(task)
    if not path.is_file():
        return found
    found[str(path)] = files.sha256(path)
    for name in _NAMED.findall(path.read_text("utf-8", errors="replace")):
        for inner in (Path(name), path.parent / name):
            with contextlib.suppress(OSError):  # such as a name that is too long
                if inner.is_file():
                    found[str(inner)] = files.sha256(inner)
    return found


@functools.cache
def _manager(defaults: bool) -> Any:
    """The harness's task manager. Reading the list of all tasks takes it half a minute."""
    return _library("lm_eval.tasks").TaskManager(include_defaults=defaults)


def run_tasks(
    model: Model,
    tasks: Sequence[str],
    limits: RequestLimits,
    pace: generation.Pace,
    eos_ids: tuple[int, ...],
    asking: Asking,
    rules: TextRules = FIXED,
) -> dict[str, Any]:
    """Runs a model on all documents of some tasks.

    Args:
        tasks: names of tasks, groups or tags, or paths of YAML files.
        limits: of scoring; `longest` is the model's window.
        pace: of decoding.
        eos_ids: tokens that end an answer.
        rules: how requests are read.

    Returns:
        The harness's own results as JSON values: `results` (metric -> value, with standard errors),
        `groups`, `configs`, `versions`, `n-shot`, `n-samples`, `higher_is_better` and `samples`,
        every document with its prompts, answers and metrics; and also `task_hashes`,
        `lm_eval_version` and `cut`, the number of requests of each kind that were too long and lost
        tokens on their left. Numbers that are not finite are None.

    Raises:
        ConfigError: the extra is missing, or a task does not exist, cannot be loaded or cannot be
            run.
        DataError: the model cannot read a document.
    """
    evaluator = _library("lm_eval.evaluator")
    from safety_jax.evaluation.harness.language_model import HarnessLM

    lm = HarnessLM(model, limits, pace, eos_ids, asking.seed, rules)
    loaded = _load(tasks)
    for name, task in loaded["tasks"].items():
        _set_up(name, task, asking)
    with _one_process():
        found = evaluator.evaluate(
            lm=lm,
            task_dict=loaded,
            limit=asking.limit,
            bootstrap_iters=asking.bootstrap,
            log_samples=True,
            system_instruction=asking.system or None,
            apply_chat_template=asking.chat,
            fewshot_as_multiturn=asking.chat,
        )
    hashes = {task: _hash(samples) for task, samples in found["samples"].items()}
    version = importlib.metadata.version("lm_eval")
    return _plain({**found, "task_hashes": hashes, "lm_eval_version": version, "cut": dict(lm.cut)})


def figures(found: Mapping[str, Any]) -> list[Figure]:
    """All metrics of `run_tasks`, by task."""
    rows = []
    for task, values in found["results"].items():
        counts = found["n-samples"].get(task, {})
        better = found["higher_is_better"].get(task) or {}
        for key, value in values.items():
            metric, comma, filtered = key.partition(",")
            if not comma or metric.endswith("_stderr"):
                continue
            rows.append(
                Figure(
                    task=task,
                    metric=metric if filtered == NO_FILTER else f"{metric}/{filtered}",
                    value=_number(value),
                    stderr=_number(values.get(f"{metric}_stderr,{filtered}")),
                    higher_is_better=better.get(metric),
                    n=counts.get("effective", values.get("sample_len", 0)),
                    of=counts.get("original", values.get("sample_len", 0)),
                    num_fewshot=found["n-shot"].get(task) or 0,
                    version=str(found["versions"].get(task) or ""),
                    task_hash=found["task_hashes"].get(task, ""),
                )
            )
    return rows


def by_document(found: Mapping[str, Any], task: str, metric: str) -> dict[str, float]:
    """A metric of every document, by the document's hash, for paired comparisons of models.

    A document that a task has several times is numbered: `…`, `… 2`, `… 3`.

    Args:
        metric: as in `Figure`. A document whose value is not a number is left out.
    """
    name, _, filtered = metric.partition("/")
    values: dict[str, float] = {}
    seen: Counter[str] = Counter()
    for sample in found["samples"][task]:
        if sample["filter"] != (filtered or NO_FILTER):
            continue
        document = sample["doc_hash"]
        seen[document] += 1
        if isinstance(sample.get(name), int | float):
            key = document if seen[document] == 1 else f"{document} {seen[document]}"
            values[key] = float(sample[name])
    return values


# ---------------------------------------------------------------------------- tasks


def _load(tasks: Sequence[str]) -> dict[str, Any]:
    """Loads the tasks in the harness's form."""
    import datasets

    if not tasks:
        raise ConfigError("no task is named; expected names of lm-evaluation-harness, or files")
    try:
        return _manager(not all(map(_stands_alone, tasks))).load(list(tasks))
    except KeyError as error:
        raise ConfigError(
            f"{error.args[0] if error.args else error}; expected a name that `lm-eval ls tasks` "
            "lists, or the path of a YAML file"
        ) from error
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise ConfigError(
            f"the tasks {', '.join(tasks)} cannot be loaded ({error!s:.300}); mend their files, or "
            "download their data sets"
        ) from error


def _stands_alone(task: str) -> bool:
    """Whether this is the file of a single task; the file of a group may name others."""
    path = files.expand(task)
    if not path.is_file():
        return False
    return not any(line.startswith("group:") for line in path.read_text("utf-8").splitlines())


def _set_up(name: str, task: Any, asking: Asking) -> None:
    """Sets number and choice of examples, as the harness's own command line does."""
    if getattr(task, "UNSAFE_CODE", False):
        raise ConfigError(f"the task {name} runs code that the model writes; remove the task")
    if getattr(task, "MULTIMODAL", False):
        raise ConfigError(f"the task {name} shows images; expected tasks with text only")
    own = task.get_config("num_fewshot")
    wanted = own if asking.num_fewshot is None or own == 0 else asking.num_fewshot
    task.set_config(key="num_fewshot", value=wanted or 0)
    task.set_fewshot_seed(seed=asking.seed)


@contextmanager
def _one_process() -> Iterator[None]:
    """The harness would bootstrap in forked processes, which JAX's threads do not survive."""
    key = "DISABLE_MULTIPROC"
    before = os.environ.get(key)
    os.environ[key] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[key]
        else:
            os.environ[key] = before


def _hash(samples: Sequence[Mapping[str, Any]]) -> str:
    """A hash of samples, equal to the one in the harness's own files of results."""
    parts = [s["doc_hash"] + s["prompt_hash"] + s["target_hash"] for s in samples]
    return str(_library("lm_eval.utils").hash_string("".join(parts)))


def _library(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"tasks of lm-evaluation-harness are named, but {name} cannot be imported ({error}); "
            f"pip install 'safety_jax[{EXTRA}]', or name no tasks"
        ) from error


# ---------------------------------------------------------------------------- plain values


def _plain(value: Any) -> Any:
    """JSON values, by the harness's own rules; NaN and infinities become None."""
    text = json.dumps(value, default=_library("lm_eval.utils").handle_non_serializable)
    return json.loads(text, parse_constant=lambda _: None)


def _number(value: Any) -> float | None:
    """A finite number, or None: standard errors that do not exist are "N/A"."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)
