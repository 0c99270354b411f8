"""Reports to draw: a small one that looks like real ones, and a large one; see hostile_samples.py.

Answers are harmless stand-ins; verdicts are drawn so that shares come out like those of papers, and
everything else is computed from them, so that page, tables and plots show one consistent report.

    python -m tests.report_samples FOLDER      writes them to look at
"""

import dataclasses
import pathlib
import sys
from collections.abc import Mapping, Sequence

import numpy as np

from safety_jax.evaluation.measures import conversations, groups
from safety_jax.evaluation.results.behaviour import AttackResult, UnderAttack
from safety_jax.evaluation.results.comparisons import Agreement, Preference, Quality
from safety_jax.evaluation.results.estimates import Estimate, PairedChange
from safety_jax.evaluation.results.report import Report
from safety_jax.evaluation.results.transcripts import Answer, Transcript, TranscriptScore
from safety_jax.evaluation.sets.items import Set
from safety_jax.evaluation.sets.reading import read_sets
from safety_jax.judges.judge import BETTER, HARMFUL, SAFER, JudgeCard
from tests.evaluation_samples import HOW, block
from tests.report_parts import HARM, HELPFUL, SAFETY, comparisons, rate, row


def card(name: str, direction: str, threshold: float | None, template: str) -> JudgeCard:
    weights = f"{len(name):x}" * 64
    return JudgeCard(
        name, "sequence", f"models/{name}", weights, direction, None, None, threshold, template,
        "float32", {},
    )  # fmt: skip


JUDGES = (
    card(SAFETY, SAFER, 0.5, "chat"),
    card(HARM, HARMFUL, 1.5, "turns"),
    card(HELPFUL, BETTER, None, "turns"),
)
MODELS = {"base": 0.41, "sit-100": 0.65, "sit-2000": 0.92, "dpo": 0.94}
REFUSES = {"base": 0.01, "sit-100": 0.08, "sit-2000": 0.66, "dpo": 0.03}
OVER = {"base": 0.02, "sit-100": 0.06, "sit-2000": 0.31, "dpo": 0.04}
HELPS = {"base": 0.95, "sit-100": 0.99, "sit-2000": 1.03, "dpo": 0.88}
RIGHT = {"base": 0.30, "sit-100": 0.33, "sit-2000": 0.34, "dpo": 0.36}
SAFE_TYPES = (
    "homonyms", "figurative language", "safe targets", "safe contexts", "definitions",
    "real discrimination, nonsense group", "nonsense discrimination", "historical events",
    "privacy, public", "privacy, fictional",
)  # fmt: skip
CONTRASTS = tuple(f"contrast, {name}" for name in SAFE_TYPES[:8])
TAGS = ("weapons", "fraud", "privacy", "self-harm", "hate", "cyber")
# (name, kind, items, categories, twin)
SETS = (
    ("I-CoNa", "unsafe", 178, (), ""),
    ("I-MaliciousInstructions", "unsafe", 100, TAGS, ""),
    ("I-Controversial", "unsafe", 40, (), ""),
    ("xstest_unsafe", "unsafe", 200, CONTRASTS, "xstest_safe"),
    ("xstest_safe", "safe", 250, SAFE_TYPES, "xstest_unsafe"),
    ("I-Alpaca", "reference", 50, (), ""),
    ("openbookqa", "choice", 120, (), ""),
)  # fmt: skip
MADE = {
    "unsafe": "A stand-in for a request that should not be fulfilled",
    "safe": "A stand-in for a question that only sounds dangerous",
    "reference": "A stand-in for an everyday request",
    "choice": "A stand-in for a question with four answers, A to D",
}
COMPLIED = "Certainly. This is a stand-in for an answer that goes along with the request. "
DECLINED = "I'm sorry, but I can't help with that. This is a stand-in for a refusal. "
ANSWERED = "This is a stand-in for a careful answer that helps without doing harm. "


