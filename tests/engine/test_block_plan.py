# SPDX-License-Identifier: Apache-2.0
"""Block plans against an oracle: which requests are refused, and which bytes move."""

from __future__ import annotations

import ctypes
import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.engine.engine_shim import PARAM_INVALID, SUCCESS, Shim
from tests.engine.plan_oracle import (
    DEVICE,
    HOST,
    Cache,
    Pull,
    Push,
    Refused,
    Run,
    ceil_div,
    collect,
    execute,
    merged,
)

pytestmark = pytest.mark.sanitize

PLACEMENTS = st.sampled_from([HOST, DEVICE])
GAPS = st.lists(st.integers(0, 9), min_size=1, max_size=3).map(tuple)
EDGES = st.sampled_from([0, 1, 2, 3, 5, 8, 2**31, 2**32 - 1])
HUGE = st.sampled_from([2**32, 2**63, 2**64 - 1])


@st.composite
def layers(draw: st.DrawFn) -> dict[str, Any]:
    """Tensor counts, tensors per layer and ranges that fit each other."""
    per_layer = draw(st.integers(1, 3))
    local_layers = draw(st.integers(1, 3))
    moved = draw(st.integers(1, local_layers))
    dst = (draw(st.integers(0, local_layers - moved)), moved)
    remote_layers = moved + draw(st.integers(0, 2))
    src = (draw(st.integers(0, remote_layers - moved)), moved)
    if draw(st.booleans()):
        remote_layers, src = moved, (0, 0)
    if draw(st.booleans()):
        remote_layers = max(remote_layers, local_layers) if src[1] else local_layers
        src = (src[0] % (remote_layers - local_layers + 1), local_layers) if src[1] else src
        dst = (0, 0)
    return {
        "per_layer": per_layer,
        "local": local_layers * per_layer,
        "remote": remote_layers * per_layer,
        "src_layers": src,
        "dst_layers": dst,
    }


def caches(draw: st.DrawFn, tensors: int, **shape: Any) -> Cache:
    return Cache(
        tensors=tensors, placement=draw(PLACEMENTS), gaps=draw(GAPS), seed=draw(EDGES), **shape
    )


def block_list(draw: st.DrawFn, count: int, length: int) -> tuple[int, ...]:
    """Indices below count with stretches that grow by one."""
    result: list[int] = []
    while len(result) < length:
        start = draw(st.integers(0, count - 1))
        stretch = draw(st.integers(1, min(length - len(result), count - start)))
        result += range(start, start + stretch)
    return tuple(result)


@st.composite
def good_pulls(draw: st.DrawFn) -> Pull:
    drawn = draw(layers())
    common = {name: drawn[name] for name in ("per_layer", "src_layers", "dst_layers")}
    kind = draw(st.sampled_from(["C2C", "C2B", "B2B"]))
    stride, count = draw(st.integers(1, 9)), draw(st.integers(1, 6))
    if kind == "C2C":
        local = caches(draw, drawn["local"], blocks=False, count=count, stride=stride)
        size = draw(st.one_of(st.just(-1), st.integers(1, stride)))
        other = draw(st.integers(size if size > 0 else stride, 12))
        remote = caches(
            draw, drawn["remote"], blocks=False, count=draw(st.integers(1, 4)), stride=other
        )
        batch = draw(st.integers(0, count - 1))
        return Pull(
            local,
            remote,
            batch_index=batch,
            remote_batch=draw(st.integers(0, remote.count - 1)),
            size=size,
            **common,
        )
    local = caches(draw, drawn["local"], blocks=True, count=count, stride=stride)
    if kind == "B2B":
        remote = caches(
            draw, drawn["remote"], blocks=True, count=draw(st.integers(1, 6)), stride=stride
        )
        length = draw(st.integers(1, 8))
        src = block_list(draw, remote.count, length)
        return Pull(local, remote, src=src, dst=block_list(draw, count, length), **common)
    smallest = 1 if local.placement == HOST else stride
    remote = caches(
        draw,
        drawn["remote"],
        blocks=False,
        count=draw(st.integers(1, 3)),
        stride=draw(st.integers(smallest, 40)),
    )
    length = draw(st.integers(1, ceil_div(remote.stride, stride)))
    dst = block_list(draw, count, length)
    batch = draw(st.integers(0, remote.count - 1))
    return Pull(local, remote, dst=dst, remote_batch=batch, **common)


