# SPDX-License-Identifier: Apache-2.0
"""Times operations as the number of caches, links, keys and block ids grows: see README.md."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial

from llm_datadist._cli._arguments import names
from llm_datadist._tools.outcome import PeerFailure
from llm_datadist._tools.table import lay_out

from . import curves, workers
from .curves import Row

_THOUSAND = (1, 10, 100, 300, 1000)
_LINKS = (1, 8, 64, 256, 512)
_KEYS = (1000, 10_000, 100_000, 300_000, 1_000_000)
_IDS = (1, 10, 100, 1000, 10_000, 100_000)
# Peers of the links curve live in so many processes.
_PROCESSES = 4


@dataclass(frozen=True)
class Curve:
    """A curve: what N counts, the points, and how they are measured."""

    title: str
    points: tuple[int, ...]
    tiny: tuple[int, ...]
    measure: Callable[[Sequence[int]], Iterator[Row]]


CURVES = {
    "register": Curve(
        f"register and unregister a cache of {workers.TENSORS} tensors, N caches registered",
        _THOUSAND,
        (1, 4),
        curves.registration_curve,
    ),
    "pull": Curve(
        "pull one block by key, one-sided mode, N caches registered at each end",
        _THOUSAND,
        (1, 4),
        partial(curves.pull_curve, one_sided=True),
    ),
    "request": Curve(
        "the same in request mode",
        _THOUSAND,
        (1, 4),
        partial(curves.pull_curve, one_sided=False),
    ),
    "links": Curve(
        f"N links of one engine to as many engines in {_PROCESSES} processes; 0: after unlinking",
        _LINKS,
        (1, 4),
        partial(curves.links_curve, processes=_PROCESSES),
    ),
    "keys": Curve("request mode, N keys bound", _KEYS, (1000, 2000), curves.keys_curve),
    "lists": Curve(
        "pull N blocks of 64 bytes, registered memory; nanoseconds are per id",
        _IDS,
        (1, 10),
        partial(curves.lists_curve, allocated=False),
    ),
    "lists-allocated": Curve(
        "the same from a pool",
        _IDS,
        (1, 10),
        partial(curves.lists_curve, allocated=True),
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the curves; returns the exit status."""
    args = _parser().parse_args(arguments)
    os.environ.setdefault("LLM_DATADIST_BACKEND", "mock")
    rows: dict[str, list[Row]] = {}
    try:
        for name in args.only:
            curve = CURVES[name]
            rows[name] = []
            for row in curve.measure(curve.tiny if args.tiny else curve.points):
                rows[name].append(row)
                print(f"{name} {row.n}", file=sys.stderr, flush=True)
    except PeerFailure as failure:
        print(f"scale: {failure}", file=sys.stderr)
        return 1
    if args.json:
        report = {name: [asdict(row) for row in of_curve] for name, of_curve in rows.items()}
        print(json.dumps(report))
    else:
        print("\n\n".join(_table(CURVES[name].title, of_curve) for name, of_curve in rows.items()))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument(
        "--only", type=names(CURVES), default=list(CURVES), metavar="LIST", help=",".join(CURVES)
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument(
        "--tiny", action="store_true", help="few of everything: does it work, not: how fast is it"
    )
    return parser


def _table(title: str, rows: Sequence[Row]) -> str:
    columns = list(dict.fromkeys(name for row in rows for name in row.figures))
    cells = [["N", *columns]]
    for row in rows:
        figures = [row.figures.get(name) for name in columns]
        cells.append([str(row.n), *("" if each is None else _number(each) for each in figures)])
    return "\n".join([title, *lay_out(cells, right=range(len(cells[0])))])


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.1f}"


if __name__ == "__main__":
    sys.exit(main())
