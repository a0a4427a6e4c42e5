# SPDX-License-Identifier: Apache-2.0
"""Transfers that are over, told one by one at both ends: CacheManager.events()."""

from __future__ import annotations

import asyncio
import struct
from typing import Any

import pytest

from llm_datadist import BlocksCacheKey, LLMException, LLMStatusCode
from llm_datadist.events import TransferEvent, TransferKind
from llm_datadist.testing import Geometry, Peer, check, eventually, moved
from tests.conformance import speaker as wire
from tests.conformance.paths import Path, helped_path
from tests.conformance.stage import OWNER, PULLER, SMALL, Stage, linked
from tests.conformance.test_statistics import linked_speaker, request_of_a_client

KEY = BlocksCacheKey(OWNER, 0)
BLOCK = SMALL.num_tensors * SMALL.block_bytes
EVENTS_WANTED, EVENT = 15, 18


def listen(actor: Any, capacity: int = 1024) -> None:
    actor.stream = actor.datadist.cache_manager.events(capacity)


def next_event(actor: Any, seconds: float = 20.0) -> TransferEvent | None:
    event: TransferEvent | None = actor.stream.get(seconds)
    return event


def next_event_and_bytes(actor: Any, name: str) -> tuple[TransferEvent | None, Any]:
    event = actor.stream.get(20)
    return event, actor.read(name)


def stop(actor: Any) -> int:
    actor.stream.close()
    lost: int = actor.stream.lost
    del actor.stream
    return lost


def both_events(owner: Peer, puller: Peer) -> tuple[TransferEvent, TransferEvent]:
    theirs, ours = owner.call(next_event), puller.call(next_event)
    assert theirs.transfer_id == ours.transfer_id
    assert theirs.link == ours.link
    assert (theirs.by_peer, theirs.peer_cluster_id) == (True, PULLER)
    assert (ours.by_peer, ours.peer_cluster_id) == (False, OWNER)
    assert (theirs.cache_id, ours.cache_id) == (None, 1)
    assert (theirs.blocks, theirs.peer_blocks) == (ours.peer_blocks, ours.blocks)
    for name in ("kind", "status", "text", "bytes", "bytes_moved", "layer", "layers", "lost"):
        assert getattr(theirs, name) == getattr(ours, name), name
    for event in (theirs, ours):
        assert isinstance(event.key, BlocksCacheKey)
        assert event.key.cluster_id == OWNER
    return theirs, ours


