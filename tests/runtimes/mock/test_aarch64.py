# SPDX-License-Identifier: Apache-2.0
"""The library for aarch64, which Ascend hosts mostly are: compiled, linked, its copies run.

Needs a cross compiler and, to run what it made, an emulator, unless this is such a machine; on
Debian and Ubuntu: apt install g++-aarch64-linux-gnu qemu-user-static.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
HERE = Path(__file__).resolve().parent
LIBRARY_SOURCES = ("csrc/base", "csrc/runtime", "csrc/engine", "mock_runtime")
# Those of setup.py, but for -O1: it is for their warnings.
FLAGS = ["-std=c++17", "-O1", "-fPIC", "-fvisibility=hidden", "-pthread"]
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Werror"]
DRIVER_WARNINGS = ["-Wall", "-Wextra", "-Werror"]
MACHINE_AARCH64 = 183  # of an ELF header

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Made:
    """What was compiled."""

    library: Path
    driver: Path


def _compiler() -> str:
    native = platform.machine() == "aarch64"
    name = "g++" if native else "aarch64-linux-gnu-g++"
    if shutil.which(name) is None:
        pytest.skip(f"no compiler for aarch64 ({name})")
    return name


def _emulator() -> list[str]:
    if platform.machine() == "aarch64":
        return []
    for name in ("qemu-aarch64-static", "qemu-aarch64"):
        if shutil.which(name) is not None:
            return [name]
    pytest.skip("no emulator of aarch64 (qemu-aarch64-static, qemu-aarch64)")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    compiler = _compiler()
    folder = tmp_path_factory.mktemp("aarch64")
    layout = folder / "lldd_layout.inc"
    _generate_layout(layout)
    includes = [f"-I{path}" for path in (ROOT / "csrc", ROOT / "csrc/include", ROOT, HERE, folder)]
    environment = {key: value for key, value in os.environ.items() if key != "LD_PRELOAD"}

    def run(command: list[str]) -> None:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def compile_one(source: Path) -> Path:
        target = folder / f"{source.parent.name}-{source.stem}.o"
        warnings = DRIVER_WARNINGS if source.parent == HERE else WARNINGS
        run([compiler, *FLAGS, *warnings, *includes, "-c", str(source), "-o", str(target)])
        return target

    sources = [path for name in LIBRARY_SOURCES for path in sorted((ROOT / name).glob("*.cc"))]
    tests = sorted(HERE.glob("*.cc"))
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        objects = dict(zip([*sources, *tests], pool.map(compile_one, [*sources, *tests])))
    library, driver = folder / "libllm_datadist_mock.so", folder / "driver"
    linked = [str(objects[source]) for source in sources]
    script = f"-Wl,--version-script,{ROOT / 'csrc' / 'exports.map'}"
    run(
        [compiler, "-shared", "-pthread", "-Wl,--no-undefined", script, *linked, "-o", str(library)]
    )
    # Without the engine, and static: an emulator needs no libraries then.
    parts = [str(made) for source, made in objects.items() if source.parent.name != "engine"]
    run([compiler, "-static", "-pthread", *parts, "-o", str(driver)])
    return Made(library, driver)


def _generate_layout(target: Path) -> None:
    """Write the table of struct layouts as setup.py does."""
    path = ROOT / "llm_datadist" / "_native" / "declarations.py"
    spec = importlib.util.spec_from_file_location("lldd_declarations", path)
    assert spec is not None
    assert spec.loader is not None
    declarations = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(declarations)
    header = (ROOT / "csrc" / "include" / "llm_datadist.h").read_text()
    target.write_text(declarations.layout_source(declarations.parse(header)))


def test_the_library_compiles_without_warnings(made: Made) -> None:
    head = made.library.read_bytes()[:20]
    assert head[:4] == b"\x7fELF"
    assert int.from_bytes(head[18:20], "little") == MACHINE_AARCH64


@pytest.mark.parametrize("case", ["local.kernels", "local.known_memory_merges"])
def test_cases_run(made: Made, case: str) -> None:
    command = [*_emulator(), str(made.driver), case]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


def test_the_kernels_are_memcpy_and_neon(made: Made) -> None:
    command = [*_emulator(), str(made.driver), "kernels"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout.split() == ["memcpy", "neon"]
