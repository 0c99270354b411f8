"""Splits a list of sources in a flag. The command line reads flags before it may import more."""

import re

# The last option of a spec that is a list or a sentence, and what goes on with it behind a comma.
_LAST_OPTION = re.compile(r"[?&](columns|without|attack|turns|asked)=[^&]*\Z", re.DOTALL)
_GOES_ON = {
    "columns": re.compile(r"(?!(?:hf|tfds|gs|s3|https?):)[^/.?:=&]+:"),
    "without": re.compile(r"[^/.?:=]+(?:&|\Z)"),
    **dict.fromkeys(("attack", "turns", "asked"), re.compile("")),
}


def split(text: str) -> list[str]:
    """Splits `a.json?rows=3,b.json` at the commas that separate sources. Those of
    `a.json?columns=x:y,z:w` and `a.json?without=x,y` belong to an option. So do all behind
    `attack=`, `turns=` and `asked=`: only the readers of evaluation sets know where these end."""
    parts: list[str] = []
    for part in text.removesuffix(",").split(","):
        last = _LAST_OPTION.search(parts[-1]) if parts else None
        if last and (kept := _GOES_ON.get(last[1])) and kept.match(part):
            parts[-1] += f",{part}"
        else:
            parts.append(part.strip())
    return parts
