# SPDX-License-Identifier: Apache-2.0
"""What the demo asks of its two processes: each class is one request."""

from __future__ import annotations

from dataclasses import dataclass

from ._geometry import Geometry
from ._pattern import Blocks, Moved


@dataclass(frozen=True)
class Open:
    """Open the engine and make the cache. Answer: Opened."""

    role: str  # a name of LLMRole, in lower case
    cluster_id: int
    geometry: Geometry
    allocated: bool  # from the engine's pool; else registered
    timeout_ms: int  # for one transfer
    corrupt: str  # "", "addressed", "untouched": which byte to damage before a check


@dataclass(frozen=True)
class Opened:
    """Where this end listens, and what moves the bytes."""

    address: tuple[str, int]
    runtime: str


@dataclass(frozen=True)
class Link:
    """Link to the peer that listens there. No answer."""

    cluster_id: int
    address: tuple[str, int]
    timeout_ms: int


@dataclass(frozen=True)
class Fill:
    """Write the own pattern of a step to the whole cache. No answer."""

    step: int


@dataclass(frozen=True)
class Transfer:
    """Pull blocks from, or push blocks to, the peer. Answer: seconds."""

    operation: str  # "pull", "push"
    cluster_id: int
    src: Blocks
    dst: Blocks


@dataclass(frozen=True)
class Check:
    """Look at every byte of the cache. No answer; a wrong byte is a failure."""

    step: int
    moved: Moved | None


@dataclass(frozen=True)
class Path:
    """Say how the peer's memory is reached. Answer: path and reason."""

    cluster_id: int
