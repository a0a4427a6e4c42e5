# SPDX-License-Identifier: Apache-2.0
"""Pulls between two engines of this process and prints, as JSON, what a warm pull asked for.

python puller.py COUNTER ALLOCATED BLOCKS BLOCK_BYTES TIMES, with COUNTER preloaded.
"""

from __future__ import annotations

import ctypes
import json
import sys
from typing import Any

import numpy as np

from llm_datadist import (
    BlocksCacheKey,
    Cache,
    CacheDesc,
    DataType,
    LLMDataDist,
    LLMStatusCode,
    Placement,
)
from llm_datadist.testing.actor import ClusterAddress, EngineSpec

TENSORS = 2
OWNER, PULLER = 1, 2


def engine(cluster_id: int, pool: int) -> LLMDataDist:
    return EngineSpec(
        cluster_id,
        listen="127.0.0.1:0",
        sync_timeout_ms=20000,
        device_pool=pool,
        several_in_a_process=True,
    ).open()


def count(
    counter: str, puller: LLMDataDist, src: np.ndarray, dst: np.ndarray, times: int
) -> dict[str, Any]:
    """Make the last pull of the engine once more, without Python around the call."""
    inside = puller.cache_manager._engine
    native, ffi = inside._native, inside._native.ffi
    args = inside._pull_frames[-1].args
    lists = inside.block_ids("", src), inside.block_ids("", dst)
    args.src_blocks, args.dst_blocks = lists
    library = ctypes.CDLL(counter)
    library.count_calls.restype = ctypes.c_int64
    library.counted_syscalls.restype = ctypes.c_uint64
    library.counted_allocations.restype = ctypes.c_uint64

    def pointer(value: object) -> ctypes.c_void_p:
        return ctypes.c_void_p(int(ffi.cast("uintptr_t", value)))

    answer = library.count_calls(
        pointer(native.pull), pointer(inside._handle), pointer(args), ctypes.c_int64(times)
    )
    numbers = range(library.most_syscalls())
    counted = {number: library.counted_syscalls(number) for number in numbers}
    return {
        "answer": answer,
        "allocations": library.counted_allocations(),
        "syscalls": {number: calls for number, calls in counted.items() if calls},
    }


def main(counter: str, allocated: bool, blocks: int, block_bytes: int, times: int) -> None:
    # Twice the blocks: no two that are pulled are neighbours, so none are merged.
    desc = CacheDesc(TENSORS, (2 * blocks, block_bytes), DataType.DT_UINT8, Placement.DEVICE)
    size = TENSORS * 2 * blocks * block_bytes
    keep: list[np.ndarray] = []

    def cache_of(datadist: LLMDataDist, cluster_id: int) -> Cache:
        key = BlocksCacheKey(cluster_id, 0)
        if allocated:
            return datadist.cache_manager.allocate_blocks_cache(desc, key)
        memory = np.zeros(size, np.uint8)
        keep.append(memory)
        addrs = [memory.ctypes.data + index * size // TENSORS for index in range(TENSORS)]
        return datadist.cache_manager.register_blocks_cache(desc, addrs, key)

    pool = size + (1 << 22) if allocated else 0
    owner, puller = engine(OWNER, pool), engine(PULLER, pool)
    cache_of(owner, OWNER)
    own = cache_of(puller, PULLER)
    cluster = ClusterAddress(OWNER, owner.listen_address).info()
    status, _ = puller.link_clusters([cluster], 20000)
    assert status == LLMStatusCode.LLM_SUCCESS

    # One for pools, one for registered memory.
    path = puller.link_paths(OWNER)[0 if allocated else 1]
    if path.path == "none":
        print(json.dumps({"refused": path.reason}))
        return

    ids = np.arange(0, 2 * blocks, 2, dtype=np.uint64)
    back = ids[::-1].copy()
    for _ in range(3):
        puller.cache_manager.pull_blocks(BlocksCacheKey(OWNER, 0), own, ids, back)

    print(json.dumps(count(counter, puller, ids, back, times)))
    puller.finalize()
    owner.finalize()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] == "allocated", *map(int, sys.argv[3:6]))
