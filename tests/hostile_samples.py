"""A report whose every text is hostile: what models have been seen to write, and worse."""

import dataclasses

from safety_jax.evaluation.results.report import Report
from safety_jax.evaluation.results.transcripts import Answer, Transcript
from tests.report_samples import SETS, attacked, preferences, report, talks, transcripts

# Nothing of this may run, hide, reach over its place, or fetch anything.
HOSTILE = (
    "<script>document.title = 'broken'; alert(1)</script>",
    "</script><script>document.title = 'broken'</script><!-- <script>",
    "<img src=x onerror=\"document.title='broken'\"><svg/onload=alert(1)>",
    "<style>body{display:none}</style><link rel=stylesheet href=https://example.com/x.css>",
    "<iframe src=\"javascript:parent.document.title='broken'\"></iframe><base href=https://example.com>",
    "{{ 7 * 7 }} {% raw %} ${alert(1)} `" + "]]>" + " %3Cscript%3E &lt;script&gt; &#60;script&#62;",
    "=HYPERLINK(\"https://example.com\";\"x\") +1 -1 @SUM(1) \t=cmd|' /C calc'!A0",
    "\u202etxet desrever \u2066alone\u2069 \u200bzero\u200dwidth\u2060 \ufeffmark " + 99 * "\u200b",
    "lone \ud800 surrogates \udfff and a pair \U0001f600, NUL \x00, bell \x07, \x1b[31mred\x1b[0m",
    "line\u2028separator\u2029paragraph\x85next\r\nwindows\rmac",
    "Z\u0351\u036b\u0343" + "\u0300" * 2000 + "algo",
    "\U000e0041\U000e0042 tags that hide a message",
    "\u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627 right to left (1, 2) abc",
    "",
    " \n\t \n ",
    "x" * 1_000_000,
    ("word " * 200_000).strip(),
    "\n" * 300_000,
    "[link](javascript:alert(1)) | pipe | *bold* `code` ![img](https://example.com/x.png)",
    "\ufffe\uffff\ufdd0 \U0010ffff noncharacters",
)  # fmt: skip


def hostile() -> Report:
    """Every text of the report is hostile: answers, prompts, categories, names, notes."""
    sets, models = SETS[1:2], ["base", "dpo"]
    names = {"base": HOSTILE[0], "dpo": HOSTILE[7][:40]}
    plain = transcripts(models, sets, 1)
    made = report(HOSTILE[1], models, sets, [_spoilt(i, item) for i, item in enumerate(plain)])
    return dataclasses.replace(
        made,
        baseline=names[made.baseline],
        models={names[m]: {**facts, "path": HOSTILE[2]} for m, facts in made.models.items()},
        rows=tuple(dataclasses.replace(row, model=names[row.model]) for row in made.rows),
        comparisons=tuple(
            dataclasses.replace(c, first=names[c.first], second=names[c.second])
            for c in made.comparisons
        ),
        preferences=tuple(
            dataclasses.replace(p, judge=HOSTILE[3], first=HOSTILE[4], second=names[p.second])
            for p in preferences(models)
        ),
        attacks=tuple(
            dataclasses.replace(found, model=names[found.model], set=HOSTILE[5])
            for found in attacked(models, f"suffix:{HOSTILE[6]}")
        ),
        **{
            name: tuple(
                dataclasses.replace(found, model=names[found.model], set=HOSTILE[5])
                for found in (dataclasses.replace(one, **_named(one)) for one in results)
            )
            for name, results in talks(models).items()
        },
        derived={},
        corrected={},
        notes=tuple(text[:400] for text in HOSTILE),
        transcripts=tuple(
            dataclasses.replace(item, answers={names[m]: a for m, a in item.answers.items()})
            for item in made.transcripts
        ),
    )


def _named(found: object) -> dict[str, str]:
    """Of one group's gap, the group's name."""
    return {"group": f"{HOSTILE[2]} {found.group}"} if hasattr(found, "group") else {}


def _spoilt(i: int, item: Transcript) -> Transcript:
    text = HOSTILE[i % len(HOSTILE)]
    return dataclasses.replace(
        item,
        id=f"{i} {text[:40]}",
        category=text[:60] or "none",
        prompt=text[:2000],
        asked=text,
        answers={model: _spoilt_answer(answer, text) for model, answer in item.answers.items()},
    )


def _spoilt_answer(answer: Answer, text: str) -> Answer:
    scores = {
        judge: dataclasses.replace(score, label=text[:200])
        for judge, score in answer.scores.items()
    }
    return dataclasses.replace(answer, text=text, scores=scores)
