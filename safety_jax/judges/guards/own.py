"""Any other guard, defined by its config entry: a form, the beginning of its answer, and the values
of its labels.

    form      "chat", the chat template of its folder; or "file:PATH", a text with {prompt} and
              {response}, such as in its model card
    begin     the beginning of its answer, up to the label: 'Verdict:'
    labels    their values: {"OK": 0.0, "borderline": 0.5, "violation": 1.0}
"""

import hashlib
import json
from typing import Any

from safety_jax.base import files
from safety_jax.base.errors import ConfigError
from safety_jax.judges.guards.forms import ChatForm, Form, TextForm
from safety_jax.judges.guards.guard import Design, Interview, Question, expected
from safety_jax.judges.guards.reading import spelled
from safety_jax.judges.guards.specs import GuardKind
from safety_jax.judges.planned import Spec

_FILE = "file:"
_MOST_BYTES = 1 << 20


def _form(key: str, spec: Spec) -> tuple[Form, str]:
    """The form, and its name for the card."""
    form, given = spec["form"], spec["variables"]
    if form == "chat":
        try:
            variables: Any = json.loads(given or "{}")
        except ValueError as error:
            raise ConfigError(f"{key}.variables is no JSON ({error})") from error
        if not isinstance(variables, dict):
            raise ConfigError(f"{key}.variables is {given!r:.60}; expected a JSON object")
        return ChatForm(variables=json.dumps(variables)), "the guard's chat template"
    if not form.startswith(_FILE):
        raise ConfigError(f"{key}.form is {form!r:.60}; expected chat, or file:PATH")
    path = files.expand(form.removeprefix(_FILE))
    try:
        content = files.read_bytes(path, _MOST_BYTES)
        text = content.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{key}.form: {path} cannot be read ({error})") from error
    return TextForm(text), f"text, sha256 {hashlib.sha256(content).hexdigest()[:16]}"


def _design(judge: str, spec: Spec) -> Design:
    key = f"score.judges.{judge}"
    labels = sorted(dict(spec["labels"]).items(), key=lambda item: item[1])
    worth = {label: float(value) for label, value in labels}
    if len(worth) < 2:
        raise ConfigError(f"{key}.labels names {len(worth)}; expected two or more")
    form, template = _form(key, spec)
    question = Question("verdict", spelled(*worth), spec["begin"])
    return Design(
        template=template,
        interviews=(Interview(form, (question,)),),
        rule=expected("verdict", worth),
        direction=spec["direction"],
        settings={key: spec[key] for key in ("begin", "variables")} | {"labels": worth},
        low=min(worth.values()),
        high=max(worth.values()),
    )


KIND = GuardKind(("form", "begin", "labels", "variables", "direction"), _design)
