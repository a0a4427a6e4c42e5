# SPDX-License-Identifier: Apache-2.0
"""What engines are expected to do: contract chapters 3 to 7 in plain Python, over a copy of the
memory.

All engines are in one process, so an address names a byte of exactly one memory. Each call either
changes the model, or raises Refused with the status that the interface must answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from llm_datadist import LLMStatusCode as S
from llm_datadist import Placement

PAGE = 1024
PAGE_SHIFT = 10
UNSET = 2**64 - 1


class Refused(Exception):
    """The status that a call must answer."""

    def __init__(self, status: S) -> None:
        super().__init__(status)
        self.status = status


class Unreachable(Refused):
    """A transfer that meets memory that the peer does not offer; part of it may have moved."""

    def __init__(self, runs: list[Run]) -> None:
        super().__init__(S.LLM_FAILED)
        self.runs = runs


def require(condition: object, status: S = S.LLM_PARAM_INVALID) -> None:
    if not condition:
        raise Refused(status)


class Run(NamedTuple):
    """Bytes that a transfer moves."""

    dst: int
    src: int
    length: int


def overlap(runs: Sequence[Run]) -> bool:
    """Tell whether the outcome depends on the order of the runs."""
    for i, one in enumerate(runs):
        for j, other in enumerate(runs):
            if i != j and _meet(one.dst, one.length, other.dst, other.length):
                return True
            if _meet(one.dst, one.length, other.src, other.length):
                return True
    return False


def _meet(one: int, one_length: int, other: int, other_length: int) -> bool:
    return one < other + other_length and other < one + one_length


@dataclass
class Memory:
    """A piece of memory, and what must be in it."""

    base: int
    data: bytearray

    @property
    def end(self) -> int:
        return self.base + len(self.data)


class Name(NamedTuple):
    """A key as an engine binds it; a BlocksCacheKey is the request UNSET."""

    is_prefix: bool
    id: int
    model: int


class Key(NamedTuple):
    """What a caller names a peer's cache with; kind is "id", "blocks", "request" or "prefix"."""

    kind: str
    cluster: int
    id: int = 0  # of the cache, the request or the prefix
    model: int = 0
    batch: int = 0

    @property
    def name(self) -> Name:
        if self.kind == "blocks":
            return Name(False, UNSET, self.model)
        return Name(self.kind == "prefix", self.id, self.model)


@dataclass(frozen=True)
class Shape:
    """The geometry of a cache; count is the batch size or the number of blocks."""

    blocks: bool
    num_tensors: int
    count: int
    stride: int
    placement: Placement = Placement.DEVICE

    @property
    def tensor_bytes(self) -> int:
        return self.count * self.stride


@dataclass
class Cache:
    id: int
    shape: Shape
    addrs: list[int]
    registered: bool
    accessible: bool
    client_holds: bool = True
    names: dict[Name, int] = field(default_factory=dict)  # to the batch index
    # The tensors that no pull by a key has taken yet (decision 9).
    left: dict[Name, set[int]] = field(default_factory=dict)


class Entry(NamedTuple):
    cache: Cache
    batch: int
    consumable: Name | None = None


class Pool:
    """Page arithmetic (contract 3.3): which pages are taken."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.taken = [False] * (len(memory.data) // PAGE)

    @property
    def free_bytes(self) -> int:
        return self.taken.count(False) * PAGE

    def spans(self) -> list[tuple[int, int]]:
        """Return the free spans as (length, first page)."""
        found, start = [], None
        for page, taken in enumerate([*self.taken, True]):
            if not taken and start is None:
                start = page
            elif taken and start is not None:
                found.append((page - start, start))
                start = None
        return found

    def fits(self, tensor_bytes: int, count: int) -> bool:
        # However the tensors are placed, each takes one place of its span.
        pages = pages_of(tensor_bytes)
        return sum(length // pages for length, _ in self.spans()) >= count

    def take(self, addr: int, tensor_bytes: int) -> None:
        """Mark what the engine gave, which must be where the contract says."""
        pages = pages_of(tensor_bytes)
        spans = [span for span in self.spans() if span[0] >= pages]
        exact = [start for length, start in spans if length == pages]
        smallest = min(length for length, _ in spans)
        high_ends = [start + length - pages for length, start in spans if length == smallest]
        offset = addr - self.memory.base
        assert offset % PAGE == 0
        assert offset // PAGE in (exact or high_ends), (offset // PAGE, spans)
        self._mark(offset // PAGE, pages, True)

    def give_back(self, addr: int, tensor_bytes: int) -> None:
        self._mark((addr - self.memory.base) // PAGE, pages_of(tensor_bytes), False)

    def _mark(self, first: int, pages: int, taken: bool) -> None:
        assert self.taken[first : first + pages] == [not taken] * pages
        self.taken[first : first + pages] = [taken] * pages


def pages_of(size: int) -> int:
    return max(1, -(-size // PAGE))


@dataclass
class Table:
    """A copy of an engine's caches and names, as one-sided mode reads it once per link."""

    caches: dict[int, Cache]
    names: dict[Name, tuple[int, int]]


