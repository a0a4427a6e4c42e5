# SPDX-License-Identifier: Apache-2.0
"""Tables for people."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def lay_out(rows: Sequence[Sequence[str]], right: Collection[int]) -> list[str]:
    """Return a line for each row, with columns of equal width.

    Args:
        rows: the cells, of equally many columns.
        right: the columns, numbered from 0, whose cells go to the right, as numbers do.
    """
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in rows
    ]
