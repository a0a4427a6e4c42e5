# SPDX-License-Identifier: Apache-2.0
"""A process that runs out of descriptors: who is told what, and what goes on working."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from llm_datadist import BlocksCacheKey, LLMException, LLMStatusCode
from llm_datadist.introspection import MemoryKind
from llm_datadist.testing import Geometry, Peer, Stamp, moved
from llm_datadist.testing.actor import EngineSpec

OWNER, PULLER = 1, 2
KEY = BlocksCacheKey(OWNER, 0)
GEOMETRY = Geometry(num_tensors=2, num_blocks=4, block_bytes=4096)
SPEC = EngineSpec(OWNER, listen="127.0.0.1:0")


@contextmanager
def linked_once(transport: str | None = None) -> Iterator[tuple[Peer, Peer]]:
    """An owner and a puller that have been linked, so Python has read every file it will need."""
    environment = {} if transport is None else {"LLM_DATADIST_MOCK_TRANSPORT": transport}
    with Peer.start(environment) as owner, Peer.start(environment) as puller:
        for peer, cluster_id in ((owner, OWNER), (puller, PULLER)):
            peer.init(cluster_id, listen="127.0.0.1:0", sync_timeout_ms=5000)
        owner.register("kv", GEOMETRY, Stamp(1), 0)
        puller.register("kv", GEOMETRY, Stamp(2))
        assert puller.link(owner) == LLMStatusCode.LLM_SUCCESS
        assert puller.unlink(owner) == LLMStatusCode.LLM_SUCCESS
        yield owner, puller


def assert_usable(owner: Peer, puller: Peer) -> None:
    """A link can be made, takes the fast path where it may, and moves the right bytes."""
    assert puller.link(owner) == LLMStatusCode.LLM_SUCCESS
    paths = {path.memory: path.path for path in puller.call("link_paths", OWNER)}
    assert paths[MemoryKind.ALLOCATED] == "mapped"
    assert_pulls(owner, puller)
    assert puller.unlink(owner) == LLMStatusCode.LLM_SUCCESS


def assert_pulls(owner: Peer, puller: Peer) -> None:
    puller.call("fill", "kv", Stamp(2))
    puller.pull("kv", KEY, [1, 3], [0, 2])
    before, source = GEOMETRY.filled(Stamp(2)), GEOMETRY.filled(Stamp(1))
    assert (puller.call("read", "kv") == moved(before, source, [1, 3], [0, 2])).all()


def take_all_but(actor, left: int) -> int:
    """Leave the process so many descriptors; returns its limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = max(int(name) for name in os.listdir("/proc/self/fd")) + 20
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    actor.taken = []
    with suppress(OSError):
        while True:
            actor.taken.append(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))
    for _ in range(left):
        os.close(actor.taken.pop())
    return limit


def give_back(actor) -> None:
    for descriptor in actor.taken:
        os.close(descriptor)


def notices(actor) -> list[str]:
    return actor.datadist._engine.take_notices()


def the_limit(limit: int) -> str:
    return f"may have {limit} descriptors: RLIMIT_NOFILE"


# At each of these a link of the initiator needs one more: for the connection, the page that the
# two share, the local socket, and what comes over it.
@pytest.mark.sanitize
def test_an_initiator_without_descriptors_is_told_the_limit():
    with linked_once() as (owner, puller):
        for left in range(4):
            limit = puller.call(take_all_but, left)
            answer = puller.link_to(owner.cluster(), timeout_ms=20000)
            puller.call(give_back)
            assert answer.status == LLMStatusCode.LLM_LINK_FAILED, left
            assert f"process {puller.pid} {the_limit(limit)}" in answer.details[0], left
            assert_usable(owner, puller)


@pytest.mark.sanitize
def test_an_acceptor_without_descriptors_has_a_notice_of_the_limit():
    with linked_once() as (owner, puller):
        limit = owner.call(take_all_but, 0)
        answer = puller.link_to(owner.cluster(), timeout_ms=300)
        owner.call(give_back)
        assert answer.status == LLMStatusCode.LLM_TIMEOUT
        assert "did not answer" in answer.details[0]
        (notice,) = owner.call(notices)
        assert f"process {owner.pid} {the_limit(limit)}" in notice
        assert_usable(owner, puller)


# Enough for the connection and the local socket, not for what comes over it.
@pytest.mark.sanitize
def test_an_acceptor_that_cannot_take_what_is_shared_refuses_at_once():
    with linked_once() as (owner, puller):
        owner.call(take_all_but, 2)
        answer = puller.link_to(owner.cluster(), timeout_ms=20000)
        owner.call(give_back)
        assert answer.status == LLMStatusCode.LLM_LINK_FAILED
        assert "the peer has no file descriptor left" in answer.details[0]
        assert_usable(owner, puller)


@pytest.mark.sanitize
def test_a_connection_that_had_to_wait_is_served_when_there_are_descriptors():
    with linked_once() as (owner, puller):
        owner.call(take_all_but, 0)
        linking = puller.start_call("link", [owner.cluster()], 20000)
        owner.call(wait_for_notice)
        owner.call(give_back)
        assert linking.result().status == LLMStatusCode.LLM_SUCCESS
        assert_pulls(owner, puller)


def wait_for_notice(actor) -> None:
    from llm_datadist.testing import eventually

    eventually(lambda: notices(actor), "the connection waits", 10)


# Not in the sanitizers' subset: with no descriptor left, UndefinedBehaviorSanitizer cannot look at
# the type of an object whose virtual function is called, and takes it for a wrong one.
def test_a_transfer_that_needs_a_stream_is_told_the_limit_and_the_next_one_works():
    with linked_once("tcp") as (owner, puller):
        assert puller.link(owner) == LLMStatusCode.LLM_SUCCESS
        limit = puller.call(take_all_but, 0)
        with pytest.raises(LLMException) as raised:
            puller.pull("kv", KEY, [0], [0])
        puller.call(give_back)
        assert raised.value.status_code == LLMStatusCode.LLM_FAILED
        assert f"process {puller.pid} {the_limit(limit)}" in str(raised.value)
        assert_pulls(owner, puller)


# Not in the sanitizers' subset either: the exception that says so has a type as well.
def test_an_engine_that_cannot_be_opened_for_want_of_descriptors_can_be_later():
    with Peer.start() as peer:
        peer.init(OWNER, listen="127.0.0.1:0")
        for left in range(4):
            peer.call(fail_to_open, left)


def fail_to_open(actor, left: int) -> None:
    actor.finalize()
    limit = take_all_but(actor, left)
    with pytest.raises(LLMException) as raised:
        actor.datadist.init(SPEC.make_options())
    give_back(actor)
    assert raised.value.status_code == LLMStatusCode.LLM_FAILED
    assert the_limit(limit) in str(raised.value)
    actor.datadist.init(SPEC.make_options())
    assert actor.datadist.listen_address is not None
