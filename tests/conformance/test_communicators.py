# SPDX-License-Identifier: Apache-2.0
"""link, unlink and query_register_mem_status between processes: contract 7.4, decision 37."""

from __future__ import annotations

import itertools

import pytest

from llm_datadist import BlocksCacheKey, LLMStatusCode
from llm_datadist.introspection import LinkState
from llm_datadist.testing import Geometry, Peer, check, describe_difference, eventually, moved
from tests.conformance.communicators import (
    NAME,
    R,
    join,
    joined,
    link_members,
    ranks_of,
    state_of,
    unlink_member,
    wait_until_failed,
    wait_until_ok,
)
from tests.conformance.paths import Path
from tests.conformance.refusals import GONE, check_refusal, refused, refused_by_engine
from tests.conformance.stage import SMALL, Stage
from tests.conformance.work import repeat

S = LLMStatusCode


class Members:
    """Peers that do not listen, each with a cache of model 0."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.ids = itertools.count(101)

    def make(self, count: int, path: Path | None = None, geometry: Geometry = SMALL, **spec):
        return [self.one(path, geometry, **spec) for _ in range(count)]

    def one(self, path: Path | None = None, geometry: Geometry = SMALL, **spec) -> Peer:
        cluster_id = next(self.ids)
        peer = self.stage.engine(cluster_id, path, listen=None, **spec)
        if path is None:
            peer.register("kv", geometry, cluster_id, 0)
        else:
            path.cache(peer, "kv", geometry, cluster_id, 0)
        return peer


@pytest.fixture
def members(stage: Stage) -> Members:
    return Members(stage)


def pull(peer: Peer, other: Peer, blocks=(0,), to=(0,)) -> None:
    peer.pull("kv", BlocksCacheKey(other.cluster_id, 0), list(blocks), list(to))


def links_of(peer: Peer) -> list[tuple[int, int, LinkState]]:
    return sorted(
        (link.peer_cluster_id, link.comm_id, link.state.value) for link in peer.call("links")
    )


@pytest.mark.rule("C7.4-1", "C7.4-7", "C7.4-10")
@pytest.mark.parametrize("count", [2, 3, 4])
def test_c7_4_1_each_member_reaches_each_other_as_soon_as_all_are_there(
    members: Members, path: Path, count: int
) -> None:
    peers = members.make(count, path)
    ranks = ranks_of(*peers)
    ids = []
    for position, peer in enumerate(peers):
        ids.append(join(peer, ranks))
        if position < count - 1:
            # Somebody is missing: for all of them it is being prepared, and nothing is linked.
            for waiting, comm_id in zip(peers, ids):
                assert state_of(waiting, comm_id) is R.PREPARING
            with refused(S.LLM_NOT_YET_LINK):
                pull(peers[0], peers[-1])
    wait_until_ok(*zip(peers, ids))
    for peer, other in itertools.permutations(peers, 2):
        path.require(peer, other, members.stage.process_vm_refused)
        pull(peer, other, [7], [other.cluster_id - 101])
        key = BlocksCacheKey(other.cluster_id, 0)
        peer.push("kv", key, [15], [8 + peer.cluster_id - 101])
    for peer, comm_id in zip(peers, ids):
        expected = SMALL.filled(peer.cluster_id)
        for other in peers:
            if other is not peer:
                pulled, pushed = other.cluster_id - 101, 8 + other.cluster_id - 101
                filled = SMALL.filled(other.cluster_id)
                expected = moved(expected, filled, [7, 15], [pulled, pushed])
        assert describe_difference(peer.call("read", "kv"), expected) == ""
        assert {link.comm_id for link in peer.call("links")} == {comm_id}
        assert len(peer.call("links")) == count - 1


@pytest.mark.rule("C7.4-1")
def test_c7_4_1_members_that_join_at_once_from_worker_threads(members: Members) -> None:
    peers = members.make(4)
    ranks = ranks_of(*peers)
    for round_ in range(5):
        calls = [peer.start_call(link_members, f"{NAME} {round_}", ranks, "{}") for peer in peers]
        ids = [call.result() for call in calls]
        wait_until_ok(*zip(peers, ids))
        for peer, other in itertools.permutations(peers, 2):
            pull(peer, other)
        for peer, comm_id in zip(peers, ids):
            peer.call(unlink_member, comm_id)


@pytest.mark.rule("C7.4-1")
def test_c7_4_1_the_request_mode_has_communicators_too(members: Members, path: Path) -> None:
    peers = members.make(2, path, one_sided=False)
    joined(*peers)
    pull(peers[0], peers[1], [5], [6])
    first, second = (SMALL.filled(peer.cluster_id) for peer in peers)
    expected = moved(first, second, [5], [6])
    assert describe_difference(peers[0].call("read", "kv"), expected) == ""


@pytest.mark.rule("C7.4-7", "C7.4-8", "C7.4-9", "C7.4-10", "C3.2-25")
def test_c7_4_8_after_the_total_time_it_is_failed_and_keeps_its_id_until_unlinked(
    members: Members,
) -> None:
    first, missing = members.make(2, options={"llm.LinkTotalTime": "1"})
    comm_id = join(first, ranks_of(first, missing))
    assert state_of(first, comm_id) is R.PREPARING
    text = wait_until_failed(first, comm_id)
    assert "in time" in text
    assert f'"{NAME}"' in text
    # Too late: whoever comes now meets nobody.
    late = join(missing, ranks_of(first, missing))
    assert state_of(missing, late) is R.PREPARING
    assert state_of(first, comm_id) is R.FAILED
    with refused_by_engine("pull_blocks", S.LLM_NOT_YET_LINK, missing.cluster_id):
        pull(first, missing)
    first.call(unlink_member, comm_id)
    with refused_by_engine("query_register_mem_status", S.LLM_NOT_YET_LINK, comm_id):
        state_of(first, comm_id)
    # The next one has the next id, and meets the one who waits.
    assert join(first, ranks_of(first, missing)) == comm_id + 1
    wait_until_ok((first, comm_id + 1), (missing, late))
    pull(first, missing)


@pytest.mark.rule("C7.4-1", "C7.4-7")
@pytest.mark.parametrize(
    ("own", "other", "texts"),
    [
        ({101: 0, 102: 1}, {101: 0, 102: 2}, ["cluster 102 has rank 1", "cluster 102 has rank 2"]),
        ({101: 0, 102: 1}, {101: 0, 102: 1, 103: 2}, ["cluster 103 has rank 2"]),
        ({101: 0, 102: 1}, {102: 0, 101: 1}, ["cluster 101 has rank 0", "cluster 101 has rank 1"]),
    ],
)
def test_c7_4_1_maps_that_differ_fail_at_once_and_the_text_shows_both(
    members: Members, own, other, texts
) -> None:
    peers = members.make(2)
    ids = [join(peers[0], own), join(peers[1], other)]
    for peer, comm_id, stranger in zip(peers, ids, (102, 101)):
        text = wait_until_failed(peer, comm_id)
        for part in [*texts, f"cluster {stranger} describes it differently"]:
            assert part in text
        assert links_of(peer) == []


@pytest.mark.rule("C7.4-1", "C7.4-7")
def test_c7_4_1_rank_tables_that_differ_fail_and_the_text_shows_where(members: Members) -> None:
    peers = members.make(2)
    table = '{"server_count": "1", "server_list": [{"server_id": "10.0.0.%d"}]}'
    ids = [
        join(peer, ranks_of(*peers), rank_table=table % number)
        for number, peer in enumerate(peers, 1)
    ]
    for peer, comm_id, here, there in zip(peers, ids, (1, 2), (2, 1)):
        text = wait_until_failed(peer, comm_id)
        assert "another rank table" in text
        assert f'server "10.0.0.{here}" is only here' in text
        assert f'server "10.0.0.{there}" is only there' in text
    with refused(S.LLM_NOT_YET_LINK):
        pull(*peers)


@pytest.mark.rule("C7.4-7")
def test_c7_4_7_members_of_different_modes_fail_and_the_text_names_both(members: Members) -> None:
    peers = [members.one(one_sided=True), members.one(one_sided=False)]
    ids = [join(peer, ranks_of(*peers)) for peer in peers]
    text = wait_until_failed(peers[0], ids[0])
    assert "one-sided" in text
    assert "request" in text
    assert links_of(peers[0]) == links_of(peers[1]) == []


@pytest.mark.rule("C7.4-11", "C7.4-9")
def test_c7_4_11_unlink_during_preparation(members: Members) -> None:
    first, second = members.make(2)
    comm_id = join(first, ranks_of(first, second))
    first.call(unlink_member, comm_id)
    with refused_by_engine("unlink", S.LLM_NOT_YET_LINK, comm_id):
        first.call(unlink_member, comm_id)
    # It is not waited for any more.
    alone = join(second, ranks_of(first, second))
    assert state_of(second, alone) is R.PREPARING
    assert links_of(first) == links_of(second) == []
    again = join(first, ranks_of(first, second))
    wait_until_ok((first, again), (second, alone))


@pytest.mark.rule("C7.4-11")
def test_c7_4_11_unlink_while_it_dials_the_other_member(members: Members) -> None:
    """The link that is made nevertheless belongs to no communicator, and is ended."""
    first, second = members.make(2)
    with first.faults.inject("connect delay=60s"):
        left, kept = (join(each, ranks_of(first, second)) for each in (first, second))
        eventually(lambda: first.faults.counters()["connect"].fired == 1, "it dials")
        first.call(unlink_member, left)
    gone = (first.cluster_id, kept, LinkState.PEER_GONE.value)
    eventually(lambda: links_of(second) == [gone], "the link was made and ended")
    assert links_of(first) == []


@pytest.mark.rule("C7.4-13")
def test_c7_4_13_each_member_unlinks_for_itself(members: Members, path: Path) -> None:
    first, second, third = members.make(3, path)
    ids = joined(first, second, third)
    pull(second, first)
    first.call(unlink_member, ids[0])
    with refused_by_engine("pull_blocks", S.LLM_NOT_YET_LINK, second.cluster_id):
        pull(first, second)
    assert links_of(first) == []
    # The others were not told; they see the connection close, and it counts as a link yet.
    for other in (second, third):
        eventually(
            lambda other=other: (101, ids[0], LinkState.PEER_GONE.value) in links_of(other), "seen"
        )
        check_refusal(
            other.start_call("pull", "kv", BlocksCacheKey(101, 0), [0], [0]).exception(),
            S.LLM_TIMEOUT,
            101,
        )
    pull(second, third)
    assert state_of(second, ids[1]) is R.OK
    second.call(unlink_member, ids[1])
    with refused_by_engine("pull_blocks", S.LLM_NOT_YET_LINK, 101):
        pull(second, first)


@pytest.mark.rule("C7.4-14", "C7.4-15", "C10-37")
@pytest.mark.parametrize("older_first", [True, False])
def test_c7_4_14_of_two_communicators_with_one_peer_the_newest_is_used(
    members: Members, path: Path, older_first: bool
) -> None:
    first, second = members.make(2, path)
    older = joined(first, second, name="older")
    pull(first, second, [1], [1])
    newer = joined(first, second, name="newer")
    assert (older, newer) == ([1, 1], [2, 2])
    pull(first, second, [2], [2])
    pulls = {link.comm_id: link.pulls for link in first.call("links")}
    assert pulls == {1: 1, 2: 1}
    # Whichever goes first, the other one is used.
    for peer in (first, second):
        peer.call(unlink_member, 1 if older_first else 2)
    pull(first, second, [3], [3])
    (left,) = first.call("links")
    assert (left.comm_id, left.state) == (2 if older_first else 1, LinkState.LIVE)
    assert left.pulls == 2
    check_blocks(first, second, [1, 2, 3])
    for peer in (first, second):
        peer.call(unlink_member, left.comm_id)
    with refused(S.LLM_NOT_YET_LINK):
        pull(first, second)


def check_blocks(peer: Peer, source: Peer, blocks: list[int]) -> None:
    expected = SMALL.filled(peer.cluster_id)
    expected = moved(expected, SMALL.filled(source.cluster_id), blocks, blocks)
    assert describe_difference(peer.call("read", "kv"), expected) == ""


@pytest.mark.rule("C7.4-14")
def test_c7_4_14_beside_a_link_of_link_clusters(members: Members) -> None:
    owner = members.stage.engine(7)
    owner.register("kv", SMALL, 7, 0)
    other = members.one()
    assert other.link(owner) == S.LLM_SUCCESS
    pull(other, owner)
    ids = joined(owner, other)
    pull(other, owner)
    assert {link.comm_id: link.pulls for link in other.call("links")} == {0: 1, ids[1]: 1}
    # unlink_clusters finds what link_clusters made, and only that.
    assert other.unlink(owner) == S.LLM_SUCCESS
    pull(other, owner)
    assert [link.comm_id for link in other.call("links")] == [ids[1]]
    assert other.unlink(owner) == S.LLM_SUCCESS
    pull(other, owner)


@pytest.mark.rule("C7.4-12")
def test_c7_4_12_a_peer_that_does_not_leave_the_memory_in_time(
    members: Members, path: Path
) -> None:
    if path.needs_the_peer:
        pytest.skip("capability one-sided reads: nobody is in another's memory")
    large = Geometry(num_tensors=2, num_blocks=64, block_bytes=128 << 10)
    owner, puller = members.make(2, path, large, sync_timeout_ms=200)
    everything = list(range(large.num_blocks))
    statuses = []
    for attempt in range(30):
        name = f"{NAME} {attempt}"
        ids = joined(owner, puller, name=name)
        key = BlocksCacheKey(owner.cluster_id, 0)
        call = puller.start_call(repeat, "pull", "kv", key, everything, name)
        puller.wait_for(name, times=2)
        # Stopped at any moment, which is in the middle of a pull nearly always.
        puller.stop()
        unlinked = owner.start_call(unlink_member, ids[0]).exception()
        puller.go_on()
        call.result()
        puller.call(unlink_member, ids[1])
        statuses.append(getattr(unlinked, "status_code", S.LLM_SUCCESS))
        # However that went, it is not linked any more.
        assert links_of(owner) == []
        if unlinked is not None:
            check_refusal(unlinked, S.LLM_UNLINK_FAILED, puller.cluster_id)
            break
    assert statuses[-1] == S.LLM_UNLINK_FAILED, statuses


@pytest.mark.rule("C7.6-2", "C10-24")
def test_c7_6_2_a_killed_member_is_a_timeout_until_it_is_unlinked(members: Members) -> None:
    first, second = members.make(2)
    ids = joined(first, second)
    pull(first, second)
    second.kill()
    eventually(lambda: links_of(first)[0][2] == LinkState.PEER_GONE.value, "noticed")
    error = first.start_call("pull", "kv", BlocksCacheKey(102, 0), [0], [0]).exception()
    check_refusal(error, S.LLM_TIMEOUT, 102)
    assert GONE in str(error)
    first.call(unlink_member, ids[0])
    with refused(S.LLM_NOT_YET_LINK):
        first.pull("kv", BlocksCacheKey(102, 0), [0], [0])


@pytest.mark.rule("C7.7-1", "C7.7-3", "C7.4-6")
def test_c7_7_1_finalize_unlinks_communicators_and_their_ids_start_afresh(
    members: Members,
) -> None:
    first, second = members.make(2)
    for name in "abc":
        ids = joined(first, second, name=name)
    assert ids == [3, 3]
    waiting = join(first, {101: 0, 999: 1}, "d")
    assert waiting == 4
    first.finalize()
    eventually(
        lambda: {state for _, _, state in links_of(second)} == {LinkState.PEER_GONE.value}, "seen"
    )
    first.init(101)
    again = first.register("again", SMALL, 101, 0)
    assert again.cache_id == 1
    assert join(first, ranks_of(first, second), "e") == 1
    fourth = join(second, ranks_of(first, second), "e")
    assert fourth == 4
    wait_until_ok((first, 1), (second, 4))
    pull(second, first, [4], [5])
    expected = moved(SMALL.filled(102), SMALL.filled(101), [4], [5])
    assert describe_difference(second.call("read", "kv"), expected) == ""
    check(again, again.filled())
