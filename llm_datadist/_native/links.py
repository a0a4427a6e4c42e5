# SPDX-License-Identifier: Apache-2.0
"""The links of one open engine, and its communicators: marshals, calls the library, raises."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Callable, TypeVar

from ..config import LLMClusterInfo
from ..introspection import Counters, LinkInfo, LinkState, MemoryKind, PathInfo
from ..statistics import Statistics
from ..status import LLMStatusCode, code_of
from . import answers, marshal, telling
from .facade import Facade

if TYPE_CHECKING:
    from ._ffi import Array, lldd_cluster_result, lldd_engine

Row = TypeVar("Row")
RowStruct = TypeVar("RowStruct")


class Links:
    """The part of an Engine that is about its peers; each method is one function of the header.

    Args:
        native: the library.
        handle: the open engine, which stays alive as long as this object.
    """

    def __init__(self, native: Facade, handle: lldd_engine) -> None:
        self._native = native
        self._handle = handle

    def _check(self, name: str, status: int) -> None:
        if status:
            raise answers.failure(self._native, name, status)

    def link_clusters(
        self, infos: Sequence[LLMClusterInfo], timeout_ms: int
    ) -> tuple[LLMStatusCode, list[LLMStatusCode]]:
        """Link to peers; raises nothing that the engine answers. Writes link_detail and learnt ids
        into infos.
        """
        structs, keep = marshal.clusters(self._native.ffi, infos)
        results = self._results(len(infos))
        status = self._native.link_clusters(self._handle, structs, len(infos), timeout_ms, results)
        del keep
        for index, info in enumerate(infos):
            if not results[index].status and info.remote_cluster_id is None:
                info.remote_cluster_id = results[index].remote_cluster_id
        return self._outcome(infos, status, results)

    def unlink_clusters(
        self, infos: Sequence[LLMClusterInfo], timeout_ms: int, force: bool
    ) -> tuple[LLMStatusCode, list[LLMStatusCode]]:
        """Unlink from peers; raises nothing that the engine answers. Writes link_detail into
        infos.
        """
        structs, keep = marshal.clusters(self._native.ffi, infos)
        results = self._results(len(infos))
        status = self._native.unlink_clusters(
            self._handle, structs, len(infos), timeout_ms, int(force), results
        )
        del keep
        return self._outcome(infos, status, results)

    def _results(self, count: int) -> Array[lldd_cluster_result]:
        results = marshal.new_array(self._native.ffi, "lldd_cluster_result", count)
        for index in range(count):
            # A call that is refused as a whole writes no results.
            results[index].status = LLMStatusCode.LLM_FAILED
        return results

    def _outcome(
        self, infos: Sequence[LLMClusterInfo], status: int, results: Array[lldd_cluster_result]
    ) -> tuple[LLMStatusCode, list[LLMStatusCode]]:
        whole_call = marshal.text(self._native.ffi, self._native.last_error()) if status else ""
        codes = []
        for index, info in enumerate(infos):
            code = code_of(results[index].status)
            detail = marshal.text(self._native.ffi, results[index].detail)
            info._link_detail = detail or (whole_call if code else "")
            codes.append(code)
        return code_of(status), codes

    def link(self, name: str, ranks: dict[int, int], rank_table: str) -> int:
        """Join a communicator; returns its id."""
        struct, keep = marshal.group(self._native.ffi, name, ranks, rank_table)
        comm_id = self._native.ffi.new("uint64_t *")
        status = self._native.link(self._handle, struct, comm_id)
        del keep
        self._check("link", status)
        return comm_id[0]

    def unlink(self, comm_id: int) -> None:
        """Leave a communicator."""
        self._check("unlink", self._native.unlink(self._handle, comm_id))

    def group_state(self, comm_id: int) -> int:
        """Return the state of a communicator, LLDD_GROUP_*."""
        state = self._native.ffi.new("uint32_t *")
        status = self._native.group_state(self._handle, comm_id, state)
        self._check("query_register_mem_status", status)
        return state[0]

    def all(self) -> list[LinkInfo]:
        """Return every link of the engine."""
        ffi = self._native.ffi
        return self._rows(
            "links",
            lambda count: marshal.new_array(ffi, "lldd_link_info", count),
            partial(self._native.links, self._handle),
            lambda row: LinkInfo(
                peer_cluster_id=row.peer_cluster_id,
                state=LinkState(row.state),
                peer_address=marshal.text(ffi, row.peer_address),
                is_initiator=bool(row.is_initiator),
                comm_id=row.comm_id,
                pulls=row.pulls,
                pushes=row.pushes,
                bytes_in=row.bytes_in,
                bytes_out=row.bytes_out,
                number=f"{row.number:08x}",
                failures=telling.failures(ffi, row.failures),
                last_success=telling.seconds(row.last_success_us),
                last_error=telling.last_error(ffi, row),
                peer_pulls=row.peer_pulls,
                peer_pushes=row.peer_pushes,
                peer_bytes_in=row.peer_bytes_in,
                peer_bytes_out=row.peer_bytes_out,
                peer_failures=row.peer_failures,
            ),
        )

    def statistics(self, cluster_id: int, counters: Counters) -> Statistics:
        """Return what transfers have come to since the engine was opened."""
        ffi = self._native.ffi
        # The sums of this end and of its peers, then both sides of each link.
        own, peers, *rows = self._rows(
            "statistics",
            lambda count: marshal.new_array(ffi, "lldd_traffic", count),
            partial(self._native.engine_traffic, self._handle),
            partial(telling.row, ffi),
        )
        links = tuple(map(telling.link, rows[::2], rows[1::2]))
        return Statistics(cluster_id, counters, own.traffic, peers.traffic, links)

    def drop_gone(self) -> int:
        """Drop the links whose peers are gone; returns how many."""
        count = self._native.ffi.new("uint64_t *")
        status = self._native.drop_gone_links(self._handle, count)
        self._check("drop_gone_links", status)
        return count[0]

    def paths(self, cluster_id: int) -> list[PathInfo]:
        """Return how the memory of one linked peer is reached."""
        ffi = self._native.ffi
        return self._rows(
            "link_paths",
            lambda count: marshal.new_array(ffi, "lldd_path_info", count),
            partial(self._native.link_paths, self._handle, cluster_id),
            lambda row: PathInfo(
                memory=MemoryKind(row.memory),
                path=marshal.text(ffi, row.path),
                reason=marshal.text(ffi, row.reason),
            ),
        )

    def _rows(
        self,
        name: str,
        make: Callable[[int], Array[RowStruct]],
        call: Callable[[Array[RowStruct], int, Array[int]], int],
        read: Callable[[RowStruct], Row],
    ) -> list[Row]:
        count = self._native.ffi.new("uint64_t *")
        capacity = 16
        while True:
            rows = make(capacity)
            self._check(name, call(rows, capacity, count))
            if count[0] <= capacity:
                # Read here: a row does not keep the array alive that it lies in.
                return [read(rows[index]) for index in range(count[0])]
            capacity = count[0]
