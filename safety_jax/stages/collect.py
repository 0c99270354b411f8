"""Stage `collect`: a model answers prompts, judges score the answers, and training data follow.

    samples.jsonl      every answer as tokens, in blocks; a killed run resumes from this file
    judgements.jsonl   every score; a killed run resumes from this file
    pairs_unsafe.jsonl, pairs_ordinary.jsonl    preferences, for stages dpo, orpo and reward
    kept.jsonl         ordinary requests with the model's own answers, for stage sft
    judged_a.jsonl, judged_b.jsonl    labelled answers for two judges that share no prompt
    summary.json       counts

`raft/collected.py` chooses the preferences and labels.
"""

import functools
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
from ml_collections import ConfigDict
from transformers import PreTrainedTokenizerBase

from safety_jax.base import compilation, files
from safety_jax.base.errors import ConfigError
from safety_jax.data import contamination, prompt_ids, prompts, records, sources
from safety_jax.data.building import PromptRoom
from safety_jax.data.shuffling import permutation
from safety_jax.judges import refusal, registry
from safety_jax.judges.judge import JudgeCard, Score
from safety_jax.models.decoding import generation, layout
from safety_jax.models.execution import float_type
from safety_jax.models.folders.model_folder import ModelFolder
from safety_jax.raft import collected, judging, round_files, sampling
from safety_jax.raft.collected import Asked, Verdict
from safety_jax.raft.prompt_pool import ORDINARY, UNSAFE, Prompt
from safety_jax.raft.round_files import Candidate
from safety_jax.stages import answering, devices, groups, texts
from safety_jax.training import workdir

PAIRS = {group: f"pairs_{group}.jsonl" for group in (UNSAFE, ORDINARY)}
KEPT, JUDGED = "kept.jsonl", ("judged_a.jsonl", "judged_b.jsonl")
SUMMARY = "summary.json"
_HALVES = 7200  # stream of the permutation that gives each judge its prompts


def run(config: ConfigDict, folder: str) -> None:
    """Runs the stage; called again, it continues where it stopped.

    Raises:
        UserError: any error that the user can fix.
    """
    primary = jax.process_index() == 0
    compilation.keep(config.log.compilation_cache)
    with workdir.prepare(folder, config, primary) as place:
        # ---- everything is checked before weights are read
        config = texts.dated(config, place)
        mesh = devices.build_mesh(config)
        opened = answering.open_speaker(config, config.model.path, mesh)
        planned = registry.plan(
            config.score.judges.to_dict() | registry.named(tuple(config.collect.judges)),
            groups.judge_resources(config, mesh),
        )
        judge = config.collect.unsafe_by
        if judge not in planned or planned[judge].card.threshold is None:
            raise ConfigError(
                f"collect.unsafe_by {judge!r}: expected a judge with a threshold, of score.judges "
                f"or collect.judges: {', '.join(planned)}"
            )
        judges = judging.Judges(planned, config.score.rows_per_write, resident=False)
        asked, hashes, left_out = read_prompts(config, opened)
        setup = answering.make_setup(
            config.answer,
            config.sample,
            opened.tokenizer,
            mesh,
            (*opened.ends, *texts.ends(config, opened.tokenizer)),
        )
        place.remember(
            hashes
            | {"model": opened.weights_sha256, "tokenizer": opened.tokenizer_sha256}
            | {"model, config": opened.config_sha256}
            | {"data.template": prompts.identified(config.data.template)}
            | {f"judge {name}": card.protocol() for name, card in judges.cards.items()}
        )
        if primary:
            counts = Counter(prompt.group for prompt in asked)
            print(f"{config.model.path} answers {counts[UNSAFE]:,} unsafe and "
                  f"{counts[ORDINARY]:,} ordinary prompts; judges: {', '.join(judges.cards)}",
                  flush=True)  # fmt: skip
            for why, count in left_out.items():
                print(f"{count:,} prompts are left out: {why}", flush=True)

        # ---- answers, scores, files
        candidates = sample(config, place.path, asked, opened, setup, primary)
        conversations = [
            judging.conversation(prompt, answer.text)
            for prompt, row in zip(asked, candidates, strict=True)
            for answer in row
        ]
        scores = judges.score(conversations, place.path / "judgements.jsonl", "judging")
        rows = judging.by_prompt(scores, candidates)
        card = judges.cards[judge]
        found = [
            Asked(prompt, answers, verdicts(card, prompt, answers, row[judge]))
            for prompt, answers, row in zip(asked, candidates, rows, strict=True)
        ]
        if primary:
            first = functools.partial(
                first_tokens, opened.tokenizer, config.collect.kept_tokens or None
            )
            print(write(place.path, found, config.seed, judge, first), flush=True)


def verdicts(
    card: JudgeCard, prompt: Prompt, answers: Sequence[Candidate], scores: Sequence[Score]
) -> list[Verdict]:
    """The judge's verdict on each answer; answers to ordinary prompts count as safe."""
    return [
        Verdict(
            card.is_unsafe(score) if prompt.group == UNSAFE else False,
            refusal.VALUES[refusal.classify(answer.turn.answer).label] > 0,
            _rank(card.preference(score)),
        )
        for answer, score in zip(answers, scores, strict=True)
    ]


def _rank(value: float | None) -> float:
    return float("-inf") if value is None else value


