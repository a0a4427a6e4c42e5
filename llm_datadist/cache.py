# SPDX-License-Identifier: Apache-2.0
"""The shape of a cache, the cache, and pieces of memory (contract 1.7 and 1.9)."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any

from ._checks import (
    INT64_MAX,
    check_elements,
    check_int32,
    check_int64,
    check_optional,
    check_type,
    check_uint32,
    refuse,
    require,
    wrong_type,
)
from ._enums import NamedIntEnum
from .data_type import BYTES_OF, DataType

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .cache_manager import CacheManager

__all__ = ["Cache", "CacheDesc", "KvCache", "MemInfo", "Memtype", "Placement", "RegisterMemStatus"]


class Placement(NamedIntEnum):
    """Where the tensors of a cache are."""

    HOST = 0
    DEVICE = 1


class Memtype(Enum):
    """Where a piece of memory is."""

    MEM_TYPE_DEVICE = 0
    MEM_TYPE_HOST = 1


class RegisterMemStatus(Enum):
    """How far the memory of a communicator is prepared."""

    OK = 0
    PREPARING = 1
    FAILED = 2


class CacheDesc:
    """The shape of a cache: num_tensors tensors that are all alike.

    Args:
        num_tensors: uint32; for a model of n layers with K and V 2 * n.
        shape: of one tensor, a list or tuple of 1 to 31 ints. shape[0] is the batch size of a
            contiguous cache and the number of blocks of a paged one.
        data_type: of the elements.
        placement: host or device memory.
        batch_dim_index: what batch_size reads; has no influence on transfers, and one that is not 0
            warns where a contiguous cache is made of it (decision 18).
        seq_len_dim_index: -1 or an index of shape; has no influence.
        kv_tensor_format: has no influence.

    Raises:
        TypeError: an argument has another type.
        ValueError: a number is out of its range.
        LLMException: LLM_PARAM_INVALID, an index is outside the shape.
    """

    def __init__(
        self,
        num_tensors: int,
        shape: Sequence[int],
        data_type: DataType,
        placement: Placement = Placement.DEVICE,
        batch_dim_index: int = 0,
        seq_len_dim_index: int = -1,
        kv_tensor_format: str | None = None,
    ) -> None:
        check_uint32("num_tensors", num_tensors)
        dims = check_elements("shape", shape, int)
        check_type("data_type", data_type, DataType)
        check_type("placement", placement, Placement)
        check_type("batch_dim_index", batch_dim_index, int)
        check_int32("seq_len_dim_index", seq_len_dim_index)
        check_optional("kv_tensor_format", kv_tensor_format, str)
        if not 0 <= batch_dim_index < len(dims):
            refuse(f"batch_dim_index must be in [0, {len(dims)}), got {batch_dim_index}")
        if not -1 <= seq_len_dim_index < len(dims):
            refuse(f"seq_len_dim_index must be in [-1, {len(dims)}), got {seq_len_dim_index}")
        for index, dim in enumerate(dims):
            check_int64(f"shape[{index}]", dim)
        self._num_tensors = num_tensors
        self._shape = shape
        self._data_type = data_type
        self._placement = placement
        self._batch_dim_index = batch_dim_index
        self._seq_len_dim_index = seq_len_dim_index
        self._kv_tensor_format = kv_tensor_format
        self._batch_size: int = dims[batch_dim_index]
        self._size: int | None = None

    @property
    def num_tensors(self) -> int:
        """How many tensors there are."""
        return self._num_tensors

    @property
    def shape(self) -> Sequence[int]:
        """The sequence given at construction, itself."""
        return self._shape

    @property
    def data_type(self) -> DataType:
        """The type of the elements."""
        return self._data_type

    @property
    def placement(self) -> Placement:
        """Host or device memory."""
        return self._placement

    @property
    def batch_dim(self) -> int:
        """The batch_dim_index given at construction."""
        return self._batch_dim_index

    @property
    def batch_size(self) -> int:
        """shape[batch_dim_index] as it was at construction."""
        return self._batch_size

    @property
    def seq_len_dim_index(self) -> int:
        """The seq_len_dim_index given at construction."""
        return self._seq_len_dim_index

    @property
    def kv_tensor_format(self) -> str | None:
        """The kv_tensor_format given at construction."""
        return self._kv_tensor_format

    @property
    def size(self) -> int:
        """Bytes of one tensor.

        Raises:
            LLMException: LLM_PARAM_INVALID, a dim is not positive, or the bytes do not fit int64.

        Source: 2.3, decision 6.
        """
        if self._size is None:
            size = BYTES_OF[self._data_type]
            for dim in self._shape:
                if dim <= 0:
                    refuse(f"the dims of shape {list(self._shape)} must be positive")
                size *= dim
            if size > INT64_MAX:
                refuse(
                    f"a tensor of shape {list(self._shape)} has {size} bytes, "
                    "more than an int64 holds"
                )
            self._size = size
        return self._size

    def update_dim(self, dim_index: int, dim_value: int) -> None:
        """Write one dim into the caller's shape; batch_size stays.

        Args:
            dim_index: an index of shape.
            dim_value: the dim, int64.

        Raises:
            TypeError: an argument has another type, or the shape is a tuple.
            ValueError: dim_value is outside int64.
            IndexError: dim_index is outside the shape.

        Source: 1.7.
        """
        check_type("dim_index", dim_index, int)
        check_int64("dim_value", dim_value)
        if not isinstance(self._shape, list):
            raise wrong_type("the shape of update_dim", self._shape, "list")
        self._shape[dim_index] = dim_value
        self._size = None

    def __repr__(self) -> str:
        return (
            f"CacheDesc(num_tensors={self._num_tensors}, shape={self._shape}, "
            f"data_type={self._data_type}, "
            f"placement={self._placement}, batch_dim_index={self._batch_dim_index}, "
            f"seq_len_dim_index={self._seq_len_dim_index},kv_tensor_format={self._kv_tensor_format})"
        )


class Cache:
    """A cache of the own process, made by CacheManager. Dropping the object frees nothing.

    As a context manager it is deallocated, or unregistered, at the end of the block (an extension
    of this package):

        with manager.allocate_blocks_cache(desc, key) as cache:
            ...
    """

    def __init__(
        self, cache_id: int, cache_desc: CacheDesc, tensor_addrs: list[int], is_blocks_cache: bool
    ) -> None:
        self._cache_id = cache_id
        self._cache_desc = cache_desc
        self._tensor_addrs = tensor_addrs
        self._is_blocks_cache = is_blocks_cache
        # The batch size or number of blocks; the client may write into the shape of its desc.
        self._count = cache_desc.shape[0]
        self._manager: CacheManager | None = None
        self._is_pooled = False

    @classmethod
    def create_cpu_cache(cls, cache_desc: CacheDesc, addrs: list[int]) -> Cache:
        """Describe host memory that is no cache of any engine, for swap_blocks alone.

        Args:
            cache_desc: with Placement.HOST.
            addrs: start addresses, one per tensor.

        Raises:
            TypeError: an argument has another type.
            LLMException: LLM_PARAM_INVALID, another placement or number of addresses.
        """
        check_type("cache_desc", cache_desc, CacheDesc)
        taken = check_elements("addrs", addrs, int, list)
        if cache_desc.placement != Placement.HOST:
            refuse(f"create_cpu_cache needs Placement.HOST, got {cache_desc.placement}")
        if len(taken) != cache_desc.num_tensors:
            refuse(f"{cache_desc.num_tensors} tensors need as many addrs, got {len(taken)}")
        return cls(-1, cache_desc, addrs, True)

    @property
    def cache_id(self) -> int:
        """The id, from 1 on; -1 for a CPU cache."""
        return self._cache_id

    @property
    def cache_desc(self) -> CacheDesc:
        """The shape."""
        return self._cache_desc

    @property
    def tensor_addrs(self) -> list[int]:
        """Start addresses, one per tensor; empty after deallocation."""
        return self._tensor_addrs

    @property
    def is_blocks_cache(self) -> bool:
        """Whether shape[0] counts blocks, not batch entries."""
        return self._is_blocks_cache

    def as_numpy(self) -> list[NDArray[Any]]:
        """Return one array per tensor, of the shape and type of cache_desc, over the memory itself.

        DT_BF16 is viewed as uint16, since numpy has no bfloat16. An array over the memory of a pool
        must not be touched once the cache is deallocated or the engine is finalized.

        An extension of this package.

        Raises:
            LLMException: LLM_PARAM_INVALID (the cache was deallocated, or is in the memory of a
                device, which this process cannot touch).
        """
        from ._views import views_of

        return views_of(self)

    def __enter__(self) -> Cache:
        return self

    def __exit__(self, *exc_info: object) -> None:
        from ._caches import end

        if self._manager is not None:
            end(self._manager, self)

    def __repr__(self) -> str:
        return (
            f"Cache(cache_id = {self._cache_id}, device_tensor_addrs = {len(self._tensor_addrs)}, "
            f"is_blocks_cache = {self._is_blocks_cache})"
        )


class KvCache:
    """The cache of the old interface, which this package provides as a value only."""

    def __init__(
        self,
        cache_id: int,
        cache_desc: CacheDesc,
        per_device_tensor_addrs: list[list[int]],
        kv_cache_manager: Any = None,
    ) -> None:
        self._cache_id = cache_id
        self._cache_desc = cache_desc
        self._per_device_tensor_addrs = per_device_tensor_addrs
        self._kv_cache_manager = kv_cache_manager

    @classmethod
    def create_cpu_cache(cls, cache_desc: CacheDesc, addrs: list[int] | list[list[int]]) -> KvCache:
        """Describe host memory that is no cache of any engine.

        Args:
            cache_desc: of the cache.
            addrs: num_tensors addresses, or a list of such lists, one per device.

        Raises:
            TypeError: an argument has another type.
            LLMException: LLM_PARAM_INVALID, an empty list, a mixed one, or another number of
                addresses.
        """
        check_type("cache_desc", cache_desc, CacheDesc)
        check_elements("addrs", addrs, (int, list), list)
        require(addrs, "addrs is empty")
        nested = [each for each in addrs if isinstance(each, list)]
        if nested and len(nested) != len(addrs):
            refuse("addrs mixes addresses and lists of addresses")
        per_device: list[Any] = nested or [addrs]
        for index, device_addrs in enumerate(per_device):
            check_elements(f"addrs[{index}]", device_addrs, int, list)
            if len(device_addrs) != cache_desc.num_tensors:
                refuse(
                    f"{cache_desc.num_tensors} tensors need as many addrs, got {len(device_addrs)}"
                )
        return cls(-1, cache_desc, per_device)

    @property
    def cache_id(self) -> int:
        """The id; -1 for a CPU cache."""
        return self._cache_id

    @property
    def cache_desc(self) -> CacheDesc:
        """The shape."""
        return self._cache_desc

    @property
    def per_device_tensor_addrs(self) -> list[list[int]]:
        """Start addresses, one list a device."""
        return self._per_device_tensor_addrs

    def __repr__(self) -> str:
        num_devices = len(self._per_device_tensor_addrs)
        return f"KvCache(cache_id = {self._cache_id}, num_devices = {num_devices})"

    def __del__(self) -> None:
        # The object is half made when a subclass's constructor raised.
        manager = getattr(self, "_kv_cache_manager", None)
        if manager is not None:
            manager.deallocate_cache(self)


class MemInfo:
    """A piece of registered memory.

    Args:
        mem_type: device or host.
        addr: its start.
        size: its bytes.

    Raises:
        TypeError: an argument has another type.
    """

    def __init__(self, mem_type: Memtype, addr: int, size: int) -> None:
        check_type("mem_type", mem_type, Memtype)
        check_type("addr", addr, int)
        check_type("size", size, int)
        self._mem_type = mem_type
        self._addr = addr
        self._size = size

    @property
    def mem_type(self) -> Memtype:
        """Device or host."""
        return self._mem_type

    @property
    def addr(self) -> int:
        """Its start."""
        return self._addr

    @property
    def size(self) -> int:
        """Its bytes."""
        return self._size

    def __repr__(self) -> str:
        return f"MemInfo(mem_type={self._mem_type}, addr={self._addr}, size={self._size})"
