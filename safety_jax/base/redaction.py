"""Removes secrets from text: of a URL, only host and path are shown.

A signed URL has its permission in the query, and some servers accept `user:password@` before the
host. Neither may reach a card, a log, an error line or a file of the run.
"""

import re

HIDDEN = "***"
# Our own options after the last question mark of a source's spec, see data/source_spec.py.
OPTIONS = (
    "rows", "weight", "format", "columns", "without", "name", "bad_rows", "broken_text", "sha256",
    "form", "only", "prompts", "as", "attack", "kind", "licence", "set", "twin",
    "turns", "read", "asked",
)  # fmt: skip
_URL = re.compile(
    r"""(?P<scheme>\b[a-z][a-z0-9+.-]*://)
    (?P<user>
        [^\s/?\#]*@                                  # user:password@
        | [^\s/?\#@\[\]:]+:(?!\d*(?:[/?\#]|$))\S*@   # the same, with a slash in the password
    )?
    (?P<place>[^\s?\#'"]*)
    (?P<query>[?\#]\S*?(?=[:;,.)\]}'"`]*(?:\s|$)))?""",
    re.IGNORECASE | re.VERBOSE,
)


def public(text: str) -> str:
    """The text with `***` for user, password, query and fragment of every URL in it; only `OPTIONS`
    at the end of a URL are kept."""
    return _URL.sub(_hidden, text) if "://" in text else text


def _hidden(found: re.Match[str]) -> str:
    user = f"{HIDDEN}@" if found["user"] else ""
    query, last, options = (found["query"] or "").rpartition("?")
    if not all(item.partition("=")[0] in OPTIONS for item in options.split("&")):
        query, last, options = f"{query}{last}{options}", "", ""
    hidden = f"{query[0]}{HIDDEN}" if len(query) > 1 else ""
    return f"{found['scheme']}{user}{found['place']}{hidden}{last}{options}"
