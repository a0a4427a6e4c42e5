# SPDX-License-Identifier: Apache-2.0
"""Copies between own caches, and memory mapped anew: what CacheManager checks and has the engine do
(contract 6.3 to 6.5).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ._checks import (
    check_elements,
    check_int64,
    check_type,
    check_uint32,
    check_uint64,
    refuse,
    require,
)
from .cache import Cache, MemInfo, Memtype

if TYPE_CHECKING:
    from ._native.engine import Engine


def copy_cache(
    engine: Engine,
    dst: Cache,
    src: Cache,
    dst_batch_index: int,
    src_batch_index: int,
    offset: int,
    size: int,
    req_id: int | None,
) -> None:
    """Do CacheManager.copy_cache."""
    check_type("dst", dst, Cache)
    check_type("src", src, Cache)
    check_uint32("dst_batch_index", dst_batch_index)
    check_uint32("src_batch_index", src_batch_index)
    check_uint64("offset", offset)
    check_int64("size", size)
    require(not src.is_blocks_cache, "copy_cache: src has blocks")
    require(not dst.is_blocks_cache, "copy_cache: dst has blocks")
    if size != -1 and size <= 0:
        refuse(f"size must be -1 or positive, got {size}")
    if req_id is not None:
        check_uint64("req_id", req_id)
    engine.copies.copy_cache(
        (dst.cache_id, dst_batch_index), (src.cache_id, src_batch_index), offset, size
    )


def copy_blocks(engine: Engine, cache: Cache, copy_block_info: dict[int, list[int]]) -> None:
    """Do CacheManager.copy_blocks."""
    check_type("cache", cache, Cache)
    check_type("copy_block_info", copy_block_info, dict)
    sources: list[int] = []
    destinations: list[int] = []
    for block, targets in dict(copy_block_info).items():
        check_type(f"copy_block_info[{block!r}]", targets, list)
        taken = list(targets)
        sources.extend([block] * len(taken))
        destinations.extend(taken)
    src = engine.block_ids("the keys of copy_block_info", sources)
    dst = engine.block_ids("the values of copy_block_info", destinations)
    require(cache.is_blocks_cache, "copy_blocks: the cache has no blocks")
    engine.copies.copy_blocks(cache.cache_id, src, dst)


def swap_blocks(
    engine: Engine, src_cache: Cache, dst_cache: Cache, src_to_dst: dict[int, int]
) -> None:
    """Do CacheManager.swap_blocks."""
    check_type("src_cache", src_cache, Cache)
    check_type("dst_cache", dst_cache, Cache)
    require(src_cache.is_blocks_cache, "swap_blocks: src_cache has no blocks")
    require(dst_cache.is_blocks_cache, "swap_blocks: dst_cache has no blocks")
    check_type("src_to_dst", src_to_dst, dict)
    pairs = dict(src_to_dst)
    check_elements("src_to_dst", pairs, int, dict)
    src_desc, dst_desc = src_cache.cache_desc, dst_cache.cache_desc
    block_bytes = src_desc.size // src_desc.batch_size
    if block_bytes != dst_desc.size // dst_desc.batch_size:
        refuse("swap_blocks: the blocks of src_cache and dst_cache have different sizes")
    if src_desc.num_tensors != dst_desc.num_tensors:
        refuse("swap_blocks: src_cache and dst_cache have different numbers of tensors")
    _check_below("src_to_dst: source", pairs, src_desc.batch_size)
    _check_below("src_to_dst: destination", pairs.values(), dst_desc.batch_size)
    src = engine.block_ids("the keys of src_to_dst", list(pairs))
    dst = engine.block_ids("the values of src_to_dst", list(pairs.values()))
    if src_desc.placement == dst_desc.placement:
        refuse(f"swap_blocks: both caches have {src_desc.placement}")
    engine.copies.swap_blocks(
        src_desc.placement,
        src_cache.tensor_addrs,
        dst_cache.tensor_addrs,
        block_bytes,
        src,
        dst,
    )


def _check_below(name: str, blocks: Iterable[int], limit: int) -> None:
    for block in blocks:
        if not 0 <= block < limit:
            refuse(f"{name} block {block} is not in [0, {limit})")


def remap_registered_memory(engine: Engine, mem_infos: MemInfo | list[MemInfo]) -> None:
    """Do CacheManager.remap_registered_memory."""
    infos = [mem_infos] if isinstance(mem_infos, MemInfo) else mem_infos
    if not isinstance(infos, list):
        refuse("mem_infos must be a MemInfo or a list of them")
    infos = list(infos)
    if not all(isinstance(each, MemInfo) for each in infos):
        refuse("mem_infos must be a MemInfo or a list of them")
    for info in infos:
        if info.mem_type is not Memtype.MEM_TYPE_DEVICE or info.addr == 0 or info.size <= 0:
            refuse(f"mem_infos must be device memory with an address and a size, got {info}")
        check_uint64("addr", info.addr)
        check_uint64("size", info.size)
    engine.copies.remap(infos)
