# SPDX-License-Identifier: Apache-2.0
"""Links of transfer_backend = "hixl", which only their maker may use: contract 7.3."""

from __future__ import annotations

import pytest

from llm_datadist import (
    BlocksCacheKey,
    LLMClusterInfo,
    LLMRole,
    LLMStatusCode,
)
from llm_datadist.introspection import LinkState
from llm_datadist.testing import Peer, eventually, moved
from llm_datadist.testing.actor import ClusterAddress
from tests.conformance.paths import Path
from tests.conformance.refusals import GONE, check_refusal, refused, refused_by_engine
from tests.conformance.stage import OWNER, PULLER, SMALL, Stage, linked, links_of
from tests.conformance.together import NearStage

S = LLMStatusCode
PI = S.LLM_PARAM_INVALID
HIXL = {"llm.TransferBackend": "hixl"}


def pair(stage: Stage, path: Path | None = None, **spec) -> tuple[Peer, Peer]:
    """Two that listen, with a cache of model 0 each, not linked."""
    peers = []
    for cluster_id, stamp in ((OWNER, 1), (PULLER, 2)):
        peer = stage.engine(cluster_id, path, options=HIXL, **spec)
        if path is None:
            peer.register("kv", SMALL, stamp, 0)
        else:
            path.cache(peer, "kv", SMALL, stamp, 0)
        peers.append(peer)
    return peers[0], peers[1]


def pull(peer: Peer, cluster_id: int, src=(0,), dst=(0,)) -> None:
    peer.pull("kv", BlocksCacheKey(cluster_id, 0), list(src), list(dst))


@pytest.mark.rule("C7.3-3")
def test_c7_3_3_only_the_end_that_linked_may_transfer(stage: Stage, path: Path) -> None:
    owner, puller = pair(stage, path)
    linked(puller, owner)
    pull(puller, OWNER, [3], [4])
    puller.push("kv", BlocksCacheKey(OWNER, 0), [5], [6])
    for call in (owner.pull, owner.push):
        with refused(S.LLM_NOT_YET_LINK, PULLER):
            call("kv", BlocksCacheKey(PULLER, 0), [0], [0])
    assert links_of(owner) == {}
    # Its own link is another one, which the first does not hinder.
    linked(owner, puller)
    owner.pull("kv", BlocksCacheKey(PULLER, 0), [9], [10])
    for peer, other in ((owner, puller), (puller, owner)):
        assert links_of(peer) == {other.cluster_id: LinkState.LIVE}
        (link,) = peer.call("links")
        assert link.is_initiator
    expected = moved(SMALL.filled(2), SMALL.filled(1), [3], [4])
    assert puller.call("read", "kv").tolist() == expected.tolist()
    expected = moved(SMALL.filled(1), SMALL.filled(2), [5, 9], [6, 10])
    assert owner.call("read", "kv").tolist() == expected.tolist()


@pytest.mark.rule("C7.3-4")
def test_c7_3_4_the_id_is_the_one_that_the_caller_gave(stage: Stage, path: Path) -> None:
    owner, puller = pair(stage, path)
    answer = puller.link_to(ClusterAddress(555, owner.listen_address))
    assert answer.statuses == [S.LLM_SUCCESS]
    pull(puller, 555, [1], [2])
    with refused(S.LLM_NOT_YET_LINK, OWNER):
        pull(puller, OWNER)
    assert links_of(puller) == {555: LinkState.LIVE}
    expected = moved(SMALL.filled(2), SMALL.filled(1), [1], [2])
    assert puller.call("read", "kv").tolist() == expected.tolist()
    assert puller.unlink_from(ClusterAddress(OWNER)).status == S.LLM_SUCCESS
    pull(puller, 555)
    assert puller.unlink_from(ClusterAddress(555)).status == S.LLM_SUCCESS
    with refused(S.LLM_NOT_YET_LINK, 555):
        pull(puller, 555)


