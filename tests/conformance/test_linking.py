# SPDX-License-Identifier: Apache-2.0
"""link_clusters and unlink_clusters: contract 7.1 to 7.2 and the decisions on them."""

from __future__ import annotations

import socket
import time

import pytest

from llm_datadist import BlocksCacheKey, LLMDataDistWarning, LLMStatusCode
from llm_datadist.introspection import LinkState
from llm_datadist.testing import Peer, check, eventually, moved
from llm_datadist.testing.actor import ClusterAddress
from tests.conformance.paths import IP
from tests.conformance.refusals import GONE, check_refusal, refused
from tests.conformance.stage import OWNER, PULLER, SMALL, Stage, linked, links_of
from tests.conformance.together import NearStage

S = LLMStatusCode


def two(stage: Stage, **spec) -> tuple[Peer, Peer]:
    """An owner that listens and a puller that does not, with a cache each, not linked."""
    owner = stage.engine(OWNER, **spec)
    puller = stage.engine(PULLER, listen=None, **spec)
    owner.register("kv", SMALL, 1, 0)
    puller.register("kv", SMALL, 2, 0)
    return owner, puller


def pull(puller: Peer, owner_id: int = OWNER, blocks=(0,)) -> None:
    puller.pull("kv", BlocksCacheKey(owner_id, 0), blocks, blocks)


