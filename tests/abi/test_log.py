# SPDX-License-Identifier: Apache-2.0
"""The lines that the library itself writes to its log."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from datetime import datetime

import pytest

# A stranger greets, which the library warns of.
GREETED = """
import socket
from llm_datadist import LLMConfig, LLMDataDist, LLMRole
config = LLMConfig()
config.enable_cache_manager = True
config.listen_ip_info = "127.0.0.1:0"
datadist = LLMDataDist(LLMRole.MIX, 1)
datadist.init(config.generate_options())
with socket.create_connection(datadist.listen_address) as stranger:
    stranger.sendall(bytes(36))
    while stranger.recv(100):
        pass
datadist.unlink(datadist.link('a "b\\\\', {1: 0, 2: 1}, "{}"))
datadist.finalize()
"""
LINE = re.compile(
    r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),\d{3} LLM_DATADIST WARNING \[(\d+):(\d+)\] "
    r"connection from 127\.0\.0\.1:\d+ refused: the other end does not speak this protocol$",
    re.MULTILINE,
)


def printed(level: str, form: str = "text") -> str:
    environment = {
        **os.environ,
        "LLM_DATADIST_LOG": form,
        "ASCEND_GLOBAL_LOG_LEVEL": level,
        "LLM_DATADIST_BACKEND": "mock",
        "TZ": "UTC-5",
    }
    return subprocess.run(
        [sys.executable, "-c", GREETED], env=environment, check=True, capture_output=True, text=True
    ).stdout


@pytest.mark.parametrize("level", ["0", "2"])
def test_a_line_has_the_time_here_the_level_the_process_and_the_thread(level: str) -> None:
    before = datetime.now().timestamp()
    (line,) = LINE.finditer(printed(level))
    written = datetime.strptime(line.group(1) + " +0500", "%Y-%m-%d %H:%M:%S %z").timestamp()
    assert int(before) <= written <= datetime.now().timestamp()
    # On the I/O thread.
    assert line.group(2) != line.group(3)


@pytest.mark.parametrize("level", ["3", "4", "-1", "22", ""])
def test_what_is_below_the_level_is_not_written(level: str) -> None:
    """What is no level means the default, 3: errors."""
    assert LINE.search(printed(level)) is None


def test_as_json_the_lines_of_the_library_and_of_python_are_alike() -> None:
    before = datetime.now().timestamp()
    lines = [json.loads(line) for line in printed("1", "json").splitlines()]
    members = {"time", "level", "logger", "process", "thread", "message"}
    assert {frozenset(line) for line in lines} == {frozenset(members)}
    assert len({line["process"] for line in lines}) == 1
    for line in lines:
        assert before - 1 <= line["time"] <= datetime.now().timestamp() + 1
    by_level = {line["level"]: line["message"] for line in lines}
    assert by_level["WARNING"].startswith("connection from 127.0.0.1:")
    # The name of a communicator, with what JSON has to escape.
    assert any('"a "b\\"' in line["message"] for line in lines if "prepared" in line["message"])
    # Python's own; with quotes in it, which JSON has to escape.
    assert any(line["message"].startswith("init cluster 1 with {'llm.") for line in lines)
    assert any("engine of cluster 1 closed" in line["message"] for line in lines)
