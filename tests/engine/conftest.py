# SPDX-License-Identifier: Apache-2.0
"""The engine's pure parts, compiled on their own and called through a flat C view of them."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.engine.engine_shim import Shim

HERE = Path(__file__).parent
CSRC = HERE.parent.parent / "csrc"
SOURCES = [
    HERE / "shim.cc",
    CSRC / "base" / "fork.cc",
    CSRC / "base" / "checksum.cc",
    CSRC / "base" / "hmac.cc",
    CSRC / "base" / "interpreter.cc",
    CSRC / "base" / "socket.cc",
    CSRC / "base" / "status.cc",
    CSRC / "engine" / "cache_key.cc",
    CSRC / "engine" / "cache_store.cc",
    CSRC / "engine" / "keys.cc",
    CSRC / "engine" / "lenient_json.cc",
    CSRC / "engine" / "page_pool.cc",
    CSRC / "engine" / "plan_checks.cc",
    CSRC / "engine" / "plan_copy.cc",
    CSRC / "engine" / "plan_pairs.cc",
    CSRC / "engine" / "plan_pull.cc",
    CSRC / "engine" / "plan_push.cc",
    CSRC / "engine" / "rank_table.cc",
    CSRC / "engine" / "tensor.cc",
    CSRC / "engine" / "wire.cc",
]
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Werror"]


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Shim:
    """Build the shim; LLDD_TEST_CXXFLAGS adds flags, such as those of a sanitizer.

    With LLDD_TEST_BUILT, a folder, it is built there, once (tests/mutation).
    """
    kept = os.environ.get("LLDD_TEST_BUILT")
    folder = Path(kept) if kept else tmp_path_factory.mktemp("engine_shim")
    library = folder / "libengine_shim.so"
    if library.exists():
        return Shim(library)
    compiler = shlex.split(os.environ.get("CXX") or shutil.which("g++") or "c++")
    added = shlex.split(os.environ.get("LLDD_TEST_CXXFLAGS", ""))
    # A sanitizer that watches Python (tests/sanitizers) shall not watch the compiler.
    environment = {key: value for key, value in os.environ.items() if key != "LD_PRELOAD"}
    objects = []
    jobs = []
    for source in SOURCES:
        objects.append(folder / (source.stem + ".o"))
        command = [*compiler, "-std=c++17", "-O2", "-g1", "-fPIC", *WARNINGS, "-pthread"]
        command += [f"-I{CSRC}", f"-I{CSRC / 'include'}", *added]
        command += ["-c", str(source), "-o", str(objects[-1])]
        jobs.append(subprocess.Popen(command, env=environment))
    assert [job.wait() for job in jobs] == [0] * len(jobs)
    link = [*compiler, "-shared", "-pthread", *added, *map(str, objects), "-o", str(library)]
    subprocess.run(link, env=environment, check=True)
    return Shim(library)