@dataclass
class End:
    """One end of a link."""

    peer: Engine
    made_at: int
    gone: bool = False
    table: Table | None = None


@dataclass
class Counts:
    pulls: int = 0
    pushes: int = 0
    copies: int = 0
    bytes_in: int = 0
    bytes_out: int = 0


class Layers(NamedTuple):
    """Layer ranges of a transfer; None: not given."""

    per_layer: int = 2
    src: range | None = None
    dst: range | None = None


class Engine:
    """One engine from init to finalize."""

    def __init__(self, world: World, cluster: int, pools: dict[Placement, Pool]) -> None:
        self.world = world
        self.cluster = cluster
        self.pools = pools
        self.caches: dict[int, Cache] = {}
        self.names: dict[Name, tuple[int, int]] = {}
        self.last_id = 0
        self.table_written = False
        self.links: dict[int, End] = {}
        self.counts = Counts()
        # When each range was registered, once for each cache that did.
        self.registrations: dict[tuple[int, int], list[tuple[int, int]]] = {}

    # ---- caches ----

    def check_allocate(self, shape: Shape, names: Sequence[Name]) -> bool:
        """Raise what an allocation must answer; returns whether it must warn."""
        require(shape.placement in self.pools)
        self.last_id += 1
        pool = self.pools[shape.placement]
        require(pool.fits(shape.tensor_bytes, shape.num_tensors), S.LLM_OUT_OF_MEMORY)
        require(len(names) <= shape.count)
        seen: Counter[Name] = Counter()
        for name in names:
            require(name not in self.names)
            seen[name] += 1
            require(seen[name] == 1 or is_placeholder(name, shape))
        return any(count > 1 for count in seen.values())

    def allocated(self, shape: Shape, names: Sequence[Name], addrs: list[int]) -> Cache:
        pool = self.pools[shape.placement]
        assert len(addrs) == shape.num_tensors
        for addr in addrs:
            pool.take(addr, shape.tensor_bytes)
        return self._add(Cache(self.last_id, shape, addrs, False, True), names)

    def register(
        self, shape: Shape, addrs: list[int], names: Sequence[Name], accessible: bool | None
    ) -> tuple[Cache, bool]:
        """Returns the cache, and whether there must be a warning."""
        self.last_id += 1
        if accessible is None:
            accessible = shape.placement == Placement.DEVICE
        warns, free = False, []
        for name in names:
            if shape.blocks:
                warns |= name in self.names
            elif is_placeholder(name, shape):
                pass
            elif name in self.names or name in free:
                # For contiguous caches the earliest binding stays; the batch entry has no name.
                warns, name = True, Name(False, UNSET, 0)
            free.append(name)
        cache = self._add(Cache(self.last_id, shape, addrs, True, accessible), free)
        if self._is_offered(cache):
            for addr in addrs:
                when = (self.world.tick(), cache.id)
                self.registrations.setdefault((addr, shape.tensor_bytes), []).append(when)
        return cache, warns

    def _is_offered(self, cache: Cache) -> bool:
        return cache.registered and (cache.accessible or not self.world.one_sided)

    def _add(self, cache: Cache, names: Iterable[Name]) -> Cache:
        self.table_written = True
        self.caches[cache.id] = cache
        for batch, name in enumerate(names):
            if is_placeholder(name, cache.shape):
                continue
            if name in self.names:
                self._unbind(name)
            self.names[name] = (cache.id, batch)
            cache.names[name] = batch
        return cache

    def _unbind(self, name: Name) -> None:
        cache_id, _ = self.names.pop(name)
        del self.caches[cache_id].names[name]

    def deallocate(self, cache_id: int) -> None:
        require(self.pools, S.LLM_FEATURE_NOT_ENABLED)
        cache = self.caches.get(cache_id)
        if cache is None or cache.registered:
            return
        cache.client_holds = False
        if cache.shape.blocks or not cache.names:
            self._remove(cache)

    def remove_key(self, name: Name) -> None:
        require(self.pools, S.LLM_FEATURE_NOT_ENABLED)
        if name not in self.names or self.caches[self.names[name][0]].registered:
            return
        cache = self.caches[self.names[name][0]]
        self._unbind(name)
        if not (cache.client_holds or cache.shape.blocks or cache.names):
            self._remove(cache)

    def unregister(self, cache_id: int) -> None:
        if cache_id in self.caches:
            self._remove(self.caches[cache_id])

    def _remove(self, cache: Cache) -> None:
        for name in list(cache.names):
            self._unbind(name)
        del self.caches[cache.id]
        if not cache.registered:
            for addr in cache.addrs:
                self.pools[cache.shape.placement].give_back(addr, cache.shape.tensor_bytes)
        elif self._is_offered(cache):
            for addr in cache.addrs:
                live = self.registrations[addr, cache.shape.tensor_bytes]
                live.remove(next(each for each in live if each[1] == cache.id))

    # ---- links ----

    def link(self, peer: Engine) -> None:
        require(peer.cluster not in self.links, S.LLM_ALREADY_LINK)
        now = self.world.tick()
        self.links[peer.cluster] = End(peer, now)
        peer.links[self.cluster] = End(self, now)

    def unlink(self, peer_cluster: int, force: bool) -> None:
        end = self.links.get(peer_cluster)
        if end is None:
            return
        require(force or not end.gone, S.LLM_UNLINK_FAILED)
        del self.links[peer_cluster]
        if force:
            self._leave(end)
        else:
            del end.peer.links[self.cluster]

    def finalize(self) -> None:
        for end in self.links.values():
            self._leave(end)

    def _leave(self, end: End) -> None:
        other = end.peer.links.get(self.cluster)
        if not end.gone and other is not None:
            other.gone = True

    def _usable(self, cluster: int) -> End:
        require(cluster in self.links, S.LLM_NOT_YET_LINK)
        end = self.links[cluster]
        require(not end.gone, S.LLM_TIMEOUT)
        return end

    def _table(self, end: End) -> Table:
        if end.table is None:
            owner = end.peer
            names = {name: place for name, place in owner.names.items() if not name.is_prefix}
            table = Table(dict(owner.caches), names)
            if not owner.table_written:
                return table
            end.table = table
        return end.table

    def _find_in_table(self, table: Table, key: Key) -> Entry:
        if key.kind == "id":
            cache, batch = table.caches.get(key.id), key.batch
        else:
            cache_id, batch = table.names.get(key.name, (0, 0))
            cache = table.caches.get(cache_id)
        if cache is None:
            raise Refused(S.LLM_KV_CACHE_NOT_EXIST)
        return Entry(cache, batch)

    def _resolve(self, key: Key) -> Entry:
        """The owner's side of request mode: contract 5.5, steps 1 to 3."""
        missing = Refused(S.LLM_KV_CACHE_NOT_EXIST)
        name: Name | None = key.name
        if key.kind == "id":
            cache = self.caches.get(key.id)
            if cache is None:
                raise missing
            named = [each for each, batch in cache.names.items() if batch == key.batch]
            if cache.shape.blocks or not named:
                if key.batch >= (1 if cache.shape.blocks else cache.shape.count):
                    raise missing
                return Entry(cache, key.batch)
            name = named[0]
            if name.is_prefix:
                raise missing
        if name not in self.names:
            raise missing
        cache_id, batch = self.names[name]
        cache = self.caches[cache_id]
        consumed = not (name.is_prefix or cache.registered or cache.shape.blocks)
        return Entry(cache, batch, name if consumed else None)

    def _consume(self, entry: Entry, layers: Layers) -> None:
        if entry.consumable is None:
            return
        left = set()
        if layers.src is not None:
            everything = set(range(entry.cache.shape.num_tensors))
            left = entry.cache.left.setdefault(entry.consumable, everything)
            left.difference_update(tensors_of(layers.src, layers.per_layer))
        if not left:
            self.remove_key(entry.consumable)

    # ---- transfers ----

    def pull(
        self,
        key: Key,
        cache_id: int,
        src_blocks: Sequence[int],
        dst_blocks: Sequence[int],
        layers: Layers,
        batch: int = 0,
        size: int = -1,
    ) -> None:
        require(key.cluster != self.cluster)
        require(cache_id in self.caches, S.LLM_KV_CACHE_NOT_EXIST)
        local = self.caches[cache_id]
        shape = local.shape
        require(batch < (1 if shape.blocks else shape.count))
        if dst_blocks:
            require(all(block < shape.count for block in dst_blocks))
            require(not src_blocks or len(src_blocks) == len(dst_blocks))
        else:
            require(size <= shape.stride)
        dst_tensors = list(range(shape.num_tensors))
        if layers.src is not None or layers.dst is not None:
            require(shape.num_tensors % layers.per_layer == 0)
        if layers.dst is not None:
            dst_tensors = tensors_of(layers.dst, layers.per_layer)
            require(dst_tensors[-1] < shape.num_tensors)
        if layers.src is not None:
            require(len(layers.src) * layers.per_layer == len(dst_tensors))

        end = self._usable(key.cluster)
        if self.world.one_sided:
            entry = self._find_in_table(self._table(end), key)
            require(local.accessible)
            require(entry.cache.accessible)
        else:
            entry = end.peer._resolve(key)
        remote = entry.cache.shape
        src_tensors = list(range(remote.num_tensors))
        if layers.src is not None:
            src_tensors = tensors_of(layers.src, layers.per_layer)
            require(src_tensors[-1] < remote.num_tensors)
        require(len(src_tensors) == len(dst_tensors))
        pieces = pull_pieces(shape, remote, src_blocks, dst_blocks, batch, entry.batch, size)
        if not self.world.one_sided:
            self._check_direction(remote, shape, bool(dst_blocks), end.peer)
        runs = [
            Run(local.addrs[d] + piece.dst, entry.cache.addrs[s] + piece.src, piece.length)
            for s, d in zip(src_tensors, dst_tensors)
            for piece in pieces
        ]
        end.peer._check_reachable(end, [(run.src, run.length) for run in runs], runs)
        self.world.move(runs)
        self.counts.pulls += 1
        self.counts.bytes_in += sum(run.length for run in runs)
        if not self.world.one_sided:
            end.peer._consume(entry, layers)

    def _check_direction(self, remote: Shape, local: Shape, to_blocks: bool, owner: Engine) -> None:
        from_host = remote.placement == Placement.HOST
        to_host = local.placement == Placement.HOST
        require(not to_host or Placement.DEVICE in self.pools)
        require(not from_host or Placement.DEVICE in owner.pools)
        require(not (from_host and to_host), S.LLM_FEATURE_NOT_ENABLED)
        require(not (from_host and to_blocks and not remote.blocks))

    def push(
        self,
        key: Key,
        cache_id: int,
        shape: Shape,
        src_blocks: Sequence[int],
        dst_blocks: Sequence[int],
        layers: Layers,
        batch: int = 0,
    ) -> bool:
        """Returns whether there must be a warning that a layer has more tensors than the cache."""
        require(self.world.one_sided)
        whole = range(shape.num_tensors // layers.per_layer)
        src = whole if layers.src is None else layers.src
        dst = whole if layers.dst is None else layers.dst
        require(len(src) == len(dst))
        given = layers.src is not None or layers.dst is not None
        for src_layer, dst_layer in zip(src, dst):
            self._push_layer(
                key, cache_id, src_blocks, dst_blocks, layers, batch, src_layer, dst_layer
            )
        return not (given or whole)

    def _push_layer(
        self,
        key: Key,
        cache_id: int,
        src_blocks: Sequence[int],
        dst_blocks: Sequence[int],
        layers: Layers,
        batch: int,
        src_layer: int,
        dst_layer: int,
    ) -> None:
        require(cache_id in self.caches, S.LLM_KV_CACHE_NOT_EXIST)
        local = self.caches[cache_id]
        end = self._usable(key.cluster)
        require(local.accessible)
        entry = self._find_in_table(self._table(end), key)
        remote = entry.cache
        require(remote.accessible)
        per_layer = layers.per_layer
        require(local.shape.num_tensors % per_layer == 0)
        require(len(src_blocks) == len(dst_blocks))
        require(dst_layer < remote.shape.num_tensors // per_layer)
        require(src_layer < local.shape.num_tensors // per_layer)
        stride = local.shape.stride
        if dst_blocks:
            require(remote.shape.blocks)
            require(all(block < local.shape.count for block in src_blocks))
            require(all(block < remote.shape.count for block in dst_blocks))
            require(stride == remote.shape.stride)
            pieces = [Run(d * stride, s * stride, stride) for s, d in zip(src_blocks, dst_blocks)]
        else:
            require(batch < local.shape.count)
            require(entry.batch < (1 if remote.shape.blocks else remote.shape.count))
            require(stride <= remote.shape.stride)
            pieces = [Run(entry.batch * remote.shape.stride, batch * stride, stride)]
        runs = [
            Run(
                remote.addrs[dst_layer * per_layer + i] + piece.dst,
                local.addrs[src_layer * per_layer + i] + piece.src,
                piece.length,
            )
            for i in range(per_layer)
            for piece in pieces
        ]
        end.peer._check_reachable(end, [(run.dst, run.length) for run in runs], runs)
        self.world.move(runs)
        self.counts.pushes += 1
        self.counts.bytes_out += sum(run.length for run in runs)

    def _check_reachable(
        self, end: End, places: Iterable[tuple[int, int]], runs: list[Run]
    ) -> None:
        """Decision 33 and "Withdrawing memory": registered memory must have been registered when
        the link was made and still be; pool memory is exempt.
        """
        for addr, length in places:
            if any(pool.memory.base <= addr < pool.memory.end for pool in self.pools.values()):
                continue
            if not any(
                start <= addr and addr + length <= start + size and made < end.made_at
                for (start, size), live in self.registrations.items()
                for made, _ in live
            ):
                raise Unreachable(runs)

    # ---- local copies ----

    def copy(
        self, dst: int, src: int, dst_batch: int, src_batch: int, offset: int, size: int
    ) -> list[Run]:
        """Returns what is to be moved; the caller moves it if the order does not matter."""
        require(src in self.caches and dst in self.caches, S.LLM_KV_CACHE_NOT_EXIST)
        one, other = self.caches[src], self.caches[dst]
        require(one.shape.num_tensors == other.shape.num_tensors)
        require(src_batch < one.shape.count and dst_batch < other.shape.count)
        require(offset < min(one.shape.stride, other.shape.stride))
        length = one.shape.stride - offset if size == -1 else size
        require(offset + length <= min(one.shape.stride, other.shape.stride))
        if (src, src_batch) == (dst, dst_batch):
            return []
        return [
            Run(
                to + dst_batch * other.shape.stride + offset,
                origin + src_batch * one.shape.stride + offset,
                length,
            )
            for origin, to in zip(one.addrs, other.addrs)
        ]

    def copy_blocks(self, cache_id: int, pairs: Sequence[tuple[int, int]]) -> list[Run]:
        require(cache_id in self.caches, S.LLM_KV_CACHE_NOT_EXIST)
        cache = self.caches[cache_id]
        require(all(max(pair) < cache.shape.count for pair in pairs))
        stride = cache.shape.stride
        return [
            Run(addr + dst * stride, addr + src * stride, stride)
            for addr in cache.addrs
            for src, dst in pairs
            if src != dst
        ]


def is_placeholder(name: Name, shape: Shape) -> bool:
    return not shape.blocks and not name.is_prefix and name.id == UNSET


def tensors_of(layers: range, per_layer: int) -> list[int]:
    return list(range(layers.start * per_layer, layers.stop * per_layer))


def pull_pieces(
    local: Shape,
    remote: Shape,
    src_blocks: Sequence[int],
    dst_blocks: Sequence[int],
    batch: int,
    remote_batch: int,
    size: int,
) -> list[Run]:
    """The bytes of one tensor that a pull moves, by offset: contract 5.3."""
    stride = local.stride
    if src_blocks:
        require(remote.blocks)
        require(stride == remote.stride)
        require(all(block < remote.count for block in src_blocks))
        return [Run(d * stride, s * stride, stride) for s, d in zip(src_blocks, dst_blocks)]
    require(not remote.blocks)
    require(remote_batch < remote.count)
    start = remote_batch * remote.stride
    if not dst_blocks:
        length = stride if size == -1 else size
        require(length <= remote.stride)
        return [Run(batch * stride, start, length)]
    require(local.placement == Placement.HOST or stride <= remote.stride)
    require(len(dst_blocks) <= -(-remote.stride // stride))
    return [
        Run(block * stride, start + i * stride, min(stride, remote.stride - i * stride))
        for i, block in enumerate(dst_blocks)
    ]


class World:
    """All engines of a test and all memory."""

    def __init__(self, one_sided: bool) -> None:
        self.one_sided = one_sided
        self.memories: list[Memory] = []
        self._now = 0

    def tick(self) -> int:
        self._now += 1
        return self._now

    def memory_at(self, addr: int) -> Memory:
        return next(each for each in self.memories if each.base <= addr < each.end)

    def read(self, addr: int, length: int) -> bytes:
        memory = self.memory_at(addr)
        return bytes(memory.data[addr - memory.base : addr - memory.base + length])

    def write(self, addr: int, data: bytes) -> None:
        memory = self.memory_at(addr)
        memory.data[addr - memory.base : addr - memory.base + len(data)] = data

    def move(self, runs: Sequence[Run]) -> None:
        for run in runs:
            self.write(run.dst, self.read(run.src, run.length))
