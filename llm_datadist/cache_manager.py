# SPDX-License-Identifier: Apache-2.0
"""Caches of the own process, and transfers to and from those of peers (contract 1.10 and chapters 4
to 6).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn, Union, cast

from ._checks import (
    check_elements,
    check_int64,
    check_optional,
    check_signs,
    check_type,
    check_uint32,
    check_uint64,
    refuse,
    require,
)
from ._finalized import FinalizedEngine
from ._layer_words import ALL_LAYERS, TENSORS_PER_LAYER
from ._layers import (
    config_layers,
    pull_layers,
    pull_tensors_per_layer,
    push_layers,
)
from .cache import Cache, CacheDesc, MemInfo, Memtype, Placement
from .keys import UNSET_ID, BlocksCacheKey, CacheKey, CacheKeyByIdAndIndex
from .status import LLMDataDistWarning, warn
from .transfer import (
    AnyTransferConfig,
    CacheTask,
    LayerSynchronizer,
    TransferConfig,
    TransferWithCacheKeyConfig,
)

if TYPE_CHECKING:
    # Known to every type checker; nothing is installed for it.
    from typing_extensions import Unpack

    from ._layers import PullKeywords
    from ._native.engine import Engine

__all__ = ["CacheManager"]

PullKey = Union[CacheKey, CacheKeyByIdAndIndex, BlocksCacheKey]
_PULL_KEYS = (BlocksCacheKey, CacheKey, CacheKeyByIdAndIndex)


class CacheManager:
    """Caches of one LLMDataDist; got from LLMDataDist.cache_manager only.

    An object that is kept after finalize() raises LLM_ENGINE_FINALIZED from each operation, before
    any other check, also after a new init(). Methods may be called from any thread; transfers over
    one link queue, and so do the pushes of one engine.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._is_call_linked = False

    def set_is_call_linked(self) -> None:
        """Note that link() was called: nothing is registered as remote accessible from now on.

        Internal.
        """
        self._is_call_linked = True

    def _leave_engine(self, cluster_id: int) -> None:
        """Have each operation raise LLM_ENGINE_FINALIZED from now on."""
        # What each operation reads of its engine first raises, so none has to ask for it.
        self._engine = cast("Engine", FinalizedEngine(cluster_id))

    # ---- life of caches ----

    def allocate_cache(self, cache_desc: CacheDesc, cache_keys: Sequence[CacheKey] = ()) -> Cache:
        """Allocate a contiguous cache from the pool of its placement; the memory is not cleared.

        Args:
            cache_desc: its shape; shape[0] is the batch size.
            cache_keys: key i names batch entry i. A placeholder (req_id 2^64-1) binds nothing and
                takes its position.

        Raises TypeError, LLMException: LLM_PARAM_INVALID (shape, keys, no such pool),
        LLM_OUT_OF_MEMORY. Source: 4.2.
        """
        engine = self._engine.opened
        _check_allocate(engine, cache_desc)
        if cache_keys is not None:
            check_elements("cache_keys", cache_keys, CacheKey)
        return _allocate(engine, "allocate_cache", cache_desc, cache_keys or (), False)

    def allocate_blocks_cache(
        self, cache_desc: CacheDesc, blocks_cache_key: BlocksCacheKey | None = None
    ) -> Cache:
        """Allocate a paged cache from the pool of its placement; the memory is not cleared.

        Args:
            cache_desc: its shape; shape[0] is the number of blocks.
            blocks_cache_key: its name, if it has one.

        Raises as allocate_cache.
        """
        engine = self._engine.opened
        _check_allocate(engine, cache_desc)
        check_optional("blocks_cache_key", blocks_cache_key, BlocksCacheKey)
        keys = () if blocks_cache_key is None else (blocks_cache_key,)
        return _allocate(engine, "allocate_blocks_cache", cache_desc, keys, True)

    def deallocate_cache(self, cache: Cache) -> None:
        """Release an allocated contiguous cache: at once, or when its last key is gone. Repeating
        it succeeds.

        Raises TypeError, LLMException: LLM_PARAM_INVALID (a paged cache), LLM_FEATURE_NOT_ENABLED
        (no pool). Source: 4.4.
        """
        engine = self._engine.opened
        check_type("cache", cache, Cache)
        require(not cache.is_blocks_cache, "deallocate_cache: the cache has blocks")
        engine.deallocate("deallocate_cache", cache.cache_id)
        cache.tensor_addrs.clear()

    def deallocate_blocks_cache(self, cache: Cache) -> None:
        """Release an allocated paged cache at once, with its key. Repeating it succeeds.

        Raises TypeError, LLMException: LLM_PARAM_INVALID (a contiguous cache),
        LLM_FEATURE_NOT_ENABLED (no pool).
        """
        engine = self._engine.opened
        check_type("cache", cache, Cache)
        require(cache.is_blocks_cache, "deallocate_blocks_cache: the cache has no blocks")
        engine.deallocate("deallocate_blocks_cache", cache.cache_id)
        cache.tensor_addrs.clear()

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
            addrs: start addresses, one a tensor. The memory must stay mapped until unregister_cache
                has returned.
            cache_keys: key i names batch entry i.
            remote_accessible: whether peers may reach it in one-sided mode; None: device memory
                yes, host memory no, and nothing once link() was called.

        Raises TypeError, LLMException: LLM_PARAM_INVALID (addresses, shape), LLM_FAILED (refused by
        the device). Source: 4.3.
        """
        engine = self._engine.opened
        check_type("cache_desc", cache_desc, CacheDesc)
        check_elements("addrs", addrs, int, list)
        if cache_keys is not None:
            check_elements("cache_keys", cache_keys, CacheKey)
        accessible = self._remote_accessible(cache_desc, remote_accessible)
        require(addrs, "addrs is empty")
        if len(addrs) != cache_desc.num_tensors:
            refuse(f"{cache_desc.num_tensors} tensors need as many addrs, got {len(addrs)}")
        require(0 not in addrs, "addrs has a zero address")
        cache_id = engine.register(
            "register_cache", cache_desc, addrs, cache_keys or (), False, accessible
        )
        _warn_after(engine, cache_id)
        return Cache(cache_id, cache_desc, addrs, False)

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
            addrs: start addresses, one a tensor. The memory must stay mapped until unregister_cache
                has returned.
            blocks_cache_key: its name; one that is bound already goes over to this cache, with a
                warning.
            remote_accessible: as for register_cache.

        Raises as register_cache.
        """
        engine = self._engine.opened
        check_type("cache_desc", cache_desc, CacheDesc)
        check_elements("addrs", addrs, int, list)
        check_optional("blocks_cache_key", blocks_cache_key, BlocksCacheKey)
        accessible = self._remote_accessible(cache_desc, remote_accessible)
        require(addrs, "addrs is empty")
        keys = () if blocks_cache_key is None else (blocks_cache_key,)
        cache_id = engine.register(
            "register_blocks_cache", cache_desc, addrs, keys, True, accessible
        )
        _warn_after(engine, cache_id)
        return Cache(cache_id, cache_desc, addrs, True)

    def _remote_accessible(self, cache_desc: CacheDesc, asked: bool | None) -> bool:
        check_optional("remote_accessible", asked, bool)
        if asked and self._is_call_linked:
            refuse("remote_accessible = True is not possible after link()")
        if asked is None:
            return cache_desc.placement == Placement.DEVICE and not self._is_call_linked
        return asked

    def unregister_cache(self, cache_id: int) -> None:
        """Remove a cache with its keys and registration; success for unknown ids.

        Args:
            cache_id: int64.

        Raises TypeError, ValueError, LLMException: LLM_TIMEOUT (a peer is still in the memory,
        which must not be reused yet).
        """
        engine = self._engine.opened
        check_int64("cache_id", cache_id)
        engine.unregister(cache_id)

    def remove_cache_key(self, cache_key: CacheKey) -> None:
        """Unbind a key of an allocated cache, which is released if that was the last reference.

        Raises TypeError, LLMException: LLM_FEATURE_NOT_ENABLED (no pool). Source: 4.4.
        """
        engine = self._engine.opened
        check_type("cache_key", cache_key, CacheKey)
        engine.remove_key(cache_key)

    # ---- pull ----

    @staticmethod
    def check_cache_key(cache_key: CacheKey) -> None:
        """Refuse (LLM_PARAM_INVALID) a key that has not exactly one of req_id and prefix_id."""
        if (cache_key.req_id == UNSET_ID) == (cache_key.prefix_id == UNSET_ID):
            refuse(f"exactly one of req_id and prefix_id must be given, got {cache_key}")

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
            size: bytes a tensor; -1: the own stride.
            kwargs: src_layer_range, dst_layer_range, tensor_num_per_layer as for pull_blocks.

        Raises TypeError, ValueError, LLMException: LLM_PARAM_INVALID, LLM_KV_CACHE_NOT_EXIST,
        LLM_NOT_YET_LINK, LLM_FAILED, LLM_TIMEOUT, LLM_FEATURE_NOT_ENABLED. Source: chapter 5.
        """
        engine = self._engine
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
        tensors_per_layer = pull_tensors_per_layer(kwargs)
        if isinstance(cache_key, CacheKey):
            self.check_cache_key(cache_key)
        engine.pull_cache(
            cache_key, cache.cache_id, batch_index, size, tensors_per_layer, pull_layers(kwargs)
        )

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

        Raises TypeError, ValueError, LLMException: LLM_PARAM_INVALID, LLM_KV_CACHE_NOT_EXIST,
        LLM_NOT_YET_LINK, LLM_FAILED, LLM_TIMEOUT, LLM_FEATURE_NOT_ENABLED. Source: chapter 5,
        decision 32.
        """
        # This is the hot path: each check is made once, and what is not given costs nothing. Once
        # the engine is finalized, the first use of it raises.
        engine = self._engine
        form = type(src_blocks)
        if (
            (form is engine.array_type or form is engine.list_type)
            and form is type(dst_blocks)
            and type(src_cache_key) is BlocksCacheKey
            and type(dst_cache) is Cache
            and dst_cache._is_blocks_cache
            and not kwargs
        ):
            few = engine.pull_few_blocks(src_cache_key, dst_cache._cache_id, src_blocks, dst_blocks)
            if few == 0:
                return
            if few is not None:
                _raise_of_blocks(engine, "pull_blocks", few, src_blocks, dst_blocks)
        by_blocks = isinstance(src_cache_key, BlocksCacheKey)
        if not by_blocks:
            check_type("src_cache_key", src_cache_key, _PULL_KEYS)
        if not isinstance(dst_cache, Cache):
            check_type("dst_cache", dst_cache, Cache)
        if src_blocks is None and by_blocks:
            src_blocks = ()
        src = engine.block_ids("src_blocks", src_blocks)
        dst = engine.block_ids("dst_blocks", () if dst_blocks is None else dst_blocks)
        if not dst_cache._is_blocks_cache:
            refuse("pull_blocks: dst_cache has no blocks")
        if not len(dst):
            refuse("dst_blocks is empty")
        tensors_per_layer = pull_tensors_per_layer(kwargs) if kwargs else TENSORS_PER_LAYER
        if by_blocks:
            if not len(src):
                refuse("src_blocks is empty: a BlocksCacheKey needs them")
        else:
            if len(src):
                refuse("src_blocks must be empty unless the key is a BlocksCacheKey")
            if isinstance(src_cache_key, CacheKey):
                self.check_cache_key(src_cache_key)
        layers = pull_layers(kwargs) if kwargs else ALL_LAYERS
        status = engine.pull_blocks(
            src_cache_key, dst_cache._cache_id, src, dst, tensors_per_layer, layers
        )
        if status:
            _raise_of_blocks(engine, "pull_blocks", status, src_blocks, dst_blocks)

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
        Raises TypeError, ValueError, LLMException as pull_cache. Source: 6.1.
        """
        engine = self._engine
        _require_one_sided(engine, "push_cache")
        check_type("dst_cache_key", dst_cache_key, CacheKeyByIdAndIndex)
        check_type("src_cache", src_cache, Cache)
        check_uint32("src_batch_index", src_batch_index)
        require(not src_cache.is_blocks_cache, "push_cache: the cache has blocks")
        starts, num_layers = push_layers(
            "push_cache", src_cache, src_layer_range, dst_layer_range, tensor_num_per_layer
        )
        check_int64("size", size)
        if size != -1:
            refuse(f"size must be -1, got {size}")
        _check_push_id(dst_cache_key)
        if num_layers:
            engine.push_cache(
                dst_cache_key,
                src_cache.cache_id,
                src_batch_index,
                tensor_num_per_layer,
                starts,
                num_layers,
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

        One-sided mode only. Raises as push_cache. Source: 6.1.
        """
        engine = self._engine
        _require_one_sided(engine, "push_blocks")
        check_type("dst_cache_key", dst_cache_key, BlocksCacheKey)
        check_type("src_cache", src_cache, Cache)
        src = engine.block_ids("src_blocks", () if src_blocks is None else src_blocks)
        dst = engine.block_ids("dst_blocks", () if dst_blocks is None else dst_blocks)
        if not src_cache._is_blocks_cache:
            refuse("push_blocks: src_cache has no blocks")
        if not len(dst):
            refuse("dst_blocks is empty")
        starts, num_layers = push_layers(
            "push_blocks", src_cache, src_layer_range, dst_layer_range, tensor_num_per_layer
        )
        if num_layers:
            status = engine.push_blocks(
                dst_cache_key,
                src_cache._cache_id,
                src,
                dst,
                tensor_num_per_layer,
                starts,
                num_layers,
            )
            if status:
                _raise_of_blocks(engine, "push_blocks", status, src_blocks, dst_blocks)

    def transfer_cache_async(
        self,
        src_cache: Cache,
        layer_synchronizer: LayerSynchronizer,
        transfer_configs: Sequence[AnyTransferConfig],
        src_block_indices: Any = None,
        dst_block_indices: Any = None,
        dst_block_memory_size: int | None = None,
    ) -> CacheTask:
        """Send an own device cache to peers, each layer as soon as the client says it is ready.

        Args:
            src_cache: that is sent; two tensors are a layer.
            layer_synchronizer: is asked once for each layer that is sent, on the task's thread.
            transfer_configs: TransferConfig in request mode, TransferWithCacheKeyConfig in
                one-sided mode.
            src_block_indices: block k of them goes to block k of dst_block_indices; forms as for
                pull_blocks.
            dst_block_indices: destination blocks.
            dst_block_memory_size: bytes of a destination block, needed when the source is
                contiguous.

        Returns the running task. Raises TypeError, ValueError, LLMException (LLM_PARAM_INVALID).
        Source: 6.2.
        """
        engine = self._engine.opened
        check_type("src_cache", src_cache, Cache)
        desc = src_cache.cache_desc
        require(
            desc.placement != Placement.HOST, "transfer_cache_async: src_cache is in host memory"
        )
        dst = engine.block_ids(
            "dst_block_indices", () if dst_block_indices is None else dst_block_indices
        )
        src = engine.block_ids(
            "src_block_indices", () if src_block_indices is None else src_block_indices
        )
        if dst_block_memory_size is not None:
            check_uint64("dst_block_memory_size", dst_block_memory_size)
        if len(src) and len(src) != len(dst):
            refuse(
                f"src_block_indices and dst_block_indices have {len(src)} and {len(dst)} elements"
            )
        if len(dst) and not len(src) and dst_block_memory_size is None:
            refuse("dst_block_indices without src_block_indices need dst_block_memory_size")
        check_type("layer_synchronizer", layer_synchronizer, LayerSynchronizer)
        config_type = TransferWithCacheKeyConfig if engine.options.one_sided else TransferConfig
        check_elements("transfer_configs", transfer_configs, config_type)
        if dst_block_memory_size and not len(dst):
            refuse("dst_block_memory_size needs dst_block_indices")
        if desc.num_tensors % TENSORS_PER_LAYER:
            refuse(f"transfer_cache_async needs an even number of tensors, got {desc.num_tensors}")
        num_layers = desc.num_tensors // TENSORS_PER_LAYER
        configs = [
            (config, config_layers(index, config, num_layers, bool(len(src))))
            for index, config in enumerate(transfer_configs)
        ]
        return CacheTask(
            engine,
            src_cache.cache_id,
            num_layers,
            layer_synchronizer,
            configs,
            src,
            dst,
            dst_block_memory_size or 0,
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

        Raises TypeError, ValueError, LLMException: LLM_KV_CACHE_NOT_EXIST, LLM_PARAM_INVALID.
        Source: 6.3.
        """
        engine = self._engine.opened
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
        engine.copy_cache(
            (dst.cache_id, dst_batch_index), (src.cache_id, src_batch_index), offset, size
        )

    def copy_blocks(self, cache: Cache, copy_block_info: dict[int, list[int]]) -> None:
        """Copy blocks within a paged cache, in no particular order.

        Args:
            cache: with blocks.
            copy_block_info: source block to destination blocks.

        Raises TypeError, LLMException: LLM_KV_CACHE_NOT_EXIST, LLM_PARAM_INVALID. Source: 6.3.
        """
        engine = self._engine.opened
        check_type("cache", cache, Cache)
        check_type("copy_block_info", copy_block_info, dict)
        sources: list[int] = []
        destinations: list[int] = []
        for block, targets in copy_block_info.items():
            check_type(f"copy_block_info[{block!r}]", targets, list)
            sources.extend([block] * len(targets))
            destinations.extend(targets)
        src = engine.block_ids("the keys of copy_block_info", sources)
        dst = engine.block_ids("the values of copy_block_info", destinations)
        require(cache.is_blocks_cache, "copy_blocks: the cache has no blocks")
        engine.copy_blocks(cache.cache_id, src, dst)

    def swap_blocks(self, src_cache: Cache, dst_cache: Cache, src_to_dst: dict[int, int]) -> None:
        """Copy blocks from host to device memory or back; nothing is exchanged, despite the name.

        Args:
            src_cache, dst_cache: with blocks of one size, one in host and one in device memory.
            src_to_dst: source block to destination block.

        Raises TypeError, LLMException: LLM_PARAM_INVALID, LLM_FAILED. Source: 6.4.
        """
        engine = self._engine.opened
        check_type("src_cache", src_cache, Cache)
        check_type("dst_cache", dst_cache, Cache)
        require(src_cache.is_blocks_cache, "swap_blocks: src_cache has no blocks")
        require(dst_cache.is_blocks_cache, "swap_blocks: dst_cache has no blocks")
        check_elements("src_to_dst", src_to_dst, int, dict)
        src_desc, dst_desc = src_cache.cache_desc, dst_cache.cache_desc
        block_bytes = src_desc.size // src_desc.batch_size
        if block_bytes != dst_desc.size // dst_desc.batch_size:
            refuse("swap_blocks: the blocks of src_cache and dst_cache have different sizes")
        if src_desc.num_tensors != dst_desc.num_tensors:
            refuse("swap_blocks: src_cache and dst_cache have different numbers of tensors")
        _check_below("src_to_dst: source", src_to_dst, src_desc.batch_size)
        _check_below("src_to_dst: destination", src_to_dst.values(), dst_desc.batch_size)
        src = engine.block_ids("the keys of src_to_dst", list(src_to_dst))
        dst = engine.block_ids("the values of src_to_dst", list(src_to_dst.values()))
        if src_desc.placement == dst_desc.placement:
            refuse(f"swap_blocks: both caches have {src_desc.placement}")
        engine.swap_blocks(
            src_desc.placement,
            src_cache.tensor_addrs,
            dst_cache.tensor_addrs,
            block_bytes,
            src,
            dst,
        )

    def remap_registered_memory(self, mem_infos: MemInfo | list[MemInfo]) -> None:
        """Tell the device that registered memory was mapped anew; without effect on the mock.

        Raises LLMException: LLM_PARAM_INVALID, LLM_NOT_YET_LINK, LLM_FAILED. Source: 6.5, decision
        26.
        """
        engine = self._engine.opened
        infos = [mem_infos] if isinstance(mem_infos, MemInfo) else mem_infos
        if not isinstance(infos, list) or not all(isinstance(each, MemInfo) for each in infos):
            refuse("mem_infos must be a MemInfo or a list of them")
        for info in infos:
            if info.mem_type is not Memtype.MEM_TYPE_DEVICE or info.addr == 0 or info.size <= 0:
                refuse(f"mem_infos must be device memory with an address and a size, got {info}")
            check_uint64("addr", info.addr)
            check_uint64("size", info.size)
        engine.remap(infos)


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
    # A warning that is made an error leaves no cache that nobody has a handle of.
    try:
        engine.warn_of_notices()
    except LLMDataDistWarning:
        engine.unregister(cache_id)
        raise


def _raise_of_blocks(
    engine: Engine, name: str, status: int, src_blocks: Any, dst_blocks: Any
) -> NoReturn:
    failure = engine.error(name, status)
    check_signs("src_blocks", src_blocks)
    check_signs("dst_blocks", dst_blocks)
    raise failure


def _require_one_sided(engine: Engine, name: str) -> None:
    if not engine.options.one_sided:
        refuse(f"{name} needs one-sided mode: set enable_remote_cache_accessible = True")


def _check_below(name: str, blocks: Any, limit: int) -> None:
    for block in blocks:
        if not 0 <= block < limit:
            refuse(f"{name} block {block} is not in [0, {limit})")


def _check_push_id(key: CacheKeyByIdAndIndex) -> None:
    """Refuse a negative id, which no native signature takes, and warn of id 0 (decision 15)."""
    if key.cache_id < 0:
        raise TypeError(f"the cache_id of push_cache only support positive ids, got {key.cache_id}")
    if key.cache_id == 0:
        warn("push_cache: cache_id 0 names the cache with the key (req_id 0, model_id 0)")
