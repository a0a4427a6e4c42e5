# SPDX-License-Identifier: Apache-2.0
"""Tries a library, or the choice of the backend, in a process of its own.

Loading a library runs its code, and that of what it needs: it may end the process, or hang.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from llm_datadist._tools.host import AvailableMemory, UsableCpus, cpus_of, memory_of

from ._variables import Variable, of_mock

if TYPE_CHECKING:
    from llm_datadist._native.facade import Facade
    from llm_datadist._native.loader import NativeLibrary

# A device library may have to wake its device up.
PATIENCE = 120.0
# Instead of a library: the one that would be chosen, and an engine on it.
BACKEND = "backend"
# The entry that finds this package, and not another of its name; see its own comment. No peer of
# llm_datadist.testing: this must also run where numpy is missing.
_ENTRY = os.path.join(
    os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))),
    "llm_datadist_cffi_cli.py",
)


@dataclass(frozen=True)
class Tried:
    """What came of it.

    ``error`` is "" if all went well, ``kind`` is the name of the exception. A library that loads is
    described even if no engine opens on it: ``path`` is "" if none loaded. ``variables`` are those
    of the runtime; ``memory`` and ``cpus`` are None for a runtime that
    does not tell them.
    """

    error: str = ""
    kind: str = ""
    name: str = ""
    version: str = ""
    description: str = ""
    path: str = ""
    device_count: int = 0
    variables: tuple[Variable, ...] = ()
    memory: AvailableMemory | None = None
    cpus: UsableCpus | None = None
    warnings: tuple[str, ...] = ()


def in_child(what: str, environ: Mapping[str, str], patience: float = PATIENCE) -> Tried:
    """Try it in a child process.

    Args:
        what: "mock", "ascend", or BACKEND.
        environ: of the child.
        patience: seconds to wait.
    """
    command = [sys.executable, _ENTRY, "doctor", "--probe", what]
    try:
        child = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env=dict(environ),
            timeout=patience,
        )
    except subprocess.TimeoutExpired as late:
        # It may have answered, and hang in its end.
        answered, end = late.stdout, f"no answer within {patience:g} seconds from: probing"
    else:
        answered, code = child.stdout, child.returncode
        killed = f"was killed by {signal.Signals(-code).name}" if code < 0 else ""
        end = f"the probing process {killed or f'ended with exit status {code}'}"
    if not answered:
        return Tried(error=end, kind="NoAnswer")
    tried = pickle.loads(answered)
    assert isinstance(tried, Tried)
    return tried


def answer(what: str) -> int:
    """Be that child process: try it and write what came of it; returns the exit status."""
    # Ctrl-C in a terminal reaches both processes; the parent decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What a library prints goes where the parent's log lines do.
    with os.fdopen(os.dup(1), "wb") as parent:
        os.dup2(2, 1)
        try:
            tried = _choose() if what == BACKEND else _load(what)
        except Exception as error:  # numpy may be missing, for instance: that is what came of it
            tried = _failed(error)
        parent.write(pickle.dumps(tried))
    return 0


def _load(name: str) -> Tried:
    from llm_datadist._native import libraries
    from llm_datadist._native.loader import NativeLibraryError

    try:
        return _describe(libraries.load(name))
    except NativeLibraryError as error:
        return _failed(error)


def _choose() -> Tried:
    from llm_datadist import backends
    from llm_datadist._native.engine import Engine
    from llm_datadist._native.loader import NativeLibraryError
    from llm_datadist.config import LLMRole
    from llm_datadist.options import EngineOptions
    from llm_datadist.status import LLMException

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            tried = _describe(backends.library())
        except (NativeLibraryError, ValueError) as error:
            return _failed(error)
    tried = replace(tried, warnings=tuple(str(warning.message) for warning in caught))
    try:
        Engine(EngineOptions(cluster_id=0, role=LLMRole.MIX)).close()
    except LLMException as error:
        return replace(tried, error=str(error), kind=type(error).__name__)
    return tried


def _failed(error: Exception) -> Tried:
    return Tried(error=str(error), kind=type(error).__name__)


def _commands(native: Facade) -> set[str]:
    from llm_datadist._native.control import control
    from llm_datadist.status import LLMException

    try:
        return {line.split()[0] for line in control(native, "help").splitlines() if line.strip()}
    except LLMException:
        return set()  # a library of another project, which has no commands


def _describe(library: NativeLibrary) -> Tried:
    from llm_datadist._native.facade import Facade

    info = library.info
    tried = Tried(
        name=info.name,
        version=info.version,
        description=info.description,
        path=library.path,
        device_count=info.device_count,
    )
    native = Facade(library.ffi, library.lib)
    commands = _commands(native)
    if "environment" in commands:
        tried = replace(tried, variables=of_mock(native))
    if "memory" in commands:
        tried = replace(tried, memory=memory_of(native))
    if "cpus" in commands:
        tried = replace(tried, cpus=cpus_of(native))
    return tried
