# SPDX-License-Identifier: Apache-2.0
"""pull_blocks in one-sided mode, blocks to blocks: contract 5.1 to 5.4 and 5.6, on every path."""

from __future__ import annotations

import array
from typing import Any

import numpy as np
import pytest

from llm_datadist import BlocksCacheKey, LLMStatusCode
from llm_datadist.testing import Geometry, check, moved
from tests.conformance.engines import Engines, blocks_of
from tests.conformance.paths import Path
from tests.conformance.refusals import refused, refused_by_engine
from tests.conformance.stage import OWNER, PULLER, SMALL, Pair, Stage, linked
from tests.conformance.tensors import ForeignTensor

S = LLMStatusCode
KEY = BlocksCacheKey(OWNER, 0)

LISTS = {
    "one block": ([5], [9]),
    "adjacent on both sides": ([2, 3, 4, 5], [8, 9, 10, 11]),
    "adjacent on one side": ([2, 3, 4, 5], [1, 3, 5, 7]),
    "scattered": ([11, 0, 15, 3, 7], [4, 15, 1, 0, 9]),
    "backwards": (list(range(15, -1, -1)), list(range(16))),
    "everything": (list(range(16)), list(range(16))),
    "one source block many times": ([6, 6, 6, 6], [0, 3, 4, 12]),
    "one pair many times": ([6, 2, 6, 6], [0, 3, 0, 0]),
}


@pytest.mark.rule("C5.3-8", "C5.3-11", "C5.3-13")
@pytest.mark.sanitize
@pytest.mark.parametrize("name", LISTS)
def test_block_lists(pair: Pair, name: str) -> None:
    src, dst = LISTS[name]
    pair.puller.pull("kv", KEY, src, dst)
    check(pair.target, moved(pair.target.filled(), pair.source.filled(), src, dst))
    check(pair.source, pair.source.filled())


@pytest.mark.rule("C5.1-8", "C10-32")
@pytest.mark.sanitize
@pytest.mark.parametrize(
    "convert",
    [
        list,
        tuple,
        lambda ids: array.array("Q", ids),
        lambda ids: array.array("q", ids),
        lambda ids: np.array(ids, np.uint64),
        lambda ids: np.array(ids, np.int64),
        lambda ids: [np.int32(each) for each in ids],
        lambda ids: np.array([ids, ids], np.int64)[0],
        lambda ids: array.array("i", ids),
        lambda ids: array.array("I", ids),
        lambda ids: np.array(ids, np.int32),
        lambda ids: np.array(ids, np.uint32),
        lambda ids: np.array([ids, ids], np.int32)[1],
        lambda ids: np.array(ids, np.int32)[::-1][::-1],
    ],
    ids=[
        "list",
        "tuple",
        "array Q",
        "array q",
        "uint64",
        "int64",
        "list of numpy",
        "row",
        "array i",
        "array I",
        "int32",
        "uint32",
        "row of int32",
        "view of int32",
    ],
)
def test_forms_of_block_ids(pair: Pair, convert) -> None:
    src, dst = [11, 0, 15, 3], [4, 15, 1, 0]
    pair.puller.pull("kv", KEY, convert(src), convert(dst))
    check(pair.target, moved(pair.target.filled(), pair.source.filled(), src, dst))


@pytest.mark.rule("C10-32")
def test_ranges_of_block_ids(pair: Pair) -> None:
    pair.puller.pull("kv", KEY, range(3, 12, 2), range(9, 4, -1))
    check(
        pair.target,
        moved(pair.target.filled(), pair.source.filled(), [3, 5, 7, 9, 11], [9, 8, 7, 6, 5]),
    )


@pytest.mark.rule("C10-32")
@pytest.mark.parametrize("dtype", [np.int32, np.uint32, np.int64, np.uint64])
def test_tensors_of_other_packages_as_block_ids(engines: Engines, path: Path, dtype: Any) -> None:
    owner, puller = engines.two(path)
    source, target = owner.paged(model_id=0), puller.paged()
    engines.link(puller, owner)
    src, dst = np.array([3, 0], dtype), np.array([1, 2], dtype)
    puller.manager.pull_blocks(blocks_of(), target.cache, ForeignTensor(src), ForeignTensor(dst))
    assert np.array_equal(target.now[:, [1, 2]], source.first[:, [3, 0]])


@pytest.mark.rule("C5.1-8", "C10-32")
@pytest.mark.parametrize("wrong", [[-1], [2**64], ["0"], [0.0], np.array([0], np.int16), "0"])
def test_other_forms_of_block_ids_are_type_errors(stage: Stage, path: Path, wrong) -> None:
    pair = stage.pair(path)
    for src, dst in ((wrong, [0]), ([0], wrong)):
        with pytest.raises(TypeError):
            pair.puller.pull("kv", KEY, src, dst)
    check(pair.target, pair.target.filled())


