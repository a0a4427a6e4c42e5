# SPDX-License-Identifier: Apache-2.0
"""The TCP connections of a process, as the kernel tells of them."""

from __future__ import annotations

import os
from typing import NamedTuple

_ESTABLISHED = "01"


class Connection(NamedTuple):
    """One that is established: its ends as the kernel writes them, its timer; "00" for none."""

    own: str
    other: str
    timer: str


def connections() -> list[Connection]:
    """Those of this process."""
    held = set()
    for entry in os.scandir("/proc/self/fd"):
        try:
            held.add(os.readlink(entry.path))
        except FileNotFoundError:
            # The descriptor of this very listing.
            continue
    with open("/proc/self/net/tcp") as table:
        rows = [line.split() for line in table.readlines()[1:]]
    return [
        Connection(row[1], row[2], row[5].split(":")[0])
        for row in rows
        if row[3] == _ESTABLISHED and f"socket:[{row[9]}]" in held
    ]
