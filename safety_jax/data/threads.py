"""Trees of messages, as OpenAssistant collected them (Köpf et al., arXiv 2304.07327):
questions with several answers each, ranked by people.

    message_id  parent_id  role       text             rank
    1                      prompter   Name a bird.
    2           1          assistant  A robin.         0
    3           1          assistant  Bird.            1
    4           2          prompter   And a fish?      0

A tree becomes one dialogue: from its root, the best ranked reply at every step, up to the last
answer. Messages that were deleted or refused by reviewers do not count, nor do replies to them.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from safety_jax.data.labels import as_flag
from safety_jax.data.messages import BadRow, text_of

COLUMNS = ("message_id", "parent_id", "role", "text")
_LONGEST = 1_000  # messages on a path; no dialogue has as many


def fits(row: Mapping[str, Any]) -> bool:
    """Whether the rows of a source are single messages of trees."""
    return set(COLUMNS) <= set(row)


def dialogues(
    rows: Sequence[Mapping[str, Any]], where: Sequence[str]
) -> list[tuple[str, Mapping[str, Any]]]:
    """A row for each tree, with its root in the column `prompt`; its place is that of the root.

    A message whose parent is not among the rows belongs to no tree.
    """
    nodes: dict[str, dict[str, Any]] = {}
    for row in rows:
        nodes[str(row.get("message_id"))] = {**row, "replies": []}
    roots: list[tuple[str, Mapping[str, Any]]] = []
    for row, place in zip(rows, where, strict=True):
        node = nodes[str(row.get("message_id"))]
        if row.get("parent_id") in (None, ""):
            roots.append((place, {"message_tree_id": row.get("message_id"), "prompt": node}))
        elif (parent := nodes.get(str(row["parent_id"]))) is not None:
            parent["replies"].append(node)
    return roots


def best_path(root: Any) -> list[tuple[str, str]]:
    """Roles and texts along the best replies from the root of a tree to the last answer.

    Raises:
        BadRow: the root is not a message, or has no answer.
    """
    path: list[tuple[str, str]] = []
    found = [root] if isinstance(root, Mapping) and _counts(root) else []
    while found and len(path) < _LONGEST:
        node = min(found, key=_rank)
        path.append((_role(node), text_of(node, "text")))
        replies = node.get("replies")
        found = [
            reply
            for reply in (replies if isinstance(replies, list) else [])
            if isinstance(reply, Mapping) and _counts(reply)
        ]
    while path and path[-1][0] != "assistant":
        path.pop()
    if not path:
        raise BadRow("no answer in the tree that was not deleted; expected replies")
    return path


def _role(node: Mapping[str, Any]) -> str:
    role = node.get("role")
    if role not in ("prompter", "assistant"):
        raise BadRow(f"'role' is {role!r:.40}; expected prompter or assistant")
    return "user" if role == "prompter" else "assistant"


def _rank(node: Mapping[str, Any]) -> float:
    """A key for sorting: 0 is the best; unranked messages come last, in the order of the file."""
    rank = node.get("rank")
    try:
        # A CSV file has no numbers.
        found = math.nan if rank is None or isinstance(rank, bool) else float(rank)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    return found if math.isfinite(found) else 1e9


def _counts(node: Mapping[str, Any]) -> bool:
    deleted, accepted = (as_flag(node.get(name)) for name in ("deleted", "review_result"))
    return deleted is not True and accepted is not False
