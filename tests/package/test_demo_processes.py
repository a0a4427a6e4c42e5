# SPDX-License-Identifier: Apache-2.0
"""Whatever ends early: a message, an exit status, and no process that stays."""

from __future__ import annotations

import os
import re
import signal
import subprocess

import pytest

from llm_datadist.testing import eventually
from tests.package.demo_command import RUN_SECONDS, SMALL, command


class Running:
    """A demo that goes on until it is disturbed."""

    def __init__(self, *arguments):
        self.process = subprocess.Popen(
            command(*SMALL, "--rounds=1000000", *arguments),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        line = self.process.stderr.readline()
        found = re.fullmatch(r"prompt process (\d+), decoder process (\d+)\n", line)
        assert found, line
        self.prompt, self.decoder = map(int, found.groups())

    def end(self):
        """Wait for the end; returns exit status and the rest of stderr."""
        _, stderr = self.process.communicate(timeout=RUN_SECONDS)
        return self.process.returncode, stderr


def _has_ended(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            state = stat.read().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    # An orphan that nobody collects is a matter of the machine's init.
    return state == "Z"


@pytest.fixture
def running():
    started = []

    def start(*arguments):
        started.append(Running(*arguments))
        return started[-1]

    yield start
    for demo in started:
        if demo.process.poll() is None:
            demo.process.kill()
            demo.process.communicate()


@pytest.mark.parametrize("victim", ["prompt", "decoder"])
def test_a_killed_process(running, victim):
    demo = running()
    os.kill(getattr(demo, victim), signal.SIGKILL)
    status, stderr = demo.end()
    assert status == 1
    assert f"the {victim} process was killed by SIGKILL" in stderr
    assert _has_ended(demo.prompt)
    assert _has_ended(demo.decoder)


def test_a_process_that_does_not_answer(running):
    demo = running("--timeout=0.5")
    os.kill(demo.decoder, signal.SIGSTOP)
    status, stderr = demo.end()
    assert status == 1
    assert re.search(r"no answer within [\d.]+ seconds from: .*decoder", stderr)
    assert _has_ended(demo.prompt)
    assert _has_ended(demo.decoder)


def test_an_interrupted_demo(running):
    demo = running()
    demo.process.send_signal(signal.SIGINT)
    status, stderr = demo.end()
    assert status == 128 + signal.SIGINT
    assert "interrupted" in stderr
    assert "Traceback" not in stderr
    assert _has_ended(demo.prompt)
    assert _has_ended(demo.decoder)


def test_processes_of_a_killed_demo_end_by_themselves(running):
    demo = running()
    demo.process.kill()
    status, _ = demo.end()
    assert status == -signal.SIGKILL
    eventually(lambda: _has_ended(demo.prompt), "the end of the prompt process")
    eventually(lambda: _has_ended(demo.decoder), "the end of the decoder process")
