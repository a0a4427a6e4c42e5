# SPDX-License-Identifier: Apache-2.0
"""The transfers of a round and what disturbs them; and what must be done about those that fail."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from dataclasses import dataclass
from typing import Callable

from llm_datadist.introspection import LinkState
from llm_datadist.testing import PeerCall, eventually

from . import peer_side
from .asking import GONE, Asking
from .blocks import Tags
from .links import Links
from .pace import FACTOR
from .peer_side import NOT_BEGUN, SUCCESS, Outcome
from .plan import MAPPED_CACHE, PULLS, TENSORS_PER_LAYER, Disturbance, Transfer
from .tally import LATE_BYTES, LATE_CALL, REFUSED, WRONG, Tally
from .world import Pair, PeerState, World

# How long a push may take to have its end confirmed, and a local copy, in seconds.
_CONFIRM = 0.1
_COPY = 10.0
# For a barrier while the peer is stopped.
_BARRIER_MS = 200 * FACTOR
_NOTICE = 10.0
# Shorter deadlines may pass on a busy machine without a fault.
_TELLING_MS = 1000
UNCONFIRMED = "has not confirmed the end"


@dataclass
class Running:
    """A transfer that was started."""

    what: Transfer
    call: PeerCall | None
    before: Tags  # of the blocks that it writes
    sent: Tags  # what they have when all is moved
    destination: int  # the incarnation of the engine there
    must_succeed: bool
    outcome: Outcome | None = None
    is_over: bool = False  # the blocks are known, or were filled anew


@dataclass
class Pending:
    """A disturbance whose end is waited for later."""

    what: Disturbance
    call: PeerCall | None


class Transfers:
    """Makes the transfers of a round.

    Args:
        world: the peers.
        asking: calls on them.
        links: what they do about links.
        tally: what is counted.
        replace: makes an engine anew.
        renew: makes a cache anew.
    """

    def __init__(
        self,
        world: World,
        asking: Asking,
        links: Links,
        tally: Tally,
        replace: Callable[[PeerState], None],
        renew: Callable[[PeerState, str], None],
    ) -> None:
        self._world = world
        self._asking = asking
        self._links = links
        self._tally = tally
        self._replace = replace
        self._renew = renew
        self._timeout = world.season.timeout_ms / 1000 * FACTOR
        self._running: list[Running] = []
        self._pending: list[Pending] = []
        self._dropped: set[tuple[int, str]] = set()
        self._stopped_now: set[int] = set()

    def run(self, transfers: Sequence[Transfer], disturbances: Sequence[Disturbance]) -> None:
        """Make transfers at the same time, disturb them, and settle what became of them."""
        self._pending, self._dropped = [], set()
        self._running = [
            self._start(each, disturbances) for each in transfers if self._may_start(each)
        ]
        self._tally.skipped += len(transfers) - len(self._running)
        start = time.monotonic()
        for each in disturbances:
            self._take_outcomes(start + each.at_ms / 1000 * FACTOR)
            self._disturb(each)
        for running in self._running:
            if running.outcome is None:
                self._take_outcome(running)
        self._settle_disturbances()
        for running in self._running:
            self._settle(running)
        for index, cache in sorted(self._dropped):
            if self._is_there(index):
                self._renew(self._world.peers[index], cache)

    # ------------------------------------------------------------------------------------- starting

    def _may_start(self, what: Transfer) -> bool:
        """Tell whether the link knows the cache: memory of a pool may be another cache's by now."""
        if what.kind == "copy":
            return True
        if self._world.pair(what.caller, what.other) is not Pair.LINKED:
            return False
        return what.other_cache != MAPPED_CACHE or self._knows(what)

    def _knows(self, what: Transfer) -> bool:
        caches = [(what.other, what.other_cache)]
        return what.kind == "copy" or self._world.knows(what.caller, what.other, caches)

    def _start(self, what: Transfer, disturbances: Sequence[Disturbance]) -> Running:
        caller, other = (self._world.peers[index] for index in (what.caller, what.other))
        before, sent = self._world.sent_tags(what)
        destination: list[list[int]] = []
        if what.kind == "async" and not self._world.season.one_sided:
            addrs = other.caches[what.other_cache].addrs
            destination = [
                addrs[first : first + TENSORS_PER_LAYER]
                for first in range(0, len(addrs), TENSORS_PER_LAYER)
            ]
        there = peer_side.Target(
            other.index + 1, other.caches[what.other_cache].cache_id, destination
        )
        args = (what, caller.incarnation, there)
        call = self._asking.start(caller, peer_side.transfer, *args)
        incarnation = self._world.peers[what.destination[0]].incarnation
        is_disturbed = what.cancel_ms >= 0 or any(_touches(each, what) for each in disturbances)
        must = self._knows(what) and not is_disturbed
        return Running(what, call, before, sent, incarnation, must)

    def _limit(self, what: Transfer) -> float:
        """Return after how many seconds a transfer has its deadline, that of each layer in turn."""
        if what.kind == "copy":
            return _COPY
        if what.kind in PULLS:
            return self._timeout
        return self._timeout * len(self._world.tensors_of(what)) / TENSORS_PER_LAYER + _CONFIRM

    # ------------------------------------------------------------------------------- disturbances

    def _disturb(self, each: Disturbance) -> None:
        peer = self._world.peers[each.peer]
        if each.kind == "barrier":
            self._barrier_of_a_stopped_peer(each)
            return
        self._tally.disturbances[each.kind] += 1
        if each.kind == "kill":
            self._asking.dead.add(peer.index)
            peer.peer.kill()
        elif each.kind == "stop":
            self._asking.stopped.add(peer.index)
            self._stopped_now.add(peer.index)
            peer.peer.stop()
        elif each.kind == "go on":
            peer.peer.go_on()
            self._stopped_now.discard(peer.index)
        elif each.kind == "restart":
            self._replace(peer)
        elif each.kind == "drop":
            call = self._asking.start(peer, peer_side.drop_cache, each.cache)
            self._dropped.add((each.peer, each.cache))
            self._pending.append(Pending(each, call))
        else:
            force = each.kind == "forced unlink"
            timeout_ms = round(self._timeout * 1000)
            call = self._links.start_unlink(peer, each.other, timeout_ms, force)
            self._pending.append(Pending(each, call))

    def _barrier_of_a_stopped_peer(self, each: Disturbance) -> None:
        """Have a peer end what a stopped one may still be writing, and use the blocks at once."""
        peer = self._world.peers[each.peer]
        if not self._is_there(each.peer):
            return
        call = self._links.start_unlink(peer, each.other, _BARRIER_MS, True)
        outcome = self._asking.outcome(peer, "barrier", call, _BARRIER_MS / 1000)
        self._world.forget(each.peer, [each.other])
        text = f"barrier for {each.other}, which is stopped,"
        if not self._asking.require(peer, "barrier", outcome, SUCCESS, "LLM_TIMEOUT", text=text):
            return
        if not outcome.succeeded:
            pid = f"pid {self._world.peers[each.other].peer.pid}"
            if pid not in outcome.text:
                found = f"{text} of peer {each.peer} does not name {pid}: {outcome.text}"
                self._tally.find(REFUSED, self._asking.where, found)
            return
        for running in self._running:
            what = running.what
            of_these = (what.caller, what.other) == (each.other, each.peer)
            if what.writes_to_a_peer and of_these and not running.is_over:
                self._fill_anew(running, f"{what} (stopped, and unlinked)")
                running.is_over = True

    def _settle_disturbances(self) -> None:
        for pending in self._pending:
            each = pending.what
            peer = self._world.peers[each.peer]
            outcome = self._asking.outcome(peer, each.kind, pending.call, self._timeout)
            if each.kind == "unlink":
                is_clean = outcome.succeeded and not self._asking.dead & {each.peer, each.other}
                was_linked = self._world.pair(each.peer, each.other) is Pair.LINKED
                if is_clean and was_linked:
                    self._world.set_pair(each.peer, each.other, Pair.NONE)
                else:
                    self._world.forget(each.peer, [each.other])
                allowed: tuple[str, ...] = (SUCCESS, "LLM_TIMEOUT", "LLM_UNLINK_FAILED")
            else:
                if each.kind == "forced unlink":
                    self._world.forget(each.peer, [each.other])
                # A peer was in the memory all the time: stopped, or without a CPU. By now its
                # transfer has ended.
                is_slow = self._world.season.timeout_ms < _TELLING_MS
                may_wait = is_slow or bool(self._asking.stopped)
                allowed = (SUCCESS, "LLM_TIMEOUT") if may_wait else (SUCCESS,)
            self._asking.require(peer, each.kind, outcome, *allowed, text=str(each))

    # ------------------------------------------------------------------------------------ outcomes

    def _is_there(self, index: int) -> bool:
        return index not in self._asking.dead

    def _take_outcomes(self, end: float) -> None:
        """Take what the transfers come to until time.monotonic() is end."""
        while True:
            waiting = [each for each in self._running if each.outcome is None]
            seconds = end - time.monotonic()
            if seconds <= 0 or not waiting:
                time.sleep(max(0.0, seconds))
                return
            calls = [each.call.response for each in waiting if each.call is not None]
            wait(calls, seconds, return_when=FIRST_COMPLETED)
            for each in waiting:
                if each.call is None or each.call.done():
                    self._take_outcome(each)

    def _take_outcome(self, running: Running) -> None:
        """Take what a transfer came to. Blocks that nothing can land in are used at once."""
        outcome = running.outcome = self._outcome(running)
        destination = running.what.destination[0]
        if destination not in self._stopped_now and not self._needs_barrier(running, outcome):
            self._settle(running)

    @staticmethod
    def _needs_barrier(running: Running, outcome: Outcome) -> bool:
        unsure = outcome.status == GONE or UNCONFIRMED in outcome.text
        return running.what.writes_to_a_peer and unsure

    def _outcome(self, running: Running) -> Outcome:
        what = running.what
        caller = self._world.peers[what.caller]
        outcome = self._asking.outcome(
            caller, what.kind, running.call, self._limit(what), str(what)
        )
        if running.must_succeed and not outcome.succeeded and outcome.status != GONE:
            had_time = self._world.season.timeout_ms >= _TELLING_MS
            if outcome.status != "LLM_TIMEOUT" or (had_time and outcome.waited < self._timeout / 2):
                self._asking.require(caller, what.kind, outcome, SUCCESS, text=str(what))
        moved = outcome.calls - (not outcome.succeeded)
        self._tally.moved_bytes += max(0, moved) * self._world.bytes_of(what)
        return outcome

    def _settle(self, running: Running) -> None:
        """Note what the destination has now; after a failure call a barrier and fill it anew."""
        what, outcome = running.what, running.outcome
        index, name = what.destination
        if running.is_over or outcome is None or not self._is_there(index):
            return
        running.is_over = True
        if self._world.peers[index].incarnation != running.destination:
            return
        if outcome.succeeded:
            cache = self._world.peers[index].caches[name]
            cache.tags[:, list(what.dst)] = running.sent
            for block in what.dst:
                cache.suspects.pop(block, None)
        elif outcome.status != NOT_BEGUN:
            if self._needs_barrier(running, outcome):
                self._call_barrier(running)
            self._fill_anew(running, f"{what}, which ended with {outcome.status} {outcome.text}")

    def _call_barrier(self, running: Running) -> None:
        """Have the owner of the memory make sure that a push is over."""
        what = running.what
        owner = self._world.peers[what.other]
        if what.barrier == "unregister":
            call = self._asking.start(owner, peer_side.drop_cache, what.other_cache)
            outcome = self._asking.outcome(owner, "barrier", call, self._timeout)
            self._asking.require(owner, "barrier", outcome, SUCCESS)
            self._dropped.add((owner.index, what.other_cache))
        elif what.barrier == "notice" and not self._is_there(what.caller):
            self._notice(owner, what.caller + 1)
        else:
            timeout_ms = round(self._timeout * 1000)
            call = self._links.start_unlink(owner, what.caller, timeout_ms, True)
            outcome = self._asking.outcome(owner, "barrier", call, self._timeout)
            self._asking.require(owner, "barrier", outcome, SUCCESS)
            self._world.forget(owner.index, [what.caller])

    def _notice(self, owner: PeerState, cluster_id: int) -> None:
        """Wait until the owner has seen that a process is gone."""

        def is_gone() -> bool:
            links = self._asking.ask(owner, "links") or []
            states = {link.state for link in links if link.peer_cluster_id == cluster_id}
            return states <= {LinkState.PEER_GONE}

        try:
            eventually(is_gone, "the end is noticed", _NOTICE * FACTOR)
        except AssertionError as failure:
            text = f"peer {owner.index}, of cluster {cluster_id}: {failure}"
            self._tally.find(LATE_CALL, self._asking.where, text)

    def _fill_anew(self, running: Running, suspect: str) -> None:
        """Give the blocks of a failed transfer to another request, so to say."""
        index, name = running.what.destination
        peer, places = self._world.peers[index], list(running.what.dst)
        cache = peer.caches[name]
        fresh = self._world.fresh_tags(len(places))
        begun = (running.before, running.sent)
        wrong = self._asking.ask(peer, peer_side.refill, name, places, fresh, begun)
        for each in wrong or ():
            was = cache.suspects.get(each.block)
            kind = WRONG if was is None else LATE_BYTES
            text = f"peer {index}, {each}, when {suspect}; before {was}"
            self._tally.find(kind, self._asking.where, text, each.wrong_bytes)
        cache.tags[:, places] = fresh
        for block in places:
            cache.suspects[block] = suspect


def _touches(each: Disturbance, what: Transfer) -> bool:
    """Tell whether a disturbance may have a transfer fail."""
    ends = {what.caller, what.other}
    if each.kind == "drop":
        return (each.peer, each.cache) in (what.source, what.destination)
    if each.other >= 0:
        return ends == {each.peer, each.other}
    return each.peer in ends
