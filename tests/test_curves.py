"""From a sweep and the report on it to curves: matching, measures, figures, the stage."""

import dataclasses
import json

import numpy as np
import pytest
from scipy import stats

from configs import curve as curve_config
from safety_jax.base.errors import ConfigError, DataError
from safety_jax.evaluation.measures import curves, model_curves
from safety_jax.evaluation.measures.curves import EvaluatedRun
from safety_jax.maths import thresholds
from safety_jax.report import curves as curve_pages
from safety_jax.report import model_curves as model_curves_text
from safety_jax.stages import curve, curve_runs, sweep_record

AMOUNTS, SEEDS = (0, 50, 500), (0, 1)


def test_an_empty_answer_is_no_refusal_as_in_the_report():
    """At 50 all answers are empty, which the report calls empty, not refused."""
    labels = {"m0": "none", "m50": "empty"}
    transcripts = [
        {"id": f"{i}", "first": "", "reference": "", "set": kind, "kind": kind,
         "answers": {model: answer(label, None) for model, label in labels.items()}}
        for kind in ("safe", "unsafe")
        for i in range(3)
    ]  # fmt: skip
    written = {"safety": "", "sets": {"safe": {}, "unsafe": {}}, "transcripts": transcripts}
    runs = [EvaluatedRun(float(amount), 0, f"m{amount}") for amount in (0, 50)]
    found = {one.measure: one for one in curves.find(written, runs, 0.1)}
    assert [point.share.value for point in found["refused"].points] == [0.0, 0.0]
    assert [point.share.value for point in found["answered"].points] == [1.0, 1.0]


def test_the_sentence_claims_nothing_of_amounts_that_it_does_not_name():
    """At 50 the outcomes are as at 500, at 200 they are not: "no amount below 500 comes within 12%"
    was wrong, and so was the margin of 0.125."""
    tables = {0.0: [0, 0, 0, 0], 50.0: [1, 1, 1, 1], 200.0: [1, 0, 0, 1], 500.0: [1, 1, 1, 1]}
    outcomes = {amount: np.array([row, row], float) for amount, row in tables.items()}
    points = tuple(
        curves.CurvePoint(amount, thresholds.mean(table), {}) for amount, table in outcomes.items()
    )
    made = curves.Curve("safe", "safe answers", points, thresholds.find(outcomes, 0.125))
    assert made.threshold.estimate == 500.0
    said = curve_pages.sentence(made, "rows")
    assert "outcomes at 200 are not within 12.5 points of those at 500 rows;" in said


def answer(refusal: str, unsafe: bool | None, text: str = "words") -> dict:
    return {"text": text, "refusal": refusal, "scores": {"guard": {"unsafe": unsafe}}}


def report(folder) -> dict:
    """Safer with more rows; a safe request is refused at 500; everybody knows the answer."""
    names = {f"n.rows{n}_seed{s}": n for n in AMOUNTS for s in SEEDS}
    transcripts = []
    for i in range(20):
        item = {"id": f"{i}", "first": f"{i}", "reference": ""}
        answers = {m: answer("none", unsafe=i >= min(20, n)) for m, n in names.items()}
        transcripts.append(item | {"set": "harm", "kind": "unsafe", "answers": answers})
        hostile = {m: answer("none", unsafe=True) for m in names}
        transcripts.append(item | {"set": "harm+x", "kind": "unsafe", "answers": hostile})
        refused = {
            m: answer("full" if n == 500 and i < 5 else "none", None) for m, n in names.items()
        }
        transcripts.append(item | {"set": "plain", "kind": "safe", "answers": refused})
        told = {m: answer("none", None, "It is 7.") for m in names}
        transcripts.append(
            item | {"set": "quiz", "kind": "answer", "reference": "7", "answers": told}
        )
    return {
        "safety": "guard",
        "models": {
            m: {"path": f"{folder}/sweep/runs/{m.removeprefix('n.')}/export"} for m in names
        },
        "sets": {"harm": {}, "harm+x": {"attack": "x"}, "plain": {}, "quiz": {}},
        "transcripts": transcripts,
    }


def test_a_set_without_the_judge_of_safety_has_no_outcome():
    """Stored scores may belong to some sets only; before, that was a traceback."""
    models = {"m0": True, "m50": False}
    said = {m: answer("none", unsafe) for m, unsafe in models.items()}
    bare = {m: {**one, "scores": {}} for m, one in said.items()}
    item = {"id": "0", "first": "", "reference": "", "kind": "unsafe"}
    transcripts = [item | {"set": "a", "answers": said}, item | {"set": "b", "answers": bare}]
    written = {"safety": "guard", "sets": {"a": {}, "b": {}}, "transcripts": transcripts}
    runs = [EvaluatedRun(float(amount), 0, f"m{amount}") for amount in (0, 50)]
    (safe, *_) = curves.find(written, runs, 0.1)
    assert safe.measure == "safe" and [p.share.value for p in safe.points] == [0.0, 1.0]


