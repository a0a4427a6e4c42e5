# SPDX-License-Identifier: Apache-2.0
"""finalize, init and fork in the midst of work: contract 7.7, 7.8, numbers 2 and 9 of chapter 9."""

from __future__ import annotations

import os
import time

import pytest

from llm_datadist import (
    BlocksCacheKey,
    Cache,
    CacheDesc,
    DataType,
    LLMException,
    LLMStatusCode,
)
from llm_datadist.testing import (
    check,
    moved,
    wait_until_given_back,
)
from llm_datadist.testing.actor import ClusterAddress
from llm_datadist.testing.resources import RESIDENT_TELLS, resident_bytes
from tests.conformance.paths import Path
from tests.conformance.stage import OWNER, PULLER, SMALL, Stage, linked

S = LLMStatusCode
KEY = BlocksCacheKey(OWNER, 0)
ROUNDS = 200


def cache_of(actor, pool: bool, model_id: int | None) -> Cache:
    """A cache of this round, over memory that the client keeps for all rounds if it is not of a
    pool.
    """
    manager = actor.datadist.cache_manager
    key = None if model_id is None else BlocksCacheKey(actor.datadist.cluster_id, model_id)
    if pool:
        return manager.allocate_blocks_cache(SMALL.desc(), key)
    return manager.register_blocks_cache(SMALL.desc(), actor.caches["kept"].tensor_addrs, key)


def finalize_and_init_again(actor, rounds: int, owner: ClusterAddress, pool: bool) -> list[int]:
    """One object, with a live link and a pull each time; returns the cache ids."""
    datadist = actor.datadist
    options = actor.options
    ids = []
    for _ in range(rounds):
        datadist.finalize()
        datadist.init(options)
        cache = cache_of(actor, pool, None)
        ids.append(cache.cache_id)
        assert actor.link([owner]).status == S.LLM_SUCCESS
        datadist.cache_manager.pull_blocks(KEY, cache, [1], [2])
    return ids


def keep_options(actor, options) -> None:
    actor.options = options


def options_of(listen: str | None, pool: int, number: int) -> dict[str, str]:
    """The options of the engine with this number in its test, which keeps its device."""
    from llm_datadist.testing import device
    from llm_datadist.testing.actor import EngineSpec

    devices = device.options_of(number)
    return EngineSpec(0, listen=listen, device_pool=pool, options=devices).make_options()


