# SPDX-License-Identifier: Apache-2.0
"""The mock runtime without the engine: a C++ driver that runs one case a process."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
HERE = Path(__file__).resolve().parent
SOURCE_FOLDERS = (HERE, ROOT / "mock_runtime", ROOT / "csrc" / "base", ROOT / "csrc" / "runtime")
SOURCES = sorted(source for folder in SOURCE_FOLDERS for source in folder.glob("*.cc"))
FLAGS = ["-std=c++17", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-pthread"]
INCLUDES = [f"-I{folder}" for folder in (ROOT / "csrc", ROOT / "csrc/include", ROOT, HERE)]
# The first word of a case's name says under which transports it runs. Registered memory cannot be
# mapped, so its cases need one of the others.
TRANSPORTS = {
    "transfer": ("mapped", "cma", "tcp"),
    "registered": ("cma", "tcp"),
    "cma": ("cma",),
    "tcp": ("tcp",),
    "any": (None,),
    "local": (None,),
}
# Those in which threads meet.
THREADED = (
    "transfer.both_ends_ask",
    "transfer.two_links_at_once",
    "transfer.unlinked",
    "transfer.killed",
    "registered.withdrawn_meanwhile",
)
EXIT_SKIPPED = 77
LONGEST_SECONDS = 60


def _names() -> list[str]:
    """Names of the cases, as the sources list them."""
    return [
        name
        for source in sorted(HERE.glob("*_cases.cc"))
        for name in re.findall(r'^    \{"([a-z]+\.[a-z_]+)", ', source.read_text(), re.MULTILINE)
    ]


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the driver; LLDD_TEST_CXXFLAGS adds flags, such as those of a sanitizer.

    With LLDD_TEST_BUILT, a folder, it is built there, once (tests/mutation).
    """
    kept = os.environ.get("LLDD_TEST_BUILT")
    folder = Path(kept) if kept else tmp_path_factory.mktemp("runtime")
    program = folder / "driver"
    if program.exists():
        return program
    compiler = shlex.split(os.environ.get("CXX", "g++"))
    flags = [*FLAGS, *shlex.split(os.environ.get("LLDD_TEST_CXXFLAGS", ""))]
    # A sanitizer that watches Python (tests/sanitizers) shall not watch the compiler.
    environment = {key: value for key, value in os.environ.items() if key != "LD_PRELOAD"}

    def compile_one(source: Path) -> Path:
        made = folder / f"{source.parent.name}-{source.stem}.o"
        command = [*compiler, *flags, *INCLUDES, "-c", str(source), "-o", str(made)]
        subprocess.run(command, env=environment, check=True)
        return made

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        objects = [str(made) for made in pool.map(compile_one, SOURCES)]
    link = [*compiler, *flags, *objects, "-o", str(program)]
    subprocess.run(link, env=environment, check=True)
    return program


def test_every_case_is_run(driver: Path) -> None:
    listed = subprocess.run([driver, "list"], check=True, capture_output=True, text=True)
    assert sorted(listed.stdout.split()) == sorted(_names())


def _run(driver: Path, name: str, tmp_path: Path, **settings: str) -> None:
    """Run a case with nothing set but these variables of the runtime."""
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith("LLM_DATADIST_MOCK_")
    }
    environment.update(settings, TMPDIR=str(tmp_path))
    run = subprocess.run(
        [driver, name],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LONGEST_SECONDS,
        check=False,
    )
    if run.returncode == EXIT_SKIPPED:
        pytest.skip("this user cannot play both users of the case")
    assert run.returncode == 0, run.stdout


@pytest.mark.sanitize
@pytest.mark.parametrize(
    ("name", "transport"),
    [
        pytest.param(
            name,
            transport,
            id=f"{name}-{transport}" if transport else name,
            marks=[pytest.mark.threads] if name in THREADED else [],
        )
        for name in _names()
        for transport in TRANSPORTS[name.split(".")[0]]
    ],
)
def test_runtime(driver: Path, name: str, transport: str | None, tmp_path: Path) -> None:
    settings = {} if transport is None else {"LLM_DATADIST_MOCK_TRANSPORT": transport}
    _run(driver, name, tmp_path, **settings)


@pytest.mark.parametrize("name", ["transfer.every_size_as_initiator", "transfer.scattered"])
def test_each_copy_kernel_carries_transfers(driver: Path, name: str, tmp_path: Path) -> None:
    usable = subprocess.run([driver, "kernels"], check=True, capture_output=True, text=True)
    kernels = usable.stdout.split()
    assert "memcpy" in kernels
    for kernel in kernels:
        _run(
            driver,
            name,
            tmp_path,
            LLM_DATADIST_MOCK_TRANSPORT="mapped",
            LLM_DATADIST_MOCK_COPY_KERNEL=kernel,
        )
