# SPDX-License-Identifier: Apache-2.0
"""Times W1 to W4 on this package and on what the machine allows, in the same run: see README.md."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from multiprocessing.connection import Connection, wait
from typing import Any

from llm_datadist._cli._geometry import available_memory, in_words

from . import reference
from .pair import PATHS, PathPlan, Result, Unavailable, own, pull
from .work import FULL, TINY, Work

# For one work with its warm-up, in seconds, and for a process to end by itself.
_PATIENCE = 900.0
_END_SECONDS = 10.0
_RATIO_TARGET = 0.90
_OVERHEAD = 256 << 20


class BenchmarkFailure(Exception):
    """No figures: the text says why."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmarks; returns the exit status."""
    args = _parser().parse_args(arguments)
    sizes = TINY if args.tiny else FULL
    works = [sizes[name] for name in args.only]
    results: list[Result] = []
    unavailable: dict[str, str] = {}
    machine: dict[str, Any] = {}
    try:
        with tempfile.TemporaryDirectory() as directory:
            library = reference.build(directory)
            for name in args.path:
                _refuse_what_does_not_fit(PATHS[name], works)
                found = _run_path(PATHS[name], works, args.rounds, library)
                if isinstance(found, Unavailable):
                    unavailable[name] = found.reason
                else:
                    results += found[0]
                    machine.update(found[1])
    except BenchmarkFailure as failure:
        print(f"benchmarks: {failure}", file=sys.stderr)
        return 1
    machine = {"platform": platform.machine(), "kernel": platform.release(), **machine}
    if args.json:
        report = {
            "machine": machine,
            "results": [asdict(result) for result in results],
            "unavailable": unavailable,
        }
        print(json.dumps(report))
    else:
        print(_report(machine, results, unavailable))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument(
        "--only", type=_names(FULL), default=list(FULL), metavar="LIST", help="W1,W2,W3,W4"
    )
    parser.add_argument(
        "--path", type=_names(PATHS), default=list(PATHS), metavar="LIST", help=",".join(PATHS)
    )
    parser.add_argument(
        "--rounds", type=_rounds, default=9, metavar="N", help="default: %(default)s"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument(
        "--tiny", action="store_true", help="small caches: does it work, not: how fast is it"
    )
    return parser


def _names(legal: dict[str, Any]) -> Any:
    def parse(text: str) -> list[str]:
        names = text.split(",")
        unknown = [name for name in names if name not in legal]
        if unknown:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(legal)}")
        return names

    return parse


def _rounds(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def _refuse_what_does_not_fit(path: PathPlan, works: Sequence[Work]) -> None:
    # Both caches, the source of ref, and for allocated memory the source of nt_t2.
    arenas = 4 if path.allocated else 3
    needed = arenas * max(work.cache_bytes for work in works) + _OVERHEAD
    available = available_memory()
    if needed > available:
        raise BenchmarkFailure(
            f"{path.name} needs {in_words(needed)} of memory, {in_words(available)} is available; "
            "--only W2,W3 needs less"
        )


def _run_path(
    path: PathPlan, works: Sequence[Work], rounds: int, library: str
) -> tuple[list[Result], dict[str, Any]] | Unavailable:
    """Run one path in a pair of processes of its own, which have nothing else in them."""
    # Read by the runtime when an engine opens; spawned processes inherit it.
    os.environ["LLM_DATADIST_MOCK_TRANSPORT"] = path.transport
    os.environ.setdefault("LLM_DATADIST_BACKEND", "mock")
    context = multiprocessing.get_context("spawn")
    to_owner, to_puller = context.Pipe()
    ours, theirs = context.Pipe()
    owner = context.Process(target=own, args=(to_puller, library, path, works))
    puller = context.Process(target=pull, args=(to_owner, theirs, library, path, works, rounds))
    pair = {"owner": owner, "puller": puller}
    try:
        for process in pair.values():
            process.start()
        for end in (to_owner, to_puller, theirs):
            end.close()
        results = []
        for work in works:
            _say(f"{path.name} {work.name}")
            result = _next(ours, pair)
            if isinstance(result, Unavailable):
                return result
            results.append(result)
        machine = _next(ours, pair)
        for name, process in pair.items():
            process.join(_END_SECONDS)
            if process.exitcode != 0:
                raise BenchmarkFailure(f"the {name} did not end well: {process.exitcode}")
    finally:
        _say("")
        for process in pair.values():
            if process.is_alive():
                process.kill()
                process.join()
    return results, machine


def _next(results: Connection, pair: dict[str, Any]) -> Any:
    """Wait for the next message of the puller, or the end of either process."""
    deadline = time.monotonic() + _PATIENCE
    sentinels = {process.sentinel: name for name, process in pair.items()}
    while True:
        left = max(0.0, deadline - time.monotonic())
        ready = wait([results, *sentinels], left)
        if results in ready:
            try:
                return results.recv()
            except EOFError:
                raise BenchmarkFailure("the puller failed, see above") from None
        ended = [name for sentinel, name in sentinels.items() if sentinel in ready]
        for name in ended:
            if pair[name].exitcode != 0:
                raise BenchmarkFailure(f"the {name} failed, see above")
        sentinels = {at: name for at, name in sentinels.items() if name not in ended}
        if not ready:
            raise BenchmarkFailure(f"no result within {_PATIENCE:g} seconds")


def _say(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{text}\033[K", end="", file=sys.stderr, flush=True)


# ---- the table ----


def _report(machine: dict[str, Any], results: Sequence[Result], unavailable: dict[str, str]) -> str:
    lines = [f"{machine['platform']}, kernel {machine['kernel']}"]
    if results:
        kernels = (f"{name}: {kernel}" for name, kernel in machine["kernels"].items())
        lines += [f"{machine['cpus']} CPUs, runtime {machine['runtime']}", ", ".join(kernels)]
    for name, reason in unavailable.items():
        lines += ["", f"{name}: not available here: {reason}"]
    for path in PATHS.values():
        of_path = [result for result in results if result.path == path.name]
        if of_path:
            pages = sorted({result.pages for result in of_path})
            lines += [
                "",
                f"{path.name}: {path.memory} memory by {path.transport}; {'; '.join(pages)}; "
                f"{of_path[0].rounds} rounds",
                *_path_table(path, of_path),
            ]
    return "\n".join(lines)


def _path_table(path: PathPlan, results: Sequence[Result]) -> list[str]:
    rows = [
        ("", "llm_datadist", path.limit, "ref", f"of {path.limit}", "target", "of ref"),
        *(_row(path, result) for result in results),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths)).rstrip() for row in rows
    ]


def _row(path: PathPlan, result: Result) -> tuple[str, ...]:
    columns = ("llm_datadist", path.limit, "ref")
    times = [result.microseconds[name].median for name in columns]
    if result.work == "W3":
        added = result.added_us[path.limit]
        return (
            result.work,
            *(f"{time_us:.2f} us" for time_us in times),
            f"{added.median:+.2f} us [{added.min:+.2f} .. {added.max:+.2f}]",
            f"+{path.latency_target_us:g} us",
            "",
        )
    limit, ref = result.ratio[path.limit], result.ratio["ref"]
    return (
        result.work,
        *(f"{result.bytes / time_us / 1e3:.2f} GB/s" for time_us in times),
        f"{limit.median:.2f} [{limit.min:.2f} .. {limit.max:.2f}]",
        f"{_RATIO_TARGET:.2f}",
        f"{ref.median:.2f}",
    )


if __name__ == "__main__":
    sys.exit(main())
