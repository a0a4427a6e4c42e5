# SPDX-License-Identifier: Apache-2.0
"""What a process holds: descriptors, threads, mapped memory without a name, children."""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Callable

from .waiting import eventually

__all__ = [
    "RESIDENT_TELLS",
    "Resources",
    "children_of",
    "leaked",
    "resident_bytes",
    "wait_until_given_back",
]

# Whether growing resident memory means a leak. A sanitizer keeps back what is freed and has tables
# of its own.
RESIDENT_TELLS = "san.so" not in os.environ.get("LD_PRELOAD", "")


# What HIXL itself leaves in a process that has loaded it: a descriptor of each engine that has
# ended, and, from 9.1.0 on, a thread (docs/ascend.md). Neither is counted there.
_HIXL = "libcann_hixl.so"
_HIXL_DESCRIPTOR = "anon_inode:[eventpoll]"
_HIXL_THREAD = "ge_llm_stats"


@dataclass(frozen=True)
class Resources:
    """Counts by kind; the kinds carry no numbers that differ from one descriptor to the next."""

    descriptors: Counter[str] = field(default_factory=Counter)
    threads: Counter[str] = field(default_factory=Counter)
    shared_mappings: Counter[str] = field(default_factory=Counter)
    children: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, pid: int) -> Resources:
        """Read what a process holds from /proc."""
        descriptors, threads = _descriptors(pid), _threads(pid)
        if _has_loaded(pid, _HIXL):
            descriptors.pop(_HIXL_DESCRIPTOR, None)
            threads.pop(_HIXL_THREAD, None)
        return cls(descriptors, threads, _shared_mappings(pid), _children(pid))


def leaked(before: Resources, after: Resources) -> list[str]:
    """Return what is there after and was not before, one text a kind."""
    texts = []
    for name in ("descriptors", "threads", "shared_mappings", "children"):
        more = getattr(after, name) - getattr(before, name)
        texts += [f"{count} more {name}: {kind}" for kind, count in sorted(more.items())]
    return texts


def wait_until_given_back(
    before: Resources, held: Callable[[], Resources], seconds: float = 5.0
) -> None:
    """Wait until a process holds nothing that it did not hold before.

    Args:
        before: what it held.
        held: tells what it holds now.
        seconds: after which it is an error.

    Raises:
        AssertionError: with a text for each kind of which there is more.
    """
    __tracebackhide__ = True
    more: list[str] = []

    def nothing_more() -> bool:
        more[:] = leaked(before, held())
        return not more

    try:
        eventually(nothing_more, "all is given back", seconds)
    except AssertionError:
        raise AssertionError(f"after {seconds} s there are {', '.join(more)}") from None


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process."""
    with open(f"/proc/{pid}/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def children_of(pid: int) -> dict[int, str]:
    """Return the children of a process, pid to name and state; also ended ones that were not waited
    for.
    """
    found = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/stat") as stat:
                name, rest = stat.read().split("(", 1)[1].rsplit(")", 1)
        except (FileNotFoundError, ProcessLookupError):
            # It ended while the directory was read.
            continue
        state, parent = rest.split()[:2]
        if int(parent) == pid:
            found[int(entry)] = f"{name} ({state})"
    return found


def _descriptors(pid: int) -> Counter[str]:
    kinds: Counter[str] = Counter()
    folder = f"/proc/{pid}/fd"
    for number in os.listdir(folder):
        try:
            target = os.readlink(f"{folder}/{number}")
        except FileNotFoundError:
            # The descriptor of the listing itself.
            continue
        kinds[re.sub(r"\[\d+\]", "", target)] += 1
    return kinds


def _threads(pid: int) -> Counter[str]:
    names: Counter[str] = Counter()
    folder = f"/proc/{pid}/task"
    for thread in os.listdir(folder):
        try:
            with open(f"{folder}/{thread}/comm") as comm:
                names[comm.read().strip()] += 1
        except (FileNotFoundError, ProcessLookupError):
            # It ended while the directory was read.
            continue
    return names


def _has_loaded(pid: int, library: str) -> bool:
    with open(f"/proc/{pid}/maps") as maps:
        return any(library in line for line in maps)


def _shared_mappings(pid: int) -> Counter[str]:
    with open(f"/proc/{pid}/maps") as maps:
        return Counter(line.split(None, 5)[5].strip() for line in maps if "memfd:" in line)


def _children(pid: int) -> Counter[str]:
    return Counter(children_of(pid).values())
