# SPDX-License-Identifier: Apache-2.0
"""The order of the checks of push_cache and push_blocks: contract 6.1.

The order is checked by breaking each rule together with all that come after it.
"""

from __future__ import annotations

import pytest

from llm_datadist import (
    BlocksCacheKey,
    CacheKey,
    CacheKeyByIdAndIndex,
    LLMDataDistWarning,
    LLMStatusCode,
)
from llm_datadist.testing import Geometry
from tests.conformance.orders import check_order
from tests.conformance.refusals import refused, refused_by_engine
from tests.conformance.stage import OWNER, PULLER, SMALL, linked
from tests.conformance.together import NearPeer, NearStage

S = LLMStatusCode
PI = S.LLM_PARAM_INVALID


@pytest.fixture
def pusher(together: NearStage) -> NearPeer:
    """One-sided, with a contiguous cache "entries" and a paged one "blocks"; not linked."""
    peer = together.engine(PULLER, listen=None)
    peer.contiguous("entries", SMALL, 1, allocated=False)
    peer.register("blocks", SMALL, 2)
    return peer


# ---- Python's checks ----


@pytest.mark.rule("C6.1-2", "C6.1-4", "C6.1-6", "C6.1-7", "C6.1-9", "C6.1-10", "C6.1-16", "C6.1-17")
def test_c6_1_4_order_of_push_cache(pusher: NearPeer) -> None:
    good = {
        "dst_cache_key": CacheKeyByIdAndIndex(OWNER, 1, 0),
        "src_cache": pusher.cache("entries"),
        "src_layer_range": range(2),
        "dst_layer_range": range(2),
    }
    steps = [
        ({"dst_cache_key": BlocksCacheKey(OWNER, 0)}, TypeError, "dst_cache_key"),
        ({"src_cache": None}, TypeError, "src_cache"),
        ({"src_cache": pusher.cache("blocks"), "src_batch_index": "0"}, TypeError, "batch_index"),
        ({"src_batch_index": 2**32}, ValueError, "src_batch_index"),
        ({"src_cache": pusher.cache("blocks")}, PI, "has blocks"),
        ({"tensor_num_per_layer": None}, TypeError, "tensor_num_per_layer"),
        ({"tensor_num_per_layer": -1}, ValueError, "tensor_num_per_layer"),
        ({"tensor_num_per_layer": 0}, PI, "tensor_num_per_layer"),
        ({"src_layer_range": [0]}, TypeError, "src_layer_range"),
        ({"src_layer_range": range(0)}, PI, "src_layer_range"),
        ({"dst_layer_range": range(0, 2, 2)}, PI, "dst_layer_range"),
        ({"src_layer_range": range(1), "dst_layer_range": range(2)}, PI, "one length"),
        ({"size": 2**63}, ValueError, "size"),
        ({"size": 1}, PI, "size must be -1"),
        ({}, S.LLM_NOT_YET_LINK, str(OWNER)),
    ]
    check_order(pusher.manager.push_cache, good, steps)


@pytest.mark.rule("C6.1-3", "C10-30", "C6.1-5", "C6.1-6", "C6.1-7", "C6.1-9", "C6.1-16", "C6.1-17")
@pytest.mark.rule("C6.1-34")
def test_c6_1_5_order_of_push_blocks(pusher: NearPeer) -> None:
    good = {
        "dst_cache_key": BlocksCacheKey(OWNER, 0),
        "src_cache": pusher.cache("blocks"),
        "src_blocks": [0],
        "dst_blocks": [0],
        "src_layer_range": range(2),
        "dst_layer_range": range(2),
    }
    steps = [
        ({"dst_cache_key": None}, TypeError, "dst_cache_key"),
        ({"dst_cache_key": CacheKey(OWNER, 1)}, TypeError, "dst_cache_key"),
        ({"dst_cache_key": CacheKeyByIdAndIndex(OWNER, 1)}, TypeError, "dst_cache_key"),
        ({"src_cache": None}, TypeError, "src_cache"),
        ({"src_blocks": ["0"]}, TypeError, "src_blocks"),
        ({"dst_blocks": 0}, TypeError, "dst_blocks"),
        ({"src_cache": pusher.cache("entries")}, PI, "no blocks"),
        ({"dst_blocks": []}, PI, "dst_blocks is empty"),
        ({"tensor_num_per_layer": "2"}, TypeError, "tensor_num_per_layer"),
        ({"tensor_num_per_layer": 2**32}, ValueError, "tensor_num_per_layer"),
        ({"tensor_num_per_layer": 0}, PI, "tensor_num_per_layer"),
        ({"src_layer_range": range(0)}, PI, "src_layer_range"),
        ({"dst_layer_range": "01"}, TypeError, "dst_layer_range"),
        ({"src_layer_range": range(1), "dst_layer_range": range(2)}, PI, "one length"),
        # Block lists are the engine's, which comes to them after the link.
        ({"src_blocks": [99, 0], "dst_blocks": [99]}, S.LLM_NOT_YET_LINK, str(OWNER)),
    ]
    check_order(pusher.manager.push_blocks, good, steps)


