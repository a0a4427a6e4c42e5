# SPDX-License-Identifier: Apache-2.0
"""The header, the compilers, and the tree for the tests of the ABI."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from llm_datadist._native import declarations, loader

ROOT = Path(__file__).resolve().parents[2]
HEADER = ROOT / "csrc" / "include" / "llm_datadist.h"


class Compiler:
    """A C or C++ compiler of this machine."""

    def __init__(self, command, work):
        self.command = command
        self._work = work

    def __call__(self, *arguments, source=None):
        """Compile; a source text is passed as a file. Returns the finished process."""
        command = [*self.command, f"-I{HEADER.parent}", *map(str, arguments)]
        if source is not None:
            path = self._work / "source.c"
            path.write_text(source)
            command.append(str(path))
        return subprocess.run(command, text=True, capture_output=True)


def _find(variable, candidates, tmp_path_factory):
    named = shlex.split(os.environ.get(variable, ""))
    for command in [named] if named else [[name] for name in candidates]:
        if shutil.which(command[0]):
            return Compiler(command, tmp_path_factory.mktemp("compile"))
    pytest.skip(f"no compiler on this machine: {variable} or one of {', '.join(candidates)}")


@pytest.fixture(scope="session")
def cc(tmp_path_factory):
    return _find("CC", ["cc", "gcc", "clang"], tmp_path_factory)


@pytest.fixture(scope="session")
def cxx(tmp_path_factory):
    return _find("CXX", ["c++", "g++", "clang++"], tmp_path_factory)


@pytest.fixture(scope="session")
def header():
    return HEADER.read_text()


@pytest.fixture(scope="session")
def parsed(header):
    return declarations.parse(header)


@pytest.fixture(scope="session")
def mock_library():
    """Return the mock library as the package loads it (LLM_DATADIST_BACKEND may name another)."""
    named = os.environ["LLM_DATADIST_BACKEND"]
    built = Path(loader.__file__).parent / "lib" / "libllm_datadist_mock.so"
    return loader.load(named if os.path.isabs(named) else built)
