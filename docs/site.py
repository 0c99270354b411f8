"""What MkDocs does not do by itself: pages of the site that lie outside docs/, and their links.

Links are written as they work in the checkout, `../BUILD.md`. They become links of the site here; a
link to a file that is no page of it, such as a source file, becomes its text.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
OUTSIDE = (
    "BUILD.md", "CHANGELOG.md", "launch/README.md", "launch/plans.md", "launch/demo/report.png",
)  # fmt: skip
_LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^]]*)\]\((?P<target>[^)\s#]+)(?P<anchor>#[^)\s]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    """Adds the files outside docs/."""
    from mkdocs.structure.files import File

    for name in OUTSIDE:
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """The page's text, with links of the site."""
    known = {file.src_uri for file in files}
    return rewrite(markdown, page.file.src_uri, known)


def rewrite(markdown: str, page: str, known: set[str]) -> str:
    """Links of the checkout become links of the site.

    Args:
        page: the page's place in the site.
        known: all files of the site.
    """
    place = posixpath.dirname(page if page in OUTSIDE else f"docs/{page}")

    def replace(match: re.Match[str]) -> str:
        target = match["target"]
        if "://" in target or target.startswith("mailto:"):
            return match[0]
        path = posixpath.normpath(posixpath.join(place, target))
        found = path if path in OUTSIDE else path.removeprefix("docs/")
        if found not in known or not (path in OUTSIDE or path.startswith("docs/")):
            # Inside the checkout, but not on the site; what is nowhere stays, and fails the build.
            return match["text"] if (ROOT / path).exists() else match[0]
        link = posixpath.relpath(found, posixpath.dirname(page) or ".")
        return f"{match['image']}[{match['text']}]({link}{match['anchor'] or ''})"

    return _LINK.sub(replace, markdown)
