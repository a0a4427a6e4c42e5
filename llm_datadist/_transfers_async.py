# SPDX-License-Identifier: Apache-2.0
"""Pulls and pushes whose caller does not wait: part of CacheManager (contract 6.7)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import _pulls, _pushes
from ._layer_words import TENSORS_PER_LAYER
from ._pulls import PullKey
from ._tasks import CacheTask
from .cache import Cache
from .keys import BlocksCacheKey, CacheKey, CacheKeyByIdAndIndex

if TYPE_CHECKING:
    # Known to every type checker; nothing is installed for it.
    from typing_extensions import Unpack

    from ._layers import PullKeywords
    from ._native.engine import Engine

__all__ = ["TransfersAsync"]


class TransfersAsync:
    """The transfers of a CacheManager that return a CacheTask at once.

    Arguments are checked, and lists of blocks copied, before the call returns. The deadline of a
    task, sync_kv_timeout, begins with the call. Tasks with one peer run one after the other in the
    order of their calls; those with different peers run at the same time.

        tasks = [manager.pull_blocks_async(BlocksCacheKey(peer, 0), cache, [0], [n])
                 for n, peer in enumerate(peers)]
        await asyncio.gather(*tasks)
    """

    _engine: Engine

    def pull_cache_async(
        self,
        cache_key: CacheKey | CacheKeyByIdAndIndex,
        cache: Cache,
        batch_index: int = 0,
        size: int = -1,
        **kwargs: Unpack[PullKeywords],
    ) -> CacheTask:
        """Begin a pull_cache.

        Args:
            cache_key, cache, batch_index, size, kwargs: as for pull_cache.

        Returns:
            The task, whose exception() is what pull_cache would raise of the engine.

        Raises:
            TypeError: an argument has another type.
            ValueError: a number is out of its range.
            LLMException: LLM_PARAM_INVALID, LLM_ENGINE_FINALIZED.

        Source: an own extension, 6.7.
        """
        engine = self._engine.opened
        return _pulls.pull_cache_async(engine, cache_key, cache, batch_index, size, kwargs)

    def pull_blocks_async(
        self,
        src_cache_key: PullKey,
        dst_cache: Cache,
        src_blocks: Any = (),
        dst_blocks: Any = (),
        **kwargs: Unpack[PullKeywords],
    ) -> CacheTask:
        """Begin a pull_blocks.

        Args:
            src_cache_key, dst_cache, src_blocks, dst_blocks, kwargs: as for pull_blocks.

        Returns and raises as pull_cache_async.

        Example:
            task = manager.pull_blocks_async(BlocksCacheKey(7, 0), cache, [0, 1], [4, 5])
            if not task.wait(100):
                task.cancel()

        Source: an own extension, 6.7.
        """
        engine = self._engine.opened
        return _pulls.pull_blocks_async(
            engine, src_cache_key, dst_cache, src_blocks, dst_blocks, kwargs
        )

    def push_cache_async(
        self,
        dst_cache_key: CacheKeyByIdAndIndex,
        src_cache: Cache,
        src_batch_index: int = 0,
        src_layer_range: range | None = None,
        dst_layer_range: range | None = None,
        size: int = -1,
        tensor_num_per_layer: int = TENSORS_PER_LAYER,
    ) -> CacheTask:
        """Begin a push_cache.

        Args:
            dst_cache_key, src_cache, src_batch_index, src_layer_range, dst_layer_range, size,
                tensor_num_per_layer: as for push_cache.

        Returns and raises as pull_cache_async.

        Source: an own extension, 6.7.
        """
        return _pushes.push_cache_async(
            self._engine.opened,
            dst_cache_key,
            src_cache,
            src_batch_index,
            (src_layer_range, dst_layer_range),
            size,
            tensor_num_per_layer,
        )

    def push_blocks_async(
        self,
        dst_cache_key: BlocksCacheKey,
        src_cache: Cache,
        src_blocks: Any = (),
        dst_blocks: Any = (),
        src_layer_range: range | None = None,
        dst_layer_range: range | None = None,
        tensor_num_per_layer: int = TENSORS_PER_LAYER,
    ) -> CacheTask:
        """Begin a push_blocks.

        Args:
            dst_cache_key, src_cache, src_blocks, dst_blocks, src_layer_range, dst_layer_range,
                tensor_num_per_layer: as for push_blocks.

        Returns and raises as pull_cache_async.

        Source: an own extension, 6.7.
        """
        return _pushes.push_blocks_async(
            self._engine.opened,
            dst_cache_key,
            src_cache,
            src_blocks,
            dst_blocks,
            (src_layer_range, dst_layer_range),
            tensor_num_per_layer,
        )
