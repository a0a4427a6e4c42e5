# SPDX-License-Identifier: Apache-2.0
"""One season of the soak: engines are opened, rounds are made, and nothing may be left."""

from __future__ import annotations

from typing import Callable

from llm_datadist import LLMRole
from llm_datadist.testing.actor import EngineSpec

from . import peer_side
from .asking import Asking
from .blocks import WrongBlock
from .communicators import Communicators
from .links import Links
from .pace import FACTOR
from .peer_side import SUCCESS, Opened
from .plan import CACHES, Round, Season
from .plant import plant
from .tally import LATE_BYTES, WRONG, Tally
from .transfers import Transfers
from .troupe import Troupe
from .world import CacheState, PeerState, World

_TRANSPORT = "LLM_DATADIST_MOCK_TRANSPORT"
_PAGE_SHIFT = 16


class SeasonRun:
    """Makes a season.

    Args:
        season: what to do.
        troupe: where processes come from.
        tally: what is counted.
        is_over: tells whether to stop after the present round.
        show: is told what is being done.
        plants: whether a fault of each kind is put into the first round.
    """

    def __init__(
        self,
        season: Season,
        troupe: Troupe,
        tally: Tally,
        is_over: Callable[[], bool],
        show: Callable[[str], None],
        plants: bool = False,
    ) -> None:
        self._season = season
        self._troupe = troupe
        self._tally = tally
        self._is_over = is_over
        self._show = show
        self._plants = plants
        self._world = World(season)
        self._asking = Asking(self._world, tally)
        self._links = Links(self._world, self._asking)
        self._communicators = Communicators(self._world, self._asking)
        self._transfers = Transfers(
            self._world, self._asking, self._links, tally, self._replace, self._renew
        )
        self._timeout = season.timeout_ms / 1000 * FACTOR
        self._incarnations = 0

    def run(self) -> None:
        """Make the rounds, or as many as there is time for. All processes are given back."""
        self._asking.where = f"season {self._season.number}, at its beginning"
        try:
            for index in range(self._season.peers):
                self._world.peers.append(PeerState(index, self._troupe.take()))
                self._open(self._world.peers[-1])
            for number, each in enumerate(self._season.rounds):
                self._asking.where = f"season {self._season.number}, round {number}"
                self._show(f"{self._season}, round {number}")
                self._round(each)
                if self._is_over():
                    break
            self._close()
        except BaseException:
            for peer in self._world.peers:
                peer.peer.kill()
            raise
        self._tally.seasons += 1

    def _round(self, each: Round) -> None:
        self._asking.stopped.clear()
        self._register_for_a_moment()
        for index, cache in each.renewed:
            self._drop_and_renew(self._world.peers[index], cache)
        for index in each.refused:
            self._links.try_to_switch(self._world.peers[index])
        for index in each.switched:
            self._links.switch(self._world.peers[index])
        self._links.make(each.links)
        joined = self._communicators.join(each.members)
        self._transfers.run(each.transfers, each.disturbances)
        self._communicators.leave(joined)
        if self._plants:
            plant(self._world, self._asking)
            self._plants = False
        self._verify()
        for index in sorted(self._asking.dead):
            self._replace(self._world.peers[index])
        self._tally.rounds += 1

    # ------------------------------------------------------------------------------------ engines

    def _spec(self, peer: PeerState) -> EngineSpec:
        season = self._season
        role = LLMRole.PROMPT if peer.index < season.peers / 2 else LLMRole.DECODER
        return EngineSpec(
            peer.index + 1,
            role,
            "127.0.0.1:0",
            season.one_sided,
            int(self._timeout * 1000),
            # Room for the cache, and for one that is made when a peer still uses the other.
            device_pool=2 * season.geometry.pool_bytes(_PAGE_SHIFT),
            page_shift=_PAGE_SHIFT,
            environment={_TRANSPORT: season.transport},
        )

    def _open(self, peer: PeerState) -> None:
        """Open an engine, with caches that have contents of their own."""
        self._incarnations += 1
        peer.incarnation = self._incarnations
        peer.caches = {name: self._world.new_cache() for name in CACHES}
        opened: Opened | None = self._asking.ask(
            peer,
            peer_side.open_engine,
            self._spec(peer),
            peer.incarnation,
            self._season.geometry,
            self._season.memory_kind,
            {name: cache.tags for name, cache in peer.caches.items()},
        )
        if opened is not None:
            peer.address = opened.address
            for name, (cache_id, addrs) in opened.caches.items():
                peer.caches[name].cache_id, peer.caches[name].addrs = cache_id, addrs

    def _replace(self, peer: PeerState) -> None:
        """Have an engine anew: in a new process where the old one is gone."""
        if peer.index in self._asking.dead:
            peer.peer.kill()
            peer.player = self._troupe.take()
            self._asking.dead.discard(peer.index)
        else:
            call = self._asking.start(peer, peer_side.restart)
            self._asking.outcome(peer, "finalize", call, self._timeout)
        self._world.forget(peer.index)
        self._open(peer)

    def _drop_and_renew(self, peer: PeerState, name: str) -> None:
        call = self._asking.start(peer, peer_side.drop_cache, name)
        outcome = self._asking.outcome(peer, "drop", call, self._timeout)
        self._asking.require(peer, f"drop of {name}", outcome, SUCCESS)
        self._renew(peer, name)

    def _register_for_a_moment(self) -> None:
        command = peer_side.register_for_a_moment
        calls = [(peer, self._asking.start(peer, command)) for peer in self._world.peers]
        for peer, call in calls:
            outcome = self._asking.outcome(peer, "register", call, self._timeout)
            self._asking.require(peer, "register and unregister", outcome, SUCCESS)

    def _renew(self, peer: PeerState, name: str) -> None:
        """Make a cache anew that was dropped."""
        peer.caches[name] = cache = self._world.new_cache()
        self._asking.ask(peer, peer_side.release_cache, name)
        season = self._season
        made = self._asking.ask(
            peer, peer_side.add_cache, name, season.geometry, season.memory_kind, cache.tags
        )
        cache.cache_id, cache.addrs = made or (0, [])

    def _close(self) -> None:
        self._asking.where = f"season {self._season.number}, at its end"
        for peer in self._world.peers:
            call = self._asking.start(peer, peer_side.restart)
            outcome = self._asking.outcome(peer, "finalize", call, self._timeout)
            self._asking.require(peer, "finalize", outcome, SUCCESS)
        for peer in self._world.peers:
            if peer.index not in self._asking.dead:
                self._troupe.give_back(peer.player, self._asking.where)

    # -------------------------------------------------------------------------------------- bytes

    def _verify(self) -> None:
        """Look at every byte of every cache."""
        calls = [
            (
                peer,
                self._asking.start(
                    peer, peer_side.verify, {name: c.tags for name, c in peer.caches.items()}
                ),
            )
            for peer in self._world.peers
        ]
        for peer, call in calls:
            found = self._asking.result(peer, call)
            if found is None:
                continue
            for wrong in found:
                self._find(peer, peer.caches[wrong.cache], wrong)
            self._tally.checked_bytes += len(CACHES) * self._season.geometry.cache_bytes

    def _find(self, peer: PeerState, cache: CacheState, wrong: WrongBlock) -> None:
        suspect = cache.suspects.get(wrong.block)
        kind = WRONG if suspect is None else LATE_BYTES
        after = "" if suspect is None else f", after {suspect}"
        text = f"peer {peer.index}, {wrong}{after}"
        self._tally.find(kind, self._asking.where, text, wrong.wrong_bytes)
        fresh = self._world.fresh_tags(1)
        cache.tags[:, wrong.block] = fresh[:, 0]
        self._asking.ask(peer, peer_side.refill, wrong.cache, [wrong.block], fresh)
