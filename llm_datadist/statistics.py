# SPDX-License-Identifier: Apache-2.0
"""What the transfers of an engine have come to, link by link and at both ends: what
LLMDataDist.statistics() returns. An extension: CANN's interface has nothing like it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from .introspection import Counters, LastError, LinkState

__all__ = ["LastError", "Latency", "LinkStatistics", "Statistics", "Traffic"]


@dataclass(frozen=True)
class Latency:
    """How long transfers that succeeded took, from the call to its end; of a push each layer.

    buckets[k] counts those of less than 2**k microseconds that are not in an earlier bucket; the
    last bucket has all longer ones. Empty where LLM_DATADIST_STATISTICS is 0.
    """

    buckets: tuple[int, ...] = ()
    total_us: int = 0

    @property
    def count(self) -> int:
        """How many transfers were measured."""
        return sum(self.buckets)

    @property
    def mean_us(self) -> float:
        """Their mean; 0 without any."""
        return self.total_us / self.count if self.count else 0.0

    def quantile_us(self, share: float) -> int:
        """Return the upper end of the bucket in which that share of the transfers, 0 to 1, had
        ended; 0 without any. The last bucket has no upper end: its lower one is returned.
        """
        if not 0 <= share <= 1:
            raise ValueError(f"share must be 0 to 1, got {share}")
        seen = 0
        for index, count in enumerate(self.buckets):
            seen += count
            if count and seen >= share * self.count:
                return 1 << min(index, len(self.buckets) - 2)
        return 0


@dataclass(frozen=True)
class Traffic:
    """Transfers in one direction of asking: those of this end, or those of its peers."""

    pulls: int = 0  # that succeeded
    pushes: int = 0  # layers
    bytes_pulled: dict[str, int] = field(default_factory=dict)  # by path, see PathInfo
    bytes_pushed: dict[str, int] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)  # by status, as "LLM_TIMEOUT"
    latency: Latency = Latency()
    last_success: float | None = None  # as time.time()
    last_error: LastError | None = None

    @property
    def failed(self) -> int:
        """How many did not succeed."""
        return sum(self.failures.values())


@dataclass(frozen=True)
class LinkStatistics:
    """One link.

    own are the transfers of this end; peers those of the other end, as it reports them: every
    100 ms while they go on, within half a second after a rest, and when the link is taken down.
    """

    peer_cluster_id: int
    number: str  # "3fa2b1c0", by which the logs of both ends call the link
    state: LinkState
    peer_address: str
    own: Traffic
    peers: Traffic


@dataclass(frozen=True)
class Statistics:
    """An engine since init().

    own and peers are the sums over all links, also of those that are gone. own has the failures of
    transfers for which there was no link, too. One-way links of peers are among links, which
    LLMDataDist.links() does not show.
    """

    cluster_id: int
    counters: Counters
    own: Traffic
    peers: Traffic
    links: tuple[LinkStatistics, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return it all as dicts, lists, numbers and texts, which json.dumps() takes."""
        plain: dict[str, Any] = _plain(self)
        return plain

    def openmetrics(self) -> str:
        """Return it as an OpenMetrics exposition, which Prometheus scrapes."""
        from ._openmetrics import exposition

        return exposition(self)


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.name
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: _plain(getattr(value, each.name)) for each in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(each) for each in value]
    return value
