# SPDX-License-Identifier: Apache-2.0
"""What statistics(), links() and counters() tell of transfers, at both ends."""

from __future__ import annotations

import json
import struct
import time
from typing import Any

import pytest

from llm_datadist import BlocksCacheKey, LLMException, LLMStatusCode
from llm_datadist.introspection import LinkInfo
from llm_datadist.statistics import Statistics
from llm_datadist.testing import Geometry, Peer, eventually
from llm_datadist.testing.actor import ClusterAddress
from tests.conformance import speaker as wire
from tests.conformance.paths import ON_ASCEND, Path, helped_path
from tests.conformance.relay import relay
from tests.conformance.speaker import Request, Speaker
from tests.conformance.stage import OWNER, PULLER, SMALL, Stage, linked
from tests.conformance.stalls import stalling_relay

KEY = BlocksCacheKey(OWNER, 0)
NO_CACHE = BlocksCacheKey(OWNER, 99)
BLOCK = SMALL.num_tensors * SMALL.block_bytes
REPORT = 14
NUMBERS = 3 + 4 + 4 + 8 + 28  # of a report
NEVER = 2**64 - 1


def only_link(peer: Peer) -> LinkInfo:
    (link,) = peer.call("links")
    return link


@pytest.mark.rule("C1.14-1", "C1.14-2", "C1.14-3", "C1.14-4")
@pytest.mark.sanitize
@pytest.mark.threads
def test_both_ends_count(stage: Stage, path: Path) -> None:
    pair = stage.pair(path)
    owner, puller = pair.owner, pair.puller
    way = path.transport or path.name
    begun = time.time()
    for block in (1, 2):
        puller.pull("kv", KEY, [block], [block])
    puller.push("kv", KEY, [3, 4, 5], [3, 4, 5])
    with pytest.raises(LLMException):
        puller.pull("kv", NO_CACHE, [1], [1])
    own: Statistics = puller.call("statistics")
    (link,) = own.links
    layers = SMALL.num_tensors // 2
    assert (link.peer_cluster_id, link.own.pulls, link.own.pushes) == (OWNER, 2, layers)
    assert link.own.bytes_pulled == {way: 2 * BLOCK}
    assert link.own.bytes_pushed == {way: 3 * BLOCK}
    assert link.own.failures == {"LLM_KV_CACHE_NOT_EXIST": 1}
    assert link.own.latency.count == 2 + layers
    assert link.own.last_success is not None
    assert begun - 1 < link.own.last_success < time.time() + 1
    error = link.own.last_error
    assert error is not None
    assert error.status_code is LLMStatusCode.LLM_KV_CACHE_NOT_EXIST
    assert f"from cluster {OWNER}" in error.text
    assert "the peer has no cache under" in error.text
    assert begun - 1 < error.time < time.time() + 1
    row = only_link(puller)
    assert (row.failures, row.number) == (link.own.failures, link.number)
    # Its time is asked of the monotonic clock, and told by the one on the wall, anew each time.
    assert row.last_error is not None
    assert (row.last_error.status_code, row.last_error.text) == (error.status_code, error.text)
    assert abs(row.last_error.time - error.time) < 1

    # The owner took no part, and is told.
    eventually(lambda: only_link(owner).peer_failures == 1, "the puller reports")
    there: Statistics = owner.call("statistics")
    assert there.own.pulls == there.own.failed == 0
    (link,) = there.links
    assert link.number == row.number
    assert (link.peers.pulls, link.peers.pushes) == (2, layers)
    assert (link.peers.bytes_pulled, link.peers.bytes_pushed) == (
        {way: 2 * BLOCK},
        {way: 3 * BLOCK},
    )
    assert link.peers.failures == {"LLM_KV_CACHE_NOT_EXIST": 1}
    assert link.peers.latency == own.links[0].own.latency
    assert link.peers.last_error is not None
    assert link.peers.last_error.text == error.text
    assert abs(link.peers.last_error.time - error.time) < 1
    row = only_link(owner)
    assert (row.peer_pulls, row.peer_bytes_out) == (2, 2 * BLOCK)
    assert (row.peer_pushes, row.peer_bytes_in) == (layers, 3 * BLOCK)


@pytest.mark.rule("C1.14-3", "C1.14-4")
def test_what_stays_when_the_link_is_gone(stage: Stage, registered_path: Path) -> None:
    pair = stage.pair(registered_path)
    owner, puller = pair.owner, pair.puller
    with pytest.raises(LLMException):
        puller.pull("kv", NO_CACHE, [1], [1])
    # What ends right before the link does is told all the same, and the sums stay.
    puller.pull("kv", KEY, [6], [6])
    assert puller.unlink(owner) == 0
    counters = owner.call("counters")
    assert (counters.peer_pulls, counters.peer_failures) == (1, 1)
    assert (counters.peer_bytes_out, counters.peer_bytes_in) == (BLOCK, 0)
    last: Statistics = puller.call("statistics")
    assert (last.links, last.own.pulls, last.own.latency.count) == ((), 1, 1)
    with pytest.raises(LLMException):
        puller.pull("kv", KEY, [6], [6])
    # For which there was no link.
    last = puller.call("statistics")
    assert last.own.failures == {"LLM_KV_CACHE_NOT_EXIST": 1, "LLM_NOT_YET_LINK": 1}
    assert last.own.last_error is not None
    assert "has no link to cluster" in last.own.last_error.text
    assert json.loads(json.dumps(last.as_dict()))["own"]["pulls"] == 1


