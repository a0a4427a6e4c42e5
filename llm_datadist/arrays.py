# SPDX-License-Identifier: Apache-2.0
"""Caches over arrays: shapes, element types and addresses are read from the arrays and checked.

    from llm_datadist import arrays

    kv = [numpy.zeros((64, 16, 8, 128), numpy.float16) for _ in range(2 * layers)]
    cache = arrays.register_blocks(engine.cache_manager, kv, BlocksCacheKey(1, model_id=0))

An extension of this package (contract 1.12).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ._checks import check_optional, check_type, check_uint64, refuse, wrong_type
from .cache import Cache, CacheDesc, Placement
from .data_type import BYTES_OF, DataType
from .keys import BlocksCacheKey, CacheKey

if TYPE_CHECKING:
    from .cache_manager import CacheManager

__all__ = ["describe", "register_blocks", "register_contiguous"]

# Where an NPU tensor of torch says that it is. Others have no place that a peer could reach.
_PLACES = {"cpu": Placement.HOST, "npu": Placement.DEVICE}
_DLPACK_CPU = 1


class _Tensor(NamedTuple):
    """What is known of one tensor of a cache, and what keeps its memory."""

    name: str
    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    data_type: DataType
    is_in_device: bool
    owner: Any


def register_blocks(
    manager: CacheManager,
    tensors: Any,
    key: BlocksCacheKey | None = None,
    *,
    placement: Placement = Placement.DEVICE,
    kv_stacked: bool = False,
    num_blocks: int | None = None,
    desc: CacheDesc | None = None,
    remote_accessible: bool | None = None,
) -> Cache:
    """Register a paged cache over arrays, whose memory stays alive until unregister_cache has
    returned, or the engine is finalized.

    Args:
        manager: of the engine.
        tensors: one array per tensor of the cache, in order (K of layer 0, V of layer 0, K of
            layer 1, ...): a sequence, which may be nested by layers, or a mapping, whose values
            count. An array is one of numpy, a tensor of torch in host or NPU memory, or anything
            with __array_interface__ or, in host memory, __dlpack__. All have one shape and one
            element type; each is contiguous and may be written.
        key: the name of the cache, if it has one.
        placement: where the engine is told that the memory is. The mock takes arrays in host
            memory for either.
        kv_stacked: each array is [2, blocks, ...] and gives two tensors, [0] for K and [1] for V.
        num_blocks: how many blocks of equal size each tensor is divided into; None: shape[0].
            Two caches over the same arrays may divide them differently.
        desc: the shape of the cache, in place of the one read from the arrays; refused if a tensor
            of it is larger than its array, or its number of tensors is not that of the arrays.
        remote_accessible: as for CacheManager.register_blocks_cache.

    Raises:
        TypeError: an argument has another type, or an element of tensors is no array.
        LLMException: LLM_PARAM_INVALID (an array that is not contiguous, is read-only, is in
            memory that no peer reaches, or differs from the first), and what
            CacheManager.register_blocks_cache raises.
    """
    check_optional("key", key, BlocksCacheKey)
    found = _look_at_all(tensors, kv_stacked)
    shape = _described(found, placement, num_blocks, desc)
    cache = manager.register_blocks_cache(
        shape, [each.address for each in found], key, remote_accessible
    )
    manager._kept[cache.cache_id] = [each.owner for each in found]
    return cache


def register_contiguous(
    manager: CacheManager,
    tensors: Any,
    keys: Sequence[CacheKey] = (),
    *,
    placement: Placement = Placement.DEVICE,
    kv_stacked: bool = False,
    desc: CacheDesc | None = None,
    remote_accessible: bool | None = None,
) -> Cache:
    """Register a contiguous cache over arrays: shape[0] is the batch size.

    Args:
        keys: key i names batch entry i.

    The other arguments, what keeps the memory, and what is raised: as for register_blocks.
    """
    found = _look_at_all(tensors, kv_stacked)
    shape = _described(found, placement, None, desc)
    cache = manager.register_cache(shape, [each.address for each in found], keys, remote_accessible)
    manager._kept[cache.cache_id] = [each.owner for each in found]
    return cache


def describe(
    tensors: Any,
    *,
    placement: Placement = Placement.DEVICE,
    kv_stacked: bool = False,
    num_blocks: int | None = None,
) -> tuple[CacheDesc, list[int]]:
    """Return the shape of a cache over arrays and the address of each tensor, for clients that
    register it themselves and keep the arrays alive.

    Arguments and errors: as for register_blocks.
    """
    found = _look_at_all(tensors, kv_stacked)
    return _described(found, placement, num_blocks, None), [each.address for each in found]


# ---- arrays to tensors ----


def _look_at_all(tensors: Any, kv_stacked: bool) -> list[_Tensor]:
    check_type("kv_stacked", kv_stacked, bool)
    if isinstance(tensors, (str, bytes)) or not isinstance(tensors, (Sequence, Mapping)):
        if _is_array(tensors):
            raise TypeError(
                "tensors only support a sequence or a mapping of arrays, got one array: write "
                "[array] if the cache has a single tensor, list(array) if it has one per row"
            )
        raise wrong_type("tensors", tensors, "a sequence or a mapping of arrays")
    found = [_look_at(name, array) for name, array in _flat("tensors", tensors)]
    if not found:
        refuse("tensors is empty")
    for each in found:
        _check_contiguous(each)
        if each.shape != found[0].shape or each.data_type != found[0].data_type:
            refuse(
                f"all tensors of a cache have one shape and type: {each.name} has "
                f"{list(each.shape)} of {each.data_type.name}, {found[0].name} has "
                f"{list(found[0].shape)} of {found[0].data_type.name}; register caches of "
                "their own for them"
            )
    return [half for each in found for half in _halves(each)] if kv_stacked else found


def _flat(name: str, tensors: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(tensors, Mapping):
        parts = [(f"{name}[{key!r}]", value) for key, value in tensors.items()]
    else:
        parts = [(f"{name}[{index}]", value) for index, value in enumerate(tensors)]
    for part, value in parts:
        if isinstance(value, (list, tuple, Mapping)):
            yield from _flat(part, value)
        else:
            yield part, value


def _is_array(value: Any) -> bool:
    return any(hasattr(value, each) for each in ("data_ptr", "__array_interface__", "__dlpack__"))


def _look_at(name: str, array: Any) -> _Tensor:
    # First, since numpy knows neither bfloat16 nor memory of a device.
    if hasattr(array, "data_ptr") and hasattr(array, "element_size"):
        return _of_torch(name, array)
    if hasattr(array, "__array_interface__"):
        return _of_interface(name, array, array)
    if hasattr(array, "__dlpack__"):
        return _of_interface(name, _from_dlpack(name, array), array)
    raise wrong_type(
        name, array, "an array: numpy, torch, or an object with __array_interface__ or __dlpack__"
    )


def _of_torch(name: str, tensor: Any) -> _Tensor:
    place = getattr(tensor.device, "type", str(tensor.device))
    if place not in _PLACES:
        refuse(f"{name} is in memory of {place!r}, which no peer reaches; cpu and npu are possible")
    size = tensor.element_size()
    return _Tensor(
        name,
        tensor.data_ptr(),
        tuple(int(dim) for dim in tensor.shape),
        tuple(int(stride) * size for stride in tensor.stride()),
        _data_type_of(name, tensor.dtype, size),
        _PLACES[place] == Placement.DEVICE,
        tensor,
    )


def _of_interface(name: str, array: Any, owner: Any) -> _Tensor:
    interface = array.__array_interface__
    if interface.get("data") is None:
        refuse(f"{name} says no address in its __array_interface__")
    address, is_read_only = interface["data"]
    if is_read_only:
        refuse(f"{name} is read-only, but transfers write into a cache")
    shape = tuple(int(dim) for dim in interface["shape"])
    # An array knows bfloat16 of ml_dtypes by name; in its interface that is two unnamed bytes.
    dtype = getattr(array, "dtype", interface["typestr"])
    data_type = _data_type_of(name, dtype, None)
    strides = interface.get("strides") or _packed(shape, BYTES_OF[data_type])
    return _Tensor(name, address, shape, tuple(strides), data_type, False, (array, owner))


def _from_dlpack(name: str, array: Any) -> Any:
    import numpy as np

    kind = array.__dlpack_device__()[0] if hasattr(array, "__dlpack_device__") else _DLPACK_CPU
    if int(kind) != _DLPACK_CPU:
        refuse(
            f"{name} is in memory of DLPack device type {int(kind)}: only a tensor with data_ptr() "
            "can be registered there"
        )
    try:
        return np.from_dlpack(array)
    except (BufferError, RuntimeError, TypeError) as cause:
        refuse(f"{name} cannot be read through __dlpack__: {cause}")


def _data_type_of(name: str, dtype: Any, size: int | None) -> DataType:
    try:
        data_type = DataType.of(dtype)
    except ValueError as cause:
        refuse(f"{name}: {cause}")
    if size is not None and BYTES_OF[data_type] != size:
        refuse(f"{name} has elements of {size} bytes, {data_type.name} has {BYTES_OF[data_type]}")
    return data_type


def _packed(shape: Sequence[int], size: int) -> tuple[int, ...]:
    return tuple(size * math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def _check_contiguous(tensor: _Tensor) -> None:
    wanted = _packed(tensor.shape, BYTES_OF[tensor.data_type])
    # The stride of a dimension of one element is never taken.
    odd = [axis for axis, dim in enumerate(tensor.shape) if dim > 1]
    odd = [axis for axis in odd if tensor.strides[axis] != wanted[axis]]
    if not odd:
        return
    text = (
        f"{tensor.name} is not contiguous: its shape {list(tensor.shape)} has strides of "
        f"{list(tensor.strides)} bytes, {list(wanted)} are needed"
    )
    if odd == [0] and tensor.strides[0] > wanted[0]:
        text += (
            f"; each block of {wanted[0]} bytes lies {tensor.strides[0]} bytes after the one "
            "before: register the array that this one is a view of"
        )
    refuse(text)


def _halves(tensor: _Tensor) -> list[_Tensor]:
    if len(tensor.shape) < 2 or tensor.shape[0] != 2:
        refuse(
            f"kv_stacked needs arrays of shape [2, blocks, ...], {tensor.name} has "
            f"{list(tensor.shape)}"
        )
    step = tensor.strides[0]
    return [
        tensor._replace(
            name=f"{tensor.name}[{half}]",
            address=tensor.address + half * step,
            shape=tensor.shape[1:],
            strides=tensor.strides[1:],
        )
        for half in (0, 1)
    ]


# ---- tensors to a shape ----


def _described(
    found: list[_Tensor], placement: Placement, num_blocks: int | None, desc: CacheDesc | None
) -> CacheDesc:
    check_type("placement", placement, Placement)
    check_optional("desc", desc, CacheDesc)
    first = found[0]
    if not first.shape:
        refuse(f"{first.name} has no dimension: shape[0] counts blocks or batch entries")
    shape = list(first.shape)
    if num_blocks is not None:
        check_uint64("num_blocks", num_blocks)
        elements = math.prod(shape)
        if num_blocks == 0 or elements % num_blocks:
            refuse(
                f"num_blocks is {num_blocks}, but the {elements} elements of {first.name} cannot "
                "be divided into as many blocks of equal size"
            )
        shape = [num_blocks, elements // num_blocks]
    made = CacheDesc(len(found), shape, first.data_type, placement)
    in_device = next((each for each in found if each.is_in_device), None)
    described = made if desc is None else desc
    if in_device is not None and described.placement == Placement.HOST:
        refuse(f"{in_device.name} is in device memory, placement is Placement.HOST")
    if desc is not None:
        if desc.num_tensors != len(found):
            refuse(f"desc has {desc.num_tensors} tensors, there are {len(found)} arrays")
        if desc.size > made.size:
            refuse(
                f"a tensor of desc has {desc.size} bytes, more than the {made.size} bytes of "
                f"{first.name}"
            )
    return described
