# SPDX-License-Identifier: Apache-2.0
"""What the two peers of the demo do: a cache each, and transfers whose bytes they check.

Each function is a command for a peer, whose Actor it gets.
"""

from __future__ import annotations

import time

import numpy as np

from llm_datadist import BlocksCacheKey
from llm_datadist._tools import engines
from llm_datadist._tools.engines import Opened
from llm_datadist._tools.units import in_words
from llm_datadist.testing import Geometry
from llm_datadist.testing.actor import Actor, EngineSpec
from llm_datadist.testing.pattern import Blocks, Moved, Stamp, WrongByte, first_wrong_byte

CACHE = "kv"
MODEL_ID = 0


class WrongByteError(Exception):
    """A byte is not what it should be."""


def open_with_cache(actor: Actor, spec: EngineSpec, geometry: Geometry) -> Opened:
    """Open the engine and make the cache: in the engine's pool, if it has one."""
    opened = engines.open_engine(actor, spec)
    make = actor.allocate if spec.device_pool else actor.register
    make(CACHE, geometry, None, MODEL_ID)
    return opened


def timed_transfer(actor: Actor, operation: str, peer_id: int, src: Blocks, dst: Blocks) -> float:
    """Pull blocks from, or push blocks to, the peer; returns seconds."""
    manager = actor.datadist.cache_manager
    key, cache = BlocksCacheKey(peer_id, MODEL_ID), actor.caches[CACHE].cache
    call = manager.pull_blocks if operation == "pull" else manager.push_blocks
    start = time.perf_counter()
    call(key, cache, src, dst)
    return time.perf_counter() - start


def check(actor: Actor, stamp: Stamp, moved: Moved | None, corrupt: str) -> None:
    """Look at every byte of the cache. Raises WrongByteError.

    Args:
        actor: of this process.
        stamp: that the cache was filled with.
        moved: what was moved into it since then.
        corrupt: which byte to damage before: "", "addressed" or "untouched" by the transfer.
    """
    held = actor.caches[CACHE]
    tensors = [held.tensor(index) for index in range(held.geometry.num_tensors)]
    if corrupt and moved is not None:
        blocks = moved.dst
        if corrupt == "untouched":
            everything = np.arange(held.geometry.num_blocks, dtype=np.uint64)
            blocks = np.setdiff1d(everything, moved.dst)
        tensors[-1][int(blocks[-1])].view(np.uint8)[-1] ^= 0x10
    wrong = first_wrong_byte(tensors, stamp, moved)
    if wrong is not None:
        raise WrongByteError(_describe(wrong, moved, held.geometry.block_bytes))


def _describe(wrong: WrongByte, moved: Moved | None, block_bytes: int) -> str:
    layer, kind = divmod(wrong.tensor, 2)
    places = [] if moved is None else np.flatnonzero(moved.dst == wrong.block).tolist()
    if moved is not None and places:
        origin = f"block {moved.src[places[0]]} of the peer was moved there"
    else:
        origin = "nothing was moved there"
    return (
        f"block {wrong.block}, tensor {wrong.tensor} ({'KV'[kind]} of layer {layer}), "
        f"byte {wrong.offset} of {in_words(block_bytes)}: "
        f"found 0x{wrong.found:02x}, should be 0x{wrong.wanted:02x}; {origin}"
    )
