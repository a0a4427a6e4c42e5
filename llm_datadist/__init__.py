# SPDX-License-Identifier: Apache-2.0
"""KV-cache blocks between processes: the API of CANN's LLM-DataDist, on Ascend devices and on plain
hosts.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from ._version import __version__ as __version__
from .cache import Cache, CacheDesc, KvCache, MemInfo, Memtype, Placement, RegisterMemStatus
from .config import LLMClusterInfo, LLMConfig, LlmConfig, LLMRole
from .data_type import DataType
from .datadist import LLMDataDist
from .keys import BlocksCacheKey, CacheKey, CacheKeyByIdAndIndex
from .status import LLMDataDistWarning as LLMDataDistWarning
from .status import LLMException, LLMStatusCode, Status
from .transfer import CacheTask, LayerSynchronizer, TransferConfig, TransferWithCacheKeyConfig

if TYPE_CHECKING:
    from .backends import BackendInfo as BackendInfo
    from .backends import backend_info as backend_info

__all__ = [
    "BlocksCacheKey",
    "Cache",
    "CacheDesc",
    "CacheKey",
    "CacheKeyByIdAndIndex",
    "CacheTask",
    "DataType",
    "KvCache",
    "LLMClusterInfo",
    "LLMConfig",
    "LLMDataDist",
    "LLMException",
    "LLMRole",
    "LLMStatusCode",
    "LayerSynchronizer",
    "LlmConfig",
    "MemInfo",
    "Memtype",
    "Placement",
    "RegisterMemStatus",
    "Status",
    "TransferConfig",
    "TransferWithCacheKeyConfig",
]
v2_list = list(__all__)

# What a device library of CANN's reads; the vendor's package sets it in the same place (contract
# 1.11).
os.environ.setdefault("AUTO_USE_UC_MEMORY", "0")

_OF_THE_OLD_API = ("KvCacheManager", "Tensor", "TensorDesc")
_OF_BACKENDS = ("BackendInfo", "backend_info")


def __getattr__(name: str) -> Any:
    if name in _OF_BACKENDS:
        from . import backends

        return getattr(backends, name)
    if name in _OF_THE_OLD_API:
        raise ImportError(f"{name} belongs to the old interface, which {__name__} does not provide")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
