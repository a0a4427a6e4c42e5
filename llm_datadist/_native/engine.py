# SPDX-License-Identifier: Apache-2.0
"""One open engine: marshals, calls the library, and raises what it answers.

Each method is one function of the header. A running CacheTask and calls that other threads make
keep the Engine alive while it is finalized: the library then answers them with
LLM_ENGINE_FINALIZED, and the handle ends with the last of them.
"""

from __future__ import annotations

import os
import sys
from array import array
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Callable

import numpy as np

from .. import tracing
from .._checks import check_signs
from .._layer_words import LayerRanges
from .._tasks import TaskThreads
from ..cache import CacheDesc, Placement
from ..introspection import Counters
from ..options import EngineOptions
from ..status import LLMException, warn
from ..utils.log import get_logger
from . import answers, facade, marshal
from .copies import Copies
from .links import Links
from .marshal import FEW_BLOCKS, AnyKey, PullFrame, PushFrame
from .tokens import Token

if TYPE_CHECKING:
    from ._ffi import Array, lldd_engine

# numpy has one object for each type of its own; arrays made in other ways have equal ones.
_UINT64 = np.dtype(np.uint64)
_NOTICE_BYTES = 1024
_MAX_NOTICES = 64


def _free_in_this_process(
    free: Callable[[lldd_engine], None],
) -> Callable[[lldd_engine], None]:
    pid, getpid = os.getpid(), os.getpid

    def free_unless_forked(handle: lldd_engine) -> None:
        # In a forked child the engine's threads do not exist, and its memory belongs to the parent.
        if getpid() == pid:
            free(handle)

    return free_unless_forked


