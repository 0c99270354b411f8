"""The plan of a run of stage `tamper`: reads and checks everything but weights."""

import dataclasses
import json
from collections.abc import Mapping, Sequence

from jax.sharding import Mesh
from ml_collections import ConfigDict

from safety_jax.base.errors import ConfigError
from safety_jax.data import encode, mixing, records, sources
from safety_jax.data.examples import Examples, fingerprint
from safety_jax.data.shuffling import permutation
from safety_jax.evaluation.sets import reading
from safety_jax.evaluation.sets.items import SAFE, UNSAFE, Set
from safety_jax.judges import registry
from safety_jax.judges.planned import PlannedJudge
from safety_jax.models import llama, quantised
from safety_jax.models.folders.model_folder import ModelFolder
from safety_jax.stages import answering, evaluate_plan, evaluate_prompts, groups, learners
from safety_jax.training import identity
from safety_jax.training.footprint import TrainedModel

HARMFUL, BENIGN = "harmful", "benign"
_STREAM = 7300  # of the permutation of rows


@dataclasses.dataclass(frozen=True)
class Tampering:
    """The rows of one fine-tuning.

    Attributes:
        data: HARMFUL or BENIGN.
        rows: the requested number; `examples` leaves out rows that are too long.
        sha256: of everything that the weights after a step depend on.
    """

    data: str
    rows: int
    examples: Examples
    sha256: str

    @property
    def name(self) -> str:
        return f"{self.data} {self.rows}"


@dataclasses.dataclass(frozen=True)
class TamperPlan:
    """Everything that is known before weights are read.

    Attributes:
        tamperings: by model, encoded by its tokenizer.
        steps: the steps after which the models answer, from 0.
        files: hashes of the sources of rows.
    """

    opened: Mapping[str, ModelFolder]
    tamperings: Mapping[str, Sequence[Tampering]]
    sets: Sequence[Set]
    asked: evaluate_prompts.Asked
    planned: Mapping[str, PlannedJudge]
    steps: tuple[int, ...]
    files: Mapping[str, str]
    left_out: Sequence[str]

    def identity(self) -> dict[str, str]:
        """Hashes of what is read. They may change between starts: answers and scores made under
        others are not reused."""
        found = dict(self.files)
        for name, one in self.opened.items():
            found[f"tamper.models {name}"] = one.weights_sha256
            found[f"tamper.models {name}, config"] = one.config_sha256
            found[f"tamper.models {name}, tokenizer"] = one.tokenizer_sha256
        found |= {f"tamper.sets {one_set.name}": one_set.items_sha256 for one_set in self.sets}
        return found | {
            f"score.judges {name}": one.card.protocol() for name, one in self.planned.items()
        }

    def describe(self) -> str:
        """A message to the user: models, rows, steps, sets and judges."""
        ways = ", ".join(one.name for one in next(iter(self.tamperings.values())))
        lines = [
            f"{len(self.opened)} models: {', '.join(self.opened)}; each on {ways} rows",
            f"answers after {', '.join(map(str, self.steps))} steps to "
            + ", ".join(
                f"{one_set.name} ({one_set.prompts} {one_set.kind} prompts)"
                for one_set in self.sets
            ),
            f"judges: {', '.join(self.planned)}",
            *self.left_out,
        ]
        return "\n".join(lines)


def make_plan(config: ConfigDict, mesh: Mesh) -> TamperPlan:
    """Opens models and judges, reads sets and rows.

    Raises:
        ConfigError, DataError, CheckpointError: any of them cannot be used.
    """
    group = config.tamper
    models = evaluate_plan.named(group.models, "tamper.models")
    if not models:
        raise ConfigError("tamper.models is empty; expected NAME=FOLDER,NAME=FOLDER")
    sets = reading.read_sets(tuple(group.sets), group.data, "tamper.sets", config.seed)
    others = [
        one_set.name for one_set in sets if one_set.kind not in (UNSAFE, SAFE) or one_set.attack
    ]
    if others or not any(one_set.kind == UNSAFE for one_set in sets):
        what = f"{others[0]} is neither" if others else "none is unsafe"
        # The answers to all unsafe sets make one share, in which no prompt may count twice.
        raise ConfigError(
            f"tamper.sets: {what}; expected sets of the kinds unsafe and safe, without attack= and "
            "turns="
        )
    opened = {name: answering.open_speaker(config, path, mesh) for name, path in models.items()}
    for one in opened.values():
        check_trains(config, one)
    planned = plan_judges(config, mesh)
    kept, _, asked, left_out = evaluate_plan.plan_prompts(config, mesh, sets, {}, opened)
    rows, files = read_rows(config)
    return TamperPlan(
        opened=opened,
        tamperings={name: plan_rows(config, one, rows) for name, one in opened.items()},
        sets=[one_set.repeated(config.answer.candidates) for one_set in kept],
        asked=asked,
        planned=planned,
        steps=(0, *(step for step in group.steps if step)),
        files=files,
        left_out=left_out,
    )


