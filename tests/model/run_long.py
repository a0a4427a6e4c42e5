# SPDX-License-Identifier: Apache-2.0
"""The model-based test for long: at least so many steps in each mode.

    python -m tests.model.run_long [--steps 10000] [--seed N]

Prints how often each call ended how; a disagreement is printed as the shortest program that shows
it.
"""

from __future__ import annotations

import argparse
import os
import time

os.environ.setdefault("LLM_DATADIST_BACKEND", "mock")

from hypothesis import HealthCheck, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from llm_datadist.utils.log import get_logger
from tests.model.machine import Machine, OneSided, Request

STEPS_PER_PROGRAM = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=10000, help="in each mode")
    parser.add_argument("--seed", type=int, default=None, help="for the same run again")
    arguments = parser.parse_args()
    # What is refused is counted below; a line for each would hide it.
    get_logger().disabled = True
    for machine in (OneSided, Request):
        run(machine, arguments.steps, arguments.seed)


def run(machine: type[Machine], steps: int, number: int | None) -> None:
    """Run programs until so many calls were made."""
    Machine.outcomes.clear()
    start = time.monotonic()
    programs = 0
    while sum(Machine.outcomes.values()) < steps:
        programs += 10
        tests = settings(
            max_examples=10,
            stateful_step_count=STEPS_PER_PROGRAM,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        number = time.time_ns() % 2**32 if number is None else number + 1
        run_state_machine_as_test(seed(number)(machine), settings=tests)
    made = sum(Machine.outcomes.values())
    seconds = time.monotonic() - start
    print(f"{machine.__name__}: {made} calls in {programs} programs, {seconds:.0f} s, all agree")
    for (call, status), times in sorted(Machine.outcomes.items()):
        print(f"  {call:20} {status:28} {times:6}")


if __name__ == "__main__":
    main()
