# SPDX-License-Identifier: Apache-2.0
"""The paths that bytes may take between two peers, each with the kind of memory that it serves."""

from __future__ import annotations

import os
from dataclasses import dataclass

import pytest

from llm_datadist.introspection import MemoryKind
from llm_datadist.testing import Geometry, Peer, PeerCache, device

TRANSPORT = "LLM_DATADIST_MOCK_TRANSPORT"
POOL_BYTES = 32 << 20

# Whether the engines of this run are Ascend's: on a device, or over the fake CANN (tests/ascend).
BACKEND = os.environ.get("LLM_DATADIST_BACKEND", "")
ON_ASCEND = BACKEND == "ascend" or os.path.basename(BACKEND).startswith("libllm_datadist_ascend")
ON_FAKE = ON_ASCEND and os.environ.get("LLM_DATADIST_TEST_FAKE_CANN") == "1"
# Whether no address of device memory may be touched.
ON_DEVICE = ON_ASCEND and not device.at_host_addresses()
# The address of this host at which engines listen; HIXL discourages loopback.
IP = os.environ.get("LLM_DATADIST_TEST_DEVICE_IP", "127.0.0.1")
LISTEN = f"{IP}:0"
if ON_ASCEND:
    # So that HIXL begins with init, as the suite expects of what an engine holds.
    os.environ.setdefault("LLM_DATADIST_HOST_IP", IP)


@dataclass(frozen=True)
class Path:
    """One path, and what a test does to get it."""

    name: str
    memory: MemoryKind
    asked_for: bool
    # What link_paths() calls it.
    transport: str = ""

    def __str__(self) -> str:
        return self.name

    @property
    def environment(self) -> dict[str, str]:
        return {} if self.transport == "hixl" else {TRANSPORT: self.name}

    @property
    def of_pools(self) -> bool:
        """Whether it serves allocated caches: their memory is known to every link."""
        return self.memory is MemoryKind.ALLOCATED

    @property
    def device_pool(self) -> int:
        return POOL_BYTES if self.of_pools else 0

    @property
    def needs_the_peer(self) -> bool:
        """Whether a stopped peer's memory cannot be reached: the fake's hardware is a thread of
        its.
        """
        return self.name == "tcp" or ON_FAKE

    def cache(
        self,
        peer: Peer,
        name: str,
        geometry: Geometry,
        stamp: int,
        model_id: int | None = None,
    ) -> PeerCache:
        """A cache of the kind of memory that this path serves."""
        if self.of_pools:
            return peer.allocate(name, geometry, stamp, model_id)
        return peer.register(name, geometry, stamp, model_id)

    def require(self, peer: Peer, other: Peer, process_vm_refused: str) -> None:
        """The link between the two must really use this path.

        A path is skipped only where this machine cannot have it, and only when nobody asked for it
        by name.
        """
        found = path_to(peer, other, self.memory)
        if found.path == (self.transport or self.name):
            return
        if self.name == "cma" and process_vm_refused and not self.asked_for:
            pytest.skip(f"capability process_vm: {process_vm_refused}")
        pytest.fail(f"the path is {found.path!r}, not {self.name!r}: {found.reason}")


def helped_path() -> Path:
    """A path on which a stopped peer does not move bytes."""
    if not ON_ASCEND:
        return Path("tcp", MemoryKind.REGISTERED, True)
    if not ON_FAKE:
        pytest.skip("capability a transport that needs the peer: a device's does not")
    return Path("ascend", MemoryKind.REGISTERED, True, "hixl")


def path_to(peer: Peer, other: Peer, memory: MemoryKind):
    """How peer reaches memory of this kind of the other."""
    (found,) = (info for info in peer.call("link_paths", other.cluster_id) if info.memory is memory)
    return found


# By the names that LLM_DATADIST_TEST_PATHS has for them.
MOCK_PATHS = {
    "mapped": [("mapped", MemoryKind.ALLOCATED, "mapped")],
    "cma": [("cma", MemoryKind.REGISTERED, "cma")],
    "tcp": [("tcp", MemoryKind.REGISTERED, "tcp")],
}
ASCEND_PATHS = {
    "ascend": [
        ("ascend", MemoryKind.REGISTERED, "hixl"),
        ("ascend-pool", MemoryKind.ALLOCATED, "hixl"),
    ],
}


def asked_for() -> set[str] | None:
    """The names in LLM_DATADIST_TEST_PATHS; None: whatever is there."""
    text = os.environ.get("LLM_DATADIST_TEST_PATHS")
    if text is None:
        return None
    names = set(text.split(","))
    known = [*MOCK_PATHS, *ASCEND_PATHS]
    if names - set(known):
        raise pytest.UsageError(
            f"LLM_DATADIST_TEST_PATHS names {sorted(names - set(known))}; known: {known}"
        )
    return names


def wanted() -> list[Path]:
    """The paths to run on: what was asked for, or all that the library of this run has.

    A run has one library. tests/ascend runs this suite once more, with the other one.
    """
    here = ASCEND_PATHS if ON_ASCEND else MOCK_PATHS
    names = asked_for()
    if names is not None and names - set(here):
        raise pytest.UsageError(
            f"LLM_DATADIST_TEST_PATHS asks for {sorted(names - set(here))}, but the library of "
            f"this run ({BACKEND or 'mock'}) has {[*here]}; tests/ascend runs this suite on the "
            "Ascend library, on the fake CANN"
        )
    return [
        Path(name, memory, names is not None, transport)
        for asked, paths in here.items()
        for name, memory, transport in paths
        if names is None or asked in names
    ]