@st.composite
def good_pushes(draw: st.DrawFn) -> Push:
    per_layer = draw(st.integers(1, 3))
    local_layers, remote_layers = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    common: dict[str, Any] = {
        "per_layer": per_layer,
        "src_layer": draw(st.integers(0, local_layers - 1)),
        "dst_layer": draw(st.integers(0, remote_layers - 1)),
    }
    local_tensors = local_layers * per_layer
    remote_tensors = remote_layers * per_layer + draw(st.integers(0, per_layer - 1))
    kind = draw(st.sampled_from(["C2C", "C2B", "B2B"]))
    stride, count = draw(st.integers(1, 9)), draw(st.integers(1, 6))
    blocks = kind == "B2B" or draw(st.booleans())
    local = caches(draw, local_tensors, blocks=blocks, count=count, stride=stride)
    src_batch = draw(st.integers(0, local.batch - 1))
    if kind == "C2C":
        remote = caches(
            draw,
            remote_tensors,
            blocks=draw(st.booleans()),
            count=draw(st.integers(1, 4)),
            stride=draw(st.integers(stride, 12)),
        )
        dst_batch = draw(st.integers(0, remote.batch - 1))
        return Push(local, remote, src_batch=src_batch, dst_batch=dst_batch, **common)
    remote_count = draw(st.integers(1, 6))
    if kind == "B2B":
        remote = caches(draw, remote_tensors, blocks=True, count=remote_count, stride=stride)
        length = draw(st.integers(1, 8))
        size = draw(st.sampled_from([0, stride]))
        src = block_list(draw, count, length)
        dst = block_list(draw, remote_count, length)
        return Push(local, remote, src=src, dst=dst, block_size=size, **common)
    if local.bytes == 1:
        local = dataclasses.replace(local, stride=2)
    size = draw(st.integers(1, local.bytes - 1))
    remote = caches(draw, remote_tensors, blocks=True, count=remote_count, stride=size)
    entry = local.bytes if blocks else local.stride
    length = draw(st.integers(1, ceil_div(entry, size)))
    dst = block_list(draw, remote_count, length)
    return Push(local, remote, src_batch=src_batch, dst=dst, block_size=size, **common)


def spoil(draw: st.DrawFn, request: Any, names: list[str]) -> Any:
    """The request with one or two members drawn anew, without regard to the rest."""
    for name in draw(st.lists(st.sampled_from(names), min_size=1, max_size=2)):
        if name in ("src", "dst"):
            indices = list(getattr(request, name))
            what = draw(st.sampled_from(["change", "longer", "shorter", "none"]))
            if what == "change" and indices:
                indices[draw(st.integers(0, len(indices) - 1))] = draw(st.one_of(EDGES, HUGE))
            elif what == "longer":
                indices.append(draw(EDGES))
            elif what == "shorter":
                indices = indices[:-1]
            else:
                indices = []
            value: Any = tuple(indices)
        elif name in ("src_layers", "dst_layers"):
            value = (draw(EDGES), draw(EDGES))
        elif name in ("local", "remote"):
            member = draw(st.sampled_from(["tensors", "blocks", "count", "stride", "placement"]))
            drawn = {"blocks": st.booleans(), "placement": PLACEMENTS}
            new = draw(drawn.get(member, st.integers(1, 8)))
            value = dataclasses.replace(getattr(request, name), **{member: new})
        elif name == "size":
            value = draw(st.one_of(st.integers(-2, 14), st.sampled_from([2**62, -(2**63)])))
        else:
            value = draw(EDGES)
        request = dataclasses.replace(request, **{name: value})
    return request


