# SPDX-License-Identifier: Apache-2.0
"""From Python objects to the structs of the C interface.

cffi frees what ffi.new() made together with its Python object, also where only another struct
points to it. So functions here that need more than one piece of memory return the pieces too, as
`keep`: whoever calls the library holds them until it has returned.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable, Sequence
from functools import cache, partial
from operator import index
from typing import TYPE_CHECKING, Any, Callable, Union

import numpy as np

from .._addresses import to_text
from .._checks import UINT64_MAX, check_no_null, wrong_type
from .._layer_words import ALL_LAYERS, TENSORS_PER_LAYER, LayerRanges
from ..cache import CacheDesc
from ..config import IpInfo, LLMClusterInfo
from ..keys import BlocksCacheKey, CacheKey, CacheKeyByIdAndIndex
from ..options import EngineOptions

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ._ffi import (
        FFI,
        Array,
        Constant,
        NewArray,
        NewStruct,
        Null,
        lldd_address,
        lldd_cache_desc,
        lldd_cache_key,
        lldd_cluster,
        lldd_config,
        lldd_group,
    )

Borrow = Callable[[Any], "Array[int]"]
AnyKey = Union[BlocksCacheKey, CacheKey, CacheKeyByIdAndIndex]
# What only has to live until a call returns.
Keep = list[object]


def _constant(ffi: FFI, name: Constant) -> int:
    """Return a constant of the header."""
    return ffi.integer_const(name)


constant: Callable[[FFI, Constant], int] = cache(_constant)


def _new(ffi: FFI, name: str) -> Any:
    """Make one zeroed struct with its struct_size."""
    struct: Any = ffi.new(name + " *")  # type: ignore[call-overload]
    struct.struct_size = ffi.sizeof(name)
    return struct


def _new_array(ffi: FFI, name: str, count: int) -> Any:
    """Make zeroed structs with their struct_size; null for none."""
    if count == 0:
        return ffi.NULL
    structs: Any = ffi.new(name + "[]", count)  # type: ignore[call-overload]
    size = ffi.sizeof(name)
    for struct in structs:
        struct.struct_size = size
    return structs


# By the name of a struct, a checker of types knows what is made.
new: NewStruct = _new
new_array: NewArray = _new_array


def text(ffi: FFI, chars: Array[bytes] | Null) -> str:
    """Read a text of the library, null included."""
    return ffi.string(chars).decode("utf-8", "replace") if chars else ""


def chars(ffi: FFI, name: str, value: str | None, keep: Keep) -> Array[bytes] | Null:
    """Make a text for the library; None: null. Every text of a client goes through here.

    Raises LLMException (LLM_PARAM_INVALID) for one with a null character.
    """
    if value is None:
        return ffi.NULL
    check_no_null(name, value)
    made = ffi.new("char[]", value.encode())
    keep.append(made)
    return made


def config(ffi: FFI, options: EngineOptions) -> tuple[lldd_config, Keep]:
    """Make an lldd_config; returns it and keep."""
    keep: Keep = []
    struct = new(ffi, "lldd_config")
    struct.role = options.role
    struct.cluster_id = options.cluster_id
    if options.one_sided:
        struct.mode = constant(ffi, "LLDD_MODE_ONE_SIDED")
    if options.one_way_links:
        struct.link_style = constant(ffi, "LLDD_LINK_STYLE_ONE_WAY")
    struct.device_id = options.device_id
    struct.flags = constant(ffi, "LLDD_CONFIG_TELL_NOTICES")
    if options.strict_hardware:
        struct.flags |= constant(ffi, "LLDD_CONFIG_STRICT_HARDWARE")
    struct.sync_timeout_ms = options.sync_timeout_ms
    if options.listen_ip is not None:
        struct.flags |= constant(ffi, "LLDD_CONFIG_LISTEN")
        struct.listen_ip = chars(ffi, "listen_ip", options.listen_ip, keep)
        struct.listen_port = options.listen_port
    struct.device_pool_size = options.device_pool.size
    struct.device_page_shift = options.device_pool.page_shift
    struct.host_pool_size = options.host_pool.size
    struct.host_page_shift = options.host_pool.page_shift
    struct.link_total_time_s = options.link_total_time_s
    struct.link_retry_count = options.link_retry_count
    traffic_class, service_level = options.rdma_traffic_class, options.rdma_service_level
    unset = constant(ffi, "LLDD_UNSET")
    struct.rdma_traffic_class = unset if traffic_class is None else traffic_class
    struct.rdma_service_level = unset if service_level is None else service_level
    struct.local_comm_res = chars(ffi, "local_comm_res", options.local_comm_res, keep)
    struct.global_resource_config = chars(
        ffi, "global_resource_config", options.global_resource_config, keep
    )
    struct.auth_token = chars(ffi, "auth_token", options.auth_token, keep)
    struct.buffer_pool = chars(ffi, "buffer_pool", options.buffer_pool, keep)
    struct.finalize_timeout_ms = options.finalize_timeout_ms
    # In the struct 0 is the default.
    struct.peer_timeout_ms = options.peer_timeout_ms or unset
    return struct, keep


def cache_desc(ffi: FFI, desc: CacheDesc, is_blocks: bool) -> tuple[lldd_cache_desc, Keep]:
    """Make an lldd_cache_desc; returns it and keep.

    The layout belongs to the call, not to desc (decision 1).
    """
    dims = ffi.new("int64_t[]", list(desc.shape))
    struct = new(ffi, "lldd_cache_desc")
    struct.num_tensors = desc.num_tensors
    layout: Constant = "LLDD_LAYOUT_BLOCKS" if is_blocks else "LLDD_LAYOUT_CONTIGUOUS"
    struct.layout = constant(ffi, layout)
    struct.placement = desc.placement
    struct.data_type = desc.data_type.value
    struct.num_dims = len(dims)
    struct.dims = dims
    struct.batch_dim_index = desc.batch_dim
    return struct, [dims]


def fill_key(ffi: FFI, struct: lldd_cache_key, key: AnyKey) -> None:
    """Write a key of any kind into an lldd_cache_key that has its struct_size."""
    if isinstance(key, BlocksCacheKey):
        struct.kind = constant(ffi, "LLDD_KEY_BLOCKS")
        struct.cluster_id = key._cluster_id
        struct.model_id = key._model_id
    elif isinstance(key, CacheKeyByIdAndIndex):
        struct.kind = constant(ffi, "LLDD_KEY_ID")
        struct.cluster_id = key.cluster_id
        struct.cache_id = key.cache_id
        struct.batch_index = key.batch_index
    else:
        struct.kind = constant(ffi, "LLDD_KEY_REQUEST")
        struct.cluster_id = key.cluster_id
        struct.model_id = key.model_id
        struct.req_id = key.req_id
        struct.prefix_id = key.prefix_id


def key(ffi: FFI, value: AnyKey) -> lldd_cache_key:
    """Make an lldd_cache_key of a key of any kind."""
    struct = new(ffi, "lldd_cache_key")
    fill_key(ffi, struct, value)
    return struct


def keys(ffi: FFI, values: Sequence[AnyKey]) -> Array[lldd_cache_key]:
    """Make an array of lldd_cache_key; null for none."""
    structs = new_array(ffi, "lldd_cache_key", len(values))
    for position, value in enumerate(values):
        fill_key(ffi, structs[position], value)
    return structs


def _address_array(
    ffi: FFI, infos: Sequence[IpInfo], keep: Keep
) -> tuple[Array[lldd_address], int]:
    """Return the array and how many addresses it has."""
    infos = list(infos)
    structs = new_array(ffi, "lldd_address", len(infos))
    keep.append(structs)
    for position, (ip, port) in enumerate(infos):
        structs[position].ip = chars(ffi, "ip", to_text(ip), keep)
        structs[position].port = port
    return structs, len(infos)


def clusters(ffi: FFI, infos: Sequence[LLMClusterInfo]) -> tuple[Array[lldd_cluster], Keep]:
    """Make an array of lldd_cluster; returns it and keep.

    Raises TypeError for an int that is no IPv4 address.
    """
    keep: Keep = []
    structs = new_array(ffi, "lldd_cluster", len(infos))
    for position, info in enumerate(infos):
        struct = structs[position]
        if info.remote_cluster_id is not None:
            struct.flags = constant(ffi, "LLDD_CLUSTER_HAS_ID")
            struct.remote_cluster_id = info.remote_cluster_id
        struct.remote, struct.num_remote = _address_array(ffi, info.remote_ip_info_list, keep)
        struct.local, struct.num_local = _address_array(ffi, info.local_ip_info_list, keep)
    return structs, keep


def group(ffi: FFI, name: str, ranks: dict[int, int], rank_table: str) -> tuple[lldd_group, Keep]:
    """Make an lldd_group of cluster id to rank; returns it and keep."""
    keep: Keep = []
    members = new_array(ffi, "lldd_member", len(ranks))
    for position, (cluster_id, rank) in enumerate(ranks.items()):
        members[position].cluster_id = cluster_id
        members[position].rank = rank
    keep.append(members)
    struct = new(ffi, "lldd_group")
    struct.name = chars(ffi, "comm_name", name, keep)
    struct.members = members
    struct.num_members = len(ranks)
    struct.rank_table = chars(ffi, "rank_table", rank_table, keep)
    return struct, keep


# Arrays of 64-bit numbers. The result is a cffi array that holds on to the memory it looks at;
# len() is the number of elements, and it can be assigned to a `const uint64_t *` member.


def borrower(ffi: FFI) -> Borrow:
    """Make the function that looks at a buffer as an array, with its type looked up already."""
    return partial(ffi.from_buffer, ffi.typeof("uint64_t[]"))


def uint64s(borrow: Borrow, name: str, values: Sequence[int]) -> Array[int]:
    """Copy a list or tuple into an array.

    Raises TypeError for anything but integers in [0, 2^64), naming index and value.
    """
    if type(values) is not list:
        # A subclass of list may say another length than it has.
        values = list(values)
    try:
        if sys.version_info < (3, 10) and set(map(type, values)) != {int}:
            # There array() would round what has __int__ alone, a float of numpy for instance.
            return borrow(array("Q", list(map(index, values))))
        # array() reads a list about four times faster than ffi.new() does.
        return borrow(array("Q", values))
    except IndexError:
        # An element's own code, or another thread behind it, took elements out of the list.
        return uint64s(borrow, name, list(values))
    except (TypeError, OverflowError, ValueError) as cause:
        raise _first_bad(name, values, str(cause)) from None


def _first_bad(name: str, values: Iterable[Any], fallback: str) -> TypeError:
    for position, value in enumerate(values):
        try:
            array("Q", (index(value),))
        except (TypeError, OverflowError, ValueError):
            return _no_id(name, position, value)
    return TypeError(f"{name}: {fallback}")


def _no_id(name: str, position: int, value: Any) -> TypeError:
    return wrong_type(f"{name}[{position}]", value, "an integer in [0, 2^64)")


def block_ids(borrow: Borrow, name: str, blocks: Any) -> Array[int]:
    """Make an array of a list, a tuple, a range, or a one-dimensional array of 32 or 64 bits.

    A C-contiguous buffer of 64 bits is borrowed, no Python work is done per id. Negative numbers in
    a buffer of int64 are not looked for. As uint64 they are huge, which the engine refuses, and
    then check_signs() says so in the client's terms. What is converted here is looked through.
    Source: decision 32.
    """
    if isinstance(blocks, (list, tuple)):
        return uint64s(borrow, name, blocks)
    try:
        view = memoryview(blocks)
    except (BufferError, TypeError, ValueError) as cause:
        # ValueError: numpy's dates have no format that a buffer could tell.
        if isinstance(blocks, range):
            return borrow(_ids_of_range(name, blocks))
        if not hasattr(blocks, "__dlpack__"):
            raise wrong_type(name, blocks, _BLOCK_IDS) from cause
        view = memoryview(_from_dlpack(name, blocks))
        if view.ndim == 1 and view.format in _FORMATS:
            return borrow(_widened(name, view))
    if view.ndim == 1 and view.format in _FORMATS_OF_32_BITS:
        return borrow(_widened(name, view))
    if view.ndim != 1 or view.format not in _FORMATS:
        raise TypeError(
            f"{name} only support {_BLOCK_IDS}, "
            f"got a buffer of format {view.format!r} with {view.ndim} dimensions"
        )
    # cffi must not export a memoryview: when the two become garbage together, the collector
    # releases the view while cffi still has its buffer, which CPython does not survive. So a
    # client's memoryview is copied, and our own does not outlive this function.
    if view.c_contiguous and not isinstance(blocks, memoryview):
        return borrow(blocks)
    return borrow(view.tobytes())


def _widened(name: str, view: memoryview) -> NDArray[np.uint64]:
    """Copy ids of an integer type into an array of uint64, negative ones refused."""
    ids = np.asarray(view)
    if ids.dtype.kind == "i" and ids.size and ids.min() < 0:
        position = int(np.argmax(ids < 0))
        raise _no_id(name, position, int(ids[position]))
    return ids.astype(np.uint64)


def _ids_of_range(name: str, ids: range) -> NDArray[np.uint64]:
    """Make an array of a range, whose first and last number are its smallest and largest."""
    if not ids:
        return np.empty(0, np.uint64)
    for position in (0, (ids[-1] - ids[0]) // ids.step):
        if not 0 <= ids[position] <= UINT64_MAX:
            raise _no_id(name, position, ids[position])
    try:
        counted = np.arange(len(ids), dtype=np.uint64)
    except (OverflowError, ValueError) as cause:
        raise MemoryError(f"{name}: no memory for the ids of {ids}") from cause
    # Modulo 2^64, so a negative step comes out right.
    counted *= np.uint64(ids.step & UINT64_MAX)
    counted += np.uint64(ids.start)
    return counted


def _from_dlpack(name: str, blocks: Any) -> Any:
    """Look at a tensor of another package as a numpy array, without a copy."""
    try:
        if blocks.__dlpack_device__()[0] in _DLPACK_HOST:
            return np.from_dlpack(blocks)
    # AttributeError: numpy before 1.23, which has no from_dlpack.
    except (AttributeError, BufferError, RuntimeError, TypeError, ValueError) as cause:
        raise wrong_type(name, blocks, _BLOCK_IDS) from cause
    raise wrong_type(name, blocks, _BLOCK_IDS + " in the memory of the host")


def strict_block_ids(borrow: Borrow, name: str, blocks: Any) -> Array[int]:
    """As block_ids, but only lists and tuples of int pass, as on hardware (decisions 32 and 63)."""
    if not isinstance(blocks, (list, tuple)):
        raise wrong_type(name, blocks, "list or tuple")
    for position, block in enumerate(blocks):
        if not isinstance(block, int) or isinstance(block, bool):
            raise wrong_type(f"{name}[{position}]", block, "int")
    return uint64s(borrow, name, blocks)


_BLOCK_IDS = (
    "list or tuple of int, a range, or a one-dimensional array of int32, uint32, int64 or uint64"
)
# In the byte order of the machine. A native long ("L") has 64 bits on 64-bit Linux, a standard one
# ("=L") has 32.
_FORMATS = frozenset(("q", "Q", "@q", "@Q", "=q", "=Q", "<q", "<Q", "l", "L", "@l", "@L"))
_FORMATS_OF_32_BITS = frozenset(
    ("i", "I", "@i", "@I", "=i", "=I", "<i", "<I", "=l", "=L", "<l", "<L")
)
# kDLCPU, kDLCUDAHost and kDLROCMHost.
_DLPACK_HOST = (1, 3, 11)


# As many block ids fit into a frame.
FEW_BLOCKS = 64


class FewBlocks:
    """Room of a frame's own for the two lists of a short transfer.

    Copying a few ids costs less than looking at the client's memory with cffi. A view takes an
    array of its own element type and of one dimension alone and raises ValueError for others, so
    there is nothing else to check.
    """

    __slots__ = ("destinations", "signed", "sources", "unsigned")

    def __init__(self, ffi: FFI) -> None:
        self.sources = ffi.new("uint64_t[]", FEW_BLOCKS)
        self.destinations = ffi.new("uint64_t[]", FEW_BLOCKS)
        room = [memoryview(ffi.buffer(ids)) for ids in (self.sources, self.destinations)]
        # (sources, destinations): the formats of numpy's uint64 and int64, and of array("L").
        self.unsigned = tuple(memory.cast("L") for memory in room)
        self.signed = tuple(memory.cast("l") for memory in room)


class PullFrame:
    """The structs of one pull, used again and again: making them costs more than the rest."""

    __slots__ = ("args", "cache_id", "few", "few_blocks", "ffi", "key", "key_struct", "layers")

    def __init__(self, ffi: FFI) -> None:
        self.ffi = ffi
        self.key_struct = new(ffi, "lldd_cache_key")
        self.args = new(ffi, "lldd_pull_args")
        self.args.key = self.key_struct
        self.args.size = -1
        self.few_blocks: FewBlocks | None = None  # made with the first short lists
        # What the structs hold now, so that a frame used for the same again need not be filled in
        # again.
        self.key: AnyKey | None = None
        self.layers = ALL_LAYERS
        self.cache_id = 0
        self.few = 0  # how many ids of few_blocks count; 0: other lists, or other arguments

    def set_key(self, key: AnyKey) -> None:
        """Write the source."""
        # Keys are immutable, and the frame's reference keeps another one from getting this one's
        # identity.
        if key is not self.key:
            fill_key(self.ffi, self.key_struct, key)
            self.key = key

    def set_layers(self, layers: LayerRanges) -> None:
        """Write the layer ranges."""
        if layers != self.layers:
            args = self.args
            (
                args.src_layer_start,
                args.src_layer_count,
                args.dst_layer_start,
                args.dst_layer_count,
            ) = layers
            self.layers = layers

    def make_few_blocks(self, ffi: FFI) -> FewBlocks:
        """Make and return few_blocks."""
        self.few_blocks = FewBlocks(ffi)
        return self.few_blocks

    def set_few(self, few: FewBlocks, cache_id: int, count: int) -> None:
        """Write all but the key, for a pull of all layers of the frame's few blocks."""
        self.set_layers(ALL_LAYERS)
        args = self.args
        args.tensors_per_layer = TENSORS_PER_LAYER
        args.cache_id = self.cache_id = cache_id
        args.src_blocks = few.sources
        args.dst_blocks = few.destinations
        args.num_src_blocks = args.num_dst_blocks = self.few = count


class PushFrame:
    """The structs of one push; see PullFrame."""

    __slots__ = ("args", "ffi", "key", "key_struct")

    def __init__(self, ffi: FFI) -> None:
        self.ffi = ffi
        self.key_struct = new(ffi, "lldd_cache_key")
        self.args = new(ffi, "lldd_push_args")
        self.args.key = self.key_struct
        self.key: AnyKey | None = None

    def set_key(self, key: AnyKey) -> None:
        """Write the destination."""
        if key is not self.key:
            fill_key(self.ffi, self.key_struct, key)
            self.key = key
