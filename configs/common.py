"""The string behind the colon: `--config=configs/sft.py:safety=500,paper=report`.

It picks the structure of a run; flags such as `--config.optim.learning_rate=5e-5` set its values.
Configs import this file and `ml_collections`, nothing else; what several configs have in common
stands below.
"""

from ml_collections import ConfigDict

Choices = tuple[str, ...]
Spec = bool | int | float | str | type | Choices


def parse_arg(arg: str | None, **spec: Spec) -> ConfigDict:
    """Reads `"demo,safety=500,paper=report"` against a spec of typed defaults.

        parse_arg("demo,safety=500", demo=False, safety=int, paper=("", "report"))
        -> demo: True, safety: 500, paper: ""

    Args:
        arg: the string behind the colon; None and "" mean that all defaults hold.
        **spec: for each name its default, whose type is the type of the value; or a type (None
            unless given); or a tuple of strings, the choices, the first of which is the default.
            A name alone, without `=value`, switches a boolean on.

    Raises:
        ValueError: an unknown name, a name given twice, or a value that does not fit; one line.
    """
    given: dict[str, bool | int | float | str] = {}
    for part in (arg or "").split(","):
        name, equals, text = part.strip().partition("=")
        if not name and not equals and not (arg or "").strip():
            continue
        if name not in spec:
            expected = ", ".join(_describe(known, default) for known, default in spec.items())
            raise ValueError(f"config argument {part.strip()!r} is unknown; expected {expected}")
        if name in given:
            raise ValueError(f"config argument {name!r} is given twice; remove one")
        given[name] = _parse_value(name, text if equals else None, spec[name])
    return ConfigDict({name: given.get(name, _default(spec[name])) for name in spec})


def _default(default: Spec) -> bool | int | float | str | None:
    if isinstance(default, tuple):
        return default[0]
    return None if isinstance(default, type) else default


def _describe(name: str, default: Spec) -> str:
    if isinstance(default, tuple):
        return f"{name}={'|'.join(choice for choice in default if choice)}"
    kind = default if isinstance(default, type) else type(default)
    return name if kind is bool else f"{name}=<{kind.__name__}>"


def _parse_value(name: str, text: str | None, default: Spec) -> bool | int | float | str:
    if isinstance(default, tuple):
        if text in default:
            return text
    else:
        kind = default if isinstance(default, type) else type(default)
        if kind is bool:
            booleans = {None: True, "true": True, "false": False}
            if text in booleans:
                return booleans[text]
        elif text is not None:
            try:
                return kind(text)
            except ValueError:
                pass
    written = name if text is None else f"{name}={text}"
    raise ValueError(
        f"config argument {written!r} does not fit; expected {_describe(name, default)}"
    )


def sequence_judge(path: str, template: str, direction: str) -> ConfigDict:
    """The row of a judge that is a model with a sequence head."""
    judge = ConfigDict()
    judge.kind = "sequence"
    judge.path = path  # a Hugging Face folder or hub id
    judge.tokenizer = ""  # "": the model's own
    judge.template = template  # pair, human_assistant, beaver, chat, response
    judge.output = ""  # the label whose output is the score; "": the only one
    judge.activation = "none"  # sigmoid, softmax
    judge.direction = direction  # higher is safer, more harmful, better, more refusing
    judge.range = ()  # (lowest, highest), where it has one
    judge.threshold = ()  # (number,) that divides safe from unsafe; (): nothing is called unsafe
    judge.max_tokens = 0  # 0: as many as the model was made for
    judge.overlong = "unscored"  # or "cut_prompt": from its left
    judge.append_eos = False  # behind the response, where the tokenizer puts nothing there
    return judge
