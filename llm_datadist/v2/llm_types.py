# SPDX-License-Identifier: Apache-2.0
"""Compatibility: the value classes (contract 1.1)."""

from ..cache import Cache, CacheDesc, KvCache, MemInfo, Memtype, Placement, RegisterMemStatus
from ..data_type import DataType
from ..keys import BlocksCacheKey, CacheKey, CacheKeyByIdAndIndex, PushType
from ..status import LLMException, LLMStatusCode, Status
from ..transfer import CacheTask, LayerSynchronizer, TransferConfig, TransferWithCacheKeyConfig

__all__ = [
    "BlocksCacheKey",
    "Cache",
    "CacheDesc",
    "CacheKey",
    "CacheKeyByIdAndIndex",
    "CacheTask",
    "DataType",
    "KvCache",
    "LLMException",
    "LLMStatusCode",
    "LayerSynchronizer",
    "MemInfo",
    "Memtype",
    "Placement",
    "PushType",
    "RegisterMemStatus",
    "Status",
    "TransferConfig",
    "TransferWithCacheKeyConfig",
]
