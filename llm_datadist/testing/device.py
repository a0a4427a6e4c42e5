# SPDX-License-Identifier: Apache-2.0
"""Devices as a test has them: which ones it is to use, and their memory as a client has it, from
CANN's runtime, which also is the only one that can read and write it.
"""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..backends import device_memory_has_host_addresses as at_host_addresses
from ..config import LLMConfig

__all__ = [
    "allocate",
    "allocate_host",
    "at_host_addresses",
    "free",
    "free_host",
    "half",
    "id_of",
    "options_of",
    "read",
    "write",
]

Bytes = NDArray[np.uint8]

# The runtime part of ACL, in new toolkits and in older ones. The Ascend library has loaded it.
_LIBRARIES = ("libacl_rt.so", "libascendcl.so")
_HUGE_ONLY = 1
_HOST_TO_DEVICE, _DEVICE_TO_HOST = 1, 2
_POINTER = ctypes.POINTER(ctypes.c_void_p)
_FUNCTIONS: dict[str, list[Any]] = {
    "aclrtSetDevice": [ctypes.c_int32],
    "aclrtGetCurrentContext": [_POINTER],
    "aclrtSetCurrentContext": [ctypes.c_void_p],
    "aclrtMalloc": [_POINTER, ctypes.c_size_t, ctypes.c_int],
    "aclrtFree": [ctypes.c_void_p],
    "aclrtMallocHost": [_POINTER, ctypes.c_size_t],
    "aclrtFreeHost": [ctypes.c_void_p],
    "aclrtMemcpy": [
        *(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_size_t),
        ctypes.c_int,
    ],
}


def options_of(number: int) -> dict[str, str]:
    """Return the options that the environment has for an engine, the number-th of a test from 0.

    LLM_DATADIST_TEST_DEVICES, such as "0,1", are devices to take in turn;
    LLM_DATADIST_TEST_DEVICE_OPTIONS is a JSON object with more options, or an array of such, to
    take in turn, too.
    """
    devices = list(filter(None, os.environ.get("LLM_DATADIST_TEST_DEVICES", "").split(",")))
    more = json.loads(os.environ.get("LLM_DATADIST_TEST_DEVICE_OPTIONS") or "{}")
    each = more if isinstance(more, list) else [more]
    own = {LLMConfig.device_id.key: devices[number % len(devices)]} if devices else {}
    return {**own, **each[number % len(each)]}


def half() -> int:
    """Return where a second series of engines of one test begins, for options_of."""
    return len(list(filter(None, os.environ.get("LLM_DATADIST_TEST_DEVICES", "").split(",")))) // 2


def id_of(options: Mapping[str, str]) -> int:
    """Return the device of an engine with these options."""
    return int(options.get(LLMConfig.device_id.key, "0"))


def allocate(size: int, device_id: int) -> int:
    """Return the address of memory of a device, which every transport can reach."""
    memory = ctypes.c_void_p()
    with _on(device_id) as acl:
        acl.call("aclrtMalloc", ctypes.byref(memory), size, _HUGE_ONLY)
    return int(memory.value or 0)


def free(address: int, device_id: int) -> None:
    """Give memory of allocate() back."""
    with _on(device_id) as acl:
        acl.call("aclrtFree", address)


def allocate_host(size: int, device_id: int) -> int:
    """Return the address of host memory that every transport can reach."""
    memory = ctypes.c_void_p()
    with _on(device_id) as acl:
        acl.call("aclrtMallocHost", ctypes.byref(memory), size)
    return int(memory.value or 0)


def free_host(address: int, device_id: int) -> None:
    """Give memory of allocate_host() back."""
    with _on(device_id) as acl:
        acl.call("aclrtFreeHost", address)


def read(address: int, size: int, device_id: int) -> Bytes:
    """Return a copy of memory of a device."""
    content = np.empty(size, np.uint8)
    with _on(device_id) as acl:
        acl.call("aclrtMemcpy", content.ctypes.data, size, address, size, _DEVICE_TO_HOST)
    return content


def write(address: int, content: NDArray[Any], device_id: int) -> None:
    """Copy an array into memory of a device."""
    content = np.ascontiguousarray(content)
    size = content.nbytes
    with _on(device_id) as acl:
        acl.call("aclrtMemcpy", address, size, content.ctypes.data, size, _HOST_TO_DEVICE)


class _Acl:
    """The functions, and the context of each device that was used; a process keeps both."""

    def __init__(self) -> None:
        self.contexts: dict[int, int] = {}
        library = _load()
        self._functions = {}
        for name, types in _FUNCTIONS.items():
            function = getattr(library, name)
            function.argtypes = types
            self._functions[name] = function
        self._recent_error = library.aclGetRecentErrMsg
        self._recent_error.restype = ctypes.c_char_p

    def call(self, name: str, *args: Any) -> None:
        """Call a function; raises RuntimeError unless it succeeds."""
        error = self._functions[name](*args)
        if error != 0:
            text = (self._recent_error() or b"").decode(errors="replace")
            raise RuntimeError(f"{name}: ACL error {error}: {text}")

    def context(self) -> int | None:
        """Return the context of this thread."""
        context = ctypes.c_void_p()
        if self._functions["aclrtGetCurrentContext"](ctypes.byref(context)) != 0:
            return None
        return context.value


@cache
def _acl() -> _Acl:
    return _Acl()


def _load() -> ctypes.CDLL:
    for name in _LIBRARIES[:-1]:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue  # an older toolkit
    return ctypes.CDLL(_LIBRARIES[-1])


@contextmanager
def _on(device_id: int) -> Iterator[_Acl]:
    """This thread on the device; afterwards where it was, if it was anywhere."""
    acl = _acl()
    before = acl.context()
    if device_id in acl.contexts:
        acl.call("aclrtSetCurrentContext", acl.contexts[device_id])
    else:
        acl.call("aclrtSetDevice", device_id)
        context = acl.context()
        if context is None:
            raise RuntimeError(f"device {device_id} is set, but has no context")
        acl.contexts[device_id] = context
    try:
        yield acl
    finally:
        if before is not None:
            acl.call("aclrtSetCurrentContext", before)
