# SPDX-License-Identifier: Apache-2.0
"""Communicators as tests make them: members in peers of any kind that join and are waited for."""

from __future__ import annotations

import warnings
from typing import Any

from llm_datadist import RegisterMemStatus
from llm_datadist.testing import Peer, eventually

R = RegisterMemStatus
NAME = "comm"


def link_members(actor: Any, name: str, ranks: dict[int, int], rank_table: str) -> int:
    return actor.datadist.link(name, ranks, rank_table)


def state_and_warnings(actor: Any, comm_id: int) -> tuple[RegisterMemStatus, list[str]]:
    """What query_register_mem_status answers, and the LLMDataDistWarnings that come with it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        state = actor.datadist.query_register_mem_status(comm_id)
    return state, [str(each.message) for each in caught]


def unlink_member(actor: Any, comm_id: int) -> None:
    actor.datadist.unlink(comm_id)


def ranks_of(*peers: Peer) -> dict[int, int]:
    return {peer.cluster_id: rank for rank, peer in enumerate(peers)}


def join(peer: Peer, ranks: dict[int, int], name: str = NAME, rank_table: str = "{}") -> int:
    return peer.call(link_members, name, ranks, rank_table)


def state_of(peer: Peer, comm_id: int) -> RegisterMemStatus:
    return peer.call(state_and_warnings, comm_id)[0]


def wait_until_ok(*members: tuple[Peer, int]) -> None:
    for peer, comm_id in members:
        state = settled(peer, comm_id)
        assert state == (R.OK, []), state


def wait_until_failed(peer: Peer, comm_id: int) -> str:
    """Returns the warning that says why."""
    state, texts = settled(peer, comm_id)
    assert state is R.FAILED
    (text,) = texts
    return text


def settled(peer: Peer, comm_id: int) -> tuple[RegisterMemStatus, list[str]]:
    """Waits until the communicator is there or failed; its state, and what was warned of by then.

    A query may have read the state just before the failure that it warns of.
    """
    warned: list[str] = []

    def end() -> RegisterMemStatus | None:
        state, texts = peer.call(state_and_warnings, comm_id)
        warned.extend(texts)
        return None if state is R.PREPARING else state

    return eventually(end, "the communicator is there or has failed"), warned


def joined(*peers: Peer, name: str = NAME) -> list[int]:
    """All of them in one communicator, ready; returns the id at each."""
    ids = [join(peer, ranks_of(*peers), name) for peer in peers]
    wait_until_ok(*zip(peers, ids))
    return ids
