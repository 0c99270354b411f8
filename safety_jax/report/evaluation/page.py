"""`report.html`: one file that needs no network and runs only its own script.

Its content security policy allows the one style and the one script by their hashes, and nothing
else. Texts are escaped, or inside JSON that cannot end the script element.
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
LISTED = 60  # fixed or broken items of a comparison that the page lists
PROMPT = 280  # characters of each
# Colours of models, and as many shapes, in charts.css and parts.html; each further cycle of colours
# begins with the next shape.
COLOURS = 8


def render(report: Report) -> str:
    """The whole page, in valid UTF-8."""
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
        attacks=_present(attacked.overview(report)),
        attack_maps=attack_maps.maps(report),
        attack_details=_present(best_of.best_of(report), attacked.changes(report)),
        conversations=conversations.conversations(report),
        groups=grouped.groups(report),
        changes=forests.changes(report),
        comparisons=comparing.comparisons(report),
        refused=comparing.refused(report),
        turned=turned(report),
        derived=details.derived(report),
        help=_present(
            comparing.preferred(report),
            details.choices(report),
            details.groups(report),
            details.overlap(report),
        ),
        health=_present(details.degenerate(report)),
        judges=_present(details.judged(report), comparing.agreement(report)),
        people=_present(comparing.quality(report), comparing.corrected(report)),
        protocol=protocol.tables(report),
        index=escaping.json_for_script(transcripts.index(report)),
        pieces=(escaping.json_for_script(piece) for piece in transcripts.pieces(report)),
    )


def policy(style: str, script: str) -> str:
    """The content security policy: allows these two, and no fetching, framing or sending."""
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
    """Escapes every string that a template prints, and marks invisible characters."""
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
    """A position on a chart, clipped to its edges."""
    return f"{100 * min(max(share, 0.0), 1.0):.2f}%"


def _present(*found: cells.Table | None) -> list[cells.Table]:
    return [table for table in found if table is not None]


# ---------------------------------------------------------------------------- paired changes


def turned(report: Report) -> list[dict[str, Any]]:
    """The fixed and broken items of each comparison of shares, with prompts."""
    items = {(item.set, item.id): (number, item) for number, item in enumerate(report.transcripts)}
    told = {item.set for item in report.transcripts}  # not sets together, nor the harness's tasks
    return [
        {
            "comparison": c,
            "measure": words.measure(c.measure),
            "fixed": _listed(c, c.fixed, items),
            "broken": _listed(c, c.broken, items),
        }
        for c in comparing.compared(report)
        if (c.fixed or c.broken) and c.set in told
    ]


def _listed(
    c: Comparison, ids: tuple[str, ...], items: dict[tuple[str, str], tuple[int, Transcript]]
) -> list[tuple[int, str, str, str]]:
    """(number, id, category, prompt) of the first items."""
    known = [items[c.set, name] for name in ids if (c.set, name) in items]
    return [(number, item.id, item.category, _cut(item.prompt)) for number, item in known[:LISTED]]


def _cut(text: str) -> str:
    return text if len(text) <= PROMPT else text[:PROMPT] + " …"