@pytest.mark.rule("C7.7-1", "C7.7-2", "C7.7-3")
@pytest.mark.sanitize
def test_a_client_finalizes_and_inits_200_times_with_live_links(stage: Stage, path: Path) -> None:
    pair = stage.pair(path)
    owner, puller = pair.owner, pair.puller
    puller.register("kept", SMALL, 3)
    puller.call(keep_options, options_of(None, path.device_pool, 1))
    arguments = (owner.cluster(), path.of_pools)
    puller.call(finalize_and_init_again, 10, *arguments)
    # Without a link: on Ascend the owner's end of one is made in the background.
    assert puller.unlink(owner) == S.LLM_SUCCESS
    before = [peer.resources() for peer in (owner, puller)]
    resident = [resident_bytes(peer.pid) for peer in (owner, puller)]
    for _ in range(ROUNDS // 20):
        assert set(puller.call(finalize_and_init_again, 20, *arguments)) == {1}
    # The owner sees one link: the last one.
    assert [link.peer_cluster_id for link in owner.call("links")] == [PULLER]
    assert puller.unlink(owner) == S.LLM_SUCCESS
    for peer, then, memory in zip((owner, puller), before, resident):
        wait_until_given_back(then, peer.resources)
        assert not RESIDENT_TELLS or resident_bytes(peer.pid) - memory < 8 << 20


def serve_again(actor, options: dict[str, str], pool: bool) -> None:
    actor.datadist.finalize()
    actor.datadist.init(options)
    cache_of(actor, pool, 0)


def link_again(actor, owner: ClusterAddress, name: str) -> None:
    """Also what a client has to do when its server came back."""
    assert actor.unlink([owner], force=True).status == S.LLM_SUCCESS
    assert actor.link([owner]).status == S.LLM_SUCCESS
    actor.pull(name, KEY, [1], [2])


@pytest.mark.rule("C7.7-1", "C7.7-2", "C7.7-4")
@pytest.mark.sanitize
def test_a_server_finalizes_and_inits_200_times_with_live_links(stage: Stage, path: Path) -> None:
    pair = stage.pair(path)
    owner, puller = pair.owner, pair.puller
    owner.register("kept", SMALL, 3)
    host, port = owner.listen_address
    options = options_of(f"{host}:{port}", path.device_pool, 0)
    pool = path.of_pools

    def rounds(times: int) -> None:
        for _ in range(times):
            owner.call(serve_again, options, pool)
            puller.call(link_again, owner.cluster(), "kv")

    rounds(10)
    # Without a link: on Ascend the server's end of one is made in the background.
    assert puller.unlink(owner) == S.LLM_SUCCESS
    before = [peer.resources() for peer in (owner, puller)]
    resident = [resident_bytes(peer.pid) for peer in (owner, puller)]
    rounds(ROUNDS)
    assert puller.unlink(owner) == S.LLM_SUCCESS
    for peer, then, memory in zip((owner, puller), before, resident):
        wait_until_given_back(then, peer.resources)
        assert not RESIDENT_TELLS or resident_bytes(peer.pid) - memory < 8 << 20


def prepare_race(actor, other: ClusterAddress, pool: bool) -> None:
    """Everything that the racing calls need, made before the race: they must not see a half."""
    manager = actor.datadist.cache_manager
    kept = actor.caches["kept"]
    desc = CacheDesc(2, [8, 64], DataType.DT_INT8)
    batch = manager.register_cache(desc, kept.tensor_addrs[:2])
    held = actor.caches["kv"].cache

    def allocate() -> None:
        if pool:
            manager.deallocate_blocks_cache(manager.allocate_blocks_cache(SMALL.desc()))
        else:
            cache = manager.register_blocks_cache(SMALL.desc(), kept.tensor_addrs)
            manager.unregister_cache(cache.cache_id)

    def link() -> None:
        actor.link([other], 2000)
        actor.unlink([other], 2000)

    def calls(turn: int):
        # Two at a time of each, and what both write is not ordered by the library: two places.
        return {
            "pull": lambda: manager.pull_blocks(KEY, held, [0, 1], [2, 3]),
            "push": lambda: manager.push_blocks(KEY, held, [4], [5]),
            "allocate": allocate,
            "copy_blocks": lambda: manager.copy_blocks(held, {6: [7 + turn]}),
            "copy_cache": lambda: manager.copy_cache(batch, batch, 1 + turn, 0),
            "link": link,
            "links": lambda: (actor.links(), actor.counters()),
            "paths": lambda: actor.link_paths(OWNER),
        }.items()

    actor.race = [*calls(0), *calls(1)]


def run_until_finalized(actor, number: int) -> tuple[str, str, str]:
    """Call until the engine is gone; what is neither a status nor "not initialized" is raised."""
    name, call = actor.race[number]
    while True:
        try:
            call()
        except LLMException as error:
            return name, error.status_code.name, str(error)
        except RuntimeError as error:
            return name, "not initialized", str(error)
        actor.announce(f"race {number}")


@pytest.mark.rule("C7.8-2")
@pytest.mark.sanitize
@pytest.mark.threads
@pytest.mark.parametrize("round_", range(4))
@pytest.mark.parametrize("one_sided", [True, False], ids=["one-sided", "request"])
def test_finalize_races_with_sixteen_threads(
    stage: Stage, path: Path, one_sided: bool, round_: int
) -> None:
    pair = stage.pair(path, sync_timeout_ms=10000, one_sided=one_sided)
    other = stage.engine(33, path, one_sided=one_sided)
    puller = pair.puller
    puller.register("kept", SMALL, 3)
    puller.call(prepare_race, other.cluster(), path.of_pools)
    calls = [puller.start_call(run_until_finalized, number) for number in range(16)]
    for number in range(16):
        if one_sided or number % 8 != 1:
            puller.wait_for(f"race {number}", times=1 + round_)
    start = time.monotonic()
    puller.finalize()
    assert time.monotonic() - start < 10
    for call in calls:
        name, status, text = call.result()
        # Some go through LLMDataDist; they may also reach the closed engine (contract 1.10).
        ends = {"LLM_ENGINE_FINALIZED"}
        if name in ("link", "links", "paths"):
            ends.add("not initialized")
        elif name == "push" and not one_sided:
            ends = {"LLM_PARAM_INVALID"}  # at its first call
        elif status == "LLM_TIMEOUT":
            assert "interrupted by finalize" in text
            continue
        assert status in ends, (name, status, text)
    # The peers are as they were, and the same object may begin again.
    assert [link.peer_cluster_id for link in pair.owner.call("links")] == [PULLER]
    check_blocks_untouched(pair.source, one_sided)


def check_blocks_untouched(source, one_sided: bool) -> None:
    """Of the owner's cache only block 5 may have been pushed to."""
    found, before = source.read(), source.filled()
    for block in range(SMALL.num_blocks):
        if block != 5 or not one_sided:
            assert (found[:, block] == before[:, block]).all(), block


def call_in_child(actor, pipe: int) -> None:
    manager, held = actor.inherited, actor.caches["kv"].cache
    lines = []
    for call in (
        lambda: manager.pull_blocks(KEY, held, [0], [0]),
        lambda: manager.copy_blocks(held, {0: [1]}),
        lambda: actor.datadist.query_register_mem_status(1),
        lambda: actor.datadist.counters(),
    ):
        start = time.monotonic()
        try:
            call()
            outcome = "returned"
        except LLMException as error:
            outcome = f"{error.status_code.name}: {error}"
        lines.append(f"{time.monotonic() - start:.2f}|{outcome}")
    os.write(pipe, "\n".join(lines).encode())


def fork_and_listen(actor) -> list[str]:
    actor.inherited = actor.datadist.cache_manager
    reader, writer = os.pipe()
    pid = actor.fork(call_in_child, writer)
    os.close(writer)
    with os.fdopen(reader) as lines:
        report = lines.read().splitlines()
    assert actor.wait_for_forked(pid) == 0
    return report


def pull_over_and_over(actor, blocks: list[int], label: str) -> int:
    stop, done = actor.flag(label), 0
    while not stop.is_set():
        actor.pull("kv", KEY, blocks, blocks)
        done += 1
        actor.announce(label)
    return done


@pytest.mark.sanitize
@pytest.mark.threads
@pytest.mark.parametrize("one_sided", [True, False], ids=["one-sided", "request"])
def test_forks_in_the_midst_of_eight_pulling_threads(
    stage: Stage, path: Path, one_sided: bool
) -> None:
    pair = stage.pair(path, one_sided=one_sided, sync_timeout_ms=10000)
    calls = [
        pair.puller.start_call(pull_over_and_over, [thread], f"pull {thread}")
        for thread in range(8)
    ]
    for thread in range(8):
        pair.puller.wait_for(f"pull {thread}")
    for _ in range(3):
        report = pair.puller.call(fork_and_listen)
        assert len(report) == 4
        for line in report:
            seconds, outcome = line.split("|")
            assert float(seconds) < 1
            assert outcome.startswith("LLM_FAILED: ")
            assert "fork" in outcome
    for thread in range(8):
        pair.puller.set_flag(f"pull {thread}")
    assert all(call.result() for call in calls)
    blocks = list(range(8))
    check(pair.target, moved(pair.target.filled(), pair.source.filled(), blocks, blocks))
    linked(stage.engine(44, path, one_sided=one_sided), pair.owner)