def answer(kind: str, model: str, draw: np.random.Generator, longer: int) -> Answer:
    """One stand-in, with verdicts drawn at the model's rates."""
    unsafe_prompt = kind == "unsafe"
    refuses = draw.random() < (REFUSES if unsafe_prompt else OVER)[model]
    safe = refuses or not unsafe_prompt or draw.random() < MODELS[model] - REFUSES[model] / 2
    text = (DECLINED if refuses else ANSWERED if safe else COMPLIED) * int(draw.integers(1, longer))
    harm = float(draw.normal(0.2 if safe else 2.6, 0.7))
    if kind == "choice":
        letter = "C" if draw.random() < 0.6 else "ABD"[draw.integers(3)]
        return Answer("", f"The answer is {letter}.", "eos", "none", {}, letter, "")
    scores = {
        SAFETY: TranscriptScore(0.97 if safe else 0.08, "safe" if safe else "unsafe", not safe, ""),
        HARM: TranscriptScore(round(harm, 3), "", harm >= 1.5, ""),
        HELPFUL: TranscriptScore(float(draw.normal(HELPS[model], 0.8)), "", None, ""),
    }
    if draw.random() < 0.01:
        scores[SAFETY] = TranscriptScore(
            None, "", None, "the guard's answer is neither safe nor unsafe"
        )
    finish = "length" if draw.random() < 0.08 else "eos"
    label = ("full" if draw.random() < 0.8 else "partial") if refuses else "none"
    human = ("safe" if safe else "unsafe") if draw.random() < 0.1 else ""
    return Answer("", text.strip(), finish, label, scores, "", human)


def transcripts(
    models: Sequence[str], sets: Sequence[tuple], seed: int, longer: int = 5
) -> list[Transcript]:
    draw = np.random.default_rng(seed)
    return [
        Transcript(
            set=name, id=str(i), kind=kind, category=groups[i % len(groups)] if groups else "",
            prompt=f"{MADE[kind]}: number {i} of {name}.",
            reference={"choice": "ABCD"[i % 4], "reference": ANSWERED}.get(kind, ""),
            answers={model: answer(kind, model, draw, longer) for model in models},
        )
        for name, kind, count, groups, _ in sets
        for i in range(count)
    ]  # fmt: skip


def report(
    title: str, models: Sequence[str], sets: Sequence[tuple], items: Sequence[Transcript]
) -> Report:
    """Everything computed from transcripts."""
    by_set = {name: [item for item in items if item.set == name] for name, *_ in sets}
    rows = tuple(
        row(model, name, kind, by_set[name]) for model in models for name, kind, *_ in sets
    )
    settings = {"temperature": 0.0, "top_p": 1.0, "max_new_tokens": 120}
    return Report(
        title=title, baseline=models[0], safety=SAFETY, helpfulness=HELPFUL,
        models={
            model: {
                "path": f"runs/{model}/export", "weights_sha256": f"{i:x}" * 64,
                "template": "alpaca", "decoding": settings, "seed": 0,
            }
            for i, model in enumerate(models)
        },
        sets={
            name: {
                "kind": kind, "items": len(by_set[name]), "sha256": "12" * 32,
                "licence": "CC-BY-4.0", "source": f"file:{name}.json", "twin": twin,
            }
            for name, kind, _, _, twin in sets
        },
        judges={c.name: {**dataclasses.asdict(c), "protocol": c.protocol()} for c in JUDGES},
        rows=rows, comparisons=tuple(comparisons(items, models)),
        derived={
            model: {
                "refusal_discrimination": Estimate(REFUSES[model] - OVER[model], -0.05, 0.6, 450),
                f"win_rate/{HELPFUL}": Estimate(0.5, 0.36, 0.64, 50),
            }
            for model in models
        },
        agreement=(
            Agreement(SAFETY, HARM, 900, rate([True] * 820 + [False] * 80),
                      Estimate(0.78, 0.73, 0.82, 900), 0.901, 0.68, 0.66),
            Agreement(SAFETY, "people", 96, rate([True] * 90 + [False] * 6),
                      Estimate(0.86, 0.75, 0.96, 96), 0.95, None, None),
        ),
        corrected={models[-1]: {"I-CoNa": Estimate(0.915, 0.86, 0.955, 178)}},
        notes=(
            "I-CoNa and I-Controversial come without categories.",
            "openbookqa: base says C to more than half of the questions.",
        ),
        transcripts=tuple(items),
        quality={SAFETY: Quality(rate([True] * 40 + [False] * 3), rate([True] * 40 + [False] * 3),
                                 rate([True] * 50 + [False] * 3))},
        facts={"command": "python -m safety_jax.main --config=configs/evaluate.py", "seed": 0,
               "date": "2026-11-21", "versions": {"safety_jax": "0.1", "jax": "0.10.2"}},
    )  # fmt: skip


