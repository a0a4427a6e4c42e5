# SPDX-License-Identifier: Apache-2.0
"""Which native library this process uses.

First that is given counts: the explicit argument, :func:`select`, the environment variable
``LLM_DATADIST_BACKEND``, and then ``auto``. A backend is named ``auto``, ``mock``, ``ascend``, or
by the absolute path of a library; the current directory is never searched.

``auto`` takes ``ascend`` if that library loads and reports a device. If it does not, but the
machine has a CANN toolkit or an Ascend device, that is an error: silently moving bytes through host
memory there would be the wrong answer. On any other machine it takes ``mock``, with one warning.

The choice is made for the whole process when the first engine is opened.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass

from llm_datadist._native import cann, libraries, loader
from llm_datadist._native.loader import Capability, NativeLibrary, NativeLibraryError

ENVIRONMENT_VARIABLE = "LLM_DATADIST_BACKEND"
LEGAL = "auto, mock, ascend, or the absolute path of a library"


@dataclass(frozen=True)
class BackendInfo:
    """The library in use.

    ``device_count`` devices can be opened, numbered from 0; ``version`` is the library's own.
    """

    name: str
    version: str
    path: str
    description: str
    device_count: int
    capabilities: Capability


class _Choice:
    """What was chosen so far; one for the process."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.selected: str | None = None
        self.fixed: NativeLibrary | None = None
        self.warned = False


_choice = _Choice()


def select(backend: str | os.PathLike[str]) -> None:
    """Choose the library for this process, before the first engine is opened.

    Args:
        backend: ``auto``, ``mock``, ``ascend``, or the absolute path of a library.

    Raises:
        ValueError: another name, or a relative path.
        NativeLibraryError: the library cannot be used.
        RuntimeError: another library is in use already.
    """
    name = _legal(os.fspath(backend), "select()")
    with _choice.lock:
        chosen = _find(name)
        _refuse_change(chosen)
        _choice.selected = name


def library(backend: str | os.PathLike[str] | None = None) -> NativeLibrary:
    """Return the library that engines are opened with, and fix it for this process.

    Args:
        backend: as for :func:`select`; None: what was selected, the environment, ``auto``.

    Raises:
        ValueError: a name that is not legal.
        NativeLibraryError: the library cannot be used.
        RuntimeError: ``backend`` is not the library in use.
    """
    with _choice.lock:
        if backend is None:
            if _choice.fixed is None:
                _choice.fixed = _current()
            return _choice.fixed
        chosen = _find(_legal(os.fspath(backend), "the backend argument"))
        _refuse_change(chosen)
        _choice.fixed = chosen
        return chosen


def backend_info() -> BackendInfo:
    """Describe the library in use, or the one that would be used as things stand.

    Fixes nothing. Raises as :func:`library` does.
    """
    with _choice.lock:
        chosen = _choice.fixed or _current()
    return BackendInfo(
        name=chosen.info.name,
        version=chosen.info.version,
        path=chosen.path,
        description=chosen.info.description,
        device_count=chosen.info.device_count,
        capabilities=chosen.info.capabilities,
    )


# What the stand-in for CANN of this project's tests says of itself, unless it is told otherwise.
_STAND_IN = "in host memory"


def device_memory_has_host_addresses() -> bool:
    """Tell whether device memory of the library in use can be touched through its address."""
    info = backend_info()
    return info.name != "ascend" or _STAND_IN in info.description


def _current() -> NativeLibrary:
    if _choice.selected is not None:
        return _find(_choice.selected)
    value = os.environ.get(ENVIRONMENT_VARIABLE, "")
    return _find(_legal(value or "auto", ENVIRONMENT_VARIABLE))


def _legal(name: str, source: str) -> str:
    if name not in ("auto", "mock", "ascend") and not os.path.isabs(name):
        raise ValueError(f"{source} names the backend {name!r}; legal are {LEGAL}")
    return name


def _refuse_change(chosen: NativeLibrary) -> None:
    fixed = _choice.fixed
    if fixed is not None and fixed.path != chosen.path:
        raise RuntimeError(
            f"this process uses {fixed.path} already and cannot change to {chosen.path}; "
            "choose a backend before the first engine is opened"
        )


def _find(name: str) -> NativeLibrary:
    if name == "auto":
        return _automatic()
    return loader.load(name) if os.path.isabs(name) else libraries.load(name)


def _automatic() -> NativeLibrary:
    failure: NativeLibraryError | None = None
    try:
        ascend = libraries.load("ascend")
        if ascend.info.device_count > 0:
            return ascend
        obstacle = f"{ascend.path} reports no device ({ascend.info.description})"
    except NativeLibraryError as error:
        failure, obstacle = error, str(error)
    signs = _signs_of_ascend()
    if signs:
        raise NativeLibraryError(
            f"this machine has {', '.join(signs)}, but the Ascend library cannot be used: "
            f"{obstacle}. Build it with 'llm-datadist build-ascend' ('llm-datadist doctor' tells "
            f"more), or set {ENVIRONMENT_VARIABLE}=mock to move the bytes through host memory"
        ) from failure
    mock = libraries.load("mock")
    _warn_once(
        "no Ascend device was found: llm_datadist uses its mock runtime, which moves the bytes "
        f"through host memory; set {ENVIRONMENT_VARIABLE}=mock to choose it without this warning"
    )
    return mock


def _signs_of_ascend() -> list[str]:
    """Say what on this machine makes one expect a device."""
    return [
        *(f"a CANN toolkit in {place.root}" for place in cann.present()[:1]),
        *(f"the device {path}" for path in cann.devices()[:1]),
    ]


def _warn_once(text: str) -> None:
    from llm_datadist.status import warn

    if not _choice.warned:
        _choice.warned = True
        warn(text)
