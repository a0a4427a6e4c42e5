# SPDX-License-Identifier: Apache-2.0
"""Block ids and structs on their way to the library: decision 32 and the header."""

from __future__ import annotations

from array import array
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_datadist import CacheDesc, CacheKey, DataType, LLMClusterInfo
from llm_datadist._checks import check_signs
from llm_datadist._layer_words import ALL_LAYERS, ALL_WHOLE_LAYERS
from llm_datadist._native import _ffi, facade, libraries, marshal
from llm_datadist._native.loader import Capability
from tests.conformance.tensors import CUDA, CUDA_HOST, ForeignTensor

IDS = st.lists(st.integers(0, 2**64 - 1), max_size=50)
BORROW = marshal.borrower(_ffi.ffi)
SMALL_IDS = st.lists(st.integers(0, 2**63 - 1), max_size=50)


def test_the_facade_has_every_function_of_the_header(ffi):
    header = (Path(__file__).parents[2] / "csrc" / "include" / "llm_datadist.h").read_text()
    functions = facade.Facade(ffi, libraries.load("mock").lib)
    names = {name for name in vars(functions) if name != "ffi"}
    assert names == {name[5:] for name in dir(ffi.dlopen(None)) if name.startswith("lldd_")}
    assert len(names) > 30
    assert all(f"lldd_{name}(" in header for name in names)


def test_constants_are_those_of_the_header(ffi):
    header = ffi.dlopen(None)
    assert header.LLDD_ALL_LAYERS == ALL_WHOLE_LAYERS
    for name in ("LLDD_KEY_BLOCKS", "LLDD_UNSET", "LLDD_ID_UNSET"):
        assert marshal.constant(ffi, name) == getattr(header, name)


def test_capabilities_are_those_of_the_header(ffi):
    header = ffi.dlopen(None)
    names = [name for name in dir(header) if name.startswith("LLDD_CAN_")]
    assert {name: getattr(header, name) for name in names} == {
        f"LLDD_CAN_{each.name}": each for each in Capability
    }
    # A newer library may have more of them.
    assert int(Capability(9)) == 9
    assert Capability.DEVICE_TO_DEVICE in Capability(9)


def convert(blocks):
    return list(marshal.block_ids(BORROW, "blocks", blocks))


@given(IDS)
def test_every_form_of_uint64_ids(ids):
    assert convert(ids) == ids
    assert convert(tuple(ids)) == ids
    assert convert(np.array(ids, dtype=np.uint64)) == ids
    assert convert(array("Q", ids)) == ids
    assert convert(memoryview(array("Q", ids))) == ids
    assert convert(np.array(ids, dtype=np.uint64)[::-1]) == ids[::-1]


@given(SMALL_IDS)
def test_every_form_of_int64_ids(ids):
    assert convert(np.array(ids, dtype=np.int64)) == ids
    assert convert(array("q", ids)) == ids
    assert convert([np.int64(block) for block in ids]) == ids
    assert convert([np.uint64(block) for block in ids]) == ids


SMALLER_IDS = st.lists(st.integers(0, 2**31 - 1), max_size=50)


@given(SMALLER_IDS)
def test_every_form_of_ids_of_32_bits(ids):
    for dtype, code in ((np.int32, "i"), (np.uint32, "I")):
        blocks = np.array(ids, dtype=dtype)
        assert convert(blocks) == ids
        assert convert(blocks[::-1]) == ids[::-1]
        assert convert(array(code, ids)) == ids
        assert convert(memoryview(array(code, ids))) == ids
        assert convert(ForeignTensor(blocks)) == ids
    packed = memoryview(np.array(ids, dtype=np.uint32)).cast("B")
    if ids:
        assert convert(packed.cast("I")) == ids


def test_the_largest_ids_of_32_bits():
    assert convert(np.array([2**31, 2**32 - 1], dtype=np.uint32)) == [2**31, 2**32 - 1]
    assert convert(np.array([2**31 - 1], dtype=np.int32)) == [2**31 - 1]


