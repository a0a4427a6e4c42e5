# SPDX-License-Identifier: Apache-2.0
"""Caches of the own process, and transfers to and from those of peers (contract 1.10 and chapters 4
to 6).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from . import _caches, _copies, _pulls, _pushes
from ._checks import check_int64, check_type
from ._finalized import FinalizedEngine
from ._layer_words import TENSORS_PER_LAYER
from ._pulls import PullKey
from ._transfers_async import TransfersAsync
from .cache import Cache, CacheDesc, MemInfo
from .keys import BlocksCacheKey, CacheKey, CacheKeyByIdAndIndex
from .transfer import AnyTransferConfig, CacheTask, LayerSynchronizer

if TYPE_CHECKING:
    # Known to every type checker; nothing is installed for it.
    from typing_extensions import Unpack

    from ._layers import PullKeywords
    from ._native.engine import Engine
    from .events import EventStream

__all__ = ["CacheManager"]


class CacheManager(TransfersAsync):
    """Caches of one LLMDataDist; got from LLMDataDist.cache_manager only.

    An object that is kept after finalize() raises LLM_ENGINE_FINALIZED from each operation, before
    any other check, also after a new init(). Methods may be called from any thread; transfers over
    one link queue; transfers over different links run in parallel.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._is_call_linked = False
        # What keeps the memory of caches over arrays, by cache id.
        self._kept: dict[int, list[Any]] = {}

    def set_is_call_linked(self) -> None:
        """Note that link() was called: nothing is registered as remote accessible from now on.

        Internal.
        """
        self._is_call_linked = True

    def _leave_engine(self, cluster_id: int) -> None:
        """Have each operation raise LLM_ENGINE_FINALIZED from now on."""
        # What each operation reads of its engine first raises, so none has to ask for it.
        self._engine = cast("Engine", FinalizedEngine(cluster_id))

    def _managed(self, cache: Cache, is_pooled: bool = False) -> Cache:
        """Let a cache end itself, when it is used as a context manager."""
        cache._manager, cache._is_pooled = self, is_pooled
        return cache

    def events(self, capacity: int = 1024) -> EventStream:
        """Listen to transfers that are over: of this engine, and of peers with its caches.

        Of at most capacity events that wait the oldest are dropped. LLM_FAILED: there is a stream
        already. An extension of this package: llm_datadist.events, 1.15.
        """
        from ._native.events import listen

        return listen(self._engine.opened, capacity)

    # ---- life of caches ----

    def allocate_cache(self, cache_desc: CacheDesc, cache_keys: Sequence[CacheKey] = ()) -> Cache:
        """Allocate a contiguous cache from the pool of its placement; the memory is not cleared.

        Args:
            cache_desc: its shape; shape[0] is the batch size.
            cache_keys: key i names batch entry i. A placeholder (req_id 2^64-1) binds nothing and
                takes its position.

        Raises:
            TypeError: an argument has another type.
            LLMException: LLM_PARAM_INVALID (shape, keys, no such pool), LLM_OUT_OF_MEMORY.

        Source: 4.2.
        """
        cache = _caches.allocate_cache(self._engine.opened, cache_desc, cache_keys)
        return self._managed(cache, is_pooled=True)

    def allocate_blocks_cache(
        self, cache_desc: CacheDesc, blocks_cache_key: BlocksCacheKey | None = None
    ) -> Cache:
        """Allocate a paged cache from the pool of its placement; the memory is not cleared.

        Args:
            cache_desc: its shape; shape[0] is the number of blocks.
            blocks_cache_key: its name, if it has one.

        Raises as allocate_cache.
        """
        cache = _caches.allocate_blocks_cache(self._engine.opened, cache_desc, blocks_cache_key)
        return self._managed(cache, is_pooled=True)

    def deallocate_cache(self, cache: Cache) -> None:
        """Release an allocated contiguous cache: at once, or when its last key is gone. Repeating
        it succeeds.

        Raises:
            TypeError: an argument has another type.
            LLMException: LLM_PARAM_INVALID (a paged cache), LLM_FEATURE_NOT_ENABLED (no pool).

        Source: 4.4.
        """
        _caches.deallocate_cache(self._engine.opened, cache)

    def deallocate_blocks_cache(self, cache: Cache) -> None:
        """Release an allocated paged cache at once, with its key. Repeating it succeeds.

        Raises:
            TypeError: an argument has another type.
            LLMException: LLM_PARAM_INVALID (a contiguous cache), LLM_FEATURE_NOT_ENABLED (no pool).
        """
        _caches.deallocate_blocks_cache(self._engine.opened, cache)

    def register_cache(
        self,
        cache_desc: CacheDesc,
        addrs: list[int],
        cache_keys: Sequence[CacheKey] = (),
        remote_accessible: bool | None = None,
    ) -> Cache:
        """Register a contiguous cache over memory of the client.

        Args:
            cache_desc: its shape; shape[0] is the batch size.
            addrs: start addresses, one per tensor. The memory must stay mapped until
                unregister_cache has returned.
            cache_keys: key i names batch entry i.
            remote_accessible: whether peers may reach it in one-sided mode; None: device memory
                yes, host memory no, and nothing once link() was called.

        Raises:
            TypeError: an argument has another type.
            LLMException: LLM_PARAM_INVALID (addresses, shape), LLM_FAILED (refused by the device).

        Source: 4.3.
        """
        engine, is_call_linked = self._engine.opened, self._is_call_linked
        cache = _caches.register_cache(
            engine, cache_desc, addrs, cache_keys, remote_accessible, is_call_linked
        )
        return self._managed(cache)

    def register_blocks_cache(
        self,
        cache_desc: CacheDesc,
        addrs: list[int],
        blocks_cache_key: BlocksCacheKey | None = None,
        remote_accessible: bool | None = None,
    ) -> Cache:
        """Register a paged cache over memory of the client.

        Args:
            cache_desc: its shape; shape[0] is the number of blocks.
            addrs: start addresses, one per tensor. The memory must stay mapped until
                unregister_cache has returned.
            blocks_cache_key: its name; one that is bound already goes over to this cache, with a
                warning.
            remote_accessible: as for register_cache.

        Raises as register_cache.
        """
        engine, is_call_linked = self._engine.opened, self._is_call_linked
        cache = _caches.register_blocks_cache(
            engine, cache_desc, addrs, blocks_cache_key, remote_accessible, is_call_linked
        )
        return self._managed(cache)

    def unregister_cache(self, cache_id: int) -> None:
        """Remove a cache with its keys and registration; success for unknown ids.

        Args:
            cache_id: int64.

        Raises:
            TypeError: an argument has another type.
            ValueError: a number is out of its range.
            LLMException: LLM_TIMEOUT (a peer is still in the memory, which must not be reused yet).
        """
        engine = self._engine.opened
        check_int64("cache_id", cache_id)
        engine.unregister(cache_id)
        self._kept.pop(cache_id, None)

    def remove_cache_key(self, cache_key: CacheKey) -> None:
        """Unbind a key of an allocated cache, which is released if that was the last reference.

        Raises:
            TypeError: an argument has another type.
            LLMException: LLM_FEATURE_NOT_ENABLED (no pool).

        Source: 4.4.
        """
        engine = self._engine.opened
        check_type("cache_key", cache_key, CacheKey)
        engine.remove_key(cache_key)

    # ---- pull ----

    @staticmethod
    def check_cache_key(cache_key: CacheKey) -> None:
        """Refuse (LLM_PARAM_INVALID) a key that has not exactly one of req_id and prefix_id."""
        _pulls.check_cache_key(cache_key)

    def pull_cache(
        self,
        cache_key: CacheKey | CacheKeyByIdAndIndex,
        cache: Cache,
        batch_index: int = 0,
        size: int = -1,
        **kwargs: Unpack[PullKeywords],
    ) -> None:
        """Pull a batch entry of a peer's contiguous cache into one of an own contiguous cache.

        Args:
            cache_key: the source; in one-sided mode by id only.
            cache: that receives.
            batch_index: uint32, of the own cache.
            size: bytes per tensor; -1: the own stride.
            kwargs: src_layer_range, dst_layer_range, tensor_num_per_layer as for pull_blocks.

        Raises:
            TypeError: an argument has another type.
            ValueError: a number is out of its range.
            LLMException: LLM_PARAM_INVALID, LLM_KV_CACHE_NOT_EXIST, LLM_NOT_YET_LINK, LLM_FAILED,
                LLM_TIMEOUT, LLM_FEATURE_NOT_ENABLED.

        Source: chapter 5.
        """
        engine = self._engine.opened
        _pulls.pull_cache(engine, cache_key, cache, batch_index, size, kwargs)

    def pull_blocks(
        self,
        src_cache_key: PullKey,
        dst_cache: Cache,
        src_blocks: Any = (),
        dst_blocks: Any = (),
        **kwargs: Unpack[PullKeywords],
    ) -> None:
        """Pull from a peer's cache into blocks of an own paged cache.

        Args:
            src_cache_key: the source: BlocksCacheKey for a paged cache, another key for a
                contiguous one.
            dst_cache: that receives.
            src_blocks: with a BlocksCacheKey: block k of them goes to block k of dst_blocks. List
                or tuple of int, a range, or a one-dimensional array of int32, uint32, int64 or
                uint64: of numpy, another buffer, or a tensor in the memory of the host that has
                __dlpack__. A buffer of 64 bits is not copied.
            dst_blocks: the same, as many; a contiguous source fills them in order.
            kwargs: src_layer_range and dst_layer_range, a range with step 1 each (empty: not
                given), and tensor_num_per_layer (2), which counts with a layer range only. Other
                names are ignored, with a warning.

        Raises:
            TypeError: an argument has another type.
            ValueError: a number is out of its range.
            LLMException: LLM_PARAM_INVALID, LLM_KV_CACHE_NOT_EXIST, LLM_NOT_YET_LINK, LLM_FAILED,
                LLM_TIMEOUT, LLM_FEATURE_NOT_ENABLED.

        Source: chapter 5, decision 32.
        """
        # This is the hot path. A call of the usual kind is tested for being one, and for no more.
        engine = self._engine
        status = None
        if type(src_cache_key) is not BlocksCacheKey or type(dst_cache) is not Cache:
            engine = engine.opened
            _pulls.check_types(src_cache_key, dst_cache)
        elif not kwargs and dst_cache._is_blocks_cache:
            status = engine.pull_few_blocks(
                src_cache_key, dst_cache._cache_id, src_blocks, dst_blocks
            )
        if status is None:
            status = _pulls.pull_blocks(
                engine.opened, src_cache_key, dst_cache, src_blocks, dst_blocks, kwargs
            )
        if status:
            _pulls.settle_blocks(engine, "pull_blocks", status, src_blocks, dst_blocks)

    # ---- push ----

    def push_cache(
        self,
        dst_cache_key: CacheKeyByIdAndIndex,
        src_cache: Cache,
        src_batch_index: int = 0,
        src_layer_range: range | None = None,
        dst_layer_range: range | None = None,
        size: int = -1,
        tensor_num_per_layer: int = TENSORS_PER_LAYER,
    ) -> None:
        """Push a batch entry of an own cache into one of a peer's, layer by layer.

        Args:
            dst_cache_key: the destination.
            src_cache: that is sent.
            src_batch_index: uint32, of the own cache.
            src_layer_range: a range with step 1; None: all layers, of which there are num_tensors
                // tensor_num_per_layer; none, with a warning, where that is 0.
            dst_layer_range: as many layers of the peer's cache; None: as many from layer 0 as the
                own cache has.
            size: -1, the own stride.
            tensor_num_per_layer: uint32, > 0; must divide the number of tensors.

        One-sided mode only. The first layer that fails ends the call; earlier ones stay written.

        Raises:
            TypeError: an argument has another type.
            ValueError: a number is out of its range.
            LLMException: as pull_cache.

        Source: 6.1.
        """
        _pushes.push_cache(
            self._engine.opened,
            dst_cache_key,
            src_cache,
            src_batch_index,
            (src_layer_range, dst_layer_range),
            size,
            tensor_num_per_layer,
        )

    def push_blocks(
        self,
        dst_cache_key: BlocksCacheKey,
        src_cache: Cache,
        src_blocks: Any = (),
        dst_blocks: Any = (),
        src_layer_range: range | None = None,
        dst_layer_range: range | None = None,
        tensor_num_per_layer: int = TENSORS_PER_LAYER,
    ) -> None:
        """Push blocks of an own paged cache into blocks of a peer's, layer by layer.

        Args:
            dst_cache_key: the destination.
            src_cache: that is sent.
            src_blocks: block k of them goes to block k of dst_blocks; forms as for pull_blocks.
            dst_blocks: as many.
            src_layer_range, dst_layer_range, tensor_num_per_layer: as for push_cache.

        One-sided mode only. Raises as push_cache.

        Source: 6.1.
        """
        _pushes.push_blocks(
            self._engine.opened,
            dst_cache_key,
            src_cache,
            src_blocks,
            dst_blocks,
            (src_layer_range, dst_layer_range),
            tensor_num_per_layer,
        )

    def transfer_cache_async(
        self,
        src_cache: Cache,
        layer_synchronizer: LayerSynchronizer,
        transfer_configs: Sequence[AnyTransferConfig],
        src_block_indices: Any = None,
        dst_block_indices: Any = None,
        dst_block_memory_size: int | None = None,
        *,
        tensor_num_per_layer: int | None = None,
    ) -> CacheTask:
        """Send an own device cache to peers, each layer as soon as the client says it is ready.

        Args:
            src_cache: that is sent.
            layer_synchronizer: is asked once for each layer that is sent, on the task's thread.
            transfer_configs: TransferConfig in request mode, TransferWithCacheKeyConfig in
                one-sided mode.
            src_block_indices: block k of them goes to block k of dst_block_indices; forms as for
                pull_blocks.
            dst_block_indices: destination blocks.
            dst_block_memory_size: bytes of a destination block, needed when the source is
                contiguous.
            tensor_num_per_layer: how many tensors a layer has; uint32, > 0; must divide the number
                of tensors. None: 2, as CANN, which does not have this argument; so strict-hardware
                mode refuses it.

        Returns:
            The running task.

        Raises:
            TypeError: an argument has another type.
            ValueError: a number is out of its range.
            LLMException: LLM_PARAM_INVALID.

        Source: 6.2.
        """
        return _pushes.transfer_cache_async(
            self._engine.opened,
            src_cache,
            layer_synchronizer,
            transfer_configs,
            src_block_indices,
            dst_block_indices,
            dst_block_memory_size,
            tensor_num_per_layer,
        )

    # ---- local copies ----

    def copy_cache(
        self,
        dst: Cache,
        src: Cache,
        dst_batch_index: int = 0,
        src_batch_index: int = 0,
        offset: int = 0,
        size: int = -1,
        req_id: int | None = None,
    ) -> None:
        """Copy between batch entries of own contiguous caches, all tensors.

        Args:
            dst, src: the caches; any placement.
            dst_batch_index, src_batch_index: uint32.
            offset: bytes from the start of either batch entry, uint64.
            size: bytes; -1: the source's stride less offset.
            req_id: uint64, for logs.

        Raises:
            TypeError: an argument has another type.
            ValueError: a number is out of its range.
            LLMException: LLM_KV_CACHE_NOT_EXIST, LLM_PARAM_INVALID.

        Source: 6.3.
        """
        engine = self._engine.opened
        _copies.copy_cache(engine, dst, src, dst_batch_index, src_batch_index, offset, size, req_id)

    def copy_blocks(self, cache: Cache, copy_block_info: dict[int, list[int]]) -> None:
        """Copy blocks within a paged cache, in no particular order.

        Args:
            cache: with blocks.
            copy_block_info: source block to destination blocks.

        Raises:
            TypeError: an argument has another type.
            LLMException: LLM_KV_CACHE_NOT_EXIST, LLM_PARAM_INVALID.

        Source: 6.3.
        """
        _copies.copy_blocks(self._engine.opened, cache, copy_block_info)

    def swap_blocks(self, src_cache: Cache, dst_cache: Cache, src_to_dst: dict[int, int]) -> None:
        """Copy blocks from host to device memory or back; nothing is exchanged, despite the name.

        Args:
            src_cache, dst_cache: with blocks of one size, one in host and one in device memory.
            src_to_dst: source block to destination block.

        Raises:
            TypeError: an argument has another type.
            LLMException: LLM_PARAM_INVALID, LLM_FAILED.

        Source: 6.4.
        """
        _copies.swap_blocks(self._engine.opened, src_cache, dst_cache, src_to_dst)

    def remap_registered_memory(self, mem_infos: MemInfo | list[MemInfo]) -> None:
        """Check memory that was mapped anew; nothing else happens, since no runtime has to know.

        Raises:
            LLMException: LLM_PARAM_INVALID, LLM_NOT_YET_LINK, LLM_FAILED.

        Source: 6.5, decision 26.
        """
        _copies.remap_registered_memory(self._engine.opened, mem_infos)