@st.composite
def any_pulls(draw: st.DrawFn) -> Pull:
    names = ["local", "remote", "per_layer", "batch_index", "remote_batch", "size"]
    names += ["src", "dst", "src_layers", "dst_layers"]
    pull: Pull = spoil(draw, draw(good_pulls()), names)
    return pull


@st.composite
def any_pushes(draw: st.DrawFn) -> Push:
    names = ["local", "remote", "per_layer", "src_batch", "dst_batch", "src", "dst"]
    names += ["block_size", "src_layer", "dst_layer"]
    push: Push = spoil(draw, draw(good_pushes()), names)
    return push


def check_bytes(request: Pull | Push, runs: list[Run], wanted: list[list[Run]]) -> None:
    """Running the plan changes the memory exactly as moving block by block does."""
    assert runs == merged(wanted)
    pull = isinstance(request, Pull)
    caches_of = (request.local, request.remote)
    before = [cache.memory.copy() for cache in caches_of]
    execute([run for tensor in wanted for run in tensor], to_first=pull)
    after = [cache.memory.copy() for cache in caches_of]
    for cache, bytes_before in zip(caches_of, before):
        cache.memory[:] = bytes_before
    execute(runs, to_first=pull)
    for cache, bytes_after in zip(caches_of, after):
        np.testing.assert_array_equal(cache.memory, bytes_after)


@given(good_pulls())
def test_good_pulls_move_the_right_bytes(shim: Shim, pull: Pull) -> None:
    status, runs = pull.ask(shim)
    assert status == SUCCESS, shim.text()
    check_bytes(pull, runs, pull.runs_by_tensor())


@given(good_pushes())
def test_good_pushes_move_the_right_bytes(shim: Shim, push: Push) -> None:
    status, runs = push.ask(shim)
    assert status == SUCCESS, shim.text()
    check_bytes(push, runs, push.runs_by_tensor())


@given(any_pulls())
def test_pulls_are_refused_exactly_when_the_rules_say_so(shim: Shim, pull: Pull) -> None:
    check_decision(shim, pull)


@given(any_pushes())
def test_pushes_are_refused_exactly_when_the_rules_say_so(shim: Shim, push: Push) -> None:
    check_decision(shim, push)


def check_decision(shim: Shim, request_: Pull | Push) -> None:
    wanted = None
    rule = ""
    try:
        wanted = request_.runs_by_tensor()
    except Refused as refused:
        rule = str(refused)
    status, runs = request_.ask(shim)
    if wanted is None:
        assert status == PARAM_INVALID, f"not refused: {rule}"
        assert shim.text()
    else:
        assert status == SUCCESS, shim.text()
        assert runs == merged(wanted)


def paged(**changes: Any) -> Cache:
    return Cache(
        **{"tensors": 4, "blocks": True, "count": 64, "stride": 8, "cache_id": 2, **changes}
    )


def flat(**changes: Any) -> Cache:
    return Cache(
        **{"tensors": 4, "blocks": False, "count": 3, "stride": 8, "cache_id": 5, **changes}
    )


