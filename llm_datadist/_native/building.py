# SPDX-License-Identifier: Apache-2.0
"""Says what the native libraries are compiled from, and how, and builds them.

For setup.py, and on a device host for ``build-ascend``. setup.py loads this file before the package
exists, so it imports nothing but the standard library and compiler.py, and gets what is generated
from the header as an argument.

The environment variables that it heeds are listed in compiler.py.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from .compiler import COMMANDS, BuildError, Compiler, Report, exclusive, jobs, write_if_changed

if TYPE_CHECKING:
    from llm_datadist._native.cann import Toolkit

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
LINK_FLAGS = (
    "-shared",
    "-pthread",
    "-Wl,-z,now",
    # The library starts threads, so it must stay loaded when it is closed.
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


class Target(NamedTuple):
    """A library: the folders of its sources, and what it needs beyond the common flags."""

    name: str
    folders: tuple[str, ...]
    compile_flags: tuple[str, ...] = ()
    # After the objects, which is where a linker wants libraries.
    libraries: tuple[str, ...] = ()
    static_runtime: bool = True
    # What the library has in its file, for tools that look into it.
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
        # folder: warnings in headers that are not ours are not errors of ours.
        compile_flags=("-D_GLIBCXX_USE_CXX11_ABI=0", "-isystem", str(toolkit.include)),
        libraries=(
            *(f"-L{folder}" for folder in toolkit.library_folders),
            # It also loads in a shell that has not sourced CANN's environment script.
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

    Args:
        target: what is built.
        tree: the folder that has ``csrc``.
        build_dir: for objects; other builds in it wait for this one.
        output: the library.
        generated: what is read off the header.
        sanitize: of SANITIZERS.
        report: is told of each file that is compiled; None: they are printed.
        werror: whether a warning is an error; None: LLM_DATADIST_WERROR says so.

    Raises:
        BuildError: the platform, the compiler or the sources do not let it be built.
    """
    check_platform()
    sources = target.sources(tree)
    flags = [*compile_flags(target, tree, build_dir, sanitize), *generated.defines()]
    with exclusive(build_dir):
        source = generated.layout_source + _record_source(target.record)
        write_if_changed(build_dir / "lldd_layout.inc", source)
        compiler = Compiler(tree, build_dir, flags, report, werror)
        compiler.link(
            compiler.compile_all(sources, jobs()),
            output,
            link_flags(target, tree, sanitize),
            target.libraries,
            [tree / VERSION_SCRIPT],
        )


def compile_flags(
    target: Target, tree: Path, build_dir: Path, sanitize: Iterable[str] = ()
) -> list[str]:
    """Return the flags with which every file of a library is compiled."""
    return [
        *COMPILE_FLAGS,
        *_sanitizer_flags(sanitize),
        f"-I{(tree / HEADER).parent}",
        f"-I{tree / 'csrc'}",
        f"-I{tree}",
        f"-I{build_dir}",
        *target.compile_flags,
    ]


def link_flags(target: Target, tree: Path, sanitize: Iterable[str] = ()) -> list[str]:
    """Return the flags with which a library is linked, which stand before the objects."""
    sanitizers = list(sanitize)
    # A sanitizer's runtime must share the C++ runtime with the code it watches.
    static = target.static_runtime and not sanitizers
    return [
        *LINK_FLAGS,
        f"-Wl,-soname,{target.library}",
        f"-Wl,--version-script,{tree / VERSION_SCRIPT}",
        *_sanitizer_flags(sanitizers),
        *(STATIC_RUNTIME if static else ()),
    ]


def _sanitizer_flags(sanitize: Iterable[str]) -> list[str]:
    sanitizers = list(sanitize)
    flags = [f"-fsanitize={','.join(sanitizers)}"] if sanitizers else []
    if "undefined" in sanitizers:
        flags.append("-fno-sanitize-recover=undefined")
    if sanitizers:
        # The assertions of base/io_thread.h.
        flags += ["-fno-omit-frame-pointer", "-DLLDD_CHECK_THREADS"]
    return flags


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


def write_commands(tree: Path, build_dirs: Iterable[Path]) -> None:
    """Write build/compile_commands.json, where editors look for it.

    Args:
        tree: a checkout.
        build_dirs: where its libraries were built; of a file in several, the first decides.
    """
    commands: dict[str, object] = {}
    for folder in build_dirs:
        for command in json.loads((folder / COMMANDS).read_text()):
            commands.setdefault(command["file"], command)
    write_if_changed(tree / "build" / COMMANDS, json.dumps([*commands.values()], indent=1) + "\n")


def packaged_sources(tree: Path) -> list[Path]:
    """Return the files that the Ascend library is built from, which a package has in it."""
    found = (tree / "csrc").rglob("*")
    return sorted(path for path in found if path.suffix in SOURCE_SUFFIXES)


def sources_digest(tree: Path) -> int:
    """Return 64 bits that differ where a library that is built from this tree may differ."""
    digest = hashlib.sha256()
    for name in ("building.py", "compiler.py"):
        digest.update(Path(__file__).with_name(name).read_bytes())
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
