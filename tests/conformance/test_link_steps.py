# SPDX-License-Identifier: Apache-2.0
"""Steps of link_clusters and unlink_clusters one by one: contract 7.1 and 7.2."""

from __future__ import annotations

import pytest

from llm_datadist import (
    BlocksCacheKey,
    LLMClusterInfo,
    LLMDataDistWarning,
    LLMRole,
    LLMStatusCode,
)
from llm_datadist.introspection import LinkState
from llm_datadist.testing import check, eventually, moved
from tests.conformance.refusals import GONE, check_refusal
from tests.conformance.stage import OWNER, PULLER, SMALL, Stage, linked
from tests.conformance.together import NearStage

S = LLMStatusCode
KEY = BlocksCacheKey(OWNER, 0)
TCP = {"LLM_DATADIST_MOCK_TRANSPORT": "tcp"}


@pytest.mark.rule("C7.1-1")
@pytest.mark.parametrize("client", list(LLMRole))
@pytest.mark.parametrize("server", list(LLMRole))
def test_c7_1_1_whoever_listens_is_a_server_whatever_its_role(
    together: NearStage, server: LLMRole, client: LLMRole
) -> None:
    owner = together.engine(OWNER, role=server)
    puller = together.engine(PULLER, listen=None, role=client)
    source = owner.register("kv", SMALL, 1, 0)
    target = puller.register("kv", SMALL, 2, 0)
    linked(puller, owner)
    puller.pull("kv", KEY, [3], [4])
    check(target, moved(target.filled(), source.filled(), [3], [4]))
    # Whoever does not listen has no address to link to.
    assert owner.link_to(puller.cluster()).statuses == [S.LLM_PARAM_INVALID]


def info_with(addresses: list[tuple[str, int]], cluster_id: int = OWNER) -> LLMClusterInfo:
    info = LLMClusterInfo()
    info.remote_cluster_id = cluster_id
    info.append_local_ip_info("127.0.0.1", 0)
    for address in addresses:
        info.append_remote_ip_info(*address)
    return info


@pytest.mark.rule("C7.1-7", "C7.2-1", "C7.2-2")
@pytest.mark.parametrize("count", [0, 2])
def test_c7_1_7_exactly_one_remote_address(together: NearStage, count: int) -> None:
    owner, puller = together.engine(OWNER), together.engine(PULLER, listen=None)
    info = info_with([owner.listen_address] * count)
    invalid = (S.LLM_PARAM_INVALID, [S.LLM_PARAM_INVALID])
    assert puller.datadist.link_clusters([info]) == invalid
    assert f"{count} are given" in info.link_detail
    linked(puller, owner)
    assert puller.datadist.unlink_clusters([info]) == invalid
    assert [link.state for link in puller.call("links")] == [LinkState.LIVE]
    # By force the address is not needed.
    assert puller.datadist.unlink_clusters([info], force=True)[0] == S.LLM_SUCCESS
    assert puller.call("links") == []


@pytest.mark.rule("C7.1-6")
def test_c7_1_6_the_last_failure_in_order_is_the_overall_value(together: NearStage) -> None:
    owner, puller = together.engine(OWNER), together.engine(PULLER, listen=None)
    good, bad = info_with([owner.listen_address]), info_with([])
    linked(puller, owner)
    invalid, already = S.LLM_PARAM_INVALID, S.LLM_ALREADY_LINK
    assert puller.datadist.link_clusters([bad, good]) == (already, [invalid, already])
    assert puller.datadist.link_clusters((good, bad)) == (invalid, [already, invalid])
    assert puller.datadist.unlink_clusters([bad, good]) == (invalid, [invalid, S.LLM_SUCCESS])


@pytest.mark.rule("C7.1-13", "C10-24")
def test_c7_1_13_a_dead_link_counts_as_a_link_until_it_is_unlinked(stage: Stage) -> None:
    owner, puller = stage.engine(OWNER), stage.engine(PULLER, listen=None)
    puller.register("kv", SMALL, 2)
    linked(puller, owner)
    host, port = owner.listen_address
    owner.finalize()
    eventually(lambda: puller.call("links")[0].state is LinkState.PEER_GONE, "noticed")
    owner.init(OWNER, listen=f"{host}:{port}")
    owner.register("kv", SMALL, 1, 0)
    assert puller.link_to(owner.cluster()).statuses == [S.LLM_ALREADY_LINK]
    error = puller.start_call("pull", "kv", KEY, [0], [0]).exception()
    check_refusal(error, S.LLM_TIMEOUT, OWNER)
    assert GONE in str(error)
    assert puller.unlink(owner, force=True) == S.LLM_SUCCESS
    linked(puller, owner)
    puller.pull("kv", KEY, [0], [0])


@pytest.mark.rule("C10-39", "C7.1-12")
def test_c10_39_a_second_client_with_the_same_cluster_id_warns_on_the_server(
    together: NearStage,
) -> None:
    owner = together.engine(OWNER)
    older, newer = (together.engine(PULLER, listen=None) for _ in range(2))
    linked(older, owner)
    linked(newer, owner)
    with pytest.warns(LLMDataDistWarning, match=f"cluster {PULLER} .*cluster id"):
        owner.datadist.unlink_clusters([info_with([("127.0.0.1", 1)], 55)])
    assert [link.state for link in owner.call("links")] == [LinkState.LIVE]


@pytest.mark.rule("C7.2-7")
def test_c7_2_7_both_ends_unlink_and_again(together: NearStage) -> None:
    owner, puller = together.engine(OWNER), together.engine(PULLER)
    linked(puller, owner)
    for force in (False, True, False):
        assert puller.unlink(owner, force=force) == S.LLM_SUCCESS
        assert owner.unlink(puller, force=force) == S.LLM_SUCCESS
    assert owner.call("links") == puller.call("links") == []
