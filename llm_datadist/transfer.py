# SPDX-License-Identifier: Apache-2.0
"""Asynchronous transfers layer by layer: their configuration, their thread, their task (contract
1.9 and 6.2).
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Union

from . import tracing
from ._checks import (
    check_elements,
    check_layer_range,
    check_optional_layer_range,
    check_type,
    check_uint32,
    check_uint64,
    length,
    refuse,
)
from ._tasks import CacheTask
from .keys import BlocksCacheKey, CacheKeyByIdAndIndex
from .status import LLMException, LLMStatusCode, error
from .utils.log import get_logger

if TYPE_CHECKING:
    from ._native.engine import Engine

__all__ = ["CacheTask", "LayerSynchronizer", "TransferConfig", "TransferWithCacheKeyConfig"]


class LayerSynchronizer(ABC):
    """What a client implements to say when a layer may be sent."""

    @abstractmethod
    def synchronize_layer(self, layer_index: int, timeout_in_millis: int | None) -> bool:
        """Wait until a layer is computed; called in layer order, once each, on the task's thread.

        Args:
            layer_index: of the own cache.
            timeout_in_millis: always None.

        Returns:
            Whether the layer may be sent; False ends the whole transfer.
        """


class _OwnSide:
    """What both configs say of the own cache."""

    _src_layer_range: range | None
    _src_batch_index: int

    @property
    def src_layer_range(self) -> range | None:
        """Own layers."""
        return self._src_layer_range

    @src_layer_range.setter
    def src_layer_range(self, value: range | None) -> None:
        check_optional_layer_range("src_layer_range", value)
        self._src_layer_range = value

    @property
    def src_batch_index(self) -> int:
        """The batch entry of a contiguous cache."""
        return self._src_batch_index

    @src_batch_index.setter
    def src_batch_index(self, value: int) -> None:
        check_uint32("src_batch_index", value)
        self._src_batch_index = value


class TransferConfig(_OwnSide):
    """Where layers go in request mode: raw addresses at a peer.

    Args:
        dst_cluster_id: the peer, uint64.
        dst_addrs: one address per tensor of each layer (two layer by layer, unless
            tensor_num_per_layer says otherwise), each inside a cache of the peer, uint64.
        src_layer_range: own layers; None: all, filled in by transfer_cache_async.
        src_batch_index: uint32.

    Raises:
        TypeError: an argument has another type.
        ValueError: a number is out of its range.
        LLMException: LLM_PARAM_INVALID, an empty range or another step.
    """

    def __init__(
        self,
        dst_cluster_id: int,
        dst_addrs: Sequence[int],
        src_layer_range: range | None = None,
        src_batch_index: int = 0,
    ) -> None:
        self.dst_cluster_id = dst_cluster_id
        self.dst_addrs = dst_addrs
        self.src_layer_range = src_layer_range
        self.src_batch_index = src_batch_index
        self.dst_layer_range: range | None = None

    @property
    def dst_cluster_id(self) -> int:
        """The peer."""
        return self._dst_cluster_id

    @dst_cluster_id.setter
    def dst_cluster_id(self, value: int) -> None:
        check_uint64("dst_cluster_id", value)
        self._dst_cluster_id = value

    @property
    def dst_addrs(self) -> Sequence[int]:
        """One address per tensor of each layer."""
        return self._dst_addrs

    @dst_addrs.setter
    def dst_addrs(self, value: Sequence[int]) -> None:
        for index, addr in enumerate(check_elements("dst_addrs", value, int)):
            check_uint64(f"dst_addrs[{index}]", addr)
        self._dst_addrs = value


DestinationKey = Union[BlocksCacheKey, CacheKeyByIdAndIndex]


class TransferWithCacheKeyConfig(_OwnSide):
    """Where layers go in one-sided mode: a cache of a peer.

    Args:
        cache_key: of the peer's cache.
        src_layer_range: own layers, required.
        dst_layer_range: the peer's layers, required, as many.
        src_batch_index: uint32; 0 with a BlocksCacheKey.

    Raises:
        TypeError: an argument has another type.
        ValueError: a number is out of its range.
        LLMException: LLM_PARAM_INVALID, bad ranges, ranges of different length, or a batch index
            with a BlocksCacheKey. Setters look at their own value only.
    """

    def __init__(
        self,
        cache_key: DestinationKey,
        src_layer_range: range | None = None,
        dst_layer_range: range | None = None,
        src_batch_index: int = 0,
    ) -> None:
        check_type("cache_key", cache_key, (BlocksCacheKey, CacheKeyByIdAndIndex))
        check_layer_range("src_layer_range", src_layer_range)
        check_layer_range("dst_layer_range", dst_layer_range)
        assert src_layer_range is not None
        assert dst_layer_range is not None
        if length(src_layer_range) != length(dst_layer_range):
            refuse(
                "src_layer_range and dst_layer_range must have one length, "
                f"got {src_layer_range} and {dst_layer_range}"
            )
        check_uint32("src_batch_index", src_batch_index)
        if isinstance(cache_key, BlocksCacheKey) and src_batch_index != 0:
            refuse(f"src_batch_index must be 0 with a BlocksCacheKey, got {src_batch_index}")
        self._cache_key = cache_key
        self._src_layer_range = src_layer_range
        self._dst_layer_range: range | None = dst_layer_range
        self._src_batch_index = src_batch_index
        self.dst_cluster_id = cache_key.cluster_id

    @property
    def cache_key(self) -> DestinationKey:
        """The peer's cache. Setting another key leaves dst_cluster_id as it is."""
        return self._cache_key

    @cache_key.setter
    def cache_key(self, value: DestinationKey) -> None:
        check_type("cache_key", value, (BlocksCacheKey, CacheKeyByIdAndIndex))
        self._cache_key = value

    @property
    def dst_layer_range(self) -> range | None:
        """The peer's layers."""
        return self._dst_layer_range

    @dst_layer_range.setter
    def dst_layer_range(self, value: range | None) -> None:
        check_optional_layer_range("dst_layer_range", value)
        self._dst_layer_range = value