@pytest.mark.rule("C1.15-1", "C1.15-2", "C1.15-3", "C10-270")
@pytest.mark.sanitize
@pytest.mark.threads
def test_both_ends_are_told(stage: Stage, path: Path) -> None:
    pair = stage.pair(path)
    owner, puller = pair.owner, pair.puller
    puller.pull("kv", KEY, [7], [7])  # nobody listens
    owner.call(listen)
    puller.call(listen)
    puller.pull("kv", KEY, [3, 1, 2], [0, 4, 5])
    theirs, _ = both_events(owner, puller)
    assert (theirs.kind, theirs.status) == (TransferKind.PULL, LLMStatusCode.LLM_SUCCESS)
    assert theirs.ok
    assert (theirs.blocks, theirs.peer_blocks) == ([3, 1, 2], [0, 4, 5])
    assert theirs.bytes == theirs.bytes_moved == 3 * BLOCK
    assert theirs.has_all_blocks
    puller.push("kv", KEY, [8], [9])
    for layer in range(SMALL.num_tensors // 2):
        theirs, _ = both_events(owner, puller)
        assert (theirs.kind, theirs.layer, theirs.layers) == (TransferKind.PUSH, layer, 1)
        assert (theirs.blocks, theirs.peer_blocks) == ([9], [8])
    with pytest.raises(LLMException):
        puller.pull("kv", BlocksCacheKey(OWNER, 99), [1], [1])
    theirs, _ = both_events(owner, puller)
    assert (theirs.status, theirs.bytes) == (LLMStatusCode.LLM_KV_CACHE_NOT_EXIST, 0)
    assert not theirs.ok
    assert "the peer has no cache under" in theirs.text
    # Who listens no more is told nothing, and may listen again.
    assert owner.call(stop) == 0
    puller.pull("kv", KEY, [1], [1])
    owner.call(listen)
    puller.pull("kv", KEY, [6], [6])
    assert owner.call(next_event).blocks == [6]
    assert (owner.call(stop), puller.call(stop)) == (0, 0)


@pytest.mark.rule("C1.15-3")
def test_when_a_push_is_told_its_bytes_are_there(stage: Stage, path: Path) -> None:
    large = Geometry(2, 8, 1 << 20)
    pair = stage.pair(path, large)
    pair.owner.call(listen)
    seen = pair.owner.start_call(next_event_and_bytes, "kv")
    blocks = list(range(large.num_blocks))
    pair.puller.push("kv", KEY, blocks, blocks)
    event, words = seen.result()
    assert event.ok
    assert event.bytes_moved == large.num_blocks * large.num_tensors * large.block_bytes
    expected = moved(pair.source.filled(), pair.target.filled(), blocks, blocks)
    assert (words == expected).all()
    check(pair.source, expected)
    pair.owner.call(stop)


@pytest.mark.rule("C1.15-4")
def test_a_link_that_is_made_later_and_request_mode(stage: Stage) -> None:
    path = helped_path()
    owner = stage.engine(OWNER, path, one_sided=False)
    puller = stage.engine(PULLER, path, listen=None, one_sided=False)
    owner.call(listen)
    owner.register("kv", SMALL, 1, 0)
    puller.register("kv", SMALL, 2)
    linked(puller, owner)
    puller.pull("kv", KEY, [1], [2])
    event = owner.call(next_event)
    assert (event.by_peer, event.blocks, event.peer_blocks) == (True, [1], [2])
    # The end of the engine is the end of the stream.
    waiting = owner.start_call(next_event, 20.0)
    owner.finalize()
    assert waiting.result() is None
    owner.call(stop)


@pytest.mark.rule("C1.15-5")
def test_a_full_stream_drops_the_oldest_and_counts(stage: Stage) -> None:
    pair = stage.pair(helped_path())
    pair.puller.call(listen, 2)
    for block in range(5):
        pair.puller.pull("kv", KEY, [block], [block])
    first, second = (pair.puller.call(next_event) for _ in range(2))
    assert (first.blocks, first.lost) == ([3], 3)
    assert (second.blocks, second.lost) == ([4], 0)
    assert pair.puller.call(next_event, 0.0) is None
    error = pair.puller.start_call(listen).exception()
    assert isinstance(error, LLMException)
    assert error.status_code == LLMStatusCode.LLM_FAILED
    assert "one stream at a time" in str(error)
    assert pair.puller.call(stop) == 3
    for capacity, wrong in ((0, LLMException), (-1, ValueError), ("1", TypeError)):
        assert isinstance(pair.puller.start_call(listen, capacity).exception(), wrong)


def take_two_in_asyncio(actor: Any) -> list[list[int]]:
    async def take() -> list[list[int]]:
        blocks = []
        with actor.datadist.cache_manager.events() as events:
            actor.stream = events
            actor.is_listening = True
            async for event in events:
                blocks.append(event.blocks)
                if len(blocks) == 2:
                    break
        return blocks

    return asyncio.run(take())


@pytest.mark.rule("C1.15-6")
def test_in_asyncio(stage: Stage) -> None:
    pair = stage.pair(helped_path())
    taken = pair.owner.start_call(take_two_in_asyncio)
    eventually(lambda: pair.owner.call(is_listening), "the owner listens")
    for block in (4, 5):
        pair.puller.pull("kv", KEY, [block], [block])
    assert taken.result() == [[4], [5]]


def is_listening(actor: Any) -> bool:
    return getattr(actor, "is_listening", False)


def event_body(
    kind: int = 1, key_kind: int = 3, runs: tuple[tuple[int, int, int], ...] = ()
) -> bytes:
    numbers = struct.pack("<II16sIIQQQ", kind, 0, b"i" * 16, 0, 0, 8, 8, 0)
    key = struct.pack("<IQQQqI", key_kind, 0, 0, 0, 0, 0)
    listed = b"".join(struct.pack("<QQQ", *run) for run in runs)
    return numbers + key + wire.text(b"a\ntext") + struct.pack("<BI", 1, len(runs)) + listed


@pytest.mark.rule("C1.15-7")
@pytest.mark.sanitize
def test_what_a_peer_tells_may_be_anything(stage: Stage) -> None:
    owner = stage.engine(OWNER, helped_path())
    request = request_of_a_client(stage, owner)
    owner.call(listen)
    with linked_speaker(owner, request) as speaker:
        speaker.say(EVENT, event_body(runs=((5, 6, 2),)))
        event = owner.call(next_event)
        assert (event.blocks, event.peer_blocks) == ([5, 6], [6, 7])
        assert (event.peer_cluster_id, event.text) == (request.cluster_id, "a text")
    refused = (
        (EVENT, event_body(kind=4)),
        (EVENT, event_body(key_kind=9)),
        (EVENT, event_body(runs=((0, 0, 0),))),
        (EVENT, event_body(runs=((0, 0, 1 << 21),))),
        (EVENT, event_body(runs=((2**64 - 1, 0, 2),))),
        (EVENT, event_body() + b"x"),
        (EVENTS_WANTED, b"\2"),
    )
    for kind, body in refused:
        with linked_speaker(owner, request) as speaker:
            speaker.say(kind, body)
            assert speaker.answers_until_closed()
    assert owner.call(next_event, 0.0) is None
    owner.call(stop)
