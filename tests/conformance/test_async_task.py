# SPDX-License-Identifier: Apache-2.0
"""The thread of transfer_cache_async and what its task tells: contract 6.2, decisions 16 and 17."""

from __future__ import annotations

import threading

import pytest

from llm_datadist import (
    BlocksCacheKey,
    LLMException,
    LLMStatusCode,
    TransferConfig,
    TransferWithCacheKeyConfig,
)
from llm_datadist.testing import Geometry, PeerCache, check, moved
from tests.conformance.layers import WAIT_MS, Held, Ready
from tests.conformance.stage import OWNER, PULLER, linked
from tests.conformance.together import NearPeer, NearStage

S = LLMStatusCode
FOUR_LAYERS = Geometry(num_tensors=8)
OTHER = 8


class Three:
    """A sender that linked to two owners, each with a cache of the same shape as its own."""

    def __init__(self, together: NearStage, one_sided: bool) -> None:
        self.one_sided = one_sided
        self.owners = [together.engine(each, one_sided=one_sided) for each in (OWNER, OTHER)]
        self.destinations = {
            each.cluster_id: each.register("kv", FOUR_LAYERS, each.cluster_id, 0)
            for each in self.owners
        }
        self.sender: NearPeer = together.engine(PULLER, listen=None, one_sided=one_sided)
        self.source: PeerCache = self.sender.register("kv", FOUR_LAYERS, 1)
        linked(self.sender, *self.owners)

    def config(self, cluster_id: int, src: range, dst: range | None = None, model_id: int = 0):
        """From own layers to the owner's, the same ones unless dst says otherwise."""
        dst = dst or src
        if self.one_sided:
            return TransferWithCacheKeyConfig(BlocksCacheKey(cluster_id, model_id), src, dst)
        addrs = self.destinations[cluster_id].tensor_addrs if model_id == 0 else (4096,) * 8
        return TransferConfig(cluster_id, addrs[2 * dst.start : 2 * dst.stop], src)

    def start(self, layers, *configs):
        # All blocks of the source, so that whole tensors arrive.
        every = list(range(FOUR_LAYERS.num_blocks))
        return self.sender.manager.transfer_cache_async(
            self.sender.cache("kv"), layers, list(configs), every, every
        )

    def check(self, cluster_id: int, src: range = range(0), dst: range | None = None) -> None:
        """These layers have arrived, and nothing else."""

        def tensors(layers: range) -> list[int]:
            return [tensor for layer in layers for tensor in (2 * layer, 2 * layer + 1)]

        cache = self.destinations[cluster_id]
        every = range(FOUR_LAYERS.num_blocks)
        expected = moved(
            cache.filled(), self.source.filled(), every, every, tensors(src), tensors(dst or src)
        )
        check(cache, expected)


@pytest.fixture(params=[True, False], ids=["one-sided", "request"])
def three(together: NearStage, request: pytest.FixtureRequest) -> Three:
    return Three(together, request.param)


# ---- the thread ----


@pytest.mark.rule("C6.2-16")
def test_c6_2_16_one_thread_that_is_no_daemon_and_the_call_returns_at_once(three: Three) -> None:
    layers, held = Ready(), Held()
    assert three.start(layers, three.config(OWNER, range(4))).synchronize(WAIT_MS) == S.LLM_SUCCESS
    (thread,) = layers.threads
    assert thread is not threading.current_thread()
    assert not thread.daemon
    task = three.start(held, three.config(OWNER, range(1)))
    assert held.reached.acquire(timeout=WAIT_MS / 1000)
    assert task.synchronize(0) == S.LLM_TIMEOUT
    held.go_on.release()
    assert task.synchronize(WAIT_MS) == S.LLM_SUCCESS


@pytest.mark.rule("C6.2-17")
def test_c6_2_17_each_covered_layer_is_asked_for_once_in_order_without_a_timeout(
    three: Three,
) -> None:
    layers = Ready()
    task = three.start(
        layers,
        three.config(OTHER, range(3, 4)),
        three.config(OWNER, range(2)),
        three.config(OTHER, range(1, 2), range(2, 3)),
    )
    assert task.synchronize(WAIT_MS) == S.LLM_SUCCESS
    assert layers.asked == [(0, None), (1, None), (3, None)]
    three.check(OWNER, range(2))


@pytest.mark.rule("C6.2-18")
@pytest.mark.parametrize("falsy", [False, None, 0, ""])
def test_c6_2_18_a_falsy_layer_is_an_invalid_parameter_for_all_that_cover_it(
    three: Three, falsy
) -> None:
    layers = Ready({2: lambda: falsy})
    task = three.start(layers, three.config(OWNER, range(4)), three.config(OTHER, range(2)))
    assert task.get_results(WAIT_MS) == [S.LLM_PARAM_INVALID, S.LLM_SUCCESS]
    assert task.synchronize(WAIT_MS) == S.LLM_PARAM_INVALID
    assert layers.asked == [(0, None), (1, None), (2, None)]
    three.check(OWNER, range(2))
    three.check(OTHER, range(2))


@pytest.mark.rule("C6.2-18", "C6.2-31")
def test_c6_2_18_what_does_not_cover_the_falsy_layer_is_left_unfinished(three: Three) -> None:
    layers = Ready({1: lambda: False})
    task = three.start(layers, three.config(OWNER, range(2)), three.config(OTHER, range(2, 4)))
    assert task.get_results(WAIT_MS) == [S.LLM_PARAM_INVALID, None]
    three.check(OTHER)


