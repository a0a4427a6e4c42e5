# SPDX-License-Identifier: Apache-2.0
"""Bytes of data types, shapes of descriptors."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.engine.engine_shim import PARAM_INVALID, SUCCESS, Shim

pytestmark = pytest.mark.sanitize

ELEMENT_BYTES = {0: 4, 1: 2, 2: 1, 3: 4, 4: 1, 6: 2, 7: 2, 8: 4, 9: 8, 10: 8, 11: 8, 12: 1, 13: 16}
ELEMENT_BYTES[27] = 2
INT64_MAX = 2**63 - 1


def shape_of(shim: Shim, dims: list[int], **changes: int) -> tuple[int, Any]:
    desc = {"num_tensors": 2, "layout": 1, "placement": 1, "data_type": 27, **changes}
    out = shim.ffi.new("shim_cache *")
    array = shim.ffi.new("int64_t[]", dims)
    status = shim.lib.shim_shape(
        desc["num_tensors"],
        desc["layout"],
        desc["placement"],
        desc["data_type"],
        array,
        desc.get("num_dims", len(dims)),
        out,
    )
    return status, out


@pytest.mark.rule("C2.3-1", "C2.3-2")
def test_element_bytes_of_every_number(shim: Shim) -> None:
    got = {number: shim.lib.shim_element_bytes(number) for number in range(64)}
    assert {number: size for number, size in got.items() if size} == ELEMENT_BYTES


@given(
    st.lists(st.one_of(st.integers(-1, 9), st.integers(1, INT64_MAX)), min_size=1, max_size=31),
    st.sampled_from(sorted(ELEMENT_BYTES)),
)
def test_tensor_bytes(shim: Shim, dims: list[int], data_type: int) -> None:
    status, out = shape_of(shim, dims, data_type=data_type)
    wanted = math.prod(dims) * ELEMENT_BYTES[data_type]
    if min(dims) <= 0 or wanted > INT64_MAX:
        assert status == PARAM_INVALID
    else:
        assert status == SUCCESS
        assert (out.tensor_bytes, out.count) == (wanted, dims[0])
        assert shim.lib.shim_check_shape(out) == SUCCESS


def test_shape_keeps_layout_and_placement(shim: Shim) -> None:
    for layout in (0, 1):
        for placement in (0, 1):
            status, out = shape_of(shim, [4, 8], layout=layout, placement=placement)
            assert status == SUCCESS
            assert (out.blocks, out.placement, out.num_tensors) == (layout, placement, 2)


def test_largest_tensor(shim: Shim) -> None:
    assert shape_of(shim, [INT64_MAX], data_type=2)[0] == SUCCESS
    assert shape_of(shim, [INT64_MAX], data_type=1)[0] == PARAM_INVALID
    assert "dims[0..0]" in shim.text()


@pytest.mark.rule("C2.3-3", "C2.3-4")
@pytest.mark.parametrize(
    ("dims", "changes", "words"),
    [
        ([4], {"num_tensors": 0}, ["num_tensors is 0"]),
        ([4], {"layout": 2}, ["layout is 2", "0", "1"]),
        ([4], {"placement": 7}, ["placement is 7"]),
        ([1] * 32, {}, ["32 dims", "1 to 31"]),
        ([4], {"num_dims": 0}, ["0 dims"]),
        ([4], {"data_type": 5}, ["data_type is 5"]),
        ([4, 0], {}, ["dims[1] is 0", "positive"]),
        ([4, -3], {}, ["dims[1] is -3"]),
        ([2, 2**62], {"data_type": 2}, ["int64", "dims[0..1]"]),
    ],
)
def test_refused_descriptors(
    shim: Shim, dims: list[int], changes: dict[str, int], words: list[str]
) -> None:
    assert shape_of(shim, dims, **changes)[0] == PARAM_INVALID
    for word in words:
        assert word in shim.text()


def test_31_dims_are_allowed(shim: Shim) -> None:
    assert shape_of(shim, [1] * 31)[0] == SUCCESS


@pytest.mark.parametrize(
    "change",
    [
        {"num_tensors": 0},
        {"count": 0},
        {"tensor_bytes": 0},
        {"tensor_bytes": 2**63},
        {"count": 3},
        {"count": 64},
        {"data_type": 5},
        {"placement": 2},
    ],
)
def test_shapes_that_no_peer_can_have(shim: Shim, change: dict[str, int]) -> None:
    good = {"num_tensors": 2, "tensor_bytes": 64, "count": 4, "data_type": 27, "placement": 1}
    assert shim.lib.shim_check_shape(shim.ffi.new("shim_cache *", good)) == SUCCESS
    bad = shim.ffi.new("shim_cache *", {**good, **change})
    assert shim.lib.shim_check_shape(bad) == PARAM_INVALID
    assert "no cache has this shape" in shim.text()
