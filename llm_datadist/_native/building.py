# SPDX-License-Identifier: Apache-2.0
"""Compiles the native libraries: for setup.py, and on a device host for ``build-ascend``.

Only what changed is compiled again. setup.py loads this file by its path before the package
exists, so it imports nothing but the standard library, and gets what is generated from the header
as an argument.

Environment:
    CXX, CXXFLAGS, LDFLAGS   compiler (default c++ or g++), and flags after our own
    LLM_DATADIST_BUILD_JOBS  compilers at a time (default: the number of CPUs)
    LLM_DATADIST_WERROR      1: a warning of the compiler is an error; default: it is printed
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shlex
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from llm_datadist._native.cann import Toolkit

try:
    import fcntl
except ImportError:  # not a Unix: check_platform says so in a sentence
    fcntl = None  # type: ignore[assignment]

COMPILE_FLAGS = (
    "-std=c++17",
    "-O2",
    "-g1",
    "-fPIC",
    "-fvisibility=hidden",
    "-fvisibility-inlines-hidden",
    "-pthread",
    "-Wall",
    "-Wextra",
    "-Wpedantic",
    "-Wshadow",
    "-Wconversion",
)
WERROR = "-Werror"
LINK_FLAGS = (
    "-shared",
    "-pthread",
    "-Wl,-z,now",
    # The library starts threads, so it must outlive whoever opened it.
    "-Wl,-z,nodelete",
    "-Wl,--no-undefined",
)
# Another C++ runtime in the process (numpy's, torch's) must not meet ours.
STATIC_RUNTIME = ("-static-libstdc++", "-static-libgcc")
SANITIZERS = ("address", "undefined", "thread")
# Where they lie in a source tree.
HEADER = "csrc/include/llm_datadist.h"
VERSION_SCRIPT = "csrc/exports.map"
SOURCE_SUFFIXES = (".cc", ".h", ".map")


# Called before a file is compiled, from several threads: which one of how many, and its name.
Report = Callable[[int, int, str], None]


class BuildError(Exception):
    """A library cannot be built; the text is for the one who asked for it."""


class Target(NamedTuple):
    """A library: the folders of its sources, and what it needs beyond the common flags."""

    name: str
    folders: tuple[str, ...]
    compile_flags: tuple[str, ...] = ()
    # After the objects, which is where a linker wants libraries.
    libraries: tuple[str, ...] = ()
    static_runtime: bool = True
    # Told by the library, for whoever looks into its file.
    record: str = ""

    @property
    def library(self) -> str:
        """The name of the file, and what a linker would know it by."""
        return f"libllm_datadist_{self.name}.so"

    def sources(self, tree: Path) -> list[Path]:
        """Return the files to compile; raises BuildError if a folder has none."""
        found: list[Path] = []
        for folder in self.folders:
            here = sorted((tree / folder).glob("*.cc"))
            if not here:
                raise BuildError(f"{tree} has no {folder}, which {self.library} is built from")
            found += here
        return found


MOCK = Target("mock", ("csrc/base", "csrc/runtime", "csrc/engine", "mock_runtime"))


def ascend(toolkit: Toolkit) -> Target:
    """Return the library over CANN, as it is built against this toolkit."""
    return Target(
        "ascend",
        ("csrc/base", "csrc/runtime", "csrc/engine", "csrc/ascend"),
        # CANN's C++ interface has strings and maps in it, and CANN is built with the old ABI of
        # those; the whole library is, so that none of ours meets one of the other kind. A system
        # folder: warnings in headers that are not ours are no errors of ours.
        compile_flags=("-D_GLIBCXX_USE_CXX11_ABI=0", "-isystem", str(toolkit.include)),
        libraries=(
            *(f"-L{folder}" for folder in toolkit.library_folders),
            # It loads in a shell that has not sourced CANN's environment script, too.
            *(f"-Wl,-rpath,{folder}" for folder in toolkit.runtime_folders),
            *(f"-l{name}" for name, _ in toolkit.libraries),
            "-lpthread",
            "-lrt",
        ),
        # Exceptions and maps go to and fro between CANN and this library: one runtime for both.
        static_runtime=False,
        record=toolkit.record,
    )


class Generated(NamedTuple):
    """What is read off the header and compiled into a library, and the package's version."""

    fingerprint: int
    layout_source: str
    version: str

    def defines(self) -> list[str]:
        """Return the flags of the compiler that pass it on."""
        return [
            f"-DLLDD_FINGERPRINT={self.fingerprint:#018x}ULL",
            f'-DLLDD_PACKAGE_VERSION="{self.version}"',
        ]


