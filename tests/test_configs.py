"""Every config loads with every argument that it documents, complete, typed and locked."""

import importlib
import pathlib

import pytest
from ml_collections import ConfigDict

ROOT = pathlib.Path(__file__).parent.parent
ARGUMENTS = {
    "sft": [
        None,
        "demo",
        "demo,safety=0",
        "safety=500",
        "paper=report",
        "paper=report,safety=100",
        "paper=script",
        "paper=script,safety=2000",
        "paper=safety_tuned_llamas",
        "paper=safety_tuned_llamas,safety=1500",
    ],
    "score": [
        None,
        "demo",
        "demo,sequence",
        "deberta,harmfulness,helpfulness,beaver",
        "llama_guard,wildguard,moderation,sequence",
        "safe_first",
    ],
    "dpo": [
        None,
        "demo",
        "demo,loss=safe",
        *(f"loss={name}" for name in ("sigmoid", "conservative", "robust", "hinge", "ipo_sum")),
        *(f"loss={name}" for name in ("ipo_mean", "sigmoid_mean", "simpo", "safe")),
        "paper=report",
        "paper=script,loss=safe",
    ],
    "plan": [None, "table"],
    "raft": [
        None,
        "demo",
        "paper=original",
        "paper=b500",
        "paper=b100",
    ],
    "evaluate": [
        None,
        "demo",
        "paper=sit",
        "paper=dpo",
        "stored=safe_to_serve",
        "deberta,harmfulness,helpfulness,llama_guard",
    ],
    "recipe": [None, "real", "demo"],
    "reward": [
        None,
        "demo",
        "demo,kind=binary",
        *(f"kind={name}" for name in ("pairs", "cost", "regression", "binary")),
        "paper=safety_tuned_llamas",
    ],
}
JUDGING = ("evaluate", "score", "raft")  # have a row for every judge
CASES = [(name, arg) for name, arguments in ARGUMENTS.items() for arg in arguments]

# The keys that scripts, checks and the stage rely on; a key cannot vanish unnoticed.
TRAINING_KEYS = """
        stage seed
        model.path model.init model.adapter model.tokenizer model.parameter_dtype
        model.compute_dtype model.attention model.remat
        lora.rank lora.alpha lora.dropout lora.targets lora.initialization lora.rslora
        data.train data.eval data.eval_rows data.template data.max_length data.row_tokens
        data.packing data.overlong_prompt data.prefetch_steps
        train.batch_size train.rows_per_microbatch train.chunk_tokens train.max_steps
        train.max_flops train.epochs
        optim.learning_rate optim.schedule optim.warmup_steps optim.weight_decay optim.beta1
        optim.beta2 optim.epsilon optim.clip_norm
        mesh.data mesh.fsdp mesh.tensor
        checkpoint.every_steps checkpoint.keep_last checkpoint.export checkpoint.export_merged
        checkpoint.export_dtype checkpoint.best_metric checkpoint.best_is
        log.every_steps log.eval_every_steps log.tensorboard log.wandb log.compilation_cache
"""
ANSWER_KEYS = (
    "temperature", "top_k", "top_p", "frequency_penalty", "beams", "length_penalty", "candidates",
    "max_new_tokens", "stop",
)  # fmt: skip
# How answers are written and judged, whatever they are.
PACE_KEYS = """
        sample.lanes sample.prefill_prompts sample.bucket_tokens sample.chunk_steps
        sample.cache_dtype sample.prompts_per_write
        score.rows_per_write score.tokens_per_batch score.parameter_dtype score.compute_dtype
        score.attention
"""
# A judge has no vocabulary to visit, starts from no adapter, and is exported whole.
POLICY_KEYS = {
    "model.adapter", "train.chunk_tokens", "train.max_flops", "checkpoint.export_merged"
}  # fmt: skip
KEYS = {
    "sft": TRAINING_KEYS
    + """
        data.safety data.safety_rows data.train_on sft.protocol_notes
    """,
    "score": """
        stage seed data.responses data.stored
        score.stored score.rows_per_write score.tokens_per_batch score.parameter_dtype
        score.compute_dtype score.attention score.judges.refusal.kind
        mesh.data mesh.fsdp mesh.tensor log.compilation_cache
    """,
    "dpo": TRAINING_KEYS
    + """
        data.prefer data.bad_rows
        dpo.objective dpo.beta dpo.smoothing dpo.margin dpo.nll_weight dpo.reference
        dpo.reference_folder dpo.protocol_notes
    """,
    "plan": """
        stage plan.run plan.set plan.slice plan.mesh plan.example_tokens plan.search plan.price
        model.size
    """,
    "raft": " ".join(set(TRAINING_KEYS.split()) - {"data.train", "data.eval_rows"})
    + """
        data.prompts data.ordinary data.ordinary_share data.order data.train_on
        raft.rounds raft.prompts raft.patience raft.reuse_prompts raft.judges raft.judges_resident
        raft.rank_by raft.accept raft.kl_weight raft.unfinished raft.reference_answers raft.people
        raft.adapter raft.measure_kl raft.diversity_alarm raft.length_alarm raft.protocol_notes
    """
    + PACE_KEYS
    + " ".join(f" {group}.{key}" for group in ("sample", "answer") for key in ANSWER_KEYS),
    "evaluate": """
        stage seed
        evaluate.models evaluate.responses evaluate.match evaluate.baseline evaluate.sets
        evaluate.data evaluate.choice_tokens evaluate.judges evaluate.safety evaluate.helpfulness
        evaluate.force evaluate.margin_share evaluate.margin_score evaluate.resamples
        evaluate.sheet_answers evaluate.labels evaluate.tasks evaluate.task_examples
        evaluate.task_shots evaluate.preference evaluate.preference_probability
        model.tokenizer model.parameter_dtype model.compute_dtype model.attention
        data.template data.max_length
        mesh.data mesh.fsdp mesh.tensor log.compilation_cache
    """
    + PACE_KEYS
    + " ".join(f" answer.{key}" for key in ANSWER_KEYS),
    "recipe": """
        stage seed recipe.base recipe.data recipe.steps recipe.max_flops
    """,
    "reward": " ".join(set(TRAINING_KEYS.split()) - POLICY_KEYS)
    + """
        data.append_eos data.prefer data.bad_rows
        reward.kind reward.direction reward.margin reward.centring reward.regularization
        reward.protocol_notes
    """,
}


