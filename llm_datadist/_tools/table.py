# SPDX-License-Identifier: Apache-2.0
"""Tables and texts for people, as wide as their terminal."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import textwrap
from collections.abc import Collection, Sequence

_BETWEEN = 2


def terminal_width() -> int | None:
    """Return the columns of the terminal that stdout is, or those of COLUMNS; None: it is a file or
    a pipe, where lines are as long as they are.
    """
    if not sys.stdout.isatty() and not os.environ.get("COLUMNS"):
        return None
    return shutil.get_terminal_size().columns


def fit(text: str) -> list[str]:
    """Return a text as lines that fit the terminal."""
    width = terminal_width()
    return [text] if width is None else textwrap.wrap(text, width)


def lay_out(
    rows: Sequence[Sequence[str]], right: Collection[int], width: int | None = None
) -> list[str]:
    """Return the lines of a table: one for each row, with columns of equal width. The first row has
    the headings.

    Args:
        rows: the cells, of equally many columns.
        right: the columns, numbered from 0, whose cells go to the right, as numbers do.
        width: of the table: cells of several words then have several lines where they must, and
            where even that is too wide, each row is a list under its first cell. None: each row is
            one line.
    """
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    if width is not None and not _narrow(widths, rows, right, width):
        return _list(rows, width)
    lines = []
    for row in rows:
        cells = [_lines_of(cell, columns) for cell, columns in zip(row, widths)]
        for number in range(max(map(len, cells))):
            texts = [cell[number] if number < len(cell) else "" for cell in cells]
            lines.append(_line(texts, widths, right))
    return lines


def _line(cells: Sequence[str], widths: Sequence[int], right: Collection[int]) -> str:
    return (
        (" " * _BETWEEN)
        .join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(cells, widths))
        )
        .rstrip()
    )


def _lines_of(cell: str, width: int) -> list[str]:
    return [cell] if len(cell) <= width else textwrap.wrap(cell, width, break_on_hyphens=False)


def _list(rows: Sequence[Sequence[str]], width: int) -> list[str]:
    lines = []
    for row in rows[1:]:
        lines.append(row[0])
        for heading, cell in zip(rows[0][1:], row[1:]):
            lines += textwrap.wrap(
                f"{heading}: {cell}",
                width,
                initial_indent="  ",
                subsequent_indent="    ",
                break_long_words=False,
                break_on_hyphens=False,
            )
    return lines


def _narrow(
    widths: list[int], rows: Sequence[Sequence[str]], right: Collection[int], width: int
) -> bool:
    """Make the widest columns narrower until a table has this width, but no word is cut; tells
    whether that was possible.
    """
    shrinkable = {
        column: max(len(word) for row in rows for word in row[column].split() or [""])
        for column in range(len(widths))
        if column not in right
    }
    while sum(widths) + _BETWEEN * (len(widths) - 1) > width:
        wide = [column for column, least in shrinkable.items() if widths[column] > least]
        if not wide:
            return False
        widths[max(wide, key=lambda column: widths[column])] -= 1
    return True


class DescriptionFormatter(argparse.HelpFormatter):
    """Fits each paragraph of a description to the terminal; an indented one is a table, whose lines
    stay.
    """

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = []
        for paragraph in text.strip().split("\n\n"):
            if paragraph.startswith(" "):
                paragraphs.append(paragraph)
            else:
                paragraphs.append(super()._fill_text(paragraph, width, indent))
        return "\n\n".join(paragraphs)
