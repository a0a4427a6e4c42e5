# SPDX-License-Identifier: Apache-2.0
"""Forks of a process that has an engine: contract 7.8, docs/architecture.md "Fork"."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from llm_datadist import BlocksCacheKey, LLMDataDist, LLMException, LLMRole, LLMStatusCode
from llm_datadist.testing import Peer, check, eventually, moved
from llm_datadist.testing.actor import EngineSpec
from llm_datadist.testing.resources import children_of
from tests.conformance.paths import Path
from tests.conformance.refusals import GONE, check_refusal
from tests.conformance.stage import OWNER, PULLER, SMALL, Pair, Stage, linked
from tests.conformance.work import seconds_of

S = LLMStatusCode
KEY = BlocksCacheKey(OWNER, 0)


def report_and_wait(actor, pipe: int) -> None:
    os.write(pipe, b"running")
    signal.pause()


def fork_a_waiting_child(actor) -> int:
    """Returns when the child runs: what fork does in it, it has done by then."""
    reader, writer = os.pipe()
    pid = actor.fork(report_and_wait, writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        assert pipe.read(7) == b"running"
    return pid


@contextmanager
def child_of(peer: Peer) -> Iterator[None]:
    """A forked child of the peer that lives as long as the block, even when the peer dies."""
    pid = peer.call(fork_a_waiting_child)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        if peer.process.poll() is None:
            peer.call("wait_for_forked", pid)
        else:
            # An orphan becomes a child of this process.
            eventually(lambda: pid in children_of(os.getpid()), "the orphan comes here")
            os.waitpid(pid, 0)


@pytest.mark.parametrize("operation", ["pull", "push"])
def test_the_parents_death_is_seen_though_its_child_lives(pair: Pair, operation: str) -> None:
    pair.puller.pull("kv", KEY, [0], [0])
    with child_of(pair.owner):
        pair.owner.kill()
        # Not by the deadline of 1 s: the connections are closed, because the child has none of
        # them.
        eventually(
            lambda: pair.puller.call(seconds_of, operation, "kv", KEY, [0], [0])[1] is not None,
            "the death is seen",
            2,
        )
        taken, error = pair.puller.call(seconds_of, operation, "kv", KEY, [0], [0])
        check_refusal(error, S.LLM_TIMEOUT, OWNER)
        assert GONE in str(error)
        assert taken < 0.9


def test_the_port_can_be_reused_though_the_child_lives(stage: Stage) -> None:
    owner = stage.engine(OWNER)
    puller = stage.engine(PULLER, listen=None)
    puller.register("kv", SMALL, 2)
    linked(puller, owner)
    host, port = owner.listen_address
    with child_of(owner):
        owner.kill()
        again = stage.engine(OWNER, listen=f"{host}:{port}")
        again.register("kv", SMALL, 1, 0)
        puller.unlink(owner, force=True)
        linked(puller, again)
        puller.pull("kv", KEY, [0], [0])


def test_finalize_frees_the_port_though_the_child_lives(stage: Stage) -> None:
    owner = stage.engine(OWNER)
    host, port = owner.listen_address
    with child_of(owner):
        owner.finalize()
        owner.init(OWNER, listen=f"{host}:{port}")


@pytest.mark.sanitize
@pytest.mark.threads
def test_a_fork_does_not_disturb_the_parent(pair: Pair) -> None:
    for _ in range(3):
        with child_of(pair.owner), child_of(pair.puller):
            pair.puller.pull("kv", KEY, [3], [4])
            pair.puller.push("kv", KEY, [5], [6])
            pair.owner.call("fill", "kv", 8)
            pair.puller.pull("kv", KEY, [7], [9])
        expected = moved(pair.target.filled(), pair.source.filled(), [3], [4])
        check(pair.target, moved(expected, SMALL.filled(8), [7], [9]))
        pair.owner.call("fill", "kv", 1)


def use_everything(actor, pipe: int) -> None:
    """In a forked child: call what there is, and report one line a call."""
    manager = actor.inherited_manager
    held = actor.caches["kv"]
    calls = {
        "pull": lambda: manager.pull_blocks(KEY, held.cache, [0], [0]),
        "push": lambda: manager.push_blocks(KEY, held.cache, [0], [0]),
        "register": lambda: manager.register_blocks_cache(SMALL.desc(), held.tensor_addrs),
        "unregister": lambda: manager.unregister_cache(held.cache.cache_id),
        "link": lambda: actor.link([], 500),
        "unlink": lambda: actor.unlink([], 500, force=True),
        "links": lambda: actor.links(),
        "paths": lambda: actor.link_paths(OWNER),
        "counters": lambda: actor.counters(),
        "listen_address": lambda: actor.datadist.listen_address,
        "finalize": lambda: actor.datadist.finalize(),
    }
    for name, call in calls.items():
        start = time.monotonic()
        try:
            call()
            outcome = "returned"
        except Exception as error:
            code = getattr(error, "status_code", None)
            outcome = f"{type(error).__name__}|{code}|{error}"
        os.write(pipe, f"{name}|{time.monotonic() - start:.3f}|{outcome}\n".encode())


def fork_and_collect(actor, work) -> tuple[int, str]:
    """Fork, with a pipe for the child's report; returns its wait status and the report."""
    actor.inherited_manager = actor.datadist.cache_manager
    reader, writer = os.pipe()
    pid = actor.fork(work, writer)
    os.close(writer)
    with os.fdopen(reader) as lines:
        report = lines.read()
    return actor.wait_for_forked(pid), report