@pytest.mark.rule("C6.1-1")
def test_c6_1_1_request_mode_is_refused_before_anything_else(together: NearStage) -> None:
    manager = together.engine(PULLER, one_sided=False).manager
    for push in (manager.push_cache, manager.push_blocks):
        with refused(PI, "one-sided"):
            push(None, None)


@pytest.mark.rule("C6.1-8")
@pytest.mark.parametrize("given", ["src_layer_range", "dst_layer_range"])
def test_c6_1_8_a_missing_range_is_all_layers_of_the_own_cache(
    pusher: NearPeer, given: str
) -> None:
    key = CacheKeyByIdAndIndex(OWNER, 1, 0)
    with refused(PI, "one length", range(2)):
        pusher.manager.push_cache(key, pusher.cache("entries"), **{given: range(1)})
    with refused(S.LLM_NOT_YET_LINK):
        pusher.manager.push_cache(key, pusher.cache("entries"), **{given: range(5, 7)})


# ---- the engine's checks ----


def push_blocks(peer: NearPeer, name: str, key, src=(0,), dst=(0,), **options) -> None:
    peer.manager.push_blocks(key, peer.cache(name), list(src), list(dst), **options)


@pytest.mark.rule("C6.1-16")
def test_c6_1_16_the_own_cache_comes_before_the_link(pusher: NearPeer) -> None:
    for name in ("entries", "blocks"):
        pusher.manager.unregister_cache(pusher.cache(name).cache_id)
    with refused_by_engine("push_blocks", S.LLM_KV_CACHE_NOT_EXIST, "id 2"):
        push_blocks(pusher, "blocks", BlocksCacheKey(OWNER, 0))
    with refused_by_engine("push_cache", S.LLM_KV_CACHE_NOT_EXIST, "id 1"):
        pusher.manager.push_cache(CacheKeyByIdAndIndex(OWNER, 1, 0), pusher.cache("entries"))


@pytest.mark.rule("C6.1-17", "C6.1-18")
def test_c6_1_17_the_link_comes_before_the_flag_of_the_own_cache(together: NearStage) -> None:
    owner = together.engine(OWNER)
    peer = together.engine(PULLER, listen=None)
    peer.register("hidden", SMALL, 2, remote_accessible=False)
    with refused_by_engine("push_blocks", S.LLM_NOT_YET_LINK, OWNER):
        push_blocks(peer, "hidden", BlocksCacheKey(OWNER, 0))
    linked(peer, owner)
    # And the flag before the lookup: the owner has no cache at all.
    with refused_by_engine("push_blocks", PI, "this engine", "not remote accessible"):
        push_blocks(peer, "hidden", BlocksCacheKey(OWNER, 0), src=[99])


@pytest.fixture
def both(together: NearStage) -> tuple[NearPeer, NearPeer]:
    """A pusher and an owner, whose cache of model 1 is hidden, of model 0 not; linked."""
    owner = together.engine(OWNER)
    pusher = together.engine(PULLER, listen=None)
    owner.register("kv", Geometry(num_tensors=2), 1, 0)
    owner.register("hidden", Geometry(num_tensors=2), 1, 1, remote_accessible=False)
    pusher.register("kv", SMALL, 2)
    linked(pusher, owner)
    return pusher, owner


