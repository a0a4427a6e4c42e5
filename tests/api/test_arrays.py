# SPDX-License-Identifier: Apache-2.0
"""Caches over arrays: what is read from an array, and what is refused (contract 1.12)."""

from __future__ import annotations

import gc
import weakref
from types import SimpleNamespace

import numpy as np
import pytest

from llm_datadist import BlocksCacheKey, CacheDesc, CacheKey, DataType, LLMException, Placement
from llm_datadist.arrays import describe, register_blocks, register_contiguous

from .managed import assert_invalid


class Torch:
    """A tensor as torch has it, over an array."""

    def __init__(self, array, dtype, place="cpu"):
        self._array = array
        self.shape = array.shape
        self.dtype = Name(f"torch.{dtype}")
        self.device = SimpleNamespace(type=place)

    def data_ptr(self):
        return self._array.ctypes.data

    def element_size(self):
        return self._array.itemsize

    def stride(self):
        return tuple(stride // self._array.itemsize for stride in self._array.strides)


class Name:
    def __init__(self, name):
        self._name = name

    def __repr__(self):
        return self._name


class OnlyDlpack:
    def __init__(self, array, device=(1, 0)):
        self._array = array
        self._device = device

    def __dlpack__(self, **kwargs):
        return self._array.__dlpack__(**kwargs)

    def __dlpack_device__(self):
        return self._device


def kv(count=4, shape=(8, 2, 16), dtype=np.float16):
    return [np.zeros(shape, dtype) for _ in range(count)]


def addresses(arrays):
    return [array.ctypes.data for array in arrays]


@pytest.mark.rule("C1.12-1", "C1.12-3")
def test_a_paged_cache_over_arrays(manager, native):
    arrays = kv()
    cache = register_blocks(manager, arrays, BlocksCacheKey(1, 0))
    assert cache.is_blocks_cache
    assert cache.cache_desc.shape == [8, 2, 16]
    assert cache.cache_desc.data_type is DataType.DT_FLOAT16
    assert cache.cache_desc.placement is Placement.DEVICE
    assert cache.tensor_addrs == addresses(arrays)


@pytest.mark.rule("C1.12-2")
def test_a_contiguous_cache_over_arrays(manager, native):
    arrays = kv()
    keys = [CacheKey(1, req_id=index) for index in range(8)]
    cache = register_contiguous(manager, arrays, keys, placement=Placement.HOST)
    assert not cache.is_blocks_cache
    assert cache.cache_desc.placement is Placement.HOST
    assert cache.tensor_addrs == addresses(arrays)


@pytest.mark.rule("C1.12-3")
@pytest.mark.parametrize(
    "wrap",
    [
        lambda array: array,
        lambda array: Torch(array, "float16"),
        OnlyDlpack,
        lambda array: SimpleNamespace(__array_interface__=array.__array_interface__, keep=array),
    ],
    ids=["numpy", "torch", "dlpack", "interface"],
)
def test_what_is_an_array(wrap):
    arrays = kv(2)
    desc, found = describe([wrap(array) for array in arrays])
    assert (desc.num_tensors, desc.shape, desc.data_type) == (
        2,
        [8, 2, 16],
        DataType.DT_FLOAT16,
    )
    assert found == addresses(arrays)


@pytest.mark.rule("C1.12-3")
def test_an_npu_tensor_is_device_memory():
    tensor = Torch(np.zeros((8, 16), np.uint16), "bfloat16", "npu")
    desc, found = describe([tensor])
    assert desc.data_type is DataType.DT_BF16
    assert found == [tensor.data_ptr()]
    assert_invalid(
        lambda: describe([tensor], placement=Placement.HOST),
        r"tensors\[0\] is in device memory, placement is Placement.HOST",
    )


@pytest.mark.rule("C1.12-4")
def test_layers_may_be_nested():
    arrays = kv(4)
    layers = {"layers.0": (arrays[0], arrays[1]), "layers.1": (arrays[2], arrays[3])}
    assert describe(layers)[1] == addresses(arrays)
    assert describe(list(layers.values()))[1] == addresses(arrays)


@pytest.mark.rule("C1.12-5")
def test_stacked_k_and_v():
    layers = [np.zeros((2, 8, 16), np.float32) for _ in range(2)]
    desc, found = describe(layers, kv_stacked=True)
    assert (desc.num_tensors, desc.shape) == (4, [8, 16])
    assert found == addresses([layers[0][0], layers[0][1], layers[1][0], layers[1][1]])
    assert_invalid(
        lambda: describe(kv(1), kv_stacked=True),
        r"shape \[2, blocks, \.\.\.\], tensors\[0\] has \[8, 2, 16\]",
    )


@pytest.mark.rule("C1.12-6")
def test_one_memory_with_two_block_sizes():
    arrays = kv(2)
    desc, found = describe(arrays, num_blocks=16)
    assert desc.shape == [16, 16]
    assert found == addresses(arrays)
    assert_invalid(lambda: describe(arrays, num_blocks=7), "num_blocks is 7, but the 256 elements")
    assert_invalid(lambda: describe(arrays, num_blocks=0), "num_blocks is 0")


@pytest.mark.rule("C1.12-3")
def test_a_view_has_its_own_address():
    base = np.zeros((3, 8, 16), np.int8)
    assert describe([base[1], base[2]])[1] == [base.ctypes.data + 128, base.ctypes.data + 256]
    # The stride of a dimension of one element says nothing.
    assert describe([base[:, :1][2]])[0].shape == [1, 16]


@pytest.mark.rule("C1.12-7")
@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.zeros((8, 2, 16), np.int8)[:, 0], r"each block of 16 bytes lies 32 bytes after"),
        (np.zeros((8, 16), np.int8).T, r"tensors\[0\] is not contiguous: its shape \[16, 8\]"),
        (np.zeros((8, 16), np.int8)[::-1], "not contiguous"),
        (np.frombuffer(b"x" * 16, np.int8), r"tensors\[0\] is read-only"),
        (np.zeros(8, np.complex64), r"tensors\[0\]: no DataType for dtype\('complex64'\)"),
        (np.zeros((), np.int8), r"tensors\[0\] has no dimension"),
        (Torch(np.zeros(8, np.int8), "int8", "cuda"), r"tensors\[0\] is in memory of 'cuda'"),
        (Torch(np.zeros(8, np.int8), "int16"), "elements of 1 bytes, DT_INT16 has 2"),
        (OnlyDlpack(np.zeros(8, np.int8), (2, 0)), "memory of DLPack device type 2"),
        (OnlyDlpack(np.frombuffer(b"x" * 16, np.int8)), r"tensors\[0\]"),
    ],
    ids=lambda value: value[:12] if isinstance(value, str) else "",
)
def test_what_cannot_be_registered(array, text):
    assert_invalid(lambda: describe([array]), text)