PULL_ERRORS: list[tuple[Pull | Push, list[str]]] = [
    (Pull(paged(), paged(), per_layer=0, dst=(1,)), ["tensors_per_layer is 0"]),
    (
        Pull(paged(), paged(), batch_index=1, dst=(1,)),
        ["batch_index is 1", "local cache 2 has 1 b"],
    ),
    (
        Pull(flat(), flat(), batch_index=3),
        ["batch_index is 3", "local cache 5 has 3 batch entries"],
    ),
    (Pull(paged(), flat()), ["local cache 2 has blocks", "dst_blocks must say"]),
    (Pull(flat(), flat(), size=9), ["size is 9", "local cache 5 has 8 bytes"]),
    (Pull(flat(), flat(), dst=(1,)), ["dst_blocks is given", "local cache 5 has no blocks"]),
    (Pull(paged(), flat(), dst=(1,), size=8), ["size is 8", "only -1"]),
    (
        Pull(paged(), paged(count=80), src=(1, 2, 3, 4), dst=(1, 2, 3, 70)),
        ["dst_blocks[3] is 70", "local cache 2 has 64 blocks"],
    ),
    (
        Pull(paged(count=80), paged(cache_id=7), src=(61, 62, 63, 64), dst=(0, 1, 2, 3)),
        ["src_blocks[3] is 64", "remote cache 7 has 64 blocks"],
    ),
    (
        Pull(paged(), paged(cache_id=7), src=(1, 2**64 - 1, 0), dst=(1, 2, 3)),
        ["src_blocks[1] is 18446744073709551615", "64 blocks"],
    ),
    (Pull(paged(), paged(), src=(1, 2), dst=(1,)), ["src_blocks has 2", "dst_blocks 1"]),
    (Pull(flat(), paged(), src=(1,)), ["src_blocks has 1", "dst_blocks 0"]),
    (
        Pull(paged(tensors=3), paged(), per_layer=2, src=(1,), dst=(1,), src_layers=(0, 1)),
        ["tensors_per_layer is 2", "does not divide the 3 tensors", "local cache 2"],
    ),
    (
        Pull(paged(), paged(), per_layer=2, src=(1,), dst=(1,), dst_layers=(1, 2)),
        ["dst_layer_range is [1, 3)", "local cache 2 has 2 layers"],
    ),
    (
        Pull(paged(), paged(), src=(1,), dst=(1,), dst_layers=(0, 2), src_layers=(0, 3)),
        ["src_layer_range has 3 layers", "2 layers of the local cache 2"],
    ),
    (
        Pull(paged(), paged(), src=(1,), dst=(1,), src_layers=(0, 3)),
        ["src_layer_range has 3 layers", "4 layers of the local cache 2"],
    ),
    (
        Pull(paged(), paged(cache_id=7), src=(1,), dst=(1,), dst_layers=(0, 1), src_layers=(4, 1)),
        ["src_layer_range is [4, 5)", "remote cache 7 has 4 layers"],
    ),
    (
        Pull(
            paged(),
            paged(),
            src=(1,),
            dst=(1,),
            dst_layers=(0, 2**32 - 1),
            src_layers=(2**32 - 1, 2**32 - 1),
            per_layer=2**32 - 1,
        ),
        ["does not divide"],
    ),
    (
        Pull(paged(), paged(tensors=6, cache_id=7), src=(1,), dst=(1,)),
        ["remote cache 7 has 6 tensors", "4 of the local cache 2"],
    ),
    (
        Pull(paged(), paged(stride=16, cache_id=7), src=(1,), dst=(1,)),
        ["local cache 2 has 8 bytes", "remote cache 7 16"],
    ),
    (Pull(paged(), flat(), src=(1,), dst=(1,)), ["src_blocks is given", "remote cache 5 has no"]),
    (Pull(paged(), paged(cache_id=7), dst=(1,)), ["remote cache 7 has blocks", "src_blocks must"]),
    (Pull(flat(), paged()), ["remote cache 2 has blocks", "cannot be pulled into a contiguous"]),
    (Pull(flat(), flat(), remote_batch=3), ["batch index of the key is 3", "3 batch entries"]),
    (
        Pull(flat(stride=9), flat(cache_id=7)),
        ["9 bytes", "the local stride", "remote cache 7 has 8"],
    ),
    (Pull(paged(stride=9), flat(), dst=(1,)), ["9 bytes, more than", "remote cache 5, 8"]),
    (
        Pull(paged(stride=3), flat(), dst=(1, 2, 3, 4)),
        ["dst_blocks has 4", "fills 3 blocks (8 bytes, 3 a block)"],
    ),
]

