# SPDX-License-Identifier: Apache-2.0
"""The engines of a program, each with its model, and the model's words as the package has them."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from llm_datadist import (
    BlocksCacheKey,
    Cache,
    CacheDesc,
    CacheKey,
    CacheKeyByIdAndIndex,
    DataType,
    LLMDataDist,
    Placement,
)
from llm_datadist._native import marshal
from tests.model.world import UNSET, Engine, Key, Layers, Memory, Name, Shape

# Registered tensors all have these bytes, so that two registrations share a range or do not touch.
SLOT, NUM_SLOTS = 240, 12
_STRIDES = {10: 24, 5: 48, 50: 24, 25: 48}


@dataclass
class Handle:
    """A Cache object that the client has, whatever became of the cache."""

    cache: Cache
    shape: Shape


@dataclass
class Player:
    """One LLMDataDist with its model and the memory that it registers."""

    cluster: int
    buffer: Any
    datadist: LLMDataDist
    model: Engine
    handles: list[Handle] = field(default_factory=list)

    @property
    def manager(self) -> Any:
        return self.datadist.cache_manager

    def slot(self, number: int) -> int:
        return int(self.buffer.ctypes.data) + (number % NUM_SLOTS) * SLOT

    def describe(self) -> Any:
        """What lldd_engine_describe tells, which has no other way to Python."""
        engine = self.datadist._engine
        assert engine is not None
        info = marshal.new(engine._native.ffi, "lldd_engine_info")
        assert engine._native.engine_describe(engine._handle, info) == 0
        return info


def shape_of(drawn: tuple[bool, int, int, int], counts: Sequence[int]) -> Shape:
    blocks, num_tensors, placement, count = drawn
    count = counts[count % len(counts)]
    where = Placement.HOST if placement == 0 else Placement.DEVICE
    return Shape(blocks, num_tensors, count, _STRIDES[count], where)


def fits(one: Shape, other: Shape) -> bool:
    return (one.num_tensors, one.stride) == (other.num_tensors, other.stride)


def desc_of(shape: Shape) -> CacheDesc:
    dims = [shape.count, shape.stride]
    return CacheDesc(shape.num_tensors, dims, DataType.DT_INT8, shape.placement)


def native_key(key: Key) -> Any:
    if key.kind == "id":
        return CacheKeyByIdAndIndex(key.cluster, key.id, key.batch)
    if key.kind == "blocks":
        return BlocksCacheKey(key.cluster, key.model)
    if key.kind == "prefix":
        return CacheKey(key.cluster, UNSET, key.model, key.id)
    return CacheKey(key.cluster, key.id, key.model)


def native_name(name: Name, shape: Shape | None = None) -> Any:
    if shape is not None and shape.blocks:
        return BlocksCacheKey(0, name.model)
    if name.is_prefix:
        return CacheKey(0, 0, name.model, name.id)
    return CacheKey(0, name.id, name.model)


def ranges_of(chosen: Layers) -> dict[str, Any]:
    options: dict[str, Any] = {"tensor_num_per_layer": chosen.per_layer}
    if chosen.src is not None:
        options["src_layer_range"] = chosen.src
    if chosen.dst is not None:
        options["dst_layer_range"] = chosen.dst
    return options


def fold(blocks: Sequence[int], count: int, wild: bool) -> list[int]:
    """Block indices without repetition, in range unless they shall be wild."""
    return list(dict.fromkeys(blocks if wild else (block % count for block in blocks)))


def bytes_at(memory: Memory) -> bytes:
    return ctypes.string_at(memory.base, len(memory.data))
