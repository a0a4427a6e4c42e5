# SPDX-License-Identifier: Apache-2.0
"""Runs the command as a user does."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest
from demo_command import RUN_SECONDS, command

_OWNER = """
import ctypes, sys
word = ctypes.create_string_buffer(b"readable")
# PR_SET_PTRACER, PR_SET_PTRACER_ANY: what the runtime does, too.
ctypes.CDLL(None).prctl(0x59616D61, ctypes.c_ulong(-1), 0, 0, 0)
print(ctypes.addressof(word), flush=True)
sys.stdin.read()
"""


class _Iovec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


@pytest.fixture
def demo():
    """Run the demo to its end; returns the finished process."""

    def run(*arguments, **environment):
        return subprocess.run(
            command(*arguments),
            env={**os.environ, **environment},
            text=True,
            capture_output=True,
            timeout=RUN_SECONDS,
        )

    return run


@pytest.fixture(scope="session")
def needs_process_vm():
    """Skip where the kernel does not let one process read another."""
    owner = subprocess.Popen(
        [sys.executable, "-c", _OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with owner:
        address = int(owner.stdout.readline())
        here = ctypes.create_string_buffer(8)
        local = _Iovec(ctypes.addressof(here), 8)
        remote = _Iovec(address, 8)
        libc = ctypes.CDLL(None, use_errno=True)
        got = libc.process_vm_readv(
            owner.pid, ctypes.byref(local), 1, ctypes.byref(remote), 1, ctypes.c_ulong(0)
        )
        error = ctypes.get_errno()
    if got != 8:
        pytest.skip(f"capability process_vm: {os.strerror(error)}")
