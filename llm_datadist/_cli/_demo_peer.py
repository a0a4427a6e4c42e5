# SPDX-License-Identifier: Apache-2.0
"""One of the two processes of the demo: a cache, a link, and transfers whose bytes it checks."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from llm_datadist import BlocksCacheKey, CacheDesc, DataType, LLMRole, Placement

from . import _engine, _processes
from ._demo_messages import Check, Fill, Link, Open, Opened, Path, Transfer
from ._geometry import DTYPES, Geometry, in_words
from ._pattern import Moved, Pattern, WrongByte

MODEL_ID = 0


class WrongByteError(Exception):
    """A byte is not what it should be."""


class DemoPeer:
    """Handles the requests of _demo_messages."""

    def __init__(self) -> None:
        self._is_open = False
        self._corrupt = ""

    def handle(self, request: Any) -> Any:
        """Do what is asked; returns the answer."""
        handlers: dict[type, Callable[[Any], Any]] = {
            Open: self._open,
            Link: self._link,
            Fill: self._fill,
            Transfer: self._transfer,
            Check: self._check,
            Path: self._path,
        }
        return handlers[type(request)](request)

    def _open(self, request: Open) -> Opened:
        self._corrupt = request.corrupt
        self._cluster_id, self._geometry = request.cluster_id, request.geometry
        self._allocated = request.allocated
        self._engine = _engine.open_engine(
            LLMRole[request.role.upper()],
            request.cluster_id,
            request.timeout_ms,
            request.geometry.pool_bytes if request.allocated else None,
        )
        self._is_open = True
        self._make_cache(request.geometry)
        return Opened(_engine.address_of(self._engine), _engine.runtime())

    def _make_cache(self, geometry: Geometry) -> None:
        manager = self._engine.cache_manager
        data_type = DataType[DTYPES[geometry.dtype][1]]
        desc = CacheDesc(geometry.tensors, geometry.shape, data_type, Placement.DEVICE)
        key = BlocksCacheKey(self._cluster_id, MODEL_ID)
        words = geometry.tensor_bytes // 8
        if self._allocated:
            self._cache = manager.allocate_blocks_cache(desc, key)
            flat = [_engine.words_at(address, words) for address in self._cache.tensor_addrs]
        else:
            memory = np.empty((geometry.tensors, words), np.uint64)
            flat = list(memory)
            addresses = [tensor.ctypes.data for tensor in flat]
            self._cache = manager.register_blocks_cache(desc, addresses, key)
        self._tensors = [tensor.reshape(geometry.blocks, -1) for tensor in flat]
        self._pattern = Pattern(geometry.blocks, geometry.block_bytes // 8)

    def _link(self, request: Link) -> None:
        _engine.link(self._engine, request.cluster_id, request.address, request.timeout_ms)

    def _fill(self, request: Fill) -> None:
        self._pattern.fill(self._tensors, self._cluster_id, request.step)

    def _transfer(self, request: Transfer) -> float:
        manager = self._engine.cache_manager
        key = BlocksCacheKey(request.cluster_id, MODEL_ID)
        call = manager.pull_blocks if request.operation == "pull" else manager.push_blocks
        start = time.perf_counter()
        call(key, self._cache, request.src, request.dst)
        return time.perf_counter() - start

    def _check(self, request: Check) -> None:
        if self._corrupt and request.moved is not None:
            self._damage(request.moved)
        wrong = self._pattern.check(self._tensors, self._cluster_id, request.step, request.moved)
        if wrong is not None:
            raise WrongByteError(self._describe(wrong, request.moved))

    def _damage(self, moved: Moved) -> None:
        blocks: npt.NDArray[np.uint64] = moved.dst
        if self._corrupt == "untouched":
            everything = np.arange(self._geometry.blocks, dtype=np.uint64)
            blocks = np.setdiff1d(everything, moved.dst)
        damaged = self._tensors[-1][int(blocks[-1])].view(np.uint8)
        damaged[-1] ^= 0x10

    def _describe(self, wrong: WrongByte, moved: Moved | None) -> str:
        layer, kind = divmod(wrong.tensor, 2)
        places = [] if moved is None else np.flatnonzero(moved.dst == wrong.block).tolist()
        if moved is not None and places:
            origin = f"block {moved.src[places[0]]} of the peer was moved there"
        else:
            origin = "nothing was moved there"
        return (
            f"block {wrong.block}, tensor {wrong.tensor} ({'KV'[kind]} of layer {layer}), "
            f"byte {wrong.offset} of {in_words(self._geometry.block_bytes)}: "
            f"found 0x{wrong.found:02x}, should be 0x{wrong.wanted:02x}; {origin}"
        )

    def _path(self, request: Path) -> tuple[str, str]:
        path = _engine.path_to(self._engine, request.cluster_id, self._allocated)
        return path.path, path.reason

    def close(self) -> None:
        """Finalize the engine."""
        if self._is_open:
            self._engine.finalize()


def main(descriptor: int) -> int:
    """Be a peer of the demo whose channel is the descriptor; returns the exit status."""
    peer = DemoPeer()
    _processes.serve(descriptor, peer.handle)
    peer.close()
    return 0
