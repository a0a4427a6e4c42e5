# SPDX-License-Identifier: Apache-2.0
"""The functions of the loaded library as attributes of a Python object.

cffi's own library object cannot be patched, so tests that want to see what is sent to the library,
or to answer in its place, patch this one. A call through it costs nothing more: the attributes are
cffi's functions themselves.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._ffi import FFI, Lib
    from ._ffi import Functions as _Functions
else:
    _Functions = object

PREFIX = "lldd_"


class Facade(_Functions):
    """One attribute for each function of the header, without its prefix, and cffi's ffi object.

    Args:
        ffi: that the declarations were compiled into.
        lib: an object with a function lldd_x for each attribute x.
    """

    def __init__(self, ffi: FFI, lib: Lib) -> None:
        self.ffi = ffi
        for name in dir(lib):
            if name.startswith(PREFIX):
                setattr(self, name[len(PREFIX) :], getattr(lib, name))


_lock = threading.Lock()
_facades: dict[str, Facade] = {}


def current() -> Facade:
    """Return the facade of the library that engines are opened with, which is loaded if need be.

    Raises as backends.library() does.
    """
    # Here, because backends imports the loader, and the loader cffi, which importing the package
    # must not cost.
    from .. import backends

    loaded = backends.library()
    with _lock:
        if loaded.path not in _facades:
            _facades[loaded.path] = Facade(loaded.ffi, loaded.lib)
        return _facades[loaded.path]
