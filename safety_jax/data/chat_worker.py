"""The process that runs chat templates: a script that reads requests and writes texts.

A chat template is a program that comes with a model. Jinja's sandbox keeps it from the machine, but
stops neither endless loops nor endless strings. In this process, processor time and memory are
limited; when they are used up, the system ends this process, not the run. It writes no files. It
imports only Jinja, so that it starts in a tenth of a second.

One JSON value a line, see `chat_process.py`:

    {"load": SOURCE}                           -> {"sought": [...], "fields": [...]}
    {"template": SOURCE, "jobs": [JOB, ...]}   -> {"text": ..., "dated": true} for each job
    JOB: {"date": "2024-07-26", "marks": [BEGIN, END], "variables": {...}}

Instead of an answer it may write {"fault": WHY}, or {"spent": WHY} if nobody should use this
template again.
"""

import contextlib
import datetime
import functools
import json
import random
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.runtime
import jinja2.sandbox
import jinja2.utils

# Processor seconds for one text, and for each further text; real ones take a millisecond.
CPU_SECONDS, CPU_SECONDS_EACH = 4.0, 0.05
MEMORY_BYTES = 1 << 30
MAX_CHARACTERS = 1 << 24  # of one text

# Methods and filters that look for a string in another, or split or cut at it.
_SEEKING = {
    *("split", "rsplit", "partition", "rpartition", "startswith", "endswith", "removeprefix"),
    *("removesuffix", "replace", "find", "rfind", "index", "rindex", "count"),
}


class Generation(jinja2.ext.Extension):
    """`{% generation %} ... {% endgeneration %}`, with which templates mark the model's text."""

    tags = {"generation"}

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("_marked")
        return jinja2.nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _marked(self, caller: Callable[[], str]) -> str:
        begin, end = self.environment.marks  # type: ignore[attr-defined]
        return f"{begin}{caller()}{end}"


class Namespace(jinja2.utils.Namespace):
    """Jinja's namespace, without names that lead into the interpreter."""

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise jinja2.sandbox.SecurityError(f"the name {name!r} begins with an underscore")
        super().__setitem__(name, value)


class ChatEnvironment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """The Jinja environment that chat templates expect, as in transformers.

    Attributes:
        date: the day, for templates that ask for the time.
        marks: texts to put around `{% generation %}` blocks.
        dated: a template has asked for the time.
    """

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
        )
        self.date, self.marks, self.dated = datetime.date.min, ("", ""), False
        self.filters["tojson"] = tojson
        self.globals |= {
            "raise_exception": refuse,
            "strftime_now": self.strftime,
            "namespace": Namespace,
        }

    def strftime(self, form: str) -> str:
        self.dated = True
        return datetime.datetime.combine(self.date, datetime.time()).strftime(form)


def tojson(value: Any, ensure_ascii: bool = False, **settings: Any) -> str:
    """JSON without the escapes that Jinja adds for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, **settings)


def refuse(message: str) -> None:
    """The function `raise_exception` of templates."""
    raise jinja2.TemplateError(message)


def shown(template: jinja2.nodes.Template) -> dict[str, Any]:
    """What the source of a template tells about it, see `chat_process.Reading`."""
    fields = {got.attr for got in template.find_all(jinja2.nodes.Getattr)}
    for item in template.find_all(jinja2.nodes.Getitem):
        fields |= _strings(item.arg, {})
    for called in template.find_all(jinja2.nodes.Call):
        if isinstance(called.node, jinja2.nodes.Getattr) and called.node.attr == "get":
            fields = fields.union(*(_strings(argument, {}) for argument in called.args))
    looked_for = sought(template)
    return {"sought": sorted(looked_for), "fields": sorted({*fields, *looked_for})}


def sought(template: jinja2.nodes.Template) -> set[str]:
    """The strings that a template looks for in messages."""
    named: dict[str, set[str]] = {}
    for assigned in template.find_all(jinja2.nodes.Assign):
        if isinstance(assigned.target, jinja2.nodes.Name):
            named.setdefault(assigned.target.name, set()).update(_strings(assigned.node, {}))
    found: set[str] = set()
    for compared in template.find_all(jinja2.nodes.Compare):
        if any(operand.op in ("in", "notin") for operand in compared.ops):
            found |= _strings(compared.expr, named)
    for called in template.find_all(jinja2.nodes.Call):
        if isinstance(called.node, jinja2.nodes.Getattr) and called.node.attr in _SEEKING:
            found.update(*(_strings(argument, named) for argument in called.args))
    for filtered in template.find_all(jinja2.nodes.Filter):
        if filtered.name in _SEEKING:
            found.update(*(_strings(argument, named) for argument in filtered.args))
    return found - {""}


def _strings(node: jinja2.nodes.Node, named: dict[str, set[str]]) -> set[str]:
    if isinstance(node, jinja2.nodes.Const):
        return {node.value} if isinstance(node.value, str) else set()
    if isinstance(node, jinja2.nodes.Name):
        return named.get(node.name, set())
    if isinstance(node, jinja2.nodes.Tuple | jinja2.nodes.List):
        return set().union(*(_strings(item, named) for item in node.items))
    return set()


# ---------------------------------------------------------------------------- requests


class Worker:
    """Answers requests, and counts what they cost."""

    def __init__(self) -> None:
        self._environment = ChatEnvironment()
        self._compiled = functools.lru_cache(maxsize=16)(self._environment.from_string)
        self._calls = 0

    def answers(self, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The answers to a request, line by line."""
        if "load" in request:
            source = request["load"]
            yield self._guarded(lambda: shown(self._environment.parse(source)))
            return
        for job in request["jobs"]:
            self._environment.date = datetime.date.fromisoformat(job["date"])
            self._environment.marks, self._environment.dated = tuple(job["marks"]), False
            yield self._guarded(
                functools.partial(self._render, request["template"], job["variables"])
            )

    def _render(self, source: str, variables: dict[str, Any]) -> dict[str, Any]:
        random.seed(0)  # some of Jinja's filters are random
        text = self._compiled(source).render(**variables)
        if len(text) > MAX_CHARACTERS:
            return {"spent": f"it writes {len(text):,} characters"}
        return {"text": text, "dated": self._environment.dated}

    def _guarded(self, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The result of `make`, or what went wrong, in words."""
        self._calls += 1
        left = CPU_SECONDS + CPU_SECONDS_EACH * self._calls - time.process_time()
        # Nobody catches this signal, so the system ends the process, whatever it is doing.
        signal.setitimer(signal.ITIMER_PROF, min(max(left, CPU_SECONDS_EACH), CPU_SECONDS))
        try:
            return make()
        except jinja2.TemplateSyntaxError as error:
            return {"fault": f"line {error.lineno}: {error.message}"}
        except jinja2.TemplateError as error:
            return {"fault": str(error) or type(error).__name__}
        except MemoryError:
            return {"spent": f"it needs more than {MEMORY_BYTES >> 20} MB"}
        except Exception as error:  # a template can raise whatever Python can
            return {"fault": f"{type(error).__name__}: {error!s:.200}".removesuffix(": ")}
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0.0)


def confine() -> None:
    """Takes abilities from this process that no template needs."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that asks handles it
    for kind, limit in (
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),  # it writes no file
    ):
        with contextlib.suppress(ValueError, OSError):  # a system may not know it, or allow less
            resource.setrlimit(kind, (limit, limit))


def main() -> None:
    worker = Worker()
    confine()
    for line in sys.stdin.buffer:
        for answer in worker.answers(json.loads(line)):
            sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n")
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