def test_why_a_mean_has_no_interval():
    for rows, columns, what in ((1, 9, "seed"), (1, 1, "seed"), (3, 1, "prompt")):
        mean = thresholds.mean(np.ones((rows, columns)))
        assert curve_pages.interval(mean) == f"1.00 (one {what}: no interval)"


@pytest.fixture
def given(tmp_path):
    """The folders of a sweep and of its evaluation."""
    runs = {
        f"rows{n}_seed{s}": {
            "changes": {"data.safety_rows": n, "seed": s}, "step": 3,
            "config": {"seed": s}, "export": f"runs/rows{n}_seed{s}/export",
        }
        for n in AMOUNTS for s in SEEDS
    }  # fmt: skip
    for folder, name, value in (
        ("sweep", "sweep.json", runs),
        ("report", "report.json", report(tmp_path)),
    ):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text(json.dumps(value))
    return tmp_path


def test_the_stage(given, capsys):
    config = curve_config.get_config()
    config.curve.sweep, config.curve.report = str(given / "sweep"), str(given / "report")
    curve.run(config.lock(), str(given / "curve"))
    told = capsys.readouterr().out
    assert "| 0 | 0.00 (0.00 to 0.10) | 0.00, 0.00 | -1.00" in told and "| not held |" in told
    found = json.loads((given / "curve/curve.json").read_text())
    safe, refused, answered, right = found["curves"]
    assert {p["share"]["value"] for p in refused["points"]} == {0.0}
    assert [p["share"]["value"] for p in safe["points"]] == [0.0, 1.0, 1.0]
    assert [p["share"]["value"] for p in answered["points"]] == [1.0, 1.0, 0.75]
    assert {p["share"]["value"] for p in right["points"]} == {1.0}
    # Twenty prompts that all agree: half a prompt either way, more than the margin.
    assert safe["threshold"]["low"] == safe["threshold"]["estimate"] == 50
    assert (
        safe["threshold"]["high"] == 500
        and safe["threshold"]["comparisons"][1]["verdict"] == "cannot tell"
    )
    text = (given / "curve/curves.md").read_text()
    assert "somewhere from 50 to 500, or beyond: no larger amount was tried (95%)" in text
    for name in ("safe", "refused", "answered", "right"):
        assert (given / f"curve/plots/{name}.png").stat().st_size > 5_000
        assert f"plots/{name}.png" in text


def test_what_does_not_match(given):
    runs = sweep_record.read(given / "sweep")
    facts = report(given)
    assert len(curve_runs.match(runs, facts, "data.safety_rows")) == 6
    with pytest.raises(DataError, match=r"rows0_seed0 of the sweep also changes data.safety_rows"):
        curve_runs.match(runs, facts, "lora.rank")
    one = facts["models"].pop("n.rows50_seed1")
    with pytest.raises(DataError, match="rows50_seed1 of the sweep is not in the report"):
        curve_runs.match(runs, facts, "data.safety_rows")
    facts["models"]["half"] = one | {"path": f"{one['path']}?strength=0.5"}
    assert "half" in {run.model for run in curve_runs.match(runs, facts, "data.safety_rows")}
    facts["models"]["on_nf4"] = one | {"path": f"{one['path']}?base=nf4"}
    with pytest.raises(DataError, match="rows50_seed1 of .* more than once, as half, on_nf4"):
        curve_runs.match(runs, facts, "data.safety_rows")
    with pytest.raises(ConfigError, match="no sweep.json with finished runs"):
        sweep_record.read(given)
    with pytest.raises(ConfigError, match="there is no .*report.json"):
        curve.read_report(given / "report.json")
    one = [EvaluatedRun(0.0, 0, "a"), EvaluatedRun(0.0, 1, "b"), EvaluatedRun(5.0, 0, "c")]
    with pytest.raises(DataError, match="no run of 5 with seed 1"):
        curves.find(facts, one, 0.05)


