# SPDX-License-Identifier: Apache-2.0
"""CacheDesc, Cache, KvCache, MemInfo and data types: contract 1.7, 1.9 and 2.3."""

from __future__ import annotations

import subprocess
import sys
from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_datadist import (
    Cache,
    CacheDesc,
    DataType,
    KvCache,
    LLMException,
    LLMStatusCode,
    MemInfo,
    Memtype,
    Placement,
    RegisterMemStatus,
)

PARAM_INVALID = LLMStatusCode.LLM_PARAM_INVALID
BYTES = {
    DataType.DT_FLOAT: (0, 4),
    DataType.DT_FLOAT16: (1, 2),
    DataType.DT_INT8: (2, 1),
    DataType.DT_INT32: (3, 4),
    DataType.DT_UINT8: (4, 1),
    DataType.DT_INT16: (6, 2),
    DataType.DT_UINT16: (7, 2),
    DataType.DT_UINT32: (8, 4),
    DataType.DT_INT64: (9, 8),
    DataType.DT_UINT64: (10, 8),
    DataType.DT_DOUBLE: (11, 8),
    DataType.DT_BOOL: (12, 1),
    DataType.DT_STRING: (13, 16),
    DataType.DT_BF16: (27, 2),
}


@pytest.mark.rule("C1.3-2", "C2.3-1")
def test_enumerations():
    assert (Placement.HOST, Placement.DEVICE) == (0, 1)
    assert str(Placement.HOST) == f"{Placement.HOST}" == "Placement.HOST"
    assert [each.value for each in RegisterMemStatus] == [0, 1, 2]
    assert (Memtype.MEM_TYPE_DEVICE.value, Memtype.MEM_TYPE_HOST.value) == (0, 1)
    assert {each: each.value for each in DataType} == {each: row[0] for each, row in BYTES.items()}


@pytest.mark.rule("C2.3-2")
@pytest.mark.parametrize(("data_type", "row"), BYTES.items())
def test_bytes_of_each_type(data_type, row):
    assert CacheDesc(1, [3, 5], data_type).size == 15 * row[1]


@pytest.mark.rule("C2.3-1")
def test_data_types_of_the_header_have_these_numbers(ffi):
    lib = ffi.dlopen(None)
    for data_type in DataType:
        assert getattr(lib, "LLDD_TYPE_" + data_type.name[3:]) == data_type.value


