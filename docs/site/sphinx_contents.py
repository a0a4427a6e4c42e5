# SPDX-License-Identifier: Apache-2.0
"""The table of contents: what docs/index.md lists below each heading, and then every other page.

docs/index.md is an ordinary page with lists of links. Each heading of it becomes a part of the
navigation, so that a page is named in one place only; a page that it does not name yet stands under
"More". And where a page says "barriers.md" as the text of a link, the site says the page's title.
"""

from __future__ import annotations

import posixpath
import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform

HEADING = re.compile(r"^## (.+)$", re.MULTILINE)
NAME_OF_FILE = re.compile(r"[\w./-]+\.md")
LINK = re.compile(r"^- \[[^\]]+\]\(([^)#:]+)\.md\)", re.MULTILINE)
ROOT = "docs/index"


def _toctree(caption: str, pages: list[str]) -> str:
    return "\n".join(
        ["", "```{toctree}", ":hidden:", f":caption: {caption}", "", *pages, "```", ""]
    )


def add_contents(app: Sphinx, page: str, content: list[str]) -> None:
    """Append the trees to the root page."""
    if page != ROOT:
        return
    # Text, heading, text, heading, ...
    parts = HEADING.split(content[0])[1:]
    named: set[str] = {ROOT}
    trees = []
    for caption, text in zip(parts[::2], parts[1::2]):
        pages = [posixpath.normpath(posixpath.join("docs", link)) for link in LINK.findall(text)]
        pages = [each for each in dict.fromkeys(pages) if each not in named]
        named.update(pages)
        if pages:
            trees.append(_toctree(caption, [f"/{each}" for each in pages]))
    rest = sorted(set(app.env.found_docs) - named)
    if rest:
        trees.append(_toctree("More", [f"/{each}" for each in rest]))
    content[0] += "\n".join(trees)


class Titles(SphinxPostTransform):
    """Puts the title of a page in the place of the name of its file, as the text of a link."""

    default_priority = 940

    def run(self, **_: Any) -> None:
        """Change the links of one page."""
        builder, here = self.app.builder, self.env.docname
        pages = {builder.get_relative_uri(here, page): page for page in self.env.found_docs}
        for link in list(self.document.findall(nodes.reference)):
            page = pages.get(link.get("refuri", "").partition("#")[0])
            if page and NAME_OF_FILE.fullmatch(link.astext()):
                title = self.env.titles[page]
                link.children = []
                link.extend(child.deepcopy() for child in title.children)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.add_post_transform(Titles)
    app.connect("source-read", add_contents)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
