# SPDX-License-Identifier: Apache-2.0
"""Builds and calls reference.c. Each call returns microseconds, measured in C."""

from __future__ import annotations

import ctypes
import os
import shlex
import shutil
import subprocess

from llm_datadist.testing.pattern import Blocks

_SOURCE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "reference.c")
_THREADS = 2
_OPTIONS = ("-std=gnu11", "-O2", "-shared", "-fPIC", "-pthread", "-Wall", "-Wextra")


class NoReferences(Exception):
    """This machine cannot build them; the text says why."""


def compile_shared(source: str, library: str, *options: str) -> None:
    """Compile a C file into a shared library with ``CC``, cc or gcc. Raises NoReferences."""
    named = shlex.split(os.environ.get("CC", ""))
    candidates = [named] if named else [["cc"], ["gcc"]]
    found = [command for command in candidates if shutil.which(command[0])]
    if not found:
        looked_for = ", ".join(command[0] for command in candidates)
        raise NoReferences(f"no C compiler ({looked_for}); CC names another")
    done = subprocess.run(
        [*found[0], *_OPTIONS, source, "-o", library, *options],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if done.returncode != 0:
        raise NoReferences(f"{found[0][0]} failed: {done.stdout.strip()}")


def build(directory: str) -> str:
    """Compile reference.c into a directory; returns the path of the library.

    Raises NoReferences, also where the library does not load, as from a directory without the right
    to execute.
    """
    library = os.path.join(directory, "libreference.so")
    compile_shared(_SOURCE, library)
    try:
        ctypes.CDLL(library)
    except OSError as error:
        raise NoReferences(str(error)) from None
    return library


class Reference:
    """The functions of reference.c, with two threads where the name says so."""

    def __init__(self, library: str) -> None:
        self._library = ctypes.CDLL(library)
        numbers, count = ctypes.c_void_p, ctypes.c_uint64
        self._declare("copy_local", ctypes.c_int64, numbers, numbers, count, count)
        self._declare(
            "pull_readv", ctypes.c_int64, ctypes.c_int, numbers, numbers, count, count, ctypes.c_int
        )
        self._declare("pull_mapped", ctypes.c_int64, numbers, numbers, count, count, ctypes.c_int)
        self._declare("pull_stream", ctypes.c_int64, ctypes.c_int, numbers, numbers, count, count)
        self._declare("serve_stream", ctypes.c_int, ctypes.c_int, numbers, count)
        self._declare("reference_kernel_name", ctypes.c_char_p)
        self._declare("streaming_kernel_name", ctypes.c_char_p)

    def _declare(self, name: str, result: type, *arguments: type) -> None:
        function = self._library[name]
        function.restype, function.argtypes = result, arguments
        setattr(self._library, name, function)

    @property
    def kernels(self) -> dict[str, str]:
        """What the copies inside this process and from mapped memory are made with."""
        return {
            "ref": self._library.reference_kernel_name().decode(),
            "nt_t2": self._library.streaming_kernel_name().decode(),
        }

    def copy_local(self, src: Blocks, dst: Blocks, size: int) -> float:
        """Copy inside this process, one thread: ``ref``."""
        return _microseconds(
            self._library.copy_local(src.ctypes.data, dst.ctypes.data, len(src), size), "ref"
        )

    def pull_readv(self, process: int, src: Blocks, dst: Blocks, size: int) -> float:
        """Pull by process_vm_readv, two threads: ``readv_t2``."""
        return _microseconds(
            self._library.pull_readv(
                process, src.ctypes.data, dst.ctypes.data, len(src), size, _THREADS
            ),
            "readv_t2",
        )

    def pull_mapped(self, src: Blocks, dst: Blocks, size: int) -> float:
        """Copy from memory that is mapped here, two threads: ``nt_t2``."""
        return _microseconds(
            self._library.pull_mapped(src.ctypes.data, dst.ctypes.data, len(src), size, _THREADS),
            "nt_t2",
        )

    def pull_stream(self, socket: int, src: Blocks, dst: Blocks, size: int) -> float:
        """Ask a serve_stream for blocks, over a blocking socket: ``raw_tcp``."""
        return _microseconds(
            self._library.pull_stream(socket, src.ctypes.data, dst.ctypes.data, len(src), size),
            "raw_tcp",
        )

    def serve_stream(self, socket: int, room: Blocks) -> None:
        """Answer pull_stream until the connection closes; room is for one request's addresses."""
        if self._library.serve_stream(socket, room.ctypes.data, len(room)) != 0:
            raise RuntimeError("raw_tcp: the connection broke in the middle of a request")


def _microseconds(nanoseconds: int, name: str) -> float:
    if nanoseconds < 0:
        raise RuntimeError(f"the reference {name} failed")
    return nanoseconds / 1e3
