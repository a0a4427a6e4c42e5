# SPDX-License-Identifier: Apache-2.0
"""Random calls on two or three engines of one process, each made in the model and for real.

After each step statuses and warnings, the bytes of all memory, links, numbers of caches, free bytes
of pools and counters agree.
"""

from __future__ import annotations

import ctypes
import os
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Callable, ClassVar

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from llm_datadist import (
    BlocksCacheKey,
    Cache,
    CacheDesc,
    CacheKey,
    CacheKeyByIdAndIndex,
    DataType,
    LLMClusterInfo,
    LLMDataDist,
    LLMDataDistWarning,
    LLMException,
    Placement,
)
from llm_datadist import LLMStatusCode as S
from llm_datadist._native import marshal
from llm_datadist.introspection import LinkState
from llm_datadist.testing import eventually
from llm_datadist.testing.actor import EngineSpec
from tests.model.world import (
    PAGE,
    PAGE_SHIFT,
    UNSET,
    Engine,
    Key,
    Layers,
    Memory,
    Name,
    Pool,
    Refused,
    Run,
    Shape,
    Unreachable,
    World,
    overlap,
)

TRANSPORT = "LLM_DATADIST_MOCK_TRANSPORT"
TRANSPORTS = (None, "tcp", "cma,tcp", "mapped,tcp")
POOL_PAGES = {Placement.DEVICE: 24, Placement.HOST: 10}
POOL_CHOICES: tuple[tuple[Placement, ...], ...] = (
    (Placement.DEVICE, Placement.HOST),
    (Placement.DEVICE, Placement.HOST),
    (Placement.DEVICE,),
    (Placement.HOST,),
    (),
)
# Registered tensors all have these bytes, so that two registrations share a range or do not touch.
SLOT, NUM_SLOTS = 240, 12
COUNTS_OF_SLOT = (10, 10, 5)
COUNTS_OF_PAGES = (10, 5, 50, 25)
STRIDES = {10: 24, 5: 48, 50: 24, 25: 48}
NO_SUCH_CACHE = 10**6

few = st.integers(0, 11)
small = st.integers(0, 3)
seldom = st.integers(0, 15).map(lambda n: n == 15)
block_lists = st.lists(st.integers(0, 11), min_size=1, max_size=4)
layer_ranges = st.sampled_from([None, None, None, range(1), range(1, 2), range(2), range(3)])
layers = st.one_of(
    st.just(Layers()),
    st.sampled_from([Layers(1, range(at, at + 1), range(at, at + 1)) for at in (0, 1)]),
    st.builds(Layers, st.sampled_from([2, 2, 1, 3]), layer_ranges, layer_ranges),
)
shapes = st.tuples(st.booleans(), st.sampled_from([2, 2, 2, 2, 4, 4, 1, 3]), small, few)


@dataclass
class Handle:
    """A Cache object that the client has, whatever became of the cache."""

    cache: Cache
    shape: Shape


@dataclass
class Player:
    """One LLMDataDist with its model and the memory that it registers."""

    cluster: int
    buffer: Any
    datadist: LLMDataDist
    model: Engine
    handles: list[Handle] = field(default_factory=list)

    @property
    def manager(self) -> Any:
        return self.datadist.cache_manager

    def slot(self, number: int) -> int:
        return int(self.buffer.ctypes.data) + (number % NUM_SLOTS) * SLOT

    def describe(self) -> Any:
        """What lldd_engine_describe tells, which has no other way to Python."""
        engine = self.datadist._engine
        assert engine is not None
        info = marshal.new(engine._native.ffi, "lldd_engine_info")
        assert engine._native.engine_describe(engine._handle, info) == 0
        return info


def shape_of(drawn: tuple[bool, int, int, int], counts: Sequence[int]) -> Shape:
    blocks, num_tensors, placement, count = drawn
    count = counts[count % len(counts)]
    where = Placement.HOST if placement == 0 else Placement.DEVICE
    return Shape(blocks, num_tensors, count, STRIDES[count], where)


def fits(one: Shape, other: Shape) -> bool:
    return (one.num_tensors, one.stride) == (other.num_tensors, other.stride)


def desc_of(shape: Shape) -> CacheDesc:
    dims = [shape.count, shape.stride]
    return CacheDesc(shape.num_tensors, dims, DataType.DT_INT8, shape.placement)


