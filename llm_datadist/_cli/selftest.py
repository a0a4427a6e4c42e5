# SPDX-License-Identifier: Apache-2.0
"""Run the conformance suite on this machine.

The rules of the interface, between real processes, on each path that the library of this
environment has. With the Ascend library, on devices, that is device memory, registered and
allocated; a test that needs memory of the host in its place is skipped and says so. The variables
for a device host are in docs/ascend.md: LLM_DATADIST_TEST_DEVICES, say 0,1, and
LLM_DATADIST_TEST_DEVICE_IP first of all. Needs pytest, which the extra 'test' of the package
installs: pip install '.[test]' in a checkout, or the wheel's file with [test] behind it.
Arguments after -- go to pytest, such as -- -x -k pull_blocks; it runs in an empty folder, so give
absolute paths. The exit status is pytest's: 0 if no test failed.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent
# In a package that was built, and in a checkout: the folder with pytest's configuration, in which
# the suite is the Python package tests.conformance.
_PLACES = (_PACKAGE / "testing" / "suite", _PACKAGE.parent)
# Seconds that an interrupted suite may take to end its peers.
_PATIENCE = 20.0
_SUITE = Path("tests", "conformance")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the subcommand."""
    parser.add_argument(
        "--backend",
        metavar="NAME",
        help="auto, mock, ascend, or the path of a library (default: LLM_DATADIST_BACKEND)",
    )
    parser.add_argument("pytest", nargs="*", metavar="-- ARGUMENT", help="arguments of pytest")


def run(args: argparse.Namespace) -> int:
    """Run the suite; returns the exit status."""
    from ._probe import BACKEND, in_child

    found = [place for place in _PLACES if (place / _SUITE / "conftest.py").is_file()]
    if not found:
        return _refuse("the package has no conformance suite in it; install it with pip")
    missing = [name for name in ("pytest", "numpy") if importlib.util.find_spec(name) is None]
    if missing:
        return _refuse(f"{' and '.join(missing)} missing: pip install {' '.join(missing)}")
    environment = dict(os.environ)
    if args.backend is not None:
        environment["LLM_DATADIST_BACKEND"] = args.backend
    chosen = in_child(BACKEND, environment)
    if chosen.error:
        return _refuse(f"{chosen.error} ('llm-datadist doctor' tells more)")
    print(f"{chosen.name} {chosen.version}, {chosen.description} ({chosen.path})", flush=True)
    if environment.get("LLM_DATADIST_BACKEND", "") in ("", "auto"):
        # The choice was told above; the tests see no warning of it.
        environment["LLM_DATADIST_BACKEND"] = chosen.name
    # The package that this command belongs to comes first, also for the peers of the tests.
    paths = [str(_PACKAGE.parent), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    # An installed package stays as it is.
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    root = found[0]
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
    command += ["-c", str(root / "pyproject.toml"), "--rootdir", str(root)]
    command += [str(root / _SUITE), *args.pytest]
    # Python also finds modules in the current folder: there must be no llm_datadist in it.
    with tempfile.TemporaryDirectory(prefix="llm-datadist-selftest-") as empty:
        return _wait(subprocess.Popen(command, env=environment, cwd=empty))


def _wait(suite: subprocess.Popen[bytes]) -> int:
    """Wait for pytest; after Ctrl-C, which reaches it, too, until it has said what it had done."""
    try:
        return suite.wait()
    except KeyboardInterrupt:
        try:
            return suite.wait(_PATIENCE)
        except (KeyboardInterrupt, subprocess.TimeoutExpired):
            suite.terminate()
            suite.wait()
            raise KeyboardInterrupt from None


def _refuse(text: str) -> int:
    print(f"llm-datadist selftest: {text}", file=sys.stderr)
    return 2
