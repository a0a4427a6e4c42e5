# SPDX-License-Identifier: Apache-2.0
"""Compile the library for Ascend devices on this machine.

A wheel that was built elsewhere has the mock library only. On a machine with a CANN toolkit (8.5 or
later: headers, libraries) and a C++17 compiler this compiles the sources in the package against
that toolkit, and puts the library into a folder of the user below XDG_CACHE_HOME (default
~/.cache), where this version of the package finds it. The toolkit is --toolkit, else
ASCEND_HOME_PATH, else ASCEND_TOOLKIT_HOME, else one of the usual places below /usr/local/Ascend.
CXX, CXXFLAGS, LDFLAGS and LLM_DATADIST_BUILD_JOBS are respected.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from llm_datadist._tools.progress import Progress

if TYPE_CHECKING:
    from llm_datadist._native.building import Target
    from llm_datadist._native.cann import Toolkit


class Refusal(Exception):
    """The library cannot be built here; the text says why."""


class _Plan(NamedTuple):
    """What is compiled, from where to where."""

    toolkit: Toolkit
    target: Target
    tree: Path
    output: Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the subcommand."""
    parser.add_argument(
        "--toolkit", metavar="FOLDER", help="the CANN toolkit, instead of the one that is found"
    )


def run(args: argparse.Namespace) -> int:
    """Build the library; returns the exit status."""
    # Nothing of this is imported to print a help text.
    from llm_datadist._native.cann import ToolkitError
    from llm_datadist._native.compiler import BuildError
    from llm_datadist._native.loader import NativeLibraryError

    try:
        plan = _plan(args.toolkit)
        _say(f"CANN toolkit  {plan.toolkit.root} ({_origin(plan.toolkit)})")
        _say(f"sources       {plan.tree}{_change_of(plan.tree)}")
        _say(f"library       {plan.output}")
        started = time.monotonic()
        files = _build(plan)
    except (BuildError, NativeLibraryError, OSError, Refusal, ToolkitError) as error:
        print(f"llm-datadist build-ascend: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("llm-datadist build-ascend: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    _say(f"built         {files} files in {time.monotonic() - started:.0f} s")
    _say(f"loads         {_try(plan.output)}")
    _say("\nWhat this machine makes of it: llm-datadist doctor")
    return 0


def _plan(toolkit_folder: str | None) -> _Plan:
    from llm_datadist._native import building, cann, libraries

    named = None if toolkit_folder is None else [cann.Place(Path(toolkit_folder), "--toolkit")]
    toolkit = cann.find(named)
    target = building.ascend(toolkit)
    tree = libraries.source_tree()
    if tree is None:
        raise Refusal("the package has no sources in it; install it with pip")
    target.sources(tree)
    folder = libraries.user_folder()
    if folder is None:
        raise Refusal("there is no home directory; name a folder for caches with XDG_CACHE_HOME")
    return _Plan(toolkit, target, tree, Path(folder) / target.library)


def _build(plan: _Plan) -> int:
    """Build in a folder of this run; returns the number of files."""
    from llm_datadist._native import building, declarations, libraries
    from llm_datadist._version import __version__

    header = plan.tree / building.HEADER
    parsed = declarations.parse(header.read_text())
    if parsed.fingerprint != libraries.fingerprint():
        raise Refusal(
            f"{header} is not the header that this package was built from; reinstall the package"
        )
    folder = plan.output.parent
    folder.mkdir(parents=True, exist_ok=True)
    # What lies here is loaded: no other user may write to it.
    folder.chmod(0o700)
    counter = _Counter()
    generated = building.Generated(
        parsed.fingerprint, declarations.layout_source(parsed), __version__
    )
    try:
        with tempfile.TemporaryDirectory(prefix="objects-", dir=folder) as objects:
            building.build(
                plan.target, plan.tree, Path(objects), plan.output, generated, report=counter
            )
    finally:
        counter.end()
    plan.output.chmod(0o755)
    return counter.total


class _Counter:
    """Shows what is compiled: a bar on a terminal, a line for each file elsewhere."""

    def __init__(self) -> None:
        self.total = 0
        self._lock = threading.Lock()
        self._progress: Progress | None = None

    def __call__(self, number: int, total: int, source: str) -> None:
        """Take the report of a file that is compiled next."""
        if not sys.stderr.isatty():
            sys.stderr.write(f"[{number}/{total}] {source}\n")
        with self._lock:
            self.total = total
            self._progress = self._progress or Progress(sys.stderr, total)
            self._progress.show(f"compiling {source}")
            self._progress.advance()

    def end(self) -> None:
        """Leave an empty line to what is written next."""
        if self._progress is not None:
            self._progress.clear()


def _origin(toolkit: Toolkit) -> str:
    from llm_datadist._native import cann

    version = cann.version(toolkit.root)
    return f"{toolkit.reason}, version {version}" if version else toolkit.reason


def _change_of(tree: Path) -> str:
    from llm_datadist._native import building, libraries

    same = building.sources_digest(tree) == libraries.sources()
    return "" if same else " (changed since this package was built)"


def _try(library: Path) -> str:
    """Say what the library answers when this process loads it."""
    from llm_datadist._native import libraries
    from llm_datadist._native.loader import NativeLibraryError, load

    outdated = libraries.why_outdated(str(library))
    if outdated:
        return f"not in this environment: {outdated}"
    try:
        info = load(library).info
    except NativeLibraryError as error:
        return f"not here: {error}"
    first = libraries.candidates("ascend")[0]
    note = "" if first == str(library) else f"; {first} comes before it"
    devices = "1 device" if info.device_count == 1 else f"{info.device_count} devices"
    return f"{info.name} {info.version}, {devices}: {info.description}{note}"


def _say(text: str) -> None:
    print(text, flush=True)
