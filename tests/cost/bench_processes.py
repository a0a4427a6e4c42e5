# SPDX-License-Identifier: Apache-2.0
"""What the kernel says about processes."""

from __future__ import annotations


def children_of(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as children:
        return [int(child) for child in children.read().split()]


def state_of(pid):
    """Return a letter: "T" is stopped, "Z" has ended and nobody has asked how; "": it is gone."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""
