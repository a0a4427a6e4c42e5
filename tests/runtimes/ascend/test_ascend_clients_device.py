# SPDX-License-Identifier: Apache-2.0
"""A client that uses ACL itself: its device and memory outlive the engine beside them.

ACL counts how often a device is set in a process and reset, and the fake does so, too; so the
engine's own pair of the two leaves the client's alone, and what can go wrong is one reset too many,
or a thread left with another context. That the fake counts is part of the test: after the client's
own reset nothing works any more. What a device really does when its count is zero is not.
"""

from __future__ import annotations

import ctypes
import threading
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest

from llm_datadist import (
    BlocksCacheKey,
    LLMConfig,
    LLMStatusCode,
)
from llm_datadist.testing import Geometry, Peer
from llm_datadist.testing.actor import ClusterAddress, EngineSpec
from tests.support.fake_cann import toolkit

OWNER, CLIENT = 7, 8
SMALL = Geometry()
ENGINES_DEVICE = 0
NO_CONTEXT = 107002
HUGE_FIRST, TO_DEVICE, FROM_DEVICE = 0, 1, 2
SIZE = 1 << 20


class Acl:
    """The calls of ACL that a client makes: on this thread, as ACL has it."""

    def __init__(self) -> None:
        self._acl = ctypes.CDLL(str(toolkit.toolkit() / "lib64" / "libacl_rt.so"))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._acl, f"aclrt{name}")

    def context(self) -> int | None:
        context = ctypes.c_void_p()
        assert self.GetCurrentContext(ctypes.byref(context)) == 0
        return context.value

    def allocate(self) -> ctypes.c_void_p:
        memory = ctypes.c_void_p()
        assert self.Malloc(ctypes.byref(memory), ctypes.c_size_t(SIZE), HUGE_FIRST) == 0
        return memory

    def copy(self, dst: Any, src: Any, kind: int) -> int:
        size = ctypes.c_size_t(SIZE)
        error: int = self.Memcpy(dst, size, src, size, kind)
        return error

    def write(self, memory: ctypes.c_void_p, value: int) -> None:
        content = np.full(SIZE, value, np.uint8)
        assert self.copy(memory, content.ctypes.data_as(ctypes.c_void_p), TO_DEVICE) == 0

    def read(self, memory: ctypes.c_void_p) -> set[int]:
        content = np.zeros(SIZE, np.uint8)
        assert self.copy(content.ctypes.data_as(ctypes.c_void_p), memory, FROM_DEVICE) == 0
        return set(np.unique(content).tolist())


def use_an_engine(listener: tuple[str, int]) -> None:
    """Open one, move blocks with it, finalize it."""
    datadist = EngineSpec(
        CLIENT,
        sync_timeout_ms=10_000,
        device_pool=64 << 20,
        options={LLMConfig.device_id.key: str(ENGINES_DEVICE)},
    ).open()
    manager = datadist.cache_manager
    cache = manager.allocate_blocks_cache(SMALL.desc(), BlocksCacheKey(CLIENT, 0))
    cluster = ClusterAddress(OWNER, listener).info()
    status, _ = datadist.link_clusters([cluster], 10_000)
    assert status == LLMStatusCode.LLM_SUCCESS
    manager.pull_blocks(BlocksCacheKey(OWNER, 0), cache, [0, 1], [2, 3])
    datadist.finalize()


def use_acl_around_an_engine(_: Any, device: int, listener: tuple[str, int]) -> str:
    """Be the client; the answer is "as it was"."""
    acl = Acl()
    assert acl.SetDevice(device) == 0
    before, context = acl.allocate(), acl.context()
    acl.write(before, 17)
    use_an_engine(listener)
    assert acl.context() == context, "the thread has another context"
    assert acl.read(before) == {17}, "memory from before"
    after = acl.allocate()
    acl.write(after, 18)
    assert (acl.read(before), acl.read(after)) == ({17}, {18})
    # Another thread of the client's, with the context that it had.
    seen: list[set[int]] = []

    def elsewhere() -> None:
        assert acl.SetCurrentContext(ctypes.c_void_p(context)) == 0
        seen.append(acl.read(before))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [{17}]
    for memory in (before, after):
        assert acl.Free(memory) == 0
    # The client's was the last one.
    assert acl.ResetDevice(device) == 0
    assert acl.Malloc(ctypes.byref(before), ctypes.c_size_t(SIZE), HUGE_FIRST) == NO_CONTEXT
    return "as it was"


@pytest.mark.parametrize("device", [ENGINES_DEVICE, 1], ids=["the engine's device", "another one"])
def test_a_device_that_the_client_had_set_stays_set(peers, on_fake, device) -> None:
    owner = peers.start(OWNER)
    owner.register("kv", SMALL, 1, 0)
    with ExitStack() as exits:
        client = exits.enter_context(Peer.start(on_fake))
        client.wait_for("ready")
        told = client.call(use_acl_around_an_engine, device, owner.listen_address)
    assert told == "as it was"
