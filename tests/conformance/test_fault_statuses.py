# SPDX-License-Identifier: Apache-2.0
"""Statuses that a runtime returns, injected there: decisions 20 and 29."""

from __future__ import annotations

import pytest

from llm_datadist import BlocksCacheKey, LLMException, LLMStatusCode
from llm_datadist.introspection import MemoryKind
from llm_datadist.status import (
    LLMFeatureNotEnabledError,
    LLMNotExistError,
    LLMOutOfMemoryError,
    LLMParamInvalidError,
)
from llm_datadist.testing import check, faults, moved
from tests.conformance.engines import Engines, cluster_of
from tests.conformance.refusals import GONE, check_refusal, refused
from tests.conformance.stage import OWNER, PULLER, Pair, Stage, linked, notices

S = LLMStatusCode
KEY = BlocksCacheKey(OWNER, 0)
# -1 is no number of a runtime: as one it would be that of LLM_FAILED.
STATUSES = [code for code in S if code not in (S.LLM_SUCCESS, S.LLM_UNKNOWN_ERROR)]
OUT_OF_MEMORY = (
    S.LLM_OUT_OF_MEMORY,
    S.LLM_DEVICE_OUT_OF_MEMORY,
    S.LLM_BLOCKS_OUT_OF_MEMORY,
    S.LLM_NO_FREE_BLOCK,
)
CLASSES = {
    S.LLM_PARAM_INVALID: LLMParamInvalidError,
    S.LLM_KV_CACHE_NOT_EXIST: LLMNotExistError,
    S.LLM_PREFIX_NOT_EXIST: LLMNotExistError,
    S.LLM_FEATURE_NOT_ENABLED: LLMFeatureNotEnabledError,
    **dict.fromkeys(OUT_OF_MEMORY, LLMOutOfMemoryError),
}


@pytest.mark.rule("C10-20", "C2.1-33")
@pytest.mark.sanitize
@pytest.mark.parametrize(("operation", "point"), [("pull", "read"), ("push", "write")])
def test_every_status_of_a_runtime_arrives_under_its_own_name(
    pair: Pair, operation: str, point: str
) -> None:
    transfer = getattr(pair.puller, operation)
    for code in STATUSES:
        rule = f"{point} status={code.name} times=1"
        with pair.puller.faults.inject(rule) as injection:
            with pytest.raises(LLMException) as caught:
                transfer("kv", KEY, [1, 2], [3, 0])
            assert injection.fired == 1
            transfer("kv", KEY, [1, 2], [3, 0])
        error = caught.value
        assert (error.status_code, error.raw) == (code, int(code))
        assert type(error) is CLASSES.get(code, LLMException)
        assert str(code) in str(error)
        assert f'injected by the fault rule "{rule}"' in str(error)
    assert pair.puller.call("counters").failures == len(STATUSES)


@pytest.mark.rule("C10-29", "C2.1-31")
@pytest.mark.parametrize("number", [1, 507899, 0x5010B014, 0x5010B0FF, 0xFFFFFFFE])
def test_a_number_without_a_name_is_a_failure_that_keeps_it(pair: Pair, number: int) -> None:
    with pair.puller.faults.inject(f"read status={number} times=1"):
        error = pair.puller.start_call("pull", "kv", KEY, [0], [0]).exception()
    assert type(error) is LLMException
    assert (error.status_code, error.raw) == (S.LLM_FAILED, number)
    pair.puller.pull("kv", KEY, [0], [1])
    check(pair.target, moved(pair.target.filled(), pair.source.filled(), [0], [1]))


@pytest.mark.parametrize("one_sided", [True, False], ids=["one-sided", "request"])
def test_a_failed_pull_leaves_the_link_and_the_key_as_they_were(
    stage: Stage, path, one_sided: bool
) -> None:
    pair = stage.pair(path, one_sided=one_sided, device_pool=32 << 20)
    with pair.puller.faults.inject("read status=LLM_LINK_BUSY times=2") as injection:
        for _ in range(2):
            with refused(S.LLM_LINK_BUSY, OWNER):
                pair.puller.pull("kv", KEY, [0, 1], [2, 3])
        pair.puller.pull("kv", KEY, [0, 1], [2, 3])
    assert injection.rules[0].calls == 3
    check(pair.target, moved(pair.target.filled(), pair.source.filled(), [0, 1], [2, 3]))