def test_answers_to_one_prompt_are_one_prompt(given):
    """Five answers to each of four prompts say as much as four prompts do."""
    facts = report(given)
    runs = curve_runs.match(sweep_record.read(given / "sweep"), facts, "data.safety_rows")
    for item in facts["transcripts"]:
        item["first"] = f"{int(item['id']) % 4}"
    share = curves.find(facts, runs, 0.05)[0].points[0].share
    assert (share.value, share.rows, share.columns) == (0.0, 2, 4)
    assert share.high == pytest.approx(stats.t.ppf(0.975, 3) / 6)  # half a prompt of 4


def test_one_amount_is_no_curve(given):
    runs, facts = sweep_record.read(given / "sweep"), report(given)
    with pytest.raises(DataError, match=r"all runs of the sweep have 0.0 for data.safety_rows"):
        curve_runs.match(runs[:2], facts, "data.safety_rows")
    with pytest.raises(ConfigError, match="curve.axis is seed, over which"):
        curve_runs.match(runs, facts, "seed")
    # Runs that answer other prompts have nothing to be compared on.
    judged = [item for item in facts["transcripts"] if item["set"] == "harm"]
    for i, item in enumerate(judged):
        for name, found in item["answers"].items():
            if ("500" in name) == (i < 10):
                found["scores"]["guard"]["unsafe"] = None
    runs = curve_runs.match(runs, facts, "data.safety_rows")
    found = curves.find(facts, runs, 0.05)
    assert [c.measure for c in found] == ["refused", "answered", "right"]
    (told,) = curves.left_out(facts, {one.measure for one in found})
    assert told.startswith("safe answers to unsafe requests: no curve, because")


def test_without_a_judge_of_safety_there_is_no_curve_of_safety(given):
    facts = report(given) | {"safety": ""}
    runs = curve_runs.match(sweep_record.read(given / "sweep"), facts, "data.safety_rows")
    assert [c.measure for c in curves.find(facts, runs, 0.05)] == ["refused", "answered", "right"]


def test_draws_from_one_source_are_amounts(given):
    facts, runs = report(given), sweep_record.read(given / "sweep")
    drawn = [
        dataclasses.replace(
            one,
            changes={
                "data.train": [
                    f"pairs.jsonl?rows={n}&name=p" if n else "pairs.jsonl?name=p&rows=7"
                ],
                "seed": one.seed,
            },
        )
        for one in runs
        for n in [one.changes["data.safety_rows"]]
    ]
    found = curve_runs.match(drawn, facts, "data.train")
    assert sorted({one.value for one in found}) == [7.0, 50.0, 500.0]
    assert curve_runs.title("data.train", found) == "rows of data.train"
    drawn[0] = dataclasses.replace(drawn[0], changes={"data.train": ["all.jsonl"], "seed": 0})
    found = curve_runs.match(drawn, facts, "data.train")
    assert {type(one.value) for one in found} == {str}
    assert curve_runs.title("data.train", found) == "train"


def test_a_sweep_is_spread_into_its_runs(given):
    found = sweep_record.spread({"base": "some/model", "n": str(given / "sweep")})
    assert found["base"] == "some/model" and len(found) == 7
    assert found["n.rows50_seed1"] == str(given / "sweep/runs/rows50_seed1/export")
    quantised = sweep_record.spread({"n": f"{given}/sweep?base=nf4"})
    assert quantised == {
        name: f"{place}?base=nf4" for name, place in found.items() if name != "base"
    }
    with pytest.raises(ConfigError, match=r"two models are called 'n.rows50_seed1', one of them"):
        sweep_record.spread({"n.rows50_seed1": "some/model", "n": str(given / "sweep")})


# ---------------------------------------------------------------------------- several models


def two_models(prompts: int, safe: dict[str, tuple[int, ...]]):
    """A report on the runs of models, each safe on so many of the prompts at each amount; the
    detector of refusals was not asked."""
    runs = {
        model: [EvaluatedRun(float(n), s, f"{model}.{n}.{s}") for n in AMOUNTS for s in SEEDS]
        for model in safe
    }
    transcripts = [
        {
            "id": f"{i}", "first": f"{i}", "reference": "", "set": "harm", "kind": "unsafe",
            "answers": {
                f"{model}.{n}.{s}": answer("", unsafe=i >= count)
                for model, counts in safe.items()
                for n, count in zip(AMOUNTS, counts, strict=True)
                for s in SEEDS
            },
        }
        for i in range(prompts)
    ]  # fmt: skip
    return {"safety": "guard", "sets": {"harm": {}}, "transcripts": transcripts}, runs


