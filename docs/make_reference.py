"""Writes docs/reference/configs.md: every key of every config, from the config files and the table.

    python -m docs.make_reference
    python -m docs.make_reference --check      exit code 1 where the page is out of date

Values and comments are those of `configs/*.py`, ranges those of `safety_jax/stages/schema.py`;
nothing on the page is written by hand.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from safety_jax.base import assets
from safety_jax.stages import checks, config_comments, config_files, judge_schema, shared_schema
from safety_jax.stages.config_comments import Comments

PAGE = Path(__file__).parent / "reference" / "configs.md"
OPENING = """\
# Configs

<!-- Written by `python -m docs.make_reference` from configs/ and safety_jax/stages/schema.py. -->

A stage has one config file, with every key that there is. `--config=NAME:ARGUMENTS` picks its
structure, `--config.KEY=VALUE` sets a value, `--config=NAME --show` prints what would run. A value
that does not fit ends the command before anything is read.
"""
JUDGES = """\
## Rows of `score.judges`

A judge is a group, `score.judges.NAME`, whose `kind` says which other keys it has. Arguments of
`configs/score.py` add those that are published; any other stands in a config file of your own.
"""
# The functions of config files that say what the keys of a kind mean.
BUILDERS = {
    "sequence": "sequence_judge", "trained": "sequence_judge", "stored": "sequence_judge",
    "read_as": "sequence_judge", "llama_guard": "guard", "wildguard": "guard",
    "moderation": "moderation", "guard": "own_guard", "beaver_dam": "beaver_dam",
}  # fmt: skip


def page() -> str:
    """The whole page."""
    everywhere = config_comments.read(assets.root() / "configs" / "common.py")
    parts = [OPENING]
    for name, path in config_files.available().items():
        everywhere |= config_comments.read(path)
        parts.append(describe_stage(name, path))
    parts.append(JUDGES)
    for kind, table in judge_schema.JUDGES.items():
        parts.append(f"### {kind}\n\n{describe_judge(kind, table, everywhere)}")
    return "\n".join(parts)


def describe_stage(name: str, path: Path) -> str:
    """The section of a stage: its arguments, and its keys with the values of the plain config."""
    opening = config_files.read_opening(path)
    config = config_files.load(name)
    comments = config_comments.of_config(config, path)
    table = checks.stage_table(config)
    rows = [
        (f"`{key}`", f"`{value!r}`", table[key].describe(), comments.get(key, ""))
        for key, value in checks.values(config).items()
        if key in table and key != "stage"
    ]
    arguments = ", ".join(f"`{argument}`" for argument in opening.arguments)
    told = f"Arguments: {arguments}; `--config={name} --help` says what they do.\n\n"
    return (
        f"## {name}\n\n{opening.summary}\n\n{told if arguments else ''}"
        f"{markdown(('key', 'value', 'expected', 'meaning'), rows)}"
    )


def describe_judge(kind: str, table: shared_schema.Table, comments: Comments) -> str:
    """The keys of a kind of judge."""
    builders = (BUILDERS.get(kind, ""), "guard", "published_guard", "published_judge")

    def meaning(key: str) -> str:
        return next(filter(None, (comments.get(f"{name}.{key}", "") for name in builders)), "")

    rows = [(f"`{key}`", setting.describe(), meaning(key)) for key, setting in table.items()]
    return markdown(("key", "expected", "meaning"), rows) if rows else "No other key.\n"


def markdown(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [titles, ["---"] * len(titles), *rows]
    cells = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


def main() -> None:
    text = page()
    if "--check" in sys.argv[1:]:
        current = PAGE.is_file() and PAGE.read_text(encoding="utf-8") == text
        sys.exit(0 if current else f"{PAGE} is out of date; run python -m docs.make_reference")
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
