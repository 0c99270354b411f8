"""Stage `raft`: rounds of sampling, scoring, selecting and fine-tuning.

RAFT (arXiv 2304.06767, algorithm 1; arXiv 2412.00074). This file makes a plan from the config;
`raft/rounds.py` runs the rounds, and `stages/tuning.py` fine-tunes in them.
"""

import dataclasses
import functools
import hashlib
import json
import time
from collections.abc import Sequence

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict
from transformers import PreTrainedTokenizerBase

from safety_jax.base import compilation, trees
from safety_jax.base.errors import ConfigError, NotFiniteError
from safety_jax.data import contamination
from safety_jax.data.building import PromptRoom
from safety_jax.judges import registry
from safety_jax.models import lora, quantised
from safety_jax.models.decoding.ends import model_ends
from safety_jax.raft import judging, prompt_pool, round_measures, rounds, sampling, selection
from safety_jax.raft.setup import RaftParts, RaftPlan, RoundSummary, Weights
from safety_jax.report import model_card
from safety_jax.report import rounds as pictures
from safety_jax.stages import answering, devices, fits, groups, learners, results, texts
from safety_jax.stages.tuning import RoundTuner
from safety_jax.training import metrics, policy, workdir
from safety_jax.training.task import Loaded

FOLDER = "rounds"


def run(config: ConfigDict, folder: str) -> bool:
    """Runs the stage; called again, it continues where it stopped. False if it waits for people or
    was asked to stop.

    Raises:
        UserError: any error that the user can fix.
    """
    began = time.perf_counter()
    primary = jax.process_index() == 0
    compilation.keep(config.log.compilation_cache)
    compiled = compilation.Counter()
    with workdir.prepare(folder, config, primary) as place:
        config = texts.dated(config.copy_and_resolve_references(), place)
        # ---- everything is checked before weights are read
        mesh = devices.build_mesh(config)
        base = groups.base(config, mesh)
        judges = plan_judges(config, mesh)
        plan = make_plan(config, place, base.tokens, judges)
        place.remember(identity(config, base, plan, judges))
        fits.fill_unseen(
            config,
            learners.trained_policy(config, base.config, kernels=base.kernels, sides=1),
            mesh,
            place,
        )
        if primary:
            print(plan.pool.describe())
            if plan.held_out.prompts:
                print(plan.held_out.describe(plan.pool))
            print(f"judges: {', '.join(judges.cards) or 'people'}")
            print(groups.describe_base(config, base, mesh), flush=True)

        # ---- the rounds
        loaded = hold_base(config, learners.load_policy(config, base, mesh))
        parts = make_parts(config, place, base, loaded, judges, mesh, compiled)
        try:
            outcome = rounds.run(plan, parts, Weights(loaded.trainable, loaded.frozen))
        except NotFiniteError as error:
            raise NotFiniteError(f"{config.model.path}: {error}") from error

        # ---- results
        if primary:
            drawn = draw(config, place, outcome.summaries)
        if outcome.weights is None:
            return False
        export(config, loaded.learner, outcome.weights, place)
        if primary:
            describe(config, place, loaded.learner, plan, outcome.summaries, drawn, began)
            print(f"exported round {outcome.summaries[-1]['round']} to {place.export}", flush=True)
    return True


# ---------------------------------------------------------------------------- from config to plan


def hold_base(config: ConfigDict, loaded: Loaded[policy.Policy]) -> Loaded[policy.Policy]:
    """The loaded policy; the kernels into which rounds merge adapters are held in float32."""
    adapter = loaded.learner.adapter
    if config.raft.adapter != "merge" or adapter is None:
        return loaded
    if any(map(quantised.is_quantised, trees.flatten(loaded.frozen).values())):
        raise ConfigError(
            f"raft.adapter is merge, but {config.model.path} is quantised, and adapters cannot be "
            "merged into codes; set raft.adapter=continue, or give the model before quantisation"
        )
    return dataclasses.replace(loaded, frozen=lora.promote(loaded.frozen, adapter.targets))


