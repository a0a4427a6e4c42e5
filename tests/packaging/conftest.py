# SPDX-License-Identifier: Apache-2.0
"""setup.py as a module, and what it takes to build with it."""

from __future__ import annotations

import importlib.util
import shutil
import warnings
from pathlib import Path

import pytest

from llm_datadist._native import cann

ROOT = Path(__file__).resolve().parents[2]


def load_module(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def setup_module():
    """Return setup.py, loaded but not run."""
    for name in ("setuptools", "wheel"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    with warnings.catch_warnings():
        # Old releases of setuptools and wheel announce each other's end.
        warnings.simplefilter("ignore")
        return load_module("lldd_setup", ROOT / "setup.py")


@pytest.fixture(scope="session")
def fake_cann(needs_compiler):
    """Return the folder of the fake CANN, which has all that the Ascend library calls."""
    return load_module("lldd_fake_cann", ROOT / "tests" / "fake_cann" / "toolkit.py").toolkit()


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
