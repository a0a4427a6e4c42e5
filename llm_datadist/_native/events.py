# SPDX-License-Identifier: Apache-2.0
"""The events of one open engine: marshals, calls the library, raises."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from .._checks import check_uint32, require
from ..events import EventStream, TransferEvent, TransferKind
from ..keys import BlocksCacheKey, CacheKey, CacheKeyByIdAndIndex
from ..status import code_of
from . import answers, marshal

if TYPE_CHECKING:
    from ._ffi import lldd_event
    from .engine import Engine

_RUNS = 256


class Events:
    """What an EventStream takes its events from.

    Args:
        engine: is open, and stays alive as long as this object.
    """

    def __init__(self, engine: Engine) -> None:
        self._native = native = engine._native
        self._handle = engine._handle
        self._event = marshal.new(native.ffi, "lldd_event")
        self._room = _RUNS
        self._runs = native.ffi.new("uint64_t[]", 3 * self._room)

    def open(self, capacity: int) -> int:
        """Begin to listen; returns the descriptor that tells of events."""
        descriptor = self._native.ffi.new("int32_t *")
        status = self._native.events_open(self._handle, capacity, descriptor)
        if status:
            raise answers.failure(self._native, "events", status)
        return descriptor[0]

    def close(self) -> None:
        """Listen no more; an engine that is finalized does not listen."""
        self._native.events_close(self._handle)

    def take(self) -> TransferEvent | None:
        """Take the oldest event."""
        while True:
            status = self._native.events_take(self._handle, self._event, self._runs, self._room)
            if status:
                raise answers.failure(self._native, "events", status)
            if not self._event.kind:
                return None
            if self._event.num_runs <= self._room:
                return self._read(self._event)
            self._room = self._event.num_runs
            self._runs = self._native.ffi.new("uint64_t[]", 3 * self._room)

    def _read(self, event: lldd_event) -> TransferEvent:
        ffi = self._native.ffi
        runs = ffi.unpack(self._runs, 3 * event.num_runs)
        blocks: list[int] = []
        peer_blocks: list[int] = []
        for here, there, count in zip(runs[::3], runs[1::3], runs[2::3]):
            blocks += range(here, here + count)
            peer_blocks += range(there, there + count)
        words = ffi.unpack(event.transfer_id, 2)
        return TransferEvent(
            kind=TransferKind(event.kind),
            by_peer=bool(event.by_peer),
            peer_cluster_id=event.peer_cluster_id,
            status=code_of(event.status),
            text=marshal.text(ffi, event.text),
            transfer_id=struct.pack("=QQ", *words).hex(),
            link=f"{event.link:08x}",
            key=_key(event),
            cache_id=None if event.by_peer else event.cache_id,
            blocks=blocks,
            peer_blocks=peer_blocks,
            has_all_blocks=bool(event.all_blocks),
            layer=event.layer,
            layers=event.layers or None,
            bytes=event.bytes,
            bytes_moved=event.moved,
            lost=event.lost,
            time=event.time_us / 1e6,
        )


def _key(event: lldd_event) -> CacheKey | BlocksCacheKey | CacheKeyByIdAndIndex | None:
    cluster_id = event.key_cluster_id
    if event.key_kind == 1:
        return CacheKey(
            cluster_id, event.key_req_id, event.key_model_id, prefix_id=event.key_prefix_id
        )
    if event.key_kind == 2:
        return CacheKeyByIdAndIndex(cluster_id, event.key_cache_id, event.key_batch_index)
    if event.key_kind == 3:
        return BlocksCacheKey(cluster_id, event.key_model_id)
    return None


def listen(engine: Engine, capacity: int) -> EventStream:
    """Begin to listen to transfers that are over."""
    check_uint32("capacity", capacity)
    require(capacity > 0, f"capacity must be positive, got {capacity}")
    return EventStream(Events(engine), capacity)