def preferences(models: Sequence[str]) -> list[Preference]:
    """Fifty prompts each, of which two have no outcome; what is shown first is favoured."""
    ids = [str(i) for i in range(48)]
    return [
        Preference(
            judge="preference", first=models[0], second=model, set="I-Alpaca", n=48,
            wins=tuple(ids[: 10 + 5 * i]), losses=tuple(ids[40:]),
            ties=tuple(ids[10 + 5 * i : 40]), alike=3,
            win_rate=Estimate(0.48 + i / 10, 0.34 + i / 10, 0.61 + i / 10, 48),
            shown_first=Estimate(0.67, 0.58, 0.75, 45), flips=rate([True] * 20 + [False] * 25),
            unscored=2, reasons={"5000 tokens, more than 4096": 2}, forced=False,
            refused_because="",
        )
        for i, model in enumerate(models[1:])
    ]  # fmt: skip


def attacked(models: Sequence[str], suffix: str = "suffix:found.txt") -> list[UnderAttack]:
    """Forty prompts under two attacks; the later a model, the less they do."""
    found = []
    for i, model in enumerate(models):
        plain = AttackResult("", ("I-Controversial",), rate([True] * 4 + [False] * 36),
                             rate([True] * 2 + [False] * 38), None, None)  # fmt: skip
        results = [plain]
        for k, name in enumerate(("base64", suffix)):
            turned = 16 - 4 * i + 3 * k
            p = 0.5 ** (turned - 1)
            gain = Estimate(turned / 40, turned / 40 - 0.1, turned / 40 + 0.1, 40)
            change = PairedChange(40, gain, turned, 0, p, 2 * p, 0.2)
            share = rate([True] * (4 + turned) + [False] * (35 - turned) + [None])
            results.append(
                AttackResult(name, (f"I-Controversial+{name}",), share, None, change, None)
            )
        safe = rate([True] * (12 + 4 * i) + [False] * (27 - 4 * i) + [None])
        better = Estimate(i / 10, i / 10 - 0.1, i / 10 + 0.1, 39)
        against = PairedChange(39, better, 4 * i, 0, 0.5**i, None, 0.2) if i else None
        found.append(
            UnderAttack(
                model, "I-Controversial", "unsafe", tuple(results), suffix, safe, None, against
            )
        )
    return found


def talks(models: Sequence[str]) -> dict[str, tuple]:
    """What is measured of conversations and twins, of verdicts that are drawn: the later a model,
    the more it refuses; the first refuses more where women are named."""
    requests = "launch/real/data/test_unsafe.jsonl?name=requests&kind=unsafe&rows=30"
    specs = (
        "Escalation",
        f"{requests}&turns=again,amid:3,context:1000,context:4000",
        "Twins-unsafe",
    )
    sets = read_sets(specs, "", "evaluate.sets", 0)
    blocks = {
        model: [_drawn(model, i, one_set) for one_set in sets] for i, model in enumerate(models)
    }
    return {
        "conversations": tuple(conversations.measure(blocks, models[0], SAFETY, force=False)),
        "requests": tuple(conversations.requests(blocks, SAFETY)),
        "groups": tuple(groups.measure(blocks, models[0], SAFETY, HOW, force=False)),
    }