# (N, tensors of the owner, tensors of the puller, source range, destination range): which tensors
# go where follows.
RANGES = {
    "both": (2, 8, 8, range(1, 3), range(2, 4)),
    "first layer": (2, 8, 8, range(1), range(1)),
    "last layer": (2, 8, 8, range(3, 4), range(3, 4)),
    "only the source": (2, 8, 4, range(1, 3), None),
    "only the destination": (2, 4, 8, None, range(2, 4)),
    "one tensor a layer": (1, 8, 8, range(5, 8), range(0, 3)),
    "four tensors a layer": (4, 8, 8, range(1, 2), range(0, 1)),
    "empty ranges are not given": (2, 4, 4, range(0), range(3, 3)),
    "N is ignored without ranges": (7, 4, 4, None, None),
}


@pytest.mark.rule("C5.4-2", "C5.4-3", "C5.4-4", "C5.4-5", "C5.4-6")
@pytest.mark.parametrize("name", RANGES)
def test_layer_ranges(stage: Stage, path: Path, name: str) -> None:
    n, owned, own, src_range, dst_range = RANGES[name]
    source_shape, target_shape = Geometry(num_tensors=owned), Geometry(num_tensors=own)
    owner = stage.engine(OWNER, path)
    puller = stage.engine(PULLER, path, listen=None)
    source = path.cache(owner, "kv", source_shape, 1, 0)
    target = path.cache(puller, "kv", target_shape, 2)
    linked(puller, owner)
    src, dst = [3, 0, 9], [1, 2, 15]
    given = {}
    if src_range is not None:
        given["src_layer_range"] = src_range
    if dst_range is not None:
        given["dst_layer_range"] = dst_range
    puller.pull("kv", KEY, src, dst, tensor_num_per_layer=n, **given)

    def tensors(layers: range | None, count: int) -> list[int]:
        return [layer * n + i for layer in layers for i in range(n)] if layers else [*range(count)]

    expected = moved(
        target.filled(),
        source.filled(),
        src,
        dst,
        tensors(src_range, owned),
        tensors(dst_range, own),
    )
    check(target, expected)


REFUSED_RANGES = {
    # name: tensors of both, source range, destination range
    "a range needs N to divide the tensors": (1, range(1), range(1)),
    "unequal counts": (4, range(1), range(2)),
    "the destination is out of range": (4, range(1), range(2, 3)),
    "the source is out of range": (4, range(2, 3), range(1)),
    "only a source range, not the local count": (4, range(1), None),
    "only a destination range, not the remote count": (4, None, range(1)),
    "a step": (4, range(0, 2, 2), range(1)),
    "a negative start": (4, range(-1, 1), range(2)),
}


@pytest.mark.rule("C5.2-7", "C5.2-8", "C5.4-1", "C5.4-4", "C5.4-5", "C5.4-7", "C5.4-11")
@pytest.mark.parametrize("name", REFUSED_RANGES)
def test_refused_layer_ranges(stage: Stage, path: Path, name: str) -> None:
    tensors, src_range, dst_range = REFUSED_RANGES[name]
    pair = stage.pair(path, Geometry(num_tensors=tensors))
    ranges = {"src_layer_range": src_range, "dst_layer_range": dst_range}
    with refused(S.LLM_PARAM_INVALID):
        pair.puller.pull(
            "kv",
            KEY,
            [0],
            [0],
            **{key: given for key, given in ranges.items() if given is not None},
        )
    check(pair.target, pair.target.filled())


@pytest.mark.rule("C5.1-11")
def test_no_tensors_a_layer_are_refused(pair: Pair) -> None:
    with refused(S.LLM_PARAM_INVALID):
        pair.puller.pull("kv", KEY, [0], [0], tensor_num_per_layer=0)


@pytest.mark.rule("C5.3-17", "C5.6-1")
def test_different_tensor_counts_are_refused(stage: Stage, path: Path) -> None:
    pair = stage.pair(path, Geometry(num_tensors=4))
    path.cache(pair.puller, "more", Geometry(num_tensors=6), 3)
    with refused_by_engine("pull_blocks", S.LLM_PARAM_INVALID, 4, 6, OWNER):
        pair.puller.pull("more", KEY, [0], [0])


@pytest.mark.rule("C5.3-15", "C10-13")
def test_different_block_sizes_are_refused(stage: Stage, path: Path) -> None:
    pair = stage.pair(path, Geometry(block_bytes=512))
    other = path.cache(pair.puller, "other", Geometry(block_bytes=1024), 3)
    with refused_by_engine("pull_blocks", S.LLM_PARAM_INVALID, 512, 1024, OWNER):
        pair.puller.pull("other", KEY, [0], [0])
    check(other, other.filled())


