# SPDX-License-Identifier: Apache-2.0
"""The one target in Python: options that hold JSON or an address, which the engine takes from an
options dict of the client's.

What JSON is for the device alone (llm.GlobalResourceConfig, llm.LocalCommRes) is passed on as text;
pools and addresses are read here. The first byte of an input says which option the rest is.
"""

from __future__ import annotations

import json
import logging
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

from llm_datadist import LLMConfig, LLMException, LLMRole, LLMStatusCode
from llm_datadist.options import read_options

NAME = "options"
CORPUS = Path(__file__).parent / "corpus" / NAME
FILES = ("config.py", "_members.py", "_addresses.py", "options.py")
# Longer ones only take longer, but for the nesting, which repeated pieces reach.
MOST_BYTES = 8192
_REQUIRED = {LLMConfig.enable_cache_manager.key: "1"}
_OPTIONS = (
    LLMConfig.mem_pool_cfg.key,
    LLMConfig.host_mem_pool_cfg.key,
    LLMConfig.listen_ip_info.key,
    LLMConfig.local_comm_res.key,
    LLMConfig.global_resource_config.key,
)
_WORDS = (
    b'{"memory_size": ',
    b', "page_shift": ',
    b'"listen_ip_info": [',
    b'{"ip": "127.0.0.1", "port": 26000}',
    b"[" * 512,
    *(
        b"null",
        b"true",
        b"NaN",
        b"1e400",
        b"-1",
        b"4294967295",
        b"18446744073709551616",
        b"9" * 300,
    ),
    *(b"[", b"]", b"{", b"}", b'"', b":", b",", b"%", b"\\u0000", b"\0", b"\xff"),
)


def run(data: bytes) -> None:
    """Read one option; ends with an error that no document knows if that is a finding."""
    which, text = data[:1], data[1:].decode("utf-8", "surrogateescape")
    number = which[0] % (len(_OPTIONS) + 1) if which else 0
    if number == len(_OPTIONS):
        _read_cluster_info(text)
        return
    try:
        options = read_options(1, LLMRole.MIX, {**_REQUIRED, _OPTIONS[number]: text})
    except LLMException as refused:
        _demand(refused.status_code == LLMStatusCode.LLM_PARAM_INVALID, refused)
        return
    except ValueError:
        # The port: contract 1.4.1, step 8.
        _demand(_OPTIONS[number] == LLMConfig.listen_ip_info.key, "a ValueError")
        return
    for pool in (options.device_pool, options.host_pool):
        _demand(0 <= pool.size < 2**62 and 10 <= pool.page_shift <= 30, pool)
    _demand(0 <= options.listen_port <= 65535, options.listen_port)


def _read_cluster_info(text: str) -> None:
    config = LLMConfig()
    try:
        config.cluster_info = text
    except (json.JSONDecodeError, RuntimeError):
        return
    except LLMException as refused:
        _demand(refused.status_code == LLMStatusCode.LLM_PARAM_INVALID, refused)
        return
    if config.cluster_info:
        json.loads(config.cluster_info)


def _demand(condition: bool, what: object) -> None:
    if not condition:
        raise AssertionError(f"FINDING: {what}")


def seeds() -> list[bytes]:
    """Return inputs to begin with, for the corpus."""
    info = json.dumps([{"listen_ip_info": [{"ip": "127.0.0.1", "port": 26000}, {"ip": "::1"}]}])
    pool = json.dumps({"memory_size": 1 << 20, "page_shift": 12})
    large = json.dumps({"memory_size": 1 << 33, "page_shift": 30})
    texts = [pool, large, "127.0.0.1:26000", "{}", '{"a": [1]}', info]
    numbered = [bytes([number]) + text.encode() for number, text in enumerate(texts)]
    return [*numbered, b"\2[::1]:0"]


def mutate(data: bytes, others: list[bytes], draw: random.Random) -> bytes:
    """Change an input in one to four places."""
    changed = bytearray(data)
    for _ in range(draw.randint(1, 4)):
        place = draw.randint(0, len(changed))
        how = draw.randrange(5)
        if how == 0:
            changed[place:place] = draw.choice(_WORDS)
        elif how == 1:
            del changed[place : place + draw.randint(1, 8)]
        elif how == 2 and place < len(changed):
            changed[place] = draw.randrange(256)
        elif how == 3:
            other = draw.choice(others)
            changed[place:] = other[draw.randint(0, len(other)) :]
        else:
            changed[place:place] = changed[place : place + draw.randint(1, 64)] * draw.randint(
                1, 64
            )
    return bytes(changed[:MOST_BYTES])


def fuzz(runs: int, seed: int) -> tuple[int, int, float, str]:
    """Return executions, edges between lines of FILES, seconds, and the finding if there is one."""
    # Each refusal is logged.
    logging.disable(logging.CRITICAL)
    try:
        return _fuzz(runs, random.Random(seed))
    finally:
        logging.disable(logging.NOTSET)


def _fuzz(runs: int, draw: random.Random) -> tuple[int, int, float, str]:
    kept = [path.read_bytes() for path in sorted(CORPUS.iterdir())] or seeds()
    edges: set[tuple[str, int, int]] = set()
    began = time.monotonic()
    for number in range(1, runs + 1):
        first = number <= len(kept)
        data = kept[number - 1] if first else mutate(draw.choice(kept), kept, draw)
        before = len(edges)
        tracer = _Tracer(edges)
        sys.settrace(tracer.call)
        try:
            run(data)
        except Exception as error:
            sys.settrace(None)
            what = f"{type(error).__name__}: {error}"[:200]
            return number, len(edges), time.monotonic() - began, f"{what} of {data[:80]!r}"
        finally:
            sys.settrace(None)
        if len(edges) > before and not first:
            kept.append(data)
    return runs, len(edges), time.monotonic() - began, ""


class _Tracer:
    """Notes which line of FILES follows which."""

    def __init__(self, edges: set[tuple[str, int, int]]) -> None:
        self._edges = edges
        self._wanted: dict[str, bool] = {}

    def call(self, frame: FrameType, event: str, argument: Any) -> Any:
        path = frame.f_code.co_filename
        wanted = self._wanted.get(path)
        if wanted is None:
            folder, name = os.path.split(path)
            wanted = folder.endswith("llm_datadist") and name in FILES
            self._wanted[path] = wanted
        if not wanted:
            return None
        before = -frame.f_lineno

        def line(inner: FrameType, event: str, argument: Any) -> Any:
            nonlocal before
            if event == "line":
                self._edges.add((path, before, inner.f_lineno))
                before = inner.f_lineno
            return line

        return line


def fuzz_in(tree: Path, runs: int, seed: int) -> tuple[int, int, float, str]:
    """The same in another tree, which has its own package."""
    program = f"from tests.fuzz import options; print(*options.fuzz({runs}, {seed}), sep='\\t')"
    environment = dict(os.environ, PYTHONPATH=str(tree), LLM_DATADIST_BACKEND="mock")
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tree, env=environment, text=True, capture_output=True
    )
    if done.returncode:
        return 0, 0, 0.0, done.stderr.strip().splitlines()[-1]
    executions, edges, seconds, finding = done.stdout.rstrip("\n").split("\t")
    return int(executions), int(edges), float(seconds), finding