def native_key(key: Key) -> Any:
    if key.kind == "id":
        return CacheKeyByIdAndIndex(key.cluster, key.id, key.batch)
    if key.kind == "blocks":
        return BlocksCacheKey(key.cluster, key.model)
    if key.kind == "prefix":
        return CacheKey(key.cluster, UNSET, key.model, key.id)
    return CacheKey(key.cluster, key.id, key.model)


def native_name(name: Name, shape: Shape | None = None) -> Any:
    if shape is not None and shape.blocks:
        return BlocksCacheKey(0, name.model)
    if name.is_prefix:
        return CacheKey(0, 0, name.model, name.id)
    return CacheKey(0, name.id, name.model)


def ranges_of(chosen: Layers) -> dict[str, Any]:
    options: dict[str, Any] = {"tensor_num_per_layer": chosen.per_layer}
    if chosen.src is not None:
        options["src_layer_range"] = chosen.src
    if chosen.dst is not None:
        options["dst_layer_range"] = chosen.dst
    return options


def fold(blocks: Sequence[int], count: int, wild: bool) -> list[int]:
    """Block indices without repetition, in range unless they shall be wild."""
    return list(dict.fromkeys(blocks if wild else (block % count for block in blocks)))


def bytes_at(memory: Memory) -> bytes:
    return ctypes.string_at(memory.base, len(memory.data))


