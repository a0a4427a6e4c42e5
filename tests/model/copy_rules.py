# SPDX-License-Identifier: Apache-2.0
"""Random copies within one engine."""

from __future__ import annotations

from typing import Any, Callable

import hypothesis.strategies as st
from hypothesis.stateful import rule

from llm_datadist import LLMStatusCode as S
from tests.model.draws import Lists, few, lists, small
from tests.model.players import Player, fold
from tests.model.stage import Stage
from tests.model.world import Refused, Run, overlap


class CopyRules(Stage):
    """Copy batch entries and blocks, swap blocks."""

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

    @rule(who=small, which=few, drawn=lists)
    def copy_blocks(self, who: int, which: int, drawn: Lists) -> None:
        player = self.player(who)
        held = self.handle(player, which, blocks=True)
        if held is None:
            return
        count = held.shape.count
        src, dst = fold(drawn.src, count, drawn.wild), drawn.destinations(count)
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

    @rule(who=small, which=few, what=few, drawn=lists)
    def swap_blocks(self, who: int, which: int, what: int, drawn: Lists) -> None:
        player = self.player(who)
        one = self.handle(player, which, True)
        other = self.handle(player, what, True, one.shape if one else None)
        if one is None or other is None:
            return
        src = fold(drawn.src, one.shape.count, drawn.wild)
        pairs = dict(zip(src, drawn.destinations(other.shape.count)))

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
