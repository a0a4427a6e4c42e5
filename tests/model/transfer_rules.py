# SPDX-License-Identifier: Apache-2.0
"""Random pulls and pushes."""

from __future__ import annotations

from collections.abc import Sequence

import hypothesis.strategies as st
import pytest
from hypothesis.stateful import rule

from llm_datadist import CacheKeyByIdAndIndex, LLMException
from llm_datadist import LLMStatusCode as S
from tests.model.draws import Aim, Lists, aims, few, layers, lists, small
from tests.model.players import Handle, Player, native_key, ranges_of
from tests.model.stage import Stage
from tests.model.world import UNSET, Key, Layers, Shape

_NO_SUCH_CACHE = 10**6


class TransferRules(Stage):
    """Pull and push, by cache and by blocks."""

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
        nothing = CacheKeyByIdAndIndex(key.cluster, _NO_SUCH_CACHE)
        pull = player.manager.pull_blocks if held.shape.blocks else player.manager.pull_cache
        lists = ([], [0]) if held.shape.blocks else ()
        with pytest.raises(LLMException) as caught:
            pull(nothing, held.cache, *lists)
        assert caught.value.status_code == S.LLM_KV_CACHE_NOT_EXIST

    def _aimed(
        self,
        aim: Aim,
        kinds: Sequence[str],
        batch: int,
        under_blocks: bool | None,
        own_blocks: bool,
    ) -> tuple[Player, Key, Shape | None, Handle] | None:
        """Return who transfers, the key, the shape of the cache under it, and the own cache."""
        player = self.player(aim.who)
        owner = self.other(player, aim.whom)
        key = self._key(owner, kinds, aim.what, batch, under_blocks)
        under = self._shape_under(owner, key)
        held = self.handle(player, aim.which, own_blocks, under)
        return None if held is None else (player, key, under, held)

    @rule(
        aim=aims,
        batch=few,
        remote_batch=small,
        size=st.sampled_from([-1, -1, -1, 1, 24, 40, 100]),
        chosen=layers,
    )
    def pull_cache(
        self, aim: Aim, batch: int, remote_batch: int, size: int, chosen: Layers
    ) -> None:
        kinds = ["id"] if self.one_sided else ["request", "prefix", "id"]
        found = self._aimed(aim, kinds, remote_batch, False, False)
        if found is None:
            return
        player, key, _, held = found
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

    @rule(aim=aims, drawn=lists, batch=small, chosen=layers)
    def pull_blocks(self, aim: Aim, drawn: Lists, batch: int, chosen: Layers) -> None:
        found = self._aimed(aim, ["blocks", "request", "prefix", "id"], batch, None, True)
        if found is None:
            return
        player, key, source, held = found
        dst = drawn.destinations(held.shape.count)
        if not drawn.wild and source is not None and not source.blocks:
            dst = dst[: -(-source.stride // held.shape.stride)]
        src = drawn.sources(source.count if source else 5, dst) if key.kind == "blocks" else []
        self.both(
            "pull_blocks",
            lambda: player.model.pull(key, held.cache.cache_id, src, dst, chosen),
            lambda: player.manager.pull_blocks(
                native_key(key), held.cache, src, dst, **ranges_of(chosen)
            ),
        )
        self._after_refusal(player, key, held)

    @rule(aim=aims, batch=few, remote_batch=small, chosen=layers)
    def push_cache(self, aim: Aim, batch: int, remote_batch: int, chosen: Layers) -> None:
        if not self.one_sided and remote_batch:
            return
        found = self._aimed(aim, ["id"], remote_batch, False, False)
        if found is None:
            return
        player, key, _, held = found
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

    @rule(aim=aims, drawn=lists, chosen=layers)
    def push_blocks(self, aim: Aim, drawn: Lists, chosen: Layers) -> None:
        if not self.one_sided and aim.which:
            return
        found = self._aimed(aim, ["blocks"], 0, True, True)
        if found is None:
            return
        player, key, target, held = found
        dst = drawn.destinations(target.count if target else 5)
        src = drawn.sources(held.shape.count, dst)
        self.both(
            "push_blocks",
            lambda: player.model.push(key, held.cache.cache_id, held.shape, src, dst, chosen),
            lambda: player.manager.push_blocks(
                native_key(key), held.cache, src, dst, **ranges_of(chosen)
            ),
            warns=None,
        )
