# SPDX-License-Identifier: Apache-2.0
"""Pushes and asynchronous transfers: what CacheManager checks and has the engine do (contract 6.1
and 6.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Callable

from ._checks import (
    check_elements,
    check_int64,
    check_type,
    check_uint32,
    check_uint64,
    refuse,
    require,
)
from ._layers import async_tensors_per_layer, config_layers, push_layers
from ._pulls import settle_blocks
from ._tasks import TransferTask, start
from .cache import Cache, Placement
from .keys import BlocksCacheKey, CacheKeyByIdAndIndex
from .status import warn
from .transfer import (
    AnyTransferConfig,
    LayersTask,
    LayerSynchronizer,
    TransferConfig,
    TransferWithCacheKeyConfig,
)

if TYPE_CHECKING:
    from ._native._ffi import Array
    from ._native.engine import Engine
    from ._native.tokens import Token

# The own layers and the peer's; None: not given.
OptionalRanges = tuple["range | None", "range | None"]


def push_cache(
    engine: Engine,
    dst_cache_key: CacheKeyByIdAndIndex,
    src_cache: Cache,
    src_batch_index: int,
    layer_ranges: OptionalRanges,
    size: int,
    tensors_per_layer: int,
) -> None:
    """Do CacheManager.push_cache; layer_ranges are the own layers and the peer's."""
    args = _checked_cache(
        engine, dst_cache_key, src_cache, src_batch_index, layer_ranges, size, tensors_per_layer
    )
    if args[-1]:
        engine.push_cache(*args)


def push_cache_async(
    engine: Engine,
    dst_cache_key: CacheKeyByIdAndIndex,
    src_cache: Cache,
    src_batch_index: int,
    layer_ranges: OptionalRanges,
    size: int,
    tensors_per_layer: int,
) -> TransferTask:
    """Do CacheManager.push_cache_async."""
    args = _checked_cache(
        engine, dst_cache_key, src_cache, src_batch_index, layer_ranges, size, tensors_per_layer
    )

    def transfer(token: Token) -> None:
        if args[-1]:
            engine.push_cache(*args, token)

    return start(engine, "push_cache_async", dst_cache_key.cluster_id, transfer)


def _checked_cache(
    engine: Engine,
    dst_cache_key: CacheKeyByIdAndIndex,
    src_cache: Cache,
    src_batch_index: int,
    layer_ranges: OptionalRanges,
    size: int,
    tensors_per_layer: int,
) -> tuple[CacheKeyByIdAndIndex, int, int, int, tuple[int, int], int]:
    """Check a push_cache and return the arguments of Engine.push_cache."""
    _require_one_sided(engine, "push_cache")
    check_type("dst_cache_key", dst_cache_key, CacheKeyByIdAndIndex)
    check_type("src_cache", src_cache, Cache)
    check_uint32("src_batch_index", src_batch_index)
    require(not src_cache.is_blocks_cache, "push_cache: the cache has blocks")
    starts, num_layers = push_layers("push_cache", src_cache, *layer_ranges, tensors_per_layer)
    check_int64("size", size)
    if size != -1:
        refuse(f"size must be -1, got {size}")
    _check_push_id(dst_cache_key)
    return dst_cache_key, src_cache.cache_id, src_batch_index, tensors_per_layer, starts, num_layers


def push_blocks(
    engine: Engine,
    dst_cache_key: BlocksCacheKey,
    src_cache: Cache,
    src_blocks: Any,
    dst_blocks: Any,
    layer_ranges: OptionalRanges,
    tensors_per_layer: int,
) -> None:
    """Do CacheManager.push_blocks; layer_ranges are the own layers and the peer's."""
    args = _checked_blocks(
        engine,
        engine.block_ids,
        dst_cache_key,
        src_cache,
        src_blocks,
        dst_blocks,
        layer_ranges,
        tensors_per_layer,
    )
    status = engine.push_blocks(*args) if args[-1] else 0
    if status:
        settle_blocks(engine, "push_blocks", status, src_blocks, dst_blocks)


def push_blocks_async(
    engine: Engine,
    dst_cache_key: BlocksCacheKey,
    src_cache: Cache,
    src_blocks: Any,
    dst_blocks: Any,
    layer_ranges: OptionalRanges,
    tensors_per_layer: int,
) -> TransferTask:
    """Do CacheManager.push_blocks_async."""
    args = _checked_blocks(
        engine,
        engine.own_block_ids,
        dst_cache_key,
        src_cache,
        src_blocks,
        dst_blocks,
        layer_ranges,
        tensors_per_layer,
    )

    def transfer(token: Token) -> None:
        status = engine.push_blocks(*args, token) if args[-1] else 0
        if status:
            settle_blocks(engine, "push_blocks", status, (), ())

    return start(engine, "push_blocks_async", dst_cache_key.cluster_id, transfer)


