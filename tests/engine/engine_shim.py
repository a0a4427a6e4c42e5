# SPDX-License-Identifier: Apache-2.0
"""The compiled shim as Python sees it; conftest.py compiles it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cffi

SUCCESS = 0
PARAM_INVALID = 0x5010B005
UNSET = 2**64 - 1


class Shim:
    """The compiled shim: functions as attributes, plus what every test needs of cffi."""

    def __init__(self, path: Path) -> None:
        self.ffi = cffi.FFI()
        header = (Path(__file__).parent / "shim.h").read_text()
        begin = header.index("/* [declarations] */")
        self.ffi.cdef(header[begin : header.index("/* [end of declarations] */")])
        self.lib: Any = self.ffi.dlopen(str(path))

    def text(self) -> str:
        return self.string(self.lib.shim_text())

    def string(self, value: Any) -> str:
        result = self.ffi.string(value)
        assert isinstance(result, bytes)
        return result.decode()
