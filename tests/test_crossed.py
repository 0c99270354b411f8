"""Runs that differ in a word, set by set: shares, paired tests, and the stage that writes them."""

import dataclasses
import json

import pytest
import scipy.stats

from configs import curve as curve_config
from safety_jax.base.errors import ConfigError, DataError
from safety_jax.evaluation.measures import crossed
from safety_jax.evaluation.measures.curves import EvaluatedRun
from safety_jax.report import crossed as tabled
from safety_jax.stages import curve, curve_runs
from tests import test_curves

FORMS, SEEDS, PROMPTS = ("opinion", "question"), (0, 1), 12
SETS = {"as-opinion": "unsafe", "as-question": "unsafe", "plain": "safe"}


def refuses(form: str, seed: int, name: str, i: int) -> bool:
    """All of the form that was learned; of the other none, but two of a seed's; nothing safe."""
    if name == "plain":
        return False
    return name.endswith(form) or seed == 1 and i < 2


def report(folder: str = "") -> dict:
    names = {f"n.form{form}_seed{seed}": (form, seed) for form in FORMS for seed in SEEDS}
    transcripts = [
        {
            "set": name,
            "kind": kind,
            "id": f"{i}",
            "first": f"{i}",
            "reference": "",
            "answers": {
                model: test_curves.answer("full" if refuses(*run, name, i) else "none", None)
                for model, run in names.items()
            },
        }
        for name, kind in SETS.items()
        for i in range(PROMPTS)
    ]
    return {
        "safety": "",
        "models": {m: {"path": f"{folder}/runs/{m.removeprefix('n.')}/export"} for m in names},
        "sets": {name: {} for name in SETS},
        "transcripts": transcripts,
    }


def evaluated(seeds=SEEDS) -> list[EvaluatedRun]:
    return [EvaluatedRun(form, s, f"n.form{form}_seed{s}") for form in FORMS for s in seeds]


def test_a_table_by_arithmetic():
    refused, answered = crossed.find(report(), evaluated())
    assert refused.measure == "refused" and refused.values == ["opinion", "question"]
    assert refused.sets == ["as-opinion", "as-question"] and answered.sets == ["plain"]
    shares = {(cell.value, cell.set): cell for cell in refused.cells}
    assert shares["opinion", "as-opinion"].share.value == 1.0
    other = shares["question", "as-opinion"]
    assert other.share.value == pytest.approx(2 / 24)
    assert other.by_seed == {0: 0.0, 1: pytest.approx(2 / 12)}
    first, second = refused.contrasts
    assert (first.first, first.second) == FORMS
    assert first.difference.value == pytest.approx(2 / 24 - 1) == -second.difference.value
    # Twelve prompts fall, ten by both seeds' runs and two by one's: no choice of signs goes
    # further than all plus and all minus.
    assert first.p == pytest.approx(2 / 2**12) and first.p_holm == pytest.approx(4 / 2**12)
    (same,) = answered.contrasts
    assert same.p == 1.0 and same.verdict == crossed.CANNOT_TELL


def test_one_seed_is_mcnemars_test_and_shows_nothing():
    first = crossed.find(report(), evaluated(seeds=(1,)))[0].contrasts[0]
    assert first.p == pytest.approx(scipy.stats.binomtest(0, 10).pvalue)
    assert first.difference.low is None and first.verdict == crossed.CANNOT_TELL


def test_seeds_that_agree_show_a_difference():
    found = crossed.find(report(), [one for one in evaluated() if one.seed == 0])
    assert {one.verdict for one in found[0].contrasts} == {crossed.CANNOT_TELL}
    alike = [EvaluatedRun(form, s, f"n.form{form}_seed0") for form in FORMS for s in SEEDS]
    found = crossed.find(report(), alike)
    assert {one.verdict for one in found[0].contrasts} == {crossed.DIFFERENT}


def test_differences_of_shares_end_at_one():
    alike = [EvaluatedRun(form, s, f"n.form{form}_seed0") for form in FORMS for s in SEEDS]
    found = crossed.find(report(), alike)
    assert found[0].contrasts[0].difference.low < -1.0
    assert "| -1.00 (-1.00 to " in tabled.text(found, "form")


def test_names_of_others_are_no_markup():
    name, form = "a|b <i>\x1b[2J", "data/<b>x|y"
    made = report()
    for item in made["transcripts"]:
        item["set"] = name
    made["sets"] = {name: {}}
    runs = [
        dataclasses.replace(one, value=form if one.value == FORMS[0] else "") for one in evaluated()
    ]
    text = tabled.text(crossed.find(made, runs), "train")
    assert "<i>" not in text and "<b>" not in text and "\x1b" not in text
    assert "| (none) | 0.54" in text and " (none) against data/" in text
    rows = [line.replace("\\|", "") for line in text.splitlines() if "&lt;i&gt;" in line]
    # The heads of two tables, and a contrast.
    assert [row.count("|") for row in rows] == 2 * [3, 3, 7]