@pytest.mark.rule("C7.3-4", "C10-21")
def test_c7_3_4_an_id_that_is_not_given_is_learnt(stage: Stage) -> None:
    owner, puller = pair(stage)
    answer = puller.link_to(ClusterAddress(None, owner.listen_address))
    assert (answer.statuses, answer.cluster_ids) == ([S.LLM_SUCCESS], [OWNER])
    pull(puller, OWNER)


@pytest.mark.rule("C7.3-5")
def test_c7_3_5_the_same_address_again_is_already_link(stage: Stage) -> None:
    owner, puller = pair(stage)
    linked(puller, owner)
    for cluster_id in (OWNER, 555):
        answer = puller.link_to(ClusterAddress(cluster_id, owner.listen_address))
        assert answer.statuses == [S.LLM_ALREADY_LINK]
        assert str(owner.listen_address[1]) in answer.details[0]
    pull(puller, OWNER)
    assert links_of(puller) == {OWNER: LinkState.LIVE}


@pytest.mark.rule("C7.3-6")
def test_c7_3_6_the_own_address_is_an_invalid_parameter(stage: Stage) -> None:
    owner, _ = pair(stage)
    for cluster_id in (OWNER, 555):
        answer = owner.link_to(ClusterAddress(cluster_id, owner.listen_address))
        assert answer.statuses == [PI]
        assert answer.details[0]
    assert links_of(owner) == {}


@pytest.mark.rule("C7.3-7", "C10-34")
@pytest.mark.parametrize("force", [False, True])
def test_c7_3_7_unlink_is_local_and_needs_no_address(stage: Stage, force: bool) -> None:
    owner, puller = pair(stage)
    linked(puller, owner)
    linked(owner, puller)
    pull(puller, OWNER)
    assert puller.unlink_from(ClusterAddress(OWNER), force=force).statuses == [S.LLM_SUCCESS]
    with refused(S.LLM_NOT_YET_LINK, OWNER):
        pull(puller, OWNER)
    # The other direction is another link.
    owner.pull("kv", BlocksCacheKey(PULLER, 0), [0], [0])
    for unknown in (OWNER, 555):
        answer = puller.unlink_from(ClusterAddress(unknown), force=force)
        assert answer.statuses == [S.LLM_SUCCESS]
    linked(puller, owner)
    pull(puller, OWNER)


@pytest.mark.rule("C7.3-7", "C7.6-3", "C10-24")
@pytest.mark.parametrize("force", [False, True])
def test_c7_3_7_a_dead_peer_is_a_timeout_and_can_be_unlinked(stage: Stage, force: bool) -> None:
    owner, puller = pair(stage)
    linked(puller, owner)
    pull(puller, OWNER)
    owner.kill()
    eventually(lambda: links_of(puller) == {OWNER: LinkState.PEER_GONE}, "noticed")
    error = puller.start_call("pull", "kv", BlocksCacheKey(OWNER, 0), [0], [0]).exception()
    check_refusal(error, S.LLM_TIMEOUT, OWNER)
    assert GONE in str(error)
    assert puller.unlink_from(ClusterAddress(OWNER), force=force).statuses == [S.LLM_SUCCESS]
    with refused(S.LLM_NOT_YET_LINK, OWNER):
        pull(puller, OWNER)


@pytest.mark.rule("C7.3-3")
def test_c7_3_3_a_server_that_finalizes_ends_the_clients_link(stage: Stage) -> None:
    owner, puller = pair(stage)
    linked(puller, owner)
    pull(puller, OWNER)
    address = owner.listen_address
    owner.finalize()
    eventually(lambda: links_of(puller) == {OWNER: LinkState.PEER_GONE}, "noticed")
    owner.init(OWNER, listen=f"{address[0]}:{address[1]}", options=HIXL)
    owner.register("again", SMALL, 9, 0)
    assert puller.unlink_from(ClusterAddress(OWNER)).status == S.LLM_SUCCESS
    linked(puller, owner)
    pull(puller, OWNER, [3], [5])
    expected = moved(SMALL.filled(2), SMALL.filled(1), [0], [0])
    expected = moved(expected, SMALL.filled(9), [3], [5])
    assert puller.call("read", "kv").tolist() == expected.tolist()


