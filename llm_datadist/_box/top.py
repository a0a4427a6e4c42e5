# SPDX-License-Identifier: Apache-2.0
"""What an engine does now, by peer: from its box, read again and again while it is written."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .._tools.table import lay_out
from .._tools.units import in_words
from .reader import SUFFIX, Box, BoxError, Call, status_name

__all__ = ["PeerNow", "boxes_of_process", "by_peer", "table"]

_HEADINGS = (
    *("peer", "link", "calls/s", "in/s", "out/s", "ms (median)", "ms (most)"),
    *("waited ms (most)", "under way", "since ms", "failed"),
)


def boxes_of_process(pid: int) -> list[str]:
    """Return the paths of the boxes that a process has mapped. Raises BoxError."""
    try:
        lines = Path(f"/proc/{pid}/maps").read_text(errors="replace").splitlines()
    except FileNotFoundError as error:
        raise BoxError(f"there is no process {pid}") from error
    except OSError as error:
        raise BoxError(f"what process {pid} has mapped cannot be read: {error.strerror}") from error
    paths = dict.fromkeys(line.split(maxsplit=5)[-1] for line in lines if line.endswith(SUFFIX))
    if not paths:
        raise BoxError(
            f"process {pid} has no box: LLM_DATADIST_BOX was not set when its engines were opened"
        )
    return list(paths)


@dataclass
class PeerNow:
    """What an engine did with one peer between two looks, and what is under way.

    Rates are per second; times are milliseconds.
    """

    peer: int
    link: str = "no link"
    calls: float = 0.0
    bytes_in: float = 0.0
    bytes_out: float = 0.0
    failed: Counter[str] = field(default_factory=Counter)
    took_ms: list[float] = field(default_factory=list)
    waited_ms: list[float] = field(default_factory=list)
    under_way: int = 0
    oldest_ms: float = 0.0


def by_peer(box: Box, since: int, seconds: float, now_ns: int) -> list[PeerNow]:
    """Return a row for each peer that a box knows.

    Args:
        box: as it is now.
        since: how many calls had begun at the look before.
        seconds: how long ago that was.
        now_ns: the time by the engine's clock.
    """
    rows: dict[int, PeerNow] = {}
    for event in box.events:
        peer = event.data.get("peer")
        if event.what == "link_end" and isinstance(peer, int):
            how = str(event.data.get("how"))
            rows.setdefault(peer, PeerNow(peer)).link = "live" if how == "made" else how
    recent = [call for call in box.calls if call.number > since]
    # A ring that turned faster than it was looked at has lost some: those that are left stand for
    # all of them.
    first = min((call.number for call in recent), default=since + 1)
    last = max((call.number for call in recent), default=since)
    share = (last - since) / (last - first + 1) if recent else 1.0
    for call in box.calls:
        if call.peer or call.kind in ("pull", "push", "layer"):
            row = rows.setdefault(call.peer, PeerNow(call.peer))
            _count(row, call, share / seconds if call.number > since else 0.0, now_ns)
    return [rows[peer] for peer in sorted(rows)]


def _count(row: PeerNow, call: Call, weight: float, now_ns: int) -> None:
    if not call.whole:
        row.under_way += 1
        row.oldest_ms = max(row.oldest_ms, (now_ns - call.entry_ns) / 1e6)
    elif weight:
        row.calls += weight
        if call.kind == "pull":
            row.bytes_in += weight * call.bytes
        else:
            row.bytes_out += weight * call.bytes
        row.took_ms.append((call.end_ns - call.entry_ns) / 1e6)
        if call.turn_ns:
            row.waited_ms.append((call.turn_ns - call.entry_ns) / 1e6)
        if call.failed:
            row.failed[status_name(call.status)] += 1


def table(box: Box, rows: Sequence[PeerNow], now: float) -> str:
    """Return the rows of one engine for people."""
    moment = time.strftime("%H:%M:%S", time.localtime(now))
    title = f"{moment}  {box.name} on {box.host}, {box.state}"
    if not rows:
        return f"{title}: no peer so far"
    cells = [_HEADINGS]
    for row in rows:
        took = sorted(row.took_ms)
        failed = ", ".join(f"{count} {name}" for name, count in row.failed.most_common())
        cells.append(
            (
                str(row.peer),
                row.link,
                f"{row.calls:.0f}",
                in_words(int(row.bytes_in)),
                in_words(int(row.bytes_out)),
                f"{took[len(took) // 2]:.3f}" if took else "",
                f"{took[-1]:.3f}" if took else "",
                f"{max(row.waited_ms):.3f}" if row.waited_ms else "",
                str(row.under_way),
                f"{row.oldest_ms:.0f}" if row.under_way else "",
                failed,
            )
        )
    return "\n".join([title, *lay_out(cells, right=range(2, 10))])
