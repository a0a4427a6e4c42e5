# SPDX-License-Identifier: Apache-2.0
"""What LLMDataDist tells about its links and its work. An extension: CANN's interface has nothing
like it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

__all__ = ["Counters", "LinkInfo", "LinkState", "MemoryKind", "PathInfo"]


class LinkState(Enum):
    """How a link is.

    LIVE: the peer answers. SILENT: it has not answered for LLMConfig.peer_timeout, because its
    process is stopped or the network is; the link is used as before, and LIVE again when the peer
    answers. PEER_GONE: the connection is closed, or the peer's host has vanished; the link stays
    until it is unlinked, and its transfers fail. CLOSING: it is being taken down. Source: decision
    24.
    """

    LIVE = 1
    PEER_GONE = 2
    CLOSING = 3
    SILENT = 4


class MemoryKind(Enum):
    """Who the memory of a peer's cache came from: its pool, or its client."""

    ALLOCATED = 1
    REGISTERED = 2


@dataclass(frozen=True)
class LinkInfo:
    """One link as this end sees it; totals since it was made."""

    peer_cluster_id: int
    state: LinkState
    peer_address: str  # "127.0.0.1:26000", "[::1]:26000"
    is_initiator: bool  # this end made the connection
    comm_id: int  # of link(); 0: made by link_clusters()
    pulls: int
    pushes: int  # layers
    bytes_in: int
    bytes_out: int


@dataclass(frozen=True)
class PathInfo:
    """How one kind of a peer's memory is reached, and why."""

    memory: MemoryKind
    path: str  # "mapped", "cma", "tcp", "hixl"; "none": nothing may serve it
    reason: str


@dataclass(frozen=True)
class Counters:
    """Totals of an engine since init()."""

    pulls: int
    pushes: int  # layers
    copies: int
    failures: int  # timeouts included
    timeouts: int
    bytes_in: int
    bytes_out: int
    links_made: int
    links_lost: int
    table_reads: int  # cache tables read from peers
    links_silent: int  # how often a link became SILENT
