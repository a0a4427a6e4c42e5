# SPDX-License-Identifier: Apache-2.0
"""Reads boxes, also those that are being written, and those of processes that were killed.

What a file says is checked, and bounded by its size: it may have come from anywhere.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..status import LLMStatusCode
from . import layout

__all__ = ["Box", "BoxError", "Call", "Event", "boxes_of", "read"]

SUFFIX = ".box"
# No box has more.
_MOST_BYTES = 1 << 30
_UNSET_ID = 2**64 - 1


class BoxError(ValueError):
    """A file is no box, or cannot be read."""


def status_name(status: int) -> str:
    """Return the name of a status, "ok" for success."""
    if status == 0:
        return "ok"
    try:
        return LLMStatusCode(status).name
    except ValueError:
        return f"status {status}"


@dataclass(frozen=True)
class Call:
    """One call that moves bytes: a pull, a push, a layer, a copy.

    Times are nanoseconds of the engine's clock. One that has not come to an end (`whole` is false)
    has no status and nothing that follows it. `blocks` are the first pairs of blocks: (own, peer's,
    how many in a row); `num_blocks` is how many such runs there are.
    """

    number: int
    whole: bool
    entry_ns: int
    id_high: int
    id_low: int
    parent: int
    peer: int
    kind: str
    thread: int
    cache_id: int
    key_model: int
    key_req: int
    key_prefix: int
    key_cache_id: int
    key_kind: int
    key_batch: int
    batch: int
    tensors_per_layer: int
    src_layer: int
    dst_layer: int
    src_layers: int
    dst_layers: int
    num_src: int
    num_dst: int
    size: int
    told_ns: int
    status: int
    link: int
    turn_ns: int
    first_byte_ns: int
    end_ns: int
    bytes: int
    digest: int
    num_blocks: int
    path: str
    blocks: tuple[tuple[int, int, int], ...]
    text: str = ""
    number_there: int = 0  # of what a peer has told: its number in the peer's box

    @property
    def id(self) -> str:
        """The id of the transfer: 32 hexadecimal digits."""
        return f"{self.id_high:016x}{self.id_low:016x}"

    @property
    def failed(self) -> bool:
        """Whether it came to its end, and to another one than success."""
        return self.whole and self.status != 0

    @property
    def outcome(self) -> str:
        """The name of its status, or that it has not come to an end."""
        return status_name(self.status) if self.whole else "not ended"

    @property
    def key(self) -> str:
        """The key, for people."""
        if self.key_kind == 1:
            by_prefix = self.key_prefix != _UNSET_ID
            name = f"prefix_id {self.key_prefix}" if by_prefix else f"req_id {self.key_req}"
            return f"{name}, model_id {self.key_model}"
        if self.key_kind == 2:
            return f"cache id {self.key_cache_id}, batch index {self.key_batch}"
        return f"BlocksCacheKey with model_id {self.key_model}" if self.key_kind == 3 else "no key"

    @property
    def runs(self) -> tuple[tuple[int, int, int], ...] | None:
        """All pairs of blocks as runs, None where the record has only the first ones."""
        return self.blocks if self.num_blocks <= layout.FIRST_BLOCKS else None


@dataclass(frozen=True)
class Event:
    """Anything else that an engine wrote down: what it was asked, what became of its links."""

    number: int
    time_ns: int
    what: str
    data: dict[str, Any]

    @property
    def status(self) -> int:
        """Of a call; 0 otherwise."""
        status = self.data.get("status", 0)
        return status if isinstance(status, int) else 0


@dataclass(frozen=True)
class Box:
    """One box, as it was when it was read. Lists are in the order in which things began."""

    path: str
    cluster_id: int
    pid: int
    process_start: int
    boot_id: str
    time_namespace: int
    opened_ns: int
    opened_realtime_ns: int
    closed_ns: int
    host: str
    runtime: str
    calls: list[Call]
    peers: list[Call]
    events: list[Event]
    # What the rings have had to drop, by ring.
    forgotten: dict[str, int]

    @property
    def name(self) -> str:
        """The engine, for people."""
        return f"cluster {self.cluster_id} (pid {self.pid})"

    @property
    def clock_id(self) -> tuple[str, int]:
        """What boxes have in common whose times are of one clock."""
        return self.boot_id, self.time_namespace

    @cached_property
    def state(self) -> str:
        """What became of the engine: "closed", "runs", or "killed", as far as can be told here."""
        if self.closed_ns:
            return "closed"
        if self.boot_id != _own_boot_id():
            return "not closed"
        return "runs" if _start_of(self.pid) == self.process_start else "killed"

    def realtime_ns(self, time_ns: int) -> int:
        """Return a time of the engine's clock as nanoseconds since 1970."""
        return time_ns - self.opened_ns + self.opened_realtime_ns


