"""The files of an evaluation's report, and its tables for the terminal: whole, and harmless."""

import dataclasses
import json
import re

import pytest
from huggingface_hub.repocard_data import model_index_to_eval_results
from matplotlib.image import imread

from safety_jax.evaluation.results.estimates import Estimate
from safety_jax.report import evaluation
from safety_jax.report.evaluation import model_index, page, plots
from tests.report_samples import nothing
from tests.test_evaluation_report import report, spoilt  # noqa: F401


@pytest.mark.parametrize("name", ["small", "hostile", "nothing"])
def test_json_comes_back_as_it_was(request, name):
    fixtures = {"small": "report", "hostile": "spoilt"}
    found = request.getfixturevalue(fixtures[name]) if name in fixtures else nothing()
    text = evaluation.as_json(found)
    assert text.isascii()
    assert json.loads(text) == _lists(dataclasses.asdict(found))


def _lists(value):
    if isinstance(value, dict):
        return {key: _lists(one) for key, one in value.items()}
    return [_lists(one) for one in value] if isinstance(value, list | tuple) else value


def test_json_refuses_what_is_not_finite(report):  # noqa: F811
    broken = dataclasses.replace(
        report, derived={"base": {"gap": Estimate(float("nan"), 0.0, 1.0, 1)}}
    )
    with pytest.raises(ValueError, match="Out of range"):
        evaluation.as_json(broken)


@pytest.fixture(scope="module")
def written(tmp_path_factory, report, spoilt):  # noqa: F811
    folder = tmp_path_factory.mktemp("reports")
    for name, found in (("small", report), ("hostile", spoilt), ("nothing", nothing())):
        evaluation.write(found, folder / name)
    return folder


def test_all_files_are_written(written):
    for folder in written.iterdir():
        names = {path.name for path in folder.rglob("*.*")}
        assert {"report.html", "report.json", "report.md"} <= names
        assert not any(name.endswith(".part") for name in names)
        for plot in (folder / "plots").glob("*.png"):
            assert imread(plot).std() > 0.01
            assert f"](plots/{plot.name})" in (folder / "report.md").read_text("utf-8")
    assert len(list((written / "small" / "plots").iterdir())) == 5


def test_no_two_of_many_models_look_alike():
    assert len({plots.look(place) for place in range(64)}) == 64
    assert len(plots.COLOURS) == len(plots.SHAPES) == page.COLOURS


def test_markdown_tables_are_whole(written):
    lines = (written / "small" / "report.md").read_text("utf-8").splitlines()
    heads = [i for i, line in enumerate(lines) if line.startswith("| ---")]
    for i in heads:
        columns = {len(re.findall(r"(?<!\\)\|", line)) for line in lines[i - 1 : i + 2]}
        assert len(columns) == 1


def test_markdown_shows_no_markup_of_others(written):
    text = (written / "hostile" / "report.md").read_text("utf-8")
    assert "<script" not in text and "<img" not in text and "\u202e" not in text
    assert not re.search(r"(?<!\\)\]\((java|http)", text)


def test_the_hub_reads_the_front_matter(report):  # noqa: F811
    for model, entry in model_index.entries(report).items():
        name, results = model_index_to_eval_results(entry["model-index"])
        assert name == model
        safe = next(
            r for r in results if (r.dataset_name, r.metric_type) == ("I-CoNa", "safe_share")
        )
        rate_of = report.row(model, "I-CoNa").judged["guard"].safe
        assert safe.metric_value == round(rate_of.value, 4)


def test_the_terminal_shows_sets_by_models(report, spoilt):  # noqa: F811
    text = evaluation.tables(report)
    head = text.splitlines()[0].split()
    assert head == ["base", "sit-100", "sit-2000", "dpo"]
    assert "p, Holm" in text and "Not compared" in text and "note: " in text
    assert not re.search("[\x00-\x08\x0b-\x1f\u202e]", evaluation.tables(spoilt))
