# SPDX-License-Identifier: Apache-2.0
"""Caches, keys and refusals of the tests that call a CacheManager over a mocked library."""

from __future__ import annotations

import pytest

from llm_datadist import (
    BlocksCacheKey,
    Cache,
    CacheDesc,
    CacheKeyByIdAndIndex,
    DataType,
    LLMException,
    LLMStatusCode,
    Placement,
)

# LLDD_ALL_LAYERS.
ALL = 0xFFFFFFFF
UNSET = 2**64 - 1
DESC = CacheDesc(4, [8, 16], DataType.DT_INT8)
HOST_DESC = CacheDesc(4, [8, 16], DataType.DT_INT8, Placement.HOST)
BLOCKS = Cache(5, DESC, [1, 2, 3, 4], True)
CONTIGUOUS = Cache(6, DESC, [1, 2, 3, 4], False)
KEY = BlocksCacheKey(9, 2)
BY_ID = CacheKeyByIdAndIndex(9, 3, 1)


def assert_invalid(call, text=None):
    with pytest.raises(LLMException, match=text) as caught:
        call()
    assert caught.value.status_code is LLMStatusCode.LLM_PARAM_INVALID