class TestCacheDesc:
    @pytest.mark.rule("C1.7-3", "C1.7-6")
    def test_properties_and_repr(self):
        shape = [2, 8]
        desc = CacheDesc(2, shape, DataType.DT_INT8)
        assert (desc.num_tensors, desc.batch_dim, desc.batch_size) == (2, 0, 2)
        assert desc.shape is shape
        assert (desc.seq_len_dim_index, desc.kv_tensor_format) == (-1, None)
        assert desc.placement is Placement.DEVICE
        assert desc.data_type is DataType.DT_INT8
        assert repr(desc) == (
            "CacheDesc(num_tensors=2, shape=[2, 8], data_type=DataType.DT_INT8, "
            "placement=Placement.DEVICE, batch_dim_index=0, seq_len_dim_index=-1,"
            "kv_tensor_format=None)"
        )

    @pytest.mark.rule("C1.7-3")
    @given(st.lists(st.integers(1, 1000), min_size=1, max_size=5), st.sampled_from(list(BYTES)))
    def test_size(self, shape, data_type):
        assert CacheDesc(1, tuple(shape), data_type).size == prod(shape) * BYTES[data_type][1]

    @pytest.mark.rule("C1.7-4")
    def test_update_dim(self):
        shape = [2, 8]
        desc = CacheDesc(1, shape, DataType.DT_INT8)
        assert desc.size == 16
        desc.update_dim(0, 4)
        assert shape == [4, 8]
        assert (desc.size, desc.batch_size) == (32, 2)
        desc.update_dim(dim_index=1, dim_value=3)
        assert (shape, desc.size) == ([4, 3], 12)
        for wrong, name in (((0.0, 1), "dim_index"), ((0, 1.0), "dim_value")):
            with pytest.raises(TypeError, match=f"{name} only support int"):
                desc.update_dim(*wrong)
        with pytest.raises(TypeError):
            CacheDesc(1, (2, 8), DataType.DT_INT8).update_dim(0, 4)

    def test_subclasses_of_tuple_are_shapes(self):
        class Size(tuple):
            __slots__ = ()

        assert CacheDesc(1, Size((4, 4)), DataType.DT_BF16).size == 32

    @pytest.mark.rule("C1.7-2", "C2.3-3", "C2.3-4")
    @pytest.mark.parametrize("shape", [[0], [-1, 2], [2**62, 4], [2**63 - 1, 2**63 - 1]])
    def test_size_of_a_bad_shape(self, shape):
        desc = CacheDesc(1, shape, DataType.DT_INT8)
        with pytest.raises(LLMException) as caught:
            assert desc.size
        assert caught.value.status_code is PARAM_INVALID

    @pytest.mark.rule("C1.7-1", "C1.2-4", "C1.2-6")
    @pytest.mark.parametrize(
        ("arguments", "error"),
        [
            ({"num_tensors": None}, TypeError),
            ({"num_tensors": -1}, ValueError),
            ({"num_tensors": 2**32}, ValueError),
            ({"shape": None}, TypeError),
            ({"shape": {1: 2}}, TypeError),
            ({"shape": [1.0]}, TypeError),
            ({"shape": [None]}, TypeError),
            ({"shape": [2**63]}, ValueError),
            ({"data_type": None}, TypeError),
            ({"data_type": 2}, TypeError),
            ({"placement": None}, TypeError),
            ({"placement": 1}, TypeError),
            ({"batch_dim_index": None}, TypeError),
            ({"seq_len_dim_index": 2**31}, ValueError),
            ({"kv_tensor_format": 1}, TypeError),
        ],
    )
    def test_builtin_errors(self, arguments, error):
        with pytest.raises(error) as caught:
            CacheDesc(
                **{"num_tensors": 1, "shape": [1], "data_type": DataType.DT_INT8, **arguments}
            )
        assert not isinstance(caught.value, LLMException)

    @pytest.mark.rule("C1.7-1", "C2.3-6")
    @pytest.mark.parametrize(
        "arguments",
        [
            {"shape": []},
            {"batch_dim_index": 1},
            {"batch_dim_index": -1},
            {"seq_len_dim_index": 1},
            {"seq_len_dim_index": -2},
        ],
    )
    def test_indices_outside_the_shape(self, arguments):
        with pytest.raises(LLMException) as caught:
            CacheDesc(
                **{"num_tensors": 1, "shape": [1], "data_type": DataType.DT_INT8, **arguments}
            )
        assert caught.value.status_code is PARAM_INVALID


HOST_DESC = CacheDesc(2, [2, 8], DataType.DT_INT8, Placement.HOST)


