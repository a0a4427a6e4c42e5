# SPDX-License-Identifier: Apache-2.0
"""What LLMDataDist tells about its links and its work. An extension: CANN's interface has nothing
like it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from .status import LLMStatusCode

__all__ = ["Counters", "LastError", "LinkInfo", "LinkState", "MemoryKind", "PathInfo"]


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
class LastError:
    """The last transfer that failed."""

    status_code: LLMStatusCode
    text: str  # at most 240 bytes
    time: float  # as time.time()


@dataclass(frozen=True)
class LinkInfo:
    """One link as this end sees it; totals since it was made.

    The members that begin with peer_ are of transfers that the other end asked for, as it reports
    them: every 100 ms while they go on, within half a second after a rest, and when the link is
    taken down. LLMDataDist.statistics() has more of both.
    """

    peer_cluster_id: int
    state: LinkState
    peer_address: str  # "127.0.0.1:26000", "[::1]:26000"
    is_initiator: bool  # this end made the connection
    comm_id: int  # of link(); 0: made by link_clusters()
    pulls: int
    pushes: int  # layers
    bytes_in: int
    bytes_out: int
    number: str = ""  # "3fa2b1c0", by which the logs of both ends call the link
    failures: dict[str, int] = field(default_factory=dict)  # of this end, by status: "LLM_TIMEOUT"
    last_success: float | None = None  # of this end, as time.time()
    last_error: LastError | None = None  # of this end
    peer_pulls: int = 0  # from this end
    peer_pushes: int = 0  # layers
    peer_bytes_in: int = 0  # that the peer pushed into this engine
    peer_bytes_out: int = 0  # that it pulled from it
    peer_failures: int = 0

    @property
    def timeouts(self) -> int:
        """Of the failures, those with LLM_TIMEOUT."""
        return self.failures.get("LLM_TIMEOUT", 0)


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
    # What peers report of their transfers with this engine, at the latest half a second late.
    peer_pulls: int = 0
    peer_pushes: int = 0  # layers
    peer_bytes_in: int = 0  # that peers pushed into this engine
    peer_bytes_out: int = 0  # that peers pulled from it
    peer_failures: int = 0