def build(
    target: Target,
    tree: Path,
    build_dir: Path,
    output: Path,
    generated: Generated,
    sanitize: Iterable[str] = (),
    report: Report | None = None,
    werror: bool | None = None,
) -> None:
    """Bring ``output`` up to date.

    :param tree: the folder that has ``csrc``.
    :param build_dir: for objects; other builds in it wait for this one.
    :param report: is told of each file that is compiled; None: they are printed.
    :param werror: whether a warning is an error; None: LLM_DATADIST_WERROR says so.
    :raises BuildError: the platform, the compiler or the sources do not let it be built.
    """
    check_platform()
    sources = target.sources(tree)
    with exclusive(build_dir):
        source = generated.layout_source + _record_source(target.record)
        write_if_changed(build_dir / "lldd_layout.inc", source)
        compiler = Compiler(target, tree, build_dir, generated.defines(), sanitize, report, werror)
        compiler.link(compiler.compile_all(sources, jobs()), output)


def check_platform() -> None:
    """Refuse platforms that the library does not work on."""
    if platform.system() != "Linux":
        raise BuildError(f"llm-datadist-cffi runs on Linux only; this is {platform.system()}")
    if struct.calcsize("P") != 8:
        raise BuildError("llm-datadist-cffi needs a 64-bit Python")


def sanitizers_asked_for() -> list[str]:
    """Return the sanitizers that LLM_DATADIST_SANITIZE asks for, sorted."""
    names = set(os.environ.get("LLM_DATADIST_SANITIZE", "").replace(",", " ").split())
    unknown = sorted(names - set(SANITIZERS))
    if unknown:
        legal = ", ".join(SANITIZERS)
        raise BuildError(
            f"LLM_DATADIST_SANITIZE names {', '.join(unknown)}; legal names are {legal}"
        )
    return sorted(names)


def build_folder(tree: Path, target: Target, sanitize: Iterable[str] = ()) -> Path:
    """Return where a checkout builds a library with these sanitizers."""
    variant = "-".join(sanitize) or "release"
    folder = tree / "build" / "native" / f"{variant}-{platform.machine()}"
    if not target.record:
        return folder
    # One for each toolkit, so that a build against another one need not begin again.
    return folder / f"{target.name}-{hashlib.sha256(target.record.encode()).hexdigest()[:8]}"


def packaged_sources(tree: Path) -> list[Path]:
    """Return the files that the Ascend library is built from, which a package has in it."""
    found = (tree / "csrc").rglob("*")
    return sorted(path for path in found if path.suffix in SOURCE_SUFFIXES)


