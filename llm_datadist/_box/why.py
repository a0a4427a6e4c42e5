# SPDX-License-Identifier: Apache-2.0
"""What happened to a transfer, as the boxes of both ends have it; and which ones to ask about."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from .._tools.table import lay_out
from .._tools.units import in_words
from .clocks import Clocks
from .reader import Box, Call, Event

__all__ = ["explain", "listing"]

# What is told of a link around a transfer lies at most so far from it.
_AROUND_NS = 5_000_000_000
_MOST_LISTED = 20


def explain(boxes: Sequence[Box], wanted: str) -> str | None:
    """Return the story of every transfer whose id begins so, or is the number of its box's cluster
    and its own with a colon between them ("2:17"); None if there is none.
    """
    clocks = Clocks(boxes)
    stories = [
        "\n".join(_story(boxes, clocks, box, call))
        for box in boxes
        for call in box.calls
        if _is_it(box, call, wanted.lower())
    ]
    known = {(box.cluster_id, call.id, call.number) for box in boxes for call in box.calls}
    stories += [
        "\n".join(_told_story(clocks, box, told))
        for box in boxes
        for told in box.peers
        if told.id.startswith(wanted.lower())
        and (told.peer, told.id, told.number_there) not in known
    ]
    return "\n\n".join(stories) or None


def _told_story(clocks: Clocks, box: Box, told: Call) -> Iterator[str]:
    """Yield what one end was told of a transfer of the other one, whose box is not here."""
    yield f"transfer {told.id}: a {told.kind} by cluster {told.peer} with {box.name}"
    steps = (
        (told.entry_ns, f"called: {_asked(told)}, {told.key}"),
        (told.turn_ns, "had the link"),
        (told.first_byte_ns, "was planned, the bytes begin to move"),
        (told.end_ns, f"ended: {told.outcome}, {in_words(told.bytes)} by {told.path or 'no path'}"),
    )
    begin = clocks.told_at(box, told, told.entry_ns)
    for time_ns, text in steps:
        if time_ns:
            moment = clocks.told_at(box, told, time_ns)
            yield f"  {_clock_text(moment)} {(moment - begin) / 1e6:+12.3f} ms  {text}"
    yield f"  as cluster {told.peer} has told {box.name}; its own box is not here"


def _is_it(box: Box, call: Call, wanted: str) -> bool:
    if ":" in wanted:
        return wanted == f"{box.cluster_id}:{call.number}"
    return call.id.startswith(wanted)


def _story(boxes: Sequence[Box], clocks: Clocks, box: Box, call: Call) -> Iterator[str]:
    yield f"transfer {call.id}: {what(call)} by {box.name}"
    begin = clocks.at(box, call.entry_ns)
    lines = [(begin, f"called on thread {call.thread}: {_asked(call)}")]
    if call.turn_ns:
        lines.append((clocks.at(box, call.turn_ns), "had the link"))
    if call.first_byte_ns:
        lines.append((clocks.at(box, call.first_byte_ns), "was planned, the bytes begin to move"))
    if call.whole:
        moved = f", {in_words(call.bytes)} by {call.path}" if call.path else ""
        text = f": {call.text}" if call.text else ""
        lines.append((clocks.at(box, call.end_ns), f"ended: {call.outcome}{moved}{text}"))
    else:
        lines.append((begin, f"has not ended: the engine {_STATES[box.state]}"))
    peers = [each for each in boxes if each.cluster_id == call.peer and each is not box]
    for each in [box, *peers]:
        lines += _around(clocks, each, box, call)
    for each in peers:
        lines += _told(clocks, each, box, call)
    for moment, text in sorted(lines, key=lambda line: line[0]):
        yield f"  {_clock_text(moment)} {(moment - begin) / 1e6:+12.3f} ms  {text}"
    if call.peer and not peers:
        yield f"  the box of cluster {call.peer} is not here"
    for each in peers:
        clock = clocks.of(each)
        if clock.error_ns is None:
            yield f"  {each.name} is on another host; its times are by the clocks on the wall"
        elif clock.error_ns:
            yield f"  times of {each.name} are right within {clock.error_ns / 1e3:.0f} us"


_STATES = {
    "runs": "runs, and it is under way",
    "killed": "ended without being closed: its process was killed, or crashed",
    "closed": "was closed, and the call left no end: this box is damaged",
    "not closed": "is of another host, or of one that has booted since, and was not closed",
}


def what(call: Call) -> str:
    """Return what a call was, for people."""
    if call.kind == "pull":
        return f"pull of {call.key} from cluster {call.peer} into cache {call.cache_id}"
    if call.kind in ("push", "layer"):
        target = call.key if call.key_kind else "addresses"
        which = f" of layer {call.src_layer}" if call.kind == "layer" else ""
        return f"push{which} of cache {call.cache_id} to {target} of cluster {call.peer}"
    return f"{call.kind} within cache {call.cache_id}"


def _asked(call: Call) -> str:
    if not call.num_blocks:
        return f"{call.num_dst} blocks" if call.num_dst else "no block lists"
    arrow = "->" if call.kind in ("push", "layer") else "<-"
    shown = [
        f"{own}{_more(count)} {arrow} {there}{_more(count)}" for own, there, count in call.blocks
    ]
    more = f", and {call.num_blocks - len(shown)} runs more" if call.runs is None else ""
    return f"{max(call.num_dst, call.num_src)} blocks: " + ", ".join(shown) + more


def _more(count: int) -> str:
    return "" if count == 1 else f"..+{count - 1}"


def _around(clocks: Clocks, of: Box, box: Box, call: Call) -> Iterator[tuple[int, str]]:
    """Yield what the box of one end has of the link, and of its caches, around a call."""
    begin = clocks.at(box, call.entry_ns)
    end = clocks.at(box, call.end_ns) if call.whole else begin
    other = call.peer if of is box else box.cluster_id
    for event in of.events:
        moment = clocks.at(of, event.time_ns)
        if begin - _AROUND_NS <= moment <= end + _AROUND_NS and _concerns(event, other):
            yield moment, f"{of.name}: {_event_text(event)}"
    if of is not box and of.state == "killed":
        last = max([event.time_ns for event in of.events] + [one.entry_ns for one in of.calls])
        yield (
            clocks.at(of, last),
            f"{of.name}: the last thing in its box; its process has ended without closing it",
        )


def _concerns(event: Event, peer: int) -> bool:
    if event.what == "link_end":
        return event.data.get("peer") == peer
    return event.what in ("register", "allocate", "unregister", "deallocate", "close", "fault")


def _event_text(event: Event) -> str:
    data = event.data
    if event.what == "link_end":
        number = data.get("link")
        link = f"link {number:08x}" if isinstance(number, int) else "a link"
        return f"{link} to cluster {data.get('peer')} {data.get('how')}"
    if event.what == "close":
        return "closes"
    if event.what == "fault":
        return f"{data.get('command')} {data.get('argument')}".strip()
    status = f" failed: {data.get('text')}" if event.status else ""
    return f"{event.what} cache {data.get('cache')}{status}"


def _told(clocks: Clocks, peer: Box, box: Box, call: Call) -> Iterator[tuple[int, str]]:
    """Yield what the other end was told of the call."""
    for told in peer.peers:
        if (told.id, told.peer, told.number_there) == (call.id, box.cluster_id, call.number):
            yield clocks.at(peer, told.told_ns), f"{peer.name} was told of it: {told.outcome}"


def listing(boxes: Sequence[Box], which: str) -> str:
    """Return a table of transfers: "failed", "slow" (the longest first), or "open", those that have
    not ended.
    """
    clocks = Clocks(boxes)
    found = [(box, call) for box in boxes for call in box.calls]
    if which == "failed":
        found = [pair for pair in found if pair[1].failed]
    elif which == "open":
        found = [pair for pair in found if not pair[1].whole]
    else:
        found = sorted((pair for pair in found if pair[1].whole), key=_took, reverse=True)
    if not found:
        return f"no transfer is {which}"
    shown = found[:_MOST_LISTED] if which == "slow" else found[-_MOST_LISTED:]
    rows = [("called at", "by", "what", "ms", "waited ms", "ended", "id")]
    for box, call in shown:
        took = f"{_took((box, call)) / 1e6:.3f}" if call.whole else ""
        waited = f"{(call.turn_ns - call.entry_ns) / 1e6:.3f}" if call.turn_ns else ""
        moment = _clock_text(clocks.at(box, call.entry_ns))
        rows.append((moment, box.name, what(call), took, waited, call.outcome, call.id))
    lines = lay_out(rows, right=(3, 4))
    if len(found) > len(shown):
        lines.append(f"and {len(found) - len(shown)} more")
    return "\n".join(lines)


def _took(pair: tuple[Box, Call]) -> int:
    return pair[1].end_ns - pair[1].entry_ns


def _clock_text(moment_ns: int) -> str:
    seconds, rest = divmod(moment_ns, 1_000_000_000)
    return time.strftime("%H:%M:%S", time.localtime(seconds)) + f".{rest // 1000:06d}"
