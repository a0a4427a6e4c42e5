# SPDX-License-Identifier: Apache-2.0
"""Data types of caches and their numpy counterparts (contract 2.3)."""

from __future__ import annotations

from contextlib import suppress
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    dtype_to_np_dtype: dict[DataType, Any]
    valid_np_dtypes: list[Any]
    np_dtype_to_dtype: dict[Any, DataType]

__all__ = ["DataType"]


class DataType(Enum):
    """The type of a tensor's elements; the numbers are CANN's own."""

    DT_FLOAT = 0
    DT_FLOAT16 = 1
    DT_INT8 = 2
    DT_INT32 = 3
    DT_UINT8 = 4
    DT_INT16 = 6
    DT_UINT16 = 7
    DT_UINT32 = 8
    DT_INT64 = 9
    DT_UINT64 = 10
    DT_DOUBLE = 11
    DT_BOOL = 12
    DT_STRING = 13
    DT_BF16 = 27

    @classmethod
    def of(cls, dtype: Any) -> DataType:
        """Return the type for a dtype of numpy, ml_dtypes or torch, a scalar type, or its name.

        An extension of this package.

        Raises:
            ValueError: there is none for it. Eight-bit floats have none: view them as uint8.
        """
        if isinstance(dtype, cls):
            return dtype
        import numpy as np  # importing the package must not wait for it

        name = str(dtype)
        if name.startswith("torch."):
            name = name[len("torch.") :]
        else:
            # "bfloat16" without ml_dtypes, say; the table decides.
            with suppress(TypeError):
                name = np.dtype(dtype).name
        if name not in _BY_NAME:
            raise ValueError(
                f"no DataType for {dtype!r}; there is one for {', '.join(sorted(_BY_NAME))}. View "
                "another as an unsigned integer of its size"
            )
        return _BY_NAME[name]


# A string is two 64-bit words: its address and its length.
BYTES_OF: dict[DataType, int] = {
    DataType.DT_FLOAT: 4,
    DataType.DT_FLOAT16: 2,
    DataType.DT_INT8: 1,
    DataType.DT_INT32: 4,
    DataType.DT_UINT8: 1,
    DataType.DT_INT16: 2,
    DataType.DT_UINT16: 2,
    DataType.DT_UINT32: 4,
    DataType.DT_INT64: 8,
    DataType.DT_UINT64: 8,
    DataType.DT_DOUBLE: 8,
    DataType.DT_BOOL: 1,
    DataType.DT_STRING: 16,
    DataType.DT_BF16: 2,
}


_BY_NAME: dict[str, DataType] = {
    "float32": DataType.DT_FLOAT,
    "float16": DataType.DT_FLOAT16,
    "int8": DataType.DT_INT8,
    "int32": DataType.DT_INT32,
    "uint8": DataType.DT_UINT8,
    "int16": DataType.DT_INT16,
    "uint16": DataType.DT_UINT16,
    "uint32": DataType.DT_UINT32,
    "int64": DataType.DT_INT64,
    "uint64": DataType.DT_UINT64,
    "float64": DataType.DT_DOUBLE,
    "bool": DataType.DT_BOOL,
    "bfloat16": DataType.DT_BF16,
}


def _numpy_tables() -> dict[str, Any]:
    import numpy as np

    class ByDtype(dict[Any, DataType]):
        # A client may ask with a dtype object as well as with a scalar type or a name.
        def __missing__(self, key: Any) -> DataType:
            scalar = np.dtype(key).type
            if scalar not in self:
                raise KeyError(key)
            return self[scalar]

    to_numpy = {
        DataType.DT_FLOAT: np.float32,
        DataType.DT_FLOAT16: np.float16,
        DataType.DT_INT8: np.int8,
        DataType.DT_INT32: np.int32,
        DataType.DT_UINT8: np.uint8,
        DataType.DT_INT16: np.int16,
        DataType.DT_UINT16: np.uint16,
        DataType.DT_UINT32: np.uint32,
        DataType.DT_INT64: np.int64,
        DataType.DT_UINT64: np.uint64,
        DataType.DT_DOUBLE: np.float64,
        DataType.DT_BOOL: np.bool_,
        DataType.DT_STRING: np.bytes_,
        # numpy has no bfloat16; float16 has its size.
        DataType.DT_BF16: np.float16,
    }
    return {
        "dtype_to_np_dtype": to_numpy,
        "valid_np_dtypes": list(to_numpy.values()),
        "np_dtype_to_dtype": ByDtype(
            (scalar, data_type)
            for data_type, scalar in to_numpy.items()
            if data_type is not DataType.DT_BF16
        ),
    }


def __getattr__(name: str) -> Any:
    # numpy is imported with the first use of a table, not with the package.
    if name in ("dtype_to_np_dtype", "valid_np_dtypes", "np_dtype_to_dtype"):
        globals().update(_numpy_tables())
        return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
