# SPDX-License-Identifier: Apache-2.0
"""The functions of the loaded library as attributes of a Python object.

cffi's own library object cannot be patched, so tests that want to see what is sent to the library,
or to answer in its place, patch this one. A call through it costs nothing more: the attributes are
cffi's functions themselves.
"""

from __future__ import annotations

import threading
from typing import Any, Callable

Function = Callable[..., Any]

PREFIX = "lldd_"


class Facade:
    """One attribute for each function of the header, without its prefix, and cffi's ffi object.

    Args:
        ffi: that the declarations were compiled into.
        lib: an object with a function lldd_x for each attribute x below.
    """

    version: Function
    fingerprint: Function
    layout: Function
    runtime_describe: Function
    runtime_control: Function
    status_name: Function
    last_error: Function
    last_error_raw: Function
    log_set: Function
    engine_open: Function
    engine_close: Function
    engine_free: Function
    engine_describe: Function
    engine_counters: Function
    engine_next_notice: Function
    engine_switch_listener: Function
    cache_allocate: Function
    cache_register: Function
    cache_deallocate: Function
    cache_unregister: Function
    key_remove: Function
    link_clusters: Function
    unlink_clusters: Function
    link: Function
    unlink: Function
    group_state: Function
    links: Function
    link_paths: Function
    pull: Function
    push: Function
    transfer_layer: Function
    cache_copy: Function
    blocks_copy: Function
    blocks_swap: Function
    memory_remap: Function

    def __init__(self, ffi: Any, lib: Any) -> None:
        self.ffi = ffi
        for name in FUNCTIONS:
            setattr(self, name, getattr(lib, PREFIX + name))


FUNCTIONS: tuple[str, ...] = tuple(Facade.__annotations__)

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