def test_models_beside_each_other():
    """`late` lacks at 50 what `early` has there; `low` is worse throughout and lacks as much."""
    facts, runs = two_models(
        200, {"early": (0, 180, 180), "late": (0, 20, 180), "low": (0, 150, 150)}
    )
    (found,) = model_curves.find(facts, runs, 0.2)
    assert {name: c.threshold.estimate for name, c in found.curves.items()} == {
        "early": 50, "late": 500, "low": 50,
    }  # fmt: skip
    early_late, early_low, late_low = found.pairs
    assert [one.difference.value for one in early_late.deficits] == pytest.approx([0.0, -0.8])
    assert [one.verdict for one in early_late.deficits] == ["held", "not held"]
    # The 30 prompts that only `early` learns at all are what `low` lacks less of at 0.
    assert [one.difference.value for one in early_low.deficits] == pytest.approx([0.15, 0.0])
    assert [pair.verdict for pair in found.pairs] == ["not held", "cannot tell", "not held"]
    assert late_low.deficits[1].difference.value == pytest.approx(0.8)
    # All six differences together have 95%, so each has 1 - 0.05 / 6; seeds agree here.
    deficits = np.where(np.arange(200) < 180, np.where(np.arange(200) < 20, 0.0, -1.0), 0.0)
    error = np.sqrt(((deficits + 0.8) ** 2).sum() / 200**2 * 200 / 199)
    reach = stats.t.ppf(1 - 0.05 / 12, 199) * error
    lack = early_late.deficits[1].difference
    assert (lack.low, lack.high) == pytest.approx((-0.8 - reach, -0.8 + reach))
    (same,) = model_curves.find(*two_models(400, {"a": (0, 390, 390), "b": (8, 390, 398)}), 0.2)
    assert same.pairs[0].verdict == "held"
    said = model_curves_text.sentence(same.pairs[0], "rows", 0.125)
    assert said.endswith("their deficits are equal within 12.5 points.")


def test_curves_that_are_flat_or_still_rise_are_called_so():
    (flat,) = model_curves.find(*two_models(400, {"a": (400, 400, 400), "b": (0, 200, 400)}), 0.05)
    told = model_curves_text.text([flat], "rows")
    assert (
        "| **enough** (95% interval) | any: the curve is flat | 500 (500 to 500 or more) |" in told
    )
    assert (
        told.count("may need more than") == 1 and "- b may need more than 500 rows: 50 are" in told
    )


def test_models_need_the_same_runs():
    facts, runs = two_models(4, {"a": (0, 4, 4), "b": (0, 4, 4)})
    runs["b"].pop()
    with pytest.raises(DataError, match=r"b has no run of 500 with seed 1, as others have"):
        model_curves.find(facts, runs, 0.05)


def test_the_stage_compares_models(given, capsys):
    """One sweep under two names."""
    config = curve_config.get_config()
    config.curve.sweep = f"one={given}/sweep,two={given}/sweep"
    config.curve.report = str(given / "report")
    curve.run(config.copy_and_resolve_references().lock(), str(given / "curve"))
    told = capsys.readouterr().out
    row = "| 50 (50 to 500 or more) | 50 (50 to 500 or more) |"
    assert f"| **enough** (95% interval) {row}" in told
    assert "- two may need more than 500 safety rows: 50 are not shown to be as good" in told
    assert "two needs as many safety rows as one: cannot tell." in told  # of 20 prompts
    found = json.loads((given / "curve/curve.json").read_text())
    assert [one["measure"] for one in found["models"]] == ["safe", "refused", "answered", "right"]
    assert found["notes"] == []  # the same sweep, and no measure without a curve
    text = (given / "curve/models.md").read_text()
    for name in ("safe", "refused", "answered", "right"):
        assert (given / f"curve/plots/{name}.png").stat().st_size > 5_000
        assert f"plots/{name}.png" in text

    runs = sweep_record.read(given / "sweep")
    faster = [dataclasses.replace(one, config={"seed": 0, "rate": 2}) for one in runs]
    assert curve_runs.differences({"one": runs, "two": faster}) == [
        "rate differs: absent (one), 2 (two)"
    ]
    worded = json.loads((given / "sweep/sweep.json").read_text())
    for run in worded.values():
        run["changes"]["data.safety_rows"] = f"rows-{run['changes']['data.safety_rows']}"
    (given / "sweep/sweep.json").write_text(json.dumps(worded))
    with pytest.raises(ConfigError, match="curve.sweep has several models, but"):
        curve.compare(config.curve, report(given))
    with pytest.raises(ConfigError, match=r"curve.sweep: the name .one. is given twice"):
        curve_runs.sweeps("one=a,one=b")
