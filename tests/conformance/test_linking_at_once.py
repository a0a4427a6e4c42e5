# SPDX-License-Identifier: Apache-2.0
"""Two engines that both listen and link to each other at the same moment."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from llm_datadist import LLMClusterInfo, LLMDataDist, LLMStatusCode
from llm_datadist.introspection import LinkState
from llm_datadist.testing.actor import ClusterAddress, EngineSpec

ROUNDS = 100


def open_engine(cluster_id: int) -> LLMDataDist:
    return EngineSpec(cluster_id, listen="127.0.0.1:0", several_in_a_process=True).open()


def peer_of(engine: LLMDataDist) -> LLMClusterInfo:
    return ClusterAddress(engine.cluster_id, engine.listen_address).info()


@pytest.mark.sanitize
@pytest.mark.threads
def test_both_ends_link_at_once():
    """One link comes of it, whoever wins; no end is left with a dead one, and nobody is warned of a
    stranger with the same cluster id (warnings are errors here).
    """
    engines = [open_engine(1), open_engine(2)]
    peers = [peer_of(engines[1]), peer_of(engines[0])]
    allowed = {LLMStatusCode.LLM_SUCCESS, LLMStatusCode.LLM_ALREADY_LINK}
    try:
        with ThreadPoolExecutor(2) as pool:
            for round_number in range(ROUNDS):
                barrier = threading.Barrier(2)

                def link(end, barrier=barrier):
                    barrier.wait(10)
                    return engines[end].link_clusters([peers[end]], 5000)[0]

                codes = list(pool.map(link, (0, 1)))
                context = (round_number, codes, [peer.link_detail for peer in peers])
                assert set(codes) <= allowed, context
                assert LLMStatusCode.LLM_SUCCESS in codes, context
                states = [[link.state for link in engine.links()] for engine in engines]
                assert states == [[LinkState.LIVE], [LinkState.LIVE]], context
                code, _ = engines[round_number % 2].unlink_clusters([peers[round_number % 2]], 5000)
                assert code == LLMStatusCode.LLM_SUCCESS
                assert [engine.links() for engine in engines] == [[], []]
    finally:
        for engine in engines:
            engine.finalize()
