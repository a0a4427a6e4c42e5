# SPDX-License-Identifier: Apache-2.0
"""setup.py as a module, what it takes to build with it, and the command as a user runs it."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llm_datadist._native import cann
from tests.package.demo_command import RUN_SECONDS, command
from tests.support.fake_cann import toolkit

ROOT = Path(__file__).resolve().parents[2]

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


def load_module(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def setup_module():
    """Return setup.py, loaded but not run."""
    if importlib.util.find_spec("setuptools") is None:
        pytest.skip("capability build: setuptools is not installed")
    return load_module("lldd_setup", ROOT / "setup.py")


@pytest.fixture(scope="session")
def fake_cann(needs_compiler):
    """Return the folder of the fake CANN, which has all that the Ascend library calls."""
    return toolkit.toolkit()


@pytest.fixture(scope="session")
def needs_compiler():
    if not any(shutil.which(name) for name in ("c++", "g++", "clang++")):
        pytest.skip("no C++ compiler on this machine")


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Take away what this machine has of CANN; returns the usual place of a toolkit."""
    usual = tmp_path / "usual"
    monkeypatch.setattr(cann, "USUAL_ROOTS", (str(usual), str(tmp_path / "older")))
    monkeypatch.setattr(cann, "DRIVER_FOLDERS", (str(tmp_path / "driver"),))
    for name in cann.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return usual


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