def test_different_numbers_of_blocks_are_fine(stage: Stage, path: Path) -> None:
    pair = stage.pair(path, Geometry(num_blocks=16))
    other = path.cache(pair.puller, "other", Geometry(num_blocks=40), 3)
    pair.puller.pull("other", KEY, [15, 0], [39, 20])
    check(other, moved(other.filled(), pair.source.filled(), [15, 0], [39, 20]))


@pytest.mark.parametrize(
    "geometry",
    [
        Geometry(num_tensors=1),
        Geometry(num_tensors=3, num_blocks=1),
        Geometry(num_tensors=2, num_blocks=3, block_bytes=8),
        Geometry(num_tensors=2, num_blocks=700, block_bytes=1032),
        Geometry(num_tensors=1, num_blocks=3, block_bytes=(1 << 20) + 8),
    ],
    ids=[
        "one tensor",
        "one block",
        "8 bytes a block",
        "many odd blocks",
        "more than 1 MiB a block",
    ],
)
def test_geometries(stage: Stage, path: Path, geometry: Geometry) -> None:
    pair = stage.pair(path, geometry)
    rng = np.random.default_rng(20)
    src = rng.permutation(geometry.num_blocks)
    dst = rng.permutation(geometry.num_blocks)
    pair.puller.pull("kv", KEY, src, dst)
    check(pair.target, moved(pair.target.filled(), pair.source.filled(), src, dst))


@pytest.mark.rule("C9.1-19")
def test_many_caches_told_apart_by_model_id(stage: Stage, path: Path) -> None:
    models = [0, 1, 2, 77, 2**64 - 1]
    owner = stage.engine(OWNER, path)
    puller = stage.engine(PULLER, path, listen=None)
    sources = {m: path.cache(owner, f"m{m}", SMALL, 10 + i, m) for i, m in enumerate(models)}
    target = path.cache(puller, "kv", SMALL, 2, 0)
    linked(puller, owner)
    expected = target.filled()
    for block, model in enumerate(models):
        puller.pull("kv", BlocksCacheKey(OWNER, model), [3], [block])
        expected = moved(expected, sources[model].filled(), [3], [block])
    check(target, expected)
    # In one-sided mode a key is never consumed.
    puller.pull("kv", BlocksCacheKey(OWNER, 77), [3], [3])


def test_the_passive_end_pulls_and_pushes(stage: Stage, path: Path) -> None:
    pair = stage.pair(path)
    mirror = path.cache(pair.owner, "mirror", SMALL, 5)
    keyed = path.cache(pair.puller, "keyed", SMALL, 6, 9)
    # A cache without a key of the initiator cannot be named; the one with a key was made after the
    # link.
    pair.puller.unlink(pair.owner)
    linked(pair.puller, pair.owner)
    key = BlocksCacheKey(PULLER, 9)
    pair.owner.pull("mirror", key, [3, 9], [9, 1])
    check(mirror, moved(mirror.filled(), keyed.filled(), [3, 9], [9, 1]))
    pair.owner.push("kv", key, [2, 7], [0, 15])
    check(keyed, moved(keyed.filled(), pair.source.filled(), [2, 7], [0, 15]))


# ---- what is refused, in the order of 5.1 and 5.2


@pytest.mark.rule("C5.2-9")
def test_not_linked(stage: Stage, path: Path) -> None:
    puller = stage.engine(PULLER, path)
    path.cache(puller, "kv", SMALL, 2)
    with refused_by_engine("pull_blocks", S.LLM_NOT_YET_LINK, OWNER):
        puller.pull("kv", KEY, [0], [0])


@pytest.mark.rule("C5.2-12", "C5.2-13")
def test_local_arguments_win_over_not_linked_and_own_cluster_over_all(stage: Stage) -> None:
    puller = stage.engine(PULLER)
    puller.register("kv", SMALL, 2)
    with refused(S.LLM_PARAM_INVALID):
        puller.pull("kv", KEY, [0, 1], [0], src_layer_range=range(9), dst_layer_range=range(9))
    puller.call("unregister", "kv")
    with refused(S.LLM_PARAM_INVALID, PULLER):
        puller.pull("kv", BlocksCacheKey(PULLER, 0), [0], [0])
    with refused_by_engine("pull_blocks", S.LLM_KV_CACHE_NOT_EXIST, 1):
        puller.pull("kv", KEY, [0], [0])


@pytest.mark.rule("C5.2-2")
@pytest.mark.sanitize
def test_the_own_cluster(pair: Pair) -> None:
    with refused_by_engine("pull_blocks", S.LLM_PARAM_INVALID, PULLER):
        pair.puller.pull("kv", BlocksCacheKey(PULLER, 0), [0], [0])