@pytest.mark.parametrize("point", ["connect", "accept", "confirm", "endpoint"])
def test_a_status_while_linking_is_that_of_link_clusters(engines: Engines, point: str) -> None:
    owner, puller = engines.two()
    for code in (S.LLM_PROCESSING_LINK, S.LLM_CLUSTER_NUM_EXCEED_LIMIT, S.LLM_TIMEOUT):
        cluster = cluster_of(owner)
        with faults.inject(f"{point} status={code.name} times=1") as injection:
            assert puller.datadist.link_clusters([cluster], 5000) == (code, [code])
            assert injection.fired == 1
        assert "injected by the fault rule" in cluster.link_detail
    engines.link(puller, owner)


@pytest.mark.parametrize(("point", "peer"), [("connect", OWNER), ("accept", PULLER)])
def test_each_end_knows_its_peer(engines: Engines, point: str, peer: int) -> None:
    owner, puller = engines.two()
    rules = f"{point} status=LLM_LINK_BUSY peer=1; {point} status=LLM_PROCESSING_LINK peer={peer}"
    with faults.inject(rules, must_fire=False) as injection:
        answer = puller.datadist.link_clusters([cluster_of(owner)], 5000)
        assert answer == (S.LLM_PROCESSING_LINK, [S.LLM_PROCESSING_LINK])
        assert [rule.fired for rule in injection.rules] == [0, 1]


def test_memory_that_the_device_refuses(engines: Engines) -> None:
    engine = engines.open(OWNER)
    for point, memory in (("register", MemoryKind.REGISTERED), ("commit", MemoryKind.ALLOCATED)):
        for code in OUT_OF_MEMORY:
            with faults.inject(f"{point} status={code.name}"), pytest.raises(MemoryError) as caught:
                engine.paged(memory=memory)
            assert caught.value.status_code == code
        engine.paged(memory=memory)


@pytest.mark.parametrize("operation", ["pull", "push"])
def test_a_dropped_link_is_a_dead_peer_to_both_ends(stage: Stage, path, operation: str) -> None:
    pair = stage.pair(path, sync_timeout_ms=20000)
    point = {"pull": "read", "push": "write"}[operation]
    transfer = getattr(pair.puller, operation)
    transfer("kv", KEY, [0], [0])
    with pair.puller.faults.inject(f"{point} drop times=1") as injection:
        call = pair.puller.start_call(operation, "kv", KEY, [1], [1])
        # Long before the deadline.
        check_refusal(call.exception(10), S.LLM_TIMEOUT, OWNER)
        assert GONE in str(call.exception())
        assert injection.fired == 1
    with pytest.raises(LLMException, match="connection closed"):
        transfer("kv", KEY, [1], [1])
    for peer, other in ((pair.puller, OWNER), (pair.owner, PULLER)):
        notices(peer, other)
        assert peer.call("counters").links_lost == 1
    assert pair.puller.unlink(pair.owner, force=True) == S.LLM_SUCCESS
    linked(pair.puller, pair.owner)
    pair.puller.pull("kv", KEY, [2], [2])
    changed = moved(pair.target.filled(), pair.source.filled(), [2], [2])
    if operation == "pull":
        changed = moved(changed, pair.source.filled(), [0], [0])
    check(pair.target, changed)


@pytest.mark.parametrize("point", ["connect", "accept", "confirm"])
def test_a_link_that_is_dropped_while_it_is_made(engines: Engines, point: str) -> None:
    owner, puller = engines.two()
    with faults.inject(f"{point} drop times=1") as injection:
        status, _ = puller.datadist.link_clusters([cluster_of(owner)], 5000)
        assert (status, injection.fired) == (S.LLM_LINK_FAILED, 1)
    engines.link(puller, owner)
