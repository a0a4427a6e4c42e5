# SPDX-License-Identifier: Apache-2.0
"""Compiles all targets into one program: for libFuzzer with clang, or to run files with any
compiler, on objects of the library where these are there.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llm_datadist._native import building, compiler, declarations
from llm_datadist._version import __version__

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path("tests/fuzz")
LIBFUZZER = ROOT / "build" / "fuzz"
# What no library but that for Ascend devices has, and needs nothing of CANN.
FURTHER = (Path("csrc/ascend/regions.cc"),)
FLAGS = ("-std=c++17", "-O1", "-g1", "-pthread", "-Wall", "-Wextra", "-Wshadow")
SANITIZERS = "address,undefined"
WATCHED = (
    f"-fsanitize=fuzzer-no-link,{SANITIZERS}",
    "-fno-sanitize-recover=undefined",
    "-fno-omit-frame-pointer",
    "-DLLDD_CHECK_THREADS",
    "-DLLDD_LIBFUZZER",
)
LINKED = (f"-fsanitize=fuzzer,{SANITIZERS}", "-pthread")


class Unavailable(Exception):
    """This machine has no clang with libFuzzer; the text says what was tried."""


def find_clang() -> list[str]:
    """Return the command of a clang that links libFuzzer and the sanitizers."""
    clang = shutil.which("clang++")
    if clang is None:
        raise Unavailable("there is no clang++ on PATH (Debian, Ubuntu: apt install clang)")
    probe = 'extern "C" int LLVMFuzzerTestOneInput(const char *, unsigned long) { return 0; }\n'
    with tempfile.TemporaryDirectory() as folder:
        command = [clang, f"-fsanitize=fuzzer,{SANITIZERS}", "-x", "c++", "-"]
        linked = subprocess.run(
            [*command, "-o", f"{folder}/probe"], input=probe, capture_output=True, text=True
        )
    if linked.returncode:
        raise Unavailable(
            f"{clang} does not link libFuzzer (Debian, Ubuntu: apt install libclang-rt-14-dev, "
            f"or the version of this clang):\n{linked.stderr}"
        )
    launcher = ["ccache"] if shutil.which("ccache") else []
    return [*launcher, clang]


def targets() -> list[Path]:
    """Return the sources of the targets, and of what they share."""
    return sorted((ROOT / FOLDER).glob("*.cc"))


def build_for_libfuzzer() -> Path:
    """Compile library and targets anew where they changed; return the program."""
    with _compiled_by(find_clang()), compiler.exclusive(LIBFUZZER):
        made, objects = _objects_for_libfuzzer()
        program = LIBFUZZER / "libfuzzer"
        made.link(objects, program, LINKED)
    return program


def build_with(file: str, text: str) -> Path:
    """Do the same with this text in place of a source's; return the program."""
    folder = LIBFUZZER / "planted"
    planted = folder / file
    planted.parent.mkdir(parents=True, exist_ok=True)
    planted.write_text(text)
    with _compiled_by(find_clang()), compiler.exclusive(LIBFUZZER):
        _, objects = _objects_for_libfuzzer()
        flags = [*FLAGS, *WATCHED, *_generated(LIBFUZZER)]
        made = compiler.Compiler(folder, folder / "objects", flags, report=_say_nothing)
        sound = (LIBFUZZER / file).with_suffix(".o")
        faulty = made.compile_all([planted], 1)
        objects = [each for each in objects if each != sound] + faulty
        program = folder / "libfuzzer"
        made.link(objects, program, LINKED)
    return program


def _objects_for_libfuzzer() -> tuple[compiler.Compiler, list[Path]]:
    sources = [*building.MOCK.sources(ROOT), *(ROOT / each for each in FURTHER), *targets()]
    made = compiler.Compiler(ROOT, LIBFUZZER, [*FLAGS, *WATCHED, *_generated(LIBFUZZER)])
    return made, made.compile_all(sources, compiler.jobs())


def build_to_replay(folder: Path, sanitized: bool) -> Path:
    """Compile the targets into `folder` and link them with the objects of a built library.

    What runs is what the suite tests: the objects of the library that was built in place, with the
    sanitizers or without. Where there are none (an installed package is tested) they are compiled.
    """
    sanitizers = SANITIZERS.split(",") if sanitized else []
    built = building.build_folder(ROOT, building.MOCK, sanitizers)
    objects = _objects_in(built)
    sources = [*(ROOT / each for each in FURTHER), *targets()]
    if not objects:
        sources = [*building.MOCK.sources(ROOT), *sources]
    flags = [*FLAGS, *_generated(folder)]
    flags += shlex.split(os.environ.get("LLDD_TEST_CXXFLAGS", ""))
    made = compiler.Compiler(ROOT, folder, flags, report=_say_nothing)
    objects += made.compile_all(sources, compiler.jobs())
    program = folder / "replay"
    made.link(objects, program, ["-pthread", *_sanitizer_flags(sanitizers)])
    return program


def _objects_in(built: Path) -> list[Path]:
    commands = built / compiler.COMMANDS
    if not commands.exists():
        return []
    objects = [Path(each["output"]) for each in json.loads(commands.read_text())]
    return objects if all(each.exists() for each in objects) else []


def _sanitizer_flags(sanitizers: list[str]) -> list[str]:
    return [f"-fsanitize={','.join(sanitizers)}"] if sanitizers else []


def _generated(folder: Path) -> list[str]:
    """Write what the build generates from the header; return the flags that go with it."""
    parsed = declarations.parse((ROOT / building.HEADER).read_text())
    compiler.write_if_changed(folder / "lldd_layout.inc", declarations.layout_source(parsed))
    generated = building.Generated(parsed.fingerprint, "", __version__)
    includes = [(ROOT / building.HEADER).parent, ROOT / "csrc", ROOT, folder]
    return [*generated.defines(), *(f"-I{each}" for each in includes)]


def _say_nothing(number: int, total: int, source: str) -> None:
    pass


@contextmanager
def _compiled_by(command: list[str]) -> Iterator[None]:
    before = os.environ.get("CXX")
    os.environ["CXX"] = shlex.join(command)
    try:
        yield
    finally:
        if before is None:
            del os.environ["CXX"]
        else:
            os.environ["CXX"] = before
