# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C ends whatever the main thread waits for, and what it moves: decision 84."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path as File
from typing import Any, Callable, Union

import pytest

from llm_datadist import BlocksCacheKey, LLMStatusCode
from llm_datadist.testing import Geometry, Peer, eventually
from llm_datadist.testing.actor import ClusterAddress
from tests.conformance.communicators import join, joined, ranks_of, unlink_member
from tests.conformance.paths import ON_ASCEND, Path, helped_path
from tests.conformance.stage import OWNER, PULLER, SMALL, Stage, linked
from tests.conformance.test_barriers import GEOMETRY, end, needs_a_shared_host, stop_within_a_piece

S = LLMStatusCode
KEY = BlocksCacheKey(OWNER, 0)
# What is not interrupted lasts so long.
SYNC_MS = 20000
SOON_S = 1.5
# 16 GiB go from one block to another, over and over.
LONG = Geometry(num_tensors=2, num_blocks=2, block_bytes=1 << 20)
REPEATED = 8192
# A method of Actor, or a function that gets the actor.
Command = Union[str, Callable[..., Any]]


def call_until_interrupted(actor: Any, command: Command, *args: Any) -> str:
    """What ended the call of the main thread."""
    call = getattr(actor, command) if isinstance(command, str) else partial(command, actor)
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        actor.announce("begins")
        call(*args)
    except KeyboardInterrupt:
        return "interrupted"
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return "done"


def copy_a_block(actor: Any, count: int) -> None:
    actor.datadist.cache_manager.copy_blocks(actor.caches["kv"].cache, {0: [1] * count})


def count(actor: Any) -> tuple[int, int, int]:
    counters = actor.datadist.counters()
    return counters.pulls, counters.pushes, counters.copies


def forced_unlink(actor: Any, cluster: ClusterAddress) -> None:
    actor.unlink([cluster], SYNC_MS, True)


def pull_in_thread(actor: Any, *args: Any) -> None:
    """Pull, and leave word which thread does it."""
    actor.pulling = threading.get_native_id()
    actor.announce("pulls")
    actor.pull(*args)


def pulling_thread(actor: Any) -> int:
    return int(actor.pulling)


def main_thread(peer: Peer, thread: int = 0) -> list[str]:
    """Its /proc/PID/stat behind the name; or that of another thread."""
    path = File(f"/proc/{peer.pid}/task/{thread or peer.pid}/stat")
    return path.read_text().rsplit(")", 1)[1].split()


def check_ctrl_c(peer: Peer, is_inside: Callable[[], bool], command: Command, *args: Any) -> None:
    """Have the main thread call, send the signal once it is inside, and see the call end soon."""
    call = peer.tell(call_until_interrupted, command, *args)
    peer.wait_for("begins")
    eventually(is_inside, f"{command} is under way")
    start = time.monotonic()
    os.kill(peer.pid, signal.SIGINT)
    assert call.result(SYNC_MS / 2000) == "interrupted", command
    assert time.monotonic() - start < SOON_S, command


def waits(peer: Peer, thread: int = 0) -> Callable[[], bool]:
    """Whether the main thread, or another one, was found asleep three times in a row."""
    seen: list[bool] = []

    def look() -> bool:
        seen.append(main_thread(peer, thread)[0] == "S")
        return len(seen) > 3 and all(seen[-3:])

    return look


def works(peer: Peer) -> Callable[[], bool]:
    """Whether the main thread has taken 50 ms of a processor from now on."""

    def ticks() -> int:
        return sum(map(int, main_thread(peer)[11:13]))

    before = ticks()
    return lambda: ticks() >= before + 5


@pytest.mark.rule("C10-84")
def test_it_ends_each_wait_for_a_silent_peer(stage: Stage) -> None:
    pair = stage.pair(helped_path(), SMALL, sync_timeout_ms=SYNC_MS)
    puller, cluster = pair.puller, pair.owner.cluster()
    puller.register("more", SMALL, 3)
    pair.owner.stop()
    with ExitStack() as exits:
        silent = [exits.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
        listeners = [ClusterAddress(20 + n, each.getsockname()) for n, each in enumerate(silent)]
        # Several are handled at a time, most of them by other threads.
        check_ctrl_c(puller, waits(puller), "link", listeners, SYNC_MS)
        check_ctrl_c(puller, waits(puller), "pull", "kv", KEY, [0], [0])
        check_ctrl_c(puller, waits(puller), "push", "kv", KEY, [0], [0])
        check_ctrl_c(puller, waits(puller), "unlink", [cluster], SYNC_MS)
        # A transfer of this engine uses the memory.
        other = puller.start_call(pull_in_thread, "kv", KEY, [0], [0])
        puller.wait_for("pulls")
        thread = puller.call(pulling_thread)
        eventually(waits(puller, thread), "the pull is under way")
        check_ctrl_c(puller, waits(puller), "unregister", "kv")
        puller.finalize()
        assert other.exception() is not None
    pair.owner.go_on()


@pytest.mark.rule("C10-84")
def test_it_ends_each_wait_for_a_peer_in_the_memory(stage: Stage, registered_path: Path) -> None:
    needs_a_shared_host(registered_path)
    owner = stage.engine(OWNER, registered_path, sync_timeout_ms=SYNC_MS)
    pushers = [stage.engine(PULLER + n, registered_path, listen=None) for n in range(3)]
    for stamp, peer in enumerate((owner, *pushers)):
        peer.register("kv", GEOMETRY, stamp, 0, remote_accessible=True)
    linked(pushers[0], owner)
    comm_id = joined(owner, pushers[1])[0]
    linked(pushers[2], owner)
    calls = [
        stop_within_a_piece(pusher, owner, inside + 1) for inside, pusher in enumerate(pushers)
    ]
    # No call is shorter for the ones before it: each waits for another peer.
    check_ctrl_c(owner, waits(owner), forced_unlink, pushers[0].cluster())
    check_ctrl_c(owner, waits(owner), unlink_member, comm_id)
    check_ctrl_c(owner, waits(owner), "unregister", "kv")
    check_ctrl_c(owner, waits(owner), "finalize")
    for pusher, call in zip(pushers, calls):
        pusher.go_on()
        end(pusher, call)


@pytest.mark.rule("C10-84")
def test_it_ends_what_moves_bytes(stage: Stage, path: Path) -> None:
    if ON_ASCEND:
        pytest.skip("capability interruptible transfers: HIXL returns at its own deadline")
    pair = stage.pair(path, LONG, sync_timeout_ms=4 * SYNC_MS)
    puller = pair.puller
    blocks = [0] * REPEATED, [1] * REPEATED
    check_ctrl_c(puller, works(puller), "pull", "kv", KEY, *blocks)
    check_ctrl_c(puller, works(puller), "push", "kv", KEY, *blocks)
    check_ctrl_c(puller, works(puller), copy_a_block, REPEATED)
    # None of them was done.
    assert puller.call(count) == (0, 0, 0)


@pytest.mark.rule("C7.8-2", "C10-83")
def test_finalize_interrupts_the_link_to_a_member(stage: Stage) -> None:
    if ON_ASCEND:
        pytest.skip("capability inject_faults: this runtime has no faults")
    members = stage.engine(1), stage.engine(2)
    ranks = ranks_of(*members)
    with members[0].faults.inject("connect delay=5s") as injection:
        for peer in members:
            join(peer, ranks)
        eventually(lambda: injection.fired == 1, "a link is being made")
        start = time.monotonic()
        members[0].finalize()
        assert time.monotonic() - start < SOON_S