@given(st.lists(st.integers(0, 2**63 - 1), max_size=50))
def test_tensors_of_64_bits(ids):
    for dtype in (np.int64, np.uint64):
        blocks = np.array(ids, dtype=dtype)
        assert convert(ForeignTensor(blocks)) == ids
        assert convert(ForeignTensor(blocks, CUDA_HOST)) == ids


@given(st.integers(0, 2**64 - 1), st.integers(0, 40), st.integers(-(2**60), 2**60).filter(bool))
def test_ranges(start, count, step):
    ids = range(start, start + count * step, step)
    if all(0 <= block < 2**64 for block in ids):
        assert convert(ids) == list(ids)
    else:
        with pytest.raises(TypeError, match=r"^blocks\[\d+\] only support an integer in "):
            convert(ids)


@pytest.mark.parametrize(
    ("blocks", "position", "value"),
    [
        (range(-2, 5), 0, -2),
        (range(2, -2, -1), 3, -1),
        (range(2**64 - 1, 2**64 + 1), 1, 2**64),
        (np.array([1, 2, -7, -8], dtype=np.int32), 2, -7),
        (array("i", [-7]), 0, -7),
        (ForeignTensor(np.array([1, -7], dtype=np.int32)), 1, -7),
        (ForeignTensor(np.array([1, -7])), 1, -7),
    ],
)
def test_a_negative_id_is_named_with_index_and_value(blocks, position, value):
    expected = rf"^blocks\[{position}\] only support an integer .*: {value}$"
    with pytest.raises(TypeError, match=expected):
        convert(blocks)


@pytest.mark.parametrize("count", [2**50, 2**62, 2**63 + 5])
def test_a_range_without_end_is_a_memory_error_at_once(count):
    with pytest.raises(MemoryError):
        convert(range(count))


def test_a_tensor_on_a_device_is_a_type_error():
    with pytest.raises(TypeError, match=r"blocks only support .* in the memory of the host, got F"):
        convert(ForeignTensor(np.array([1]), CUDA))


def test_a_numpy_that_does_not_know_dlpack(monkeypatch):
    monkeypatch.delattr(np, "from_dlpack")
    with pytest.raises(TypeError, match="blocks only support list or tuple"):
        convert(ForeignTensor(np.array([1])))


def test_smaller_numpy_integers_and_bools_in_lists():
    assert convert([np.uint8(3), np.int32(4), True]) == [3, 4, 1]


def test_anything_with_an_index_in_lists():
    class Block:
        def __index__(self):
            return 9

    assert convert([Block(), 2]) == [9, 2]


def test_buffers_are_borrowed_not_copied(ffi):
    blocks = np.arange(4, dtype=np.uint64)
    blocks.setflags(write=False)
    borrowed = marshal.block_ids(BORROW, "blocks", blocks)
    assert int(ffi.cast("uintptr_t", borrowed)) == blocks.ctypes.data


@pytest.mark.parametrize("position", [0, 2, 5])
@pytest.mark.parametrize("bad", [-1, 2**64, 1.5, "1", None, np.int64(-7), np.float32(1)])
@pytest.mark.parametrize("container", [list, tuple])
def test_a_bad_element_is_named_with_index_and_value(container, bad, position):
    blocks = [1, 2, 3, 4, 5, 6]
    blocks[position] = bad
    with pytest.raises(TypeError, match="blocks") as caught:
        convert(container(blocks))
    assert f"blocks[{position}]" in str(caught.value)
    assert repr(bad) in str(caught.value)


@pytest.mark.parametrize(
    "blocks",
    [
        None,
        7,
        "12345678",
        b"12345678",
        {1, 2},
        {1: 2},
        iter([1]),
        np.array([1], dtype=np.int16),
        np.array([1], dtype=">i4"),
        np.array([1.0]),
        np.array([1], dtype=">u8"),
        np.array([[1, 2]], dtype=np.uint64),
        np.array(1, dtype=np.uint64),
        np.array([[1, 2]], dtype=np.int32),
        array("H", [1]),
        array("d", [1.0]),
        ForeignTensor(np.array([1.0])),
        ForeignTensor(np.array([True])),
        ForeignTensor(np.array([1], dtype=np.int16)),
        ForeignTensor(np.array([[1, 2]])),
        ForeignTensor(np.array(1)),
        ForeignTensor(np.array(["a"])),
    ],
)
def test_other_containers_are_type_errors(blocks):
    with pytest.raises(TypeError, match="blocks only support list or tuple of int, a range, or"):
        convert(blocks)


