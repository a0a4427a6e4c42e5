# SPDX-License-Identifier: Apache-2.0
"""Builds the native library and the cffi declarations; everything else is in pyproject.toml.

setuptools can build extension modules, which are tied to one Python version, but not a plain
shared library. So one command of our own, ``build_native``, takes part in ``build``: it compiles
the C++ sources, links the library, and generates ``_ffi.py`` from the header. Only files that
changed are compiled again. Developers run it alone:

    python setup.py build_native --inplace

Environment:
    CXX, CXXFLAGS, LDFLAGS     compiler (default c++ or g++), and flags after our own
    LLM_DATADIST_SANITIZE      "address,undefined" or "thread": a library beside the normal one
    LLM_DATADIST_BUILD_OUTPUT  where that library goes (default: under build/native/)
    LLM_DATADIST_BUILD_JOBS    compilers at a time (default: the number of CPUs)
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shlex
import shutil
import struct
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from setuptools import Command, Distribution, setup
from setuptools.command.build import build
from setuptools.errors import PlatformError

try:
    import fcntl
except ImportError:  # not a Unix: build_native says so in a sentence
    fcntl = None

try:
    from setuptools.command.bdist_wheel import bdist_wheel
except ImportError:  # before setuptools 70.1 the command came with the package wheel
    from wheel.bdist_wheel import bdist_wheel

ROOT = Path(__file__).resolve().parent
HEADER = ROOT / "csrc" / "include" / "llm_datadist.h"
VERSION_SCRIPT = ROOT / "csrc" / "exports.map"
SOURCE_DIRS = ("csrc/base", "csrc/engine", "mock_runtime")
LIBRARY = "libllm_datadist_mock.so"

INCLUDES = [f"-I{ROOT / 'csrc' / 'include'}", f"-I{ROOT / 'csrc'}", f"-I{ROOT}"]
COMPILE_FLAGS = [
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
    "-Werror",
]
LINK_FLAGS = [
    "-shared",
    "-pthread",
    f"-Wl,-soname,{LIBRARY}",
    f"-Wl,--version-script,{VERSION_SCRIPT}",
    "-Wl,-z,now",
    # The library starts threads, so it must outlive whoever opened it.
    "-Wl,-z,nodelete",
    "-Wl,--no-undefined",
]
# Another C++ runtime in the process (numpy's, torch's) must not meet ours.
STATIC_RUNTIME = ["-static-libstdc++", "-static-libgcc"]
SANITIZERS = ("address", "undefined", "thread")


def load_declarations():
    """Load the module that reads the header, without importing the package around it."""
    path = ROOT / "llm_datadist" / "_native" / "declarations.py"
    spec = importlib.util.spec_from_file_location("lldd_declarations", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_if_changed(path: Path, text: str) -> None:
    """Write text, leaving the time stamp alone when it is there already."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def check_platform() -> None:
    """Refuse platforms that the library does not work on."""
    if platform.system() != "Linux":
        raise PlatformError(f"llm-datadist-cffi runs on Linux only; this is {platform.system()}")
    if struct.calcsize("P") != 8:
        raise PlatformError("llm-datadist-cffi needs a 64-bit Python")


def sanitizers() -> list[str]:
    """Return the sanitizers asked for, sorted."""
    names = os.environ.get("LLM_DATADIST_SANITIZE", "").replace(",", " ").split()
    unknown = sorted(set(names) - set(SANITIZERS))
    if unknown:
        legal = ", ".join(SANITIZERS)
        raise PlatformError(
            f"LLM_DATADIST_SANITIZE names {', '.join(unknown)}; legal names are {legal}"
        )
    return sorted(set(names))


