# SPDX-License-Identifier: Apache-2.0
"""The package, its neighbours and its environment variables: the checks of these for ``doctor``."""

from __future__ import annotations

import difflib
import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Sequence

import llm_datadist
from llm_datadist._native import compiler as native_compiler
from llm_datadist._native import loader
from llm_datadist._version import __version__

from ._findings import Finding, Machine, fail, ok, warn
from ._variables import VARIABLES, Variable

_PREFIX = "LLM_DATADIST_"
_RUNTIME_PREFIX = "LLM_DATADIST_MOCK_"
_SECRETS = ("TOKEN", "SECRET", "PASSWORD")
_FIND = (
    "import importlib.util, sys; "
    # -c puts the current directory first, in which no client need be.
    "sys.path = [entry for entry in sys.path if entry]; "
    "spec = importlib.util.find_spec('llm_datadist'); "
    "print(spec.origin or '' if spec else '')"
)


def plain_import(machine: Machine) -> Finding:
    """Which llm_datadist ``import llm_datadist`` finds: CANN has one of the same name."""
    ours = os.path.realpath(llm_datadist.__file__)
    result = subprocess.run(
        [sys.executable, "-c", _FIND],
        env=dict(machine.environ),
        text=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
    )
    if result.returncode != 0:
        last = result.stderr.strip().rpartition("\n")[2]
        return fail("import", f"{sys.executable} does not run: {last}", "repair this Python")
    found = result.stdout.rpartition("\n")[0].rpartition("\n")[2]
    if os.path.realpath(found) == ours:
        return ok("import", f"'import llm_datadist' takes this package, {ours}", found=found)
    site = os.path.dirname(os.path.dirname(ours))
    if not found:
        return fail(
            "import",
            "'import llm_datadist' finds nothing",
            f"install the package with pip for {sys.executable}, or put {site} on PYTHONPATH",
            found=None,
        )
    return fail(
        "import",
        f"'import llm_datadist' takes {found}, not this package, {ours}",
        f"put {site} in front on PYTHONPATH (export PYTHONPATH={site}:$PYTHONPATH), or take "
        f"{os.path.dirname(os.path.dirname(found))} away from it (CANN's environment script adds "
        "a folder with a package of the same name)",
        found=found,
    )


def versions(machine: Machine) -> Finding:
    """The versions of the package, of Python, and of what the package needs."""
    found = {name: _version_of(name) for name in ("numpy", "cffi")}
    data = {
        "package": __version__,
        "abi": _abi(),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        **found,
    }
    text = (
        f"llm-datadist-cffi {data['package']}, ABI {data['abi']}, "
        f"{platform.python_implementation()} {data['python']}, numpy {data['numpy'] or 'missing'}, "
        f"cffi {data['cffi'] or 'missing'}, {platform.system()} {data['kernel']} {data['machine']}"
    )
    missing = [name for name, version in found.items() if not version]
    if missing:
        return fail("versions", text, f"pip install {' '.join(missing)}", **data)
    return ok("versions", text, **data)


def compiler(machine: Machine) -> Finding:
    """Which C++ compiler would be used."""
    try:
        command = native_compiler.find_compiler()
    except native_compiler.BuildError:
        return ok("compiler", "none; one is needed only to build libraries", version=None)
    version = native_compiler.compiler_version(command)
    return ok("compiler", f"{' '.join(command)}: {version}", version=version)


def environment(machine: Machine, of_mock: Sequence[Variable]) -> list[Finding]:
    """Tell every variable that is read, with its value, and those that look like one.

    Args:
        of_mock: the variables of the mock runtime; none if its library does not load.
    """
    meanings = {each.name: each.meaning for each in (*VARIABLES, *of_mock)}
    findings = []
    for name in sorted(meanings):
        if machine.environ.get(name):
            value = _shown(name, machine.environ[name])
            findings.append(ok(name, value, value=value, meaning=meanings[name]))
    for name in sorted(machine.environ):
        if name in meanings or not name.startswith(_PREFIX):
            continue
        if name.startswith(_RUNTIME_PREFIX) and not of_mock:
            continue  # there is no mock library that could tell its variables
        similar = difflib.get_close_matches(name, meanings, n=2)
        advice = f"unset it, or did you mean {' or '.join(similar)}?" if similar else "unset it"
        value = _shown(name, machine.environ[name])
        findings.append(warn(name, f"{value}; nothing reads this variable", advice))
    unset = [name for name in sorted(meanings) if not machine.environ.get(name)]
    findings.append(ok("not set", ", ".join(unset), names=unset))
    return findings


def _shown(name: str, value: str) -> str:
    return "(a secret)" if any(word in name for word in _SECRETS) else value


def _abi() -> str:
    try:
        lib = loader.declarations().ffi.dlopen(None)
    except loader.NativeLibraryError:
        return "unknown"
    return f"{lib.LLDD_VERSION_MAJOR}.{lib.LLDD_VERSION_MINOR}"


def _version_of(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
