# SPDX-License-Identifier: Apache-2.0
"""What a peer does in its own process: one LLMDataDist, named caches over every kind of memory, and
calls on them.

Each public method of Actor is a command that a Peer can send. It also runs functions of the test
itself, which get the actor as their first argument, so that whatever a test needs to happen over
there can be written in the test.
"""

from __future__ import annotations

import ctypes
import json
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Callable

import numpy as np

from .. import (
    BlocksCacheKey,
    Cache,
    LLMClusterInfo,
    LLMConfig,
    LLMDataDist,
    LLMRole,
    LLMStatusCode,
    Placement,
)
from .._native.control import runtime_control
from . import device, memory
from .memory import Memory
from .pattern import WORD, Geometry, Stamp, Words, fill
from .resources import Resources, children_of

__all__ = ["Actor", "ClusterAddress", "EngineSpec", "HeldCache", "LinkAnswer"]

_PR_SET_DUMPABLE = 4
_CAPABILITY_VERSION_3 = 0x20080522
_CAP_SYS_PTRACE = 19

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class EngineSpec:
    """What LLMDataDist is made with.

    environment is set in the peer's process before init; None takes a variable away. options are
    added to those of the other members. Pools are in bytes, 0 is no pool; page_shift is log2 of the
    bytes of their pages, where it shall not be the default.
    """

    cluster_id: int
    role: LLMRole = LLMRole.MIX
    listen: str | None = None
    one_sided: bool = True
    sync_timeout_ms: int | None = None
    device_pool: int = 0
    host_pool: int = 0
    page_shift: int | None = None
    several_in_a_process: bool = False
    environment: Mapping[str, str | None] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)

    def make_options(self) -> dict[str, str]:
        """Return the options for init."""
        config = LLMConfig()
        config.enable_cache_manager = True
        config.enable_remote_cache_accessible = self.one_sided
        config.allow_multiple_instances = self.several_in_a_process
        if self.listen is not None:
            config.listen_ip_info = self.listen
        if self.sync_timeout_ms is not None:
            config.sync_kv_timeout = self.sync_timeout_ms
        if self.device_pool:
            config.mem_pool_cfg = self._pool(self.device_pool)
        if self.host_pool:
            config.host_mem_pool_cfg = self._pool(self.host_pool)
        # On a device host, engines that are to be linked need devices of their own.
        devices = device.options_of(self.cluster_id)
        return {**devices, **config.generate_options(), **self.options}

    def _pool(self, size: int) -> str:
        pages = {} if self.page_shift is None else {"page_shift": self.page_shift}
        return json.dumps({"memory_size": size, **pages})

    def open(self) -> LLMDataDist:
        """Make and initialise an LLMDataDist in this process, whose environment stays as it is."""
        datadist = LLMDataDist(self.role, self.cluster_id)
        datadist.init(self.make_options())
        return datadist


@dataclass(frozen=True)
class ClusterAddress:
    """Whom to link to or unlink from; the parts that are None are left out."""

    cluster_id: int | None = None
    address: tuple[str, int] | None = None

    def info(self) -> LLMClusterInfo:
        """Return it as the interface takes it."""
        info = LLMClusterInfo()
        if self.cluster_id is not None:
            info.remote_cluster_id = self.cluster_id
        info.append_local_ip_info("127.0.0.1", 0)
        if self.address is not None:
            info.append_remote_ip_info(*self.address)
        return info


@dataclass(frozen=True)
class LinkAnswer:
    """What link_clusters or unlink_clusters answered, and what it left in the cluster infos."""

    status: LLMStatusCode
    statuses: list[LLMStatusCode]
    cluster_ids: list[int | None]
    details: list[str]