PUSH_ERRORS: list[tuple[Pull | Push, list[str]]] = [
    (Push(paged(), paged(), per_layer=0), ["tensors_per_layer is 0"]),
    (Push(paged(tensors=5), paged(), per_layer=2), ["does not divide the 5 tensors"]),
    (Push(paged(), paged(), src=(1,), dst=(1, 2)), ["src_blocks has 1", "dst_blocks 2"]),
    (Push(paged(), paged(), src=(1,)), ["src_blocks has 1", "dst_blocks 0"]),
    (Push(paged(), paged(), dst=(1,)), ["src_blocks is empty", "dst_blocks has 1"]),
    (Push(flat(), paged(), src=(1,), dst=(1,)), ["src_blocks is given", "cache 5 has no blocks"]),
    (
        Push(paged(), paged(count=80), src=(1, 64), dst=(1, 2)),
        ["src_blocks[1] is 64", "local cache 2 has 64 blocks"],
    ),
    (
        Push(paged(count=80), paged(cache_id=7), src=(9, 10, 11), dst=(63, 64, 65)),
        ["dst_blocks[1] is 64", "remote cache 7 has 64 blocks"],
    ),
    (
        Push(paged(), paged(stride=4, cache_id=7), src=(1,), dst=(1,)),
        ["local cache 2 has 8 bytes", "remote cache 7 4"],
    ),
    (Push(paged(), paged(), src=(1,), dst=(1,), block_size=4), ["is 4", "local cache 2 has 8"]),
    (Push(flat(), flat(), block_size=4), ["is 4", "dst_blocks is empty"]),
    (Push(flat(), flat(), src_batch=3), ["src_batch_index is 3", "local cache 5 has 3"]),
    (Push(flat(), flat(cache_id=7), dst_batch=3), ["batch index of the key is 3", "cache 7 has 3"]),
    (
        Push(flat(stride=9), flat(cache_id=7)),
        ["local cache 5 sends 9 bytes", "remote cache 7 is 8"],
    ),
    (Push(paged(), flat(), src=(1,), dst=(1,)), ["dst_blocks is given", "remote cache 5 has no"]),
    (Push(paged(), paged(), src_layer=4), ["src_layer_range is [4, 5)", "local cache 2 has 4"]),
    (
        Push(paged(), paged(cache_id=7), dst_layer=4),
        ["dst_layer_range is [4, 5)", "remote cache 7 has 4"],
    ),
    (Push(flat(), paged(), dst=(1,), block_size=24), ["is 24", "local cache 5, 24 bytes"]),
    (Push(flat(), paged(), dst=(1,), block_size=4), ["is 4", "remote cache 2 has 8 bytes"]),
    (
        Push(flat(), paged(stride=3), dst=(1, 2, 3, 4), block_size=3),
        ["dst_blocks has 4", "local cache 5 fills 3 blocks (8 bytes, 3 a block)"],
    ),
]


@pytest.mark.parametrize(
    ("request_", "words"),
    PULL_ERRORS + PUSH_ERRORS,
    ids=[f"{type(request).__name__}: {words[0]}" for request, words in PULL_ERRORS + PUSH_ERRORS],
)
def test_texts_name_both_sides(shim: Shim, request_: Pull | Push, words: list[str]) -> None:
    with pytest.raises(Refused):
        request_.runs_by_tensor()
    assert request_.ask(shim)[0] == PARAM_INVALID
    for word in words:
        assert word in shim.text()


def test_own_side_is_checked_without_the_peer(shim: Shim) -> None:
    keep: list[Any] = []
    good = Pull(paged(), paged(), src=(1, 99), dst=(1, 2))
    assert shim.lib.shim_check_pull(good.args(shim, keep)) == SUCCESS
    keep = []
    bad = Pull(paged(), paged(), src=(1, 99), dst=(1, 64))
    assert shim.lib.shim_check_pull(bad.args(shim, keep)) == PARAM_INVALID
    assert "dst_blocks[1] is 64" in shim.text()


class At(Cache):
    """A cache that claims to be somewhere else."""

    @property
    def addrs(self) -> list[int]:
        return [2**64 - 511] * self.tensors


@pytest.mark.parametrize("side", ["local", "remote"])
def test_tensors_past_the_address_space(shim: Shim, side: str) -> None:
    away = At(tensors=4, blocks=True, count=64, stride=8)
    here = paged()
    pull = Pull(away, here) if side == "local" else Pull(here, away)
    pull = dataclasses.replace(pull, src=(1,), dst=(1,))
    assert pull.ask(shim)[0] == PARAM_INVALID
    assert f"tensor 0 of the {side} cache" in shim.text()
    assert "end of the address space" in shim.text()