def sources_digest(tree: Path) -> int:
    """Return 64 bits that differ where a library that is built from this tree may differ."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for path in packaged_sources(tree):
        digest.update(f"{path.relative_to(tree)}\n".encode() + path.read_bytes())
    return int.from_bytes(digest.digest()[:8], "big")


def _record_source(record: str) -> str:
    """Return the C++ text that puts a record into a library."""
    if not record:
        return ""
    # JSON's escapes are C's, for the ASCII that a record is.
    literal = json.dumps(record)
    return f"__attribute__((used)) static const char kRecord[] = {literal};\n"


def jobs() -> int:
    """Return how many compilers may run at a time."""
    value = os.environ.get("LLM_DATADIST_BUILD_JOBS", "")
    if not value:
        return os.cpu_count() or 1
    if not value.isdigit() or int(value) < 1:
        raise BuildError(f"LLM_DATADIST_BUILD_JOBS must be a number from 1 on, not {value!r}")
    return int(value)


def warnings_are_errors() -> bool:
    """Whether LLM_DATADIST_WERROR asks for it: this project's tests do, users do not.

    A user's compiler may warn of what no compiler did when this was written, and so may code that
    comes from CANN's headers; neither is a reason to be without the library.
    """
    value = os.environ.get("LLM_DATADIST_WERROR", "")
    if value not in ("", "0", "1"):
        raise BuildError(f"LLM_DATADIST_WERROR must be 0, 1 or empty, not {value!r}")
    return value == "1"


def find_compiler() -> list[str]:
    """Return the command of a C++ compiler, which may be too old; raises BuildError."""
    named = shlex.split(os.environ.get("CXX", ""))
    candidates = [named] if named else [["c++"], ["g++"], ["clang++"]]
    for command in candidates:
        if shutil.which(command[0]):
            return command
    looked_for = ", ".join(command[0] for command in candidates)
    raise BuildError(
        f"no C++ compiler ({looked_for}): install one that knows C++17, for example "
        "GCC 9 (Debian, Ubuntu: apt install g++), or name it with CXX"
    )


def compiler_version(command: list[str]) -> str:
    """Return the first line that the compiler prints about itself."""
    result = subprocess.run([*command, "--version"], text=True, capture_output=True)
    return result.stdout.partition("\n")[0]


def write_if_changed(path: Path, text: str) -> None:
    """Write text, leaving the time stamp alone when it is there already."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


