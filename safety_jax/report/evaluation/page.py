"""`report.html`: one file that needs no network and runs nothing but its own script.

Its content policy names the hashes of the one style and the one script, and forbids everything
else. Texts are escaped, or JSON that a script cannot fall out of.
"""

import base64
import hashlib
import importlib.resources
from typing import Any

import jinja2
from markupsafe import Markup

from safety_jax.evaluation.results.comparisons import Comparison
from safety_jax.evaluation.results.report import Report
from safety_jax.evaluation.results.transcripts import Transcript
from safety_jax.report.evaluation import (
    attack_maps,
    attacked,
    best_of,
    cells,
    comparing,
    conversations,
    details,
    escaping,
    forests,
    grouped,
    harm,
    plane,
    protocol,
    sentence,
    summary,
    tradeoff,
    transcripts,
    words,
)

SCRIPTS = ("text", "store", "filter", "list", "detail", "browser")  # in this order
STYLES = ("page", "charts", "browser")
LISTED = 60  # prompts of a comparison's fixed or broken items that the page lists by itself
PROMPT = 280  # characters of each
# Colours of models, and as many shapes, in charts.css and parts.html; each further round of colours
# begins with the next shape.
COLOURS = 8


def render(report: Report) -> str:
    """The whole page; well-formed UTF-8, whatever models wrote."""
    style = "\n".join(file(f"{name}.css") for name in STYLES)
    script = "\n".join(file(f"{name}.js") for name in SCRIPTS)
    template = environment().get_template("page.html")
    return template.render(
        report=report,
        style=Markup(style),
        script=Markup(script),
        policy=policy(style, script),
        models=words.models(report),
        colours=COLOURS,
        sentence=sentence.sentence(report),
        summary=summary.summary(report),
        forests=[f for f in (forests.safe(report), forests.over_refusal(report)) if f],
        trade_offs=[plane.place(found) for found in tradeoff.trade_offs(report)],
        refusal=details.refusals(report),
        types=forests.types(report),
        makeup=harm.makeup(report),
        harm=harm.harm(report),
        attacks=_there(attacked.overview(report)),
        attack_maps=attack_maps.maps(report),
        attack_details=_there(best_of.best_of(report), attacked.changes(report)),
        conversations=conversations.conversations(report),
        groups=grouped.groups(report),
        changes=forests.changes(report),
        comparisons=comparing.comparisons(report),
        refused=comparing.refused(report),
        turned=turned(report),
        derived=details.derived(report),
        help=_there(
            comparing.preferred(report),
            details.choices(report),
            details.groups(report),
            details.overlap(report),
        ),
        health=_there(details.degenerate(report)),
        judges=_there(details.judged(report), comparing.agreement(report)),
        people=_there(comparing.quality(report), comparing.corrected(report)),
        protocol=protocol.tables(report),
        index=escaping.json_for_script(transcripts.index(report)),
        pieces=(escaping.json_for_script(piece) for piece in transcripts.pieces(report)),
    )


def policy(style: str, script: str) -> str:
    """The content policy: these two may be used, and nothing may be fetched, framed or sent."""
    return (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; "
        "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; "
        "trusted-types 'none'"
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def file(name: str) -> str:
    """A template, style or script of pages."""
    return (importlib.resources.files(__package__) / "page" / name).read_text(encoding="utf-8")


def environment() -> jinja2.Environment:
    """Every string that a template prints is escaped, and what is invisible in it is marked."""
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(file),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"attribute": escaping.line, "percent": _percent}
    return environment


def _shown(value: Any) -> Any:
    return (
        escaping.visible(value)
        if isinstance(value, str) and not isinstance(value, Markup)
        else value
    )


def _percent(share: float) -> str:
    """A place on a chart; what lies outside ends at its edge."""
    return f"{100 * min(max(share, 0.0), 1.0):.2f}%"


def _there(*found: cells.Table | None) -> list[cells.Table]:
    return [table for table in found if table is not None]


# ---------------------------------------------------------------------------- paired changes


def turned(report: Report) -> list[dict[str, Any]]:
    """What each comparison of shares found fixed and broken, with prompts."""
    items = {(item.set, item.id): (number, item) for number, item in enumerate(report.transcripts)}
    return [
        {
            "comparison": c,
            "measure": words.measure(c.measure),
            "fixed": _listed(c, c.fixed, items),
            "broken": _listed(c, c.broken, items),
        }
        for c in comparing.compared(report)
        if (c.fixed or c.broken) and not c.set.startswith(words.ALL)
    ]


def _listed(
    c: Comparison, ids: tuple[str, ...], items: dict[tuple[str, str], tuple[int, Transcript]]
) -> list[tuple[int, str, str, str]]:
    """(number, id, category, prompt) of the first."""
    known = [items[c.set, name] for name in ids if (c.set, name) in items]
    return [(number, item.id, item.category, _cut(item.prompt)) for number, item in known[:LISTED]]


def _cut(text: str) -> str:
    return text if len(text) <= PROMPT else text[:PROMPT] + " …"