class Engine:
    """An engine of the loaded library.

    Args:
        options: what to open it with; kept as the attribute of that name.

    Raises what backends.library() raises, LLMException as lldd_engine_open answers.
    """

    def __init__(self, options: EngineOptions) -> None:
        native = facade.current()
        self._native = native
        self.options = options
        struct, keep = marshal.config(native.ffi, options)
        out = native.ffi.new("lldd_engine **")
        status = native.engine_open(struct, out)
        del keep
        if status:
            raise answers.failure(native, "init", status)
        self._handle = native.ffi.gc(out[0], _free_in_this_process(native.engine_free))
        self.links = Links(native, self._handle)
        self.tasks = TaskThreads()
        self._borrow = marshal.borrower(native.ffi)
        self.copies = Copies(native, self._handle, self._borrow)
        convert = marshal.strict_block_ids if options.strict_hardware else marshal.block_ids
        # block_ids(argument name, list or buffer): the array that pull_blocks and push_blocks below
        # take.
        self.block_ids: Callable[[str, Any], Array[int]] = partial(convert, self._borrow)
        # What pull_few_blocks() takes. On hardware each id of a list is looked at; before Python
        # 3.10 too, see uint64s().
        self._array_type = None if options.strict_hardware else np.ndarray
        looks_at_each = options.strict_hardware or sys.version_info < (3, 10)
        self._list_type = None if looks_at_each else list
        # Each call takes a frame and gives it back, so there are as many as calls ever ran at one
        # time. list.pop and list.append are atomic.
        self._pull_frames: list[PullFrame] = []
        self._push_frames: list[PushFrame] = []

    @property
    def opened(self) -> Engine:
        """The engine itself; what stands in for it after finalize() raises here."""
        return self

    def error(self, name: str, status: int) -> LLMException:
        """Make the exception of this thread's last call, which answered a status that is not
        success.
        """
        return answers.failure(self._native, name, status)

    def only_left_a_notice(self, status: int) -> bool:
        """Whether a transfer that answered status succeeded all the same; if so, warn of it."""
        if status != marshal.constant(self._native.ffi, "LLDD_NOTICE_LEFT"):
            return False
        self.warn_of_notices()
        return True

    def _check(self, name: str, status: int) -> None:
        if status and not self.only_left_a_notice(status):
            raise answers.failure(self._native, name, status)

    # ---- life ----

    def close(self) -> None:
        """Close the engine; ends tasks, waits for running calls."""
        self.tasks.stop()
        try:
            self._check("finalize", self._native.engine_close(self._handle))
        finally:
            self.tasks.join()

    def listen_address(self) -> tuple[str, int] | None:
        """Return the ip and real port of the listener; None without one."""
        info = marshal.new(self._native.ffi, "lldd_engine_info")
        self._check("listen_address", self._native.engine_describe(self._handle, info))
        ip = marshal.text(self._native.ffi, info.listen_ip)
        return (ip, info.listen_port) if ip else None

    def switch_listener(self, ip: str | None, port: int) -> None:
        """Move the listener, or close it when ip is None."""
        ffi = self._native.ffi
        keep: list[object] = []
        chars = marshal.chars(ffi, "ip", ip, keep)
        status = self._native.engine_switch_listener(self._handle, chars, port)
        self._check("switch_role", status)

    def counters(self) -> Counters:
        """Return the totals since the engine was opened."""
        struct = marshal.new(self._native.ffi, "lldd_counters")
        self._check("counters", self._native.engine_counters(self._handle, struct))
        return Counters(**{name: getattr(struct, name) for name in Counters.__dataclass_fields__})

    def take_notices(self) -> list[str]:
        """Return what background events left for the client, oldest first."""
        ffi = self._native.ffi
        notices: list[str] = []
        chars = ffi.new("char[]", _NOTICE_BYTES)
        length = ffi.new("uint64_t *")
        # Notices arrive meanwhile, so "until there is none" might not end.
        while len(notices) < _MAX_NOTICES:
            status = self._native.engine_next_notice(self._handle, chars, _NOTICE_BYTES, length)
            if status or not length[0]:
                break
            notices.append(marshal.text(ffi, chars))
        return notices

    def warn_of_notices(self) -> None:
        """Turn what background events left into warnings."""
        for notice in self.take_notices():
            get_logger().warning(notice)
            warn(notice)

    # ---- caches ----

    def allocate(
        self, name: str, desc: CacheDesc, keys: Sequence[AnyKey], is_blocks: bool
    ) -> tuple[int, list[int]]:
        """Allocate a cache; returns its id and addresses."""
        native, ffi = self._native, self._native.ffi
        struct, keep = marshal.cache_desc(ffi, desc, is_blocks)
        cache_id = ffi.new("int64_t *")
        # A tensor takes a page at least. With more tensors than pages the call fails and writes
        # nothing, so an absurd num_tensors need not become an absurd array here.
        device = desc.placement == Placement.DEVICE
        pool = self.options.device_pool if device else self.options.host_pool
        addrs = ffi.new("uint64_t[]", min(desc.num_tensors, pool.size >> pool.page_shift))
        status = native.cache_allocate(
            self._handle, struct, marshal.keys(ffi, keys), len(keys), cache_id, addrs
        )
        del keep
        self._check(name, status)
        return cache_id[0], ffi.unpack(addrs, desc.num_tensors)

    def register(
        self,
        name: str,
        desc: CacheDesc,
        addrs: Sequence[int],
        keys: Sequence[AnyKey],
        is_blocks: bool,
        remote_accessible: bool,
    ) -> int:
        """Register a cache over the client's memory; returns its id."""
        ffi = self._native.ffi
        args = marshal.new(ffi, "lldd_register_args")
        struct, keep = marshal.cache_desc(ffi, desc, is_blocks)
        address_array = marshal.uint64s(self._borrow, "addrs", addrs)
        key_array = marshal.keys(ffi, keys)
        if remote_accessible:
            args.flags = marshal.constant(ffi, "LLDD_REGISTER_REMOTE_ACCESSIBLE")
        args.desc = struct
        args.addrs = address_array
        args.num_addrs = len(address_array)
        args.keys = key_array
        args.num_keys = len(keys)
        cache_id = ffi.new("int64_t *")
        status = self._native.cache_register(self._handle, args, cache_id)
        del keep, key_array
        self._check(name, status)
        return cache_id[0]

    def deallocate(self, name: str, cache_id: int) -> None:
        """Release an allocated cache."""
        self._check(name, self._native.cache_deallocate(self._handle, cache_id))

    def unregister(self, cache_id: int) -> None:
        """Remove a cache with its keys and registration."""
        self._check("unregister_cache", self._native.cache_unregister(self._handle, cache_id))

    def remove_key(self, key: AnyKey) -> None:
        """Unbind a key."""
        struct = marshal.key(self._native.ffi, key)
        self._check("remove_cache_key", self._native.key_remove(self._handle, struct))

    # ---- transfers ----
    # Those that are given a token end by it.

    def token(self) -> Token:
        """Make what ends a transfer that is asked for now."""
        return Token(self._native)

    def own_block_ids(self, name: str, blocks: Any) -> Array[int]:
        """As block_ids, for later: what the client does to its list then does not matter."""
        ids = self.block_ids(name, blocks)
        check_signs(name, blocks)
        return self._borrow(bytes(self._native.ffi.buffer(ids)))

    def pull_few_blocks(
        self, key: AnyKey, cache_id: int, src_blocks: Any, dst_blocks: Any
    ) -> int | None:
        """Pull the blocks of two numpy arrays or two lists, all layers; returns the status, or None
        when pull_blocks has to: they are of another form, long, empty, unequal, or not of uint64 or
        int64.
        """
        form = type(src_blocks)
        is_array = form is self._array_type
        if (not is_array and form is not self._list_type) or form is not type(dst_blocks):
            return None
        count = src_blocks.size if is_array else len(src_blocks)
        if not 0 < count <= FEW_BLOCKS:
            return None
        try:
            frame = self._pull_frames.pop()
        except IndexError:
            frame = PullFrame(self._native.ffi)
        few = frame.few_blocks or frame.make_few_blocks(self._native.ffi)
        try:
            if is_array:
                sources, destinations = few.unsigned if src_blocks.dtype is _UINT64 else few.signed
                sources[:count] = src_blocks
                destinations[:count] = dst_blocks
            else:
                sources, destinations = few.unsigned
                sources[:count] = array("L", src_blocks)
                destinations[:count] = array("L", dst_blocks)
        except (
            BufferError,
            IndexError,
            NotImplementedError,
            OverflowError,
            TypeError,
            ValueError,
        ):
            # Whatever it was, block_ids() converts it or says what is wrong with it.
            self._pull_frames.append(frame)
            return None
        if key is not frame.key:
            frame.set_key(key)
        if count != frame.few or cache_id != frame.cache_id:
            frame.set_few(few, cache_id, count)
        if tracing.in_use:
            tracing.tell(self._native)
        status = self._native.pull(self._handle, frame.args)
        self._pull_frames.append(frame)
        return status

    def pull_blocks(
        self,
        key: AnyKey,
        cache_id: int,
        src_blocks: Array[int],
        dst_blocks: Array[int],
        tensors_per_layer: int,
        layers: LayerRanges,
        token: Token | None = None,
    ) -> int:
        """Pull blocks, given as arrays of block_ids(); returns the status."""
        try:
            frame = self._pull_frames.pop()
        except IndexError:
            frame = PullFrame(self._native.ffi)
        if key is not frame.key:
            frame.set_key(key)
        if layers is not frame.layers:
            frame.set_layers(layers)
        frame.few = 0
        args = frame.args
        args.tensors_per_layer = tensors_per_layer
        args.cache_id = cache_id
        args.src_blocks = src_blocks
        args.num_src_blocks = len(src_blocks)
        args.dst_blocks = dst_blocks
        args.num_dst_blocks = len(dst_blocks)
        if token is not None:
            token.put_into(args)
        if tracing.in_use:
            tracing.tell(self._native)
        status = self._native.pull(self._handle, args)
        if token is not None:
            token.take_out(args)
        self._pull_frames.append(frame)
        return status

    def pull_cache(
        self,
        key: AnyKey,
        cache_id: int,
        batch_index: int,
        size: int,
        tensors_per_layer: int,
        layers: LayerRanges,
        token: Token | None = None,
    ) -> None:
        """Pull into a contiguous cache."""
        frame = PullFrame(self._native.ffi)
        frame.set_key(key)
        frame.set_layers(layers)
        frame.args.tensors_per_layer = tensors_per_layer
        frame.args.cache_id = cache_id
        frame.args.size = size
        frame.args.batch_index = batch_index
        if token is not None:
            token.put_into(frame.args)
        if tracing.in_use:
            tracing.tell(self._native)
        self._check("pull_cache", self._native.pull(self._handle, frame.args))

    def push_blocks(
        self,
        key: AnyKey,
        cache_id: int,
        src_blocks: Array[int],
        dst_blocks: Array[int],
        tensors_per_layer: int,
        starts: tuple[int, int],
        num_layers: int,
        token: Token | None = None,
    ) -> int:
        """Push layers of blocks, given as arrays of block_ids(); starts are the first layers here
        and there.
        """
        try:
            frame = self._push_frames.pop()
        except IndexError:
            frame = PushFrame(self._native.ffi)
        if key is not frame.key:
            frame.set_key(key)
        args = frame.args
        args.tensors_per_layer = tensors_per_layer
        args.cache_id = cache_id
        args.src_blocks = src_blocks
        args.num_src_blocks = len(src_blocks)
        args.dst_blocks = dst_blocks
        args.num_dst_blocks = len(dst_blocks)
        args.src_layer_start, args.dst_layer_start = starts
        args.num_layers = num_layers
        if token is not None:
            token.put_into(args)
        if tracing.in_use:
            tracing.tell(self._native)
        status = self._native.push(self._handle, args, self._native.ffi.NULL)
        if token is not None:
            token.take_out(args)
        self._push_frames.append(frame)
        return status

    def push_cache(
        self,
        key: AnyKey,
        cache_id: int,
        src_batch_index: int,
        tensors_per_layer: int,
        starts: tuple[int, int],
        num_layers: int,
        token: Token | None = None,
    ) -> None:
        """Push layers of one batch entry of a contiguous cache."""
        frame = PushFrame(self._native.ffi)
        frame.set_key(key)
        frame.args.tensors_per_layer = tensors_per_layer
        frame.args.cache_id = cache_id
        frame.args.src_batch_index = src_batch_index
        frame.args.src_layer_start, frame.args.dst_layer_start = starts
        frame.args.num_layers = num_layers
        if token is not None:
            token.put_into(frame.args)
        if tracing.in_use:
            tracing.tell(self._native)
        status = self._native.push(self._handle, frame.args, self._native.ffi.NULL)
        self._check("push_cache", status)

    def transfer_layer(
        self,
        cache_id: int,
        key: AnyKey | None,
        dst_cluster_id: int,
        dst_addrs: Sequence[int],
        layer: tuple[int, int],
        tensors_per_layer: int,
        src_batch_index: int,
        src_blocks: Array[int],
        dst_blocks: Array[int],
        dst_block_size: int,
        token: Token,
    ) -> None:
        """Send one layer: to the cache named by key, or (key None) to dst_addrs; layer is (here,
        there).
        """
        ffi = self._native.ffi
        args = marshal.new(ffi, "lldd_transfer_args")
        key_struct = ffi.NULL if key is None else marshal.key(ffi, key)
        address_array = marshal.uint64s(self._borrow, "dst_addrs", dst_addrs)
        args.tensors_per_layer = tensors_per_layer
        args.key = key_struct
        args.dst_cluster_id = dst_cluster_id
        args.dst_addrs = address_array
        args.num_dst_addrs = len(address_array)
        args.cache_id = cache_id
        args.src_blocks = src_blocks
        args.num_src_blocks = len(src_blocks)
        args.dst_blocks = dst_blocks
        args.num_dst_blocks = len(dst_blocks)
        args.dst_block_size = dst_block_size
        args.src_batch_index = src_batch_index
        args.src_layer, args.dst_layer = layer
        token.put_into_layer(args)
        if tracing.in_use:
            tracing.tell(self._native)
        status = self._native.transfer_layer(self._handle, args)
        self._check("transfer_cache_async", status)
