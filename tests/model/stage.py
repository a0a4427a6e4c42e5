# SPDX-License-Identifier: Apache-2.0
"""What every rule stands on: the engines and their world, and a call made in both."""

from __future__ import annotations

import ctypes
import os
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any, Callable, ClassVar

import numpy as np
from hypothesis.stateful import RuleBasedStateMachine, invariant

from llm_datadist import Cache, CacheDesc, DataType, LLMDataDistWarning, LLMException, Placement
from llm_datadist import LLMStatusCode as S
from llm_datadist.introspection import LinkState
from llm_datadist.testing import eventually
from llm_datadist.testing.actor import EngineSpec
from tests.model.players import Handle, Player, bytes_at, fits
from tests.model.world import (
    PAGE,
    PAGE_SHIFT,
    Engine,
    Memory,
    Pool,
    Refused,
    Run,
    Shape,
    Unreachable,
    World,
)

TRANSPORT = "LLM_DATADIST_MOCK_TRANSPORT"
_POOL_PAGES = {Placement.DEVICE: 24, Placement.HOST: 10}


class Stage(RuleBasedStateMachine):
    """The engines of a program; a subclass says in which mode they are."""

    one_sided: ClassVar[bool]
    # How often each call ended how, for the reader of a long run.
    outcomes: ClassVar[Counter[tuple[str, str]]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.world = World(self.one_sided)
        self.players: list[Player] = []
        self._fill = np.random.default_rng(1)
        self._transport_before = os.environ.get(TRANSPORT)

    @staticmethod
    def _set_transport(value: str | None) -> None:
        if value is None:
            os.environ.pop(TRANSPORT, None)
        else:
            os.environ[TRANSPORT] = value

    def _opened(self, cluster: int, buffer: Any, placements: tuple[Placement, ...]) -> Player:
        pools = {placement: _POOL_PAGES[placement] * PAGE for placement in placements}
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
            size = _POOL_PAGES[placement] * PAGE
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
        Stage.outcomes[what, status.name] += 1
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

    def _made(self, player: Player, cache: Cache, shape: Shape) -> None:
        player.handles.append(Handle(cache, shape))
        assert cache.cache_id == player.model.last_id
        self._write(list(cache.tensor_addrs), shape.tensor_bytes)

    def _write(self, addrs: Sequence[int], length: int) -> None:
        for addr in addrs:
            data = self._fill.bytes(length)
            ctypes.memmove(addr, data, length)
            self.world.write(addr, data)

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