# ---- what needs no second process ----


@pytest.mark.rule("C7.3-1")
def test_c7_3_1_it_needs_one_sided_mode_and_a_listen_address(together: NearStage) -> None:
    with refused(PI, "EnableRemoteCacheAccessible"):
        together.engine(1, one_sided=False, options=HIXL)
    with refused(PI, "listenIpInfo"):
        together.engine(1, listen=None, options=HIXL)
    with refused(PI, "EnableRemoteCacheAccessible"):
        # The mode is asked for before the address.
        together.engine(1, one_sided=False, listen=None, options=HIXL)
    assert together.engine(1, options=HIXL).listen_address is not None


@pytest.mark.rule("C7.3-2")
def test_c7_3_2_there_are_no_communicators(together: NearStage) -> None:
    datadist = together.engine(1, options=HIXL).datadist
    for name, call in (
        ("link", lambda: datadist.link("n", {1: 0, 2: 1}, "{}")),
        ("unlink", lambda: datadist.unlink(1)),
        ("query_register_mem_status", lambda: datadist.query_register_mem_status(1)),
    ):
        with refused_by_engine(name, S.LLM_FEATURE_NOT_ENABLED):
            call()


@pytest.mark.rule("C7.3-1")
def test_c7_3_1_the_two_backends_do_not_link_to_each_other(together: NearStage) -> None:
    one_way, mutual = together.engine(1, options=HIXL), together.engine(2)
    for peer, other in ((one_way, mutual), (mutual, one_way)):
        answer = peer.link_to(other.cluster())
        assert answer.statuses == [PI]
        assert "transfer backend" in answer.details[0]
        assert links_of(peer) == {}


@pytest.mark.rule("C7.3-9", "C7.3-10")
def test_c7_3_9_switch_role_ignores_live_links_and_keeps_the_listener(together: NearStage) -> None:
    owner, puller = (together.engine(each, options=HIXL) for each in (OWNER, PULLER))
    owner.register("kv", SMALL, 1, 0)
    puller.register("kv", SMALL, 2, 0)
    linked(puller, owner)
    linked(owner, puller)
    host, port = address = owner.listen_address
    owner.datadist.switch_role(LLMRole.DECODER)
    owner.datadist.switch_role(LLMRole.PROMPT, {})
    owner.datadist.switch_role(LLMRole.PROMPT, {"llm.listenIpInfo": f"{host}:{port}"})
    for other in (f"{host}:{port ^ 1}", f"127.0.0.2:{port}"):
        with refused_by_engine("switch_role", S.LLM_FEATURE_NOT_ENABLED, f"{host}:{port}"):
            owner.datadist.switch_role(LLMRole.DECODER, {"llm.listenIpInfo": other})
    assert owner.datadist.listen_address == address
    pull(puller, OWNER)
    pull(owner, PULLER, [5], [5])
    third = together.engine(3, options=HIXL)
    linked(third, owner)


@pytest.mark.rule("C7.3-11")
# Of HIXL 8.5, which does not know it.
@pytest.mark.filterwarnings("ignore:local_comm_res has no effect")
def test_c7_3_11_a_local_address_is_asked_for_though_it_is_not_used(together: NearStage) -> None:
    owner, plain = (together.engine(each, options=HIXL) for each in (1, 2))
    info = LLMClusterInfo()
    info.remote_cluster_id = 1
    info.append_remote_ip_info(*owner.listen_address)
    with refused(PI, "local_ip_info_list is empty"):
        plain.datadist.link_clusters([info])
    with_resource = together.engine(3, options={**HIXL, "llm.LocalCommRes": "{}"})
    assert with_resource.datadist.link_clusters([info]) == (S.LLM_SUCCESS, [S.LLM_SUCCESS])
    assert links_of(with_resource) == {1: LinkState.LIVE}
