# SPDX-License-Identifier: Apache-2.0
"""Have engines do everything at random for a while, kill and stop them, and check every byte.

Prompt and decoder processes link, register and allocate, pull, push, copy, unlink, change roles,
in one-sided and in request mode, over every path, while some of them are killed, stopped or
restarted. Each block has contents that no other block ever had; the blocks of a failed transfer
are filled anew once its end is certain, and looked at again later. Watched are also how long
each call takes, and what each process holds when its engine is closed. The exit status is 0 when
nothing is found, 1 for a finding, of which the text says what repeats it, 2 for arguments that
cannot be served.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import TYPE_CHECKING

from llm_datadist._tools.outcome import Refusal, finish
from llm_datadist._tools.progress import Progress

from ._arguments import names, positive, seconds

if TYPE_CHECKING:
    from llm_datadist._soak.tally import Tally

TRANSPORTS = ("mapped", "cma", "tcp")
_MOST_PEERS = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the subcommand."""
    parser.add_argument(
        "--seconds",
        type=seconds,
        default=600.0,
        metavar="N",
        help="how long (default: %(default)g); the round under way is finished",
    )
    parser.add_argument(
        "--seed",
        type=int,
        metavar="N",
        help="the same one gives the same operations (default: another one each time, printed)",
    )
    parser.add_argument(
        "--season", type=int, metavar="N", help="only this one: what a finding says to repeat"
    )
    parser.add_argument(
        "--peers", type=positive, default=4, metavar="N", help="processes (default: %(default)s)"
    )
    parser.add_argument(
        "--transport",
        type=names(TRANSPORTS),
        metavar="LIST",
        help="in every season only these of mapped,cma,tcp, in this order (default: changes)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of the summary")
    # Proves that a fault of each kind is found.
    parser.add_argument("--plant-for-test", action="store_true", help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Run the soak; returns the exit status."""
    found: list[Tally] = []
    status = finish("soak", args.json, lambda: _result(args, found))
    return 1 if status == 0 and found[0].texts else status


def _result(args: argparse.Namespace, found: list[Tally]) -> str:
    if not 2 <= args.peers <= _MOST_PEERS:
        raise Refusal(f"--peers must be 2 to {_MOST_PEERS}, got {args.peers}")
    seed = time.time_ns() % 1_000_000 if args.seed is None else args.seed

    from llm_datadist._soak import course

    plan = course.Course(
        args.seconds,
        seed,
        args.season,
        args.peers,
        () if args.transport is None else (",".join(args.transport),),
        args.plant_for_test,
    )
    whole = max(1, round(args.seconds))
    progress = Progress(sys.stderr, whole)
    shown = 0

    def show(passed: float, text: str) -> None:
        nonlocal shown
        now = min(whole, int(passed))
        progress.advance(now - shown)
        shown = now
        progress.show(f"s, {text}")

    print(f"llm-datadist soak: seed {seed}", file=sys.stderr, flush=True)
    try:
        tally = course.run(plan, show)
    finally:
        progress.clear()
    found.append(tally)
    repeat = f"llm-datadist soak --seed {seed} --peers {args.peers}" + (
        f" --transport {','.join(args.transport)}" if args.transport else ""
    )
    if args.json:
        return json.dumps({"seed": seed, "repeat": repeat, **tally.for_machines()})
    if not tally.texts:
        return f"seed {seed}: {tally.summary()}"
    return "\n".join(
        [*tally.texts, f"repeat: {repeat} --season N", f"seed {seed}: {tally.summary()}"]
    )
