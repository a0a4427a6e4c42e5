# SPDX-License-Identifier: Apache-2.0
"""The calls around communicators that need no second process: contract 7.4, and the flag of 1.4."""

from __future__ import annotations

import resource
import uuid

import pytest

from llm_datadist import BlocksCacheKey, LLMStatusCode, Placement
from tests.conformance.communicators import (
    R,
    join,
    joined,
    ranks_of,
    state_of,
    wait_until_failed,
    wait_until_ok,
)
from tests.conformance.refusals import refused, refused_by_engine
from tests.conformance.stage import SMALL, linked
from tests.conformance.together import NearPeer, NearStage

S = LLMStatusCode
PI = S.LLM_PARAM_INVALID
MISSING = 999


@pytest.fixture
def peer(together: NearStage) -> NearPeer:
    return together.engine(1, listen=None)


@pytest.mark.rule("C7.4-2")
def test_c7_4_2_the_own_cluster_must_be_a_member(peer: NearPeer) -> None:
    with refused_by_engine("link", PI, "own cluster 1", "member"):
        join(peer, {2: 0, 3: 1})
    # A call that was refused took no id.
    assert join(peer, {1: 0, MISSING: 1}) == 1


@pytest.mark.rule("C7.4-2", "C7.4-1")
def test_c7_4_2_what_the_interface_checks_before_the_engine(peer: NearPeer) -> None:
    good = {"comm_name": "n", "cluster_rank_info": {1: 0, 2: 1}, "rank_table": "{}"}
    for change, error in [
        ({"comm_name": None}, TypeError),
        ({"comm_name": ""}, PI),
        ({"comm_name": "x" * 128}, PI),
        ({"cluster_rank_info": [(1, 0)]}, TypeError),
        ({"cluster_rank_info": {"1": 0, 2: 1}}, TypeError),
        ({"cluster_rank_info": {1: None, 2: 1}}, TypeError),
        ({"cluster_rank_info": {each: each for each in range(1, 6)}}, PI),
        ({"cluster_rank_info": {1: 0, -2: 1}}, ValueError),
        ({"cluster_rank_info": {1: 0, 2: 2**32}}, ValueError),
        ({"rank_table": None}, TypeError),
        ({"cluster_rank_info": {1: 0}}, PI),
        ({"cluster_rank_info": {1: 1, 2: 0}}, PI),
    ]:
        arguments = {**good, **change}
        if error is PI:
            with refused(PI):
                peer.datadist.link(**arguments)
        else:
            with pytest.raises(error):
                peer.datadist.link(**arguments)
    assert peer.datadist.link(**{**good, "comm_name": "x" * 127}) == 1


@pytest.mark.rule("C7.4-1")
def test_c7_4_1_equal_ranks_pass(together: NearStage) -> None:
    peers = [together.engine(each, listen=None) for each in (1, 2)]
    ids = [join(peer, {1: 5, 2: 5}) for peer in peers]
    wait_until_ok(*zip(peers, ids))


@pytest.mark.rule("C7.4-3", "C7.4-6")
def test_c7_4_3_at_most_512_communicators_and_ids_count_up(peer: NearPeer) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Each of them waits for its members on a socket of its own.
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    try:
        ids = [join(peer, {1: 0, MISSING: 1}, f"n {number}") for number in range(512)]
        assert ids == list(range(1, 513))
        with refused_by_engine("link", PI, 512):
            join(peer, {1: 0, MISSING: 1}, "one more")
        assert {state_of(peer, comm_id) for comm_id in ids} == {R.PREPARING}
        peer.datadist.unlink(100)
        assert join(peer, {1: 0, MISSING: 1}, "one more") == 513
        for comm_id in [*range(1, 100), *range(101, 514)]:
            peer.datadist.unlink(comm_id)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.rule("C7.4-9")
@pytest.mark.parametrize("comm_id", [0, 1, 2**64 - 1])
def test_c7_4_9_unknown_ids_are_not_linked(peer: NearPeer, comm_id: int) -> None:
    with refused_by_engine("unlink", S.LLM_NOT_YET_LINK, comm_id):
        peer.datadist.unlink(comm_id)
    with refused_by_engine("query_register_mem_status", S.LLM_NOT_YET_LINK, comm_id):
        peer.datadist.query_register_mem_status(comm_id)


@pytest.mark.rule("C7.4-9")
@pytest.mark.parametrize("method", ["unlink", "query_register_mem_status"])
def test_c7_4_9_ids_are_uint64(peer: NearPeer, method: str) -> None:
    for value, error in (
        (None, TypeError),
        ("1", TypeError),
        (-1, ValueError),
        (2**64, ValueError),
    ):
        with pytest.raises(error):
            getattr(peer.datadist, method)(value)


