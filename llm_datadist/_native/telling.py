# SPDX-License-Identifier: Apache-2.0
"""What the library tells of transfers, as Python has it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ..introspection import LastError, LinkState
from ..statistics import Latency, LinkStatistics, Traffic
from ..status import LLMStatusCode, code_of
from . import marshal

if TYPE_CHECKING:
    from ._ffi import FFI, Array, Null, lldd_link_info, lldd_traffic

# By LLDD_PATH_* and LLDD_FAILURE_*.
PATHS = ("mapped", "cma", "tcp", "hixl")
FAILURES = (
    LLMStatusCode.LLM_TIMEOUT,
    LLMStatusCode.LLM_KV_CACHE_NOT_EXIST,
    LLMStatusCode.LLM_PARAM_INVALID,
    LLMStatusCode.LLM_NOT_YET_LINK,
    LLMStatusCode.LLM_OUT_OF_MEMORY,
    LLMStatusCode.LLM_FEATURE_NOT_ENABLED,
    LLMStatusCode.LLM_SUSPECT_REMOTE_ERROR,
    LLMStatusCode.LLM_FAILED,
)
_LATENCY_BUCKETS = 28


class Row(NamedTuple):
    """One side of one link, or of all of them."""

    side: int  # LLDD_SIDE_*
    peer_cluster_id: int
    number: str
    state: LinkState | None  # None: of all links
    peer_address: str
    traffic: Traffic


def seconds(us: int) -> float | None:
    """Return a moment as time.time() has it; None: never."""
    return us / 1e6 if us else None


def last_error(ffi: FFI, row: lldd_link_info | lldd_traffic) -> LastError | None:
    """Return the last failure; None: there was none."""
    if not row.last_error_us:
        return None
    text = marshal.text(ffi, row.last_error)
    return LastError(code_of(row.last_error_status), text, row.last_error_us / 1e6)


def failures(ffi: FFI, counts: Array[int] | Null) -> dict[str, int]:
    """Return how often there was which failure."""
    numbers = ffi.unpack(counts, len(FAILURES))
    return {code.name: count for code, count in zip(FAILURES, numbers) if count}


def _by_path(ffi: FFI, moved: Array[int] | Null) -> dict[str, int]:
    numbers = ffi.unpack(moved, len(PATHS))
    return {path: count for path, count in zip(PATHS, numbers) if count}


def row(ffi: FFI, struct: lldd_traffic) -> Row:
    """Read a row."""
    buckets = tuple(ffi.unpack(struct.latency, _LATENCY_BUCKETS))
    return Row(
        side=struct.side,
        peer_cluster_id=struct.peer_cluster_id,
        number=f"{struct.link:08x}",
        state=LinkState(struct.state) if struct.state else None,
        peer_address=marshal.text(ffi, struct.peer_address),
        traffic=Traffic(
            pulls=struct.pulls,
            pushes=struct.pushes,
            bytes_pulled=_by_path(ffi, struct.bytes_pulled),
            bytes_pushed=_by_path(ffi, struct.bytes_pushed),
            failures=failures(ffi, struct.failures),
            latency=Latency(buckets if any(buckets) else (), struct.latency_us),
            last_success=seconds(struct.last_success_us),
            last_error=last_error(ffi, struct),
        ),
    )


def link(own: Row, peers: Row) -> LinkStatistics:
    """Put both sides of a link together."""
    return LinkStatistics(
        peer_cluster_id=own.peer_cluster_id,
        number=own.number,
        state=own.state or LinkState.CLOSING,
        peer_address=own.peer_address,
        own=own.traffic,
        peers=peers.traffic,
    )