@dataclass
class HeldCache:
    """A cache of this process and the memory under it; allocated caches have no memory of the
    peer's own.
    """

    cache: Cache
    geometry: Geometry
    memories: list[Memory]
    tensor_addrs: list[int]
    device_id: int | None = None  # which has to copy it in and out

    def tensor(self, index: int) -> Words:
        """Return one tensor as words, [block, word]: itself, or a copy of what a device has."""
        flat = memory.read(self.tensor_addrs[index], self.geometry.tensor_bytes, self.device_id)
        return flat.view(np.uint64).reshape(self.geometry.num_blocks, -1)

    def fill(self, stamp: Stamp) -> None:
        """Write the contents that belong to a stamp."""
        for index, address in enumerate(self.tensor_addrs):
            if self.device_id is None:
                fill(self.tensor(index).reshape(-1), stamp, index)
                continue
            words = np.empty(self.geometry.tensor_bytes // WORD, np.uint64)
            fill(words, stamp, index)
            memory.write(address, words, self.device_id)


class Actor:
    """The state of a peer's process.

    Args:
        announce: sends a text to the test; Peer.wait_for waits for it.
    """

    def __init__(self, announce: Callable[[str], None]) -> None:
        self.announce = announce
        self.caches: dict[str, HeldCache] = {}
        self.kept: Any = None  # what functions of the test leave to each other
        self.device_id = 0
        self._datadist: LLMDataDist | None = None
        self._opened: list[LLMDataDist] = []
        self._flags: dict[str, threading.Event] = {}
        self._flags_lock = threading.Lock()
        self._environment: dict[str, str | None] = {}
        self._told_runtime = False

    # ------------------------------------------------------------------------------------------- li

    @property
    def datadist(self) -> LLMDataDist:
        """The LLMDataDist of the last init that succeeded."""
        if self._datadist is None:
            raise RuntimeError("the peer was told to do something before init")
        return self._datadist

    def init(self, spec: EngineSpec) -> tuple[str, int] | None:
        """Make and initialise an LLMDataDist; returns the address it listens on."""
        before = {name: os.environ.get(name) for name in spec.environment}
        for name, value in spec.environment.items():
            _set_environment(name, value)
        try:
            options = spec.make_options()
            datadist = LLMDataDist(spec.role, spec.cluster_id)
            datadist.init(options)
        except BaseException:
            # The peer is what it was: an engine that it had is still the one of its commands.
            for name, value in before.items():
                _set_environment(name, value)
            raise
        for name, value in before.items():
            self._environment.setdefault(name, value)
        self._opened.append(datadist)
        self._datadist = datadist
        self.device_id = device.id_of(options)
        return datadist.listen_address

    def finalize(self) -> None:
        """Finalise; caches and memory stay, as a client's would."""
        self.datadist.finalize()

    def reset(self) -> Resources:
        """Go back to the state before the first command, and tell what the process holds then."""
        if self._told_runtime:
            runtime_control("faults.clear")
            self._told_runtime = False
        for datadist in self._opened:
            datadist.finalize()
        self._opened.clear()
        self._datadist = None
        for held in self.caches.values():
            for each in held.memories:
                each.release()
        self.caches.clear()
        self._flags.clear()
        self.kept = None
        for name, value in self._environment.items():
            _set_environment(name, value)
        self._environment.clear()
        return self.resources()

    def resources(self) -> Resources:
        """Tell what this process holds."""
        return Resources.of(os.getpid())

    # ----------------------------------------------------------------------------------------- cach

    def allocate(
        self,
        name: str,
        geometry: Geometry,
        stamp: Stamp | None,
        model_id: int | None = None,
        placement: Placement = Placement.DEVICE,
    ) -> tuple[int, list[int]]:
        """Allocate a blocks cache and fill it, unless there is no stamp; returns its id and
        addresses.
        """
        cache = self.datadist.cache_manager.allocate_blocks_cache(
            geometry.desc(placement), self._key(model_id)
        )
        addrs = list(cache.tensor_addrs)
        held = HeldCache(cache, geometry, [], addrs, memory.copied_by(placement, self.device_id))
        return self._hold(name, held, stamp)

    def register(
        self,
        name: str,
        geometry: Geometry,
        stamp: Stamp | None,
        model_id: int | None = None,
        placement: Placement = Placement.DEVICE,
        memory_kind: str | None = None,
        remote_accessible: bool | None = None,
    ) -> tuple[int, list[int]]:
        """Register a blocks cache over memory of one of memory.KINDS, or such as clients have, and
        fill it; returns its id and addresses.

        A stamp of None leaves the memory as it is, which memory that cannot be written needs.
        """
        memories = self.memories(geometry, placement, memory_kind)
        addrs = [each.address for each in memories]
        held_before = self.caches.get(name)
        try:
            cache = self.datadist.cache_manager.register_blocks_cache(
                geometry.desc(placement), addrs, self._key(model_id), remote_accessible
            )
        except BaseException:
            for each in memories:
                each.release()
            raise
        if held_before is not None:
            raise RuntimeError(f"a cache {name!r} is held already")
        copied_by = memory.copied_by(placement, self.device_id) if memory_kind is None else None
        return self._hold(name, HeldCache(cache, geometry, memories, addrs, copied_by), stamp)

    def memories(
        self, geometry: Geometry, placement: Placement, memory_kind: str | None = None
    ) -> list[Memory]:
        """Return memory for each tensor, of one of memory.KINDS, or such as clients have."""
        size, count = geometry.tensor_bytes, range(geometry.num_tensors)
        if memory_kind is None:
            return [memory.of_client(size, placement, self.device_id) for _ in count]
        return [memory.make(memory_kind, size) for _ in count]

    def _key(self, model_id: int | None) -> BlocksCacheKey | None:
        return None if model_id is None else BlocksCacheKey(self.datadist.cluster_id, model_id)

    def _hold(self, name: str, held: HeldCache, stamp: Stamp | None) -> tuple[int, list[int]]:
        self.caches[name] = held
        if stamp is not None:
            self.fill(name, stamp)
        return held.cache.cache_id, held.tensor_addrs

    def deallocate(self, name: str) -> None:
        """Deallocate the cache; it can still be named in calls to the engine."""
        self.datadist.cache_manager.deallocate_blocks_cache(self.caches[name].cache)

    def unregister(self, name: str) -> None:
        """Unregister the cache; its memory stays."""
        self.datadist.cache_manager.unregister_cache(self.caches[name].cache.cache_id)

    def fill(self, name: str, stamp: Stamp) -> None:
        """Write the contents that belong to a stamp into the cache's memory."""
        self.caches[name].fill(stamp)

    def read(self, name: str) -> Words:
        """Return the contents: [tensor, block, word]."""
        held = self.caches[name]
        return np.stack([held.tensor(index) for index in range(held.geometry.num_tensors)])

    def memory_call(self, name: str, method: str, *args: Any) -> None:
        """Call a method (unmap, map_again, protect, release) of the memory of every tensor."""
        for each in self.caches[name].memories:
            getattr(each, method)(*args)

    # ------------------------------------------------------------------------------------------ lin

    def link(self, clusters: Sequence[ClusterAddress], timeout_ms: int | None = None) -> LinkAnswer:
        """Call link_clusters."""
        infos = [cluster.info() for cluster in clusters]
        more = {} if timeout_ms is None else {"timeout": timeout_ms}
        status, statuses = self.datadist.link_clusters(infos, **more)
        return _answer(status, statuses, infos)

    def unlink(
        self,
        clusters: Sequence[ClusterAddress],
        timeout_ms: int | None = None,
        force: bool = False,
    ) -> LinkAnswer:
        """Call unlink_clusters."""
        infos = [cluster.info() for cluster in clusters]
        more = {} if timeout_ms is None else {"timeout": timeout_ms}
        status, statuses = self.datadist.unlink_clusters(infos, force=force, **more)
        return _answer(status, statuses, infos)

    def link_paths(self, cluster_id: int) -> Any:
        """Call link_paths."""
        return self.datadist.link_paths(cluster_id)

    def links(self) -> Any:
        """Call links."""
        return self.datadist.links()

    def counters(self) -> Any:
        """Call counters."""
        return self.datadist.counters()

    def statistics(self) -> Any:
        """Call statistics."""
        return self.datadist.statistics()

    # -------------------------------------------------------------------------------------- transfe

    def pull(self, name: str, key: Any, src: Any, dst: Any, **options: Any) -> None:
        """Call pull_blocks into a cache of this peer."""
        self.datadist.cache_manager.pull_blocks(key, self.caches[name].cache, src, dst, **options)

    def push(self, name: str, key: Any, src: Any, dst: Any, **options: Any) -> None:
        """Call push_blocks from a cache of this peer."""
        self.datadist.cache_manager.push_blocks(key, self.caches[name].cache, src, dst, **options)

    def runtime_control(self, command: str, argument: str) -> str:
        """Speak to the runtime of this process; faults are gone after the next reset."""
        self._told_runtime = True
        return runtime_control(command, argument)

    # ------------------------------------------------------------------------------- threads and ti

    def flag(self, name: str) -> threading.Event:
        """Return the event with this name, which Peer.set_flag sets."""
        with self._flags_lock:
            return self._flags.setdefault(name, threading.Event())

    def set_flag(self, name: str) -> None:
        """Set the event with this name."""
        self.flag(name).set()

    # ---------------------------------------------------------------------------------------- proce

    def become_undumpable(self) -> None:
        """Refuse other processes of this user access to the memory of this one."""
        if _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_DUMPABLE)")

    def become_user(self, user_id: int) -> None:
        """Change to another user, which cannot be undone."""
        os.setgroups([])
        os.setresgid(user_id, user_id, user_id)
        os.setresuid(user_id, user_id, user_id)

    def drop_ptrace_capability(self) -> None:
        """Give up CAP_SYS_PTRACE, which cannot be undone: with it process_vm_* is never refused."""
        # The kernel's struct: version and pid; then effective, permitted and inheritable for bits
        # 0-31 and 32-63.
        header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
        sets = (ctypes.c_uint32 * 6)()
        if _libc.capget(header, sets) != 0:
            raise OSError(ctypes.get_errno(), "capget")
        for index in range(3):
            sets[index] &= ~(1 << _CAP_SYS_PTRACE) & 0xFFFFFFFF
        if _libc.capset(header, sets) != 0:
            raise OSError(ctypes.get_errno(), "capset")

    def fork(self, in_child: Callable[..., Any], *args: Any) -> int:
        """Fork from this thread; the child runs in_child(actor, *args), and if that returns, leaves
        as an interpreter does.

        Returns the pid. The child has nothing of the channel to the test.
        """
        pid = os.fork()
        if pid:
            return pid
        raise InForkedChildError(lambda: in_child(self, *args))

    def wait_for_forked(self, pid: int) -> int:
        """Wait for a child of fork() and return its wait status."""
        return os.waitpid(pid, 0)[1]

    def children(self) -> dict[int, str]:
        """Tell the children of this process."""
        return children_of(os.getpid())


class InForkedChildError(BaseException):
    """Carries a forked child out of the command loop, to leave the interpreter the regular way."""

    def __init__(self, work: Callable[[], Any]) -> None:
        super().__init__("in a forked child")
        self.work = work


def _answer(
    status: LLMStatusCode, statuses: list[LLMStatusCode], infos: list[LLMClusterInfo]
) -> LinkAnswer:
    return LinkAnswer(
        status,
        statuses,
        [info.remote_cluster_id for info in infos],
        [info.link_detail for info in infos],
    )


def _set_environment(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value