AnyTransferConfig = Union[TransferConfig, TransferWithCacheKeyConfig]


class _Destination:
    """What one config asks for, taken from the client's object when the call was made."""

    def __init__(self, config: AnyTransferConfig, layers: range, tensors_per_layer: int) -> None:
        self.layers = layers
        self.is_done = False
        self._tensors_per_layer = tensors_per_layer
        self.cluster_id = config.dst_cluster_id
        self.src_batch_index = config.src_batch_index
        self.key = config.cache_key if isinstance(config, TransferWithCacheKeyConfig) else None
        self.dst_layers = config.dst_layer_range or layers
        self.addrs = list(config.dst_addrs) if isinstance(config, TransferConfig) else []

    def addrs_of(self, layer: int) -> list[int]:
        first = self._tensors_per_layer * (layer - self.layers.start)
        return self.addrs[first : first + self._tensors_per_layer]

    def dst_layer_of(self, layer: int) -> int:
        # Counted from the start of the source range, as the documents say (decision 16).
        return self.dst_layers[layer - self.layers.start]


class LayersTask(CacheTask):
    """A running transfer_cache_async."""

    def __init__(
        self,
        engine: Engine,
        cache_id: int,
        shape: tuple[int, int],
        synchronizer: LayerSynchronizer,
        configs: Sequence[tuple[AnyTransferConfig, range]],
        src_blocks: Any,
        dst_blocks: Any,
        dst_block_size: int,
    ) -> None:
        self._cancelling = engine.token()
        super().__init__(self._cancelling)
        self._engine = engine
        self._cache_id = cache_id
        # How many layers there are, and how many tensors each has.
        self._num_layers, self._tensors_per_layer = shape
        self._synchronizer = synchronizer
        self._destinations = [
            _Destination(config, layers, self._tensors_per_layer) for config, layers in configs
        ]
        self._src_blocks = src_blocks
        self._dst_blocks = dst_blocks
        self._dst_block_size = dst_block_size
        # By cluster id, so two configs for one cluster share a result (contract 6.2).
        self._results: dict[int, LLMStatusCode] = {}
        # Not a daemon: the interpreter waits for it, as a transfer cut off at exit would leave half
        # a cache at the peer.
        run = tracing.kept(self._run)
        threading.Thread(target=run, name="llm_datadist transfer", daemon=False).start()

    def _statuses(self) -> list[LLMStatusCode]:
        # In a forked child the thread that writes them does not exist.
        failed = LLMStatusCode.LLM_FAILED
        return [self._results.get(each.cluster_id, failed) for each in self._destinations]

    def _count(self) -> int:
        return len(self._destinations)

    def _run(self) -> None:
        try:
            for layer in range(self._num_layers):
                covering = [each for each in self._destinations if layer in each.layers]
                if self.cancelled():
                    self._interrupt(covering)
                    break
                if covering and not self._send_layer(layer, covering):
                    break
        except (
            BaseException
        ) as cause:  # the thread's end is the only other place where it could surface
            get_logger().exception("transfer_cache_async: the transfer ended early")
            self._exception = cause
        finally:
            self._fail_what_is_left()
            self._end()

    def _interrupt(self, covering: Sequence[_Destination]) -> None:
        """Fail those that wanted the next layer, which nobody is asked for any more."""
        timeout = LLMStatusCode.LLM_TIMEOUT
        self._exception = error("transfer_cache_async: interrupted by cancel", timeout)
        for each in covering:
            self._results[each.cluster_id] = timeout

    def _fail_what_is_left(self) -> None:
        """Give each config that did not succeed a failure, also where it shares its result with one
        that did.
        """
        success = LLMStatusCode.LLM_SUCCESS
        for each in self._destinations:
            if not each.is_done and self._results.get(each.cluster_id, success) == success:
                self._results[each.cluster_id] = LLMStatusCode.LLM_FAILED

    def _send_layer(self, layer: int, covering: Sequence[_Destination]) -> bool:
        """Send one layer to the destinations that want it; tells whether to go on."""
        if not self._synchronizer.synchronize_layer(layer, None):
            get_logger().error("transfer_cache_async: synchronize_layer(%d) returned false", layer)
            for each in covering:
                self._results[each.cluster_id] = LLMStatusCode.LLM_PARAM_INVALID
            return False
        for each in covering:
            try:
                self._engine.transfer_layer(
                    self._cache_id,
                    each.key,
                    each.cluster_id,
                    each.addrs_of(layer),
                    (layer, each.dst_layer_of(layer)),
                    self._tensors_per_layer,
                    each.src_batch_index,
                    self._src_blocks,
                    self._dst_blocks,
                    self._dst_block_size,
                    self._cancelling,
                )
            except LLMException as failure:
                get_logger().error("transfer_cache_async: layer %d: %s", layer, failure)
                self._results[each.cluster_id] = failure.status_code
                self._exception = failure
                return False
            if layer == each.layers.stop - 1:
                each.is_done = True
                self._results[each.cluster_id] = LLMStatusCode.LLM_SUCCESS
        return True