def boxes_of(places: Iterable[str]) -> list[Box]:
    """Read files, and all boxes of folders; in the order in which the engines were opened.

    Raises:
        BoxError: one is no box, a folder has none, or nothing was named.
    """
    paths: list[Path] = []
    for place in places:
        path = Path(place)
        if not path.is_dir():
            paths.append(path)
            continue
        found = sorted(path.glob(f"*{SUFFIX}"))
        if not found:
            raise BoxError(f"{place} has no file with the suffix {SUFFIX}")
        paths += found
    if not paths:
        raise BoxError("no box is named: give files or a folder, or set LLM_DATADIST_BOX")
    boxes = [read(path) for path in dict.fromkeys(paths)]
    return sorted(boxes, key=lambda box: box.opened_realtime_ns)


def read(path: str | os.PathLike[str]) -> Box:
    """Read one box. Raises BoxError."""
    name = os.fspath(path)
    try:
        with open(path, "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            if size > _MOST_BYTES:
                raise BoxError(f"{name} is no box: it has {size} bytes")
            first = os.pread(file.fileno(), size, 0)
            # Of what was written in between, the state differs: see _slots.
            again = os.pread(file.fileno(), size, 0)
    except OSError as error:
        raise BoxError(f"{name} cannot be read: {error.strerror}") from error
    return _Parser(name, first, again).box()


class _Parser:
    def __init__(self, path: str, first: bytes, again: bytes) -> None:
        self._path = path
        self._bytes = first
        self._again = again

    def box(self) -> Box:
        if len(self._bytes) < layout.HEADER_BYTES or not self._bytes.startswith(layout.MAGIC):
            raise BoxError(f"{self._path} is no box: it does not begin as one")
        head = layout.HEADER.unpack_from(self._bytes)
        _, version, slot_bytes, cluster_id, pid, start, boot, opened, wall, closed, _ids = head[:11]
        if (version, slot_bytes) != (layout.FORMAT, layout.SLOT_BYTES):
            raise BoxError(
                f"{self._path} has format {version}, this package reads {layout.FORMAT}: "
                "read it with the version that wrote it"
            )
        texts = self._joined("texts")
        about = {number: text for _, _, number, text in texts if number}
        halves = (int.from_bytes(boot[at : at + 8], "little") for at in (0, 8))
        return Box(
            path=self._path,
            cluster_id=cluster_id,
            pid=pid,
            process_start=start,
            boot_id="".join(f"{half:016x}" for half in halves),
            time_namespace=head[13],
            opened_ns=opened,
            opened_realtime_ns=wall,
            closed_ns=closed,
            host=_text(head[11]),
            runtime=_text(head[12]),
            calls=sorted(self._calls("calls", about), key=lambda call: call.number),
            peers=sorted(self._calls("peers", {}), key=lambda call: call.number),
            events=self._events(),
            forgotten={name: self._forgotten(name) for name in layout.RINGS},
        )

    def _ring(self, name: str) -> tuple[int, int, int, int]:
        """Return the offset and the number of its slots, the next ticket, and what was lost."""
        at = layout.RINGS_AT + layout.RINGS.index(name) * layout.RING.size
        offset, slots, following, skipped, lost = layout.RING.unpack_from(self._bytes, at)
        fits = offset + slots * layout.SLOT_BYTES <= len(self._bytes)
        if not slots or slots & (slots - 1) or offset < layout.HEADER_BYTES or not fits:
            raise BoxError(f"{self._path} is no box: its ring of {name} is not within the file")
        return offset, slots, following, skipped + lost

    def _forgotten(self, name: str) -> int:
        _, slots, following, lost = self._ring(name)
        return max(0, following - slots) + lost

    def _slots(self, name: str) -> Iterator[tuple[int, bool, int]]:
        """Yield for each slot that is in use its ticket plus 1, whether it is whole, its place."""
        offset, slots, _, _ = self._ring(name)
        for index in range(slots):
            at = offset + index * layout.SLOT_BYTES
            state = int.from_bytes(self._bytes[at : at + 8], "little")
            if state == 0 or self._again[at : at + 8] != self._bytes[at : at + 8]:
                continue
            number = (state + 1) // 2
            if (number - 1) % slots == index:
                yield number, state % 2 == 0, at

    def _calls(self, name: str, about: dict[int, str]) -> Iterator[Call]:
        for number, whole, at in self._slots(name):
            values = layout.RECORD.unpack_from(self._bytes, at)
            fields = dict(zip(layout.RECORD_FIELDS, values))
            begun = fields.pop("begun")
            del fields["state"]
            if not whole:
                if begun != number:
                    continue
                for field in layout.RECORD_FIELDS[layout.RECORD_FIELDS.index("status") :]:
                    fields[field] = 0
            known = min(fields["num_blocks"], layout.FIRST_BLOCKS)
            rest = values[len(layout.RECORD_FIELDS) :]
            runs = tuple((rest[i], rest[i + 1], rest[i + 2]) for i in range(0, 3 * known, 3))
            fields["kind"] = layout.KINDS.get(fields["kind"], f"kind {fields['kind']}")
            paths = fields.pop("paths")
            names = [name for bit, name in enumerate(layout.PATHS) if paths >> bit & 1]
            yield Call(
                number=number,
                whole=whole,
                blocks=runs,
                path=" and ".join(names),
                text=about.get(number, "") if whole else "",
                number_there=begun if name == "peers" else 0,
                **fields,
            )

    def _joined(self, name: str) -> list[tuple[int, int, int, str]]:
        """Return the whole texts: (ticket plus 1 of the first piece, time, about, text)."""
        pieces = {}
        for number, whole, at in self._slots(name):
            _, time, about, part, parts, length = layout.TEXT.unpack_from(self._bytes, at)
            begin = at + layout.TEXT.size
            if whole and length <= layout.SLOT_BYTES - layout.TEXT.size:
                pieces[number] = (part, parts, time, about, self._bytes[begin : begin + length])
        joined = []
        for number, (part, parts, time, about, _) in pieces.items():
            if part or parts > len(pieces):
                continue
            row = [pieces.get(number + index) for index in range(parts)]
            if all(piece is not None and piece[0] == i for i, piece in enumerate(row)):
                data = b"".join(piece[4] for piece in row if piece is not None)
                joined.append((number, time, about, data.decode(errors="replace")))
        return sorted(joined)

    def _events(self) -> list[Event]:
        events = []
        for number, time, _, text in self._joined("events"):
            try:
                data = json.loads(text)
            except (ValueError, RecursionError):
                continue
            if isinstance(data, dict) and isinstance(data.get("what"), str):
                events.append(Event(number, time, data.pop("what"), data))
        return events


def _text(chars: bytes) -> str:
    return chars.split(b"\0", 1)[0].decode(errors="replace")


def _own_boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")
    except OSError:
        return ""


def _start_of(pid: int) -> int:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return -1
    fields = stat.rpartition(")")[2].split()
    # A process that has ended and was not waited for runs no more.
    return -1 if fields[0] in "ZX" else int(fields[19])
