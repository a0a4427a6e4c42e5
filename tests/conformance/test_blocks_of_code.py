# SPDX-License-Identifier: Apache-2.0
"""Engines, links and caches that last for a block of code, and caches over arrays (contract 1.12).

Two engines of one process, as the first page of the docs has them.
"""

from __future__ import annotations

import numpy as np
import pytest

from llm_datadist import (
    BlocksCacheKey,
    CacheDesc,
    DataType,
    LLMConfig,
    LLMDataDist,
    LLMException,
    LLMRole,
    LLMStatusCode,
)
from llm_datadist.arrays import register_blocks
from llm_datadist.testing.device import at_host_addresses, options_of

POOL = '{"memory_size": 16777216}'


def opened(number, listens=False):
    config = LLMConfig()
    config.ge_options = options_of(number)
    members = {"listen_ip_info": "127.0.0.1:0"} if listens else {}
    return LLMDataDist.open(
        LLMRole.PROMPT if listens else LLMRole.DECODER,
        number,
        config,
        allow_multiple_instances=True,
        enable_remote_cache_accessible=True,
        mem_pool_cfg=POOL,
        **members,
    )


@pytest.fixture
def owner():
    with opened(1, listens=True) as engine:
        yield engine


@pytest.fixture
def puller():
    with opened(2) as engine:
        yield engine


@pytest.fixture
def touchable():
    if not at_host_addresses():
        pytest.skip("capability device memory at host addresses: the library's is elsewhere")


@pytest.mark.rule("C1.12-1", "C1.12-5", "C1.12-10", "C1.12-12", "C1.12-13", "C1.12-14")
def test_arrays_of_one_engine_reach_those_of_another(owner, puller, touchable):
    source = [np.full((8, 4, 16), 1 + index, np.float16) for index in range(4)]
    target = np.zeros((2, 2, 8, 4, 16), np.float16)
    with (
        register_blocks(owner.cache_manager, source, BlocksCacheKey(1, 0)),
        register_blocks(puller.cache_manager, list(target), kv_stacked=True) as cache,
        puller.linked(owner) as (cluster,),
    ):
        assert cluster.remote_cluster_id == 1
        puller.cache_manager.pull_blocks(BlocksCacheKey(1, 0), cache, [1, 2], [3, 4])
        views = cache.as_numpy()
    for index, tensor in enumerate(target.reshape(4, 8, 4, 16)):
        assert (tensor[3:5] == 1 + index).all()
        assert not tensor[:3].any()
        assert not tensor[5:].any()
        assert np.shares_memory(tensor, views[index])
    assert puller.links() == []
    with pytest.raises(LLMException) as caught:
        puller.cache_manager.pull_blocks(BlocksCacheKey(1, 0), cache, [1], [3])
    assert caught.value.status_code is LLMStatusCode.LLM_KV_CACHE_NOT_EXIST


@pytest.mark.rule("C1.12-10", "C1.12-13")
def test_an_allocated_cache(owner, touchable):
    desc = CacheDesc(2, [4, 8], DataType.DT_BF16)
    with owner.cache_manager.allocate_blocks_cache(desc) as cache:
        views = cache.as_numpy()
        assert [(view.shape, view.dtype) for view in views] == 2 * [((4, 8), np.dtype("uint16"))]
        views[1][:] = 7
        assert (cache.as_numpy()[1] == 7).all()
    assert cache.tensor_addrs == []
    with pytest.raises(LLMException, match="was deallocated"):
        cache.as_numpy()


@pytest.mark.rule("C1.12-10")
def test_memory_of_a_device_is_not_viewed(owner):
    if at_host_addresses():
        pytest.skip("capability device memory elsewhere: the library's is at host addresses")
    with (
        owner.cache_manager.allocate_blocks_cache(CacheDesc(1, [4], DataType.DT_INT8)) as cache,
        pytest.raises(LLMException, match="memory of a device"),
    ):
        cache.as_numpy()


@pytest.mark.rule("C1.12-13")
def test_a_cache_of_an_engine_that_was_finalized(owner):
    with owner.cache_manager.allocate_blocks_cache(CacheDesc(1, [4], DataType.DT_INT8)):
        owner.finalize()


@pytest.mark.rule("C1.12-12")
def test_open_refuses_members_that_there_are_not():
    with pytest.raises(AttributeError, match="LLMConfig has no member 'listen'; there are"):
        LLMDataDist.open(LLMRole.MIX, 1, listen="127.0.0.1:0")
    assert LLMDataDist.llm_engine_instance is None


@pytest.mark.rule("C1.12-15")
def test_no_link_is_left_of_some(owner, puller):
    ip, port = owner.listen_address
    with opened(3, listens=True) as gone:
        nowhere = gone.listen_address
    with (
        pytest.raises(LLMException, match=r"linked\(\) has no link to .*LLM_LINK_FAILED") as caught,
        puller.linked(f"{ip}:{port}", nowhere),
    ):
        pytest.fail("the block ran")
    assert caught.value.status_code is LLMStatusCode.LLM_LINK_FAILED
    assert puller.links() == []


@pytest.mark.rule("C1.12-14")
def test_a_peer_that_is_gone_is_unlinked_by_force(puller):
    with opened(1, listens=True) as owner:
        linked = puller.linked(owner)
        linked.__enter__()
    linked.__exit__(None, None, None)
    assert puller.links() == []


@pytest.mark.rule("C1.12-14")
def test_an_exception_of_the_block_is_what_is_seen(owner, puller):
    with pytest.raises(KeyError, match="mine"), puller.linked(owner.listen_address):
        raise KeyError("mine")
    assert puller.links() == []


@pytest.mark.rule("C1.12-15")
def test_what_is_no_peer(puller):
    for peer in (7, ("127.0.0.1", "26000"), None):
        with pytest.raises(TypeError, match=r"peers\[0\]"), puller.linked(peer):
            pass
    with pytest.raises(LLMException, match="does not listen"), puller.linked(puller):
        pass
    with puller.linked() as none:
        assert none == []
