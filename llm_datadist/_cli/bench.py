# SPDX-License-Identifier: Apache-2.0
"""Time pulls of blocks between two processes, beside what this machine allows.

On each path an owner process and a puller process do the same work in rounds: by this package, by a
copy inside the puller (ref, one thread), and by a C loop that uses the same mechanism as well as it
can (the limit). Other machines give other GB/s; the ratios, taken within a round, are what to read.

  W1  1024 of 2048 blocks of 64 KiB in each of 8 tensors: 512 MiB
  W2  4096 of 16384 blocks of 4 KiB in each of 2 tensors: 32 MiB
  W3  one block of 4 KiB: latency
  W4  one block of 256 MiB

  registered  anonymous memory, by process_vm_readv; limit readv_t2: the same from C, two threads
  allocated   the engines' pools, mapped; limit nt_t2: streaming stores from C, two threads
  tcp         anonymous memory, over loopback; limit raw_tcp: blocking writev and readv from C

The references are compiled when they are needed, with CC, cc or gcc; without a C compiler there are
figures of this package alone. The exit status is 0 when there are figures, 1 for a failure or a
wrong byte, 2 for arguments that cannot be served.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
from typing import TYPE_CHECKING

from llm_datadist._tools.outcome import Refusal, finish
from llm_datadist._tools.progress import Progress

from ._arguments import names, positive, refuse_a_backend_that_is_none

if TYPE_CHECKING:
    from llm_datadist._bench.work import Work

# Those of _bench, which is not imported (with numpy and the engine) to print a help text.
WORKS = ("W1", "W2", "W3", "W4")
PATHS = ("registered", "allocated", "tcp")
SWEEPS = ("size", "count")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the subcommand."""
    what = parser.add_argument_group("what is measured")
    what.add_argument(
        "--path",
        type=names(PATHS),
        default=list(PATHS),
        metavar="LIST",
        help=f"some of {','.join(PATHS)} (default: all)",
    )
    what.add_argument(
        "--only",
        type=names(WORKS),
        metavar="LIST",
        help=f"some of {','.join(WORKS)} (default: all; none of them with --sweep)",
    )
    what.add_argument(
        "--sweep",
        type=names(SWEEPS),
        metavar="LIST",
        help="size: blocks from 1 KiB to 64 MiB, 128 MiB a pull; count: 1 to 4096 blocks of 64 "
        "KiB; or size,count",
    )
    what.add_argument(
        "--rounds",
        type=positive,
        default=9,
        metavar="N",
        help="figures are medians over them (default: %(default)s)",
    )
    what.add_argument(
        "--tiny", action="store_true", help="small caches: does it work, not: how fast is it"
    )
    output = parser.add_argument_group("output")
    output.add_argument("--json", action="store_true", help="print JSON instead of tables")
    output.add_argument(
        "--plot",
        metavar="FILE",
        help="draw the sweeps (without --sweep: size) into this PNG file; needs matplotlib, which "
        "the extra 'plot' installs",
    )


def run(args: argparse.Namespace) -> int:
    """Run the benchmarks; returns the exit status."""
    return finish("bench", args.json, lambda: _result(args))


def _result(args: argparse.Namespace) -> str:
    if args.plot is not None:
        args.sweep = args.sweep or ["size"]
        _refuse_what_cannot_be_drawn(args.plot)

    refuse_a_backend_that_is_none()

    from llm_datadist._bench import course, output, results

    plan = course.Plan([results.PATHS[name] for name in args.path], _works(args), args.rounds)
    progress = Progress(sys.stderr, len(plan.paths) * plan.steps_of_a_path)
    try:
        report = course.run(plan, progress)
    finally:
        progress.clear()
    if args.json:
        text = json.dumps(output.for_machines(report))
    else:
        text = output.for_people(report, targets=not args.tiny)
    if args.plot is None or not report.results:
        return text

    from llm_datadist._bench import plot

    try:
        plot.draw(report, args.sweep, args.plot)
    except OSError:
        # What took minutes to measure is there all the same.
        print(text, flush=True)
        raise
    return text if args.json else f"{text}\n\ndrawn: {args.plot}"


def _works(args: argparse.Namespace) -> list[Work]:
    from llm_datadist._bench import work

    sizes = work.TINY if args.tiny else work.FULL
    chosen = args.only or ([] if args.sweep else WORKS)
    points = [point for name in args.sweep or () for point in work.sweep(name, args.tiny)]
    return [*(sizes[name] for name in chosen), *points]


def _refuse_what_cannot_be_drawn(file: str) -> None:
    if not file.endswith(".png"):
        raise Refusal(f"--plot draws PNG: {file!r} does not end with .png")
    directory = os.path.dirname(file) or "."
    if not os.access(directory, os.W_OK | os.X_OK) or os.path.isdir(file):
        raise Refusal(f"--plot: {file!r} cannot be written")
    if importlib.util.find_spec("matplotlib") is None:
        raise Refusal(
            "--plot needs matplotlib, which is not installed: "
            "pip install 'llm-datadist-cffi[plot]', or pip install matplotlib"
        )