def make_parts(
    config: ConfigDict,
    place: workdir.Workdir,
    base: groups.Base,
    loaded: Loaded[policy.Policy],
    judges: judging.Judges,
    mesh: Mesh,
    compiled: compilation.Counter,
) -> RaftParts:
    """The models and functions of the rounds: policy, start model, judges, tuner, decoding."""
    trained, primary = loaded.learner, jax.process_index() == 0
    setup = functools.partial(
        answering.make_setup,
        sample=config.sample,
        tokens=base.tokens,
        mesh=mesh,
        ends=(*model_ends(base.folder, base.tokens), *texts.ends(config, base.tokens)),
    )
    shapes = jax.eval_shape(lambda tree: tree, loaded.trainable)
    return RaftParts(
        policy=trained,
        sample=setup(config.sample),
        answer=setup(config.answer),
        judges=judges,
        tuner=RoundTuner(config, place, base, trained, shapes, mesh, compiled),
        start_model=make_start_model(config, trained, loaded.trainable, loaded.frozen, mesh),
        compiled=compiled,
        say=lambda text: print(text, flush=True) if primary else None,
    )


def plan_judges(config: ConfigDict, mesh: Mesh) -> judging.Judges:
    """The judges of `score.judges` and `raft.judges`, not loaded yet.

    Raises:
        ConfigError: no judge and no people, or an entry that cannot be used.
    """
    rows = config.score.judges.to_dict() | registry.named(tuple(config.raft.judges))
    if not rows and not config.raft.people:
        raise ConfigError(
            "raft.judges is empty; expected folders that stage reward exported, rows in "
            "score.judges, or raft.people"
        )
    planned = registry.plan(rows, groups.judge_resources(config, mesh)) if rows else {}
    return judging.Judges(planned, config.score.rows_per_write, config.raft.judges_resident)


def make_plan(
    config: ConfigDict,
    place: workdir.Workdir,
    tokens: PreTrainedTokenizerBase,
    judges: judging.Judges,
) -> RaftPlan:
    """The plan of the run; reads its prompts.

    Raises:
        ConfigError, DataError: values or rows that cannot be used.
    """
    raft, data = config.raft, config.data
    room = PromptRoom(data.max_length, config.sample.max_new_tokens, data.overlong_prompt)
    if room.answer >= room.max_length:
        raise ConfigError(
            f"sample.max_new_tokens {config.sample.max_new_tokens} leaves no room for a prompt in "
            f"data.max_length {data.max_length}"
        )
    rule = selection.SelectionRule(
        rank_by=raft.rank_by or ("" if raft.people else next(iter(judges.cards))),
        accept=tuple(raft.accept),
        kl_weight=raft.kl_weight,
        unfinished=raft.unfinished,
    )
    if rule.rank_by:
        rule.check(judges.cards)
    asked = prompt_pool.read(
        tuple(data.prompts),
        tuple(data.ordinary),
        prompt_pool.Draws(
            rounds=raft.rounds,
            per_round=raft.prompts,
            ordinary_share=data.ordinary_share,
            order=data.order,
            reuse=raft.reuse_prompts,
            seed=config.seed,
        ),
        template=data.template,
        rules=texts.rules(config),
        with_answers=raft.reference_answers,
        room=room,
        tokens=tokens,
        tests=contamination.read(tuple(data.decontaminate)),
    )
    return RaftPlan(
        path=place.path / FOLDER,
        pool=asked,
        held_out=prompt_pool.read_held_out(
            tuple(data.eval),
            template=data.template,
            rules=texts.rules(config),
            room=room,
            tokens=tokens,
            seed=config.seed,
        ),
        seed=config.seed,
        rounds=raft.rounds,
        patience=raft.patience,
        rule=rule,
        limits=round_measures.AlarmLimits(raft.diversity_alarm, raft.length_alarm),
        block=config.sample.prompts_per_write,
        reference_answers=raft.reference_answers,
        people=raft.people,
        keep_checkpoints=raft.adapter == "merge",
    )


