# SPDX-License-Identifier: Apache-2.0
"""Calls from many threads over one link and over several: contract 7.8, number 8 of 9.1."""

from __future__ import annotations

import random
import time

import pytest

from llm_datadist import BlocksCacheKey, LLMException, LLMStatusCode
from llm_datadist.testing import Geometry, check, moved
from llm_datadist.testing.actor import ClusterAddress, EngineSpec
from tests.conformance.paths import Path
from tests.conformance.stage import OWNER, PULLER, SMALL, Stage, linked
from tests.conformance.work import repeat_whatever_happens, shuffled, transfer_many

pytestmark = pytest.mark.threads

S = LLMStatusCode
GEOMETRY = Geometry(num_tensors=4, num_blocks=48, block_bytes=4096)
THREADS = 4


@pytest.mark.rule("C7.8-3")
@pytest.mark.sanitize
def test_a_decoder_pulls_from_two_prompts_from_several_threads(stage: Stage, path: Path) -> None:
    prompts = [stage.engine(11 + i, path) for i in range(2)]
    sources = [path.cache(each, "kv", GEOMETRY, each.cluster_id, 0) for each in prompts]
    decoder = stage.engine(PULLER, path, listen=None, sync_timeout_ms=10000)
    targets = [path.cache(decoder, f"from {i}", GEOMETRY, 50 + i) for i in range(2)]
    linked(decoder, *prompts)
    for prompt in prompts:
        path.require(decoder, prompt, stage.process_vm_refused)
    # Each thread has blocks of its own, in many small pulls, from both prompts.
    calls, pairs = [], {0: [], 1: []}
    for thread in range(THREADS):
        jobs = []
        for i, prompt in enumerate(prompts):
            src = shuffled(thread * 2 + i, GEOMETRY.num_blocks)[: GEOMETRY.num_blocks // THREADS]
            dst = list(range(thread, GEOMETRY.num_blocks, THREADS))
            pairs[i] += zip(src, dst)
            key = BlocksCacheKey(prompt.cluster_id, 0)
            jobs += [(f"from {i}", key, src[k : k + 3], dst[k : k + 3]) for k in range(0, 12, 3)]
        random.Random(thread).shuffle(jobs)
        calls.append(decoder.start_call(transfer_many, "pull", jobs * 5))
    for call in calls:
        call.result()
    for i in range(2):
        src, dst = zip(*pairs[i])
        check(targets[i], moved(targets[i].filled(), sources[i].filled(), src, dst))


@pytest.mark.sanitize
def test_two_decoders_pull_from_one_prompt_from_several_threads(stage: Stage, path: Path) -> None:
    prompt = stage.engine(OWNER, path)
    source = path.cache(prompt, "kv", GEOMETRY, 1, 0)
    decoders = [stage.engine(21 + i, path, listen=None, sync_timeout_ms=10000) for i in range(2)]
    targets = [path.cache(each, "kv", GEOMETRY, each.cluster_id) for each in decoders]
    key = BlocksCacheKey(OWNER, 0)
    calls = []
    for decoder in decoders:
        linked(decoder, prompt)
        path.require(decoder, prompt, stage.process_vm_refused)
    for decoder in decoders:
        for thread in range(THREADS):
            part = list(range(thread, GEOMETRY.num_blocks, THREADS))
            back = [GEOMETRY.num_blocks - 1 - block for block in part]
            jobs = [("kv", key, back[k : k + 4], part[k : k + 4]) for k in range(0, 12, 4)]
            calls.append(decoder.start_call(transfer_many, "pull", jobs * 8))
    for call in calls:
        call.result()
    everything = list(range(GEOMETRY.num_blocks))
    for target in targets:
        check(target, moved(target.filled(), source.filled(), everything[::-1], everything))


@pytest.mark.rule("C9.1-14", "C7.8-4")
@pytest.mark.sanitize
def test_twelve_pushing_threads(stage: Stage, path: Path) -> None:
    pair = stage.pair(path, GEOMETRY, sync_timeout_ms=20000)
    key = BlocksCacheKey(OWNER, 0)
    calls = []
    for thread in range(12):
        part = list(range(thread, GEOMETRY.num_blocks, 12))
        calls.append(
            pair.puller.start_call(transfer_many, "push", [("kv", key, part, part[::-1])] * 5)
        )
    for call in calls:
        call.result()
    expected = pair.source.filled()
    for thread in range(12):
        part = list(range(thread, GEOMETRY.num_blocks, 12))
        expected = moved(expected, pair.target.filled(), part, part[::-1])
    check(pair.source, expected)
    assert pair.puller.call("counters").pushes == 12 * 5 * GEOMETRY.num_tensors // 2


@pytest.mark.rule("C9.1-14", "C7.8-4")
def test_thirty_two_pulling_threads(stage: Stage, path: Path) -> None:
    pair = stage.pair(path, GEOMETRY, sync_timeout_ms=20000)
    jobs = [("kv", BlocksCacheKey(OWNER, 0), [3, 4, 40], [5, 6, 7])] * 10
    for call in [pair.puller.start_call(transfer_many, "pull", jobs) for _ in range(32)]:
        call.result()
    assert pair.puller.call("counters").pulls == 320
    check(pair.target, moved(pair.target.filled(), pair.source.filled(), [3, 4, 40], [5, 6, 7]))


@pytest.mark.rule("C7.8-3")
@pytest.mark.sanitize
def test_both_ends_pull_and_push_at_once(stage: Stage, path: Path) -> None:
    owner = stage.engine(OWNER, path, sync_timeout_ms=20000)
    puller = stage.engine(PULLER, path, listen=None, sync_timeout_ms=20000)
    caches = {}
    for peer in (owner, puller):
        for model, name in enumerate(("read", "pulled", "pushed", "written")):
            stamp = 10 * (peer is owner) + model + 1
            caches[peer, name] = path.cache(peer, name, GEOMETRY, stamp, model)
    linked(puller, owner)
    src, dst = [1, 2, 40, 7], [9, 0, 3, 4]
    calls = []
    for peer, other in ((owner, puller), (puller, owner)):
        pulls = [("pulled", BlocksCacheKey(other.cluster_id, 0), src, dst)] * 100
        pushes = [("pushed", BlocksCacheKey(other.cluster_id, 3), src, dst)] * 50
        calls.append(peer.start_call(transfer_many, "pull", pulls))
        calls.append(peer.start_call(transfer_many, "push", pushes))
    for call in calls:
        call.result()
    for peer, other in ((owner, puller), (puller, owner)):
        pulled, written = caches[peer, "pulled"], caches[peer, "written"]
        check(pulled, moved(pulled.filled(), caches[other, "read"].filled(), src, dst))
        check(written, moved(written.filled(), caches[other, "pushed"].filled(), src, dst))


def pull_until_finalized(actor, name: str, key: BlocksCacheKey) -> str:
    """Call until a status says that it is over; anything but a status is raised."""
    manager, cache = actor.datadist.cache_manager, actor.caches[name].cache
    while True:
        try:
            manager.pull_blocks(key, cache, [0, 1], [2, 3])
        except LLMException as error:
            return error.status_code.name
        actor.announce("pulled")


def register_until_finalized(actor, name: str) -> str:
    manager, held = actor.datadist.cache_manager, actor.caches[name]
    while True:
        try:
            cache = manager.register_blocks_cache(SMALL.desc(), held.tensor_addrs)
            manager.unregister_cache(cache.cache_id)
        except LLMException as error:
            return error.status_code.name
        actor.announce("registered")


def link_until_finalized(actor, cluster: ClusterAddress) -> str:
    while True:
        try:
            actor.link([cluster], 2000)
            actor.unlink([cluster], 2000)
        except RuntimeError as error:
            # Not a status: the plain error of a call that comes after finalize (1.4).
            return f"{type(error).__name__}: {error}"
        actor.announce("linked")


@pytest.mark.rule("C7.8-2")
@pytest.mark.sanitize
@pytest.mark.parametrize("round_", range(3))
def test_finalize_races_with_calls_and_they_end_with_statuses(
    stage: Stage, path: Path, round_: int
) -> None:
    pair = stage.pair(path, sync_timeout_ms=5000)
    other = stage.engine(33, path)
    puller = pair.puller
    key = BlocksCacheKey(OWNER, 0)
    puller.register("plain", SMALL, 9)
    pulls = [puller.start_call(pull_until_finalized, "kv", key) for _ in range(4)]
    registers = [puller.start_call(register_until_finalized, "plain") for _ in range(2)]
    links = [puller.start_call(link_until_finalized, other.cluster()) for _ in range(2)]
    puller.wait_for("pulled", times=10 + 7 * round_)
    puller.wait_for("registered", times=5)
    puller.wait_for("linked", times=2)
    start = time.monotonic()
    puller.finalize()
    assert time.monotonic() - start < 5
    # A pull that runs is interrupted (decision 83).
    assert {call.result() for call in pulls} <= {"LLM_ENGINE_FINALIZED", "LLM_TIMEOUT"}
    assert {call.result() for call in registers} == {"LLM_ENGINE_FINALIZED"}
    for call in links:
        assert call.result().startswith("RuntimeError: LLMDataDist is not initialized")
    # And again, on the same process.
    puller.call("init", EngineSpec(PULLER, environment=path.environment))
    again = puller.register("again", SMALL, 5)
    linked(puller, pair.owner)
    if not path.of_pools:
        puller.pull("again", key, [0], [1])
        check(again, moved(again.filled(), pair.source.filled(), [0], [1]))


@pytest.mark.rule("C7.8-8")
@pytest.mark.sanitize
def test_unlink_and_link_race_with_pulls(stage: Stage, path: Path) -> None:
    pair = stage.pair(path, sync_timeout_ms=5000)
    key = BlocksCacheKey(OWNER, 0)
    calls = [
        pair.puller.start_call(repeat_whatever_happens, "pull", "kv", key, [3, 4], "pull")
        for _ in range(3)
    ]
    for round_ in range(10):
        pair.puller.wait_for("pull LLM_SUCCESS", times=10 * (round_ + 1))
        assert pair.puller.unlink(pair.owner) == S.LLM_SUCCESS
        linked(pair.puller, pair.owner)
    pair.puller.set_flag("pull")
    for call in calls:
        # Contract 7.8: either success or not linked.
        assert set(call.result()) <= {"LLM_SUCCESS", "LLM_NOT_YET_LINK"}
    check(pair.target, moved(pair.target.filled(), pair.source.filled(), [3, 4], [3, 4]))


@pytest.mark.rule("C7.8-1", "C7.8-6")
def test_a_link_that_hangs_does_not_hold_up_other_links(stage: Stage, path: Path) -> None:
    pair = stage.pair(path, sync_timeout_ms=3000)
    stopped = stage.engine(33, path)
    path.cache(stopped, "kv", SMALL, 8, 0)
    linked(pair.puller, stopped)
    pair.puller.pull("kv", BlocksCacheKey(OWNER, 0), [0], [0])
    stopped.stop()
    hanging = pair.puller.start_call("pull", "kv", BlocksCacheKey(33, 0), [0], [0])
    for _ in range(20):
        pair.puller.pull("kv", BlocksCacheKey(OWNER, 0), [1], [1])
    assert not hanging.done()
    stopped.go_on()
    hanging.result()
