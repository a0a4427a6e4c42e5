# SPDX-License-Identifier: Apache-2.0
"""Transfers over a fabric, simulated event by event.

A transfer goes from the port of a prompt to that of a decoder. It waits until no other one is under
way over its link, then its bytes flow, at most as fast as its curve allows, and at its max-min fair
share of both ports; after the latency it is over, and the link is free. Nothing of this is shared
with the mock runtime, which the plans are compared with.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

__all__ = ["Network", "Request", "Result", "simulate"]

# A flow that begins or ends changes the rates of others, those change others, and so on. With more
# flows than this, what is furthest away keeps its rate until something nearer happens.
MOST_TOUCHED = 16
# A port and its direction: ("prompt", 0) sends, ("decoder", 3) receives.
Port = tuple[str, int]
Link = tuple[int, int]


@dataclass(frozen=True)
class Request:
    """One request whose blocks are to be moved."""

    time: float  # when it arrives, in seconds
    prompt: int
    decoder: int
    size: float  # bytes of all its blocks
    prefill: float = 0.0  # seconds that the prompt computes first


@dataclass(frozen=True)
class Network:
    """What the transfers go over: bytes per second and seconds."""

    rate: float  # of one transfer alone
    port: float  # of a port, either way
    latency: float = 0.0
    jitter: float = 0.0  # at most so much more, uniform


@dataclass(frozen=True)
class Result:
    """What became of one request."""

    request: Request
    ready: float  # when its blocks were there to be moved
    end: float

    @property
    def added(self) -> float:
        """Seconds that the transfer adds to the time to first token, waiting included."""
        return self.end - self.ready


@dataclass
class _Flow:
    result_of: int
    ports: tuple[Port, Port]
    left: float
    since: float = 0.0
    rate: float = 0.0
    version: int = 0


@dataclass
class _State:
    network: Network
    requests: Sequence[Request]
    chance: random.Random
    events: list[tuple[float, int, str, int, int]] = field(default_factory=list)
    sequence: int = 0
    ready: dict[int, float] = field(default_factory=dict)
    ends: dict[int, float] = field(default_factory=dict)
    computing: dict[int, deque[int]] = field(default_factory=dict)  # by prompt
    waiting: dict[Link, deque[int]] = field(default_factory=dict)  # the first one is under way
    flows: dict[int, _Flow] = field(default_factory=dict)
    through: dict[Port, dict[int, _Flow]] = field(default_factory=dict)

    def post(self, time: float, what: str, number: int, version: int = 0) -> None:
        """An event that comes at that time."""
        self.sequence += 1
        heapq.heappush(self.events, (time, self.sequence, what, number, version))

    # ---- the life of a request

    def arrives(self, now: float, number: int) -> None:
        request = self.requests[number]
        if request.prefill <= 0:
            return self.is_ready(now, number)
        queue = self.computing.setdefault(request.prompt, deque())
        queue.append(number)
        if len(queue) == 1:
            self.post(now + request.prefill, "computed", number)
        return None

    def is_computed(self, now: float, number: int) -> None:
        queue = self.computing[self.requests[number].prompt]
        queue.popleft()
        if queue:
            self.post(now + self.requests[queue[0]].prefill, "computed", queue[0])
        self.is_ready(now, number)

    def is_ready(self, now: float, number: int) -> None:
        request = self.requests[number]
        self.ready[number] = now
        queue = self.waiting.setdefault((request.prompt, request.decoder), deque())
        queue.append(number)
        if len(queue) == 1:
            self.begins(now, number)

    def begins(self, now: float, number: int) -> None:
        request = self.requests[number]
        ports = (("prompt", request.prompt), ("decoder", request.decoder))
        flow = _Flow(number, ports, request.size, since=now)
        self.flows[number] = flow
        for port in ports:
            self.through.setdefault(port, {})[number] = flow
        self.share(now, ports)

    def has_flowed(self, now: float, number: int) -> None:
        flow = self.flows.pop(number)
        for port in flow.ports:
            del self.through[port][number]
        self.share(now, flow.ports)
        delay = self.network.latency + self.chance.uniform(0, self.network.jitter)
        self.post(now + delay, "over", number)

    def is_over(self, now: float, number: int) -> None:
        request = self.requests[number]
        self.ends[number] = now
        queue = self.waiting[request.prompt, request.decoder]
        queue.popleft()
        if queue:
            self.begins(now, queue[0])

    # ---- the sharing of ports

    def touched_by(self, ports: Iterable[Port]) -> dict[int, _Flow]:
        """The flows whose rates may depend on these ports, nearest first; no further ports once
        there are more than MOST_TOUCHED.
        """
        found: dict[int, _Flow] = {}
        nearest = list(ports)
        seen = set(nearest)
        while nearest and len(found) <= MOST_TOUCHED:
            further = []
            for each in nearest:
                for number, flow in self.through[each].items():
                    found[number] = flow
                    for port in flow.ports:
                        if port not in seen:
                            seen.add(port)
                            further.append(port)
            nearest = further
        return found

    def used_by_others(self, flows: dict[int, _Flow]) -> dict[Port, float]:
        """What the flows that keep their rates take of the ports of these."""
        return {
            port: sum(
                other.rate for number, other in self.through[port].items() if number not in flows
            )
            for flow in flows.values()
            for port in flow.ports
        }

    def share(self, now: float, ports: Iterable[Port]) -> None:
        """Give the flows their rates anew, and say when each will have flowed."""
        flows = self.touched_by(ports)
        rates = max_min_rates(
            {number: flow.ports for number, flow in flows.items()},
            self.network,
            self.used_by_others(flows),
        )
        for number, flow in flows.items():
            flow.left = max(0.0, flow.left - flow.rate * (now - flow.since))
            flow.since, flow.rate = now, rates[number]
            flow.version += 1
            self.post(now + flow.left / flow.rate, "flowed", number, flow.version)


def max_min_rates(
    flows: dict[int, tuple[Port, Port]], network: Network, used: dict[Port, float]
) -> dict[int, float]:
    """Raise all rates together; a flow stops at its own most, or when a port of it is full.

    Args:
        flows: the ports of each.
        network: what they go over.
        used: of each port, by flows that are not among them; changed.
    """
    rates = dict.fromkeys(flows, 0.0)
    rising: dict[Port, set[int]] = {}
    for number, ports in flows.items():
        for port in ports:
            rising.setdefault(port, set()).add(number)
    level = 0.0
    still = set(flows)
    while still:
        full = {
            port: (network.port - used[port]) / len(here) for port, here in rising.items() if here
        }
        level = min(network.rate, *full.values())
        stopped: set[int] = set(still) if level >= network.rate else set()
        for port, most in full.items():
            if most <= level * (1 + 1e-12):
                stopped |= rising[port]
        for number in stopped:
            rates[number] = level
            for port in flows[number]:
                rising[port].discard(number)
                used[port] += level
        still -= stopped
    return rates


def simulate(requests: Sequence[Request], network: Network, seed: int = 0) -> list[Result]:
    """Return what becomes of each request, in their order. The seed is that of the jitter."""
    state = _State(network, requests, random.Random(seed))
    for number, request in enumerate(requests):
        state.post(request.time, "arrives", number)
    while state.events:
        now, _, what, number, version = heapq.heappop(state.events)
        if what == "arrives":
            state.arrives(now, number)
        elif what == "computed":
            state.is_computed(now, number)
        elif what == "over":
            state.is_over(now, number)
        elif number in state.flows and state.flows[number].version == version:
            state.has_flowed(now, number)
    return [
        Result(request, state.ready[number], state.ends[number])
        for number, request in enumerate(requests)
    ]