@contextmanager
def exclusive(directory: Path) -> Iterator[None]:
    """Keep other builds of this checkout out of a directory meanwhile."""
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class Compiler:
    """A C++17 compiler that compiles only what changed."""

    def __init__(self, build_dir: Path, defines: list[str], sanitize: list[str]) -> None:
        """Find the compiler and put its flags together; objects go below ``build_dir``."""
        self.command = self._find()
        self.build_dir = build_dir
        sanitizer_flags = [f"-fsanitize={','.join(sanitize)}"] if sanitize else []
        if "undefined" in sanitize:
            sanitizer_flags.append("-fno-sanitize-recover=undefined")
        if sanitize:
            sanitizer_flags.append("-fno-omit-frame-pointer")
        self.compile_flags = [
            *COMPILE_FLAGS,
            *sanitizer_flags,
            *INCLUDES,
            f"-I{build_dir}",
            *defines,
            *shlex.split(os.environ.get("CXXFLAGS", "")),
        ]
        self.link_flags = [
            *LINK_FLAGS,
            # A sanitizer's runtime must share the C++ runtime with the code it watches.
            *(sanitizer_flags if sanitize else STATIC_RUNTIME),
            *shlex.split(os.environ.get("LDFLAGS", "")),
        ]
        self._check_standard()

    @staticmethod
    def _find() -> list[str]:
        named = shlex.split(os.environ.get("CXX", ""))
        candidates = [named] if named else [["c++"], ["g++"], ["clang++"]]
        for command in candidates:
            if shutil.which(command[0]):
                return command
        looked_for = ", ".join(command[0] for command in candidates)
        raise PlatformError(
            f"no C++ compiler ({looked_for}): install one that knows C++17, for example "
            "GCC 9 (Debian, Ubuntu: apt install g++), or name it with CXX"
        )

    def _check_standard(self) -> None:
        probe = "#include <optional>\n#include <string_view>\nint main() { return 0; }\n"
        result = subprocess.run(
            [*self.command, "-std=c++17", "-fsyntax-only", "-x", "c++", "-"],
            input=probe,
            text=True,
            capture_output=True,
        )
        if result.returncode != 0:
            raise PlatformError(
                f"{' '.join(self.command)} does not compile C++17 (GCC 9 or Clang 10 does):\n"
                f"{result.stderr}"
            )

    def compile_all(self, sources: list[Path], jobs: int) -> list[Path]:
        """Compile what changed, ``jobs`` files at a time; return all objects."""
        # Other flags make other objects: the command line is one more thing they depend on.
        flags = "\n".join([*self.command, self._version(), *self.compile_flags]) + "\n"
        flags_file = self.build_dir / "flags"
        write_if_changed(flags_file, flags)
        objects = [self._object_of(source) for source in sources]
        stale = [
            (source, target)
            for source, target in zip(sources, objects)
            if not self._is_fresh(target, flags_file)
        ]
        with ThreadPoolExecutor(max_workers=jobs) as pool:
            failures = [text for text in pool.map(lambda job: self._compile(*job), stale) if text]
        if failures:
            raise PlatformError("compilation failed:\n\n" + "\n".join(failures))
        return objects

    def link(self, objects: list[Path], output: Path) -> None:
        """Link the library if anything it is made of changed; replace it in one step."""
        command_line = [*self.command, *self.link_flags]
        command_file = self.build_dir / "link"
        write_if_changed(command_file, "\n".join([*command_line, *map(str, objects)]) + "\n")
        parts = [*objects, VERSION_SCRIPT, command_file]
        if output.exists() and all(_newer(output, part) for part in parts):
            return
        output.parent.mkdir(parents=True, exist_ok=True)
        # A process that has the old file mapped keeps it: never write into it.
        fresh = output.with_name(output.name + f".{os.getpid()}.new")
        result = self._run([*command_line, *map(str, objects), "-o", str(fresh)])
        if result:
            fresh.unlink(missing_ok=True)
            raise PlatformError(f"linking failed:\n\n{result}")
        fresh.replace(output)

    def _version(self) -> str:
        result = subprocess.run([*self.command, "--version"], text=True, capture_output=True)
        return result.stdout.partition("\n")[0]

    def _object_of(self, source: Path) -> Path:
        return self.build_dir / source.relative_to(ROOT).with_suffix(".o")

    def _compile(self, source: Path, target: Path) -> str:
        # In one piece, line end included: other threads print, too.
        print(f"compiling {source.relative_to(ROOT)}\n", end="", flush=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        return self._run(
            [
                *self.command,
                *self.compile_flags,
                "-MMD",
                "-MF",
                str(target.with_suffix(".d")),
                "-c",
                str(source),
                "-o",
                str(target),
            ]
        )

    @staticmethod
    def _run(command: list[str]) -> str:
        """Run a command; return "" or, when it failed, what it printed."""
        result = subprocess.run(
            command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        return result.stdout or f"{command[0]} failed" if result.returncode != 0 else ""

    @staticmethod
    def _is_fresh(target: Path, flags_file: Path) -> bool:
        """Whether an object is newer than the flags and than every file it was made from."""
        depfile = target.with_suffix(".d")
        if not target.exists() or not depfile.exists():
            return False
        # "a.o: a.cc b.h \<newline> c.h"; blanks inside names are escaped.
        _, _, listed = depfile.read_text().replace("\\\n", " ").partition(": ")
        names = [name.replace("\\ ", " ") for name in re.split(r"(?<!\\)\s+", listed.strip())]
        return all(_newer(target, Path(name)) for name in [str(flags_file), *names])


def _newer(target: Path, part: Path) -> bool:
    return part.exists() and target.stat().st_mtime_ns > part.stat().st_mtime_ns


class build_native(Command):
    """Compile the native library and generate the declarations that load it."""

    description = "build the native library and its cffi declarations"
    user_options = [  # noqa: RUF012 - declared like this by setuptools
        ("inplace", "i", "put the results into the source tree, for an editable install"),
        ("build-lib=", "b", "where the package is put together"),
    ]
    boolean_options = ["inplace"]  # noqa: RUF012

    def initialize_options(self) -> None:
        """Start with nothing chosen; setuptools sets editable_mode for ``pip install -e``."""
        self.inplace = False
        self.editable_mode = False
        self.build_lib = None

    def finalize_options(self) -> None:
        """Take over what the ``build`` command knows."""
        self.set_undefined_options("build", ("build_lib", "build_lib"))

    def run(self) -> None:
        """Build library, ``_ffi.py`` and copy of the header."""
        check_platform()
        if os.environ.get("LLM_DATADIST_BUILD_ASCEND", "0") not in ("", "0"):
            raise PlatformError(
                "LLM_DATADIST_BUILD_ASCEND is set, but this version has no Ascend runtime yet"
            )
        module = load_declarations()
        declarations = module.parse(HEADER.read_text())
        package = self._package_dir()
        self._write_ffi(declarations, package / "_native" / "_ffi.py")

        sanitize = sanitizers()
        variant = "-".join(sanitize) if sanitize else "release"
        build_dir = ROOT / "build" / "native" / f"{variant}-{platform.machine()}"
        output = package / "_native" / "lib" / LIBRARY
        if sanitize:
            chosen = os.environ.get("LLM_DATADIST_BUILD_OUTPUT")
            output = Path(chosen).absolute() if chosen else build_dir / LIBRARY
        defines = [
            f"-DLLDD_FINGERPRINT={declarations.fingerprint:#018x}ULL",
            f'-DLLDD_PACKAGE_VERSION="{self.distribution.get_version()}"',
        ]
        sources = sorted(path for name in SOURCE_DIRS for path in (ROOT / name).glob("*.cc"))
        jobs = int(os.environ.get("LLM_DATADIST_BUILD_JOBS") or os.cpu_count() or 1)
        with exclusive(build_dir):
            write_if_changed(build_dir / "lldd_layout.inc", module.layout_source(declarations))
            compiler = Compiler(build_dir, defines, sanitize)
            compiler.link(compiler.compile_all(sources, jobs), output)
        print(f"built {output}", flush=True)
        if not self._in_tree():
            write_if_changed(package / "include" / HEADER.name, HEADER.read_text())

    def get_source_files(self) -> list[str]:
        """List what a source distribution needs for this command."""
        patterns = ("csrc/**/*.cc", "csrc/**/*.h", "csrc/*.map", "mock_runtime/*")
        found = {path for pattern in patterns for path in ROOT.glob(pattern) if path.is_file()}
        return sorted(str(path.relative_to(ROOT)) for path in found)

    def get_outputs(self) -> list[str]:
        """List what this command creates."""
        package = self._package_dir()
        names = ["_native/_ffi.py", f"_native/lib/{LIBRARY}"]
        if not self._in_tree():
            names.append(f"include/{HEADER.name}")
        return [str(package / name) for name in names]

    def get_output_mapping(self) -> dict[str, str]:
        """Say which outputs are copies of source files, for editable installs: none."""
        return {}

    def _in_tree(self) -> bool:
        return bool(self.inplace or self.editable_mode)

    def _package_dir(self) -> Path:
        return ROOT / "llm_datadist" if self._in_tree() else Path(self.build_lib) / "llm_datadist"

    @staticmethod
    def _write_ffi(declarations, path: Path) -> None:
        """Write the out-of-line ABI-mode module of cffi, with the fingerprint at its end."""
        from cffi import FFI

        ffi = FFI()
        ffi.set_source("llm_datadist._native._ffi", None)
        ffi.cdef(declarations.text)
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f"_ffi.{os.getpid()}.new")
        ffi.emit_python_code(str(draft))
        text = draft.read_text() + f"FINGERPRINT = {declarations.fingerprint:#018x}\n"
        draft.unlink()
        write_if_changed(path, text)


class build_with_native(build):
    """The usual build, and then the native library."""

    sub_commands = [*build.sub_commands, ("build_native", None)]  # noqa: RUF012


class platform_wheel(bdist_wheel):
    """A wheel for one platform and every Python: it has a library, but no extension module."""

    def get_tag(self) -> tuple[str, str, str]:
        """Return py3-none-<platform>."""
        return "py3", "none", super().get_tag()[2]


class PlatformDistribution(Distribution):
    """A distribution that goes to platlib."""

    def has_ext_modules(self) -> bool:
        """Say that the files depend on the platform."""
        return True


if __name__ == "__main__":
    setup(
        distclass=PlatformDistribution,
        cmdclass={
            "build": build_with_native,
            "build_native": build_native,
            "bdist_wheel": platform_wheel,
        },
    )
