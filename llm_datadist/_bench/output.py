# SPDX-License-Identifier: Apache-2.0
"""A report as tables, and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from llm_datadist._tools.table import lay_out
from llm_datadist._tools.units import in_words

from .results import PACKAGE, PATHS, PathPlan, Report, Result, Spread

_RATIO_TARGET = 0.90
_LEGEND = (
    "GB/s and us: medians over the rounds. beside ...: the speed of llm_datadist as a part of the",
    "other's in the same round, or the time that it adds: median [min .. max].",
)
# What a table of these groups shows, as its heading says it.
_GROUPS = {
    "work": "",
    "size": ", over the size of a block",
    "count": ", over the number of blocks",
}


def for_machines(report: Report) -> dict[str, Any]:
    """Return what --json prints."""
    return {
        "machine": report.machine,
        "results": [_result(result) for result in report.results],
        "unavailable": report.unavailable,
        "no_references": report.no_references,
    }


def _result(result: Result) -> dict[str, Any]:
    work, names = result.work, list(result.microseconds)

    def spreads(of: Any, names: Sequence[str]) -> dict[str, dict[str, float]]:
        return {name: asdict(of(name)) for name in names}

    return {
        "path": result.path.name,
        "group": work.group,
        "work": work.name,
        "tensors": work.tensors,
        "blocks": work.moved,
        "block_bytes": work.block_bytes,
        "bytes": work.moved_bytes,
        "pages": result.pages,
        "rounds": result.rounds,
        "pulls_per_round": work.pulls,
        "microseconds": spreads(result.time_us, names),
        "gb_per_s": spreads(result.gb_per_s, names),
        "ratio": spreads(result.ratio, result.references),
        "added_us": spreads(result.added_us, result.references),
    }


def for_people(report: Report, targets: bool) -> str:
    """Return the tables.

    Args:
        report: what was measured.
        targets: whether to show what this project aims at, too.
    """
    machine = report.machine
    lines = [f"{machine['platform']}, kernel {machine['kernel']}, {machine['cpus']} CPUs"]
    if report.results:
        lines[0] += f", runtime {machine['runtime']}"
    lines += [f"{name}: {kernel}" for name, kernel in machine["kernels"].items()]
    if report.no_references:
        lines.append(f"figures without references: {report.no_references}")
    for name, reason in report.unavailable.items():
        lines += ["", f"{name}: not available here: {reason}"]
    for path in PATHS.values():
        for group, over in _GROUPS.items():
            chosen = [
                result
                for result in report.results
                if result.path == path and result.work.group == group
            ]
            if chosen:
                pages = "; ".join(sorted({result.pages for result in chosen}))
                lines += [
                    "",
                    f"{path.name}{over}: by {path.mechanism}; {pages}; {_rounds(chosen[0])}",
                    *_path_table(path, chosen, targets),
                ]
    if any(result.references for result in report.results):
        lines += ["", *_LEGEND]
    return "\n".join(lines)


def _rounds(result: Result) -> str:
    return "1 round" if result.rounds == 1 else f"{result.rounds} rounds"


def _path_table(path: PathPlan, results: Sequence[Result], targets: bool) -> list[str]:
    references = bool(results[0].references)
    targets = targets and references and results[0].work.group == "work"
    heading = ["", "one pull", "", PACKAGE]
    if references:
        heading += [path.limit, "ref", f"beside {path.limit}"]
        heading += ["target"] if targets else []
        heading += ["beside ref"]
    else:
        heading += ["min", "max"]
    rows = [heading]
    for result in results:
        work = result.work
        name = work.name if work.group == "work" else ""
        row = [name, work.shape, f"= {in_words(work.moved_bytes)}"]
        row += _compared(path, result, targets) if references else _alone(result)
        rows.append(row)
    if not any(row[0] for row in rows):
        rows = [row[1:] for row in rows]
        return lay_out(rows, right=range(len(rows[0])))
    return lay_out(rows, right=range(1, len(heading)))


def _figure(result: Result, name: str, pick: str = "median") -> str:
    if result.work.is_small:
        return f"{getattr(result.time_us(name), pick):.2f} us"
    return f"{getattr(result.gb_per_s(name), pick):.2f} GB/s"


def _alone(result: Result) -> list[str]:
    return [_figure(result, PACKAGE, pick) for pick in ("median", "min", "max")]


def _compared(path: PathPlan, result: Result, targets: bool) -> list[str]:
    row = [_figure(result, name) for name in (PACKAGE, path.limit, "ref")]
    limit, added = result.ratio(path.limit), result.added_us(path.limit)
    if result.work.is_small:
        row.append(f"{added.median:+.2f} us [{added.min:+.2f} .. {added.max:+.2f}]")
        target, reached = f"+{path.latency_target_us:g} us", added.median <= path.latency_target_us
    else:
        row.append(_bracketed(limit))
        target, reached = f"{_RATIO_TARGET:.2f}", limit.median >= _RATIO_TARGET
    if targets:
        row.append(f"{target} {'reached' if reached else 'missed'}")
    row.append("" if result.work.is_small else f"{result.ratio('ref').median:.2f}")
    return row


def _bracketed(spread: Spread) -> str:
    return f"{spread.median:.2f} [{spread.min:.2f} .. {spread.max:.2f}]"
