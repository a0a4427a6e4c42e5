# SPDX-License-Identifier: Apache-2.0
"""Peers in processes of their own, for tests of clients and of this package.

A minimal test of a transfer between two real processes:

    with Peer.start() as owner, Peer.start() as puller:
        owner.init(cluster_id=1, listen="127.0.0.1:0")
        puller.init(cluster_id=2)
        source = owner.register("kv", Geometry(), stamp=1, model_id=0)
        target = puller.register("kv", Geometry(), stamp=2)
        assert puller.link(owner) == LLMStatusCode.LLM_SUCCESS
        puller.pull("kv", BlocksCacheKey(1, 0), [3, 1], [0, 2])
        check(target, moved(target.filled(), source.filled(), [3, 1], [0, 2]))
"""

from __future__ import annotations

from . import faults
from .calls import Call
from .commands import Member, PeerCache, check
from .faults import FaultControl, Injection
from .fixtures import (
    Cluster,
    DatadistCalls,
    DatadistCluster,
    DatadistEngine,
    DatadistFaults,
    DatadistPeers,
)
from .local import LocalPeer
from .pattern import Geometry, Stamp, describe_difference, moved
from .peer import DeadlineError, Peer, PeerCall, PeerGoneError
from .resources import Resources, leaked, wait_until_given_back
from .waiting import eventually

__all__ = [
    "Call",
    "Cluster",
    "DatadistCalls",
    "DatadistCluster",
    "DatadistEngine",
    "DatadistFaults",
    "DatadistPeers",
    "DeadlineError",
    "FaultControl",
    "Geometry",
    "Injection",
    "LocalPeer",
    "Member",
    "Peer",
    "PeerCache",
    "PeerCall",
    "PeerGoneError",
    "Resources",
    "Stamp",
    "check",
    "describe_difference",
    "eventually",
    "faults",
    "leaked",
    "moved",
    "wait_until_given_back",
]
