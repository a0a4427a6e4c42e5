# SPDX-License-Identifier: Apache-2.0
"""switch_role and the listener that comes and goes with it: contract 7.5."""

from __future__ import annotations

import socket

import pytest

from llm_datadist import BlocksCacheKey, LLMConfig, LLMRole, LLMStatusCode
from llm_datadist.testing import check, moved
from llm_datadist.testing.actor import ClusterAddress
from tests.conformance.communicators import joined
from tests.conformance.paths import IP
from tests.conformance.refusals import refused, refused_by_engine
from tests.conformance.stage import OWNER, PULLER, SMALL, linked
from tests.conformance.together import NearPeer, NearStage

S = LLMStatusCode
PI = S.LLM_PARAM_INVALID
LISTEN = "llm.listenIpInfo"


def can_link(together: NearStage, address: tuple[str, int]) -> bool:
    """Whether somebody listens there."""
    client = together.engine(99, listen=None)
    answer = client.link_to(ClusterAddress(OWNER, address))
    if answer.status == S.LLM_SUCCESS:
        assert client.unlink_from(ClusterAddress(OWNER, address)).status == S.LLM_SUCCESS
    else:
        assert answer.statuses == [S.LLM_LINK_FAILED]
    client.finalize()
    return answer.status == S.LLM_SUCCESS


def free_port() -> int:
    with socket.create_server((IP, 0)) as server:
        return int(server.getsockname()[1])


@pytest.mark.rule("C7.5-4", "C7.5-2")
@pytest.mark.parametrize("options", [None, {}, {"llm.SyncKvCacheWaitTime": "5"}])
def test_c7_5_4_without_a_listen_address_it_becomes_a_client(together: NearStage, options) -> None:
    peer = together.engine(OWNER)
    address = peer.listen_address
    assert can_link(together, address)
    # enable_switch_role was not set.
    peer.datadist.switch_role(LLMRole.DECODER, options)
    assert peer.datadist.listen_address is None
    assert not can_link(together, address)
    peer.datadist.switch_role(LLMRole.DECODER, options)
    peer.datadist.switch_role(LLMRole.PROMPT, {LISTEN: f"{IP}:{address[1]}"})
    assert peer.datadist.listen_address == address
    assert can_link(together, address)


@pytest.mark.rule("C7.5-6")
def test_c7_5_6_the_listener_moves_to_another_port(together: NearStage) -> None:
    peer = together.engine(OWNER)
    old = peer.listen_address
    peer.datadist.switch_role(LLMRole.PROMPT, {LISTEN: f"{IP}:0"})
    # Port 0 is the port text that it has already, and nothing happened.
    assert peer.datadist.listen_address == old
    new = (IP, free_port())
    peer.datadist.switch_role(LLMRole.PROMPT, {LISTEN: f"{IP}:{new[1]}"})
    assert peer.datadist.listen_address == new
    assert can_link(together, new)
    assert not can_link(together, old)


@pytest.mark.rule("C7.5-6", "C10-22")
def test_c7_5_6_a_client_becomes_a_server_also_of_ipv6(together: NearStage) -> None:
    peer = together.engine(OWNER, listen=None)
    peer.datadist.switch_role(LLMRole.PROMPT, {LISTEN: "[::1]:0"})
    host, port = peer.datadist.listen_address
    assert host == "::1"
    assert port != 0
    assert can_link(together, (host, port))


@pytest.mark.rule("C7.5-5")
def test_c7_5_5_the_same_port_is_left_alone_even_with_another_ip(together: NearStage) -> None:
    port = free_port()
    peer = together.engine(OWNER, listen=f"{IP}:{port}")
    peer.datadist.switch_role(LLMRole.DECODER, {LISTEN: f"127.0.0.2:{port}"})
    assert peer.datadist.listen_address == (IP, port)
    assert can_link(together, (IP, port))


@pytest.mark.rule("C7.5-6")
def test_c7_5_6_a_port_that_is_taken_is_failed_and_the_old_listener_is_gone(
    together: NearStage,
) -> None:
    peer = together.engine(OWNER)
    old = peer.listen_address
    with socket.create_server((IP, 0)) as other:
        taken = other.getsockname()[1]
        with refused_by_engine("switch_role", S.LLM_FAILED, taken):
            peer.datadist.switch_role(LLMRole.PROMPT, {LISTEN: f"{IP}:{taken}"})
    assert peer.datadist.listen_address is None
    assert not can_link(together, old)
    peer.datadist.switch_role(LLMRole.PROMPT, {LISTEN: f"{IP}:{old[1]}"})
    assert can_link(together, old)


