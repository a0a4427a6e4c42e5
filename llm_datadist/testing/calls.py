# SPDX-License-Identifier: Apache-2.0
"""A record of the transfers of this process: what was moved, by which path, how long it took."""

from __future__ import annotations

import functools
import inspect
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Callable, Union, overload

from .._layer_words import TENSORS_PER_LAYER
from ..cache import Cache
from ..cache_manager import CacheManager
from ..keys import BlocksCacheKey, CacheKey, CacheKeyByIdAndIndex
from ..status import LLMException

__all__ = ["Call", "DatadistCalls", "recording"]

Key = Union[BlocksCacheKey, CacheKey, CacheKeyByIdAndIndex]
_KEYS = (BlocksCacheKey, CacheKey, CacheKeyByIdAndIndex)
_KINDS = ("pull_", "push_", "transfer_")


@dataclass(frozen=True)
class Call:
    """One transfer, to or from one peer.

    bytes are those that were asked for. path is "mapped", "cma", "tcp", "hixl" or "none"; where it
    depends on the memory of the peer, "registered: cma, allocated: mapped". microseconds are None
    for a transfer that goes on after its call.
    """

    operation: str
    cluster_id: int
    key: Key | None
    src_blocks: tuple[int, ...]
    dst_blocks: tuple[int, ...]
    bytes: int
    path: str
    microseconds: float | None
    error: BaseException | None

    def __str__(self) -> str:
        blocks = f"{list(self.src_blocks)} -> {list(self.dst_blocks)}"
        took = "goes on" if self.microseconds is None else f"{self.microseconds:.0f} us"
        failed = f", {self.error}" if self.error else ""
        return (
            f"{self.operation} with {self.cluster_id}: blocks {blocks}, {self.bytes} bytes, "
            f"{self.path}, {took}{failed}"
        )


class DatadistCalls(Sequence[Call]):
    """The transfers in the order in which their calls returned; threads may go on adding to it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: list[Call] = []

    def add(self, call: Call) -> None:
        """Add one."""
        with self._lock:
            self._calls.append(call)

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._calls.clear()

    @property
    def failed(self) -> list[Call]:
        """Those that raised."""
        return [call for call in self if call.error is not None]

    @property
    def bytes(self) -> int:
        """The bytes of those that did not raise."""
        return sum(call.bytes for call in self if call.error is None)

    @overload
    def __getitem__(self, index: int) -> Call: ...
    @overload
    def __getitem__(self, index: slice) -> list[Call]: ...
    def __getitem__(self, index: int | slice) -> Call | list[Call]:
        with self._lock:
            return self._calls[index]

    def __len__(self) -> int:
        with self._lock:
            return len(self._calls)

    def __repr__(self) -> str:
        return "\n".join([f"{len(self)} transfers", *(f"  {call}" for call in self)])


@contextmanager
def recording() -> Iterator[DatadistCalls]:
    """Record each pull, push and transfer of every engine of this process."""
    calls = DatadistCalls()
    originals = {
        name: method
        for name, method in vars(CacheManager).items()
        if name.startswith(_KINDS) and callable(method)
    }
    for name, method in originals.items():
        setattr(CacheManager, name, _recorded(name, method, calls))
    try:
        yield calls
    finally:
        for name, method in originals.items():
            setattr(CacheManager, name, method)


def _recorded(name: str, method: Callable[..., Any], calls: DatadistCalls) -> Callable[..., Any]:
    signature = inspect.signature(method)

    @functools.wraps(method)
    def call(manager: CacheManager, *args: Any, **options: Any) -> Any:
        started = time.perf_counter_ns()
        error: BaseException | None = None
        try:
            return method(manager, *args, **options)
        except BaseException as raised:
            error = raised
            raise
        finally:
            took = None if "async" in name else (time.perf_counter_ns() - started) / 1e3
            try:
                bound = signature.bind(manager, *args, **options)
            except TypeError:
                pass  # The call itself has raised it.
            else:
                for each in _of_each_peer(name, manager, bound, took, error):
                    calls.add(each)

    return call


def _of_each_peer(
    name: str,
    manager: CacheManager,
    bound: inspect.BoundArguments,
    took: float | None,
    error: BaseException | None,
) -> Iterator[Call]:
    bound.apply_defaults()
    given = {**bound.arguments, **bound.arguments.get("kwargs", {})}
    cache = next((value for value in given.values() if isinstance(value, Cache)), None)
    if cache is None:
        return
    src, dst = (_blocks(given, side) for side in ("src", "dst"))
    keys = [value for value in given.values() if isinstance(value, _KEYS)]
    targets: list[tuple[int, Any, dict[str, Any]]] = [
        (key.cluster_id, key, given) for key in keys
    ] or [
        (each.dst_cluster_id, getattr(each, "cache_key", None), vars(each))
        for each in given.get("transfer_configs") or ()
    ]
    for cluster_id, key, layers in targets:
        size = _bytes(cache, dst or src, given, layers)
        path = _path(manager, cluster_id)
        yield Call(name, cluster_id, key, src, dst, size, path, took, error)


def _blocks(given: dict[str, Any], side: str) -> tuple[int, ...]:
    listed = given.get(f"{side}_blocks", given.get(f"{side}_block_indices"))
    return () if listed is None else tuple(int(block) for block in listed)


def _bytes(
    cache: Cache, blocks: Sequence[int], given: dict[str, Any], layers: dict[str, Any]
) -> int:
    desc = cache.cache_desc
    stride = desc.size // desc.shape[0]
    size = given.get("size", -1)
    each = stride * len(blocks) if cache.is_blocks_cache else (stride if size == -1 else size)
    chosen = layers.get("src_layer_range") or layers.get("_src_layer_range")
    chosen = chosen or layers.get("dst_layer_range")
    if chosen:
        return each * len(chosen) * (given.get("tensor_num_per_layer") or TENSORS_PER_LAYER)
    return each * desc.num_tensors


def _path(manager: CacheManager, cluster_id: int) -> str:
    try:
        paths = manager._engine.opened.links.paths(cluster_id)
    except LLMException:
        return "none"  # There is no such link, or no engine any more.
    names = {each.path for each in paths}
    if len(names) == 1:
        return names.pop()
    return ", ".join(f"{each.memory.name.lower()}: {each.path}" for each in paths)