class Compiler:
    """A C++17 compiler that compiles only what changed.

    Args:
        target: whose flags it uses.
        tree: the folder that has ``csrc``.
        build_dir: objects go below it; generated sources are found in it.
        defines: further flags.
        sanitize: of SANITIZERS.
        report: is told of each file that is compiled; None: they are printed.
        werror: whether a warning is an error; None: LLM_DATADIST_WERROR says so.
    """

    def __init__(
        self,
        target: Target,
        tree: Path,
        build_dir: Path,
        defines: Iterable[str] = (),
        sanitize: Iterable[str] = (),
        report: Report | None = None,
        werror: bool | None = None,
    ) -> None:
        self.command = find_compiler()
        self._werror = warnings_are_errors() if werror is None else werror
        self._target = target
        self._tree = tree
        self._build_dir = build_dir
        self._report = report or _print_line
        sanitizers = list(sanitize)
        sanitizer_flags = [f"-fsanitize={','.join(sanitizers)}"] if sanitizers else []
        if "undefined" in sanitizers:
            sanitizer_flags.append("-fno-sanitize-recover=undefined")
        if sanitizers:
            sanitizer_flags.append("-fno-omit-frame-pointer")
        self._compile_flags = [
            *COMPILE_FLAGS,
            *sanitizer_flags,
            f"-I{(tree / HEADER).parent}",
            f"-I{tree / 'csrc'}",
            f"-I{tree}",
            f"-I{build_dir}",
            *target.compile_flags,
            *defines,
            *shlex.split(os.environ.get("CXXFLAGS", "")),
        ]
        # A sanitizer's runtime must share the C++ runtime with the code it watches.
        static = target.static_runtime and not sanitizers
        self._link_flags = [
            *LINK_FLAGS,
            f"-Wl,-soname,{target.library}",
            f"-Wl,--version-script,{tree / VERSION_SCRIPT}",
            *sanitizer_flags,
            *(STATIC_RUNTIME if static else ()),
            *shlex.split(os.environ.get("LDFLAGS", "")),
        ]
        self._check_standard()

    def _check_standard(self) -> None:
        probe = "#include <optional>\n#include <string_view>\nint main() { return 0; }\n"
        result = subprocess.run(
            [*self.command, "-std=c++17", "-fsyntax-only", "-x", "c++", "-"],
            input=probe,
            text=True,
            capture_output=True,
        )
        if result.returncode != 0:
            raise BuildError(
                f"{' '.join(self.command)} does not compile C++17 (GCC 9 or Clang 10 does):\n"
                f"{result.stderr}"
            )

    def compile_all(self, sources: list[Path], jobs: int) -> list[Path]:
        """Compile what changed, ``jobs`` files at a time; return all objects."""
        # Other flags make other objects: the command line is one more thing they depend on.
        version = compiler_version(self.command)
        flags = "\n".join([*self.command, version, *self._compile_flags]) + "\n"
        flags_file = self._build_dir / "flags"
        write_if_changed(flags_file, flags)
        objects = [self._object_of(source) for source in sources]
        pairs = zip(sources, objects)
        stale = [pair for pair in pairs if not self._is_fresh(pair[1], flags_file)]

        def compile_one(number: int) -> str:
            source, target = stale[number]
            self._report(number + 1, len(stale), str(source.relative_to(self._tree)))
            return self._compile(source, target)

        with ThreadPoolExecutor(max_workers=jobs) as pool:
            failures = [text for text in pool.map(compile_one, range(len(stale))) if text]
        if failures:
            raise BuildError("compilation failed:\n\n" + "\n".join(failures))
        return objects

    def link(self, objects: list[Path], output: Path) -> None:
        """Link the library if anything it is made of changed; replace it in one step."""
        command_line = [
            *self.command,
            *self._link_flags,
            *map(str, objects),
            *self._target.libraries,
        ]
        command_file = self._build_dir / "link"
        write_if_changed(command_file, "\n".join(command_line) + "\n")
        parts = [*objects, self._tree / VERSION_SCRIPT, command_file]
        if output.exists() and all(_newer(output, part) for part in parts):
            return
        output.parent.mkdir(parents=True, exist_ok=True)
        # A process that has the old file mapped keeps it: never write into it.
        fresh = output.with_name(output.name + f".{os.getpid()}.new")
        failed, printed = self._run([*command_line, "-o", str(fresh)])
        if failed:
            fresh.unlink(missing_ok=True)
            raise BuildError(f"linking failed:\n\n{printed}")
        fresh.replace(output)

    def _object_of(self, source: Path) -> Path:
        return self._build_dir / source.relative_to(self._tree).with_suffix(".o")

    def _compile(self, source: Path, target: Path) -> str:
        target.parent.mkdir(parents=True, exist_ok=True)
        command = [
            *self.command,
            *self._compile_flags,
            # Not one of the flags that an object depends on: it changes none. See _is_fresh.
            *([WERROR] if self._werror else []),
            # Of all headers: CANN's are system headers, and they change, too.
            "-MD",
            "-MF",
            str(target.with_suffix(".d")),
            "-c",
            str(source),
            "-o",
            str(target),
        ]
        failed, printed = self._run(command)
        warned = _warned_of(target)
        if failed:
            return printed
        if printed and not self._werror:
            warned.write_text(printed)
            print(printed, end="", file=sys.stderr, flush=True)
        else:
            warned.unlink(missing_ok=True)
        return ""

    @staticmethod
    def _run(command: list[str]) -> tuple[bool, str]:
        """Run a command; return whether it failed, and what it printed."""
        result = subprocess.run(
            command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        failed = result.returncode != 0
        return failed, result.stdout or (f"{command[0]} failed" if failed else "")

    def _is_fresh(self, target: Path, flags_file: Path) -> bool:
        """Whether an object is newer than the flags and than every file it was made from.

        One that was compiled with warnings is not, where these are errors.
        """
        depfile = target.with_suffix(".d")
        if not target.exists() or not depfile.exists():
            return False
        if self._werror and _warned_of(target).exists():
            return False
        # "a.o: a.cc b.h \<newline> c.h"; blanks inside names are escaped.
        _, _, listed = depfile.read_text().replace("\\\n", " ").partition(": ")
        names = [name.replace("\\ ", " ") for name in re.split(r"(?<!\\)\s+", listed.strip())]
        return all(_newer(target, Path(name)) for name in [str(flags_file), *names])


@contextmanager
def exclusive(directory: Path) -> Iterator[None]:
    """Keep other builds out of a directory meanwhile."""
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _warned_of(target: Path) -> Path:
    """Return the file that keeps the warnings with which an object was compiled."""
    return target.with_suffix(".warnings")


def _newer(target: Path, part: Path) -> bool:
    return part.exists() and target.stat().st_mtime_ns > part.stat().st_mtime_ns


def _print_line(number: int, total: int, source: str) -> None:
    # In one piece, line end included: other threads print, too.
    print(f"[{number}/{total}] compiling {source}\n", end="", flush=True)
