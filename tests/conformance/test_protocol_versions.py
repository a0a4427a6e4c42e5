# SPDX-License-Identifier: Apache-2.0
"""Peers of another version of the control protocol are refused, and the text names both versions.

What they say was recorded from a library that spoke version 1: its greeting as it dialled a
listener, and the frame in which it introduced itself to the members of a communicator.
"""

from __future__ import annotations

import socket
import struct

import pytest

from llm_datadist import (
    BlocksCacheKey,
    LLMDataDist,
    LLMDataDistWarning,
    LLMStatusCode,
    RegisterMemStatus,
)
from llm_datadist.testing import Peer, check, eventually, moved
from llm_datadist.testing.actor import ClusterAddress
from tests.conformance.listener import listener_that_says
from tests.conformance.paths import Path
from tests.conformance.relay import relay
from tests.conformance.stage import OWNER, PULLER, SMALL
from tests.conformance.together import NearStage

S = LLMStatusCode
HELLO_1 = bytes.fromhex("4c4c4444010001000000000002000000000000005cc4fd13153514f31b662d5fba79c4f0")
# Cluster 2 of the communicator "two", whose members are clusters 1 and 2.
CARD_FRAME_1 = bytes.fromhex(
    "6200000009000000010000004c4c4444010002000000000000000300000074776f320000002274776f223a20636c"
    "75737465722031206861732072616e6b20303b20636c75737465722032206861732072616e6b20313b020000007b"
    "7d090000003132372e302e302e3119b70000"
)
CARD_1 = CARD_FRAME_1[12:]
CLUSTER_IN_CARD = slice(6, 14)
MAGIC, VERSION, FEATURES = slice(0, 4), slice(4, 6), slice(8, 12)
BOTH = "speaks version 1 of the control protocol, this end 2"
MEMBERS = {1: 0, 2: 1}


def test_a_dialling_peer_of_version_1_is_told_ours_and_the_log_names_both(capfd) -> None:
    with Peer.start({"ASCEND_GLOBAL_LOG_LEVEL": "2"}) as owner:
        owner.init(OWNER, listen="127.0.0.1:0")
        with socket.create_connection(owner.listen_address, 10) as old:
            old.sendall(HELLO_1)
            answer = old.recv(len(HELLO_1), socket.MSG_WAITALL)
            assert old.recv(1) == b""
        # Where version 1 looks for them: its own text names 2 and 1.
        assert len(answer) == len(HELLO_1)
        assert answer[MAGIC] == HELLO_1[MAGIC]
        assert answer[VERSION] == struct.pack("<H", 2)
    assert f"refused: the other end {BOTH}" in capfd.readouterr().err


def test_a_listening_peer_of_version_1_is_refused_with_both_numbers(together: NearStage) -> None:
    puller = together.engine(PULLER, listen=None)
    with listener_that_says(lambda old: old.sendall(HELLO_1)) as address:
        answer = puller.link_to(ClusterAddress(2, address))
    assert answer.statuses == [S.LLM_LINK_FAILED]
    assert f"the other end {BOTH}" in answer.details[0]


@pytest.mark.parametrize("features", [b"\xff\xff\xff\xff", b"\0\0\0\x80"])
def test_features_that_nobody_knows_change_nothing(
    together: NearStage, path: Path, features: bytes
) -> None:
    owner = together.engine(OWNER, path)
    puller = together.engine(PULLER, path, listen=None)
    source, target = path.cache(owner, "kv", SMALL, 1, 0), path.cache(puller, "kv", SMALL, 2)

    def with_features(hello: bytes) -> bytes:
        # What the owner says first on a data stream is no greeting.
        if hello[MAGIC] != HELLO_1[MAGIC]:
            return hello
        return hello[: FEATURES.start] + features + hello[FEATURES.stop :]

    with relay(owner.listen_address, change_first=with_features) as passing:
        there = ClusterAddress(OWNER, passing.address)
        assert puller.link_to(there).statuses == [S.LLM_SUCCESS]
        puller.pull("kv", BlocksCacheKey(OWNER, 0), [3], [4])
        assert puller.unlink_from(there).status == S.LLM_SUCCESS
    check(target, moved(target.filled(), source.filled(), [3], [4]))


def fails_naming_both(engine: LLMDataDist, comm: int, cluster_id: int) -> None:
    with pytest.warns(LLMDataDistWarning, match=f"failed: cluster {cluster_id} {BOTH}"):
        eventually(
            lambda: engine.query_register_mem_status(comm) == RegisterMemStatus.FAILED,
            "the communicator failed",
        )


def card_of(cluster_id: int) -> bytes:
    start, stop = CLUSTER_IN_CARD.start, CLUSTER_IN_CARD.stop
    return CARD_1[:start] + struct.pack("<Q", cluster_id) + CARD_1[stop:]


def test_a_member_of_version_1_fails_the_communicator_of_the_holder(
    together: NearStage, monkeypatch
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = probe.getsockname()
    monkeypatch.setenv("LLM_DATADIST_RENDEZVOUS", "{}:{}".format(*address))
    holder = together.engine(1, listen=None).datadist
    comm = holder.link("two", MEMBERS, "{}")
    with socket.create_connection(address, 10) as old:
        old.sendall(CARD_FRAME_1)
        fails_naming_both(holder, comm, 2)


def test_a_holder_of_version_1_fails_the_communicator_of_a_member(
    together: NearStage, monkeypatch
) -> None:
    frame = CARD_FRAME_1[:12] + card_of(1)
    with listener_that_says(lambda old: old.sendall(frame)) as address:
        monkeypatch.setenv("LLM_DATADIST_RENDEZVOUS", "{}:{}".format(*address))
        member = together.engine(2, listen=None).datadist
        comm = member.link("two", MEMBERS, "{}")
        fails_naming_both(member, comm, 1)
        member.finalize()


def test_a_member_of_version_1_on_this_host_fails_the_communicator(together: NearStage) -> None:
    # No other test has this id: it tells the socket at which the member waits.
    own = 2**62 + 4711
    member = together.engine(own, listen=None).datadist
    comm = member.link("two", {2: 0, own: 1}, "{}")
    with open("/proc/net/unix", encoding="utf-8") as sockets:
        (name,) = [line.split()[-1] for line in sockets if line.strip().endswith(f"-{own}")]
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as old:
        old.connect("\0" + name.removeprefix("@"))
        old.send(card_of(2))
        fails_naming_both(member, comm, 2)
