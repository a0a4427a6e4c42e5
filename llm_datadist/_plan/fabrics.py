# SPDX-License-Identifier: Apache-2.0
"""The published bandwidth of Ascend's fabrics, read from fabrics.csv.

The figures are those of HIXL's benchmark page (August 2026): transfers of 128 MiB in blocks of
16 KiB to 2 MiB, 1 GB = 10^9 bytes. The rows of the product "Common" are what PCIe 4.0 x16 and RoCE
of 100, 200 and 400 Gb/s are commonly said to carry, whatever the size of a block. Nothing is
published on latency and jitter: LATENCY is a choice of this package.

``docs/fabrics.py`` makes the table of the mock runtime and the tables of docs/fabrics.md from this
module.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

CSV = Path(__file__).with_name("fabrics.csv")
# D: device memory, H: host memory, r: of the peer. D2rH is a write from device memory to the peer's
# host memory, rH2D a read from there into device memory.
DIRECTIONS = ("D2rD", "rD2D", "D2rH", "rH2D", "H2rD", "rD2H", "H2rH", "rH2H")
SIZES_KIB = (16, 32, 64, 128, 256, 512, 1024, 2048)
# Microseconds by transport, and at most so many more at random. Chosen, not published.
LATENCY: Mapping[str, tuple[float, float]] = {
    "HCCS": (10.0, 2.0),
    "FabricMem": (5.0, 1.0),
    "ROCE": (20.0, 5.0),
    "PCIE4-X16": (5.0, 1.0),
}
_ENGINES = {
    "communication domain": "default",
    "hixl_cs": "cs",
    "AICPU unfold": "aicpu",
    "Host unfold, 4 concurrent streams": "host4",
}


@dataclass(frozen=True)
class Curve:
    """Bandwidth by the size of a block: GB/s at each of SIZES_KIB."""

    gb_per_s: tuple[float, ...]

    def at(self, block_bytes: float) -> float:
        """Return GB/s for blocks of this many bytes: between the published sizes interpolated in
        log-log, below the smallest in proportion (a block then takes as long as one of 16 KiB),
        above the largest constant.
        """
        kib = block_bytes / 1024
        if kib <= SIZES_KIB[0]:
            return self.gb_per_s[0] * kib / SIZES_KIB[0]
        for index in range(1, len(SIZES_KIB)):
            if kib <= SIZES_KIB[index]:
                return _between(
                    kib,
                    (SIZES_KIB[index - 1], self.gb_per_s[index - 1]),
                    (SIZES_KIB[index], self.gb_per_s[index]),
                )
        return self.gb_per_s[-1]

    def leave_one_out(self) -> list[float]:
        """Return for each size but the first and the last how far the figure that its neighbours
        predict is from the published one, as a fraction of that.
        """
        points = list(zip(SIZES_KIB, self.gb_per_s))
        return [
            _between(kib, before, after) / figure - 1
            for before, (kib, figure), after in zip(points, points[1:], points[2:])
        ]


def _between(kib: float, low: tuple[float, float], high: tuple[float, float]) -> float:
    part = math.log(kib / low[0]) / math.log(high[0] / low[0])
    return math.exp(math.log(low[1]) * (1 - part) + math.log(high[1]) * part)


@dataclass(frozen=True)
class Profile:
    """One fabric: a product, a transport, the number of hosts and how transfers are made."""

    name: str
    product: str
    transport: str
    hosts: int
    engine: str
    latency_us: float
    jitter_us: float
    curves: Mapping[str, Curve]  # by direction; those that it does not carry are absent

    @property
    def words(self) -> str:
        """The profile for people: "A3, HCCS, 2 hosts, communication domain"."""
        hosts = f"{self.hosts} host{'s' if self.hosts > 1 else ''}"
        return ", ".join(filter(None, (self.product, self.transport, hosts, self.engine)))

    @property
    def port_gb_per_s(self) -> float:
        """What a port carries in each of its two directions: the highest figure of all curves."""
        return max(max(curve.gb_per_s) for curve in self.curves.values())


def _name(row: Mapping[str, str]) -> str:
    if row["product"] == "Common":
        return row["transport"].lower()
    hosts = "1host" if row["hosts"] == "1" else f"{row['hosts']}hosts"
    return f"{row['product']}-{row['transport']}-{hosts}-{_ENGINES[row['engine']]}".lower()


def _curves(rows: Sequence[Mapping[str, str]]) -> dict[str, Curve]:
    if rows[0]["direction"] == "*":
        figures = (float(rows[0]["gb_per_s"]),) * len(SIZES_KIB)
        return dict.fromkeys(DIRECTIONS, Curve(figures))
    published = {(row["direction"], int(row["block_kib"])): row["gb_per_s"] for row in rows}
    return {
        direction: Curve(tuple(float(published[direction, kib]) for kib in SIZES_KIB))
        for direction in DIRECTIONS
        if all(published[direction, kib] for kib in SIZES_KIB)
    }


@cache
def profiles() -> Mapping[str, Profile]:
    """Return all profiles by name."""
    rows: dict[str, list[dict[str, str]]] = {}
    with CSV.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            rows.setdefault(_name(row), []).append(row)
    found = {}
    for name, own in sorted(rows.items()):
        first = own[0]
        transport = first["transport"]
        latency, jitter = LATENCY["ROCE" if transport.startswith("ROCE") else transport]
        found[name] = Profile(
            name,
            first["product"],
            transport,
            int(first["hosts"]),
            first["engine"],
            latency,
            jitter,
            _curves(own),
        )
    return found
