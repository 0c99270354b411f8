"""Stage `reward`: trains a judge, a trunk with a score head, from pairs, ratings or labels, and
measures it on held-out rows against baselines such as a word count.
"""

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from safety_jax.base import files, meshes
from safety_jax.base.errors import DataError
from safety_jax.data import corpora, judged, pairs, prefixes, source_spec
from safety_jax.data.corpora import Corpus
from safety_jax.data.prefixes import Share
from safety_jax.judges.planned import DESCRIPTION
from safety_jax.maths import losses
from safety_jax.models import llama
from safety_jax.models.encoders import heads
from safety_jax.models.execution import Execution, float_type
from safety_jax.models.folders import hub, tokenizer_files
from safety_jax.report import plots
from safety_jax.stages import groups, learners, texts, training
from safety_jax.training import judge_model, judge_quality, judging
from safety_jax.training.footprint import TrainedModel
from safety_jax.training.task import Account, Finished, Learning, Loaded, Task

# The label of each kind's output, and the problem type in `transformers`.
OUTPUTS = {
    "pairs": ("reward", "regression"),
    "cost": ("cost", "regression"),
    "regression": ("rating", "regression"),
    "binary": ("unsafe", "multi_label_classification"),
}


def make_task(config: ConfigDict, mesh: Mesh) -> Task:
    """A judge, learned from preferences, ratings or labels of answers."""
    kind = config.reward.kind
    objective = make_objective(config.reward)
    folder = hub.resolve(config.model.path)
    label, problem = OUTPUTS[kind]
    scorer, own_head = judge_model.read_scorer(
        folder, init=config.model.init, label=label, problem=problem
    )
    heads.shardings(scorer, mesh)
    wording, corpus = read_corpus(config, folder, scorer)
    declared = heads.parameters(scorer)
    about = groups.describe_model(config, declared, scorer.max_tokens, mesh)
    head = "the folder's own head" if own_head else "a fresh head"
    paired = len(corpus.training.sides) == 2

    def learn(loaded: Loaded[judge_model.Trainee]) -> Learning:
        return judging.learning(
            loaded.learner,
            objective,
            loaded.frozen,
            mesh,
            kind=kind,
            batch_size=config.train.batch_size,
        )

    return Task(
        unit="pairs" if paired else "answers",
        sides=("chosen answer", "rejected answer") if paired else ("answer",),
        corpus=corpus,
        model=trained_judge(config, scorer, declared, sides=len(corpus.training.sides)),
        about_model=f"{about}; {head}",
        flops_per_example=None,
        load=functools.partial(
            load, config, scorer, folder, mesh, own_head=own_head, typed=wording.frame.types
        ),
        learn=learn,
        account=functools.partial(account, config, corpus),
        share=share(config, scorer),
        packs=scorer.of_llama,
        measures_export=True,
        is_judge=True,
    )


# ---------------------------------------------------------------------------- training


def make_objective(group: ConfigDict) -> judging.JudgeObjective:
    """The objective that the config's `reward` group names, with its numbers."""
    bind = functools.partial
    known: dict[str, judging.JudgeObjective] = {
        "pairs": bind(losses.bradley_terry, margin=group.margin, centring=group.centring),
        "cost": bind(losses.cost, regularization=group.regularization),
        "regression": losses.regression,
        "binary": losses.classification,
    }
    return known[group.kind]


def share(config: ConfigDict, scorer: heads.Scorer) -> Share:
    """How pairs share rows; an encoder is bidirectional, so its pairs cannot share a prompt."""
    if not isinstance(scorer.config, llama.LlamaConfig):
        return prefixes.separate
    return learners.share(config, scorer.config, scorer.head.skips)


def read_corpus(
    config: ConfigDict, folder: Path, scorer: heads.Scorer
) -> tuple[judged.Wording, Corpus[judged.JudgedAnswers]]:
    """How texts are worded, and the rows of the config's `data` group as token ids."""
    data, kind = config.data, config.reward.kind
    tokens = tokenizer_files.load(groups.tokenizer_folders(config, folder))
    wording = judged.wording(
        data.template,
        tokens,
        takes_pairs=scorer.pairs,
        append_eos=data.append_eos,
        rules=texts.judged_rules(config),
    )

    def encode(rows, skipped) -> judged.JudgedAnswers:
        found = judged.encode_answers(
            rows,
            wording,
            max_length=data.max_length,
            overlong_prompt=data.overlong_prompt,
            bad_rows=data.bad_rows,
            vocabulary_size=scorer.config.vocabulary_size,
            skipped=skipped,
        )
        if kind == "cost" and found.targets is None:
            raise DataError(
                "a cost model needs to know which answers are unsafe; expected PKU-SafeRLHF's "
                "columns, or chosen_unsafe and rejected_unsafe in every row, or set "
                "reward.kind=pairs"
            )
        return found

    left_out: dict[str, int] = {}

    def remark(rows: Sequence[Any]) -> list[str]:
        found = pairs.describe_unlabelled(rows, data.prefer) if kind in judging.PAIRED else []
        return found if kind == "pairs" else [*found, *judging.describe_labels(rows)]

    return wording, corpora.read(
        groups.rows(config, data.bad_rows),
        judging.rows(kind, data.prefer, left_out),
        encode,
        prompt=wording.prompt,
        tokenizer=tokens,
        left_out=left_out,
        remark=remark,
    )