@pytest.mark.sanitize
def test_each_call_in_the_child_gives_a_clear_error_and_the_child_can_end(pair: Pair) -> None:
    pair.puller.pull("kv", KEY, [0], [0])
    status, report = pair.puller.call(fork_and_collect, use_everything)
    lines = [line.split("|") for line in report.splitlines()]
    assert [line[0] for line in lines] == [
        "pull", "push", "register", "unregister", "link", "unlink", "links", "paths", "counters",
        "listen_address", "finalize",
    ]  # fmt: skip
    for name, seconds, *outcome in lines:
        assert float(seconds) < 1, name
        if name in ("link", "unlink"):
            # These return statuses; for no clusters at all there is none to return but the whole
            # one.
            continue
        if name != "finalize":
            kind, code, text = outcome
            assert issubclass(getattr(__import__("llm_datadist"), kind, Exception), Exception)
            assert code == "LLMStatusCode.LLM_FAILED", (name, outcome)
            assert "fork" in text, (name, text)
    # Through the interpreter's exit, with the engine that it inherited.
    assert os.WIFEXITED(status)
    assert os.WEXITSTATUS(status) == 0
    # The parent's engine is as it was.
    pair.puller.pull("kv", KEY, [3], [4])
    check(pair.target, moved(pair.target.filled(), pair.source.filled(), [0, 3], [0, 4]))


def open_an_own_engine(actor, pipe: int) -> None:
    datadist = LLMDataDist(LLMRole.MIX, 77)
    try:
        datadist.init(EngineSpec(77, listen="127.0.0.1:0").make_options())
        actor._datadist = datadist
        actor.caches.clear()
        actor.register("kv", SMALL, 4)
        answer = actor.link([actor.link_target])
        actor.pull("kv", KEY, [3], [4])
        good = (actor.read("kv")[:, 4] == SMALL.filled(1)[:, 3]).all()
        os.write(pipe, f"{answer.status} {good}".encode())
    except LLMException as error:
        os.write(pipe, str(error).encode())


def set_link_target(actor, cluster) -> None:
    actor.link_target = cluster


@pytest.mark.sanitize
def test_the_child_may_open_an_engine_of_its_own(stage: Stage, path: Path) -> None:
    del path  # Own engines take their paths from the environment that the pair set.
    owner = stage.engine(OWNER)
    owner.register("kv", SMALL, 1, 0)
    puller = stage.engine(PULLER, listen=None)
    puller.register("kv", SMALL, 2)
    linked(puller, owner)
    puller.call(set_link_target, owner.cluster())
    status, report = puller.call(fork_and_collect, open_an_own_engine)
    assert report == "LLMStatusCode.LLM_SUCCESS True"
    # Not finalized: the exit of the interpreter does it.
    assert (os.WIFEXITED(status), os.WEXITSTATUS(status)) == (True, 0)
    puller.pull("kv", KEY, [0], [0])


def fork_while_transferring(actor, times: int) -> None:
    for _ in range(times):
        pid = actor.fork(end_at_once)
        assert os.WEXITSTATUS(actor.wait_for_forked(pid)) == 0


def end_at_once(actor) -> None:
    """The child leaves through the interpreter's exit."""


@pytest.mark.sanitize
@pytest.mark.threads
def test_forks_during_transfers(stage: Stage, path: Path) -> None:
    from tests.conformance.work import repeat

    # A fork holds up every thread of the process, on a busy machine for long.
    pair = stage.pair(path, sync_timeout_ms=10_000)
    calls = [
        pair.puller.start_call(repeat, operation, "kv", KEY, blocks, operation)
        for operation, blocks in (("pull", [1, 2]), ("push", [5]))
    ]
    pair.puller.wait_for("pull")
    pair.puller.call(fork_while_transferring, 5)
    for operation in ("pull", "push"):
        pair.puller.set_flag(operation)
    for call in calls:
        assert call.result()[1] is None
    check(pair.target, moved(pair.target.filled(), pair.source.filled(), [1, 2], [1, 2]))
