# SPDX-License-Identifier: Apache-2.0
"""Mutates folders of the sources, and reports which mutants the fast tests let live.

    python -m tests.mutation engine base mock ascend python --count 60
    python -m tests.mutation engine --only 10017

Mutants are drawn with a seed from the commit's hash. Each has a number, which is the same as long
as the commit and the sources are. The mutants of all C++ folders are compiled together, once, below
build/mutation; then one environment variable chooses among them. Those in equivalent.json, which
has the reason for each, are counted and not run.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys

from tests.mutation import draw
from tests.mutation.campaign import Campaign, Outcome, keep, table
from tests.mutation.draw import Mutant
from tests.mutation.folders import FOLDERS


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folders", nargs="+", choices=FOLDERS)
    parser.add_argument("--count", type=int, default=60, help="mutants of each folder (default 60)")
    parser.add_argument("--seed", help="default: the hash of HEAD")
    parser.add_argument("--seconds", type=float, default=60, help="for one test")
    parser.add_argument("--jobs", type=int, default=2, help="mutants at a time (default 2)")
    parser.add_argument("--files", default="", help="only files whose name this expression matches")
    parser.add_argument("--only", type=int, nargs="+", help="the numbers of the mutants to run")
    parser.add_argument("--list", action="store_true", help="show all that there are, run none")
    parser.add_argument("--no-baseline", action="store_true", help="the tests are known to pass")
    return parser.parse_args()


def orders(options: argparse.Namespace, seed: str) -> dict[str, list[Mutant]]:
    """Return the mutants that are asked for, of each folder, in the order of the drawing."""
    return {
        name: [
            mutant
            for mutant in draw.drawing(FOLDERS[name], list(FOLDERS).index(name), seed)
            if re.search(options.files, mutant.site.file)
            and (not options.only or mutant.number in options.only)
        ]
        for name in dict.fromkeys(options.folders)
    }


def prepare(asked_for: dict[str, list[Mutant]], count: int) -> dict[str, list[Mutant]]:
    """Draw the mutants of all folders, and build what has them in it."""
    draw.copy_tree()
    drawn: dict[str, list[Mutant]] = {}
    mock = draw.mock_library()
    for folder, order in ((FOLDERS[name], order) for name, order in asked_for.items()):
        others = [mutant for name, some in drawn.items() if name != "python" for mutant in some]
        if folder.name == "python":
            drawn[folder.name] = order[:count]
        else:
            library = draw.ascend_library() if folder.name == "ascend" else mock
            drawn[folder.name] = draw.draw_compiled(order, count, library, others)
            library.link()
    if "mock" not in drawn:
        mock.link()
    return drawn


def _place(mutant: Mutant) -> tuple[str, int]:
    return mutant.site.file, mutant.site.start


def main() -> int:
    options = arguments()
    commit = options.seed or draw.git("rev-parse", "HEAD")
    asked_for = orders(options, commit)
    if options.list:
        for mutant in sorted((each for some in asked_for.values() for each in some), key=_place):
            print(mutant.number, mutant.site)
        return 0
    shutil.rmtree(draw.BUILT, ignore_errors=True)
    draw.BUILT.mkdir(parents=True)
    drawn = prepare(asked_for, options.count)
    results: dict[str, list[Outcome]] = {}
    for folder in (FOLDERS[name] for name in drawn):
        campaign = Campaign(folder, options.seconds, options.jobs)
        if not options.no_baseline:
            campaign.check_baseline()
            taken = sum(campaign.taken.values())
            print(f"{folder.name}: the tests pass without a mutant in {taken:.0f} s", flush=True)
        outcomes = results[folder.name] = []
        for last in campaign.judge_all(drawn[folder.name]):
            outcomes.append(last)
            print(
                f"{last.verdict:10} {last.seconds:5} s {last.number} {last.mutant} {last.by}",
                flush=True,
            )
            keep(folder, commit, outcomes)
    print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
