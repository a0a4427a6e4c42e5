# SPDX-License-Identifier: Apache-2.0
"""What the peers of demo and bench do alike with their engine on 127.0.0.1."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

from llm_datadist import LLMDataDistWarning, LLMStatusCode, backend_info
from llm_datadist.introspection import PathInfo
from llm_datadist.testing import device
from llm_datadist.testing.actor import Actor, ClusterAddress, EngineSpec, LinkAnswer

LOCAL = "127.0.0.1"
LISTEN = f"{LOCAL}:0"  # any free port


@dataclass(frozen=True)
class Opened:
    """Where an engine listens, and what moves the bytes."""

    address: tuple[str, int]
    runtime: str


def open_engine(actor: Actor, spec: EngineSpec) -> Opened:
    """Open the actor's engine, which listens.

    Raises RuntimeError where device memory cannot be touched at its addresses.
    """
    with warnings.catch_warnings():
        # The heading of the results names the runtime.
        warnings.filterwarnings("ignore", "no Ascend device", LLMDataDistWarning)
        address = actor.init(spec)
    info = backend_info()
    if not device.at_host_addresses():
        actor.finalize()
        raise RuntimeError(
            f"{info.name}: demo and bench fill and check memory at its addresses, which "
            "a device's has not; llm-datadist selftest and examples/two_devices.py run there, and "
            "LLM_DATADIST_BACKEND=mock has these two run here"
        )
    if address is None:
        raise ValueError(f"the engine was not told to listen: {spec}")
    return Opened(address, f"{info.name} {info.version}")


def link(actor: Actor, peer: ClusterAddress, timeout_ms: int) -> None:
    """Link to the peer that listens there. Raises RuntimeError."""
    _check(f"link_clusters to {peer.address}", actor.link([peer], timeout_ms))


def unlink(actor: Actor, peer: ClusterAddress, timeout_ms: int) -> None:
    """Undo link. Raises RuntimeError."""
    _check("unlink_clusters", actor.unlink([peer], timeout_ms))


def _check(what: str, answer: LinkAnswer) -> None:
    if answer.status != LLMStatusCode.LLM_SUCCESS:
        raise RuntimeError(f"{what} answered {answer.status}")


def path_to(actor: Actor, cluster_id: int, allocated: bool) -> PathInfo:
    """Return how the peer's allocated, or registered, memory is reached."""
    kind = "ALLOCATED" if allocated else "REGISTERED"
    for path in actor.datadist.link_paths(cluster_id):
        if path.memory.name == kind:
            return path
    raise RuntimeError(f"the link to {cluster_id} lists no path for {kind} memory")
