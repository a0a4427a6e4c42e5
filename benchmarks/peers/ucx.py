# SPDX-License-Identifier: Apache-2.0
"""UCX itself, called and timed in C (ucx.c), with the libraries of the wheel libucx-cu12."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import threading
from typing import Any

import numpy as np

from llm_datadist._bench.memory import Arena
from llm_datadist._bench.reference import compile_shared
from llm_datadist._bench.sides import Pull
from llm_datadist._bench.work import Work
from llm_datadist.testing.pattern import Blocks

from . import arenas

_SOURCE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "ucx.c")
_DESCRIPTION_ROOM = 1 << 16


def build(directory: str) -> dict[str, Any]:
    """Compile ucx.c; returns options of both sides. Raises NoReferences."""
    spec = importlib.util.find_spec("libucx")
    assert spec is not None
    assert spec.origin is not None
    wheel = os.path.dirname(spec.origin)
    library = os.path.join(directory, "libpeer_ucx.so")
    lib = os.path.join(wheel, "lib")
    options = [f"-I{os.path.join(wheel, 'include')}", f"-L{lib}", f"-Wl,-rpath,{lib}"]
    compile_shared(_SOURCE, library, *options, "-lucp", "-lucs", "-luct")
    return {"library": library}


class _Ucx:
    def __init__(self, path: str) -> None:
        self.calls = ctypes.CDLL(path)
        for name in ("ucx_pull", "ucx_describe"):
            self.calls[name].restype = ctypes.c_int64
        numbers, count = ctypes.c_void_p, ctypes.c_uint64
        self.calls.ucx_pull.argtypes = [numbers, numbers, count, count]
        _positive(self.calls.ucx_open(), "ucx_open")

    def map(self, address: int | None, size: int) -> int:
        place = ctypes.c_void_p(address)
        _positive(self.calls.ucx_map(ctypes.byref(place), ctypes.c_uint64(size)), "ucx_map")
        assert place.value is not None
        return place.value

    def describe(self) -> bytes:
        room = ctypes.create_string_buffer(_DESCRIPTION_ROOM)
        size = self.calls.ucx_describe(room, ctypes.c_uint64(_DESCRIPTION_ROOM))
        return room.raw[: _positive(size, "ucx_describe")]


def _positive(status: int, what: str) -> int:
    if status < 0:
        raise RuntimeError(f"{what} answered {status}")
    return status


class Owner(arenas.Owner):
    def allocate(self) -> int:
        self._ucx = _Ucx(self.options["library"])
        if self.options["allocated"]:
            return self._ucx.map(None, self.size)
        self._arena = Arena(self.size, shared=False)
        return self._ucx.map(self._arena.address, self.size)

    def info(self) -> bytes:
        description = self._ucx.describe()
        self._watched, self._stop = os.pipe()
        serve = self._ucx.calls.ucx_serve
        threading.Thread(target=serve, args=(self._watched,), daemon=True).start()
        return description


class Puller(arenas.Puller):
    def attach(self, owner: bytes) -> None:
        self._ucx = _Ucx(self.options["library"])
        self._ucx.map(self.address, self.size)
        _positive(self._ucx.calls.ucx_connect(owner), "ucx_connect")

    def begin_work(self, work: Work, theirs: list[int]) -> None:
        # What UCX has mapped has no pages yet: each one is touched before anything is timed.
        everything = np.arange(0, work.cache_bytes, work.block_bytes, dtype=np.uint64)
        self._pull(everything + np.uint64(theirs[0]), everything + np.uint64(self.address), work)

    def _pull(self, src: Blocks, dst: Blocks, work: Work) -> float:
        src_at, dst_at = src.ctypes.data, dst.ctypes.data
        nanoseconds = self._ucx.calls.ucx_pull(src_at, dst_at, len(src), work.block_bytes)
        return _positive(nanoseconds, "ucx_pull") / 1e3

    def pull(self, prepared: Any) -> None:
        raise NotImplementedError("it is timed in C")

    def timed(self, work: Work, theirs: list[int], own: list[int]) -> Pull:
        return lambda src, dst: self._pull(
            work.addresses(theirs, src), work.addresses(own, dst), work
        )