def read_prompts(
    config: ConfigDict, opened: ModelFolder
) -> tuple[list[Prompt], dict[str, str], Counter[str]]:
    """All prompts, demonstrations first; hashes of their sources; the number left out, by reason.

    Raises:
        ConfigError, DataError: sources that cannot be used, or prompts that are too long.
    """
    data = config.data
    template = prompts.load_template(data.template, opened.tokenizer, texts.rules(config))
    tests = contamination.read(tuple(data.decontaminate))
    room = PromptRoom(data.max_length, config.answer.max_new_tokens, data.overlong_prompt)
    found: list[Prompt] = []
    hashes: dict[str, str] = {}
    left_out: Counter[str] = Counter()
    for key, group, read in (
        ("demonstrations", UNSAFE, records.read_records),
        ("prompts", UNSAFE, records.read_prompts),
        ("ordinary", ORDINARY, records.read_prompts),
    ):
        for spec in filter(None, data[key]):
            source = sources.open_source(spec, f"data.{key}")
            hashes[f"data.{key} {source.name}"] = source.sha256() or ""
            rows = read(source) if tests is None else tests.apart(read(source), source.left_out)
            left_out["unusable or not to be learned"] += len(source.left_out)
            rows = sources.draw(rows, source, f"data.{key}", config.seed)
            usable, ids = prompt_ids.usable_prompts(rows, template, opened.tokenizer, left_out)
            for record, tokens in zip(usable, ids, strict=True):
                if not room.takes(record.where, len(tokens)):
                    left_out["too long"] += 1
                    continue
                last = record.messages[-1]
                answer = last.content if last.role == "assistant" else ""
                found.append(Prompt(len(found), group, record, tokens, answer))
    if not found:
        raise ConfigError(
            "data.demonstrations, data.prompts and data.ordinary name no prompts; expected a source"
        )
    return found, hashes, +left_out


def sample(
    config: ConfigDict,
    path: Path,
    asked: Sequence[Prompt],
    opened: ModelFolder,
    setup: generation.Setup,
    writes: bool,
) -> list[list[Candidate]]:
    """The model's answers to every prompt; its weights are freed before judges are read."""
    block = config.sample.prompts_per_write
    samples = round_files.Samples(
        path / "samples.jsonl", [prompt.number for prompt in asked], block, writes
    )
    if samples.done < len(asked):
        dtype = float_type("model.parameter_dtype", config.model.parameter_dtype)
        model = opened.load(dtype)
        with layout.lent(model) as speaker:
            sampling.fill(
                samples, asked, speaker, setup, seed=config.seed, block=block, title="answering"
            )
        answering.release(model)
    return samples.candidates


def first_tokens(tokenizer: PreTrainedTokenizerBase, count: int | None, text: str) -> str:
    """The text up to its token number `count`, or all of it. A character that several tokens spell
    is not split."""
    ids = tokenizer.encode(text, add_special_tokens=False)
    if count is None or len(ids) <= count:
        return text
    return os.path.commonprefix([text, str(tokenizer.decode(ids[:count]))])


def write(
    path: Path, found: Sequence[Asked], seed: int, judge: str, first: Callable[[str], str]
) -> str:
    """Writes the training data and the summary; returns a message about them.

    Args:
        first: see `collected.kept`.
    """
    pairs, kept = collected.pairs(found, seed), collected.kept(found, first)
    order = permutation(len(found), seed=seed, stream=_HALVES)
    halves = [[found[i] for i in sorted(order[half::2])] for half in (0, 1)]
    labelled = [collected.judged(half, seed) for half in halves]
    for group, name in PAIRS.items():
        round_files.write_lines(path / name, [one for one in pairs if one["category"] == group])
    for name, lines in ((KEPT, kept), *zip(JUDGED, labelled, strict=True)):
        round_files.write_lines(path / name, lines)
    verdicts = {
        group: [verdict for one in found if one.prompt.group == group for verdict in one.verdicts]
        for group in (UNSAFE, ORDINARY)
    }
    summary = {
        "unsafe_by": judge,
        "answers": {
            group: {
                "answers": len(several),
                "unsafe": sum(verdict.unsafe is True for verdict in several),
                "unscored": sum(verdict.unsafe is None for verdict in several),
                "refused": sum(verdict.refused for verdict in several),
            }
            for group, several in verdicts.items()
        },
        "pairs": dict(collected.count(pairs, "category")),
        "kept": len(kept),
        "judged": [dict(collected.count(lines, "kind")) for lines in labelled],
    }
    files.write(path / SUMMARY, files.canonical(summary))
    unsafe, ordinary = (summary["answers"][group] for group in (UNSAFE, ORDINARY))  # type: ignore[index]
    left = f" ({unsafe['unscored']:,} without a verdict)" if unsafe["unscored"] else ""
    return (
        f"unsafe prompts: {unsafe['unsafe']:,} of {unsafe['answers']:,} answers are unsafe by "
        f"{judge}{left}, {unsafe['refused']:,} refuse\n"
        f"ordinary prompts: {ordinary['refused']:,} of {ordinary['answers']:,} answers refuse\n"
        f"{len(pairs):,} pairs, {len(kept):,} ordinary answers, "
        f"{' and '.join(f'{len(lines):,}' for lines in labelled)} labelled answers: {path}"
    )