def test_negative_numbers_of_buffers_are_found_afterwards():
    check_signs("blocks", np.array([1, 2], dtype=np.int64))
    check_signs("blocks", [1, 2])
    check_signs("blocks", None)
    with pytest.raises(TypeError, match=r"blocks\[1\].*-5"):
        check_signs("blocks", np.array([1, -5, -6], dtype=np.int64))
    with pytest.raises(TypeError, match=r"blocks\[0\].*-5"):
        check_signs("blocks", array("q", [-5]))


def test_strict_hardware_mode_takes_lists_of_int_only():
    assert list(marshal.strict_block_ids(BORROW, "blocks", (1, 2))) == [1, 2]
    for blocks in (np.array([1]), [np.int64(1)], array("Q", [1])):
        with pytest.raises(TypeError, match="blocks"):
            marshal.strict_block_ids(BORROW, "blocks", blocks)


def test_structs_know_their_size(ffi):
    array_of_three = marshal.new_array(ffi, "lldd_cache_key", 3)
    assert [each.struct_size for each in array_of_three] == [ffi.sizeof("lldd_cache_key")] * 3
    assert marshal.new_array(ffi, "lldd_cache_key", 0) == ffi.NULL
    assert marshal.new(ffi, "lldd_config").struct_size == ffi.sizeof("lldd_config")


def test_texts_of_the_library_need_not_be_utf8(ffi):
    assert marshal.text(ffi, ffi.new("char[]", b"a\xff")) == "a\ufffd"
    assert marshal.text(ffi, ffi.NULL) == ""


def test_the_layout_belongs_to_the_call(ffi):
    desc = CacheDesc(3, (4, 5), DataType.DT_BF16)
    for is_blocks, layout in ((True, 1), (False, 0)):
        struct, _keep = marshal.cache_desc(ffi, desc, is_blocks)
        assert struct.layout == layout
    assert (struct.num_tensors, struct.placement, struct.data_type) == (3, 1, 27)
    assert ffi.unpack(struct.dims, struct.num_dims) == [4, 5]


def test_keys_by_request(ffi):
    struct = marshal.key(ffi, CacheKey(1, 2, 3))
    assert (struct.kind, struct.cluster_id, struct.req_id, struct.model_id) == (1, 1, 2, 3)
    assert struct.prefix_id == 2**64 - 1


@pytest.mark.rule("C1.2-13")
@pytest.mark.parametrize("ip", [-1, 2**32])
def test_an_int_that_is_no_address(ffi, ip):
    info = LLMClusterInfo()
    info.append_remote_ip_info(ip, 1)
    with pytest.raises(TypeError, match="ip as an int"):
        marshal.clusters(ffi, [info])


def test_a_frame_is_filled_in_for_each_new_key(ffi):
    frame = marshal.PullFrame(ffi)
    for req_id in range(50):
        # A dead key's identity may come back with the next one.
        frame.set_key(CacheKey(1, req_id))
        assert frame.args.key.req_id == req_id
    frame.set_layers((1, 2, 3, 4))
    frame.set_layers((1, 2, 3, 4))
    args = frame.args
    layers = (
        args.src_layer_start,
        args.src_layer_count,
        args.dst_layer_start,
        args.dst_layer_count,
    )
    assert layers == (1, 2, 3, 4)
    frame.set_layers(ALL_LAYERS)
    assert (args.src_layer_count, args.dst_layer_count) == (0, 0)


def test_what_a_communicator_points_to_is_kept(ffi):
    struct, keep = marshal.group(ffi, "ours", {7: 0, 8: 1}, "{}")
    assert [(each.cluster_id, each.rank) for each in struct.members[0:2]] == [(7, 0), (8, 1)]
    for member in ("name", "members", "rank_table"):
        address = ffi.cast("void *", getattr(struct, member))
        assert any(ffi.cast("void *", each) == address for each in keep), member
