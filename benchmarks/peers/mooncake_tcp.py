# SPDX-License-Identifier: Apache-2.0
"""Mooncake's Transfer Engine over TCP, from Python, without a metadata server."""

from __future__ import annotations

from typing import Any

from mooncake.engine import TransferEngine

from llm_datadist.testing.pattern import Blocks

from . import arenas
from .arenas import check

_HOST = "127.0.0.1"
# More than 4096 reads in flight to one owner are refused by default.
_BATCH = 2048


def _engine(address: int, size: int) -> TransferEngine:
    engine = TransferEngine()
    check(engine.initialize(_HOST, "P2PHANDSHAKE", "tcp", ""), 0, "initialize")
    check(engine.register_memory(address, size), 0, "register_memory")
    return engine


class Owner(arenas.Owner):
    def info(self) -> str:
        self._engine = _engine(self.address, self.size)
        return f"{_HOST}:{self._engine.get_rpc_port()}"


class Puller(arenas.Puller):
    def attach(self, owner: str) -> None:
        self._owner = owner
        self._engine = _engine(self.address, self.size)

    def prepare(self, src: Blocks, dst: Blocks, size: int) -> Any:
        return src.tolist(), dst.tolist(), [size] * len(src)

    def pull(self, prepared: Any) -> None:
        src, dst, sizes = prepared
        if len(src) == 1:
            status = self._engine.transfer_sync_read(self._owner, dst[0], src[0], sizes[0])
            return check(status, 0, "transfer_sync_read")
        for first in range(0, len(src), _BATCH):
            part = slice(first, first + _BATCH)
            status = self._engine.batch_transfer_sync_read(
                self._owner, dst[part], src[part], sizes[part]
            )
            check(status, 0, "batch_transfer_sync_read")
