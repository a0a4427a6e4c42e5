# SPDX-License-Identifier: Apache-2.0
"""Random calls that make caches, end them, and change what is in them."""

from __future__ import annotations

from collections.abc import Sequence

import hypothesis.strategies as st
from hypothesis.stateful import rule

from llm_datadist import Cache
from tests.model.draws import few, shapes, small
from tests.model.players import desc_of, native_name, shape_of
from tests.model.stage import Stage
from tests.model.world import UNSET, Name, Shape

_COUNTS_OF_SLOT = (10, 10, 5)
_COUNTS_OF_PAGES = (10, 5, 50, 25)


class CacheRules(Stage):
    """Allocate, register, release, write."""

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

    @rule(who=small, drawn=shapes, numbers=st.lists(few, max_size=4), model=small)
    def allocate(
        self, who: int, drawn: tuple[bool, int, int, int], numbers: list[int], model: int
    ) -> None:
        player, shape = self.player(who), shape_of(drawn, _COUNTS_OF_PAGES)
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
        player, shape = self.player(who), shape_of(drawn, _COUNTS_OF_SLOT)
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
