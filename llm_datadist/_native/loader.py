# SPDX-License-Identifier: Apache-2.0
"""Opens a native library and refuses one that does not fit this package.

cffi in ABI mode takes offsets and sizes from the declarations that were compiled into ``_ffi.py``
and cannot see those of the library. So a library is used only after this handshake, each step
relying on the ones before:

1. ``lldd_version``: same major and minor version;
2. ``lldd_fingerprint``: built from the same declarations;
3. every declared function is there;
4. ``lldd_layout``: the library's compiler laid out every struct as cffi does;
5. ``lldd_runtime_describe`` answers.
"""

from __future__ import annotations

import importlib
import os
import threading
from dataclasses import dataclass
from enum import IntFlag
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from ._ffi import FFI, Lib, Module

Absent = tuple[type[Exception], ...]

ABSENT = "there is no such library"
ADVICE = "reinstall llm-datadist-cffi so that the package and its library are of one build"


class NativeLibraryError(ImportError):
    """A native library is missing, cannot be loaded, or does not fit this package."""


class Capability(IntFlag):
    """What a runtime can do beside what all can: the header's ``LLDD_CAN_*`` bits.

    Bits that this package does not know, of a newer library, are kept.
    """

    DEVICE_TO_DEVICE = 1
    HOST_REMOTE = 2
    INJECT_FAULTS = 4


@dataclass(frozen=True)
class RuntimeInfo:
    """What a library drives."""

    name: str
    version: str
    description: str
    device_count: int
    capabilities: Capability


@dataclass(frozen=True)
class NativeLibrary:
    """A library that passed the handshake: cffi's two objects, where it is, what it drives."""

    ffi: FFI
    lib: Lib
    path: str
    info: RuntimeInfo


_lock = threading.Lock()
_loaded: dict[str, NativeLibrary] = {}
# Also the refused ones: their constructors ran, and a library that is closed takes its code away
# from whatever thread it may have started.
_opened: list[Lib] = []


def load(path: str | os.PathLike[str]) -> NativeLibrary:
    """Open the library at an absolute path, or return it if this process has it already.

    Raises NativeLibraryError, whose text names the library, what does not fit, and what to do.
    """
    where = os.fspath(path)
    if not os.path.isabs(where):
        raise NativeLibraryError(f"{where}: the path of a native library must be absolute")
    with _lock:
        if where not in _loaded:
            _loaded[where] = _load(where)
        return _loaded[where]


def declarations() -> Module:
    """Return the module that cffi generated from the header.

    Raises NativeLibraryError if there is none, or no cffi.
    """
    name = "llm_datadist._native._ffi"
    try:
        return cast("Module", importlib.import_module(name))
    except ModuleNotFoundError as error:
        if error.name != name:
            raise NativeLibraryError(f"{error}: pip install cffi") from error
        raise NativeLibraryError(
            f"{name} was not generated: this is a source tree that was not built "
            f"({os.path.dirname(os.path.abspath(__file__))}). Build it ('pip install -e .' there), "
            "or start Python in another directory to use an installed package"
        ) from error


def _load(path: str) -> NativeLibrary:
    generated = declarations()
    if not os.path.exists(path):
        raise NativeLibraryError(f"{path}: {ABSENT}", path=path)
    ffi = generated.ffi
    flags = ffi.RTLD_NOW | ffi.RTLD_LOCAL
    # Interpreter exit destroys the handle while the library's threads may still run.
    flags |= getattr(ffi, "RTLD_NODELETE", 0)
    try:
        lib = ffi.dlopen(path, flags)
    except OSError as error:
        raise NativeLibraryError(f"{path}: cannot be loaded: {error}", path=path) from error
    _opened.append(lib)
    # Of an absent function, older releases of cffi say AttributeError and newer ones ffi.error.
    absent = (AttributeError, ffi.error)
    _check_version(lib, path, absent)
    _check_fingerprint(lib, path, generated.FINGERPRINT, absent)
    _check_functions(lib, path, absent)
    _check_layout(ffi, lib, path)
    return NativeLibrary(ffi=ffi, lib=lib, path=path, info=_describe(ffi, lib, path))