@pytest.mark.rule("C7.4-4")
def test_c7_4_4_a_meeting_point_that_is_taken_is_link_failed(together: NearStage) -> None:
    first = together.engine(1, listen=None)
    ranks = {1: 0, MISSING: 1}
    assert join(first, ranks) == 1
    # The same member again, of this engine and of another that claims to be the same cluster.
    for again in (first, together.engine(1, listen=None)):
        with refused_by_engine("link", S.LLM_LINK_FAILED):
            join(again, ranks)
    assert state_of(first, 1) is R.PREPARING
    assert join(first, ranks, "another name") == 2
    first.datadist.unlink(1)
    assert join(first, ranks) == 3


@pytest.mark.rule("C7.4-1")
def test_c7_4_1_scopes_are_apart(together: NearStage) -> None:
    scopes = [{"LLM_DATADIST_SCOPE": uuid.uuid4().hex} for _ in range(2)]
    pairs = []
    for number, scope in enumerate(scopes):
        peers = [together.engine(each, listen=None, environment=scope) for each in (1, 2)]
        for peer in peers:
            peer.register("kv", SMALL, 10 * number + peer.cluster_id, 0)
        # The scope is looked up when the members meet.
        pairs.append((peers, joined(*peers)))
    for number, (peers, _) in enumerate(pairs):
        peers[0].pull("kv", BlocksCacheKey(2, 0), [1], [0])
        read = peers[0].call("read", "kv")[:, 0].tolist()
        assert read == SMALL.filled(10 * number + 2)[:, 1].tolist()


@pytest.mark.rule("C7.4-7", "C7.4-8")
def test_c7_4_8_a_failed_one_may_be_replaced_under_its_name(together: NearStage) -> None:
    peers = [together.engine(each, listen=None) for each in (1, 2)]
    ids = [
        join(peers[0], {1: 0, 2: 1}, rank_table="a"),
        join(peers[1], {1: 0, 2: 1}, rank_table="b"),
    ]
    for peer, comm_id in zip(peers, ids):
        assert "rank table" in wait_until_failed(peer, comm_id)
        # Told once; the state stays.
        assert state_of(peer, comm_id) is R.FAILED
    assert joined(*peers) == [2, 2]
    assert [state_of(peer, 1) for peer in peers] == [R.FAILED, R.FAILED]


# ---- the flag "link was called" ----


@pytest.mark.rule("C1.4-40", "C4.3-12", "C1.10-7", "C1.10-8")
def test_c1_4_40_link_was_called_is_for_ever_and_turns_remote_access_off(
    small_addresses: list[int], together: NearStage
) -> None:
    owner, puller = (together.engine(each) for each in (1, 2))
    early = owner.manager.register_blocks_cache(SMALL.desc(), small_addresses, BlocksCacheKey(1, 0))
    ids = joined(owner, puller)
    for peer, comm_id in zip((owner, puller), ids):
        peer.datadist.unlink(comm_id)
    # Not cleared by unlink.
    for placement in Placement:
        with refused(PI, "after link()"):
            owner.manager.register_blocks_cache(SMALL.desc(placement), small_addresses, None, True)
    late = owner.manager.register_blocks_cache(SMALL.desc(), small_addresses, BlocksCacheKey(1, 1))
    owner.manager.register_cache(SMALL.desc(), small_addresses, (), False)
    puller.register("kv", SMALL, 2, remote_accessible=None)
    linked(puller, owner)
    # The default of both is off, so nothing can be pulled with them.
    with refused_by_engine("pull_blocks", PI, "this engine", "not remote accessible"):
        puller.pull("kv", BlocksCacheKey(1, 0), [0], [0])
    third = together.engine(3, listen=None)
    third.register("kv", SMALL, 3)
    linked(third, owner)
    third.pull("kv", BlocksCacheKey(1, 0), [0], [0])
    with refused_by_engine("pull_blocks", PI, "the peer", "not remote accessible"):
        third.pull("kv", BlocksCacheKey(1, 1), [0], [0])
    assert (early.cache_id, late.cache_id) == (1, 2)
    # A new init starts without the flag.
    owner.finalize()
    owner.init(1, options={"lldd.AllowMultipleInstances": "1"})
    owner.manager.register_blocks_cache(SMALL.desc(), small_addresses, None, True)


@pytest.mark.rule("C1.4-40")
def test_c1_4_40_link_clusters_does_not_set_the_flag(
    small_addresses: list[int], together: NearStage
) -> None:
    owner, puller = (together.engine(each) for each in (1, 2))
    linked(puller, owner)
    puller.manager.register_blocks_cache(SMALL.desc(), small_addresses, None, True)


@pytest.mark.rule("C7.4-6")
def test_c7_4_6_an_id_never_equals_a_status(together: NearStage) -> None:
    peer = together.engine(1, listen=None)
    comm_id = join(peer, ranks_of(peer, together.engine(2, listen=None)))
    assert type(comm_id) is int
    assert comm_id not in set(LLMStatusCode)
