# SPDX-License-Identifier: Apache-2.0
"""How large the KV cache of a model is, and whether this machine has room for it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

# Bytes of an element, and the name of the DataType.
DTYPES = {
    "bfloat16": (2, "DT_BF16"),
    "float16": (2, "DT_FLOAT16"),
    "float32": (4, "DT_FLOAT"),
    "int8": (1, "DT_INT8"),
}

# Layers, KV heads, and elements of a head, as the models' own configurations state them.
MODELS = {
    "llama-2-7b": (32, 32, 128),
    "llama-3-8b": (32, 8, 128),
    "llama-3-70b": (80, 8, 128),
    "mistral-7b": (32, 8, 128),
    "gemma-2-9b": (42, 8, 256),
    "qwen2.5-0.5b": (24, 2, 64),
    "qwen2.5-7b": (28, 4, 128),
    "qwen2.5-72b": (80, 8, 128),
    "qwen3-32b": (64, 8, 128),
}
DEFAULT_MODEL = "llama-3-8b"

# An interpreter with numpy and the engine's buffers, beside the cache.
PROCESS_OVERHEAD = 96 << 20
# Tensors of an allocated cache start on pages of the pool.
POOL_PAGE_SHIFT = 16


@dataclass(frozen=True)
class Geometry:
    """A paged KV cache: a tensor of K and one of V for each layer, each made of blocks."""

    layers: int
    kv_heads: int
    head_dim: int
    block_tokens: int
    dtype: str
    blocks: int

    @property
    def tensors(self) -> int:
        """How many tensors there are: K and V of each layer."""
        return 2 * self.layers

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """The shape of one tensor."""
        return (self.blocks, self.block_tokens, self.kv_heads, self.head_dim)

    @property
    def block_bytes(self) -> int:
        """Bytes of one block in one tensor."""
        return self.block_tokens * self.kv_heads * self.head_dim * DTYPES[self.dtype][0]

    @property
    def tensor_bytes(self) -> int:
        """Bytes of one tensor."""
        return self.blocks * self.block_bytes

    @property
    def cache_bytes(self) -> int:
        """Bytes of all tensors."""
        return self.tensors * self.tensor_bytes

    @property
    def pool_bytes(self) -> int:
        """Bytes of a pool that holds the cache."""
        page = 1 << POOL_PAGE_SHIFT
        return self.tensors * ((self.tensor_bytes + page - 1) // page) * page

    def __str__(self) -> str:
        return (
            f"{self.layers} layers, K and V, {self.kv_heads} KV heads x {self.head_dim}, "
            f"{self.block_tokens} tokens a block, {self.dtype}"
        )


def in_words(size: int) -> str:
    """Return a number of bytes for people: "16 MiB", "1.5 GiB"."""
    for shift, unit in ((50, "PiB"), (40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")):
        if size >= 1 << shift:
            return f"{size / (1 << shift):.4g} {unit}"
    return f"{size} bytes"


def available_memory(root: str = "/") -> int:
    """Return the bytes that new processes may use, by the machine and by our control groups.

    Args:
        root: where /proc and /sys are found.
    """
    return min([_machine_available(root), *_groups_available(root)])


def _machine_available(root: str) -> int:
    available = entry(os.path.join(root, "proc/meminfo"), "MemAvailable:")
    if available is None:
        raise RuntimeError("/proc/meminfo has no MemAvailable: the kernel is older than 3.14")
    return available << 10  # from kB


@dataclass(frozen=True)
class _GroupFiles:
    """What a version of control groups calls its files."""

    limit: str
    used: str
    reclaimable: str  # in memory.stat: counts as used, but goes when memory is wanted


_VERSION_1 = _GroupFiles("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_VERSION_2 = _GroupFiles("memory.max", "memory.current", "inactive_file")


def _groups_available(root: str) -> Iterator[int]:
    for version, group in control_groups(root, "memory"):
        files = _VERSION_2 if version == 2 else _VERSION_1
        limit = _number(os.path.join(group, files.limit))
        used = _number(os.path.join(group, files.used))
        if limit is not None and used is not None:
            cached = entry(os.path.join(group, "memory.stat"), files.reclaimable) or 0
            yield max(0, limit - used + cached)


def control_groups(root: str, controller: str) -> Iterator[tuple[int, str]]:
    """Yield the groups that hold this process back, from the root of each hierarchy down.

    Args:
        root: where /proc and /sys are found.
        controller: "memory", "cpu".

    Yields the version of control groups, 1 or 2, and the group's folder, which need not exist.
    """
    with open(os.path.join(root, "proc/self/cgroup")) as lines:
        groups = [line.rstrip("\n").split(":", 2) for line in lines]
    for number, controllers, path in groups:
        if number == "0":
            version, mount = 2, "sys/fs/cgroup"
        elif controller in controllers.split(","):
            version, mount = 1, f"sys/fs/cgroup/{controller}"
        else:
            continue
        # Each ancestor has a limit of its own. In a container the path may be the host's, which is
        # not visible here: then only the root is, and it is the container's.
        parts = [part for part in path.split("/") if part]
        for depth in range(len(parts) + 1):
            yield version, os.path.join(root, mount, *parts[:depth])


def _number(path: str) -> int | None:
    """Return the number in a file; None: no such file (the root has no limit), or "max"."""
    try:
        with open(path) as file:
            text = file.read().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def entry(path: str, name: str) -> int | None:
    """Return the number behind a name in a file of lines; None: no such file, or no such line."""
    try:
        with open(path) as lines:
            for line in lines:
                words = line.split()
                if words and words[0] == name:
                    return int(words[1])
    except OSError:
        return None
    return None