@pytest.mark.rule("C1.14-5")
def test_without_clocks(stage: Stage, registered_path: Path) -> None:
    switch = {"LLM_DATADIST_STATISTICS": "0"}
    owner = stage.engine(OWNER, registered_path)
    puller = stage.engine(PULLER, registered_path, listen=None, environment=switch)
    owner.register("kv", SMALL, 1, 0)
    puller.register("kv", SMALL, 2)
    linked(puller, owner)
    puller.pull("kv", KEY, [1], [1])
    (link,) = puller.call("statistics").links
    assert (link.own.pulls, sum(link.own.bytes_pulled.values())) == (1, BLOCK)
    assert (link.own.latency.count, link.own.last_success) == (0, None)


@pytest.mark.skipif(
    ON_ASCEND, reason="capability data streams of the engine: HIXL's bytes go elsewhere"
)
@pytest.mark.rule("C1.14-6")
def test_a_timeout_says_how_far_it_came(stage: Stage) -> None:
    path = helped_path()
    large = Geometry(2, 8, 1 << 20)
    owner = stage.engine(OWNER, path)
    puller = stage.engine(PULLER, path, listen=None, sync_timeout_ms=1500)
    owner.register("kv", large, 1, 0)
    puller.register("kv", large, 2)
    with stalling_relay(owner.listen_address) as network:
        assert puller.link_to(ClusterAddress(OWNER, network.address)).status == 0
        puller.pull("kv", KEY, [0], [0])
        # Three requests of 1 MiB and a part of the fourth.
        network.passage(1).from_server.hold(after=(3 << 20) + (1 << 19))
        error: Any = puller.start_call("pull", "kv", KEY, [1, 3, 5], [1, 3, 5]).exception()
    assert error.status_code == LLMStatusCode.LLM_TIMEOUT
    text = str(error)
    assert f" of {6 << 20} bytes were moved; a transfer may take 1500 ms (sync_kv_timeout)" in text
    moved = int(text.partition(f" of {6 << 20} bytes")[0].rpartition(" ")[2])
    assert 3 << 20 <= moved <= (3 << 20) + (1 << 19)


def report(numbers: dict[int, int], text: bytes = b"", age: int = 0, size: int = NUMBERS) -> bytes:
    """The body of a report: numbers by their places, and a failure with a text."""
    counts = [numbers.get(place, 0) for place in range(size)]
    failed = struct.pack("<IQ", LLMStatusCode.LLM_TIMEOUT, age)
    return struct.pack(f"<{size}QQ", *counts, NEVER) + failed + wire.text(text)


def request_of_a_client(stage: Stage, owner: Peer) -> Request:
    """What a client that is closed again said."""
    client = stage.engine(PULLER, helped_path(), listen=None)
    with relay(owner.listen_address) as passing:
        there = ClusterAddress(OWNER, passing.address)
        assert client.link_to(there).status == client.unlink_from(there).status == 0
    return Request.spoken_in(bytes(passing.said[0][0]))


def linked_speaker(owner: Peer, request: Request) -> Speaker:
    speaker = Speaker(owner.listen_address, request)
    speaker.greet()
    assert speaker.ask_for_link()[0] == 0
    assert speaker.ask(wire.LINK_CONFIRM, struct.pack("<I", 0) + wire.text(b"")) is not None
    return speaker


@pytest.mark.rule("C1.14-7")
@pytest.mark.sanitize
def test_what_a_peer_reports_may_be_anything(stage: Stage) -> None:
    owner = stage.engine(OWNER, helped_path())
    request = request_of_a_client(stage, owner)
    with linked_speaker(owner, request) as speaker:
        speaker.say(REPORT, report({0: 7, 3: 4096}, b"a\nline\x1b of a peer", NEVER - 1))
        # Less than it has told: it stays.
        speaker.say(REPORT, report({0: 2}))
        eventually(lambda: owner.call("counters").peer_pulls == 7, "the report is read")
        (row,) = owner.call("statistics").links
        assert row.peers.bytes_pulled == {"mapped": 4096}
        assert row.peers.last_error is not None
        assert row.peers.last_error.text == "a line  of a peer"
        assert speaker.ask(wire.TABLE) is not None
    refused = (
        report({0: 2**56 + 1}),
        report({}, b"x" * 241),
        report({}, size=NUMBERS - 1),
        report({}) + b"more",
    )
    for body in refused:
        with linked_speaker(owner, request) as speaker:
            speaker.say(REPORT, body)
            assert speaker.answers_until_closed()
    assert owner.call("counters").peer_pulls == 7