def load(name: str, arg: str | None) -> ConfigDict:
    return importlib.import_module(f"configs.{name}").get_config(arg)


def flatten(config: ConfigDict, prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def test_every_config_file_is_tested():
    files = {path.stem for path in (ROOT / "configs").glob("*.py")} - {"common", "__init__"}
    assert files == set(ARGUMENTS)


def own_keys(name: str, config: ConfigDict) -> dict:
    """Keys and values; of a recipe without those of its steps, which are configs of other files."""
    steps = config.recipe.steps if name == "recipe" else ()
    return {key: v for key, v in flatten(config).items() if key.split(".")[0] not in steps}


@pytest.mark.parametrize("arg", ARGUMENTS["recipe"])
def test_every_step_of_a_recipe_is_a_whole_config_of_its_stage(arg: str | None):
    config = load("recipe", arg)
    for name in config.recipe.steps:
        step = config[name]
        missing = set(KEYS[step.stage].split()) - set(flatten(step))
        assert {key for key in missing if not key.startswith("score.judges.")} == set()


@pytest.mark.parametrize(("name", "arg"), CASES)
def test_complete_and_locked(name: str, arg: str | None):
    config = load(name, arg).lock()
    flat = own_keys(name, config)
    beside = {key for key in flat if name in JUDGING and key.startswith("score.judges.")}
    assert set(flat) - beside == set(KEYS[name].split()) - beside
    assert set(KEYS[name].split()) <= set(flat)
    unset = [key for key, value in flat.items() if value is None]
    assert not unset, "None has no type, so no flag could set it"
    with pytest.raises(AttributeError):
        config.optim.learning_rat = 1.0


@pytest.mark.parametrize(("name", "arg"), CASES)
def test_arguments_change_values_but_never_types(name: str, arg: str | None):
    plain = {key: type(value) for key, value in own_keys(name, load(name, None)).items()}
    types = {key: type(value) for key, value in own_keys(name, load(name, arg)).items()}
    if name in JUDGING:  # an argument adds a judge, which the plain config has not
        types = {key: found for key, found in types.items() if key in plain}
    assert types == plain


@pytest.mark.parametrize("name", ARGUMENTS)
def test_every_argument_is_documented_and_every_mistake_is_one_line(name: str):
    opening = importlib.import_module(f"configs.{name}").__doc__
    with pytest.raises(ValueError) as error:
        load(name, "no_such_argument=1")
    message = str(error.value)
    assert "\n" not in message and "'no_such_argument=1' is unknown" in message
    known = message.partition("; expected ")[2].split(", ")
    for argument in known:
        key, _, values = argument.partition("=")
        assert key in opening
        assert all(value in opening for value in values.split("|") if not value.startswith("<"))


@pytest.mark.parametrize("kind", ["cost", "regression", "binary"])
def test_judges_of_harm_say_so(kind: str):
    flat = flatten(load("reward", f"kind={kind}"))
    assert flat["reward.direction"] == "higher is more harmful"
    assert flat["data.prefer"] == ("safer" if kind == "cost" else "all")


@pytest.mark.parametrize("arg", ["safety=500", "paper=report,safety=500", "demo,safety=500"])
def test_safety_sets_the_number_of_demonstrations(arg: str):
    assert load("sft", arg).data.safety_rows == 500


def test_no_demonstrations_unless_asked_for_but_in_the_demo():
    assert load("sft", None).data.safety_rows == 0
    assert load("sft", "demo,safety=0").data.safety_rows == 0
    rows = (ROOT / load("sft", "demo").data.safety).read_text(encoding="utf-8").splitlines()
    assert load("sft", "demo").data.safety_rows == len(rows)


PAPER = {"sft": "report", "dpo": "report", "raft": "b500", "reward": "safety_tuned_llamas"}


@pytest.mark.parametrize("name", PAPER)
def test_demo_and_paper_exclude_each_other(name: str):
    with pytest.raises(ValueError, match="exclude each other"):
        load(name, f"demo,paper={PAPER[name]}")


@pytest.mark.parametrize("name", PAPER)
def test_everything_the_demo_names_is_in_the_checkout(name: str):
    data, model = load(name, "demo").data, load(name, "demo").model
    named = [model.path]
    for key in ("train", "prompts", "eval", "safety"):
        value = data.get(key, ())
        named += [value] if isinstance(value, str) else value
    for path in named:
        assert (ROOT / path.partition("?")[0]).exists(), path


def test_the_demo_of_scoring_needs_no_model():
    config = load("score", "demo")
    assert [judge.kind for judge in config.score.judges.values()] == ["refusal"]
    for spec in config.data.responses:
        assert (ROOT / spec.partition("?")[0]).exists(), spec
