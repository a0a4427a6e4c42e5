# SPDX-License-Identifier: Apache-2.0
"""Fuzzes what reads bytes from outside, with clang's libFuzzer under ASan and UBSan.

    python -m tests.fuzz                          every target, 500000 executions each
    python -m tests.fuzz greeting --runs 10000    one of them
    python -m tests.fuzz greeting --input FILE    one input, without libFuzzer; - is standard input
    python -m tests.fuzz --seeds                  write the seeds of the corpus anew
    python -m tests.fuzz --planted table          find the planted faults of table

A line per target says how many executions there were, how many edges of the program they covered,
how long it took and how many findings there were. Inputs with findings lie in build/fuzz/findings.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from tests.fuzz import build, options, plants

CORPUS = build.ROOT / build.FOLDER / "corpus"
FINDINGS = build.LIBFUZZER / "findings"
PLANTED_FINDINGS = build.LIBFUZZER / "planted" / "findings"
# Of one input. The longest message that an end takes would make each execution slow.
MOST_BYTES = 4096
# An execution that takes longer has hung; libFuzzer looks every second half of it.
HUNG_SECONDS = 40
PLANTED_RUNS = 2_000_000


class Result(NamedTuple):
    """What came of fuzzing one target."""

    executions: int
    edges: int
    seconds: float
    finding: str

    def line(self, target: str) -> str:
        """Return the line that says it."""
        found = self.finding or "none"
        return f"{target:16} {self.executions:>10} {self.edges:>7} {self.seconds:>8.1f}  {found}"


HEAD = f"{'target':16} {'executions':>10} {'edges':>7} {'seconds':>8}  findings"


def fuzz(program: Path, target: str, runs: int, seed: int, findings: Path = FINDINGS) -> Result:
    """Fuzz one target from the corpus on; what is found on the way is not kept."""
    findings.mkdir(parents=True, exist_ok=True)
    environment = dict(
        os.environ,
        LLDD_FUZZ_TARGET=target,
        ASAN_OPTIONS="detect_leaks=1:detect_stack_use_after_return=1:allocator_may_return_null=1",
        UBSAN_OPTIONS="print_stacktrace=1:halt_on_error=1",
    )
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as found:
        command = [
            *(program, found, CORPUS / target),
            *(f"-runs={runs}", f"-seed={seed}", f"-max_len={MOST_BYTES}"),
            *(f"-timeout={HUNG_SECONDS}", f"-artifact_prefix={findings}/{target}-"),
            # The names of new functions take a symbolizer each time.
            *("-print_final_stats=1", "-print_funcs=0"),
            # Only at the end: targets with threads would be stopped after each execution.
            "-detect_leaks=0",
        ]
        run = subprocess.run(
            list(map(str, command)),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
    seconds = time.monotonic() - began
    printed = run.stdout
    executed = re.findall(r"stat::number_of_executed_units: *(\d+)", printed)
    counted = [int(each) for each in re.findall(r"^#(\d+)\t", printed, re.MULTILINE)]
    edges = [int(each) for each in re.findall(r"\bcov: (\d+)", printed)]
    finding = ""
    if run.returncode:
        (findings / f"{target}.log").write_text(printed)
        finding = _what_was_found(printed) or f"exit code {run.returncode}"
    return Result(
        int(executed[-1]) if executed else max(counted, default=0),
        max(edges, default=0),
        seconds,
        finding,
    )


def _what_was_found(printed: str) -> str:
    """Return the line of a log that says what the finding is."""
    for pattern in (
        r"FINDING: .*",
        r"runtime error: .*",
        r"ERROR: (?:Address|Leak)Sanitizer: .*",
        r"ERROR: libFuzzer: .*",
        r"terminate called.*",
    ):
        found = re.search(pattern, printed)
        if found:
            return found.group(0)
    return ""


def write_seeds() -> None:
    """Write the seeds of all targets; regressions stay."""
    with tempfile.TemporaryDirectory() as folder:
        program = build.build_to_replay(Path(folder), sanitized=False)
        made = Path(folder) / "seeds"
        subprocess.run([program, "seeds", made], check=True)
        for target in sorted(made.iterdir()):
            kept = CORPUS / target.name
            kept.mkdir(parents=True, exist_ok=True)
            for old in kept.glob("seed-*"):
                old.unlink()
            for seed in target.iterdir():
                shutil.copyfile(seed, kept / seed.name)
    options.CORPUS.mkdir(parents=True, exist_ok=True)
    for number, text in enumerate(options.seeds()):
        (options.CORPUS / f"seed-{number}").write_bytes(text)


def run_input(target: str, path: str) -> int:
    """Run one input on a plain program, which prints and ends as a finding makes it."""
    if target == options.NAME:
        data = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
        options.run(data)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        program = build.build_to_replay(Path(folder), sanitized=False)
        paths = [] if path == "-" else [path]
        return subprocess.run([program, target, *paths]).returncode


def names() -> list[str]:
    """Return the names of all targets, as their sources say."""
    found = [
        re.findall(r'kRegistered\(\{"([a-z_]+)"', source.read_text()) for source in build.targets()
    ]
    return sorted([name for each in found for name in each] + [options.NAME])


def find_planted(targets: list[str], seed: int) -> int:
    """Fuzz each target with its fault planted; return how many are missed."""
    missed = 0
    print(f"{'target':16} {'executions':>10} {'seconds':>8}  fault, and what showed it")
    for plant in plants.PLANTS:
        if plant.target not in targets:
            continue
        if plant.target == options.NAME:
            with plants.planted_package(plant) as tree:
                result = Result(*options.fuzz_in(tree, PLANTED_RUNS, seed))
        else:
            program = build.build_with(plant.file, plants.faulty_text(plant))
            result = fuzz(program, plant.target, PLANTED_RUNS, seed, PLANTED_FINDINGS)
        missed += not result.finding
        shown = result.finding or "NOT FOUND"
        print(f"{plant.target:16} {result.executions:>10} {result.seconds:>8.1f}  {plant.what}:")
        print(f"{'':38}{shown}", flush=True)
    return missed


def main() -> int:
    """Fuzz; 1 if anything was found."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="default: all")
    parser.add_argument("--runs", type=int, default=500_000, help="executions of each target")
    parser.add_argument("--seed", type=int, default=1, help="of libFuzzer (default: 1)")
    parser.add_argument("--input", metavar="FILE", help="run one input; - is standard input")
    parser.add_argument("--seeds", action="store_true", help="write the seeds of the corpus anew")
    parser.add_argument("--planted", action="store_true", help="find the faults of plants.py")
    args = parser.parse_args()
    unknown = sorted({*args.targets} - {*names()})
    if unknown:
        parser.error(f"no target {', '.join(unknown)}; there are {', '.join(names())}")
    if args.seeds:
        write_seeds()
        return 0
    if args.input is not None:
        if len(args.targets) != 1:
            parser.error("--input needs one target")
        return run_input(args.targets[0], args.input)
    targets = args.targets or names()
    try:
        if args.planted:
            return 1 if find_planted(targets, args.seed) else 0
        return _fuzz_all(targets, args.runs, args.seed)
    except build.Unavailable as error:
        print(error, file=sys.stderr)
        return 2


def _fuzz_all(targets: list[str], runs: int, seed: int) -> int:
    program = build.build_for_libfuzzer() if targets != [options.NAME] else None
    print(HEAD, flush=True)
    found = False
    for target in targets:
        if target == options.NAME:
            result = Result(*options.fuzz(runs, seed))
        else:
            assert program is not None
            result = fuzz(program, target, runs, seed)
        print(result.line(target), flush=True)
        found |= bool(result.finding)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