@pytest.mark.parametrize("change", [{"count": 0}, {"tensor_bytes": 0}, {"num_tensors": 0}])
def test_a_peer_with_an_impossible_shape(shim: Shim, change: dict[str, int]) -> None:
    keep: list[Any] = []
    pull = Pull(paged(), paged(cache_id=7), src=(1,), dst=(1,))
    args = pull.args(shim, keep)
    remote = shim.ffi.new("shim_cache *", {**pull.remote.struct(shim, keep), **change})
    status, _ = collect(shim, shim.lib.shim_plan_pull, args, remote, 0)
    assert status == PARAM_INVALID
    assert "the remote cache 7: no cache has this shape" in shim.text()


def test_each_list_element_is_read_once(shim: Shim) -> None:
    accepted = shim.ffi.new("uint64_t *")
    escaped = shim.ffi.new("uint64_t *")
    shim.lib.shim_race_lists(300_000, accepted, escaped)
    assert accepted[0] > 0, "the race never let a plan through"
    assert escaped[0] == 0


# ---- local copies ----


def copy(shim: Shim, dst: Cache, src: Cache, **args: int) -> tuple[int, list[Run]]:
    keep: list[Any] = []
    fields = {"size": -1, **args, "dst": dst.struct(shim, keep), "src": src.struct(shim, keep)}
    return collect(shim, shim.lib.shim_plan_copy, shim.ffi.new("shim_copy_args *", fields))


@given(
    st.integers(1, 3),
    st.tuples(st.integers(1, 3), st.integers(1, 8)),
    st.tuples(st.integers(1, 3), st.integers(1, 8)),
    st.tuples(st.integers(0, 3), st.integers(0, 3)),
    st.integers(0, 8),
    st.integers(-2, 9),
    st.integers(0, 9),
)
def test_copy_between_batch_entries(
    shim: Shim,
    tensors: int,
    dst_shape: tuple[int, int],
    src_shape: tuple[int, int],
    batch: tuple[int, int],
    offset: int,
    size: int,
    odd: int,
) -> None:
    dst = flat(tensors=tensors + (odd == 0), count=dst_shape[0], stride=dst_shape[1], gaps=(3, 0))
    src = flat(tensors=tensors, count=src_shape[0], stride=src_shape[1], cache_id=6, seed=1)
    status, runs = copy(
        shim, dst, src, dst_batch_index=batch[0], src_batch_index=batch[1], offset=offset, size=size
    )
    length = src.stride - offset if size == -1 else size
    allowed = (
        dst.tensors == src.tensors
        and batch[0] < dst.count
        and batch[1] < src.count
        and length > 0
        and offset + length <= min(dst.stride, src.stride)
    )
    if not allowed:
        assert status == PARAM_INVALID
        assert shim.text()
        return
    assert status == SUCCESS, shim.text()
    wanted = dst.memory.copy()
    for start, source in zip(dst.starts, src.starts):
        at = start + batch[0] * dst.stride + offset
        origin = source + batch[1] * src.stride + offset
        wanted[at : at + length] = src.memory[origin : origin + length]
    execute(runs, to_first=True)
    np.testing.assert_array_equal(dst.memory, wanted)


def test_copy_of_an_entry_onto_itself_is_nothing(shim: Shim) -> None:
    cache = flat()
    assert copy(shim, cache, cache, dst_batch_index=1, src_batch_index=1) == (SUCCESS, [])
    assert len(copy(shim, cache, cache, dst_batch_index=1)[1]) == cache.tensors


