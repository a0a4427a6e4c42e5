# SPDX-License-Identifier: Apache-2.0
"""A disk that is full: a small tmpfs of a test's own."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_MS_REMOUNT = 32
_MNT_DETACH = 2
_libc = ctypes.CDLL(None, use_errno=True)


class TinyDisk:
    """The folder at which it is mounted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def resize(self, size: int) -> None:
        """Give it so many bytes; not fewer than are in use."""
        self._mount(size, _MS_REMOUNT)

    def _mount(self, size: int, flags: int) -> None:
        where = os.fsencode(self.folder)
        if _libc.mount(b"none", where, b"tmpfs", flags, b"size=%d" % size) != 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error), str(self.folder))

    def fill(self) -> None:
        """Leave no byte."""
        with open(self.folder / "filling", "wb", buffering=0) as file:
            try:
                while file.write(bytes(4096)):
                    pass
            except OSError:
                # That it is full is what was wanted.
                return


@contextmanager
def tiny_disk(folder: Path, size: int) -> Iterator[TinyDisk]:
    """Mount one at a new folder; skips the test where this machine does not allow it."""
    folder.mkdir()
    disk = TinyDisk(folder)
    try:
        disk._mount(size, 0)
    except OSError as error:
        pytest.skip(f"capability to mount a tmpfs: {error}")
    try:
        yield disk
    finally:
        # A library that was loaded from it keeps it in use.
        _libc.umount2(os.fsencode(folder), _MNT_DETACH)
