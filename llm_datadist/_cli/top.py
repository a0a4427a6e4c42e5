# SPDX-License-Identifier: Apache-2.0
"""Show what the engines of a process do now, link by link.

A table for each engine, every second: calls and bytes per second, how long calls took and waited
for their link, how many are under way and since when the oldest one is, what failed. The process
needs a box (LLM_DATADIST_BOX, see docs/trace.md) and is not stopped or asked for anything. The exit
status is 1 when there is no such process, or it has no box.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from llm_datadist._tools.outcome import PeerFailure, finish

from ._arguments import positive, seconds

if TYPE_CHECKING:
    from llm_datadist._box.reader import Box


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the subcommand."""
    parser.add_argument("pid", type=positive, metavar="PID", help="of the process")
    parser.add_argument(
        "--every", type=seconds, default=1.0, metavar="S", help="seconds (default: %(default)g)"
    )
    parser.add_argument(
        "--times",
        type=positive,
        metavar="N",
        help="how often (default: until the process ends, or Ctrl-C)",
    )


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    return finish("top", False, lambda: _result(args))


def _result(args: argparse.Namespace) -> str:
    from llm_datadist._box.reader import BoxError

    clear = "\x1b[H\x1b[2J" if sys.stdout.isatty() else ""
    last = ""
    try:
        for text in _looks(args.pid, args.every, args.times):
            if last:
                print(clear + last + "\n", flush=True)
            last = text
    except BoxError as error:
        raise PeerFailure(str(error)) from error
    return clear + last


def _looks(pid: int, every: float, times: int | None) -> Iterator[str]:
    from llm_datadist._box.reader import BoxError, read
    from llm_datadist._box.top import boxes_of_process, by_peer, table

    # An engine that is closed has its box until it is freed.
    paths = [path for path in boxes_of_process(pid) if read(path).state == "runs"]
    if not paths:
        raise BoxError(f"the engines of process {pid} are closed")
    begun = {path: _begun(read(path)) for path in paths}
    looked = time.monotonic()
    done = 0
    running = True
    while running and (times is None or done < times):
        time.sleep(every)
        boxes = {path: read(path) for path in paths}
        now = time.monotonic()
        running = any(box.state == "runs" for box in boxes.values())
        yield "\n\n".join(
            table(box, by_peer(box, begun[path], now - looked, time.monotonic_ns()), time.time())
            for path, box in boxes.items()
        )
        begun = {path: _begun(box) for path, box in boxes.items()}
        looked = now
        done += 1


def _begun(box: Box) -> int:
    """Return how many calls have begun."""
    return max((call.number for call in box.calls), default=0)
