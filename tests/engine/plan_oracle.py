# SPDX-License-Identifier: Apache-2.0
"""What a transfer must move, said one block at a time; and memory to try it on.

A cache is an array of bytes with its tensors at known places. A move is (destination tensor,
offset, source tensor, offset, bytes). Rules: docs of `pull`, `push`, `copy` in the contract.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.engine.engine_shim import Shim

HOST, DEVICE = 0, 1
Move = tuple[int, int, int, int, int]
Run = tuple[int, int, int]


class Refused(Exception):
    """The request breaks a rule."""


def need(condition: bool, rule: str) -> None:
    if not condition:
        raise Refused(rule)


@dataclass
class Cache:
    """`tensors` tensors of count * stride bytes, `gaps[i]` unused bytes before tensor i."""

    tensors: int
    blocks: bool
    count: int
    stride: int
    placement: int = DEVICE
    cache_id: int = 1
    gaps: tuple[int, ...] = ()
    seed: int = 0
    memory: np.ndarray = field(init=False, repr=False)
    starts: list[int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        gaps = self.gaps or (0,) * self.tensors
        self.starts = []
        end = 16
        for tensor in range(self.tensors):
            end += gaps[tensor % len(gaps)]
            self.starts.append(end)
            end += self.bytes
        self.memory = np.random.default_rng(self.seed).integers(0, 256, end + 16, dtype=np.uint8)

    @property
    def bytes(self) -> int:
        return self.count * self.stride

    @property
    def batch(self) -> int:
        return 1 if self.blocks else self.count

    @property
    def addrs(self) -> list[int]:
        return [int(self.memory.ctypes.data) + start for start in self.starts]

    def struct(self, shim: Shim, keep: list[Any]) -> dict[str, Any]:
        """The fields of a shim_cache; what they point to is put into `keep`."""
        keep.append(shim.ffi.new("uint64_t[]", self.addrs))
        return {
            "id": self.cache_id,
            "num_tensors": self.tensors,
            "blocks": self.blocks,
            "placement": self.placement,
            "data_type": 2,
            "tensor_bytes": self.bytes,
            "count": self.count,
            "addrs": keep[-1],
        }


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def selected(tensors: int, per_layer: int, layers: tuple[int, int], side: str) -> range:
    """The tensors of layers (start, count); all for a count of 0."""
    start, count = layers
    if count == 0:
        return range(tensors)
    need((start + count) * per_layer <= tensors, f"{side} layers in range")
    return range(start * per_layer, (start + count) * per_layer)


@dataclass
class Pull:
    local: Cache
    remote: Cache
    per_layer: int = 1
    batch_index: int = 0
    remote_batch: int = 0
    size: int = -1
    src: tuple[int, ...] = ()
    dst: tuple[int, ...] = ()
    src_layers: tuple[int, int] = (0, 0)
    dst_layers: tuple[int, int] = (0, 0)

    def pieces(self) -> list[tuple[int, int, int]]:
        """(offset in the local tensor, in the remote one, bytes), the same for each tensor."""
        local, remote = self.local, self.remote
        need(self.batch_index < local.batch, "batch index")
        if not self.dst:
            need(
                not self.src and not local.blocks and not remote.blocks, "contiguous on both sides"
            )
            need(self.size <= local.stride, "size")
            need(self.remote_batch < remote.count, "remote batch index")
            length = self.size if self.size > 0 else local.stride
            need(length <= remote.stride, "remote stride")
            return [(self.batch_index * local.stride, self.remote_batch * remote.stride, length)]
        block = local.stride
        need(local.blocks and self.size <= 0, "local blocks")
        need(all(index < local.count for index in self.dst), "dst blocks")
        if self.src:
            need(len(self.src) == len(self.dst), "equal lists")
            need(remote.blocks and remote.stride == block, "block sizes")
            need(all(index < remote.count for index in self.src), "src blocks")
            return [(d * block, s * block, block) for s, d in zip(self.src, self.dst)]
        need(not remote.blocks and self.remote_batch < remote.count, "remote batch index")
        need(local.placement == HOST or block <= remote.stride, "device block fits the source")
        need(len(self.dst) <= ceil_div(remote.stride, block), "source has that many blocks")
        entry = self.remote_batch * remote.stride
        return [
            (d * block, entry + j * block, min(block, remote.stride - j * block))
            for j, d in enumerate(self.dst)
        ]

    def runs_by_tensor(self) -> list[list[Run]]:
        """(local address, remote address, bytes), unmerged; raises Refused."""
        need(self.per_layer > 0, "tensors_per_layer")
        pieces = self.pieces()
        if self.src_layers[1] or self.dst_layers[1]:
            need(self.local.tensors % self.per_layer == 0, "N divides")
        dst = selected(self.local.tensors, self.per_layer, self.dst_layers, "dst")
        src = selected(self.remote.tensors, self.per_layer, self.src_layers, "src")
        need(len(dst) == len(src), "equal tensor counts")
        return by_tensor(self.local, dst, self.remote, src, pieces)

    def ask(self, shim: Shim) -> tuple[int, list[Run]]:
        keep: list[Any] = []
        args = self.args(shim, keep)
        remote = shim.ffi.new("shim_cache *", self.remote.struct(shim, keep))
        return collect(shim, shim.lib.shim_plan_pull, args, remote, self.remote_batch)

    def args(self, shim: Shim, keep: list[Any]) -> Any:
        keep += [shim.ffi.new("uint64_t[]", self.src), shim.ffi.new("uint64_t[]", self.dst)]
        fields = {
            "local": self.local.struct(shim, keep),
            "tensors_per_layer": self.per_layer,
            "batch_index": self.batch_index,
            "size": self.size,
            "src_blocks": keep[0],
            "num_src_blocks": len(self.src),
            "dst_blocks": keep[1],
            "num_dst_blocks": len(self.dst),
            "src_layer_start": self.src_layers[0],
            "src_layer_count": self.src_layers[1],
            "dst_layer_start": self.dst_layers[0],
            "dst_layer_count": self.dst_layers[1],
        }
        return shim.ffi.new("shim_pull_args *", fields)


@dataclass
class Push:
    """One layer."""

    local: Cache
    remote: Cache
    per_layer: int = 1
    src_batch: int = 0
    dst_batch: int = 0
    src: tuple[int, ...] = ()
    dst: tuple[int, ...] = ()
    block_size: int = 0
    src_layer: int = 0
    dst_layer: int = 0

    def pieces(self) -> list[tuple[int, int, int]]:
        local, remote = self.local, self.remote
        if self.src:
            need(len(self.src) == len(self.dst), "equal lists")
            need(local.blocks and remote.blocks and local.stride == remote.stride, "block sizes")
            need(self.block_size in (0, local.stride), "block memory size")
            need(all(index < local.count for index in self.src), "src blocks")
            need(all(index < remote.count for index in self.dst), "dst blocks")
            block = local.stride
            return [(s * block, d * block, block) for s, d in zip(self.src, self.dst)]
        need(self.src_batch < local.batch, "src batch index")
        if not self.dst:
            need(self.block_size == 0, "no block size without blocks")
            need(self.dst_batch < remote.batch, "dst batch index")
            need(local.stride <= remote.stride, "remote stride")
            return [(self.src_batch * local.stride, self.dst_batch * remote.stride, local.stride)]
        block = self.block_size
        entry = local.bytes if local.blocks else local.stride
        need(remote.blocks and 0 < block == remote.stride, "block memory size")
        need(block < local.bytes, "block smaller than the tensor")
        need(len(self.dst) <= ceil_div(entry, block), "source has that many blocks")
        need(all(index < remote.count for index in self.dst), "dst blocks")
        start = self.src_batch * entry
        return [
            (start + j * block, d * block, min(block, entry - j * block))
            for j, d in enumerate(self.dst)
        ]

    def runs_by_tensor(self) -> list[list[Run]]:
        need(self.per_layer > 0, "tensors_per_layer")
        pieces = self.pieces()
        need(self.local.tensors % self.per_layer == 0, "N divides")
        src = selected(self.local.tensors, self.per_layer, (self.src_layer, 1), "src")
        dst = selected(self.remote.tensors, self.per_layer, (self.dst_layer, 1), "dst")
        return by_tensor(self.local, src, self.remote, dst, pieces)

    def ask(self, shim: Shim) -> tuple[int, list[Run]]:
        keep: list[Any] = []
        keep += [shim.ffi.new("uint64_t[]", self.src), shim.ffi.new("uint64_t[]", self.dst)]
        fields = {
            "local": self.local.struct(shim, keep),
            "tensors_per_layer": self.per_layer,
            "src_batch_index": self.src_batch,
            "src_blocks": keep[0],
            "num_src_blocks": len(self.src),
            "dst_blocks": keep[1],
            "num_dst_blocks": len(self.dst),
            "dst_block_size": self.block_size,
        }
        args = shim.ffi.new("shim_push_args *", fields)
        remote = shim.ffi.new("shim_cache *", self.remote.struct(shim, keep))
        return collect(
            shim,
            shim.lib.shim_plan_push,
            args,
            remote,
            self.dst_batch,
            self.src_layer,
            self.dst_layer,
        )


def by_tensor(
    first: Cache, first_tensors: range, second: Cache, second_tensors: range, pieces: list[Run]
) -> list[list[Run]]:
    a, b = first.addrs, second.addrs
    return [
        [(a[i] + x, b[j] + y, length) for x, y, length in pieces]
        for i, j in zip(first_tensors, second_tensors)
    ]


def collect(shim: Shim, function: Any, *args: Any) -> tuple[int, list[Run]]:
    """Calls a planning function of the shim and fetches its runs."""
    capacity = 4096
    runs = shim.ffi.new("shim_run[]", capacity)
    count = shim.ffi.new("uint64_t *")
    status = function(*args, runs, capacity, count)
    assert count[0] <= capacity
    return status, [(runs[i].first, runs[i].second, runs[i].length) for i in range(count[0])]


def merged(tensors: list[list[Run]]) -> list[Run]:
    """Neighbours of one tensor that are adjacent on both sides made one."""
    result: list[Run] = []
    for runs in tensors:
        mine: list[Run] = []
        for a, b, length in runs:
            if mine and (a, b) == (mine[-1][0] + mine[-1][2], mine[-1][1] + mine[-1][2]):
                mine[-1] = (mine[-1][0], mine[-1][1], mine[-1][2] + length)
            else:
                mine.append((a, b, length))
        result += mine
    return result


def execute(runs: list[Run], *, to_first: bool) -> None:
    for first, second, length in runs:
        if to_first:
            ctypes.memmove(first, second, length)
        else:
            ctypes.memmove(second, first, length)