@pytest.mark.rule("C7.1-2")
@pytest.mark.sanitize
def test_one_call_makes_both_ends_and_either_may_transfer(stage: Stage) -> None:
    owner, puller = two(stage)
    linked(puller, owner)
    pull(puller)
    # Number 6 of contract 9.1: the listening side, too.
    owner.pull("kv", BlocksCacheKey(PULLER, 0), [3], [4])
    owner.push("kv", BlocksCacheKey(PULLER, 0), [5], [6])
    puller.push("kv", BlocksCacheKey(OWNER, 0), [7], [8])
    assert links_of(owner) == {PULLER: LinkState.LIVE}
    assert links_of(puller) == {OWNER: LinkState.LIVE}
    (link,) = puller.call("links")
    assert link.is_initiator
    assert link.peer_address == f"{IP}:{owner.listen_address[1]}"
    assert (link.pulls, link.pushes) == (1, SMALL.num_tensors // 2)
    assert link.bytes_in == link.bytes_out == SMALL.num_tensors * SMALL.block_bytes


@pytest.mark.rule("C9.1-12")
def test_port_0_picks_a_free_port_and_listen_address_tells_it(stage: Stage) -> None:
    first = stage.engine(1)
    second = stage.engine(2)
    assert first.listen_address[0] == IP
    assert first.listen_address[1] not in (0, second.listen_address[1])
    assert stage.engine(3, listen=None).listen_address is None


@pytest.mark.rule("C10-22")
def test_ipv6(stage: Stage) -> None:
    owner = stage.engine(OWNER, listen="[::1]:0")
    puller = stage.engine(PULLER, listen="[::1]:0")
    assert owner.listen_address[0] == "::1"
    owner.register("kv", SMALL, 1, 0)
    puller.register("kv", SMALL, 2, 0)
    linked(puller, owner)
    pull(puller)
    (link,) = puller.call("links")
    assert link.peer_address == f"[::1]:{owner.listen_address[1]}"
    assert puller.unlink(owner) == S.LLM_SUCCESS


@pytest.mark.rule("C7.1-13", "C7.1-18")
def test_a_repeated_link_is_already_link_and_the_link_stays_usable(stage: Stage) -> None:
    owner, puller = two(stage)
    linked(puller, owner)
    answer = puller.link_to(owner.cluster())
    assert (answer.status, answer.statuses) == (S.LLM_ALREADY_LINK, [S.LLM_ALREADY_LINK])
    assert str(OWNER) in answer.details[0]
    pull(puller)
    owner.pull("kv", BlocksCacheKey(PULLER, 0), [0], [1])


@pytest.mark.rule("C7.1-5", "C7.1-6")
def test_several_clusters_at_once_with_a_status_each_and_the_last_failure_as_the_whole(
    stage: Stage,
) -> None:
    owners = [stage.engine(each) for each in (11, 12, 13)]
    for owner in owners:
        owner.register("kv", SMALL, owner.cluster_id, 0)
    puller = stage.engine(PULLER, listen=None)
    target = puller.register("kv", SMALL, 2)
    assert puller.link(owners[1]) == S.LLM_SUCCESS
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        answer = puller.link_to(
            owners[0].cluster(),
            ClusterAddress(99, closed.getsockname()),
            owners[1].cluster(),
            owners[2].cluster(),
        )
    assert answer.statuses == [S.LLM_SUCCESS, S.LLM_LINK_FAILED, S.LLM_ALREADY_LINK, S.LLM_SUCCESS]
    assert answer.status == S.LLM_ALREADY_LINK
    expected = target.filled()
    for block, owner in enumerate(owners):
        puller.pull("kv", BlocksCacheKey(owner.cluster_id, 0), [block], [block])
        expected = moved(expected, SMALL.filled(owner.cluster_id), [block], [block])
    check(target, expected)
    assert puller.unlink(*owners) == S.LLM_SUCCESS
    assert links_of(puller) == {}


@pytest.mark.rule("C7.1-4")
def test_twenty_clusters_at_once(stage: Stage) -> None:
    # More than are handled in parallel (16): all of them to the same owner under ids that are not
    # its own.
    owner, puller = two(stage)
    answer = puller.link_to(*(ClusterAddress(None, owner.listen_address) for _ in range(20)))
    assert len(answer.statuses) == 20
    assert set(answer.statuses) <= {S.LLM_SUCCESS, S.LLM_ALREADY_LINK}
    assert S.LLM_SUCCESS in answer.statuses
    pull(puller)


@pytest.mark.rule("C7.1-3")
def test_no_clusters_are_an_invalid_parameter(stage: Stage) -> None:
    peer = stage.engine(1)
    for answer in (peer.link_to(), peer.unlink_from()):
        assert (answer.status, answer.statuses) == (S.LLM_PARAM_INVALID, [])


@pytest.mark.rule("C7.1-9", "C7.6-4")
def test_a_refused_port_is_link_failed(stage: Stage) -> None:
    peer = stage.engine(1)
    with socket.socket() as bound:
        # Bound, so nobody else takes the port, and not listening.
        bound.bind(("127.0.0.1", 0))
        answer = peer.link_to(ClusterAddress(2, bound.getsockname()))
        assert answer.statuses == [S.LLM_LINK_FAILED]
        assert f"127.0.0.1:{bound.getsockname()[1]}" in answer.details[0]


@pytest.mark.rule("C7.1-22", "C10-45")
def test_a_server_that_accepts_and_never_answers_is_a_timeout(stage: Stage) -> None:
    peer = stage.engine(1)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        before = time.monotonic()
        answer = peer.link_to(ClusterAddress(2, mute.getsockname()), timeout_ms=400)
        taken = time.monotonic() - before
    assert answer.statuses == [S.LLM_TIMEOUT]
    assert answer.details[0]
    assert 0.4 <= taken < 2


@pytest.mark.rule("C7.1-10")
def test_a_server_that_hangs_up_is_link_failed_at_once(stage: Stage) -> None:
    peer = stage.engine(1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        call = peer.start_call("link", [ClusterAddress(2, server.getsockname())], 20000)
        server.accept()[0].close()
        answer = call.result(10)
    assert answer.statuses == [S.LLM_LINK_FAILED]


@pytest.mark.rule("C7.1-15", "C7.1-17", "C10-44")
@pytest.mark.sanitize
def test_different_modes_are_refused_at_once_and_the_text_names_both(stage: Stage) -> None:
    owner = stage.engine(OWNER, one_sided=True)
    puller = stage.engine(PULLER, one_sided=False)
    for one, other in ((owner, puller), (puller, owner)):
        before = time.monotonic()
        answer = one.link_to(other.cluster(), timeout_ms=20000)
        assert time.monotonic() - before < 5
        assert answer.statuses == [S.LLM_PARAM_INVALID]
        assert "one-sided" in answer.details[0]
        assert "request" in answer.details[0]
        assert links_of(one) == links_of(other) == {}


@pytest.mark.rule("C7.1-21", "C10-49")
def test_a_link_to_oneself_works_and_pulling_from_oneself_is_refused(together: NearStage) -> None:
    peer = together.engine(OWNER)
    peer.register("kv", SMALL, 1, 0)
    with pytest.warns(LLMDataDistWarning, match="own cluster id"):
        linked(peer, peer)
    with refused(S.LLM_PARAM_INVALID, OWNER):
        pull(peer)
    assert peer.unlink(peer) == S.LLM_SUCCESS


@pytest.mark.rule("C7.1-16", "C7.1-20", "C10-46")
def test_a_wrong_remote_cluster_id_links_and_the_real_one_is_used(together: NearStage) -> None:
    owner, puller = two(together)
    with pytest.warns(LLMDataDistWarning, match=f"remote_cluster_id is 555.*{OWNER}"):
        answer = puller.link_to(ClusterAddress(555, owner.listen_address))
    assert answer.statuses == [S.LLM_SUCCESS]
    pull(puller)
    with refused(S.LLM_NOT_YET_LINK, 555):
        pull(puller, 555)
    # Decision 46: a wrong id with the right address is "not linked", and drops nothing at either
    # end.
    assert puller.unlink_from(ClusterAddress(555, owner.listen_address)).status == S.LLM_SUCCESS
    pull(puller)
    owner.pull("kv", BlocksCacheKey(PULLER, 0), [0], [0])


@pytest.mark.rule("C10-21")
def test_an_unset_remote_cluster_id_is_learnt(stage: Stage) -> None:
    owner, puller = two(stage)
    answer = puller.link_to(ClusterAddress(None, owner.listen_address))
    assert answer.statuses == [S.LLM_SUCCESS]
    assert answer.cluster_ids == [OWNER]
    pull(puller)


def test_neither_id_nor_address_is_a_type_error(stage: Stage) -> None:
    peer = stage.engine(1)
    with pytest.raises(TypeError):
        peer.link_to(ClusterAddress())


@pytest.mark.rule("C7.1-7")
def test_no_or_an_unusable_address_is_an_invalid_parameter(stage: Stage) -> None:
    peer = stage.engine(1)
    assert peer.link_to(ClusterAddress(2)).statuses == [S.LLM_PARAM_INVALID]


@pytest.mark.rule("C7.1-12", "C7.1-19", "C10-43")
def test_a_restarted_client_links_again_though_the_server_still_holds_the_old_link(
    stage: Stage,
) -> None:
    owner, puller = two(stage)
    for _ in range(3):
        linked(puller, owner)
        pull(puller)
        # Decision 43: reachable from the server as soon as link_clusters has returned.
        owner.pull("kv", BlocksCacheKey(PULLER, 0), [0], [0])
        puller.kill()
        puller = stage.engine(PULLER, listen=None)
        puller.register("kv", SMALL, 2, 0)
    linked(puller, owner)
    owner.pull("kv", BlocksCacheKey(PULLER, 0), [0], [0])
    assert links_of(owner) == {PULLER: LinkState.LIVE}


@pytest.mark.rule("C7.1-12", "C7.1-19", "C7.2-2", "C7.2-4")
def test_a_client_that_forced_its_end_down_links_again(stage: Stage) -> None:
    owner, puller = two(stage)
    linked(puller, owner)
    assert puller.unlink_from(ClusterAddress(OWNER), force=True).status == S.LLM_SUCCESS
    with refused(S.LLM_NOT_YET_LINK, OWNER):
        pull(puller)
    assert OWNER not in links_of(puller)
    assert PULLER in links_of(owner)
    linked(puller, owner)
    pull(puller)
    owner.pull("kv", BlocksCacheKey(PULLER, 0), [0], [0])


@pytest.mark.rule("C7.2-4", "C7.2-10", "C10-34")
def test_a_forced_unlink_drops_one_end_and_the_other_ends_transfers_fail(stage: Stage) -> None:
    owner, puller = two(stage)
    linked(puller, owner)
    # Decision 34: the cluster id alone is enough, also on the end that listens.
    assert owner.unlink_from(ClusterAddress(PULLER), force=True).status == S.LLM_SUCCESS
    with refused(S.LLM_NOT_YET_LINK, PULLER):
        owner.pull("kv", BlocksCacheKey(PULLER, 0), [0], [0])
    eventually(lambda: links_of(puller) == {OWNER: LinkState.PEER_GONE}, "the other end notices")
    for _ in range(2):
        error = puller.start_call("pull", "kv", BlocksCacheKey(OWNER, 0), [0], [0]).exception()
        check_refusal(error, S.LLM_TIMEOUT, OWNER)
        assert GONE in str(error)
    assert puller.unlink(owner, force=True) == S.LLM_SUCCESS
    linked(puller, owner)
    pull(puller)


@pytest.mark.rule("C7.2-3")
def test_an_unforced_unlink_drops_both_ends(stage: Stage) -> None:
    owner, puller = two(stage)
    linked(puller, owner)
    pull(puller)
    assert puller.unlink(owner) == S.LLM_SUCCESS
    with refused(S.LLM_NOT_YET_LINK, OWNER):
        pull(puller)
    with refused(S.LLM_NOT_YET_LINK, PULLER):
        owner.pull("kv", BlocksCacheKey(PULLER, 0), [0], [0])
    assert links_of(owner) == links_of(puller) == {}


@pytest.mark.rule("C7.2-1", "C10-34")
def test_an_unforced_unlink_needs_an_address_and_no_listener_at_the_peer(stage: Stage) -> None:
    owner, puller = two(stage)
    linked(puller, owner)
    assert owner.unlink_from(ClusterAddress(PULLER)).statuses == [S.LLM_PARAM_INVALID]
    # It travels over the link's own connection: any one address will do.
    answer = owner.unlink_from(ClusterAddress(PULLER, ("127.0.0.1", 1)))
    assert answer.status == S.LLM_SUCCESS
    assert links_of(owner) == {}
    eventually(lambda: links_of(puller) == {}, "the client's end is dropped")


@pytest.mark.rule("C7.2-7")
def test_unlinking_what_is_not_linked_is_success(stage: Stage) -> None:
    owner, puller = two(stage)
    assert puller.unlink(owner) == S.LLM_SUCCESS
    assert puller.unlink(owner, force=True) == S.LLM_SUCCESS
    linked(puller, owner)
    for _ in range(3):
        assert puller.unlink(owner) == S.LLM_SUCCESS
    assert owner.unlink(puller, force=True) == S.LLM_SUCCESS


@pytest.mark.rule("C7.2-5", "C7.2-6", "C7.6-5", "C7.6-6", "C10-35")
def test_unlinking_from_a_dead_peer(stage: Stage) -> None:
    owner, puller = two(stage)
    linked(puller, owner)
    owner.kill()
    eventually(lambda: links_of(puller) == {OWNER: LinkState.PEER_GONE}, "the death is noticed")
    # Decision 35: the local end stays.
    answer = puller.unlink_from(owner.cluster())
    assert answer.statuses == [S.LLM_UNLINK_FAILED]
    assert str(OWNER) in answer.details[0]
    assert OWNER in links_of(puller)
    assert puller.unlink(owner, force=True) == S.LLM_SUCCESS
    assert links_of(puller) == {}


@pytest.mark.rule("C7.2-5", "C10-35")
def test_unlinking_from_a_silent_peer_is_a_timeout_and_the_end_stays(stage: Stage) -> None:
    owner, puller = two(stage)
    linked(puller, owner)
    owner.stop()
    before = time.monotonic()
    assert puller.unlink(owner, timeout_ms=300) == S.LLM_TIMEOUT
    assert 0.3 <= time.monotonic() - before < 2
    assert OWNER in links_of(puller)
    owner.go_on()
    # It finds the request when it goes on; then the caller's end is what is left of the link.
    eventually(lambda: links_of(owner) == {}, "the request is answered late")
    assert puller.unlink(owner, force=True) == S.LLM_SUCCESS
    linked(puller, owner)
    pull(puller)


@pytest.mark.rule("C9-6", "C7.7-1", "C7.7-2", "C7.7-3", "C7.7-4")
def test_finalize_and_init_again_on_the_same_port_at_once(stage: Stage) -> None:
    owner, puller = two(stage)
    host, port = owner.listen_address
    for _ in range(3):
        linked(puller, owner)
        pull(puller)
        owner.finalize()
        owner.init(OWNER, listen=f"{host}:{port}")
        assert owner.listen_address == (host, port)
        # Ids start afresh, and the caches are gone with the engine.
        assert owner.call("links") == []
        again = owner.register(f"again {_}", SMALL, 1, 0)
        assert again.cache_id == 1
        eventually(lambda: links_of(puller) == {OWNER: LinkState.PEER_GONE}, "noticed")
        error = puller.start_call("pull", "kv", BlocksCacheKey(OWNER, 0), [0], [0]).exception()
        check_refusal(error, S.LLM_TIMEOUT)
        assert puller.unlink(owner, force=True) == S.LLM_SUCCESS
    linked(puller, owner)
    pull(puller)


def test_an_occupied_port_fails_init_and_leaves_nothing_initialised(stage: Stage) -> None:
    owner = stage.engine(OWNER)
    host, port = owner.listen_address
    other = stage.process()
    with refused(S.LLM_FAILED, port):
        other.init(PULLER, listen=f"{host}:{port}")
    other.init(PULLER, listen="127.0.0.1:0")
    linked(other, owner)


@pytest.mark.rule("C10-39")
def test_two_clients_with_one_cluster_id_the_newer_replaces_the_older(stage: Stage) -> None:
    owner, older = two(stage)
    linked(older, owner)
    newer = stage.engine(PULLER, listen=None)
    newer.register("kv", SMALL, 3, 0)
    linked(newer, owner)
    pull(newer)
    assert links_of(owner) == {PULLER: LinkState.LIVE}
    eventually(lambda: links_of(older) == {OWNER: LinkState.PEER_GONE}, "the older one is dropped")


def test_both_ends_link_to_each_other_at_once(stage: Stage) -> None:
    one, other = stage.engine(1), stage.engine(2)
    one.register("kv", SMALL, 1, 0)
    other.register("kv", SMALL, 2, 0)
    for _ in range(20):
        calls = [
            one.start_call("link", [other.cluster()], 5000),
            other.start_call("link", [one.cluster()], 5000),
        ]
        statuses = {call.result().status for call in calls}
        # Whoever loses the race is told so; one link is made, and serves both ends.
        assert statuses <= {S.LLM_SUCCESS, S.LLM_ALREADY_LINK}
        assert S.LLM_SUCCESS in statuses
        one.pull("kv", BlocksCacheKey(2, 0), [0], [0])
        other.pull("kv", BlocksCacheKey(1, 0), [0], [0])
        assert one.unlink(other) == S.LLM_SUCCESS
        assert links_of(one) == links_of(other) == {}


@pytest.mark.parametrize("timeout", [0, -1])
def test_a_timeout_that_is_not_positive_is_an_invalid_parameter(stage: Stage, timeout: int) -> None:
    owner, puller = two(stage)
    for call in (puller.link, puller.unlink):
        with refused(S.LLM_PARAM_INVALID):
            call(owner, timeout_ms=timeout)