class Machine(RuleBasedStateMachine):
    """The rules; a subclass says in which mode."""

    one_sided: ClassVar[bool]
    # How often each call ended how, for the reader of a long run.
    outcomes: ClassVar[Counter[tuple[str, str]]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.world = World(self.one_sided)
        self.players: list[Player] = []
        self._fill = np.random.default_rng(1)
        self._transport_before = os.environ.get(TRANSPORT)

    @initialize(count=st.sampled_from([3, 3, 2]), transport=st.sampled_from(TRANSPORTS))
    def open(self, count: int, transport: str | None) -> None:
        self._set_transport(transport)
        for cluster in range(1, count + 1):
            buffer = self._fill.integers(0, 256, NUM_SLOTS * SLOT, np.uint8)
            self.world.memories.append(Memory(int(buffer.ctypes.data), bytearray(buffer.tobytes())))
            self.players.append(self._opened(cluster, buffer, POOL_CHOICES[0]))
        # Somewhere to start from: an empty world answers most calls with a refusal.
        for who in range(count):
            self.furnish(who)
            self.link(who, 0, True)
            self.link(who, 1, False)

    @staticmethod
    def _set_transport(value: str | None) -> None:
        if value is None:
            os.environ.pop(TRANSPORT, None)
        else:
            os.environ[TRANSPORT] = value

    def _opened(self, cluster: int, buffer: Any, placements: tuple[Placement, ...]) -> Player:
        pools = {placement: POOL_PAGES[placement] * PAGE for placement in placements}
        datadist = EngineSpec(
            cluster,
            listen="127.0.0.1:0",
            one_sided=self.one_sided,
            sync_timeout_ms=10000,
            device_pool=pools.get(Placement.DEVICE, 0),
            host_pool=pools.get(Placement.HOST, 0),
            page_shift=PAGE_SHIFT,
            several_in_a_process=True,
        ).open()
        model = Engine(self.world, cluster, {})
        for placement in placements:
            # A cache as large as the pool tells where the pool is.
            size = POOL_PAGES[placement] * PAGE
            desc = CacheDesc(1, [1, size], DataType.DT_INT8, placement)
            probe = datadist.cache_manager.allocate_cache(desc)
            (base,) = probe.tensor_addrs
            datadist.cache_manager.deallocate_cache(probe)
            memory = Memory(base, bytearray(ctypes.string_at(base, size)))
            self.world.memories.append(memory)
            model.pools[placement] = Pool(memory)
            model.last_id += 1
            model.table_written = True
        return Player(cluster, buffer, datadist, model)

    def teardown(self) -> None:
        for player in self.players:
            player.datadist.finalize()
        self._set_transport(self._transport_before)

    # ---- both at once ----

    def both(
        self,
        what: str,
        expected: Callable[[], Any],
        call: Callable[[], Any],
        warns: bool | None = False,
    ) -> Any:
        """Make a call in the model and for real; both must end alike.

        Returns what the model returned, None if it refused. warns None: as the model returned.
        """
        status, answer, torn = S.LLM_SUCCESS, None, []
        try:
            answer = expected()
        except Unreachable as refusal:
            status, torn = refusal.status, refusal.runs
        except Refused as refusal:
            status = refusal.status
        text = ""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                call()
                found = S.LLM_SUCCESS
            except LLMException as error:
                found, text = error.status_code, str(error)
        assert found == status, f"{found} {text} where the model says {status}"
        if status == S.LLM_SUCCESS:
            warned = any(issubclass(each.category, LLMDataDistWarning) for each in caught)
            assert warned == bool(answer if warns is None else warns), [str(w) for w in caught]
        self._accept(torn)
        Machine.outcomes[what, status.name] += 1
        return answer

    def _accept(self, torn: list[Run]) -> None:
        """Of a transfer that failed on its way each byte is either the old or the new one."""
        for run in torn:
            new, old = self.world.read(run.src, run.length), self.world.read(run.dst, run.length)
            now = ctypes.string_at(run.dst, run.length)
            assert all(byte in pair for byte, *pair in zip(now, old, new))
            self.world.write(run.dst, now)

    def player(self, number: int) -> Player:
        return self.players[number % len(self.players)]

    def other(self, player: Player, number: int) -> Player:
        """Return another player, and seldom the same one."""
        others = [each for each in self.players if each is not player] * 5 + [player]
        return others[number % len(others)]

    @staticmethod
    def handle(
        player: Player, number: int, blocks: bool | None = None, like: Shape | None = None
    ) -> Handle | None:
        """Return a cache handle of this layout: mostly one that is alive and like another cache,
        at times any.
        """
        found = [each for each in player.handles if blocks in (None, each.shape.blocks)]
        if number < 10:
            alive = [each for each in found if each.cache.cache_id in player.model.caches]
            similar = [each for each in alive if like is None or fits(each.shape, like)]
            found = similar or alive or found
        return found[-1 - number % len(found)] if found else None

    # ---- caches ----

    def _names(self, shape: Shape, numbers: Sequence[int], model: int) -> list[Name]:
        if shape.blocks:
            return [Name(False, UNSET, model)] if numbers else []
        # 0 to 5: requests, 6 to 8: prefixes, the rest: placeholders.
        return [
            Name(False, number, model)
            if number < 6
            else Name(True, number, model)
            if number < 9
            else Name(False, UNSET, model)
            for number in numbers
        ]

    def _made(self, player: Player, cache: Cache, shape: Shape) -> None:
        player.handles.append(Handle(cache, shape))
        assert cache.cache_id == player.model.last_id
        self._write(list(cache.tensor_addrs), shape.tensor_bytes)

    def _write(self, addrs: Sequence[int], length: int) -> None:
        for addr in addrs:
            data = self._fill.bytes(length)
            ctypes.memmove(addr, data, length)
            self.world.write(addr, data)

    @rule(who=small, drawn=shapes, numbers=st.lists(few, max_size=4), model=small)
    def allocate(
        self, who: int, drawn: tuple[bool, int, int, int], numbers: list[int], model: int
    ) -> None:
        player, shape = self.player(who), shape_of(drawn, COUNTS_OF_PAGES)
        names = self._names(shape, numbers, model)
        made: list[Cache] = []

        def call() -> None:
            keys = [native_name(name, shape) for name in names]
            if shape.blocks:
                key = keys[0] if keys else None
                made.append(player.manager.allocate_blocks_cache(desc_of(shape), key))
            else:
                made.append(player.manager.allocate_cache(desc_of(shape), keys))

        self.both("allocate", lambda: player.model.check_allocate(shape, names), call, warns=None)
        if made:
            player.model.allocated(shape, names, list(made[0].tensor_addrs))
            self._made(player, made[0], shape)

    @rule(
        who=small,
        drawn=shapes,
        first=few,
        numbers=st.lists(few, max_size=4),
        model=small,
        accessible=st.sampled_from([None, None, True, True, False]),
    )
    def register(
        self,
        who: int,
        drawn: tuple[bool, int, int, int],
        first: int,
        numbers: list[int],
        model: int,
        accessible: bool | None,
    ) -> None:
        player, shape = self.player(who), shape_of(drawn, COUNTS_OF_SLOT)
        names = self._names(shape, numbers, model)
        addrs = [player.slot(first + i) for i in range(shape.num_tensors)]
        made: list[Cache] = []

        def call() -> None:
            keys = [native_name(name, shape) for name in names]
            if shape.blocks:
                key = keys[0] if keys else None
                make = player.manager.register_blocks_cache
                made.append(make(desc_of(shape), list(addrs), key, accessible))
            else:
                make = player.manager.register_cache
                made.append(make(desc_of(shape), list(addrs), keys, accessible))

        def expected() -> bool:
            return player.model.register(shape, addrs, names, accessible)[1]

        self.both("register", expected, call, warns=None)
        self._made(player, made[0], shape)

    @rule(who=small)
    def furnish(self, who: int) -> None:
        """A cache of each kind for an engine that has none."""
        if self.player(who).model.caches:
            return
        self.allocate(who, (True, 2, 1, 0), [0], 0)
        self.allocate(who, (False, 2, 1, 0), [0, 1, 6], 0)
        self.register(who, (True, 2, 1, 0), 0, [0], 1, None)
        self.register(who, (False, 2, 1, 0), 4, [2], 1, None)

    @rule(who=small, which=few, rare=st.booleans())
    def deallocate(self, who: int, which: int, rare: bool) -> None:
        if rare:
            return
        player = self.player(who)
        held = self.handle(player, which)
        if held is None:
            return
        manager = player.manager
        free = manager.deallocate_blocks_cache if held.shape.blocks else manager.deallocate_cache
        self.both(
            "deallocate",
            lambda: player.model.deallocate(held.cache.cache_id),
            lambda: free(held.cache),
        )
        if player.model.pools:
            assert held.cache.tensor_addrs == []

    @rule(who=small, which=few, rare=small)
    def unregister(self, who: int, which: int, rare: int) -> None:
        if rare:
            return
        player = self.player(who)
        held = self.handle(player, which)
        if held is None:
            return
        number = held.cache.cache_id
        self.both(
            "unregister",
            lambda: player.model.unregister(number),
            lambda: player.manager.unregister_cache(number),
        )

    @rule(who=small, which=few, number=few, model=small, rare=small)
    def remove_cache_key(self, who: int, which: int, number: int, model: int, rare: int) -> None:
        if rare:
            return
        player = self.player(who)
        bound = [*sorted(player.model.names), Name(False, number, model)]
        name = bound[which % len(bound)]
        key = native_name(name)
        self.both(
            "remove_cache_key",
            lambda: player.model.remove_key(name),
            lambda: player.manager.remove_cache_key(key),
        )

    @rule(who=small, which=few)
    def client_writes(self, who: int, which: int) -> None:
        player = self.player(who)
        live = list(player.model.caches.values())
        if live:
            cache = live[which % len(live)]
            self._write(cache.addrs, cache.shape.tensor_bytes)

    # ---- links ----

    def _info(self, player: Player, with_id: bool) -> LLMClusterInfo:
        info = LLMClusterInfo()
        if with_id:
            info.remote_cluster_id = player.cluster
        assert player.datadist.listen_address is not None
        info.append_local_ip_info("127.0.0.1", 0)
        info.append_remote_ip_info(*player.datadist.listen_address)
        return info

    def _linking(self, what: str, expected: Callable[[], None], call: Callable[[], Any]) -> None:
        def raising() -> None:
            status, statuses = call()
            assert statuses == [status]
            if status != S.LLM_SUCCESS:
                raise LLMException("", status_code=status)

        self.both(what, expected, raising)

    @rule(who=small, whom=few, with_id=st.booleans())
    def link(self, who: int, whom: int, with_id: bool) -> None:
        one = self.player(who)
        other = self.other(one, whom)
        if one is other or (other.cluster in one.model.links and whom != 3):
            return
        info = self._info(other, with_id)
        self._linking(
            "link",
            lambda: one.model.link(other.model),
            lambda: one.datadist.link_clusters([info], 10000),
        )
        assert info.remote_cluster_id in (other.cluster, None)

    @rule(who=small, whom=few, force=st.booleans(), rare=small)
    def unlink(self, who: int, whom: int, force: bool, rare: int) -> None:
        one = self.player(who)
        other = self.other(one, whom)
        end = one.model.links.get(other.cluster)
        # Live links are what most of the other rules need.
        if one is other or (rare and (end is None or not end.gone)):
            return
        info = self._info(other, True)
        self._linking(
            "unlink",
            lambda: one.model.unlink(other.cluster, force),
            lambda: one.datadist.unlink_clusters([info], 10000, force),
        )
        self._wait_for_links()

    @rule(who=small, pools=st.sampled_from(POOL_CHOICES), rare=few)
    def finalize_and_init(self, who: int, pools: tuple[Placement, ...], rare: int) -> None:
        if rare > 1:
            return
        position = who % len(self.players)
        player = self.players[position]
        stale = player.manager
        player.datadist.finalize()
        Machine.outcomes["finalize_and_init", "LLM_SUCCESS"] += 1
        for pool in player.model.pools.values():
            self.world.memories.remove(pool.memory)
        player.model.finalize()
        self._check_is_finalized(stale)
        self.players[position] = self._opened(player.cluster, player.buffer, pools)
        self._check_is_finalized(stale)
        self._wait_for_links()

    @staticmethod
    def _check_is_finalized(stale: Any) -> None:
        for call in (
            lambda: stale.register_cache(desc_of(Shape(False, 1, 10, 24)), [1]),
            lambda: stale.unregister_cache(None),
            lambda: stale.remove_cache_key(CacheKey(1, 1)),
            lambda: stale.pull_blocks(None, None, [1], [1]),
        ):
            with pytest.raises(LLMException) as caught:
                call()
            assert caught.value.status_code == S.LLM_ENGINE_FINALIZED

    def _wait_for_links(self) -> None:
        # A peer sees the closed connection, nobody tells it.
        eventually(lambda: all(self._links_agree(player) for player in self.players), "links agree")

    @staticmethod
    def _links_agree(player: Player) -> bool:
        found = {link.peer_cluster_id: link.state for link in player.datadist.links()}
        return found == {
            cluster: LinkState.PEER_GONE if end.gone else LinkState.LIVE
            for cluster, end in player.model.links.items()
        }

    # ---- transfers ----

    def _key(
        self, owner: Player, kinds: Sequence[str], which: int, batch: int, blocks: bool | None
    ) -> Key:
        """A key of a cache of this layout of the owner; at times of one that is gone or never was.

        For ids; other keys have a layout of their own.
        """
        found = [
            Key("id", owner.cluster, held.cache.cache_id, 0, batch)
            for held in (self.handle(owner, number, blocks) for number in (which, which + 1))
            if held is not None and "id" in kinds
        ]
        for name in sorted(owner.model.names):
            kind = "blocks" if name.id == UNSET and not name.is_prefix else "request"
            kind = "prefix" if name.is_prefix else kind
            if kind in kinds:
                found.append(Key(kind, owner.cluster, name.id, name.model))
        if which == 11 or not found:
            found = [Key(kind, owner.cluster, 4711, 1, batch) for kind in kinds]
        return found[which % len(found)]

    @staticmethod
    def _shape_under(owner: Player, key: Key) -> Shape | None:
        place = (key.id, 0) if key.kind == "id" else owner.model.names.get(key.name)
        cache = owner.model.caches.get(place[0]) if place else None
        return cache.shape if cache else None

    def _after_refusal(self, player: Player, key: Key, held: Handle) -> None:
        """Wait until the owner has let go of a cache that a refused pull had pinned: it handles
        the requests of a link in order.
        """
        end = player.model.links.get(key.cluster)
        local = player.model.caches.get(held.cache.cache_id)
        if self.one_sided or end is None or end.gone or local is None:
            return
        nothing = CacheKeyByIdAndIndex(key.cluster, NO_SUCH_CACHE)
        pull = player.manager.pull_blocks if held.shape.blocks else player.manager.pull_cache
        lists = ([], [0]) if held.shape.blocks else ()
        with pytest.raises(LLMException) as caught:
            pull(nothing, held.cache, *lists)
        assert caught.value.status_code == S.LLM_KV_CACHE_NOT_EXIST

    @rule(
        who=small,
        whom=few,
        which=few,
        what=few,
        batch=few,
        remote_batch=small,
        size=st.sampled_from([-1, -1, -1, 1, 24, 40, 100]),
        chosen=layers,
    )
    def pull_cache(
        self,
        who: int,
        whom: int,
        which: int,
        what: int,
        batch: int,
        remote_batch: int,
        size: int,
        chosen: Layers,
    ) -> None:
        player = self.player(who)
        owner = self.other(player, whom)
        kinds = ["id"] if self.one_sided else ["request", "prefix", "id"]
        key = self._key(owner, kinds, what, remote_batch, False)
        held = self.handle(player, which, False, self._shape_under(owner, key))
        if held is None:
            return
        if batch != 11:
            batch %= held.shape.count
        self.both(
            "pull_cache",
            lambda: player.model.pull(key, held.cache.cache_id, [], [], chosen, batch, size),
            lambda: player.manager.pull_cache(
                native_key(key), held.cache, batch, size, **ranges_of(chosen)
            ),
        )
        self._after_refusal(player, key, held)

    @rule(
        who=small,
        whom=few,
        which=few,
        what=few,
        src=block_lists,
        dst=block_lists,
        wild=seldom,
        batch=small,
        chosen=layers,
    )
    def pull_blocks(
        self,
        who: int,
        whom: int,
        which: int,
        what: int,
        src: list[int],
        dst: list[int],
        wild: bool,
        batch: int,
        chosen: Layers,
    ) -> None:
        player = self.player(who)
        owner = self.other(player, whom)
        key = self._key(owner, ["blocks", "request", "prefix", "id"], what, batch, None)
        source = self._shape_under(owner, key)
        held = self.handle(player, which, True, source)
        if held is None:
            return
        dst = fold(dst, held.shape.count, wild)
        if not wild and source is not None and not source.blocks:
            dst = dst[: -(-source.stride // held.shape.stride)]
        if key.kind != "blocks":
            src = []
        elif not wild:
            count = source.count if source else 5
            src = [src[i % len(src)] % count for i in range(len(dst))]
        self.both(
            "pull_blocks",
            lambda: player.model.pull(key, held.cache.cache_id, src, dst, chosen),
            lambda: player.manager.pull_blocks(
                native_key(key), held.cache, src, dst, **ranges_of(chosen)
            ),
        )
        self._after_refusal(player, key, held)

    @rule(who=small, whom=few, which=few, what=few, batch=few, remote_batch=small, chosen=layers)
    def push_cache(
        self,
        who: int,
        whom: int,
        which: int,
        what: int,
        batch: int,
        remote_batch: int,
        chosen: Layers,
    ) -> None:
        if not self.one_sided and remote_batch:
            return
        player = self.player(who)
        owner = self.other(player, whom)
        key = self._key(owner, ["id"], what, remote_batch, False)
        held = self.handle(player, which, False, self._shape_under(owner, key))
        if held is None:
            return
        if batch != 11:
            batch %= held.shape.count
        self.both(
            "push_cache",
            lambda: player.model.push(key, held.cache.cache_id, held.shape, [], [], chosen, batch),
            lambda: player.manager.push_cache(
                native_key(key), held.cache, batch, **ranges_of(chosen)
            ),
            warns=None,
        )

    @rule(
        who=small,
        whom=few,
        which=few,
        what=few,
        src=block_lists,
        dst=block_lists,
        wild=seldom,
        chosen=layers,
    )
    def push_blocks(
        self,
        who: int,
        whom: int,
        which: int,
        what: int,
        src: list[int],
        dst: list[int],
        wild: bool,
        chosen: Layers,
    ) -> None:
        if not self.one_sided and which:
            return
        player = self.player(who)
        owner = self.other(player, whom)
        key = self._key(owner, ["blocks"], what, 0, True)
        target = self._shape_under(owner, key)
        held = self.handle(player, which, True, target)
        if held is None:
            return
        dst = fold(dst, target.count if target else 5, wild)
        if not wild:
            src = [src[i % len(src)] % held.shape.count for i in range(len(dst))]
        self.both(
            "push_blocks",
            lambda: player.model.push(key, held.cache.cache_id, held.shape, src, dst, chosen),
            lambda: player.manager.push_blocks(
                native_key(key), held.cache, src, dst, **ranges_of(chosen)
            ),
            warns=None,
        )

    # ---- local copies ----

    def _copy(
        self, what: str, player: Player, expected: Callable[[], list[Run]], call: Any
    ) -> None:
        try:
            if overlap(expected()):
                return
        except Refused:
            pass  # Both must refuse it, below.
        runs = self.both(what, expected, call)
        if runs is not None:
            self.world.move(runs)
            player.model.counts.copies += 1

    @rule(
        who=small,
        which=few,
        what=few,
        batches=st.tuples(few, few),
        offset=st.sampled_from([0, 0, 8, 30]),
        size=st.sampled_from([-1, -1, 7, 16, 30]),
    )
    def copy_cache(
        self, who: int, which: int, what: int, batches: tuple[int, int], offset: int, size: int
    ) -> None:
        player = self.player(who)
        dst = self.handle(player, which, False)
        src = self.handle(player, what, False, dst.shape if dst else None)
        if dst is None or src is None:
            return
        if max(batches) < 10:
            batches = (batches[0] % dst.shape.count, batches[1] % src.shape.count)
        ids = (dst.cache.cache_id, src.cache.cache_id)
        self._copy(
            "copy_cache",
            player,
            lambda: player.model.copy(*ids, *batches, offset, size),
            lambda: player.manager.copy_cache(dst.cache, src.cache, *batches, offset, size),
        )

    @rule(who=small, which=few, src=block_lists, dst=block_lists, wild=seldom)
    def copy_blocks(self, who: int, which: int, src: list[int], dst: list[int], wild: bool) -> None:
        player = self.player(who)
        held = self.handle(player, which, blocks=True)
        if held is None:
            return
        src, dst = fold(src, held.shape.count, wild), fold(dst, held.shape.count, wild)
        info: dict[int, list[int]] = {}
        for i, block in enumerate(dst):
            info.setdefault(src[i % len(src)], []).append(block)
        pairs = [(source, block) for source, blocks in info.items() for block in blocks]
        self._copy(
            "copy_blocks",
            player,
            lambda: player.model.copy_blocks(held.cache.cache_id, pairs),
            lambda: player.manager.copy_blocks(held.cache, info),
        )

    @rule(who=small, which=few, what=few, src=block_lists, dst=block_lists, wild=seldom)
    def swap_blocks(
        self, who: int, which: int, what: int, src: list[int], dst: list[int], wild: bool
    ) -> None:
        player = self.player(who)
        one = self.handle(player, which, True)
        other = self.handle(player, what, True, one.shape if one else None)
        if one is None or other is None:
            return
        src, dst = fold(src, one.shape.count, wild), fold(dst, other.shape.count, wild)
        pairs = dict(zip(src, dst))

        def expected() -> list[Run]:
            # Works on the objects, whatever became of the caches.
            alike = (one.shape.stride, one.shape.num_tensors) == (
                other.shape.stride,
                other.shape.num_tensors,
            )
            fits = all(s < one.shape.count and d < other.shape.count for s, d in pairs.items())
            addrs = list(zip(one.cache.tensor_addrs, other.cache.tensor_addrs))
            if not (alike and fits and one.shape.placement != other.shape.placement and addrs):
                raise Refused(S.LLM_PARAM_INVALID)
            stride = one.shape.stride
            return [
                Run(to + d * stride, origin + s * stride, stride)
                for origin, to in addrs
                for s, d in pairs.items()
            ]

        self._copy(
            "swap_blocks",
            player,
            expected,
            lambda: player.manager.swap_blocks(one.cache, other.cache, pairs),
        )

    # ---- what must agree ----

    @invariant()
    def everything_agrees(self) -> None:
        for memory in self.world.memories:
            assert bytes_at(memory) == memory.data
        for player in self.players:
            info, model = player.describe(), player.model
            assert info.num_caches == len(model.caches)
            free = {place: pool.free_bytes for place, pool in model.pools.items()}
            assert info.device_pool_free == free.get(Placement.DEVICE, 0)
            assert info.host_pool_free == free.get(Placement.HOST, 0)
            assert self._links_agree(player)
            counters = player.datadist.counters()
            for name, value in vars(model.counts).items():
                assert getattr(counters, name) == value, name


class OneSided(Machine):
    """One-sided mode: tables read once a link, pulls and pushes."""

    one_sided = True


class Request(Machine):
    """Request mode: keys found by the owner, and used up."""

    one_sided = False
