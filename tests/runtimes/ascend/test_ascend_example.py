# SPDX-License-Identifier: Apache-2.0
"""What a user runs on a device host, where no address of device memory may be touched:
examples/two_devices.py, as docs/ascend.md has it, and the commands.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
EXAMPLE = ROOT / "examples" / "two_devices.py"
PATIENCE = 60
OPAQUE = {"FAKE_CANN_DEVICE_MEMORY": "opaque"}


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@pytest.mark.parametrize("product", ["A2 and A3", "950"])
def test_both_sides(on_fake: dict[str, str], tmp_path: Path, product: str) -> None:
    listen = free_address()
    more = []
    if product == "950":
        (tmp_path / "comm.json").write_text('{"version": "1.3"}')
        more = ["--local-comm-res", str(tmp_path / "comm.json")]

    def start(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, str(EXAMPLE), *arguments, *more],
            env={**os.environ, **on_fake, **OPAQUE},
            cwd=tmp_path,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        exits.enter_context(process)
        exits.callback(process.kill)
        return process

    with ExitStack() as exits:
        prompt = start("prompt", "--listen", listen)
        assert prompt.stdout.readline() == f"the prompt listens at {listen}; Enter ends it\n"
        there = ("--listen", free_address(), "--device", "1")
        decoder = start("decoder", *there, "--peer", listen)
        printed, errors = decoder.communicate(timeout=PATIENCE)
        assert (decoder.returncode, printed) == (0, "4194304 bytes pulled, every one right\n"), (
            errors
        )
        _, errors = prompt.communicate("\n", timeout=PATIENCE)
        assert prompt.returncode == 0, errors


def test_the_decoder_needs_a_peer(on_fake: dict[str, str]) -> None:
    result = subprocess.run(
        [sys.executable, str(EXAMPLE), "decoder", "--listen", "127.0.0.1:26000"],
        env={**os.environ, **on_fake},
        text=True,
        capture_output=True,
    )
    assert result.returncode == 2
    assert "the decoder needs --peer" in result.stderr


@pytest.mark.parametrize("command", [["demo", "--blocks", "32", "--layers", "2"], ["bench"]])
def test_demo_and_bench_say_that_they_need_addresses(
    on_fake: dict[str, str], command: list[str]
) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "llm_datadist", *command],
        env={**os.environ, **on_fake, **OPAQUE},
        text=True,
        capture_output=True,
        timeout=PATIENCE,
    )
    assert result.returncode == 1
    assert "fill and check memory at its addresses, which a device's has not" in result.stderr
