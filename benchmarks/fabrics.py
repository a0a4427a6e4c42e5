# SPDX-License-Identifier: Apache-2.0
"""Measures the mock under each fabric beside the published figure.

    python -m benchmarks.fabrics                    # a minute and a half
    python -m benchmarks.fabrics --write docs       # and the table of docs/fabrics.md

Two engines of this process pull and push device memory. The factor is chosen for each size, so that
the transfer lasts for --seconds: the machine keeps up, and what it adds of its own is small.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from llm_datadist import LLMRole
from llm_datadist._plan.fabrics import SIZES_KIB, Profile, profiles
from llm_datadist.testing import Geometry, LocalPeer

# One of two tensors, so that a layer can be pushed.
BYTES = 4 << 20
DIRECTIONS = {"pull": "rD2D", "push": "D2rD"}


@dataclass(frozen=True)
class Figure:
    """One transfer: GB/s, with the factor taken out."""

    profile: str
    direction: str
    kib: int
    scale: float
    published: float
    measured: float

    @property
    def error(self) -> float:
        """How far the measured figure is from the published one."""
        return self.measured / self.published - 1


def measure(profile: Profile, kib: int, seconds: float) -> list[Figure]:
    """Both directions, with blocks of this size."""
    index = SIZES_KIB.index(kib)
    count = BYTES // (kib << 10)
    size = 2 * count * (kib << 10)
    fastest = max(profile.curves[each].gb_per_s[index] for each in DIRECTIONS.values())
    scale = max(1.0, seconds / (size / (fastest * 1e9)))
    fabric = f"{profile.name}:scale={scale:.3f}:latency=0us:jitter=0us"
    geometry = Geometry(num_tensors=2, num_blocks=2 * count, block_bytes=kib << 10)
    figures = []
    with ExitStack() as exits:
        members = []
        for number, role in ((1, LLMRole.PROMPT), (2, LLMRole.DECODER)):
            member = LocalPeer()
            exits.callback(member.reset)
            member.init(
                number,
                role=role,
                listen="127.0.0.1:0",
                sync_timeout_ms=60_000,
                environment={"LLM_DATADIST_MOCK_FABRIC": fabric},
            )
            member.register("kv", geometry, None, 0)
            members.append(member)
        prompt, decoder = members
        decoder.link(prompt)
        # No two blocks are beside each other on both sides: each is a run of its own.
        source = [*range(0, 2 * count, 2)]
        target = [block + 1 for block in source]
        for operation, direction in DIRECTIONS.items():
            begin = time.monotonic()
            getattr(decoder, operation)("kv", prompt.key(), source, target)
            taken = time.monotonic() - begin
            published = profile.curves[direction].gb_per_s[index]
            measured = size / taken * scale / 1e9
            figures.append(Figure(profile.name, direction, kib, scale, published, measured))
    return figures


def markdown(figures: Sequence[Figure]) -> str:
    """The table of docs/fabrics.md."""
    lines = ["| profile | factors | rD2D: mean, worst | D2rD: mean, worst |", "|---|---|---|---|"]
    for name in dict.fromkeys(figure.profile for figure in figures):
        own = [figure for figure in figures if figure.profile == name]
        cells = []
        for direction in DIRECTIONS.values():
            errors = [figure.error for figure in own if figure.direction == direction]
            worst = max(errors, key=abs)
            cells.append(f"{100 * statistics.fmean(errors):+.1f} %, {100 * worst:+.1f} %")
        scales = [figure.scale for figure in own]
        lines.append(f"| `{name}` | {min(scales):.0f} to {max(scales):.0f} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure all."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", choices=list(profiles()), action="append")
    parser.add_argument("--seconds", type=float, default=0.2, help="of one transfer")
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="of fabrics.md")
    args = parser.parse_args()
    figures = []
    for name in args.only or profiles():
        for kib in SIZES_KIB:
            figures += measure(profiles()[name], kib, args.seconds)
        print(name, f"{figures[-1].error:+.1%}", file=sys.stderr, flush=True)
    if args.write:
        page = args.write / "fabrics.md"
        begin, end = "<!-- begin: measured -->\n", "<!-- end: measured -->\n"
        text = page.read_text(encoding="utf-8")
        before, after = text.split(begin)[0], text.split(end)[1]
        page.write_text(before + begin + markdown(figures) + end + after, encoding="utf-8")
    print(markdown(figures), end="")


if __name__ == "__main__":
    main()
