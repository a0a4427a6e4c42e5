# SPDX-License-Identifier: Apache-2.0
"""Pull the same blocks by this package and by what one could use instead.

Each peer meets this package alone: two pairs of processes take turns, round by round, and the ratio
is taken within each round. What is not installed is listed with the line that installs it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from llm_datadist._bench import course
from llm_datadist._bench.reference import NoReferences
from llm_datadist._bench.results import PACKAGE, PATHS
from llm_datadist._bench.work import FULL, TINY, Work
from llm_datadist._cli._arguments import names, positive
from llm_datadist._tools.host import available_memory
from llm_datadist._tools.outcome import PeerFailure, Refusal, finish
from llm_datadist._tools.processes import PROCESS_OVERHEAD
from llm_datadist._tools.progress import Progress
from llm_datadist._tools.units import in_words

from . import duel, table
from .catalogue import PEERS, Peer
from .duel import Outcome

NATIVE = "native"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the duels; returns the exit status."""
    args = _parser().parse_args(arguments)
    return finish("peers", args.json, lambda: _result(args))


def _parser() -> argparse.ArgumentParser:
    summary, _, details = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers",
        description=f"{summary}\n{details}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    known = [NATIVE, *PEERS]
    parser.add_argument(
        "--peers",
        type=names(known),
        default=known,
        metavar="LIST",
        help=f"some of {','.join(known)} (default: all); {NATIVE}: the C loops of the bench",
    )
    parser.add_argument(
        "--only", type=names(FULL), default=list(FULL), metavar="LIST", help="W1,W2,W3,W4"
    )
    parser.add_argument(
        "--rounds", type=positive, default=9, metavar="N", help="default: %(default)s"
    )
    parser.add_argument("--tiny", action="store_true", help="small caches: does it work")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    return parser


def _result(args: argparse.Namespace) -> str:
    works = [(TINY if args.tiny else FULL)[name] for name in args.only]
    obstacles = {name: PEERS[name].obstacle() for name in args.peers if name != NATIVE}
    left_out = {name: obstacle for name, obstacle in obstacles.items() if obstacle}
    chosen = [name for name, obstacle in obstacles.items() if not obstacle]
    _refuse_what_does_not_fit(works)
    plan = course.Plan(list(PATHS.values()), works, args.rounds)
    native = NATIVE in args.peers
    steps = len(chosen) * duel.steps(works, args.rounds)
    steps += len(plan.paths) * plan.steps_of_a_path if native else 0
    progress = Progress(sys.stderr, steps)
    outcomes: list[Outcome] = []
    try:
        if native:
            outcomes += _native(plan, progress)
        for name in chosen:
            try:
                outcomes += duel.fight(PEERS[name], works, args.rounds, progress)
            except (PeerFailure, NoReferences) as failure:
                left_out[name] = f"failed: {failure}"
    finally:
        progress.clear()
    if args.json:
        return json.dumps(table.for_machines(outcomes, left_out))
    return table.for_people(outcomes, left_out, targets=not args.tiny)


def _native(plan: course.Plan, progress: Progress) -> list[Outcome]:
    """Take the C loops that llm-datadist bench compares with for peers."""
    report = course.run(plan, progress)
    return [
        Outcome(
            Peer(result.path.limit, f"{result.path.limit}, a C loop", "", result.path.name),
            result.work,
            result.microseconds[result.path.limit],
            result.microseconds[PACKAGE],
        )
        for result in report.results
        if result.references
    ]


def _refuse_what_does_not_fit(works: Sequence[Work]) -> None:
    # Two pairs of processes with a cache each.
    needed = 4 * (max(work.cache_bytes for work in works) + PROCESS_OVERHEAD)
    available = available_memory()
    if needed > available.bytes:
        raise Refusal(
            f"two pairs of processes need {in_words(needed)} of memory, "
            f"{in_words(available.bytes)} is available {available.where}; --only W2,W3 needs less"
        )


if __name__ == "__main__":
    sys.exit(main())
