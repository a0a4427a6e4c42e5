# SPDX-License-Identifier: Apache-2.0
"""Communicators whose members meet at LLM_DATADIST_RENDEZVOUS, as they do on several hosts."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest

from llm_datadist import (
    BlocksCacheKey,
    CacheDesc,
    DataType,
    LLMConfig,
    LLMDataDist,
    LLMDataDistWarning,
    LLMException,
    LLMStatusCode,
    RegisterMemStatus,
)
from llm_datadist.testing.actor import EngineSpec
from llm_datadist.testing.waiting import eventually
from tests.conformance.engines import tensors_of

MEMBERS = {1: 0, 2: 1, 3: 2}
DESC = CacheDesc(2, [4, 1024], DataType.DT_INT8)


@pytest.fixture
def address(monkeypatch) -> tuple[str, int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        ip, port = probe.getsockname()
    monkeypatch.setenv("LLM_DATADIST_RENDEZVOUS", f"{ip}:{port}")
    return ip, port


@contextlib.contextmanager
def engines(count: int, **options: str) -> Iterator[list[LLMDataDist]]:
    opened = []
    try:
        for cluster_id in range(1, count + 1):
            spec = EngineSpec(
                cluster_id, device_pool=1 << 20, several_in_a_process=True, options=options
            )
            opened.append(spec.open())
        yield opened
    finally:
        for engine in opened:
            engine.finalize()


def prepared(joined: dict[LLMDataDist, int]) -> set[RegisterMemStatus]:
    """Wait until no member prepares any more; returns what became of them."""

    def states() -> set[RegisterMemStatus]:
        return {engine.query_register_mem_status(comm) for engine, comm in joined.items()}

    eventually(lambda: RegisterMemStatus.PREPARING not in states(), "all members to be ready")
    return states()


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_members_meet_in_any_order(address, order):
    with engines(3) as members:
        caches = [
            engine.cache_manager.allocate_blocks_cache(DESC, BlocksCacheKey(engine.cluster_id, 0))
            for engine in members
        ]
        for number, cache in enumerate(caches):
            for tensor in tensors_of(cache):
                tensor[:] = number + 1
        joined = {members[i]: members[i].link("three", MEMBERS, "{}") for i in order}
        assert prepared(joined) == {RegisterMemStatus.OK}
        for engine, cache in zip(members, caches):
            for other in members:
                if other is not engine:
                    key = BlocksCacheKey(other.cluster_id, 0)
                    engine.cache_manager.pull_blocks(key, cache, [0], [other.cluster_id])
                    assert (tensors_of(cache)[0][other.cluster_id] == other.cluster_id).all()


def test_the_address_is_held_for_several_communicators_at_once(address):
    with engines(3) as members:
        late = {members[2]: members[2].link("b", {1: 0, 3: 1}, "{}")}
        first = {engine: engine.link("a", {1: 0, 2: 1}, "{}") for engine in members[:2]}
        assert prepared(first) == {RegisterMemStatus.OK}
        late[members[0]] = members[0].link("b", {1: 0, 3: 1}, "{}")
        assert prepared(late) == {RegisterMemStatus.OK}


def test_a_disagreement_fails_with_the_difference(address):
    with engines(2) as (holder, visitor):
        one = holder.link("two", {1: 0, 2: 1}, '{"version": "1.0"}')
        other = visitor.link("two", {1: 0, 2: 1}, '{"version": "1.2"}')
        with pytest.warns(LLMDataDistWarning, match=r"rank table.*1\.0.*1\.2"):
            prepared({holder: one})
        with pytest.warns(LLMDataDistWarning, match=r"rank table.*1\.2.*1\.0"):
            prepared({visitor: other})
        with pytest.raises(LLMException) as caught:
            holder.cache_manager.pull_blocks(
                BlocksCacheKey(2, 0), holder.cache_manager.allocate_blocks_cache(DESC), [0], [0]
            )
        assert caught.value.status_code == LLMStatusCode.LLM_NOT_YET_LINK


def test_a_member_that_never_comes_leaves_it_preparing_until_the_time_is_over(address):
    with engines(2, **{LLMConfig.link_total_time.key: "1"}) as (_, visitor):
        comm = visitor.link("nobody", {1: 0, 2: 1}, "{}")
        assert visitor.query_register_mem_status(comm) == RegisterMemStatus.PREPARING
        with pytest.warns(
            LLMDataDistWarning, match=r"not all members came in time .*missing: cluster 1"
        ):
            assert prepared({visitor: comm}) == {RegisterMemStatus.FAILED}


def test_strangers_at_the_address_do_no_harm(address):
    with engines(2) as (holder, visitor):
        joined = {holder: holder.link("two", {1: 0, 2: 1}, "{}")}
        for message in (b"", b"GET / HTTP/1.0\r\n\r\n", b"\xff" * 4096, bytes(12)):
            with socket.create_connection(address, 5) as stranger:
                stranger.sendall(message)
        joined[visitor] = visitor.link("two", {1: 0, 2: 1}, "{}")
        assert prepared(joined) == {RegisterMemStatus.OK}


@pytest.mark.parametrize("text", ["nonsense", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:70000", "a:1"])
def test_a_variable_that_is_no_address(monkeypatch, text):
    monkeypatch.setenv("LLM_DATADIST_RENDEZVOUS", text)
    with engines(1) as (engine,):
        with pytest.raises(LLMException, match="LLM_DATADIST_RENDEZVOUS") as caught:
            engine.link("two", {1: 0, 2: 1}, "{}")
        assert caught.value.status_code == LLMStatusCode.LLM_PARAM_INVALID
        assert text in str(caught.value)


def test_an_address_in_use_at_the_holder(address):
    with socket.socket() as taken, engines(1) as (engine,):
        taken.bind(address)
        taken.listen()
        with pytest.raises(LLMException, match="LLM_DATADIST_RENDEZVOUS") as caught:
            engine.link("two", {1: 0, 2: 1}, "{}")
        assert caught.value.status_code == LLMStatusCode.LLM_LINK_FAILED
