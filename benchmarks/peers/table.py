# SPDX-License-Identifier: Apache-2.0
"""The outcomes of duels as one table, and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from llm_datadist._bench.results import PATHS, Spread
from llm_datadist._bench.work import Work
from llm_datadist._tools.table import lay_out

from .duel import Outcome

_FACTOR_WIDTH = 7


def for_machines(outcomes: Sequence[Outcome], left_out: dict[str, str]) -> dict[str, Any]:
    return {
        "duels": [
            {
                "peer": outcome.peer.name,
                "version": outcome.peer.version(),
                "path": outcome.peer.path,
                "work": outcome.work.name,
                "bytes": outcome.work.moved_bytes,
                "rounds": len(outcome.ours),
                "peer_us": asdict(Spread.of(outcome.theirs)),
                "llm_datadist_us": asdict(Spread.of(outcome.ours)),
                "times_as_fast": asdict(outcome.ratio),
            }
            for outcome in outcomes
        ],
        "left_out": left_out,
    }


def for_people(outcomes: Sequence[Outcome], left_out: dict[str, str], targets: bool) -> str:
    """Return a table by paths, what was aimed at, and what is missing."""
    lines = []
    if outcomes:
        lines += _table(outcomes)
        lines += ["", "x: how many times as fast llm_datadist is; median over the rounds"]
    aims = _aims(outcomes) if targets else []
    if aims:
        lines += ["", *lay_out(aims, right=())]
    if left_out:
        lines += ["", "left out:", *(f"  {name}: {why}" for name, why in left_out.items())]
    return "\n".join(lines)


def _table(outcomes: Sequence[Outcome]) -> list[str]:
    works = list(dict.fromkeys(outcome.work for outcome in outcomes))
    rows = [["", *(f"{work.name}, {work.shape}" for work in works)]]
    for path in PATHS:
        of_path = [outcome for outcome in outcomes if outcome.peer.path == path]
        if of_path:
            # Of all its duels together: the machine may have changed between them.
            own = {work: [] for work in works}
            for outcome in of_path:
                own[outcome.work] += outcome.ours
            cells = [_own_cell(work, own[work]) for work in works]
            rows += [["", *("" for _ in works)], [f"llm_datadist, {path}", *cells]]
        for peer in dict.fromkeys(outcome.peer.name for outcome in of_path):
            mine = {outcome.work: outcome for outcome in of_path if outcome.peer.name == peer}
            named = next(iter(mine.values())).peer
            cells = [_cell(mine[work]) if work in mine else "" for work in works]
            version = named.version()
            rows.append([f"  {named.title}" + (f" ({version})" if version else ""), *cells])
    return lay_out(rows, right=range(1, len(rows[0])))


def _figure(work: Work, microseconds: Sequence[float]) -> str:
    median = Spread.of(microseconds).median
    if work.is_small:
        return f"{median:.2f} us"
    return f"{work.moved_bytes / median / 1e3:.2f} GB/s"


def _own_cell(work: Work, microseconds: Sequence[float]) -> str:
    # As wide as a cell with a factor, so that the figures stand below one another.
    return _figure(work, microseconds) + " " * (1 + _FACTOR_WIDTH) if microseconds else ""


def _cell(outcome: Outcome) -> str:
    return f"{_figure(outcome.work, outcome.theirs)} {_factor(outcome)}"


def _factor(outcome: Outcome) -> str:
    return f"{outcome.ratio.median:.2f}x".rjust(_FACTOR_WIDTH)


def _aims(outcomes: Sequence[Outcome]) -> list[list[str]]:
    rows = [
        [
            f"llm_datadist, {outcome.peer.path}",
            f">= {target:g} x {outcome.peer.title}",
            outcome.work.name,
            f"{outcome.ratio.median:.2f} [{outcome.ratio.min:.2f} .. {outcome.ratio.max:.2f}]",
            "reached" if outcome.ratio.median >= target else "missed",
        ]
        for outcome in outcomes
        for work, target in outcome.peer.targets.items()
        if work == outcome.work.name
    ]
    return [["", "target", "", "times as fast", ""], *rows] if rows else []
