# SPDX-License-Identifier: Apache-2.0
"""A deployment: prompts, decoders, what a request is, and the fabric. Where it saturates, and what
its transfers add to the time to first token.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from .fabrics import Profile
from .simulation import Network, Request, Result, simulate

__all__ = ["VALIDATED", "Deployment", "Load", "Saturation", "percentile"]


@dataclass(frozen=True)
class Validated:
    """The largest that was compared with transfers that were really made; docs/plan.md."""

    prompts: int
    decoders: int
    load: float  # of what saturates


VALIDATED = Validated(4, 8, 0.7)


@dataclass(frozen=True)
class Saturation:
    """The requests per second that a part of the deployment can serve, and which part it is."""

    requests_per_second: float
    part: str


@dataclass(frozen=True)
class Load:
    """What one rate of requests leads to; seconds."""

    requests_per_second: float
    load: float  # as a part of what saturates
    mean: float
    p50: float
    p99: float
    served_per_second: float  # while requests still arrived

    @property
    def extrapolated(self) -> bool:
        """Whether no such load was compared with transfers that were made."""
        return self.load > VALIDATED.load * (1 + 1e-9)


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that so many percent do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


@dataclass(frozen=True)
class Deployment:
    """Requests come at random (Poisson), go to a random prompt and a random decoder, and all their
    blocks are moved in one transfer.
    """

    prompts: int
    decoders: int
    profile: Profile
    block_bytes: int
    blocks: int  # of a request, over all layers and tensors; the mean
    direction: str = "rD2D"
    prefill: float = 0.0  # seconds that a prompt computes for a request
    exponential: bool = False  # the sizes of requests are, with that mean; else all are alike
    scale: float = 1.0  # everything of the fabric is so many times slower

    def __post_init__(self) -> None:
        if self.direction not in self.profile.curves:
            raise ValueError(
                f"direction is {self.direction!r}; {self.profile.words} carries "
                f"{', '.join(self.profile.curves)}"
            )

    @property
    def request_bytes(self) -> float:
        """The mean bytes of a request."""
        return float(self.blocks * self.block_bytes)

    @property
    def network(self) -> Network:
        """The fabric, for blocks of this size."""
        return Network(
            self.profile.curves[self.direction].at(self.block_bytes) * 1e9 / self.scale,
            self.profile.port_gb_per_s * 1e9 / self.scale,
            self.profile.latency_us * 1e-6 * self.scale,
            self.profile.jitter_us * 1e-6 * self.scale,
        )

    @property
    def alone(self) -> float:
        """Seconds that the transfer of a mean request takes with nothing else under way."""
        network = self.network
        return self.request_bytes / network.rate + network.latency + network.jitter / 2

    def saturation(self) -> Saturation:
        """Return what the busiest part can serve: no more requests are served in the long run."""
        network = self.network
        parts = [
            Saturation(self.prompts * network.port / self.request_bytes, "the prompts' ports"),
            Saturation(self.decoders * network.port / self.request_bytes, "the decoders' ports"),
            Saturation(self.prompts * self.decoders / self.alone, "the links, one transfer each"),
        ]
        if self.prefill > 0:
            parts.append(Saturation(self.prompts / self.prefill, "the prompts' computing"))
        return min(parts, key=lambda part: part.requests_per_second)

    def requests(self, per_second: float, count: int, seed: int) -> list[Request]:
        """Return that many requests, as they arrive."""
        chance = random.Random(seed)
        time = 0.0
        made = []
        for _ in range(count):
            time += chance.expovariate(per_second)
            factor = chance.expovariate(1) if self.exponential else 1.0
            blocks = max(1, round(self.blocks * factor))
            made.append(
                Request(
                    time,
                    chance.randrange(self.prompts),
                    chance.randrange(self.decoders),
                    float(blocks * self.block_bytes),
                    self.prefill * factor,
                )
            )
        return made

    def under(self, per_second: float, count: int, seed: int) -> Load:
        """Simulate that many requests; the first tenth, which finds empty lines, does not count."""
        results = simulate(self.requests(per_second, count, seed), self.network, seed)
        return _summary(per_second, per_second / self.saturation().requests_per_second, results)

    def beyond_what_was_validated(self) -> list[str]:
        """Return in which respects the deployment is larger than any that was compared with
        transfers that were really made.
        """
        beyond = []
        if self.prompts > VALIDATED.prompts:
            beyond.append(f"{self.prompts} prompts, validated up to {VALIDATED.prompts}")
        if self.decoders > VALIDATED.decoders:
            beyond.append(f"{self.decoders} decoders, validated up to {VALIDATED.decoders}")
        if self.prefill > 0:
            beyond.append("computing of the prompts, which was not validated")
        return beyond


def _summary(per_second: float, load: float, results: Sequence[Result]) -> Load:
    added = [result.added for result in results[len(results) // 10 :]]
    last = results[-1].request.time
    return Load(
        per_second,
        load,
        sum(added) / len(added),
        percentile(added, 50),
        percentile(added, 99),
        # The first half of the time fills the waiting lines.
        sum(last / 2 < result.end <= last for result in results) / (last / 2),
    )
