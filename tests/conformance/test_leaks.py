# SPDX-License-Identifier: Apache-2.0
"""Nothing is left when engines come and go: no descriptor, thread, mapping or memory."""

from __future__ import annotations

import pytest

from llm_datadist import BlocksCacheKey, LLMStatusCode, Placement
from llm_datadist.testing import Geometry, leaked, wait_until_given_back
from llm_datadist.testing.resources import RESIDENT_TELLS, resident_bytes
from tests.conformance.paths import Path
from tests.conformance.stage import OWNER, PULLER, Stage, linked

KEY = BlocksCacheKey(OWNER, 0)
GEOMETRY = Geometry(num_tensors=2, num_blocks=16, block_bytes=32 << 10)


@pytest.mark.parametrize("ending", ["finalize", "unlink", "force"])
def test_rounds_of_init_link_pull_and_finalize(stage: Stage, path: Path, ending: str) -> None:
    owner, puller = stage.process(), stage.process()
    at_rest = [peer.reset() for peer in (owner, puller)]
    resident = []
    for round_ in range(30):
        stage.engine(OWNER, path, process=owner)
        stage.engine(PULLER, path, listen=None, process=puller)
        path.cache(owner, "kv", GEOMETRY, 1, 0)
        path.cache(puller, "kv", GEOMETRY, 2)
        linked(puller, owner)
        puller.pull("kv", KEY, [0, 5], [1, 2])
        if ending != "finalize":
            assert puller.unlink(owner, force=ending == "force") == LLMStatusCode.LLM_SUCCESS
        # In turn, so that each side is once the one that sees the other's connection close.
        for peer in (owner, puller) if round_ % 2 else (puller, owner):
            peer.reset()
        resident.append(sum(resident_bytes(peer.pid) for peer in (owner, puller)))
    for peer, before in zip((owner, puller), at_rest):
        wait_until_given_back(before, peer.resources)
    # What a round leaves for good would be there 20 times.
    assert not RESIDENT_TELLS or resident[-1] - resident[9] < 8 << 20


@pytest.mark.sanitize
@pytest.mark.threads
def test_a_link_that_comes_and_goes_leaves_nothing_at_either_end(stage: Stage, path: Path) -> None:
    pair = stage.pair(path)
    ends = (pair.owner, pair.puller)
    pair.puller.pull("kv", KEY, [0], [0])
    pair.puller.unlink(pair.owner)
    before = [peer.resources() for peer in ends]
    for _ in range(20):
        linked(pair.puller, pair.owner)
        pair.puller.pull("kv", KEY, [0], [0])
        assert pair.puller.unlink(pair.owner) == LLMStatusCode.LLM_SUCCESS
    for peer, then in zip(ends, before):
        wait_until_given_back(then, peer.resources)


@pytest.mark.sanitize
def test_failed_links_leave_nothing(stage: Stage) -> None:
    owner = stage.engine(OWNER)
    puller = stage.engine(PULLER, one_sided=False, listen=None)
    before = [peer.resources() for peer in (owner, puller)]
    for _ in range(20):
        assert puller.link(owner) == LLMStatusCode.LLM_PARAM_INVALID
    for peer, then in zip((owner, puller), before):
        wait_until_given_back(then, peer.resources)


@pytest.mark.sanitize
def test_dead_peers_leave_nothing_after_a_forced_unlink(stage: Stage, path: Path) -> None:
    puller = stage.engine(PULLER, path, listen=None)
    path.cache(puller, "kv", GEOMETRY, 2)
    before = puller.resources()
    for _ in range(3):
        owner = stage.engine(OWNER, path)
        path.cache(owner, "kv", GEOMETRY, 1, 0)
        linked(puller, owner)
        puller.pull("kv", KEY, [0], [0])
        owner.kill()
        assert puller.unlink(owner, force=True) == LLMStatusCode.LLM_SUCCESS
    wait_until_given_back(before, puller.resources)


def test_registering_and_unregistering_leaves_nothing(stage: Stage) -> None:
    peer = stage.engine(OWNER)
    before, resident = peer.resources(), resident_bytes(peer.pid)
    peer.call(register_and_unregister, 2000)
    assert leaked(before, peer.resources()) == []
    assert not RESIDENT_TELLS or resident_bytes(peer.pid) - resident < 8 << 20


def register_and_unregister(actor, times: int) -> None:
    from llm_datadist.testing import memory

    held = memory.of_client(GEOMETRY.tensor_bytes, Placement.DEVICE, actor.device_id)
    manager = actor.datadist.cache_manager
    for _ in range(times):
        cache = manager.register_blocks_cache(GEOMETRY.desc(), [held.address] * 2)
        manager.unregister_cache(cache.cache_id)
    held.release()