@pytest.mark.rule("C6.1-19", "C6.1-20")
def test_c6_1_20_the_lookup_comes_before_what_was_found_is_looked_at(both) -> None:
    pusher, _ = both
    bad = {"src": [99], "dst": [99], "src_layer_range": range(7, 8), "dst_layer_range": range(7, 8)}
    with refused_by_engine("push_blocks", S.LLM_KV_CACHE_NOT_EXIST, "model_id", 5):
        push_blocks(pusher, "kv", BlocksCacheKey(OWNER, 5), **bad)
    with refused_by_engine("push_blocks", PI, "the peer", "not remote accessible"):
        push_blocks(pusher, "kv", BlocksCacheKey(OWNER, 1), **bad)
    one = {"src_layer_range": range(1), "dst_layer_range": range(1)}
    push_blocks(pusher, "kv", BlocksCacheKey(OWNER, 0), **one)


@pytest.mark.rule("C6.1-20", "C6.1-22")
def test_c6_1_22_layers_out_of_range_on_either_side(both) -> None:
    pusher, owner = both
    key = BlocksCacheKey(OWNER, 0)
    with refused_by_engine("push_blocks", PI, "dst_layer_range", "remote"):
        push_blocks(pusher, "kv", key, src_layer_range=range(1), dst_layer_range=range(1, 2))
    with refused_by_engine("push_blocks", PI, "src_layer_range", "local"):
        push_blocks(pusher, "kv", key, src_layer_range=range(2, 3), dst_layer_range=range(1))
    # A layer number that times the tensors of a layer no longer fits 32 bits is out of range, too.
    far = range(2**31, 2**31 + 1)
    with refused_by_engine("push_blocks", PI, "src_layer_range"):
        push_blocks(pusher, "kv", key, src_layer_range=far, dst_layer_range=range(1))
    with refused_by_engine("push_blocks", PI, "dst_layer_range"):
        push_blocks(pusher, "kv", key, src_layer_range=range(1), dst_layer_range=far)
    assert owner.call("read", "kv").tolist() == Geometry(num_tensors=2).filled(1).tolist()


@pytest.mark.rule("C6.1-22")
def test_c6_1_22_a_layer_that_does_not_divide_the_own_tensors(both) -> None:
    pusher, _ = both
    with refused_by_engine("push_blocks", PI, 3, 4):
        push_blocks(
            pusher,
            "kv",
            BlocksCacheKey(OWNER, 0),
            src_layer_range=range(1),
            dst_layer_range=range(1),
            tensor_num_per_layer=3,
        )


@pytest.mark.rule("C6.1-29")
@pytest.mark.parametrize("src", [[], (), None])
def test_c6_1_29_no_source_blocks(both, src) -> None:
    pusher, owner = both
    one = {"src_layer_range": range(1), "dst_layer_range": range(1)}
    with refused_by_engine("push_blocks", PI, "src_blocks is empty"):
        pusher.manager.push_blocks(BlocksCacheKey(OWNER, 0), pusher.cache("kv"), src, [0], **one)
    assert owner.call("read", "kv").tolist() == Geometry(num_tensors=2).filled(1).tolist()


@pytest.mark.rule("C6.1-30")
def test_c6_1_30_the_own_cluster_is_not_linked_unless_it_is(together: NearStage) -> None:
    peer = together.engine(OWNER)
    peer.register("from", SMALL, 1)
    peer.register("to", SMALL, 2, 0)
    with refused_by_engine("push_blocks", S.LLM_NOT_YET_LINK, OWNER):
        push_blocks(peer, "from", BlocksCacheKey(OWNER, 0))
    with pytest.warns(LLMDataDistWarning, match="own cluster id"):
        linked(peer, peer)
    push_blocks(peer, "from", BlocksCacheKey(OWNER, 0), [3, 4], [5, 9])
    after = peer.call("read", "to")
    assert after[:, [5, 9]].tolist() == SMALL.filled(1)[:, [3, 4]].tolist()
    assert after[:, 0].tolist() == SMALL.filled(2)[:, 0].tolist()
