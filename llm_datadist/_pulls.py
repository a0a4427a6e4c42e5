# SPDX-License-Identifier: Apache-2.0
"""Pulls: what CacheManager checks and has the engine do (contract chapter 5)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Callable, Union

from ._checks import check_int64, check_signs, check_type, check_uint32, refuse, require
from ._layer_words import ALL_LAYERS, TENSORS_PER_LAYER
from ._layers import pull_layers, pull_tensors_per_layer
from ._tasks import TransferTask, start
from .cache import Cache
from .keys import UNSET_ID, BlocksCacheKey, CacheKey, CacheKeyByIdAndIndex

if TYPE_CHECKING:
    from ._layer_words import LayerRanges
    from ._native._ffi import Array
    from ._native.engine import Engine
    from ._native.tokens import Token

PullKey = Union[CacheKey, CacheKeyByIdAndIndex, BlocksCacheKey]
_PULL_KEYS = (BlocksCacheKey, CacheKey, CacheKeyByIdAndIndex)


def check_cache_key(cache_key: CacheKey) -> None:
    """Do CacheManager.check_cache_key."""
    if (cache_key.req_id == UNSET_ID) == (cache_key.prefix_id == UNSET_ID):
        refuse(f"exactly one of req_id and prefix_id must be given, got {cache_key}")


def pull_cache(
    engine: Engine,
    cache_key: CacheKey | CacheKeyByIdAndIndex,
    cache: Cache,
    batch_index: int,
    size: int,
    keywords: Mapping[str, Any],
) -> None:
    """Do CacheManager.pull_cache."""
    engine.pull_cache(*_checked_cache(engine, cache_key, cache, batch_index, size, keywords))


def pull_cache_async(
    engine: Engine,
    cache_key: CacheKey | CacheKeyByIdAndIndex,
    cache: Cache,
    batch_index: int,
    size: int,
    keywords: Mapping[str, Any],
) -> TransferTask:
    """Do CacheManager.pull_cache_async."""
    args = _checked_cache(engine, cache_key, cache, batch_index, size, keywords)
    return start(
        engine,
        "pull_cache_async",
        cache_key.cluster_id,
        lambda token: engine.pull_cache(*args, token),
    )


def _checked_cache(
    engine: Engine,
    cache_key: CacheKey | CacheKeyByIdAndIndex,
    cache: Cache,
    batch_index: int,
    size: int,
    keywords: Mapping[str, Any],
) -> tuple[CacheKey | CacheKeyByIdAndIndex, int, int, int, int, LayerRanges]:
    """Check a pull_cache and return the arguments of Engine.pull_cache."""
    key_types = (
        CacheKeyByIdAndIndex if engine.options.one_sided else (CacheKeyByIdAndIndex, CacheKey)
    )
    check_type("cache_key", cache_key, key_types)
    check_type("cache", cache, Cache)
    check_uint32("batch_index", batch_index)
    check_int64("size", size)
    require(not cache.is_blocks_cache, "pull_cache: the cache has blocks")
    if size != -1 and size <= 0:
        refuse(f"size must be -1 or positive, got {size}")
    tensors_per_layer = pull_tensors_per_layer(keywords)
    if isinstance(cache_key, CacheKey):
        check_cache_key(cache_key)
    layers = pull_layers(keywords)
    return cache_key, cache.cache_id, batch_index, size, tensors_per_layer, layers


def check_types(src_cache_key: PullKey, dst_cache: Cache) -> None:
    """Check the types of the source and the destination of a pull_blocks."""
    check_type("src_cache_key", src_cache_key, _PULL_KEYS)
    check_type("dst_cache", dst_cache, Cache)


def pull_blocks(
    engine: Engine,
    src_cache_key: PullKey,
    dst_cache: Cache,
    src_blocks: Any,
    dst_blocks: Any,
    keywords: Mapping[str, Any],
) -> int:
    """Do CacheManager.pull_blocks with block lists of any form and length, any key and any layers,
    once the types of key and cache were checked; returns the status.
    """
    return engine.pull_blocks(
        *_checked_blocks(
            engine.block_ids, src_cache_key, dst_cache, src_blocks, dst_blocks, keywords
        )
    )


def pull_blocks_async(
    engine: Engine,
    src_cache_key: PullKey,
    dst_cache: Cache,
    src_blocks: Any,
    dst_blocks: Any,
    keywords: Mapping[str, Any],
) -> TransferTask:
    """Do CacheManager.pull_blocks_async."""
    check_types(src_cache_key, dst_cache)
    args = _checked_blocks(
        engine.own_block_ids, src_cache_key, dst_cache, src_blocks, dst_blocks, keywords
    )

    def transfer(token: Token) -> None:
        status = engine.pull_blocks(*args, token)
        if status:
            settle_blocks(engine, "pull_blocks", status, (), ())

    return start(engine, "pull_blocks_async", src_cache_key.cluster_id, transfer)


def _checked_blocks(
    block_ids: Callable[[str, Any], Array[int]],
    src_cache_key: PullKey,
    dst_cache: Cache,
    src_blocks: Any,
    dst_blocks: Any,
    keywords: Mapping[str, Any],
) -> tuple[PullKey, int, Array[int], Array[int], int, LayerRanges]:
    """Check a pull_blocks and return the arguments of Engine.pull_blocks."""
    by_blocks = isinstance(src_cache_key, BlocksCacheKey)
    if src_blocks is None and by_blocks:
        src_blocks = ()
    src = block_ids("src_blocks", src_blocks)
    dst = block_ids("dst_blocks", () if dst_blocks is None else dst_blocks)
    if not dst_cache._is_blocks_cache:
        refuse("pull_blocks: dst_cache has no blocks")
    if not len(dst):
        refuse("dst_blocks is empty")
    tensors_per_layer = pull_tensors_per_layer(keywords) if keywords else TENSORS_PER_LAYER
    if by_blocks:
        if not len(src):
            refuse("src_blocks is empty: a BlocksCacheKey needs them")
    else:
        if len(src):
            refuse("src_blocks must be empty unless the key is a BlocksCacheKey")
        if isinstance(src_cache_key, CacheKey):
            check_cache_key(src_cache_key)
    layers = pull_layers(keywords) if keywords else ALL_LAYERS
    return src_cache_key, dst_cache._cache_id, src, dst, tensors_per_layer, layers


def settle_blocks(engine: Engine, name: str, status: int, src_blocks: Any, dst_blocks: Any) -> None:
    """Raise, or warn of the notice that a transfer left: it answered a status that is not 0."""
    if engine.only_left_a_notice(status):
        return
    failure = engine.error(name, status)
    check_signs("src_blocks", src_blocks)
    check_signs("dst_blocks", dst_blocks)
    raise failure
