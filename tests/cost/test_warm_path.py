# SPDX-License-Identifier: Apache-2.0
"""What a warm pull asks of the kernel and of the allocator: counts, which are the same everywhere.

A figure in GB/s says little on a busy machine. A second system call, an allocation or a lock that
sleeps is what makes it worse, and that is what these tests see.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llm_datadist._native import _ffi, marshal

HERE = Path(__file__).resolve().parent
TIMES = 50
# On x86-64, the only machine on which they are counted.
POLL, SENDMSG, RECVMSG, FUTEX, PROCESS_VM_READV = 7, 46, 47, 202, 310
# Of W2: 4 KiB blocks, of which 256 make a chunk of 1 MiB.
SCATTERED_BLOCKS, SCATTERED_BYTES = 2048, 4096


@dataclass(frozen=True)
class Counts:
    """What one pull asked for, on the thread that asked."""

    syscalls: dict[int, float]
    allocations: float


class Counter:
    """Runs puller.py with the counting library preloaded."""

    def __init__(self, library: Path) -> None:
        self._library = library

    def count(
        self,
        transport: str,
        memory: str,
        blocks: int,
        block_bytes: int,
        threads: int = 1,
        **variables: str,
    ) -> Counts:
        environment = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("LLM_DATADIST_MOCK_", "LD_PRELOAD"))
        }
        environment.update(
            LD_PRELOAD=str(self._library),
            LLM_DATADIST_BACKEND="mock",
            LLM_DATADIST_MOCK_TRANSPORT=transport,
            LLM_DATADIST_MOCK_THREADS=str(threads),
            **variables,
        )
        arguments = [str(self._library), memory, str(blocks), str(block_bytes), str(TIMES)]
        run = subprocess.run(
            [sys.executable, str(HERE / "puller.py"), *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert run.returncode == 0, run.stderr
        report = json.loads(run.stdout)
        if transport == "cma" and "refused" in report:
            pytest.skip(f"process_vm_readv cannot be used here: {report['refused']}")
        if report["answer"] in (-errno.ENOSYS, -errno.EINVAL):
            pytest.skip("this kernel has no syscall user dispatch (Linux 5.11, x86-64)")
        assert report["answer"] == 0
        syscalls = {int(number): count / TIMES for number, count in report["syscalls"].items()}
        return Counts(syscalls, report["allocations"] / TIMES)


@pytest.fixture(scope="module")
def counter(tmp_path_factory: pytest.TempPathFactory) -> Counter:
    if platform.machine() != "x86_64":
        pytest.skip("system calls are counted on x86-64 only")
    if "LD_PRELOAD" in os.environ:
        pytest.skip("another library is preloaded: a sanitizer has an allocator of its own")
    compiler = shlex.split(os.environ.get("CC", "")) or [
        next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), "")
    ]
    if not compiler[0]:
        pytest.skip("no C compiler (CC, cc, gcc, clang)")
    library = tmp_path_factory.mktemp("counter") / "counter.so"
    flags = ["-O1", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror"]
    command = [*compiler, *flags, str(HERE / "counter.c"), "-o", str(library)]
    subprocess.run(command, check=True)
    return Counter(library)


def test_one_block_of_registered_memory_is_one_system_call(counter: Counter) -> None:
    assert counter.count("cma", "registered", 1, 4096) == Counts({PROCESS_VM_READV: 1}, 0)


def test_one_block_of_allocated_memory_is_none(counter: Counter) -> None:
    assert counter.count("mapped", "allocated", 1, 4096) == Counts({}, 0)


def test_a_box_asks_the_kernel_for_nothing(counter: Counter, tmp_path: Path) -> None:
    box = {"LLM_DATADIST_BOX": str(tmp_path)}
    assert counter.count("mapped", "allocated", 1, 4096, **box) == Counts({}, 0)
    assert counter.count("cma", "registered", 1, 4096, **box) == Counts({PROCESS_VM_READV: 1}, 0)
    scattered = counter.count("mapped", "allocated", SCATTERED_BLOCKS, SCATTERED_BYTES, **box)
    assert scattered == Counts({}, 0)
    assert len(list(tmp_path.iterdir())) == 3 * 2


def test_one_block_over_tcp_is_a_request_a_wait_and_an_answer(counter: Counter) -> None:
    counts = counter.count("tcp", "registered", 1, 4096)
    assert counts.allocations == 0
    assert counts.syscalls.pop(SENDMSG) == 1
    # An answer may come in two pieces, and a wait may find it there already.
    assert 1 <= counts.syscalls.pop(RECVMSG) <= 2
    assert 1 <= counts.syscalls.pop(POLL) <= 2
    assert counts.syscalls == {}


def test_scattered_blocks_share_system_calls(counter: Counter) -> None:
    counts = counter.count("cma", "registered", SCATTERED_BLOCKS, SCATTERED_BYTES)
    calls = 2 * SCATTERED_BLOCKS * SCATTERED_BYTES // (1 << 20)
    assert counts == Counts({PROCESS_VM_READV: calls}, 0)


def test_scattered_blocks_of_allocated_memory_need_none(counter: Counter) -> None:
    assert counter.count("mapped", "allocated", SCATTERED_BLOCKS, SCATTERED_BYTES) == Counts({}, 0)


def test_a_helper_is_woken_once(counter: Counter) -> None:
    counts = counter.count("mapped", "allocated", SCATTERED_BLOCKS, SCATTERED_BYTES, threads=2)
    # To wake it, to wait for it at the end, and for a lock that it holds in between.
    assert counts.syscalls.pop(FUTEX, 0) <= 6
    assert counts == Counts({}, 0)


def _python_calls(blocks: Any) -> int:
    """Count the calls that converting makes, of Python's and of C's functions."""
    borrow = marshal.borrower(_ffi.ffi)
    calls = 0

    def note(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        marshal.block_ids(borrow, "blocks", blocks)
    finally:
        sys.setprofile(None)
    return calls


@pytest.mark.parametrize("dtype", [np.uint64, np.int64])
def test_python_does_nothing_for_each_id(dtype: Any) -> None:
    assert _python_calls(np.arange(10_000, dtype=dtype)) == _python_calls(np.arange(1, dtype=dtype))
    assert _python_calls(list(range(10_000))) == _python_calls([0])
