"""Texts of others are harmless: on a page nothing of theirs runs, is fetched, or hides."""

import base64
import hashlib
import html.parser
import json
import re

import pytest

from safety_jax.report.evaluation import escaping, page
from tests.hostile_samples import HOSTILE
from tests.test_evaluation_report import pages, report, spoilt  # noqa: F401


class Parsed(html.parser.HTMLParser):
    """Tags, attributes, and texts of elements as a browser sees them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._open.append(tag)
        self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag):
        if tag in self._open:
            while self._open.pop() != tag:
                pass

    def handle_data(self, data):
        if self._open:
            self.texts[self._open[-1]][-1] += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def data(self) -> list:
        """What the JSON blocks hold."""
        blocks = zip(self.named("script"), self.texts["script"], strict=True)
        return [
            json.loads(text)
            for attributes, text in blocks
            if attributes.get("type") == "application/json"
        ]


@pytest.mark.parametrize("name", ["small", "hostile", "single"])
def test_the_policy_allows_the_one_style_and_the_one_script(pages, name):  # noqa: F811
    parsed = Parsed(pages[name])
    policy = next(m["content"] for m in parsed.named("meta") if "http-equiv" in m)
    assert policy is not None

    def digest(text: str) -> str:
        return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()

    scripts = list(zip(parsed.named("script"), parsed.texts["script"], strict=True))
    run = [text for attributes, text in scripts if attributes.get("type") != "application/json"]
    assert len(run) == len(parsed.texts["style"]) == 1
    assert f"script-src '{digest(run[0])}';" in policy
    assert f"style-src '{digest(parsed.texts['style'][0])}';" in policy
    assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy
    # The policy stands before anything that it governs.
    assert pages[name].index("Content-Security-Policy") < pages[name].index("<style>")


@pytest.mark.parametrize("name", ["small", "hostile", "single", "nothing"])
def test_the_page_fetches_nothing_and_has_no_handlers(pages, name):  # noqa: F811
    known = {"a", "use", "html", "head", "meta", "title", "style", "body", "script", "main"}
    for tag, attributes in Parsed(pages[name]).tags:
        assert tag not in {"img", "iframe", "link", "base", "object", "embed", "audio", "video"}
        for key, value in attributes.items():
            assert not key.startswith("on") and key not in {"style", "src", "srcset", "action"}
            if key in {"href", "xlink:href"}:
                assert tag in known and re.fullmatch(r"#[\w-]+", value or "")
    style, script = Parsed(pages[name]).texts["style"][0], "".join(map(page.file, SCRIPTS))
    assert "url(" not in style and "@import" not in style
    for sink in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "fetch("):
        assert sink not in script


SCRIPTS = [f"{name}.js" for name in page.SCRIPTS]


def test_hostile_text_stays_text(pages, spoilt):  # noqa: F811
    """What a parser reads back is what was written, but for marks of what is invisible."""
    parsed = Parsed(pages["hostile"])
    assert parsed.texts["h1"] == [HOSTILE[1]]
    assert parsed.texts["title"] == [HOSTILE[1]]
    index, *pieces = parsed.data()
    items = [item for piece in pieces for item in piece]
    assert index["ids"] == [item.id for item in spoilt.transcripts]
    assert [item["prompt"] for item in items] == [item.prompt for item in spoilt.transcripts]
    for shown, item in zip(items, spoilt.transcripts, strict=True):
        assert [answer["text"] for answer in shown["answers"]] == [
            item.answers[model].text for model in index["models"]
        ]


def test_the_page_is_utf_8_without_anything_invisible(pages):  # noqa: F811
    text = pages["hostile"]
    assert text.encode("utf-8").decode("utf-8") == text
    visible = re.sub(r'<script type="application/json".*?</script>', "", text, flags=re.S)
    for character in "\u202e\u200b\u2066\ufeff\x00\x1b\u2028\U000e0041\ud800":
        assert character not in visible
    assert '<span class="invisible">U+202E</span>' in visible
    assert "combining marks" in visible


@pytest.mark.parametrize("text", HOSTILE)
def test_json_for_a_script_cannot_leave_it(text):
    written = str(escaping.json_for_script({"text": text}))
    assert not set(written) & set("<>&\u2028\u2029")
    assert json.loads(written)["text"] == text
    written.encode("utf-8")


def test_not_a_number_is_refused():
    with pytest.raises(ValueError, match="Out of range"):
        escaping.json_for_script([float("nan")])


@pytest.mark.parametrize(
    "text, shown",
    [
        ("a\u200b\u200b\u202eb", "a⟨U+200B ×2⟩⟨U+202E⟩b"),
        ("two\n lines\t", "two lines"),
        ("\ud800", "⟨U+D800⟩"),
        ("e\u0301te\u0301", "e\u0301te\u0301"),
        ("Z" + 7 * "\u0300", "Z⟨7 combining marks⟩"),
        ("\u2764\ufe0f \u0e01\u0e33", "\u2764\ufe0f \u0e01\u0e33"),
        ("\u05e9\u05dc\u05d5\u05dd", "\u05e9\u05dc\u05d5\u05dd"),
    ],
)
def test_what_is_invisible_is_named(text, shown):
    assert escaping.line(text) == shown


def test_marks_are_markup_and_texts_are_not():
    shown = escaping.visible("<b>\u202e\r\n</b>")
    assert shown == '&lt;b&gt;<span class="invisible">U+202E</span>\n&lt;/b&gt;'
