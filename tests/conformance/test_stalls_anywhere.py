# SPDX-License-Identifier: Apache-2.0
"""A model of what docs/barriers.md promises, against transfers that are stalled anywhere: once the
barrier has succeeded, nothing lands any more.

Cases are drawn by their number, so a failure names the case that repeats it; HYPOTHESIS_PROFILE=ci
tries many.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from llm_datadist import BlocksCacheKey, LLMStatusCode
from llm_datadist.testing import Peer, PeerCall, check
from tests.conformance.paths import ON_ASCEND, Path
from tests.conformance.scene import (
    ALL,
    ANOTHER,
    CONFIRMED,
    GEOMETRY,
    HEAD,
    HELLO,
    MIB,
    UNCONFIRMED,
    WHOLE,
    Scene,
    scene,
)
from tests.conformance.stage import OWNER, Pair, Stage, notices, open_stage
from tests.conformance.work import repeat

S = LLMStatusCode
IS_LONG = os.environ.get("HYPOTHESIS_PROFILE") == "ci"
MANY = 80
KEY = BlocksCacheKey(OWNER, 0)
TIMEOUT_MS = 300
# What answers a pull: 8 requests of 1 MiB, each with an answer before and after its bytes.
ANSWER = 32
ANSWERS = 8 * (2 * ANSWER + MIB)

POINTS = ("request", "data", "answer", "confirmation")
VICTIMS = ("nobody", "nobody", "nobody", "stop caller", "stop other", "kill")
BARRIERS = ("forced unlink", "unregister", "notice")
# The numbers of what the suite tries on each path.
FEW = {"mapped": range(4), "cma": range(4), "tcp": range(10)}


@dataclass(frozen=True)
class Case:
    """Where a transfer is stalled, who is stopped or killed then, and which barrier is called."""

    number: int
    push: bool
    caller_dials: bool
    point: str
    place: float  # how far within the point, in [0, 1)
    victim: str
    barrier: str

    @classmethod
    def draw(cls, number: int) -> Case:
        rng = random.Random(number)
        victim = rng.choice(VICTIMS)
        barriers = BARRIERS if victim == "kill" else BARRIERS[:2]
        return cls(
            number,
            rng.random() < 0.7,
            rng.random() < 0.5,
            rng.choice(POINTS),
            rng.random(),
            victim,
            rng.choice(barriers),
        )


@contextmanager
def stage_of_its_own(stage: Stage) -> Iterator[Stage]:
    """Peers for one case of a test, which may kill them."""
    failed = [False]
    with open_stage(stage.pool, stage.process_vm_refused, failed, stage.scope) as own:
        try:
            yield own
        except BaseException:
            failed[0] = True
            raise


class Stalled:
    """A transfer of a case over TCP; the bytes land with the owner of the scene."""

    def __init__(self, case: Case, set_up: Scene) -> None:
        self.case, self.scene = case, set_up
        self.caller = set_up.pusher if case.push else set_up.owner
        self.other = set_up.owner if case.push else set_up.pusher
        # After how many bytes each of them is stalled; None: never.
        self._from_caller, self._from_other = self._where()

    def _where(self) -> tuple[int | None, int | None]:
        point, place = self.case.point, self.case.place
        if point == "request":
            return int(place * HEAD), None
        if point == "answer":
            return None, 0
        if self.case.push:
            return HEAD + int(place * (WHOLE - HEAD)), None
        return None, ANSWER + int(place * (ANSWERS - ANSWER))

    @property
    def client_is_caller(self) -> bool:
        return self.scene.pusher_dials == self.case.push

    def start(self) -> PeerCall:
        """Start the transfer, and wait until it is stalled."""
        relay, key = self.scene.relay, BlocksCacheKey(self.other.cluster_id, 0)
        stops = [self._from_caller, self._from_other]
        client, server = stops if self.client_is_caller else reversed(stops)
        after = None if client is None else HELLO + client
        relay.stall_next(client=after, server=server)
        number = relay.count()
        operation = "push" if self.case.push else "pull"
        call = self.caller.start_call(operation, "kv", key, ALL, ALL)
        self._stream = relay.passage(number)
        if after is not None:
            self._stream.from_client.wait_until_passed(after)
        if server is not None:
            self._stream.from_server.wait_until_passed(server)
        if self.case.point == "confirmation":
            # Either what the caller sends to end the transfer, or what the other one answers.
            control = relay.passage(0)
            (control.from_client if self.case.place < 0.5 else control.from_server).hold()
        return call

    def let_all_pass(self) -> None:
        for passage in (self.scene.relay.passage(0), self._stream):
            passage.from_client.release()
            passage.from_server.release()

    def wait_for_the_end(self) -> None:
        """Wait until both ends have taken or refused all bytes of the transfer."""
        self._stream.wait_for_the_end()


def call_barrier(case: Case, owner: Peer, pusher: Peer) -> None:
    """Call the barrier of a case, which must succeed."""
    is_noticed = case.barrier == "notice" and case.point != "confirmation"
    if is_noticed:
        notices(owner, pusher.cluster_id)
    elif case.barrier == "unregister":
        owner.start_call("unregister", "kv").result()
    else:
        assert owner.unlink(pusher, force=True) == S.LLM_SUCCESS


def push_over_tcp(case: Case, stalled: Stalled) -> None:
    pusher, owner = stalled.caller, stalled.other
    call = stalled.start()
    if case.victim == "kill":
        pusher.kill()
        call_barrier(case, owner, pusher)
    elif case.victim == "stop caller":
        pusher.stop()
        call_barrier(case, owner, pusher)
    else:
        if case.victim == "stop other":
            owner.stop()
        failure = str(call.exception())
        owner.go_on()
        assert "LLM_TIMEOUT" in failure
        if case.victim == "nobody" and case.point != "confirmation":
            assert CONFIRMED in failure
        else:
            assert UNCONFIRMED in failure
            call_barrier(case, owner, pusher)
    stalled.scene.give_to_another()
    stalled.let_all_pass()
    if case.victim == "stop caller":
        pusher.go_on()
        assert call.exception() is not None
    stalled.wait_for_the_end()
    stalled.scene.untouched()


def pull_over_tcp(case: Case, stalled: Stalled) -> None:
    """Its own end is the barrier."""
    puller, other = stalled.caller, stalled.other
    call = stalled.start()
    if case.victim == "kill":
        other.kill()
    elif case.victim == "stop other":
        other.stop()
    elif case.victim == "stop caller":
        # Until the deadline has passed.
        puller.stop()
        time.sleep(1.5 * TIMEOUT_MS / 1000)
        puller.go_on()
    assert "LLM_TIMEOUT" in str(call.exception())
    stalled.scene.give_to_another()
    if case.victim == "stop other":
        other.go_on()
    stalled.let_all_pass()
    stalled.wait_for_the_end()
    stalled.scene.untouched()


def push_on_one_host(case: Case, pair: Pair) -> None:
    """Stop or kill a pusher at any time."""
    pusher, owner = pair.puller, pair.owner
    call = pusher.start_call(repeat, "push", "kv", KEY, ALL, "repeat")
    pusher.wait_for("repeat")
    time.sleep(case.place / 50)
    is_killed = case.victim == "kill"
    if is_killed:
        pusher.kill()
    else:
        pusher.stop()
    if case.barrier == "unregister" and not pair.path.of_pools:
        error = owner.start_call("unregister", "kv").exception()
        text = "" if error is None else str(error)
    else:
        answer = owner.unlink_from(pusher.cluster(), timeout_ms=100, force=True)
        text = "" if answer.status == S.LLM_SUCCESS else f"{answer.status} {answer.details[0]}"
    if text:
        # It is within a piece, and out of it as soon as its call has ended.
        assert not is_killed, text
        assert "LLM_TIMEOUT" in text
        assert f"pid {pusher.pid}" in text
        pusher.go_on()
        call.result()
    owner.call("fill", "kv", ANOTHER)
    if not is_killed:
        pusher.go_on()
        call.result()
    check(pair.source, GEOMETRY.filled(ANOTHER))


def pull_on_one_host(case: Case, pair: Pair) -> None:
    """Kill the owner at any time, or have it end the link."""
    puller, owner = pair.puller, pair.owner
    call = puller.start_call(repeat, "pull", "kv", KEY, ALL, "repeat")
    puller.wait_for("repeat")
    time.sleep(case.place / 50)
    if case.victim == "kill":
        owner.kill()
    else:
        owner.unlink(puller, force=True)
    _, failure = call.result()
    assert failure is not None
    puller.call("fill", "kv", ANOTHER)
    check(pair.target, GEOMETRY.filled(ANOTHER))


def play(case: Case, stage: Stage, path: Path) -> None:
    if path.needs_the_peer:
        pusher_dials = case.caller_dials == case.push
        with contextmanager(scene)(stage, pusher_dials, sync_timeout_ms=TIMEOUT_MS) as set_up:
            stalled = Stalled(case, set_up)
            (push_over_tcp if case.push else pull_over_tcp)(case, stalled)
    else:
        pair = stage.pair(path, GEOMETRY, sync_timeout_ms=TIMEOUT_MS)
        (push_on_one_host if case.push else pull_on_one_host)(case, pair)


@pytest.mark.skipif(ON_ASCEND, reason="capability confirmed ends: HIXL has none")
@pytest.mark.rule("C6.6-1", "C6.6-2", "C6.6-3", "C6.6-4", "C6.6-5")
def test_nothing_lands_after_the_barrier_wherever_a_transfer_stalls(
    stage: Stage, path: Path
) -> None:
    numbers = range(MANY) if IS_LONG else FEW[path.name]
    for number in numbers:
        case = Case.draw(number)
        try:
            with stage_of_its_own(stage) as own:
                play(case, own, path)
        except BaseException as error:
            raise AssertionError(f"{path}, {case}") from error
