# SPDX-License-Identifier: Apache-2.0
"""Memory of a known kind of pages."""

from __future__ import annotations

import mmap
import os

import numpy as np

from llm_datadist.testing.memory import words_at
from llm_datadist.testing.pattern import Words

from .work import Work

_HUGE = 2 << 20


class Arena:
    """Memory that all works of a run use one after the other.

    Args:
        size: bytes.
        shared: a memfd, as pools are made of; else anonymous memory with huge pages where the
            kernel gives them.
    """

    def __init__(self, size: int, shared: bool) -> None:
        self.descriptor = -1
        if shared:
            self.descriptor = os.memfd_create("benchmark")
            os.ftruncate(self.descriptor, size)
            self._map = mmap.mmap(self.descriptor, size)
            start = 0
        else:
            flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
            self._map = mmap.mmap(-1, size + _HUGE, flags=flags)
            self._map.madvise(mmap.MADV_HUGEPAGE)
            start = -np.frombuffer(self._map, np.uint8).ctypes.data % _HUGE
        self._words = np.frombuffer(self._map, np.uint64, size // 8, start)
        # Every page is there before anything is timed.
        self._words[:: mmap.PAGESIZE // 8] = 1

    def addresses(self, work: Work) -> list[int]:
        """Return the addresses of the tensors of a work, one behind the other."""
        return consecutive(self.address, work)

    @property
    def address(self) -> int:
        """Where it starts."""
        start: int = self._words.ctypes.data
        return start


def consecutive(first: int, work: Work) -> list[int]:
    """Return the addresses of tensors that lie one behind the other."""
    return [first + index * work.geometry.tensor_bytes for index in range(work.tensors)]


def tensors_at(addrs: list[int], work: Work) -> list[Words]:
    """View the tensors of a work, in this process, as words."""
    return [words_at(addr, work.geometry.tensor_bytes // 8) for addr in addrs]


def attach(process: int, descriptor: int, size: int) -> mmap.mmap:
    """Map another process's shared arena, for reading, every page present."""
    with open(f"/proc/{process}/fd/{descriptor}", "rb") as file:
        mapping = mmap.mmap(file.fileno(), size, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
    np.frombuffer(mapping, np.uint8)[:: mmap.PAGESIZE].sum()
    return mapping


def address_of(mapping: mmap.mmap) -> int:
    """Return where a mapping lies."""
    address: int = np.frombuffer(mapping, np.uint8).ctypes.data
    return address


def page_kind(address: int) -> str:
    """Say what pages the mapping around an address has, as the kernel counts them."""
    inside = False
    name = ""
    kilobytes: dict[str, int] = {}
    with open("/proc/self/smaps") as lines:
        for line in lines:
            head = line.split(maxsplit=5)
            if not head[0].endswith(":"):
                if inside:
                    break
                low, high = (int(number, 16) for number in head[0].split("-"))
                inside = low <= address < high
                name = head[5].strip() if len(head) > 5 else ""
            elif inside and len(head) > 2 and head[2] == "kB":
                kilobytes[head[0][:-1]] = int(head[1])
    if not kilobytes:
        raise RuntimeError(f"0x{address:x} is not mapped")
    huge = sum(kilobytes.get(kind, 0) for kind in ("AnonHugePages", "ShmemPmdMapped"))
    share = huge / max(1, kilobytes["Rss"])
    kind = "shared memory" if name.startswith(("/memfd:", "/dev/shm")) else "anonymous memory"
    size = f"{mmap.PAGESIZE >> 10} KiB pages" if share == 0 else f"{share:.0%} in huge pages"
    return f"{kind}, {size}"
