# SPDX-License-Identifier: Apache-2.0
"""A tensor of another package, with nothing but DLPack: as torch's are."""

from __future__ import annotations

from typing import Any

import numpy as np

CPU, CUDA, CUDA_HOST = 1, 2, 3


class ForeignTensor:
    """Exports an array, which it says is in the memory of a device of this kind."""

    def __init__(self, array: np.ndarray[Any, Any], device: int = CPU) -> None:
        self._array = array
        self._device = device

    def __dlpack__(self, **kwargs: Any) -> Any:
        return self._array.__dlpack__(**kwargs)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._device, 0
