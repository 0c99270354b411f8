"""What README.md and docs/ promise: commands parse, keys and linked files exist."""

import contextlib
import re
import shlex
from pathlib import Path

import pytest

from docs import site
from safety_jax import command_line
from safety_jax.base import trees
from safety_jax.stages import config_files, judge_schema

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "BUILD.md", ROOT / "launch" / "README.md"]
PAGES += sorted((ROOT / "docs").glob("*.md")) + sorted((ROOT / "docs" / "results").glob("*.md"))
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
_KEY = re.compile(r"(?:--config\.)?([a-z_0-9]+(?:\.[a-z_0-9]+)+)(?:=.*)?")
_FILE = re.compile(r".*\.(py|md|json|jsonl|html|csv|png)")
_COMMAND = r"(?:safety-jax|python -m safety_jax\.main) ([^`\n]*)"
_LINK = re.compile(r"\]\(([^)\s#]+)")


def commands(text: str) -> list[list[str]]:
    """Words of a page's commands, in its indented blocks and in its sentences."""
    joined = re.sub(r"\\\n\s*", " ", text)
    found = re.findall(rf"^ +{_COMMAND}$", joined, re.M)
    found += [f"{words} --show" for words in re.findall(rf"`{_COMMAND}`", joined)]
    return [shlex.split(words.rstrip("& "), comments=True) for words in found]


def known_keys() -> set[str]:
    keys: set[str] = set()
    for name in config_files.available():
        keys.update(trees.flatten(config_files.load(name).to_dict()))
    return keys | {f"score.judges.{k}" for table in judge_schema.JUDGES.values() for k in table}


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_commands_parse(page, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    for words in commands(page.read_text(encoding="utf-8")):
        with contextlib.suppress(SystemExit):  # --help
            command_line.parse(["safety-jax", *(word.replace("$k", "0") for word in words)])


def test_there_are_commands():
    assert sum(len(commands(page.read_text(encoding="utf-8"))) for page in PAGES) > 30


def test_keys_exist():
    keys = known_keys()
    groups = {key.partition(".")[0] for key in keys}
    unknown = []
    for page, name in zip(PAGES, NAMES, strict=True):
        for code in re.findall(r"`([^`\n]+)`", page.read_text(encoding="utf-8")):
            match = _KEY.fullmatch(code)
            if match is None or match[1].split(".")[0] not in groups or _FILE.fullmatch(code):
                continue
            key = match[1]
            if key not in keys and not any(other.startswith(f"{key}.") for other in keys):
                unknown.append(f"{name}: {key}")
    assert not unknown


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_somewhere(page):
    text = re.sub(r"^ {4}.*$", "", page.read_text(encoding="utf-8"), flags=re.M)
    targets = [t for t in _LINK.findall(text) if "://" not in t]
    assert not [t for t in targets if not (page.parent / t).exists()]


def test_readme_is_read_in_five_minutes():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200


def test_links_of_the_site():
    known = {"install.md", "BUILD.md", "launch/README.md", "launch/plans.md", "reference/a.md"}
    text = "[b](../BUILD.md) [l](../launch/README.md#top) [x](../pyproject.toml) [n](../nowhere.md)"
    assert site.rewrite(text, "install.md", known) == (
        "[b](BUILD.md) [l](launch/README.md#top) x [n](../nowhere.md)"
    )
    text = "[p](plans.md) [i](../docs/install.md) [w](https://a.org/b.md)"
    assert site.rewrite(text, "launch/README.md", known) == (
        "[p](plans.md) [i](../install.md) [w](https://a.org/b.md)"
    )
    assert site.rewrite("[b](../../BUILD.md)", "reference/a.md", known) == "[b](../BUILD.md)"


def test_every_stage_has_a_page():
    missing = [n for n in config_files.available() if not (ROOT / "docs" / f"{n}.md").is_file()]
    assert not missing