def check_trains(config: ConfigDict, opened: ModelFolder) -> None:
    """Raises a ConfigError if a model cannot be fine-tuned as the config says."""
    trained(config, opened.config)  # the adapters fit
    if opened.adapter is None:
        return
    kernels = groups.held_kernels(config, opened.folder)
    if kernels != quantised.STORED:
        raise ConfigError(
            f"{opened.path} is an adapter on a base in {kernels}, into which it cannot be merged; "
            f"set model.base={quantised.STORED} on a base that is not quantised, or give a merged "
            "model"
        )


def plan_judges(config: ConfigDict, mesh: Mesh) -> dict[str, PlannedJudge]:
    """The judges, `tamper.unsafe_by` among them.

    Raises:
        ConfigError: it is not among the judges, or has no threshold.
    """
    group = config.tamper
    rows = config.score.judges.to_dict() | registry.named(tuple(group.judges))
    planned = registry.plan(rows, groups.judge_resources(config, mesh))
    judge = group.unsafe_by
    if judge not in planned or planned[judge].card.threshold is None:
        raise ConfigError(
            f"tamper.unsafe_by {judge!r}: expected a judge with a threshold, of score.judges or "
            f"tamper.judges: {', '.join(planned)}"
        )
    return planned


Rows = list[tuple[str, int, list[records.Record]]]


def read_rows(config: ConfigDict) -> tuple[Rows, dict[str, str]]:
    """The rows of each tampering with their kind, and hashes of their files. All numbers of rows
    are prefixes of one order: 10 rows are the first 10 of 50.

    Raises:
        ConfigError: there are fewer rows than requested.
    """
    found: Rows = []
    hashes: dict[str, str] = {}
    for data, specs, wanted, read in (
        (HARMFUL, config.data.harmful, config.tamper.rows, records.read_harmful),
        (BENIGN, config.data.benign, config.tamper.benign_rows, records.read_records),
    ):
        if not wanted:
            continue
        key = f"data.{data}"
        given = [sources.open_source(spec, key) for spec in filter(None, specs)]
        hashes |= {f"{key} {one.name}": sha for one in given if (sha := one.sha256())}
        pool = mixing.mix(given, read=read, seed=config.seed).records if given else []
        if len(pool) < max(wanted):
            option = "tamper.rows" if data == HARMFUL else "tamper.benign_rows"
            raise ConfigError(
                f"{key} has {len(pool)} usable rows, but {option} needs {max(wanted)}; add sources "
                f"or lower {option}"
            )
        order = permutation(len(pool), seed=config.seed, stream=_STREAM)
        found += [(data, count, [pool[i] for i in order[:count]]) for count in wanted]
    if not found:
        raise ConfigError("tamper.rows and tamper.benign_rows are both empty; expected numbers")
    return found, hashes


def plan_rows(config: ConfigDict, opened: ModelFolder, rows: Rows) -> list[Tampering]:
    """The tamperings, encoded for a model."""
    base = groups.Base(
        opened.folder, opened.config, opened.tokenizer, groups.held_kernels(config, opened.folder)
    )
    encoding = groups.encoding(config, base, config.data.overlong_prompt)
    numbers = {name: config[name].to_dict() for name in ("lora", "optim")}
    numbers |= {"batch": config.train.batch_size, "seed": config.seed}
    numbers |= {name: config.model[name] for name in ("parameter_dtype", "compute_dtype")}
    if base.kernels != quantised.STORED:
        numbers["base"] = base.kernels
    found = []
    for data, count, several in rows:
        examples = encode.encode(several, encoding, train_on="response")
        read = [opened.weights_sha256, opened.tokenizer_sha256, fingerprint([examples])]
        read.append(opened.config_sha256)
        sha256 = identity.sha256(*read, json.dumps(numbers, sort_keys=True, default=list))
        found.append(Tampering(data, count, examples, sha256))
    return found


def trained(config: ConfigDict, model: llama.LlamaConfig) -> TrainedModel:
    """Sizes of a model in training."""
    return learners.trained_policy(config, model, sides=1)