class TestCpuCaches:
    @pytest.mark.rule("C1.9-1", "C1.9-2", "C1.9-7")
    def test_cache(self):
        cache = Cache.create_cpu_cache(HOST_DESC, [1, 2])
        assert (cache.cache_id, cache.tensor_addrs, cache.is_blocks_cache) == (-1, [1, 2], True)
        assert cache.cache_desc is HOST_DESC
        text = "Cache(cache_id = -1, device_tensor_addrs = 2, is_blocks_cache = True)"
        assert str(cache) == repr(cache) == text

    @pytest.mark.rule("C1.9-4")
    @pytest.mark.parametrize("make", [Cache.create_cpu_cache, KvCache.create_cpu_cache])
    @pytest.mark.parametrize(
        ("desc", "addrs"), [(None, [1, 2]), (HOST_DESC, (1, 2)), (HOST_DESC, ["1", 2])]
    )
    def test_types(self, make, desc, addrs):
        with pytest.raises(TypeError):
            make(desc, addrs)

    @pytest.mark.rule("C1.9-5")
    @pytest.mark.parametrize(
        ("desc", "addrs"), [(HOST_DESC, [1]), (CacheDesc(1, [1], DataType.DT_INT8), [1])]
    )
    def test_wrong_number_or_placement(self, desc, addrs):
        with pytest.raises(LLMException) as caught:
            Cache.create_cpu_cache(desc, addrs)
        assert caught.value.status_code is PARAM_INVALID

    @pytest.mark.rule("C1.9-9", "C1.9-11")
    def test_kv_cache(self):
        cache = KvCache.create_cpu_cache(HOST_DESC, [1, 2])
        assert (cache.cache_id, cache.per_device_tensor_addrs) == (-1, [[1, 2]])
        assert repr(cache) == "KvCache(cache_id = -1, num_devices = 1)"
        assert KvCache.create_cpu_cache(HOST_DESC, [[1, 2], [3, 4]]).per_device_tensor_addrs == [
            [1, 2],
            [3, 4],
        ]

    @pytest.mark.rule("C1.9-11")
    @pytest.mark.parametrize("addrs", [[], [1], [[1, 2], 3], [[1, 2], [3]], [[]]])
    def test_kv_cache_refuses(self, addrs):
        with pytest.raises(LLMException) as caught:
            KvCache.create_cpu_cache(HOST_DESC, addrs)
        assert caught.value.status_code is PARAM_INVALID

    @pytest.mark.rule("C1.9-10")
    def test_kv_cache_frees_through_its_manager(self, mocker):
        manager = mocker.Mock()
        cache = KvCache(3, HOST_DESC, [[1, 2]], manager)
        cache.__del__()
        manager.deallocate_cache.assert_called_once_with(cache)


@pytest.mark.rule("C1.9-12", "C1.9-14")
def test_mem_info():
    info = MemInfo(Memtype.MEM_TYPE_DEVICE, 1, 2)
    assert (info.mem_type, info.addr, info.size) == (Memtype.MEM_TYPE_DEVICE, 1, 2)
    assert str(info) == repr(info) == "MemInfo(mem_type=Memtype.MEM_TYPE_DEVICE, addr=1, size=2)"
    for arguments in ((0, 1, 2), (Memtype.MEM_TYPE_HOST, "1", 2), (Memtype.MEM_TYPE_HOST, 1, None)):
        with pytest.raises(TypeError):
            MemInfo(*arguments)


@pytest.mark.rule("C1.1-7")
def test_numpy_tables():
    import numpy as np

    from llm_datadist import data_type

    assert len(data_type.dtype_to_np_dtype) == len(data_type.valid_np_dtypes) == 14
    assert len(data_type.np_dtype_to_dtype) == 13
    assert data_type.dtype_to_np_dtype[DataType.DT_BF16] == np.float16
    assert data_type.dtype_to_np_dtype[DataType.DT_STRING] == np.bytes_
    for each, np_dtype in data_type.dtype_to_np_dtype.items():
        if each not in (DataType.DT_BF16, DataType.DT_STRING):
            assert np.dtype(np_dtype).itemsize == BYTES[each][1]
            assert data_type.np_dtype_to_dtype[np_dtype] is each
            assert data_type.np_dtype_to_dtype[np.dtype(np_dtype)] is each
    with pytest.raises(KeyError):
        data_type.np_dtype_to_dtype[np.complex64]
    with pytest.raises(AttributeError, match="has no attribute"):
        assert data_type.missing


@pytest.mark.rule("C1.1-7")
def test_importing_the_package_loads_neither_numpy_nor_cffi():
    code = (
        "import sys, llm_datadist, llm_datadist.v2.cache_manager\n"
        "print([m for m in ('numpy', 'cffi', '_cffi_backend') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