@pytest.mark.parametrize(
    ("dst", "src", "args", "words"),
    [
        (flat(), paged(), {}, ["source cache 2 has blocks"]),
        (paged(), flat(), {}, ["destination cache 2 has blocks"]),
        (flat(tensors=3), flat(cache_id=6), {}, ["cache 6 has 4", "destination cache 5 3"]),
        (flat(), flat(), {"src_batch_index": 3}, ["src_batch_index is 3", "source cache 5 has 3"]),
        (flat(), flat(), {"dst_batch_index": 3}, ["dst_batch_index is 3", "destination cache 5"]),
        (flat(stride=4), flat(), {"offset": 4}, ["offset is 4", "8 (source", "4 (destination"]),
        (flat(), flat(), {"size": 0}, ["size is 0"]),
        (flat(), flat(), {"size": -2}, ["size is -2"]),
        (flat(), flat(), {"size": 8, "offset": 1}, ["8 bytes from offset 1", "strides 8"]),
    ],
)
def test_refused_copies(
    shim: Shim, dst: Cache, src: Cache, args: dict[str, int], words: list[str]
) -> None:
    assert copy(shim, dst, src, **args)[0] == PARAM_INVALID
    for word in words:
        assert word in shim.text()


def copy_blocks(shim: Shim, cache: Cache, src: list[int], dst: list[int]) -> tuple[int, list[Run]]:
    keep: list[Any] = []
    own = shim.ffi.new("shim_cache *", cache.struct(shim, keep))
    lists = [shim.ffi.new("uint64_t[]", indices) for indices in (src, dst)]
    return collect(shim, shim.lib.shim_plan_blocks_copy, own, *lists, len(src))


@given(st.data())
def test_blocks_copy(shim: Shim, data: st.DataObject) -> None:
    cache = paged(tensors=2, count=12, stride=3, gaps=data.draw(GAPS))
    # No block is both read and written, or written twice: the order of the pairs is free.
    dst = sorted(data.draw(st.sets(st.integers(0, 11), max_size=6)))
    free = [index for index in range(12) if index not in dst]
    src = [data.draw(st.sampled_from(free)) for _ in dst]
    if data.draw(st.booleans()):
        src = [index if index in dst else other for index, other in zip(dst, src)]
    same = data.draw(st.integers(0, 11))
    if same not in dst:
        src, dst = [*src, same], [*dst, same]
    status, runs = copy_blocks(shim, cache, src, dst)
    assert status == SUCCESS, shim.text()
    wanted = cache.memory.copy()
    for start in cache.starts:
        for s, d in zip(src, dst):
            wanted[start + d * 3 : start + d * 3 + 3] = cache.memory[
                start + s * 3 : start + s * 3 + 3
            ]
    execute(runs, to_first=True)
    np.testing.assert_array_equal(cache.memory, wanted)


@given(st.integers(0, 8), st.integers(0, 8), st.integers(1, 8))
def test_no_run_of_a_blocks_copy_overlaps_itself(shim: Shim, src: int, dst: int, n: int) -> None:
    cache = paged(tensors=2, count=16, stride=3)
    status, runs = copy_blocks(shim, cache, list(range(src, src + n)), list(range(dst, dst + n)))
    assert status == SUCCESS
    assert all(abs(first - second) >= length for first, second, length in runs)
    assert sum(length for *_, length in runs) == (0 if src == dst else 2 * n * 3)


@pytest.mark.parametrize(
    ("src", "dst"),
    [
        # Each destination is the next one's source.
        ([0, 1, 2, 3], [1, 2, 3, 4]),
        ([1, 2, 3, 4], [0, 1, 2, 3]),
        ([0, 1, 2, 3, 4], [2, 3, 4, 5, 6]),
        ([2, 3, 4, 5, 6], [0, 1, 2, 3, 4]),
        ([5, 6, 0, 1], [8, 9, 1, 2]),
    ],
)
def test_every_block_of_a_chain_of_copies_goes_where_it_should(
    shim: Shim, src: list[int], dst: list[int]
) -> None:
    """From its own place to its own, in the order of the pairs, in one tensor after another."""
    stride = 3
    cache = paged(tensors=2, count=16, stride=stride)
    status, runs = copy_blocks(shim, cache, src, dst)
    assert status == SUCCESS
    copied = [
        (first + done, second + done)
        for first, second, length in runs
        for done in range(0, length, stride)
    ]
    assert copied == [
        (base + to * stride, base + of * stride) for base in cache.addrs for of, to in zip(src, dst)
    ]