@pytest.mark.rule("C6.2-20", "C6.2-39")
def test_c6_2_20_a_failing_config_gets_its_status_and_everything_stops(three: Three) -> None:
    layers = Ready()
    unlinked = three.config(OWNER, range(1, 4))
    unlinked.dst_cluster_id = 99
    if three.one_sided:
        unlinked = TransferWithCacheKeyConfig(BlocksCacheKey(99, 0), range(1, 4), range(1, 4))
    task = three.start(
        layers, three.config(OWNER, range(4)), unlinked, three.config(OTHER, range(4))
    )
    assert task.get_results(WAIT_MS) == [None, S.LLM_NOT_YET_LINK, None]
    assert task.synchronize(WAIT_MS) == S.LLM_NOT_YET_LINK
    assert isinstance(task.exception(), LLMException)
    assert task.exception().status_code == S.LLM_NOT_YET_LINK
    assert layers.asked == [(0, None), (1, None)]
    # In list order: what comes before it has this layer, what comes after has not.
    three.check(OWNER, range(2))
    three.check(OTHER, range(1))


@pytest.mark.rule("C6.2-21")
def test_c6_2_21_success_comes_with_the_last_layer_of_each(three: Three) -> None:
    layers = Ready({3: lambda: False})
    task = three.start(layers, three.config(OTHER, range(3)), three.config(OWNER, range(1, 4)))
    assert task.get_results(WAIT_MS) == [S.LLM_SUCCESS, S.LLM_PARAM_INVALID]
    three.check(OTHER, range(3))


@pytest.mark.rule("C6.2-22", "C6.2-24", "C10-16")
@pytest.mark.parametrize(
    ("src", "dst"),
    [(range(2, 4), range(2)), (range(1, 3), range(2, 4)), (range(3, 4), range(3, 4))],
)
def test_c6_2_24_destination_layers_count_from_the_start_of_the_source_range(
    three: Three, src: range, dst: range
) -> None:
    task = three.start(Ready(), three.config(OWNER, src, dst))
    assert task.get_results(WAIT_MS) == [S.LLM_SUCCESS]
    three.check(OWNER, src, dst)


# ---- the task ----


@pytest.mark.rule("C6.2-30", "C6.2-32", "C6.2-34")
def test_c6_2_30_while_it_runs_everything_is_a_timeout_which_cancels_nothing(
    three: Three,
) -> None:
    layers = Held()
    task = three.start(layers, three.config(OWNER, range(2)), three.config(OTHER, range(2)))
    assert layers.reached.acquire(timeout=WAIT_MS / 1000)
    for _ in range(2):
        assert task.get_results(1) == [S.LLM_TIMEOUT, S.LLM_TIMEOUT]
        assert task.synchronize(0) == S.LLM_TIMEOUT
    layers.go_on.release(2)
    assert task.synchronize() == S.LLM_SUCCESS
    for _ in range(2):
        assert task.get_results() == [S.LLM_SUCCESS, S.LLM_SUCCESS]
        assert task.synchronize(0) == S.LLM_SUCCESS
    assert task.exception() is None
    three.check(OWNER, range(2))


@pytest.mark.rule("C6.2-31", "C6.2-33", "C6.2-40", "C10-17")
def test_c10_17_an_exception_in_synchronize_layer_is_failed_and_can_be_asked_for(
    three: Three,
) -> None:
    def fail() -> bool:
        raise ArithmeticError("not computed")

    task = three.start(
        Ready({1: fail}), three.config(OWNER, range(1)), three.config(OTHER, range(4))
    )
    assert task.get_results(WAIT_MS) == [S.LLM_SUCCESS, None]
    assert task.synchronize(WAIT_MS) == S.LLM_FAILED
    assert isinstance(task.exception(), ArithmeticError)
    three.check(OWNER, range(1))
    three.check(OTHER, range(1))


@pytest.mark.rule("C6.2-32")
def test_c6_2_32_the_first_status_that_is_no_success(three: Three) -> None:
    layers = Ready({1: lambda: False})
    task = three.start(layers, three.config(OTHER, range(1)), three.config(OWNER, range(2)))
    assert task.get_results(WAIT_MS) == [S.LLM_SUCCESS, S.LLM_PARAM_INVALID]
    assert task.synchronize(WAIT_MS) == S.LLM_PARAM_INVALID


@pytest.mark.rule("C6.2-35")
def test_c6_2_35_two_configs_for_one_cluster_share_a_result(three: Three) -> None:
    layers = Ready({3: lambda: False})
    task = three.start(layers, three.config(OWNER, range(1)), three.config(OWNER, range(2, 4)))
    assert task.get_results(WAIT_MS) == [S.LLM_PARAM_INVALID, S.LLM_PARAM_INVALID]
    three.check(OWNER, range(0, 3, 2))


@pytest.mark.rule("C6.2-30")
@pytest.mark.parametrize("method", ["synchronize", "get_results"])
def test_c6_2_30_timeouts_are_uint32(three: Three, method: str) -> None:
    wait = getattr(three.start(Ready()), method)
    for value, error in ((-1, ValueError), (2**32, ValueError), ("1", TypeError)):
        with pytest.raises(error):
            wait(value)
    wait(2**32 - 1)


@pytest.mark.rule("C6.2-20", "C1.10-24")
def test_c6_2_20_finalize_while_a_task_waits_ends_it_with_a_status(three: Three) -> None:
    layers = Held()
    task = three.start(layers, three.config(OWNER, range(4)))
    assert layers.reached.acquire(timeout=WAIT_MS / 1000)
    three.sender.finalize()
    layers.go_on.release()
    assert task.get_results(WAIT_MS) == [S.LLM_ENGINE_FINALIZED]
    three.check(OWNER)
