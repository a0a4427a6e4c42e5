# SPDX-License-Identifier: Apache-2.0
"""Which peers there are, what they are compared with, and what this project aims at."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from dataclasses import dataclass, field
from typing import Any, Callable


@dataclass(frozen=True)
class Peer:
    name: str  # what --peers calls it
    title: str
    module: str  # of this package, with Owner and Puller
    path: str  # of llm_datadist, which it is compared with
    needs: str = ""  # what must be importable
    install: str = ""  # how it gets there
    distribution: str = ""  # whose version is shown
    options: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    targets: dict[str, float] = field(default_factory=dict)  # work: how many times as fast
    build: str = ""  # a function of the module that makes more options, in a directory

    def obstacle(self) -> str:
        """Say why it cannot be measured; "": it can."""
        if not self.needs or importlib.util.find_spec(self.needs.partition(".")[0]) is not None:
            return ""
        return f"not installed: {self.install}"

    def version(self) -> str:
        return importlib.metadata.version(self.distribution) if self.distribution else ""

    def builder(self) -> Callable[[str], dict[str, Any]]:
        module = importlib.import_module(f"benchmarks.peers.{self.module}")
        function: Callable[[str], dict[str, Any]] = getattr(module, self.build)
        return function


_UCX = {
    "module": "ucx",
    "needs": "libucx",
    "install": "pip install --no-deps libucx-cu12",
    "distribution": "libucx-cu12",
    "build": "build",
}
_NIXL = {
    "module": "nixl_ucx",
    "needs": "nixl_cu12",
    "install": "pip install --no-deps nixl-cu12",
    "distribution": "nixl-cu12",
}
_NIXL_QUIET = {"NIXL_LOG_LEVEL": "WARN"}

PEERS = {
    peer.name: peer
    for peer in (
        Peer(
            "ucx",
            "UCX from C, user memory",
            path="registered",
            options={"allocated": False},
            targets={"W1": 1.3, "W2": 4.0, "W4": 1.1},
            **_UCX,
        ),
        Peer(
            "nixl",
            "NIXL, prepared lists",
            path="registered",
            environment=_NIXL_QUIET,
            targets={"W3": 2.0},
            **_NIXL,
        ),
        Peer(
            "zmq_ipc",
            "ZeroMQ ipc",
            module="zmq_ipc",
            path="registered",
            needs="zmq",
            install="pip install pyzmq",
            distribution="pyzmq",
        ),
        Peer(
            "ucx_shm",
            "UCX from C, its shared memory",
            path="allocated",
            options={"allocated": True},
            # Left to itself it reads what it has allocated by process_vm_readv, which is slower.
            environment={"UCX_TLS": "sysv,self"},
            targets={"W1": 1.3, "W2": 1.3, "W4": 1.3},
            **_UCX,
        ),
        Peer("mp_shm", "shared_memory and numpy", module="mp_shm", path="allocated"),
        Peer(
            "nixl_tcp",
            "NIXL over TCP",
            path="tcp",
            environment={"UCX_TLS": "tcp,self", **_NIXL_QUIET},
            targets={"W1": 2.0, "W2": 2.0, "W4": 2.0},
            **_NIXL,
        ),
        Peer(
            "mooncake",
            "Mooncake over TCP",
            module="mooncake_tcp",
            path="tcp",
            needs="mooncake",
            environment={"MC_LOG_LEVEL": "ERROR", "GLOG_minloglevel": "3"},
            install="pip install mooncake-transfer-engine-non-cuda (and libibverbs1)",
            distribution="mooncake-transfer-engine-non-cuda",
            targets={"W1": 2.0, "W2": 2.0, "W4": 2.0},
        ),
    )
}