def _checked_blocks(
    engine: Engine,
    block_ids: Callable[[str, Any], Array[int]],
    dst_cache_key: BlocksCacheKey,
    src_cache: Cache,
    src_blocks: Any,
    dst_blocks: Any,
    layer_ranges: OptionalRanges,
    tensors_per_layer: int,
) -> tuple[BlocksCacheKey, int, Array[int], Array[int], int, tuple[int, int], int]:
    """Check a push_blocks and return the arguments of Engine.push_blocks."""
    _require_one_sided(engine, "push_blocks")
    check_type("dst_cache_key", dst_cache_key, BlocksCacheKey)
    check_type("src_cache", src_cache, Cache)
    src = block_ids("src_blocks", () if src_blocks is None else src_blocks)
    dst = block_ids("dst_blocks", () if dst_blocks is None else dst_blocks)
    if not src_cache._is_blocks_cache:
        refuse("push_blocks: src_cache has no blocks")
    if not len(dst):
        refuse("dst_blocks is empty")
    starts, num_layers = push_layers("push_blocks", src_cache, *layer_ranges, tensors_per_layer)
    return dst_cache_key, src_cache._cache_id, src, dst, tensors_per_layer, starts, num_layers


def transfer_cache_async(
    engine: Engine,
    src_cache: Cache,
    layer_synchronizer: LayerSynchronizer,
    transfer_configs: Sequence[AnyTransferConfig],
    src_block_indices: Any,
    dst_block_indices: Any,
    dst_block_memory_size: int | None,
    tensors_per_layer: int | None,
) -> LayersTask:
    """Do CacheManager.transfer_cache_async."""
    check_type("src_cache", src_cache, Cache)
    desc = src_cache.cache_desc
    require(desc.placement != Placement.HOST, "transfer_cache_async: src_cache is in host memory")
    dst = engine.own_block_ids(
        "dst_block_indices", () if dst_block_indices is None else dst_block_indices
    )
    src = engine.own_block_ids(
        "src_block_indices", () if src_block_indices is None else src_block_indices
    )
    _check_block_counts(len(src), len(dst), dst_block_memory_size)
    check_type("layer_synchronizer", layer_synchronizer, LayerSynchronizer)
    config_type = TransferWithCacheKeyConfig if engine.options.one_sided else TransferConfig
    taken = check_elements("transfer_configs", transfer_configs, config_type)
    if dst_block_memory_size and not len(dst):
        refuse("dst_block_memory_size needs dst_block_indices")
    per_layer = async_tensors_per_layer(tensors_per_layer, engine.options.strict_hardware)
    if desc.num_tensors % per_layer:
        refuse(
            f"transfer_cache_async: {desc.num_tensors} tensors are no whole number of layers "
            f"of {per_layer}"
        )
    configs = [
        (config, config_layers(index, config, src_cache, per_layer, bool(len(src))))
        for index, config in enumerate(taken)
    ]
    return LayersTask(
        engine,
        src_cache.cache_id,
        (desc.num_tensors // per_layer, per_layer),
        layer_synchronizer,
        configs,
        src,
        dst,
        dst_block_memory_size or 0,
    )


def _check_block_counts(num_src: int, num_dst: int, dst_block_memory_size: int | None) -> None:
    if dst_block_memory_size is not None:
        check_uint64("dst_block_memory_size", dst_block_memory_size)
    if num_src and num_src != num_dst:
        refuse(f"src_block_indices and dst_block_indices have {num_src} and {num_dst} elements")
    if num_dst and not num_src and dst_block_memory_size is None:
        refuse("dst_block_indices without src_block_indices need dst_block_memory_size")


def _require_one_sided(engine: Engine, name: str) -> None:
    if not engine.options.one_sided:
        refuse(f"{name} needs one-sided mode: set enable_remote_cache_accessible = True")


def _check_push_id(key: CacheKeyByIdAndIndex) -> None:
    """Refuse a negative id, which no native signature takes, and warn of id 0 (decision 15)."""
    if key.cache_id < 0:
        raise TypeError(f"the cache_id of push_cache only support positive ids, got {key.cache_id}")
    if key.cache_id == 0:
        warn("push_cache: cache_id 0 names the cache with the key (req_id 0, model_id 0)")
