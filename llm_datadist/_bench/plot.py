# SPDX-License-Identifier: Apache-2.0
"""Sweeps as a picture. The only module that needs matplotlib, which the extra ``plot`` installs."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from llm_datadist._tools.files import write_whole
from llm_datadist._tools.units import in_words

from .results import PACKAGE, PATHS, PathPlan, Report, Result

_COLORS = {"registered": "#0072b2", "allocated": "#d55e00", "tcp": "#009e73"}
_PANEL_INCHES = (6.4, 4.8)
_DPI = 100


def draw(report: Report, groups: Sequence[str], file: str) -> None:
    """Write a PNG with a panel for each sweep.

    Args:
        report: what was measured.
        groups: which sweeps.
        file: where to.
    """
    width, height = _PANEL_INCHES
    figure = Figure(figsize=(width * len(groups), height), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(groups), squeeze=False)[0]
    for panel, group in zip(panels, groups):
        results = [result for result in report.results if result.work.group == group]
        for path in PATHS.values():
            of_path = [result for result in results if result.path == path]
            if of_path:
                _lines(panel, path, of_path, group)
        _dress(panel, results, group)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    machine = report.machine
    figure.suptitle(
        f"pull_blocks between two processes: {machine['platform']}, {machine['cpus']} CPUs, "
        f"kernel {machine['kernel']}",
        fontsize=10,
    )
    content = io.BytesIO()
    figure.savefig(content, format="png")
    write_whole(file, content.getvalue())


def _place(result: Result, group: str) -> int:
    return result.work.block_bytes if group == "size" else result.work.moved


def _lines(panel: Any, path: PathPlan, results: Sequence[Result], group: str) -> None:
    places = [_place(result, group) for result in results]
    color = _COLORS[path.name]
    own = [result.gb_per_s(PACKAGE) for result in results]
    panel.fill_between(
        places,
        [spread.min for spread in own],
        [spread.max for spread in own],
        color=color,
        alpha=0.15,
        linewidth=0,
    )
    medians = [spread.median for spread in own]
    panel.plot(places, medians, color=color, marker="o", markersize=4, label=path.name)
    if results[0].references:
        limits = [result.gb_per_s(path.limit).median for result in results]
        label = f"{path.limit}, the limit"
        panel.plot(places, limits, color=color, linestyle="--", linewidth=1, label=label)


def _dress(panel: Any, results: Sequence[Result], group: str) -> None:
    work = results[0].work
    panel.set_xscale("log", base=2)
    panel.set_yscale("log")
    if group == "size":
        panel.set_xlabel(f"size of a block; each pull moves {in_words(work.moved_bytes)}")
        panel.xaxis.set_major_formatter(FuncFormatter(lambda size, _: in_words(int(size))))
    else:
        panel.set_xlabel(f"blocks of {in_words(work.block_bytes)} in one pull")
        panel.xaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{count:g}"))
    places = sorted({_place(result, group) for result in results})
    panel.set_xticks(places)
    panel.tick_params(axis="x", which="minor", bottom=False)
    panel.tick_params(axis="both", labelsize=8)
    panel.set_ylabel("GB/s (median; band: all rounds)")
    panel.yaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
    panel.yaxis.set_major_formatter(FuncFormatter(lambda speed, _: f"{speed:g}"))
    panel.yaxis.set_minor_formatter(NullFormatter())
    panel.grid(True, which="major", color="#dddddd", linewidth=0.6)
    panel.set_axisbelow(True)
