# SPDX-License-Identifier: Apache-2.0
"""Caches come and go: what CacheManager checks and has the engine do (contract chapter 4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ._checks import check_elements, check_optional, check_type, refuse, require
from ._finalized import FinalizedEngine
from .cache import Cache, CacheDesc, Placement
from .keys import BlocksCacheKey, CacheKey
from .status import LLMDataDistWarning

if TYPE_CHECKING:
    from ._native.engine import Engine
    from .cache_manager import CacheManager

# What an array has that is no address, and how its address is written.
_ADDRESS_OF = {"data_ptr": "array.data_ptr()", "__array_interface__": "array.ctypes.data"}


def allocate_cache(engine: Engine, cache_desc: CacheDesc, cache_keys: Sequence[CacheKey]) -> Cache:
    """Do CacheManager.allocate_cache."""
    _check_allocate(engine, cache_desc)
    keys = () if cache_keys is None else check_elements("cache_keys", cache_keys, CacheKey)
    return _allocate(engine, "allocate_cache", cache_desc, keys, False)


def allocate_blocks_cache(
    engine: Engine, cache_desc: CacheDesc, blocks_cache_key: BlocksCacheKey | None
) -> Cache:
    """Do CacheManager.allocate_blocks_cache."""
    _check_allocate(engine, cache_desc)
    check_optional("blocks_cache_key", blocks_cache_key, BlocksCacheKey)
    keys = () if blocks_cache_key is None else (blocks_cache_key,)
    return _allocate(engine, "allocate_blocks_cache", cache_desc, keys, True)


def deallocate_cache(engine: Engine, cache: Cache) -> None:
    """Do CacheManager.deallocate_cache."""
    check_type("cache", cache, Cache)
    require(not cache.is_blocks_cache, "deallocate_cache: the cache has blocks")
    engine.deallocate("deallocate_cache", cache.cache_id)
    cache.tensor_addrs.clear()


def deallocate_blocks_cache(engine: Engine, cache: Cache) -> None:
    """Do CacheManager.deallocate_blocks_cache."""
    check_type("cache", cache, Cache)
    require(cache.is_blocks_cache, "deallocate_blocks_cache: the cache has no blocks")
    engine.deallocate("deallocate_blocks_cache", cache.cache_id)
    cache.tensor_addrs.clear()


def end(manager: CacheManager, cache: Cache) -> None:
    """Deallocate or unregister a cache; one of a finalized engine is gone already."""
    if isinstance(manager._engine, FinalizedEngine):
        return
    if not cache._is_pooled:
        manager.unregister_cache(cache.cache_id)
    elif cache.is_blocks_cache:
        manager.deallocate_blocks_cache(cache)
    else:
        manager.deallocate_cache(cache)


def register_cache(
    engine: Engine,
    cache_desc: CacheDesc,
    addrs: list[int],
    cache_keys: Sequence[CacheKey],
    remote_accessible: bool | None,
    is_call_linked: bool,
) -> Cache:
    """Do CacheManager.register_cache; is_call_linked: link() was called."""
    check_type("cache_desc", cache_desc, CacheDesc)
    taken = _check_addrs(addrs)
    keys = () if cache_keys is None else check_elements("cache_keys", cache_keys, CacheKey)
    accessible = _is_accessible(cache_desc, remote_accessible, is_call_linked)
    require(taken, "addrs is empty")
    if len(taken) != cache_desc.num_tensors:
        refuse(f"{cache_desc.num_tensors} tensors need as many addrs, got {len(taken)}")
    require(0 not in taken, "addrs has a zero address")
    cache_id = engine.register("register_cache", cache_desc, taken, keys, False, accessible)
    _warn_after(engine, cache_id)
    return Cache(cache_id, cache_desc, addrs, False)


def register_blocks_cache(
    engine: Engine,
    cache_desc: CacheDesc,
    addrs: list[int],
    blocks_cache_key: BlocksCacheKey | None,
    remote_accessible: bool | None,
    is_call_linked: bool,
) -> Cache:
    """Do CacheManager.register_blocks_cache; is_call_linked: link() was called."""
    check_type("cache_desc", cache_desc, CacheDesc)
    taken = _check_addrs(addrs)
    check_optional("blocks_cache_key", blocks_cache_key, BlocksCacheKey)
    accessible = _is_accessible(cache_desc, remote_accessible, is_call_linked)
    require(taken, "addrs is empty")
    keys = () if blocks_cache_key is None else (blocks_cache_key,)
    cache_id = engine.register("register_blocks_cache", cache_desc, taken, keys, True, accessible)
    _warn_after(engine, cache_id)
    return Cache(cache_id, cache_desc, addrs, True)


def _check_addrs(addrs: Any) -> list[int]:
    """Refuse what is not a list of int, and say how an array in it is turned into one."""
    given = addrs if isinstance(addrs, list) else [addrs]
    for place, each in enumerate(given):
        how = next((how for name, how in _ADDRESS_OF.items() if hasattr(each, name)), None)
        if how is not None:
            name = f"addrs[{place}]" if given is addrs else "addrs"
            raise TypeError(
                f"{name} is {type(each).__name__}, not a list of addresses: write the address of "
                f"each array as {how}, or see llm_datadist.arrays"
            )
    return check_elements("addrs", addrs, int, list)


def _is_accessible(cache_desc: CacheDesc, asked: bool | None, is_call_linked: bool) -> bool:
    check_optional("remote_accessible", asked, bool)
    if asked and is_call_linked:
        refuse("remote_accessible = True is not possible after link()")
    if asked is None:
        return cache_desc.placement == Placement.DEVICE and not is_call_linked
    return asked


def _check_allocate(engine: Engine, cache_desc: CacheDesc) -> None:
    check_type("cache_desc", cache_desc, CacheDesc)
    require(cache_desc.num_tensors > 0, "num_tensors must be positive")
    options = engine.options
    if cache_desc.placement == Placement.DEVICE:
        require(options.device_pool.size, "Placement.DEVICE needs a device pool: set mem_pool_cfg")
    else:
        require(options.host_pool.size, "Placement.HOST needs a host pool: set host_mem_pool_cfg")


def _allocate(
    engine: Engine, name: str, cache_desc: CacheDesc, keys: Sequence[Any], is_blocks: bool
) -> Cache:
    cache_id, addrs = engine.allocate(name, cache_desc, keys, is_blocks)
    _warn_after(engine, cache_id)
    return Cache(cache_id, cache_desc, addrs, is_blocks)


def _warn_after(engine: Engine, cache_id: int) -> None:
    # A warning that is made an error leaves no cache to which the client has no handle.
    try:
        engine.warn_of_notices()
    except LLMDataDistWarning:
        engine.unregister(cache_id)
        raise