@pytest.mark.rule("C4.5-10")
@pytest.mark.sanitize
def test_an_unknown_model_id_and_the_text_names_those_that_are_there(stage: Stage, path) -> None:
    owner = stage.engine(OWNER, path)
    puller = stage.engine(PULLER, path, listen=None)
    for model in (3, 14):
        path.cache(owner, f"m{model}", SMALL, 1, model)
    target = path.cache(puller, "kv", SMALL, 2, 9)
    linked(puller, owner)
    with refused_by_engine("pull_blocks", S.LLM_KV_CACHE_NOT_EXIST, OWNER, 9, 3, 14, "model_id"):
        puller.pull("kv", BlocksCacheKey(OWNER, 9), [0], [0])
    check(target, target.filled())
    puller.pull("kv", BlocksCacheKey(OWNER, 14), [0], [0])


@pytest.mark.rule("C5.2-6", "C5.3-10", "C5.3-12", "C5.6-8")
@pytest.mark.sanitize
@pytest.mark.parametrize(
    ("src", "dst", "wrong"),
    [
        ([0, 16], [0, 1], 16),
        ([0, 2**64 - 1], [0, 1], 2**64 - 1),
        ([0, 1], [1, 16], 16),
        ([0, 1], [1, 2**63], 2**63),
        ([14, 15, 16], [0, 1, 2], 16),
        ([0, 1, 2], [14, 15, 16], 16),
    ],
)
def test_a_block_out_of_range_on_either_side(pair: Pair, src, dst, wrong: int) -> None:
    with refused_by_engine("pull_blocks", S.LLM_PARAM_INVALID, wrong, SMALL.num_blocks):
        pair.puller.pull("kv", KEY, src, dst)
    check(pair.target, pair.target.filled())
    pair.puller.pull("kv", KEY, [0], [0])


@pytest.mark.rule("C5.3-9")
@pytest.mark.sanitize
def test_lists_of_unequal_length(pair: Pair) -> None:
    with refused_by_engine("pull_blocks", S.LLM_PARAM_INVALID, 3, 2):
        pair.puller.pull("kv", KEY, [0, 1, 2], [0, 1])
    check(pair.target, pair.target.filled())


@pytest.mark.rule("C5.1-10", "C5.1-12")
@pytest.mark.parametrize(("src", "dst"), [([], [0]), ([0], []), ([], []), ((), (0,))])
def test_empty_lists(pair: Pair, src, dst) -> None:
    with refused(S.LLM_PARAM_INVALID):
        pair.puller.pull("kv", KEY, src, dst)


@pytest.mark.rule("C4.3-11", "C5.6-1", "C5.6-9")
def test_a_host_cache_is_not_remote_accessible_unless_asked_for(stage: Stage) -> None:
    from llm_datadist import Placement

    owner = stage.engine(OWNER)
    puller = stage.engine(PULLER, listen=None)
    owner.register("hidden", SMALL, 1, 0, placement=Placement.HOST)
    shown = owner.register("shown", SMALL, 3, 1, placement=Placement.HOST, remote_accessible=True)
    target = puller.register("kv", SMALL, 2)
    puller.register("local", SMALL, 4, placement=Placement.HOST)
    linked(puller, owner)
    with refused_by_engine("pull_blocks", S.LLM_PARAM_INVALID, OWNER, "remote"):
        puller.pull("kv", BlocksCacheKey(OWNER, 0), [0], [0])
    # In one-sided mode the local cache must be accessible, too.
    with refused_by_engine("pull_blocks", S.LLM_PARAM_INVALID, "remote"):
        puller.pull("local", BlocksCacheKey(OWNER, 1), [0], [0])
    puller.pull("kv", BlocksCacheKey(OWNER, 1), [0], [0])
    check(target, moved(target.filled(), shown.filled(), [0], [0]))


@pytest.mark.rule("C1.10-1")
def test_a_cache_manager_kept_after_finalize_answers_a_status(stage: Stage) -> None:
    peer = stage.engine(PULLER)
    peer.register("kv", SMALL, 2)
    statuses = peer.call(use_after_finalize)
    assert statuses == dict.fromkeys(("pull", "register", "unregister"), S.LLM_ENGINE_FINALIZED)


def use_after_finalize(actor) -> dict[str, LLMStatusCode]:
    from llm_datadist import LLMException

    manager, held = actor.datadist.cache_manager, actor.caches["kv"]
    actor.datadist.finalize()
    calls = {
        "pull": lambda: manager.pull_blocks(KEY, held.cache, [0], [0]),
        "register": lambda: manager.register_blocks_cache(SMALL.desc(), held.tensor_addrs),
        "unregister": lambda: manager.unregister_cache(1),
    }
    statuses = {}
    for name, call in calls.items():
        try:
            call()
        except LLMException as error:
            statuses[name] = error.status_code
    return statuses
