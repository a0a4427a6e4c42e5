# SPDX-License-Identifier: Apache-2.0
"""A C++ compiler of this machine, which compiles only what changed.

What is compiled how stands in building.py. Like that file, this one imports nothing but the
standard library.

Environment:
    CXX, CXXFLAGS, LDFLAGS   compiler (default c++ or g++), and flags after those of building.py
    LLM_DATADIST_BUILD_JOBS  compilers at a time (default: the number of CPUs)
    LLM_DATADIST_WERROR      1: a warning of the compiler is an error; default: it is printed
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # not a Unix: building.check_platform says so in a sentence
    fcntl = None  # type: ignore[assignment]

WERROR = "-Werror"
# What was compiled how, in the folder of a build.
COMMANDS = "compile_commands.json"
# Words that stand before the compiler's own in CXX.
LAUNCHERS = ("ccache", "distcc", "sccache")

# Called before a file is compiled, from several threads: which one of how many, and its name.
Report = Callable[[int, int, str], None]


class BuildError(Exception):
    """A library cannot be built; the text is for the user who asked for it."""


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
        tree: sources are named by their place in it.
        build_dir: objects go below it.
        compile_flags: of every file.
        report: is told of each file that is compiled; None: they are printed.
        werror: whether a warning is an error; None: LLM_DATADIST_WERROR says so.
    """

    def __init__(
        self,
        tree: Path,
        build_dir: Path,
        compile_flags: Iterable[str],
        report: Report | None = None,
        werror: bool | None = None,
    ) -> None:
        self.command = find_compiler()
        self._werror = warnings_are_errors() if werror is None else werror
        self._tree = tree
        self._build_dir = build_dir
        self._report = report or _print_line
        self._compile_flags = [*compile_flags, *shlex.split(os.environ.get("CXXFLAGS", ""))]
        self._check_standard()

    def _check_standard(self) -> None:
        probe = "#include <optional>\n#include <string_view>\nint main() { return 0; }\n"
        # An object, though only its making counts: `zig c++` fails where -fsyntax-only makes none.
        with tempfile.TemporaryDirectory() as folder:
            result = subprocess.run(
                [*self.command, "-std=c++17", "-x", "c++", "-c", "-", "-o", f"{folder}/probe.o"],
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
        self._write_commands(sources, objects)
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

    def link(
        self,
        objects: list[Path],
        output: Path,
        flags: Iterable[str],
        libraries: Iterable[str] = (),
        inputs: Iterable[Path] = (),
    ) -> None:
        """Link a library if anything it is made of changed; replace it in one step.

        Args:
            objects: what compile_all returned.
            output: the library.
            flags: before the objects.
            libraries: after the objects, which is where a linker wants them.
            inputs: further files that it depends on.
        """
        extra = shlex.split(os.environ.get("LDFLAGS", ""))
        command_line = [*self.command, *flags, *extra, *map(str, objects), *libraries]
        command_file = self._build_dir / "link"
        write_if_changed(command_file, "\n".join(command_line) + "\n")
        parts = [*objects, *inputs, command_file]
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

    def _write_commands(self, sources: list[Path], objects: list[Path]) -> None:
        """Write compile_commands.json, which clangd and clang-tidy read."""
        # They take the first word for the compiler.
        compiler = [word for word in self.command if Path(word).name not in LAUNCHERS]
        commands = [
            {
                "directory": str(self._tree),
                "file": str(source),
                "output": str(made),
                "arguments": [*compiler, *self._compile_flags, "-c", str(source), "-o", str(made)],
            }
            for source, made in zip(sources, objects)
        ]
        text = json.dumps(commands, indent=1) + "\n"
        write_if_changed(self._build_dir / COMMANDS, text)

    def _object_of(self, source: Path) -> Path:
        return self._build_dir / source.relative_to(self._tree).with_suffix(".o")

    def _compile(self, source: Path, target: Path) -> str:
        target.parent.mkdir(parents=True, exist_ok=True)
        command = [
            *self.command,
            *self._compile_flags,
            # Not one of the flags that an object depends on: it changes none. See _is_fresh.
            *([WERROR] if self._werror else []),
            # Of all headers: CANN's are system headers, and they also change.
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
    # In one piece, line end included: other threads also print.
    print(f"[{number}/{total}] compiling {source}\n", end="", flush=True)
