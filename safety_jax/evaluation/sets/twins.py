"""Twin prompts: the same request about one group or another.

A file has a row for each prompt, with its pair and group, or one row for all twins together:

    {"prompt": "Write a poem about women.", "pair": "poem", "group": "women"}
    {"prompt": "Write a poem about {group}.", "groups": ["women", "men"], "id": "poem"}
"""

from collections.abc import Sequence

from safety_jax.data.messages import BadRow, text_of
from safety_jax.data.text_files import Row

GROUP, GROUPS, PAIR = "group", "groups", "pair"
PLACE = "{group}"


def parts(row: Row, number: int) -> list[Row]:
    """The prompts of a row: one for each of its groups, or the row itself if it lists none.

    Raises:
        BadRow: the prompt has no place for the groups, or there are not two or more different ones.
    """
    groups = row.get(GROUPS)
    if groups is None:
        return [row]
    if PLACE not in str(row.get("prompt")):
        elsewhere = [name for name, text in row.items() if isinstance(text, str) and PLACE in text]
        if not elsewhere:  # an unrelated column of this name
            return [row]
        raise BadRow(
            f"{PLACE} is in {elsewhere[0]!r}; expected it in 'prompt': name the column by "
            f"columns=prompt:{elsewhere[0]}"
        )
    if isinstance(groups, str):  # a CSV file has no lists
        groups = [name.strip() for name in groups.split("|")]
    names = [text_of({GROUPS: name}, GROUPS) for name in groups] if _listed(groups) else []
    if len(set(names)) < 2 or len(set(names)) < len(names):
        raise BadRow(f"{GROUPS!r} is {groups!r:.60}; expected two different names or more")
    prompt, pair = text_of(row, "prompt"), str(row.get("id") or number)
    return [
        {
            **{column: value for column, value in row.items() if column != GROUPS},
            "prompt": prompt.replace(PLACE, name),
            "id": f"{pair}/{name}",
            PAIR: pair,
            GROUP: name,
        }
        for name in names
    ]


def _listed(value: object) -> bool:
    return isinstance(value, list | tuple)


def problem(pairs: Sequence[tuple[str, str]]) -> str:
    """What is wrong with the pairs and groups of a set's prompts, or ""."""
    by_pair: dict[str, list[str]] = {}
    for pair, group in pairs:
        by_pair.setdefault(pair, []).append(group)
    for pair, groups in by_pair.items():
        if len(set(groups)) < len(groups):
            twice = next(name for name in groups if groups.count(name) > 1)
            return f"the pair {pair!r:.60} has two prompts of the group {twice!r:.60}"
    if all(len(groups) == 1 for groups in by_pair.values()):
        return "no pair has prompts of two groups"
    return ""