@pytest.mark.rule("C7.5-6")
@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("127.0.0.1", PI),
        ("127.0.0.1:1:2", PI),
        ("nowhere:5", PI),
        ("127.0.0.1:65536", PI),
        ("127.0.0.1:x", ValueError),
    ],
)
def test_c7_5_6_a_bad_address_leaves_the_listener(together: NearStage, text: str, error) -> None:
    peer = together.engine(OWNER)
    if error is PI:
        with refused(PI):
            peer.datadist.switch_role(LLMRole.PROMPT, {LISTEN: text})
    else:
        with pytest.raises(error):
            peer.datadist.switch_role(LLMRole.PROMPT, {LISTEN: text})
    assert peer.datadist.listen_address == peer.listen_address
    assert can_link(together, peer.listen_address)


@pytest.fixture
def both(together: NearStage) -> tuple[NearPeer, NearPeer]:
    return together.engine(OWNER), together.engine(PULLER)


@pytest.mark.rule("C7.5-1", "C7.6-7")
def test_c7_5_1_a_link_of_either_end_is_exist_link_and_nothing_changes(
    together: NearStage, both
) -> None:
    owner, puller = both
    linked(puller, owner)
    for peer in both:
        for options in (None, {LISTEN: f"{IP}:0"}, {LISTEN: f"{IP}:{free_port()}"}):
            with refused_by_engine("switch_role", S.LLM_EXIST_LINK, "unlink"):
                peer.datadist.switch_role(LLMRole.DECODER, options)
        assert peer.datadist.listen_address == peer.listen_address
    assert can_link(together, owner.listen_address)
    assert puller.unlink(owner) == S.LLM_SUCCESS
    for peer in both:
        peer.datadist.switch_role(LLMRole.DECODER)


@pytest.mark.rule("C7.5-1", "C7.6-7")
def test_c7_5_1_a_dead_link_counts_until_it_is_unlinked(both) -> None:
    owner, puller = both
    linked(puller, owner)
    owner.finalize()
    with refused_by_engine("switch_role", S.LLM_EXIST_LINK):
        puller.datadist.switch_role(LLMRole.DECODER)
    assert puller.unlink_from(ClusterAddress(OWNER), force=True).status == S.LLM_SUCCESS
    puller.datadist.switch_role(LLMRole.DECODER)


@pytest.mark.rule("C7.5-1")
def test_c7_5_1_a_communicator_counts_too(both) -> None:
    ids = joined(*both)
    for peer, comm_id in zip(both, ids):
        with refused_by_engine("switch_role", S.LLM_EXIST_LINK):
            peer.datadist.switch_role(LLMRole.DECODER)
        peer.datadist.unlink(comm_id)
        peer.datadist.switch_role(LLMRole.DECODER)


@pytest.mark.rule("C7.5-3", "C7.5-8", "C7.1-1")
@pytest.mark.parametrize("role", list(LLMRole))
def test_c7_5_8_the_role_changes_nothing_and_caches_and_keys_survive(
    together: NearStage, role: LLMRole
) -> None:
    owner = together.engine(OWNER, role=LLMRole.DECODER)
    puller = together.engine(PULLER, listen=None, role=LLMRole.PROMPT)
    source = owner.register("kv", SMALL, 1, 0)
    target = puller.register("kv", SMALL, 2, 0)
    port = owner.listen_address[1]
    for peer, options in ((owner, {LISTEN: f"{IP}:{port}"}), (puller, None)):
        peer.datadist.switch_role(role, options)
        peer.datadist.switch_role(role, options)
    linked(puller, owner)
    puller.pull("kv", BlocksCacheKey(OWNER, 0), [3], [4])
    check(target, moved(target.filled(), source.filled(), [3], [4]))
    owner.push("kv", BlocksCacheKey(PULLER, 0), [5], [6])
    check(target, moved(target.filled(), source.filled(), [3, 5], [4, 6]))


@pytest.mark.rule("C7.5-7")
def test_c7_5_7_a_whole_option_dict_may_be_passed(
    small_addresses: list[int], together: NearStage
) -> None:
    peer = together.engine(OWNER, listen=None)
    config = LLMConfig()
    config.device_id = 0
    config.enable_switch_role = True
    config.sync_kv_timeout = 1
    config.listen_ip_info = f"{IP}:0"
    config.mem_pool_cfg = "no JSON: it is not looked at"
    options = config.generate_options()
    before = dict(options)
    peer.datadist.switch_role(LLMRole.PROMPT, options)
    assert options == before
    assert can_link(together, peer.datadist.listen_address)
    peer.manager.register_blocks_cache(SMALL.desc(), small_addresses)


@pytest.mark.rule("C7.5-1")
def test_what_is_checked_before_links_are_looked_at(both) -> None:
    owner, puller = both
    linked(puller, owner)
    with pytest.raises(TypeError):
        owner.datadist.switch_role(1)
    with pytest.raises(TypeError):
        owner.datadist.switch_role(LLMRole.PROMPT, [])
    with refused(PI):
        owner.datadist.switch_role(LLMRole.PROMPT, {LISTEN: "127.0.0.1"})