def _refuse(path: str, what: str) -> NativeLibraryError:
    return NativeLibraryError(f"{path}: {what}; {ADVICE}", path=path)


def _check_version(lib: Lib, path: str, absent: Absent) -> None:
    try:
        version = lib.lldd_version()
    except absent as error:
        raise NativeLibraryError(
            f"{path}: is not a library of llm_datadist (it has no lldd_version)", path=path
        ) from error
    expected = (lib.LLDD_VERSION_MAJOR, lib.LLDD_VERSION_MINOR)
    found = (version >> 16, version & 0xFFFF)
    if found != expected:
        raise _refuse(
            path,
            f"has version {found[0]}.{found[1]} of the ABI, this package needs "
            f"{expected[0]}.{expected[1]}",
        )


def _check_fingerprint(lib: Lib, path: str, expected: int, absent: Absent) -> None:
    try:
        found = lib.lldd_fingerprint()
    except absent as error:
        raise _refuse(path, "has no lldd_fingerprint") from error
    if found != expected:
        raise _refuse(
            path,
            f"was built from other declarations (fingerprint {found:#018x}, this package has "
            f"{expected:#018x})",
        )


def _check_functions(lib: Lib, path: str, absent: Absent) -> None:
    missing = []
    for name in dir(lib):
        try:
            getattr(lib, name)
        except absent:
            missing.append(name)
    if missing:
        raise _refuse(path, f"lacks {', '.join(sorted(missing))}")


def expected_layout(ffi: FFI) -> dict[tuple[str, str], tuple[int, int]]:
    """Return cffi's view of every struct: (struct, member) -> (offset, size) in bytes.

    The struct itself stands under the empty member name, at offset 0.
    """
    table = {}
    for name in ffi.list_types()[0]:
        ctype = ffi.typeof(name)
        if ctype.kind != "struct":
            continue
        try:
            # Asked first: reading the fields of an opaque struct ends the process in cffi 2.1.
            table[name, ""] = (0, ffi.sizeof(ctype))
        except ffi.error:
            continue
        for member, field in ctype.fields:
            table[name, member] = (field.offset, ffi.sizeof(field.type))
    return table


def _check_layout(ffi: FFI, lib: Lib, path: str) -> None:
    count = ffi.new("uint64_t *")
    rows = lib.lldd_layout(count)
    if rows == ffi.NULL:
        raise _refuse(path, "has no layout table")
    found = {}
    for row in ffi.unpack(rows, count[0]):
        key = (ffi.string(row.type).decode(), ffi.string(row.field).decode())
        found[key] = (row.offset, row.size)
    expected = expected_layout(ffi)
    for key in [*expected, *found]:
        if expected.get(key) != found.get(key):
            name = ".".join(part for part in key if part)
            raise _refuse(
                path,
                f"lays out {name} differently: {_place(found.get(key))} there, "
                f"{_place(expected.get(key))} in this package",
            )


def _place(place: tuple[int, int] | None) -> str:
    return "nothing" if place is None else f"{place[1]} bytes at offset {place[0]}"


def _describe(ffi: FFI, lib: Lib, path: str) -> RuntimeInfo:
    info = ffi.new("lldd_runtime_info *")
    info.struct_size = ffi.sizeof("lldd_runtime_info")
    status = lib.lldd_runtime_describe(info)
    if status != lib.LLDD_SUCCESS:
        name = ffi.string(lib.lldd_status_name(status)).decode()
        detail = ffi.string(lib.lldd_last_error()).decode(errors="replace")
        raise NativeLibraryError(f"{path}: cannot describe itself: {name}: {detail}", path=path)
    return RuntimeInfo(
        name=ffi.string(info.name).decode(),
        version=ffi.string(info.version).decode(),
        description=ffi.string(info.description).decode(errors="replace"),
        device_count=info.device_count,
        capabilities=Capability(info.capabilities),
    )
