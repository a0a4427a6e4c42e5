# SPDX-License-Identifier: Apache-2.0
"""The paths that bytes may take between two peers, each with the kind of memory that it serves."""

from __future__ import annotations

import os
from dataclasses import dataclass

import pytest

from llm_datadist.introspection import MemoryKind
from llm_datadist.testing import Geometry, Peer, PeerCache

TRANSPORT = "LLM_DATADIST_MOCK_TRANSPORT"
POOL_BYTES = 32 << 20


@dataclass(frozen=True)
class Path:
    """One path, as link_paths() calls it, and what a test does to get it."""

    name: str
    memory: MemoryKind
    asked_for: bool

    def __str__(self) -> str:
        return self.name

    @property
    def environment(self) -> dict[str, str]:
        return {TRANSPORT: self.name}

    @property
    def device_pool(self) -> int:
        return POOL_BYTES if self.memory is MemoryKind.ALLOCATED else 0

    def cache(
        self,
        peer: Peer,
        name: str,
        geometry: Geometry,
        stamp: int,
        model_id: int | None = None,
    ) -> PeerCache:
        """A cache of the kind of memory that this path serves."""
        if self.memory is MemoryKind.ALLOCATED:
            return peer.allocate(name, geometry, stamp, model_id)
        return peer.register(name, geometry, stamp, model_id)

    def require(self, peer: Peer, other: Peer, process_vm_refused: str) -> None:
        """The link between the two must really use this path.

        A path is skipped only where this machine cannot have it, and only when nobody asked for it
        by name.
        """
        found = path_to(peer, other, self.memory)
        if found.path == self.name:
            return
        if self.name == "cma" and process_vm_refused and not self.asked_for:
            pytest.skip(f"capability process_vm: {process_vm_refused}")
        pytest.fail(f"the path is {found.path!r}, not {self.name!r}: {found.reason}")


def path_to(peer: Peer, other: Peer, memory: MemoryKind):
    """How peer reaches memory of this kind of the other."""
    (found,) = (info for info in peer.call("link_paths", other.cluster_id) if info.memory is memory)
    return found


def wanted() -> list[Path]:
    """The paths to run on: those of LLM_DATADIST_TEST_PATHS, which must be there, else all that are
    there.
    """
    kinds = {
        "mapped": MemoryKind.ALLOCATED,
        "cma": MemoryKind.REGISTERED,
        "tcp": MemoryKind.REGISTERED,
    }
    names = os.environ.get("LLM_DATADIST_TEST_PATHS")
    if names is None:
        return [Path(name, kind, False) for name, kind in kinds.items()]
    unknown = set(names.split(",")) - set(kinds)
    if unknown:
        raise pytest.UsageError(
            f"LLM_DATADIST_TEST_PATHS names {sorted(unknown)}; known: {list(kinds)}"
        )
    return [Path(name, kinds[name], True) for name in names.split(",")]
