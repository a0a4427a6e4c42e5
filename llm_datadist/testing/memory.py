# SPDX-License-Identifier: Apache-2.0
"""The kinds of memory that a client may register: from every allocator, of any alignment, unmapped,
mapped anew; and of a device, where that is something else.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..cache import Placement
from . import device

__all__ = [
    "KINDS",
    "Memory",
    "bytes_at",
    "copied_by",
    "make",
    "of_client",
    "read",
    "words_at",
    "write",
]

Bytes = NDArray[np.uint8]

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.malloc.restype = ctypes.c_void_p
_libc.malloc.argtypes = [ctypes.c_size_t]
_libc.free.argtypes = [ctypes.c_void_p]

_MAP_FIXED_NOREPLACE = 0x100000
_MAP_FAILED = ctypes.c_void_p(-1).value


def bytes_at(address: int, size: int) -> Bytes:
    """Return the memory at an address of this process; nothing keeps it alive."""
    content: Bytes = np.frombuffer(
        memoryview((ctypes.c_char * size).from_address(address)), np.uint8
    )
    return content


def words_at(address: int, words: int) -> NDArray[np.uint64]:
    """Return the memory at an address of this process as 8-byte words."""
    return bytes_at(address, 8 * words).view(np.uint64)


def copied_by(placement: Placement, device_id: int) -> int | None:
    """Return the device that has to copy memory of this placement in and out; None: its address
    will do.
    """
    return None if placement is Placement.HOST or device.at_host_addresses() else device_id


def read(address: int, size: int, device_id: int | None) -> Bytes:
    """Return memory as bytes: itself, or what the device copied out of it."""
    if device_id is None:
        return bytes_at(address, size)
    return device.read(address, size, device_id)


def write(address: int, content: NDArray[Any], device_id: int | None) -> None:
    """Write the bytes of an array into memory."""
    if device_id is None:
        bytes_at(address, content.nbytes)[:] = content.reshape(-1).view(np.uint8)
    else:
        device.write(address, content, device_id)


class Memory:
    """size bytes at address, until release()."""

    address: int

    def __init__(self, size: int) -> None:
        self.size = size

    def release(self) -> None:
        """Give the memory back."""
        raise NotImplementedError


class NumpyMemory(Memory):
    """What numpy.empty gives, at the alignment it happens to have."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self._array = np.empty(size, np.uint8)
        self.address = self._array.ctypes.data

    def release(self) -> None:
        """Drop the array."""
        del self._array


class PageAlignedMemory(Memory):
    """A numpy array that starts at a page."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self._array = np.empty(size + mmap.PAGESIZE, np.uint8)
        self.address = -(-self._array.ctypes.data // mmap.PAGESIZE) * mmap.PAGESIZE

    def release(self) -> None:
        """Drop the array."""
        del self._array


class OddMemory(Memory):
    """Starts at an odd address."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self._array = np.empty(size + 2, np.uint8)
        self.address = self._array.ctypes.data | 1

    def release(self) -> None:
        """Drop the array."""
        del self._array


class HeapMemory(Memory):
    """From malloc."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.address = _libc.malloc(size)
        if not self.address:
            raise MemoryError(f"malloc({size})")

    def release(self) -> None:
        """Free it."""
        _libc.free(self.address)


class MappedMemory(Memory):
    """An anonymous private mapping, which can be taken away and come back at the same address."""

    def __init__(self, size: int) -> None:
        super().__init__(-(-size // mmap.PAGESIZE) * mmap.PAGESIZE)
        self.address = 0
        self.address = self._map(0)
        self._mapped = True

    def _map(self, flags: int) -> int:
        address = _libc.mmap(
            self.address or None,
            self.size,
            mmap.PROT_READ | mmap.PROT_WRITE,
            mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | flags,
            -1,
            0,
        )
        if address in (None, _MAP_FAILED):
            raise OSError(ctypes.get_errno(), f"mmap: {os.strerror(ctypes.get_errno())}")
        return int(address)

    def unmap(self) -> None:
        """Take it away; touching it is a segmentation fault from now on."""
        if _libc.munmap(self.address, self.size) != 0:
            raise OSError(ctypes.get_errno(), "munmap")
        self._mapped = False

    def map_again(self) -> None:
        """Put new, zeroed memory at the old address."""
        if self._map(_MAP_FIXED_NOREPLACE) != self.address:
            raise OSError("the kernel put the mapping elsewhere")
        self._mapped = True

    def protect(self, protection: int) -> None:
        """Set the protection, PROT_* of mmap."""
        if _libc.mprotect(self.address, self.size, protection) != 0:
            raise OSError(ctypes.get_errno(), "mprotect")

    def release(self) -> None:
        """Unmap what is still mapped."""
        if self._mapped:
            self.unmap()


class ReadOnlyMemory(MappedMemory):
    """Mapped, and may be read only."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.protect(mmap.PROT_READ)


class NowhereMemory(Memory):
    """Addresses where nothing ever was: the middle of the largest hole of the address space."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        with open("/proc/self/maps") as maps:
            ranges = [tuple(int(end, 16) for end in line.split()[0].split("-")) for line in maps]
        holes = [
            (following[0] - before[1], before[1]) for before, following in zip(ranges, ranges[1:])
            # vsyscall lies in the kernel's half, behind what no process can map.
            if following[0] < 1 << 47
        ]  # fmt: skip
        length, start = max(holes)
        self.address = (start + length // 2) // mmap.PAGESIZE * mmap.PAGESIZE

    def release(self) -> None:
        """Nothing was taken."""


class DeviceMemory(Memory):
    """Of a device, from CANN."""

    def __init__(self, size: int, device_id: int) -> None:
        super().__init__(size)
        self._device_id = device_id
        self.address = device.allocate(size, device_id)
        self._mapped = True

    def unmap(self) -> None:
        """Free it, for good."""
        device.free(self.address, self._device_id)
        self._mapped = False

    def release(self) -> None:
        """Free it, if that was not done."""
        if self._mapped:
            self.unmap()


class PinnedMemory(Memory):
    """Of the host, from CANN."""

    def __init__(self, size: int, device_id: int) -> None:
        super().__init__(size)
        self._device_id = device_id
        self.address = device.allocate_host(size, device_id)

    def release(self) -> None:
        """Free it."""
        device.free_host(self.address, self._device_id)


KINDS: dict[str, type[Memory]] = {
    "numpy": NumpyMemory,
    "page aligned": PageAlignedMemory,
    "odd": OddMemory,
    "malloc": HeapMemory,
    "mmap": MappedMemory,
    "read only": ReadOnlyMemory,
    "nowhere": NowhereMemory,
}


def make(kind: str, size: int) -> Memory:
    """Return size bytes of one of KINDS."""
    return KINDS[kind](size)


def of_client(size: int, placement: Placement, device_id: int) -> Memory:
    """Return size bytes such as a client of the library in use registers."""
    if device.at_host_addresses():
        return NumpyMemory(size)
    return (PinnedMemory if placement is Placement.HOST else DeviceMemory)(size, device_id)
