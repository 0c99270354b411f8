"""Removes secrets from text: of a URL, only host and path are shown.

A signed URL has its permission in the query, and some servers accept `user:password@` before the
host. Neither may reach a card, a log, an error line or a file of the run, nor may an access token
that is known by its form.
"""

import re

HIDDEN = "***"
# Our own options after the last question mark of a source's spec, see data/source_spec.py.
OPTIONS = (
    "rows", "weight", "times", "format", "columns", "without", "name", "bad_rows", "broken_text",
    "sha256", "form", "only", "prompts", "as", "attack", "kind", "licence", "set", "twin",
    "turns", "read", "asked",
)  # fmt: skip
_URL = re.compile(
    r"""(?P<scheme>\b[a-z][a-z0-9+.-]*://)
    (?P<user>
        [^\s/?\#]*@                                  # user:password@
        | [^\s/?\#@\[\]:]+:(?!\d*(?:[/?\#]|$))\S*@   # the same, with a slash in the password
    )?
    (?P<place>(?:
        (?![a-z][a-z0-9+.-]{0,30}://)                # the next URL of a list
        (?:[^\s?\#'";]|['"](?=[\w./%-])|;(?!\w+=))
    )*)
    (?P<query>[?\#;]\S*?(?=[:;,.)\]}'"`]*(?:\s|$)))?""",
    re.IGNORECASE | re.VERBOSE,
)
# Tokens of Hugging Face, GitHub, GitLab, OpenAI and its like, Slack, AWS; JSON Web Tokens.
_TOKEN = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{30,}|gh[oprsu]_[A-Za-z0-9]{30,}|github_pat_\w{30,}|glpat-[\w-]{20,}"
    r"|sk-[\w-]{30,}|xox[a-z]-[\w-]{20,}|A[KS]IA[A-Z0-9]{16}"
    r"|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]{10,})"
)


def public(text: str) -> str:
    """The text with `***` for user, password, query and fragment of every URL in it, and for access
    tokens; only `OPTIONS` at the end of a URL are kept."""
    text = _URL.sub(_hidden, text) if "://" in text else text
    return _TOKEN.sub(HIDDEN, text)


def _hidden(found: re.Match[str]) -> str:
    user = f"{HIDDEN}@" if found["user"] else ""
    query, last, options = (found["query"] or "").rpartition("?")
    if not all(item.partition("=")[0] in OPTIONS for item in options.split("&")):
        query, last, options = f"{query}{last}{options}", "", ""
    hidden = f"{query[0]}{HIDDEN}" if len(query) > 1 else ""
    # The value of an option may be followed by the next URL of a list.
    return f"{found['scheme']}{user}{found['place']}{hidden}{last}{public(options)}"