def identity(
    config: ConfigDict, base: groups.Base, plan: RaftPlan, judges: judging.Judges
) -> dict[str, str]:
    """Hashes of what the run reads: prompts, model, adapter, tokenizer, judges."""
    found = {name: sha256 for name, sha256 in plan.pool.files.items() if sha256}
    found["prompts as tokens"] = plan.pool.fingerprint()
    asked = [[prompt.group, prompt.ids] for prompt in plan.held_out.prompts]
    found["data.eval as tokens"] = hashlib.sha256(json.dumps(asked).encode()).hexdigest()
    found |= groups.model_identity(config, base.folder)
    return found | {f"raft.judges {name}": card.protocol() for name, card in judges.cards.items()}


def make_start_model(
    config: ConfigDict,
    trained: policy.Policy,
    trainable: trees.Tree,
    frozen: trees.Tree,
    mesh: Mesh,
) -> sampling.StartModel | None:
    """The model at the start, if the config needs its log-probabilities."""
    if not (config.raft.measure_kl or config.raft.kl_weight):
        return None
    fresh = trained.adapter is not None and not config.model.adapter
    # The first step donates the trainable buffers, so the start is a copy.
    start = None if fresh else jax.tree.map(lambda x: x.copy(), trainable)
    rows = sampling.RowShape(config.data.max_length, config.train.rows_per_microbatch, mesh)
    return sampling.StartModel(trained, start, frozen, rows)


# ---------------------------------------------------------------------------- results


def export(
    config: ConfigDict, trained: policy.Policy, weights: Weights, place: workdir.Workdir
) -> None:
    """Writes `export/`: the adapter, or the full model if adapters were merged or all weights
    trained."""
    if config.raft.adapter == "continue":
        merged = config.checkpoint.export_merged
        results.write(config, trained, weights.trainable, weights.frozen, place, merged=merged)
        return
    whole = dataclasses.replace(trained, adapter=None)
    results.write(config, whole, weights.frozen, {}, place, merged=False)


def draw(
    config: ConfigDict, place: workdir.Workdir, summaries: Sequence[RoundSummary]
) -> list[str]:
    """Writes `metrics.jsonl`, one line a round, and the plots; returns the plots' names."""
    with metrics.Writer(
        place.path, -1, config.log.tensorboard, config.log.wandb, place.config
    ) as writer:
        for row in summaries:
            writer.write(row["round"], pictures.figures(row))
    return pictures.draw(summaries, place.plots, place.path.name)


def describe(
    config: ConfigDict,
    place: workdir.Workdir,
    trained: policy.Policy,
    plan: RaftPlan,
    summaries: Sequence[RoundSummary],
    drawn: Sequence[str],
    began: float,
) -> None:
    """Writes the model card."""
    last = summaries[-1]
    given = {prompt_pool.UNSAFE: config.data.prompts, prompt_pool.ORDINARY: config.data.ordinary}
    totals = {
        f"{name}, all rounds": sum(row.get(name, 0) for row in summaries)
        for name in pictures.TOTALS
    }
    sizes = {g.name: len(g.records) for g in plan.pool.groups}
    rows = sum(sizes.values())
    results.write_facts(
        config,
        place,
        trained,
        summary=f"{config.model.path} after {last['round']} rounds of reward-ranked fine-tuning "
        f"(RAFT) on its own answers to {sum(r.get('prompts', 0) for r in summaries):,} prompts.",
        sources=[
            model_card.CardSource(name, ", ".join(given[name]), size, size / rows, 0, None)
            for name, size in sizes.items()
        ],
        counts={
            f"{what} left out, {why}": n
            for what, pool in (("prompts", plan.pool), ("prompts of data.eval", plan.held_out))
            for why, n in {**pool.skipped, "unusable": pool.left_out}.items()
        },
        prompt=plan.pool.example,
        notes=tuple(config.raft.protocol_notes),
        plots=tuple(drawn),
        task=model_card.GENERATION,
        results={
            **pictures.figures(last),
            **totals,
            **{f"warning, round {r['round']}": r["remark"] for r in summaries if "remark" in r},
            "seconds of this start": time.perf_counter() - began,
        },
    )
