# SPDX-License-Identifier: Apache-2.0
"""Tries a library, or the choice of the backend, in a process of its own.

Loading a library runs its code, and that of what it needs: it may end the process, or hang.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ._host import AvailableMemory, UsableCpus, cpus_of, memory_of
from ._processes import PeerFailure, Peers, serve
from ._variables import Variable, of_mock

if TYPE_CHECKING:
    from llm_datadist._native.facade import Facade
    from llm_datadist._native.loader import NativeLibrary

# A device library may have to wake its device up.
PATIENCE = 120.0
# Instead of a library: the one that would be chosen, and an engine on it.
BACKEND = "backend"
_CHILD = "probing"


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
    try:
        with Peers() as peers:
            peers.start(_CHILD, ["doctor", "--probe-channel"], environ)
            tried = peers.ask({_CHILD: what}, patience)[_CHILD]
    except PeerFailure as failure:
        return Tried(error=str(failure), kind=type(failure).__name__)
    assert isinstance(tried, Tried)
    return tried


def answer(channel: int) -> int:
    """Be that child process, given the channel's descriptor; returns the exit status."""
    serve(channel, lambda what: _choose() if what == BACKEND else _load(what))
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
        return set()  # a library of somebody else's, which has no commands


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