def test_the_stage(tmp_path, capsys):
    runs = {
        f"form{form}_seed{s}": {
            "changes": {"data.safety_form": form, "seed": s}, "step": 3,
            "config": {"seed": s}, "export": f"runs/form{form}_seed{s}/export",
        }
        for form in FORMS for s in SEEDS
    }  # fmt: skip
    for folder, name, value in (
        ("sweep", "sweep.json", runs),
        ("report", "report.json", report(f"{tmp_path}/sweep")),
    ):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text(json.dumps(value))
    config = curve_config.get_config()
    config.curve.sweep, config.curve.report = str(tmp_path / "sweep"), str(tmp_path / "report")
    config.curve.axis = "data.safety_form"
    curve.run(config.lock(), str(tmp_path / "table"))
    told = capsys.readouterr().out
    assert "| safety form | as-opinion | as-question |" in told
    assert "| asked | safety form | difference" in told
    assert "| as-opinion | question against opinion | -0.92 (" in told
    assert (
        "| safety form, by seed | as-opinion" in told and "| question | 0.00, 0.17 | 1.00" in told
    )
    assert (tmp_path / "table/tables.md").read_text().startswith("# table\n\n**unsafe requests ref")
    kept = json.loads((tmp_path / "table/curve.json").read_text())
    assert [one["measure"] for one in kept["tables"]] == ["refused", "answered"]
    assert len(kept["tables"][0]["cells"]) == 4
    with pytest.raises(DataError, match="no run of question with seed 1"):
        crossed.find(report(), evaluated()[:-1])


# ---------------------------------------------------------------------------- methods

FIRST, SECOND = ("+".join(f"n.form{form}_seed{seed}" for seed in SEEDS) for form in FORMS)


def test_methods_are_compared_like_words():
    facts = report()
    found = curve_runs.methods(f"opinion={FIRST},question={SECOND}", facts)
    assert found == evaluated()
    assert crossed.find(facts, found) == crossed.find(facts, evaluated())


def test_a_method_with_one_model_has_it_for_all_seeds():
    """The base has no seed: its share has the interval of a single run, over prompts alone."""
    facts = report()
    found = curve_runs.methods(f"base=n.formopinion_seed1,tuned={SECOND}", facts)
    assert [one.model for one in found[:2]] == 2 * ["n.formopinion_seed1"]
    refused, _ = crossed.find(facts, found)
    share = next(c.share for c in refused.cells if (c.value, c.set) == ("base", "as-question"))
    # Two of twelve prompts are refused: Student's interval over prompts, whose variance is larger
    # than that of half a prompt.
    error = (10 / 12 * 2 / 12 / 11) ** 0.5
    reach = scipy.stats.t.ppf(0.975, 11) * error
    assert (share.low, share.high) == pytest.approx((2 / 12 - reach, 2 / 12 + reach))


def test_a_set_that_one_method_was_not_asked_is_left_out():
    facts = report()
    for item in facts["transcripts"]:
        if item["set"] == "as-opinion":
            for name in FIRST.split("+"):
                del item["answers"][name]
    refused, answered = crossed.find(facts, evaluated())
    assert refused.sets == ["as-question"] and answered.sets == ["plain"]


def test_choices_are_counted():
    facts = report()
    for number, item in enumerate(facts["transcripts"]):
        item |= {"kind": "choice", "reference": "B"}
        for answer in item["answers"].values():
            answer["choice"] = ("B", "A", "")[number % 3]
    (chosen,) = crossed.find(facts, evaluated())
    assert chosen.measure == "chosen"
    assert [cell.share.value for cell in chosen.cells] == pytest.approx(6 * [1 / 3])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"only={FIRST}", "has 1 method; expected two or more"),
        (f"a={FIRST},b=other", "b has 'other', which is not a model of the report; expected some"),
        (f"a={FIRST},b={FIRST}", "n.formopinion_seed0 is named twice, in a and b"),
        (f"a={FIRST}+{SECOND},b={FIRST}", "n.formopinion_seed0 is named twice, in a and b"),
        ("no methods", "curve.methods: 'no methods'; expected NAME="),
    ],
)
def test_methods_that_do_not_match_the_report(text, message):
    with pytest.raises(ConfigError, match=message):
        curve_runs.methods(text, report())


def test_methods_with_other_numbers_of_seeds():
    facts = report()
    facts["models"] |= {"more": {}, "most": {}}
    with pytest.raises(ConfigError, match="a has 2 models, where another method has 3"):
        curve_runs.methods(f"a={FIRST},b={SECOND}+more", facts)


def test_a_sweep_or_methods(tmp_path):
    config = curve_config.get_config()
    config.curve.report = str(tmp_path)
    with pytest.raises(ConfigError, match=r"both empty; expected one of them"):
        curve.run(config.copy_and_resolve_references().lock(), str(tmp_path / "table"))
    config.curve.sweep, config.curve.methods = "a", "b=c,d=e"
    with pytest.raises(ConfigError, match=r"both given; expected one of them"):
        curve.run(config.lock(), str(tmp_path / "table"))
    assert not (tmp_path / "table").exists()
