# SPDX-License-Identifier: Apache-2.0
"""The copies within one open engine, and its memory: marshals, calls the library, raises."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .. import tracing
from ..cache import MemInfo, Memtype, Placement
from . import answers, marshal
from .facade import Facade

if TYPE_CHECKING:
    from ._ffi import Array, lldd_engine


class Copies:
    """The part of an Engine that no peer takes part in; each method is one function of the header.

    Args:
        native: the library.
        handle: the open engine, which stays alive as long as this object.
        borrow: of marshal.borrower().
    """

    def __init__(self, native: Facade, handle: lldd_engine, borrow: marshal.Borrow) -> None:
        self._native = native
        self._handle = handle
        self._borrow = borrow

    def _check(self, name: str, status: int) -> None:
        if status:
            raise answers.failure(self._native, name, status)

    def copy_cache(
        self, dst: tuple[int, int], src: tuple[int, int], offset: int, size: int
    ) -> None:
        """Copy between batch entries; dst and src are (cache id, batch index)."""
        args = marshal.new(self._native.ffi, "lldd_copy_args")
        args.dst_cache_id, args.dst_batch_index = dst
        args.src_cache_id, args.src_batch_index = src
        args.offset = offset
        args.size = size
        if tracing.in_use:
            tracing.tell(self._native)
        self._check("copy_cache", self._native.cache_copy(self._handle, args))

    def copy_blocks(self, cache_id: int, src_blocks: Array[int], dst_blocks: Array[int]) -> None:
        """Copy blocks within a cache; two arrays of one length."""
        if tracing.in_use:
            tracing.tell(self._native)
        status = self._native.blocks_copy(
            self._handle, cache_id, src_blocks, dst_blocks, len(src_blocks)
        )
        self._check("copy_blocks", status)

    def swap_blocks(
        self,
        src_placement: Placement,
        src_addrs: Sequence[int],
        dst_addrs: Sequence[int],
        block_bytes: int,
        src_blocks: Array[int],
        dst_blocks: Array[int],
    ) -> None:
        """Copy blocks between host and device tensors given by address."""
        ffi = self._native.ffi
        args = marshal.new(ffi, "lldd_swap_args")
        src_array = marshal.uint64s(self._borrow, "src tensor_addrs", src_addrs)
        dst_array = marshal.uint64s(self._borrow, "dst tensor_addrs", dst_addrs)
        args.src_placement = src_placement
        args.src_addrs = src_array
        args.dst_addrs = dst_array
        # A deallocated cache has no addresses left; the library must not read past the shorter
        # list.
        args.num_tensors = min(len(src_array), len(dst_array))
        args.block_bytes = block_bytes
        args.src_blocks = src_blocks
        args.dst_blocks = dst_blocks
        args.num_blocks = len(src_blocks)
        if tracing.in_use:
            tracing.tell(self._native)
        self._check("swap_blocks", self._native.blocks_swap(self._handle, args))

    def remap(self, infos: Sequence[MemInfo]) -> None:
        """Have the engine check memory that the client says was mapped anew."""
        structs = marshal.new_array(self._native.ffi, "lldd_memory", len(infos))
        for index, info in enumerate(infos):
            on_device = info.mem_type is Memtype.MEM_TYPE_DEVICE
            structs[index].placement = Placement.DEVICE if on_device else Placement.HOST
            structs[index].addr = info.addr
            structs[index].size = info.size
        status = self._native.memory_remap(self._handle, structs, len(infos))
        self._check("remap_registered_memory", status)