@pytest.mark.rule("C1.12-7")
def test_tensors_of_one_cache_are_alike():
    assert_invalid(
        lambda: describe([*kv(1), *kv(1, (4, 2, 16))]),
        r"tensors\[1\] has \[4, 2, 16\] of DT_FLOAT16, tensors\[0\] has \[8, 2, 16\]",
    )
    assert_invalid(lambda: describe([*kv(1), *kv(1, dtype=np.int16)]), "DT_INT16")
    assert_invalid(lambda: describe([]), "tensors is empty")


@pytest.mark.rule("C1.12-7")
def test_what_is_no_array():
    with pytest.raises(TypeError, match=r"tensors\[1\] only support an array.*got int: 4096"):
        describe([*kv(1), 4096])
    with pytest.raises(TypeError, match="got one array"):
        describe(kv(1)[0])
    with pytest.raises(TypeError, match="tensors only support a sequence"):
        describe(17)


@pytest.mark.rule("C1.12-8")
def test_a_shape_of_the_callers_own(manager, native):
    arrays = kv(2)
    fits = CacheDesc(2, [4, 32], DataType.DT_FLOAT16)
    assert register_blocks(manager, arrays, desc=fits).cache_desc is fits
    larger = CacheDesc(2, [9, 32], DataType.DT_FLOAT16)
    assert_invalid(
        lambda: register_blocks(manager, arrays, desc=larger),
        r"desc has 576 bytes, more than the 512 bytes of tensors\[0\]",
    )
    more = CacheDesc(3, [4, 32], DataType.DT_FLOAT16)
    assert_invalid(
        lambda: register_blocks(manager, arrays, desc=more), "desc has 3 tensors, there are 2"
    )


@pytest.mark.rule("C1.12-9")
def test_arrays_live_as_long_as_the_cache(open_datadist, native):
    native.on("cache_register", lambda engine, config, out: out.__setitem__(0, 1))
    datadist = open_datadist()
    manager = datadist.cache_manager

    def registered():
        array = np.zeros((8, 16), np.int8)
        return weakref.ref(array), register_blocks(manager, [array]).cache_id

    gone, cache_id = registered()
    gc.collect()
    assert gone() is not None
    native.fail("cache_unregister", 21)
    with pytest.raises(LLMException):
        manager.unregister_cache(cache_id)
    assert gone() is not None
    native.fail("cache_unregister", 0)
    manager.unregister_cache(cache_id)
    assert gone() is None
    gone, cache_id = registered()
    datadist.finalize()
    assert gone() is None


@pytest.mark.rule("C1.12-11")
@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (np.float32, DataType.DT_FLOAT),
        (np.dtype("float16"), DataType.DT_FLOAT16),
        ("<f8", DataType.DT_DOUBLE),
        (float, DataType.DT_DOUBLE),
        (bool, DataType.DT_BOOL),
        ("bfloat16", DataType.DT_BF16),
        (Name("torch.bfloat16"), DataType.DT_BF16),
        (Name("torch.bool"), DataType.DT_BOOL),
        (Name("torch.int64"), DataType.DT_INT64),
        (DataType.DT_INT8, DataType.DT_INT8),
    ],
)
def test_type_of_a_dtype(dtype, expected):
    assert DataType.of(dtype) is expected


@pytest.mark.rule("C1.12-11")
@pytest.mark.parametrize("dtype", [np.complex64, Name("torch.float8_e4m3fn"), "no such", "S4", 3])
def test_no_type_of_a_dtype(dtype):
    with pytest.raises(ValueError, match=r"no DataType for .*unsigned integer of its size"):
        DataType.of(dtype)


@pytest.mark.parametrize(
    ("array", "how"),
    [
        (np.zeros(8, np.int8), r"array\.ctypes\.data"),
        (Torch(np.zeros(8, np.int8), "int8"), r"array\.data_ptr\(\)"),
    ],
)
def test_an_array_where_an_address_is_meant(manager, native, array, how):
    desc = CacheDesc(1, [8], DataType.DT_INT8)
    for given, name in (([array], r"addrs\[0\]"), (array, "addrs")):
        for register in (manager.register_cache, manager.register_blocks_cache):
            with pytest.raises(TypeError, match=f"^{name} is .*{how}.*llm_datadist.arrays"):
                register(desc, given)