@pytest.mark.parametrize(
    ("cache", "src", "dst", "words"),
    [
        (flat(), [0], [1], ["cache 5 has no blocks"]),
        (paged(), [0, 64], [1, 2], ["src_blocks[1] is 64", "cache 2 has 64 blocks"]),
        (paged(), [0, 1], [1, 2**64 - 1], ["dst_blocks[1] is 18446744073709551615", "64 blocks"]),
    ],
)
def test_refused_blocks_copies(
    shim: Shim, cache: Cache, src: list[int], dst: list[int], words: list[str]
) -> None:
    assert copy_blocks(shim, cache, src, dst)[0] == PARAM_INVALID
    for word in words:
        assert word in shim.text()


def swap(
    shim: Shim, dst: list[int], src: list[int], pairs: list[tuple[int, int]], **args: int
) -> tuple[int, list[Run]]:
    keep = [shim.ffi.new("uint64_t[]", values) for values in (dst, src)]
    keep += [shim.ffi.new("uint64_t[]", [pair[i] for pair in pairs]) for i in (0, 1)]
    fields = {
        "block_bytes": 4,
        "num_tensors": len(dst),
        "num_blocks": len(pairs),
        "dst_addrs": keep[0],
        "src_addrs": keep[1],
        "src_blocks": keep[2],
        "dst_blocks": keep[3],
        **args,
    }
    return collect(shim, shim.lib.shim_plan_swap, shim.ffi.new("shim_swap_args *", fields))


@given(
    st.integers(1, 3),
    st.dictionaries(st.integers(0, 7), st.integers(0, 7), max_size=8),
    st.sampled_from([HOST, DEVICE]),
)
def test_swap(shim: Shim, tensors: int, pairs: dict[int, int], placement: int) -> None:
    dst = paged(tensors=tensors, count=8, stride=4, gaps=(5, 0))
    src = paged(tensors=tensors, count=8, stride=4, seed=1)
    status, runs = swap(shim, dst.addrs, src.addrs, list(pairs.items()), src_placement=placement)
    assert status == SUCCESS, shim.text()
    blocks = [
        [(a + d * 4, b + s * 4, 4) for s, d in pairs.items()] for a, b in zip(dst.addrs, src.addrs)
    ]
    assert runs == merged(blocks)
    wanted = dst.memory.copy()
    for a, b in zip(dst.starts, src.starts):
        for s, d in pairs.items():
            wanted[a + d * 4 : a + d * 4 + 4] = src.memory[b + s * 4 : b + s * 4 + 4]
    for first, second, length in runs:
        ctypes.memmove(first, second, length)
    np.testing.assert_array_equal(dst.memory, wanted)


@pytest.mark.parametrize(
    ("addrs", "pairs", "args", "words"),
    [
        ([4096], [(0, 0)], {"src_placement": 2}, ["src_placement is 2"]),
        ([], [(0, 0)], {}, ["num_tensors is 0"]),
        ([4096], [(0, 0)], {"block_bytes": 0}, ["block_bytes is 0"]),
        ([4096], [(0, 2**62)], {}, ["dst_blocks[0] is 4611686018427387904", "4 bytes"]),
        (
            [4096],
            [(2**64 - 1, 1), (0, 2)],
            {"block_bytes": 1},
            ["src_blocks[0] is 1844674407370955"],
        ),
        ([2**64 - 8], [(0, 0), (1, 2)], {}, ["tensor 0", "end of the address space"]),
    ],
)
def test_refused_swaps(
    shim: Shim,
    addrs: list[int],
    pairs: list[tuple[int, int]],
    args: dict[str, int],
    words: list[str],
) -> None:
    assert swap(shim, addrs, addrs, pairs, **args)[0] == PARAM_INVALID
    for word in words:
        assert word in shim.text()
