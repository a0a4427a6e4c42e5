# SPDX-License-Identifier: Apache-2.0
"""Wide tables on narrow screens: each cell carries the heading of its column, for site.css."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform

COLUMNS = 3
MANY_COLUMNS = 4


class CellLabels(SphinxPostTransform):
    """Marks tables of three columns or more, and labels their cells."""

    default_priority = 950
    formats = ("html",)

    def run(self, **_: Any) -> None:
        """Change the tables of one page."""
        for table in self.document.findall(nodes.table):
            (group,) = table.findall(nodes.tgroup)
            head = next(group.findall(nodes.thead), None)
            if head is None or int(group["cols"]) < COLUMNS:
                continue
            table["classes"].append("wide")
            if int(group["cols"]) > MANY_COLUMNS:
                table["classes"].append("many")
            headings = [entry.astext() for entry in head[0]]
            (body,) = group.findall(nodes.tbody)
            for row in body:
                for heading, entry in list(zip(headings, row))[1:]:
                    if heading and entry.astext():
                        label = nodes.inline("", heading, classes=["cell-label"])
                        entry.insert(0, nodes.paragraph("", "", label))


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.add_post_transform(CellLabels)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