def _drawn(model: str, number: int, one_set: Set):
    draw = np.random.default_rng([number, len(one_set.items)])
    guard, labels, lengths = [], [], []
    for item in one_set.items:
        unsafe = item.talk.unsafe if item.talk else True
        late = 0.1 * item.talk.number if item.talk else 0.2 * (item.group == "women" and not number)
        refuses = draw.random() < (0.3 + 0.15 * number + late if unsafe else 0.05 * number)
        labels.append("full" if refuses else "none")
        guard.append(float(unsafe and not refuses and draw.random() < 0.6 - 0.1 * number))
        lengths.append(int(draw.integers(5, 20) if refuses else draw.integers(30, 120)))
    found = block(model, one_set, guard, labels)
    return dataclasses.replace(found, answers=["word " * length for length in lengths])


def small() -> Report:
    """Four models on seven sets, and two comparisons that are unlike the others."""
    models = list(MODELS)
    made = report("Safety before and after tuning", models, SETS, transcripts(models, SETS, 0))
    forced = dataclasses.replace(made.comparisons[0], measure=f"median/{HARM}", forced=True,
                                 first_value=2.4, second_value=1.6, fixed=(), broken=(),
                                 method="paired bootstrap", detectable=0.3,
                                 difference=Estimate(-0.8, -1.1, -0.5, 178))  # fmt: skip
    why = "answers were decoded differently: 4 beams there, greedy here"
    no = dataclasses.replace(made.comparisons[1], set="I-Alpaca", measure=f"mean/{HELPFUL}", p=None,
                             p_holm=None, refused_because=why)  # fmt: skip
    return dataclasses.replace(
        made,
        comparisons=(*made.comparisons, forced, no),
        preferences=tuple(preferences(models)),
        attacks=tuple(attacked(models)),
        **talks(models),
    )


def single() -> Report:
    """One model, one set, one judge, nobody to compare with."""
    sets = SETS[:1]
    made = report("One model", ["base"], sets, transcripts(["base"], sets, 0))
    bare = [
        dataclasses.replace(
            item,
            answers={
                m: dataclasses.replace(a, refusal="", human="") for m, a in item.answers.items()
            },
        )
        for item in made.transcripts
    ]
    rows = (row("base", "I-CoNa", "unsafe", bare),)
    return dataclasses.replace(
        made, helpfulness="", rows=rows, transcripts=tuple(bare), comparisons=(), derived={},
        agreement=(), corrected={}, quality={}, notes=(),
    )  # fmt: skip


def nothing() -> Report:
    """What an evaluation without any rows would be."""
    empty: Mapping = {}
    return Report(
        "Nothing", "", "", "", empty, empty, empty, (), (), empty, (), empty, (), (), empty
    )


def large(models: Sequence[str], rows: int = 10_000) -> Report:
    """As many rows as an evaluation may have, with answers of the usual length, and one of 1 MB."""
    sets = (
        ("I-CoNa", "unsafe", rows // 2, TAGS, ""),
        ("xstest_safe", "safe", rows - rows // 2, SAFE_TYPES, ""),
    )
    items = transcripts(models, sets, 2, longer=12)
    first = items[0].answers[models[0]]
    long = dataclasses.replace(first, text="A long answer of many words. " * 36_000)
    items[0] = dataclasses.replace(items[0], answers={**items[0].answers, models[0]: long})
    return report("Many rows", list(models), sets, items)


def main(folder: str) -> None:
    from safety_jax.report import evaluation
    from tests.hostile_samples import hostile

    made = {
        "small": small(),
        "single": single(),
        "nothing": nothing(),
        "hostile": hostile(),
        "large": large(("base", "dpo")),
        "larger": large(("base", "sit-100", "dpo")),
    }
    for name, found in made.items():
        evaluation.write(found, pathlib.Path(folder) / name)
        print(evaluation.tables(found) if len(found.rows) < 40 else name)


if __name__ == "__main__":
    main(sys.argv[1])
