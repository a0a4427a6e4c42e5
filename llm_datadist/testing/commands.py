# SPDX-License-Identifier: Apache-2.0
"""What a test has its members do: the same for a peer in a process of its own and for one in the
process of the test.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Callable

from .. import BlocksCacheKey, LLMRole, LLMStatusCode, Placement
from .actor import ClusterAddress, EngineSpec, LinkAnswer
from .faults import FaultControl
from .pattern import Geometry, Stamp, Words, describe_difference
from .resources import Resources

__all__ = ["Member", "PeerCache", "check"]


@dataclass(frozen=True)
class PeerCache:
    """A cache that a member holds, and what was written into it at first."""

    peer: Member
    name: str
    geometry: Geometry
    stamp: Stamp | None
    cache_id: int
    tensor_addrs: tuple[int, ...]

    def filled(self) -> Words:
        """Return what the cache contained at first: [tensor, block, word]."""
        if self.stamp is None:
            raise ValueError(f"{self.name} was not filled")
        return self.geometry.filled(self.stamp)

    def read(self) -> Words:
        """Return what the cache contains now: [tensor, block, word]."""
        words: Words = self.peer.call("read", self.name)
        return words


def check(cache: PeerCache, expected: Words) -> None:
    """Raise AssertionError unless the cache contains exactly what is expected; names the first
    wrong word's origin.
    """
    __tracebackhide__ = True
    difference = describe_difference(cache.read(), expected)
    if difference:
        raise AssertionError(f"{cache.name} of {cache.peer}: {difference}")


class Member(ABC):
    """One LLMDataDist that does what the test tells it, wherever it is."""

    _shares_its_process = False

    def __init__(self, faults: FaultControl) -> None:
        self.cluster_id: int | None = None
        self.listen_address: tuple[str, int] | None = None
        self.faults = faults
        """The fault rules of the member's process."""

    @abstractmethod
    def call(self, command: str | Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Have the member run a method of Actor, or a function that gets the actor; return its
        answer, or raise what it raised.
        """

    def init(
        self,
        cluster_id: int,
        *,
        role: LLMRole = LLMRole.MIX,
        listen: str | None = None,
        one_sided: bool = True,
        sync_timeout_ms: int | None = None,
        device_pool: int = 0,
        host_pool: int = 0,
        page_shift: int | None = None,
        environment: Mapping[str, str | None] | None = None,
        options: Mapping[str, str] | None = None,
    ) -> tuple[str, int] | None:
        """Initialise an LLMDataDist; arguments as in EngineSpec. Returns its address."""
        spec = EngineSpec(
            cluster_id,
            role,
            listen,
            one_sided,
            sync_timeout_ms,
            device_pool,
            host_pool,
            page_shift,
            several_in_a_process=self._shares_its_process,
            environment=environment or {},
            options=options or {},
        )
        address: tuple[str, int] | None = self.call("init", spec)
        self.cluster_id, self.listen_address = cluster_id, address
        return address

    def allocate(
        self,
        name: str,
        geometry: Geometry,
        stamp: Stamp | None,
        model_id: int | None = None,
        placement: Placement = Placement.DEVICE,
    ) -> PeerCache:
        """Allocate a blocks cache and fill it, unless there is no stamp."""
        cache_id, addrs = self.call("allocate", name, geometry, stamp, model_id, placement)
        return PeerCache(self, name, geometry, stamp, cache_id, tuple(addrs))

    def register(
        self,
        name: str,
        geometry: Geometry,
        stamp: Stamp | None,
        model_id: int | None = None,
        **options: Any,
    ) -> PeerCache:
        """Register a blocks cache over memory of the member's own and fill it; options as of
        Actor.register.
        """
        cache_id, addrs = self.call("register", name, geometry, stamp, model_id, **options)
        return PeerCache(self, name, geometry, stamp, cache_id, tuple(addrs))

    def key(self, model_id: int = 0) -> BlocksCacheKey:
        """Return the key that others name a paged cache of this member with."""
        if self.cluster_id is None:
            raise RuntimeError(f"{self}: a key needs init() first")
        return BlocksCacheKey(self.cluster_id, model_id)

    def cluster(self) -> ClusterAddress:
        """Return what others link to this member with."""
        return ClusterAddress(self.cluster_id, self.listen_address)

    def link(self, *others: Member, timeout_ms: int | None = None) -> LLMStatusCode:
        """Link to other members and return the overall status."""
        return self.link_to(*(other.cluster() for other in others), timeout_ms=timeout_ms).status

    def link_to(self, *clusters: ClusterAddress, timeout_ms: int | None = None) -> LinkAnswer:
        """Call link_clusters."""
        answer: LinkAnswer = self.call("link", clusters, timeout_ms)
        return answer

    def unlink(
        self, *others: Member, timeout_ms: int | None = None, force: bool = False
    ) -> LLMStatusCode:
        """Unlink from other members and return the overall status."""
        clusters = [other.cluster() for other in others]
        return self.unlink_from(*clusters, timeout_ms=timeout_ms, force=force).status

    def unlink_from(
        self, *clusters: ClusterAddress, timeout_ms: int | None = None, force: bool = False
    ) -> LinkAnswer:
        """Call unlink_clusters."""
        answer: LinkAnswer = self.call("unlink", clusters, timeout_ms, force)
        return answer

    def pull(self, name: str, key: Any, src: Any, dst: Any, **options: Any) -> None:
        """Call pull_blocks into a cache of the member."""
        self.call("pull", name, key, src, dst, **options)

    def push(self, name: str, key: Any, src: Any, dst: Any, **options: Any) -> None:
        """Call push_blocks from a cache of the member."""
        self.call("push", name, key, src, dst, **options)

    def reset(self) -> Resources:
        """Go back to the state before the first command, and tell what the process holds then."""
        resources: Resources = self.call("reset")
        self.cluster_id = self.listen_address = None
        return resources

    def finalize(self) -> None:
        """Finalise the member's LLMDataDist."""
        self.call("finalize")
