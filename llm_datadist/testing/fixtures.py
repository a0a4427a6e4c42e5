# SPDX-License-Identifier: Apache-2.0
"""What the fixtures of the pytest plugin give, by the names to annotate them with.

def test_pull(datadist_peers: DatadistPeers, datadist_engine: DatadistEngine) -> None: ...
"""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

from ..config import LLMRole
from ..datadist import LLMDataDist
from ..status import LLMStatusCode
from .calls import DatadistCalls
from .commands import Member, PeerCache
from .faults import FaultControl as DatadistFaults
from .local import LocalPeer
from .pattern import Geometry
from .peer import Peer

__all__ = [
    "Cluster",
    "DatadistCalls",
    "DatadistCluster",
    "DatadistEngine",
    "DatadistFaults",
    "DatadistPeers",
]

_LISTEN = "127.0.0.1:0"
_DEFAULT = Geometry()
_SHAPE = re.compile(r"(\d+)P(\d+)D", re.IGNORECASE)


class DatadistPeers:
    """Starts peers, each in a process of its own (fixture datadist_peers)."""

    def __init__(self) -> None:
        self._started: list[Peer] = []

    def __call__(self, **environment: str | None) -> Peer:
        """Start a peer and wait until it is ready; keyword arguments are environment variables for
        it (None takes one away).
        """
        (peer,) = self.start(1, environment)
        return peer

    def start(self, number: int, environment: Mapping[str, str | None] | None = None) -> list[Peer]:
        """Start several peers at the same time, and wait until all are ready."""
        peers = []
        for _ in range(number):
            peers.append(Peer.start(environment))
            self._started.append(peers[-1])
        for peer in peers:
            peer.wait_for("ready")
        return peers

    @property
    def started(self) -> list[Peer]:
        """Those that were started, also if they have ended since."""
        return list(self._started)

    def end(self) -> list[str]:
        """End all; return a text for each that did not end in the regular way, unless the test had
        killed it, or whose script failed.
        """
        failures = []
        ended = {peer: peer.process.poll() for peer in self._started}
        for peer, code in ended.items():
            failures += [f"{peer}: {error!r}" for error in peer.script_errors()]
            if code is None:
                peer.hang_up()
        for peer, code in ended.items():
            if code is not None:
                peer.kill()
                if code != -signal.SIGKILL:
                    failures.append(f"{peer} ended with {code} during the test")
                continue
            try:
                peer.close()
            except AssertionError as error:
                failures.append(str(error))
        self._started.clear()
        return failures


class DatadistEngine:
    """Opens engines in the process of the test (fixture datadist_engine)."""

    def __init__(self) -> None:
        self._ids = count(1)
        self._opened: list[LLMDataDist] = []

    def __call__(
        self, cluster_id: int | None = None, role: LLMRole = LLMRole.MIX, **members: Any
    ) -> LLMDataDist:
        """Open an engine as LLMDataDist.open does, in one-sided mode and beside others unless the
        members say otherwise.

        Args:
            cluster_id: None: 1, 2, 3, ... in one test.
            role: has no influence on transfers.
            members: of LLMConfig: listen_ip_info="127.0.0.1:0", sync_kv_timeout=500, ...
        """
        members.setdefault("enable_remote_cache_accessible", True)
        members.setdefault("allow_multiple_instances", True)
        number = next(self._ids) if cluster_id is None else cluster_id
        self._opened.append(LLMDataDist.open(role, number, **members))
        return self._opened[-1]

    def end(self) -> None:
        """Finalise all."""
        for engine in self._opened:
            engine.finalize()
        self._opened.clear()


class Cluster:
    """Prompts and decoders, each decoder linked to each prompt."""

    def __init__(self, prompts: Sequence[Member], decoders: Sequence[Member]) -> None:
        self.prompts = list(prompts)
        self.decoders = list(decoders)
        self.caches: list[PeerCache] = []
        """The cache "kv" of each member, in the order of members; [] if none was asked for."""

    @property
    def members(self) -> list[Member]:
        """All, the prompts first."""
        return [*self.prompts, *self.decoders]

    def register(
        self, name: str, geometry: Geometry, model_id: int = 0, **options: Any
    ) -> list[PeerCache]:
        """Register a paged cache at each member, which is filled with its cluster id as the stamp.

        Returns them in the order of members. Arguments as of Peer.register.
        """
        caches = []
        for member in self.members:
            stamp = member.cluster_id
            caches.append(member.register(name, geometry, stamp, model_id, **options))
        return caches

    def link(self, timeout_ms: int | None = None) -> None:
        """Link each decoder to all prompts. Raises AssertionError unless all links are made."""
        __tracebackhide__ = True
        for decoder in self.decoders:
            answer = decoder.link_to(
                *(each.cluster() for each in self.prompts), timeout_ms=timeout_ms
            )
            if answer.status != LLMStatusCode.LLM_SUCCESS:
                raise AssertionError(f"{decoder} could not link: {answer}")


class DatadistCluster:
    """Makes sets of prompts and decoders (fixture datadist_cluster)."""

    def __init__(self, peers: DatadistPeers) -> None:
        self._peers = peers
        self._local: list[LocalPeer] = []

    def __call__(
        self,
        shape: str,
        *,
        geometry: Geometry | None = _DEFAULT,
        in_process: bool = False,
        linked: bool = True,
        environment: Mapping[str, str | None] | None = None,
        **init: Any,
    ) -> Cluster:
        """Make a set: "2P4D" is two prompts and four decoders, with cluster ids from 1 on.

        Args:
            shape: how many of each.
            geometry: of the paged cache "kv" that each member registers, before anybody links: on a
                device, and in strict mode, memory that is registered later is not reached. It is
                filled with the cluster id as its stamp. None: no cache.
            in_process: in the process of the test, instead of one process for each.
            linked: False: nobody is linked yet.
            environment: variables, of the processes or of the engines.
            init: further arguments of Peer.init, for all.
        """
        found = _SHAPE.fullmatch(shape)
        if found is None:
            raise ValueError(f'shape must be such as "1P1D" or "2P4D", got {shape!r}')
        prompts, decoders = map(int, found.groups())
        members: list[Member]
        if in_process:
            local = [LocalPeer() for _ in range(prompts + decoders)]
            self._local += local
            members = [*local]
            init["environment"] = environment
        else:
            members = [*self._peers.start(prompts + decoders, environment)]
        for number, member in enumerate(members, 1):
            role = LLMRole.PROMPT if number <= prompts else LLMRole.DECODER
            member.init(number, **{"role": role, "listen": _LISTEN, **init})
        cluster = Cluster(members[:prompts], members[prompts:])
        if geometry is not None:
            cluster.caches = cluster.register("kv", geometry)
        if linked:
            cluster.link()
        return cluster

    def end(self) -> None:
        """Reset those of this process."""
        # The last one first: each gives back the environment that it found.
        for member in reversed(self._local):
            member.reset()
        self._local.clear()
