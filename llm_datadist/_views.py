# SPDX-License-Identifier: Apache-2.0
"""Arrays over the memory of a cache; apart, since they need numpy, which the package does not
import.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._checks import refuse
from .backends import device_memory_has_host_addresses
from .cache import Cache, Placement
from .data_type import DataType, dtype_to_np_dtype


class _Memory:
    """What numpy makes an array of; the array keeps it, and it keeps what owns the memory."""

    def __init__(self, address: int, shape: tuple[int, ...], dtype: Any, owner: Any) -> None:
        self._owner = owner
        self.__array_interface__ = {
            "version": 3,
            "data": (address, False),
            "shape": shape,
            "typestr": np.dtype(dtype).str,
        }


def views_of(cache: Cache) -> list[NDArray[Any]]:
    """Do Cache.as_numpy."""
    desc = cache.cache_desc
    if not cache.tensor_addrs:
        refuse(f"{cache} was deallocated: it has no memory to view")
    if desc.placement == Placement.DEVICE and not device_memory_has_host_addresses():
        refuse(f"{cache} is in the memory of a device, which this process cannot touch")
    if desc.data_type is DataType.DT_STRING:
        refuse("DT_STRING has no counterpart of a fixed size in numpy")
    dtype = np.uint16 if desc.data_type is DataType.DT_BF16 else dtype_to_np_dtype[desc.data_type]
    owner = cache._manager and cache._manager._kept.get(cache.cache_id)
    shape = tuple(desc.shape)
    return [np.asarray(_Memory(each, shape, dtype, owner)) for each in cache.tensor_addrs]
