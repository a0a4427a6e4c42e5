# SPDX-License-Identifier: Apache-2.0
"""Statistics as metric families: the text that OpenMetrics defines, and what prometheus_client
collects.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from .introspection import LinkState
from .statistics import Latency, Statistics, Traffic

__all__ = ["Family", "Sample", "exposition", "families"]


@dataclass(frozen=True)
class Sample:
    """One line: the name behind the family's, labels, and the value."""

    suffix: str
    labels: dict[str, str]
    value: float


@dataclass
class Family:
    """A metric with its samples."""

    name: str
    kind: str  # "counter", "gauge", "histogram", "stateset"
    text: str
    unit: str = ""
    samples: list[Sample] = field(default_factory=list)

    def add(self, suffix: str, labels: dict[str, str], value: float) -> None:
        """Append a sample."""
        self.samples.append(Sample(suffix, labels, value))


class _Families:
    """All families, filled by one walk over the statistics."""

    def __init__(self) -> None:
        def counter(name: str, text: str, unit: str = "") -> Family:
            return Family(f"lldd_{name}", "counter", text, unit)

        self.transfers = counter("transfers", "Pulls, and layers of pushes, that succeeded.")
        self.bytes = counter("transferred_bytes", "Bytes that these have moved.", "bytes")
        self.failures = counter("transfer_failures", "Transfers that failed, by status.")
        self.seconds = Family(
            "lldd_transfer_seconds",
            "histogram",
            "Time of transfers that succeeded, from the call to its end.",
            "seconds",
        )
        self.success = Family(
            "lldd_last_success_timestamp_seconds",
            "gauge",
            "When a transfer last succeeded, since 1970.",
            "seconds",
        )
        self.error = Family(
            "lldd_last_error_timestamp_seconds",
            "gauge",
            "When a transfer last failed, since 1970.",
            "seconds",
        )
        self.state = Family("lldd_link_state", "stateset", "How a link is.")
        self.links_made = counter("links_made", "Links that were made.")
        self.links_lost = counter("links_lost", "Links whose peers closed the connection.")
        self.links_silent = counter("links_silent", "How often a link became SILENT.")
        self.table_reads = counter("table_reads", "Cache tables read from peers.")
        self.copies = counter("local_copies", "Local copies.")

    def add_traffic(self, labels: dict[str, str], traffic: Traffic) -> None:
        kinds = (
            ("pull", traffic.pulls, traffic.bytes_pulled),
            ("push", traffic.pushes, traffic.bytes_pushed),
        )
        for kind, count, by_path in kinds:
            self.transfers.add("_total", {**labels, "kind": kind}, count)
            for path, moved in by_path.items():
                self.bytes.add("_total", {**labels, "kind": kind, "path": path}, moved)
        for status, count in traffic.failures.items():
            self.failures.add("_total", {**labels, "status": status}, count)
        self.add_latency(labels, traffic.latency)
        if traffic.last_success is not None:
            self.success.add("", labels, traffic.last_success)
        if traffic.last_error is not None:
            status = traffic.last_error.status_code.name
            self.error.add("", {**labels, "status": status}, traffic.last_error.time)

    def add_latency(self, labels: dict[str, str], latency: Latency) -> None:
        if not latency.count:
            return
        seen = 0
        for index, count in enumerate(latency.buckets):
            seen += count
            last = index == len(latency.buckets) - 1
            end = "+Inf" if last else repr((1 << index) / 1e6)
            self.seconds.add("_bucket", {**labels, "le": end}, seen)
        self.seconds.add("_sum", labels, latency.total_us / 1e6)
        self.seconds.add("_count", labels, latency.count)


def families(statistics: Statistics) -> Iterator[Family]:
    """Yield every family that has a sample.

    Per link; what has no link, and what was moved over links that are gone, has the peer "" and the
    link "", so that a sum over all of one asked_by is that of the engine.
    """
    made = _Families()
    engine = {"cluster": str(statistics.cluster_id)}
    for side in ("own", "peers"):
        asked_by = {"own": "this_engine", "peers": "peer"}[side]
        here: list[Traffic] = []
        for link in statistics.links:
            labels = {
                **engine,
                "asked_by": asked_by,
                "peer": str(link.peer_cluster_id),
                "link": link.number,
            }
            traffic: Traffic = getattr(link, side)
            here.append(traffic)
            made.add_traffic(labels, traffic)
        rest = _without(getattr(statistics, side), here)
        made.add_traffic({**engine, "asked_by": asked_by, "peer": "", "link": ""}, rest)
    for link in statistics.links:
        labels = {**engine, "peer": str(link.peer_cluster_id), "link": link.number}
        for state in LinkState:
            made.state.add("", {**labels, "lldd_link_state": state.name}, int(link.state is state))
    counters = statistics.counters
    made.links_made.add("_total", engine, counters.links_made)
    made.links_lost.add("_total", engine, counters.links_lost)
    made.links_silent.add("_total", engine, counters.links_silent)
    made.table_reads.add("_total", engine, counters.table_reads)
    made.copies.add("_total", engine, counters.copies)
    yield from (family for family in vars(made).values() if family.samples)


def _less(whole: dict[str, int], parts: list[dict[str, int]]) -> dict[str, int]:
    return {key: _rest(count, [part.get(key, 0) for part in parts]) for key, count in whole.items()}


def _rest(whole: int, parts: list[int]) -> int:
    # The parts were read a moment later than the whole.
    return max(whole - sum(parts), 0)


def _without(whole: Traffic, parts: list[Traffic]) -> Traffic:
    buckets = [part.latency.buckets for part in parts if part.latency.buckets]
    return Traffic(
        pulls=_rest(whole.pulls, [part.pulls for part in parts]),
        pushes=_rest(whole.pushes, [part.pushes for part in parts]),
        bytes_pulled=_less(whole.bytes_pulled, [part.bytes_pulled for part in parts]),
        bytes_pushed=_less(whole.bytes_pushed, [part.bytes_pushed for part in parts]),
        failures=_less(whole.failures, [part.failures for part in parts]),
        latency=Latency(
            tuple(
                _rest(count, [each[index] for each in buckets])
                for index, count in enumerate(whole.latency.buckets)
            ),
            _rest(whole.latency.total_us, [part.latency.total_us for part in parts]),
        ),
    )


def _quoted(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else repr(float(value))


def exposition(statistics: Statistics) -> str:
    """Return the text of all families, which ends with # EOF."""
    lines = []
    for family in families(statistics):
        lines.append(f"# TYPE {family.name} {family.kind}")
        if family.unit:
            lines.append(f"# UNIT {family.name} {family.unit}")
        lines.append(f"# HELP {family.name} {family.text}")
        for sample in family.samples:
            labels = ",".join(f'{key}="{_quoted(text)}"' for key, text in sample.labels.items())
            lines.append(f"{family.name}{sample.suffix}{{{labels}}} {_number(sample.value)}")
    return "\n".join([*lines, "# EOF", ""])