def load(
    config: ConfigDict,
    scorer: heads.Scorer,
    folder: Path,
    mesh: Mesh,
    *,
    own_head: bool,
    typed: bool,
) -> Loaded[judge_model.Trainee]:
    """The judge with its weights, from the `model` and `lora` groups."""
    adapter = None
    if config.lora.rank > 0:
        targets = heads.targets(scorer, tuple(config.lora.targets))
        adapter = learners.adapter_settings(config, targets, scorer.config.layers)
    execution = Execution.build(
        mesh,
        rules=scorer.rules,
        compute_dtype=float_type("model.compute_dtype", config.model.compute_dtype),
        backend=config.model.attention,
        remat=config.model.remat,
    )
    return Loaded(
        *judge_model.build(
            scorer,
            execution,
            folder,
            own_head=own_head,
            typed=typed,
            init=config.model.init,
            base_dtype=float_type("model.parameter_dtype", config.model.parameter_dtype),
            kernels=config.model.base,
            adapter=adapter,
            initialization=config.lora.initialization,
            key=jax.random.key(config.seed),
        )
    )


def trained_judge(
    config: ConfigDict, scorer: heads.Scorer, declared: Mapping[str, meshes.Parameter], sides: int
) -> TrainedModel:
    """Sizes of the judge, as the `model` and `lora` groups train it."""
    adapted = heads.targets(scorer, tuple(config.lora.targets)) if config.lora.rank else ()
    return learners.trained_model(
        config,
        scorer.config,
        declared,
        adapted,
        vocabulary=0,
        sides=sides,
        survey=False,
        kernels=heads.kernels_of(scorer, config.model.base),
    )


# ---------------------------------------------------------------------------- results


def account(config: ConfigDict, corpus: Corpus[judged.JudgedAnswers], run: Finished) -> Account:
    """Writes results, plots and the judge's card; returns the text of the model card."""
    kind, title, folder = config.reward.kind, run.path.name, run.path / "plots"
    plots.loss(run.metrics, folder / "loss.png", title, "loss, a training example")
    drawn = ["plots/loss.png"]
    found: judge_quality.QualityReport = {}
    if run.held_out is not None and corpus.evaluation is not None:
        held = judge_quality.held(
            kind, run.held_out.table, run.held_out.examples, corpus.evaluation
        )
        found = judge_quality.report(held, known(kind, corpus.training)) | {"step": run.step}
        print(judge_quality.describe(found))
        if "calibration" in found:
            names = ("confidence", "accuracy", "low", "high", "count")
            bins = {name: found["calibration"][name] for name in names}
            plots.reliability(**bins, target=folder / "calibration.png", title=title)
            drawn.append("plots/calibration.png")
    files.write(run.path / "results.json", json.dumps(found, indent=1) + "\n")
    facts = judge_facts(config, corpus, found)
    files.write(run.export / DESCRIPTION, json.dumps(facts, indent=1) + "\n")
    return Account(
        summary=f"A judge of kind {kind} on {config.model.path}, trained on "
        f"{len(corpus.training):,} examples; {config.reward.direction}.",
        notes=config.reward.protocol_notes,
        plots=drawn,
        results=baselines(found),
    )


def known(kind: str, data: judged.JudgedAnswers) -> judge_quality.Held:
    """Training examples with blank scores, for the baselines."""
    blank = np.zeros((len(data), len(data.sides) + 1))
    return judge_quality.held(kind, blank, np.arange(len(data)), data)


def baselines(found: judge_quality.QualityReport) -> dict[str, float]:
    """The baselines and correlations that the card shows beside the judge's figures."""
    rows = {}
    for name, values in found.get("baselines", {}).items():
        for metric, key in (("accuracy", "value"), ("mse", "mse")):
            if key in values:
                rows[f"{metric} of: {name}"] = values[key]
    correlation = found.get("length_correlation", {})
    return rows | {f"correlation with length, {name}": v for name, v in correlation.items()}


def judge_facts(
    config: ConfigDict,
    data: Corpus[judged.JudgedAnswers],
    found: judge_quality.QualityReport,
) -> dict[str, Any]:
    """`judge.json`: what this judge's scores mean, and how a conversation becomes its input."""
    kind = config.reward.kind
    return {
        "kind": kind,
        "label": OUTPUTS[kind][0],
        "direction": config.reward.direction,
        # Between safe and unsafe: even odds, or where a cost changes sign.
        "threshold": 0.0 if kind in ("binary", "cost") else None,
        "template": config.data.template,
        "max_length": config.data.max_length,
        "append_eos": config.data.append_eos,
        "precision": config.model.compute_dtype,
        "temperature": found.get("calibration", {}).get("temperature"),
        "temperature_fitted_on": found.get("calibration", {}).get("temperature_fitted_on"),
        "held_out": found.get("held_out", 0),
        "accuracy": found.get("accuracy", {}).get("value"),
        "trained_on": dict(data.files),
        "prompts": sorted(
            {
                str(fold)
                for spec in config.data.train
                if (fold := source_spec.parse(spec, "data.train").fold) is not None
            }
        ),
    }


run = functools.partial(training.run, make_task=make_task)
