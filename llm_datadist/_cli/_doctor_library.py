# SPDX-License-Identifier: Apache-2.0
"""CANN, devices, native libraries and the choice among them: the checks of these for ``doctor``."""

from __future__ import annotations

import fnmatch
import os
import platform

from llm_datadist._native import cann, libraries, loader
from llm_datadist.backends import ENVIRONMENT_VARIABLE

from ._doctor_host import why_no_cma, why_no_connection, why_no_mapped
from ._findings import Finding, Machine, fail, ok, warn
from ._probe import Tried

TRANSPORT_VARIABLE = "LLM_DATADIST_MOCK_TRANSPORT"
TRANSPORTS = ("mapped", "cma", "tcp")
# Not the manager of the driver, whose file is there without any device.
_DEVICE = "davinci[0-9]*"
_USE_MOCK = f"set {ENVIRONMENT_VARIABLE}=mock to move the bytes through host memory"
_BUILD = "llm-datadist build-ascend"
_FROM_SOURCE = "pip install --force-reinstall --no-binary llm-datadist-cffi llm-datadist-cffi"


# ---- CANN and devices ----


def toolkit(machine: Machine) -> Finding:
    """Which CANN toolkit is here, and whether one can build against it."""
    gone = [
        f"{place.root} ({place.reason})"
        for place in cann.places(machine.environ)
        if place.reason.startswith("$") and not place.root.is_dir()
    ]
    if gone:
        return warn(
            "toolkit",
            f"{gone[0]} does not exist",
            "source the environment script of the toolkit that is installed, or unset the variable",
        )
    found = cann.present(machine.environ)
    if not found:
        return ok("toolkit", "there is none", root=None)
    place = found[0]
    version = cann.version(place.root)
    text = f"{version or 'of unknown version'} in {place.root} ({place.reason})"
    data = {"root": str(place.root), "version": version}
    try:
        cann.find([place])
    except cann.ToolkitError as error:
        return warn("toolkit", f"{text}; {error}", f"install all of it to run '{_BUILD}'", **data)
    return ok("toolkit", f"{text}, complete for '{_BUILD}'", **data)


def devices(machine: Machine, ascend: Tried) -> Finding:
    """Which device files there are, and how many devices the library counts."""
    names = sorted(fnmatch.filter(_entries(machine.path("dev")), _DEVICE))
    counted = f"; the Ascend library counts {ascend.device_count}" if ascend.path else ""
    data = {"files": names, "counted": ascend.device_count if ascend.path else None}
    if not names:
        return ok("devices", f"no /dev/{_DEVICE}{counted}", **data)
    text = f"{', '.join(f'/dev/{name}' for name in names)}{counted}"
    paths = [machine.path(f"dev/{name}") for name in names]
    closed = [path for path in paths if not os.access(path, os.R_OK | os.W_OK)]
    if closed:
        return warn(
            "devices",
            f"{text}; this user may not open {closed[0]}",
            f"become a member of its group (ls -l {closed[0]})",
            **data,
        )
    if ascend.path and ascend.device_count == 0:
        return warn("devices", text, "see whether the driver works: npu-smi info", **data)
    return ok("devices", text, **data)


def _entries(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


# ---- libraries ----


def library(name: str, tried: Tried) -> Finding:
    """Where a library was found, and whether it loads and fits.

    Args:
        name: "mock" or "ascend".
        tried: what came of loading it.
    """
    if tried.path:
        text = f"{tried.path} loads: {tried.name} {tried.version}, {tried.description}"
        return ok(name, text, path=tried.path, device_count=tried.device_count)
    if name == "ascend" and _is_absent(tried):
        folders = [libraries.PACKAGED, libraries.user_folder()]
        where = " and ".join(folder for folder in folders if folder)
        return ok(name, f"there is none (looked in {where})", path=None)
    return warn(name, tried.error, _library_advice(name, tried.error), path=None)


def _is_absent(tried: Tried) -> bool:
    return tried.error.endswith(loader.ABSENT)


def _library_advice(name: str, error: str) -> str:
    # "... version `GLIBC_2.38' not found (required by ...)", and the same of GLIBCXX.
    if "version `GLIBC" in error and "not found" in error:
        here = " ".join(platform.libc_ver())
        how = _BUILD if name == "ascend" else _FROM_SOURCE
        return f"it was built for a newer system; this one has {here}. Build it here: {how}"
    if name == "mock":
        return loader.ADVICE
    if "cannot open shared object file" in error:
        return f"source CANN's environment script (set_env.sh), or build it again: {_BUILD}"
    return f"build it again: {_BUILD}"


def backend(machine: Machine, chosen: Tried) -> Finding:
    """Which library an engine would be opened on in this environment, and whether it opens."""
    named = machine.environ.get(ENVIRONMENT_VARIABLE, "")
    why = f"{ENVIRONMENT_VARIABLE} is {named}" if named else f"{ENVIRONMENT_VARIABLE} is not set"
    if chosen.path and not chosen.error:
        text = f"{chosen.name} ({why}); an engine opens"
        if chosen.warnings:
            text += f". Told to each client: {chosen.warnings[0]}"
        return ok("backend", text, chosen=chosen.name, path=chosen.path)
    data = {"chosen": chosen.name or None, "path": chosen.path or None}
    if chosen.path:
        text = f"{chosen.name} ({why}), but no engine opens: {chosen.error}"
        return fail("backend", text, _engine_advice(chosen), **data)
    return fail(
        "backend", f"{why}: {chosen.error}", _backend_advice(machine, named, chosen), **data
    )


def _engine_advice(chosen: Tried) -> str:
    if chosen.name == "mock":
        return "correct what the error names; the section Environment lists what is set"
    return f"see whether the device works (npu-smi info), or {_USE_MOCK}"


def _backend_advice(machine: Machine, named: str, chosen: Tried) -> str:
    if chosen.kind == "ValueError":
        return f"correct {ENVIRONMENT_VARIABLE}"
    if named in ("", "auto", "ascend"):
        try:
            cann.find(cann.places(machine.environ))
        except cann.ToolkitError:
            return f"install a CANN toolkit and run '{_BUILD}', or {_USE_MOCK}"
        return f"run '{_BUILD}', or {_USE_MOCK}"
    return loader.ADVICE if named == "mock" else f"name another library with {ENVIRONMENT_VARIABLE}"


# ---- transports of the mock runtime ----


def transport(machine: Machine, name: str) -> Finding:
    """Whether one of TRANSPORTS may and can be used, and for what."""
    allowed = machine.environ.get(TRANSPORT_VARIABLE)
    if allowed and name not in allowed.split(","):
        return ok(name, f"not used: {TRANSPORT_VARIABLE} is {allowed}", usable=False)
    if name == "mapped":
        why_not, use = why_no_mapped(), "allocated caches of peers on this host"
    elif name == "cma":
        why_not, use = why_no_cma(machine), "registered memory of peers on this host"
    else:
        why_not, use = why_no_connection("127.0.0.1"), "anything, and every peer elsewhere"
    if not why_not:
        return ok(name, f"usable, for {use}", usable=True)
    if name == "tcp":
        return warn(name, why_not, "see Ports", usable=False)
    return warn(name, f"{why_not}; that goes over TCP, slower", "see Kernel", usable=False)
