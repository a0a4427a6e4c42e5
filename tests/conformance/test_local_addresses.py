# SPDX-License-Identifier: Apache-2.0
"""From which address of this host the connections of a link go out."""

from __future__ import annotations

import socket
import struct
from typing import Any

import pytest

from llm_datadist import BlocksCacheKey, LLMClusterInfo, LLMStatusCode
from llm_datadist.testing import Peer, eventually
from tests.conformance.connections import connections
from tests.conformance.paths import ON_ASCEND, helped_path
from tests.conformance.refusals import refused
from tests.conformance.stage import OWNER, PULLER, SMALL, Stage

S = LLMStatusCode
# Of the addresses for documentation: no host has one.
NOBODYS = "192.0.2.1"


def link_from(actor: Any, remote: tuple[str, int], *local: str) -> tuple[int, str]:
    """Link with these local addresses; the status, and what link_detail says."""
    info = LLMClusterInfo()
    info.remote_cluster_id = OWNER
    info.append_remote_ip_info(*remote)
    for ip in local:
        info.append_local_ip_info(ip, 26001)
    return actor.datadist.link_clusters([info], 5000)[0], info.link_detail


def sources_to(actor: Any, port: int) -> list[str]:
    """The own addresses of the connections to that port."""
    return [
        socket.inet_ntoa(struct.pack("=I", int(each.own.split(":")[0], 16)))
        for each in connections()
        if int(each.other.split(":")[1], 16) == port
    ]


@pytest.fixture
def ends(stage: Stage) -> tuple[Peer, Peer]:
    """An owner that listens and a puller, each with a cache, whose bytes go over TCP."""
    path = helped_path()
    owner, puller = stage.engine(OWNER, path), stage.engine(PULLER, path, listen=None)
    for peer in (owner, puller):
        path.cache(peer, "kv", SMALL, 1, 0)
    return owner, puller


@pytest.mark.rule("C10-214")
@pytest.mark.parametrize("local", [("127.0.0.2",), ("::1", "127.0.0.2", "127.0.0.3")])
def test_every_connection_goes_out_from_the_local_ip(
    ends: tuple[Peer, Peer], local: tuple[str, ...]
) -> None:
    owner, puller = ends
    assert puller.call(link_from, owner.listen_address, *local) == (S.LLM_SUCCESS, "")
    # A stream that the puller asks for, and one that it dials for the owner.
    for peer, other in ((puller, OWNER), (owner, PULLER)):
        peer.pull("kv", BlocksCacheKey(other, 0), [0], [0])
    port = owner.listen_address[1]
    assert puller.call(sources_to, port) == ["127.0.0.2"] * (1 if ON_ASCEND else 3)
    (link,) = owner.call("links")
    assert link.peer_address.startswith("127.0.0.2:")


@pytest.mark.rule("C10-215")
@pytest.mark.parametrize(
    ("local", "text"), [(NOBODYS, "no address of this host"), ("2001:db8::1", "the other IPv6")]
)
def test_an_ip_of_another_host(ends: tuple[Peer, Peer], local: str, text: str) -> None:
    owner, puller = ends
    status, detail = puller.call(link_from, owner.listen_address, local)
    assert status == S.LLM_PARAM_INVALID
    assert local in detail
    assert text in detail
    assert puller.call("links") == owner.call("links") == []


@pytest.mark.rule("C10-216")
@pytest.mark.parametrize("local", ["0.0.0.0", "::", "::1"])
def test_an_ip_that_chooses_nothing(ends: tuple[Peer, Peer], local: str) -> None:
    owner, puller = ends
    assert puller.call(link_from, owner.listen_address, local) == (S.LLM_SUCCESS, "")
    assert puller.call(sources_to, owner.listen_address[1]) == ["127.0.0.1"]


@pytest.mark.rule("C10-217")
def test_members_of_a_communicator_dial_from_the_host_ip(stage: Stage) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        meeting = "{}:{}".format(*probe.getsockname())
    environment = {
        "LLM_DATADIST_RENDEZVOUS": meeting,
        "LLM_DATADIST_HOST_IP": "127.0.0.2",
    }
    members = {OWNER: 0, PULLER: 1}
    peers = [stage.engine(each, environment=environment, listen=None) for each in members]
    for peer in peers:
        peer.call(join_them, members)
    eventually(lambda: all(peer.call("links") for peer in peers), "they are linked")
    acceptors = [link for peer in peers for link in peer.call("links") if not link.is_initiator]
    assert [link.peer_address.split(":")[0] for link in acceptors] == ["127.0.0.2"]
    lost = stage.engine(
        PULLER + 1, environment={**environment, "LLM_DATADIST_HOST_IP": NOBODYS}, listen=None
    )
    with refused(S.LLM_PARAM_INVALID, "LLM_DATADIST_HOST_IP", NOBODYS):
        lost.call(join_them, {PULLER + 1: 0, PULLER + 2: 1})


def join_them(actor: Any, members: dict[int, int]) -> int:
    return actor.datadist.link("addressed", members, "{}")
