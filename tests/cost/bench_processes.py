# SPDX-License-Identifier: Apache-2.0
"""What the kernel says about processes."""

from __future__ import annotations

from llm_datadist.testing import eventually


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


def wait_until_ended(pids):
    """Their parent is gone, so the machine's first process asks how they ended: when it likes to,
    which is why "Z" is enough.
    """
    eventually(lambda: all(state_of(pid) in ("", "Z") for pid in pids), f"{pids} have ended")
