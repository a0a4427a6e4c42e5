# SPDX-License-Identifier: Apache-2.0
"""Random calls that link and unlink engines, and end them."""

from __future__ import annotations

from typing import Any, Callable

import hypothesis.strategies as st
import pytest
from hypothesis.stateful import rule

from llm_datadist import CacheKey, LLMClusterInfo, LLMException, Placement
from llm_datadist import LLMStatusCode as S
from tests.model.draws import few, small
from tests.model.players import Player, desc_of
from tests.model.stage import Stage
from tests.model.world import Shape

POOL_CHOICES: tuple[tuple[Placement, ...], ...] = (
    (Placement.DEVICE, Placement.HOST),
    (Placement.DEVICE, Placement.HOST),
    (Placement.DEVICE,),
    (Placement.HOST,),
    (),
)


class LinkRules(Stage):
    """Link, unlink, finalize and init."""

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
        Stage.outcomes["finalize_and_init", "LLM_SUCCESS"] += 1
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
