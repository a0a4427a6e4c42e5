# SPDX-License-Identifier: Apache-2.0
"""What is run before a change goes in, each in a virtual environment of its own.

    nox                    lint, types and docs: what .ci/run begins with
    nox -s docs            the documentation site, in build/site/; every warning is an error
    nox -s tests           the test suite; arguments after -- go to pytest
    nox -s coverage        lines and branches of Python, engine and mock: half an hour
    nox -s tidy            clang-tidy, on what build/compile_commands.json lists
    nox -s threads         clang's check of which lock guards what, in all C++ sources
    nox -s format          rewrite what ruff and clang-format would write otherwise
    nox -s abi             what the C ABI promised is there, by release/abi and abidiff
    nox -s wheels          the wheels of a release into dist/, see release/wheels.py
    nox -s systems         try them in clean Debian systems, as root, see release/roots.py
    nox -s release         all of a release but the upload, in a clean clone, see docs/release.md

With --no-venv the tools on PATH are taken, which ``pip install -e '.[test,dev]'`` installs.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nox
from nox.virtualenv import PassthroughEnv

ROOT = Path(__file__).resolve().parent
PROJECT = nox.project.load_toml(ROOT / "pyproject.toml")["project"]
DEV = PROJECT["optional-dependencies"]["dev"]
CPP = ("*.cc", "*.h", "*.c")

nox.options.sessions = ["lint", "types", "docs"]


def _install(session: nox.Session, *packages: str) -> None:
    if not isinstance(session.virtualenv, PassthroughEnv):
        session.install(*packages)


def _tracked(session: nox.Session, *patterns: str) -> list[str]:
    listed = session.run("git", "ls-files", "--", *patterns, external=True, silent=True)
    return str(listed).split()


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, spelling and format of Python and C++."""
    _install(session, *DEV)
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("codespell", *_tracked(session), log=False)
    session.run("clang-format", "--dry-run", "-Werror", *_tracked(session, *CPP), log=False)


@nox.session(name="format")
def format_all(session: nox.Session) -> None:
    """Write Python and C++ as the formatters have it."""
    _install(session, *DEV)
    session.run("ruff", "check", "--fix", ".")
    session.run("ruff", "format", ".")
    session.run("clang-format", "-i", *_tracked(session, *CPP))


@nox.session
def types(session: nox.Session) -> None:
    """Check the types of the package, with the declarations that its build generates."""
    _install(session, "-e", ".[test,dev]")
    session.run("mypy")


@nox.session
def docs(session: nox.Session) -> None:
    """Check docs/fidelity.md, write the site to build/site/, and follow every link in it."""
    _install(session, "-e", ".[test,docs]")
    session.run("python", "docs/fidelity.py")
    session.run("git", "diff", "--exit-code", "--", "docs/fidelity.md", external=True)
    # What was there may be of pages that are gone.
    shutil.rmtree(ROOT / "build" / "site", ignore_errors=True)
    options = ["--fresh-env", "--fail-on-warning", "--quiet", "--jobs=auto", "--conf-dir=docs/site"]
    doctrees = "--doctree-dir=build/site-doctrees"
    session.run("python", "-m", "sphinx", "build", *options, doctrees, ".", "build/site")
    session.run("python", "docs/site/links.py", "build/site")


@nox.session
def tests(session: nox.Session) -> None:
    """Run the test suite."""
    _install(session, "-e", ".[test]")
    session.run("python", "-m", "pytest", *session.posargs)


@nox.session
def tidy(session: nox.Session) -> None:
    """Run clang-tidy on every source of the mock library."""
    _install(session, "-e", ".[dev]")
    commands = json.loads((ROOT / "build" / "compile_commands.json").read_text())
    sources = session.posargs or [command["file"] for command in commands]

    def check(source: str) -> None:
        session.run("clang-tidy", "--quiet", "-p", "build", source, silent=True)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(check, sources))


@nox.session
def threads(session: nox.Session) -> None:
    """Have clang check which lock guards what, in the sources of both libraries."""
    _install(session, "-e", ".[test]")
    session.run("python", "-m", "tests.support.thread_safety")


@nox.session
def coverage(session: nox.Session) -> None:
    """Measure which lines and branches of Python, engine and mock the suite runs."""
    _install(session, "-e", ".[test,coverage]")
    session.run("python", "-m", "tests.coverage", *session.posargs)


@nox.session
def abi(session: nox.Session) -> None:
    """Compare the C ABI with what release/abi records; with abidiff, too, where it is installed."""
    _install(session, "-e", ".[test]")
    session.run("python", "-m", "release.abi", "--abidiff")


@nox.session
def wheels(session: nox.Session) -> None:
    """Build the source distribution and the wheels; arguments after -- go to release.wheels."""
    _install(session, *PROJECT["optional-dependencies"]["release"])
    session.run("python", "-m", "release.wheels", *session.posargs)


@nox.session
def systems(session: nox.Session) -> None:
    """Try the wheels of dist/ in clean Debian systems; arguments after -- go to release.roots."""
    session.run("python", "-m", "release.roots", *(session.posargs or ["dist"]))


@nox.session
def release(session: nox.Session) -> None:
    """Try a release in a clean clone of HEAD, all but the upload.

    After --: --final as on the day of the release, --no-systems without the clean systems.
    """
    python = ".venv/bin/python"
    steps = [
        ["python3", "-m", "venv", ".venv"],
        [python, "-m", "pip", "-q", "install", "-e", ".[test,dev,docs,release]"],
        [python, "-m", "release.checks", *({"--final"} & {*session.posargs})],
        [python, "-m", "release.abi", "--exact", "--abidiff"],
        [".venv/bin/nox", "--no-venv", "--stop-on-first-error", "-s", "lint", "types", "docs"],
        [python, "-m", "release.wheels", f"--output={ROOT / 'dist'}"],
    ]
    systems = [python, "-m", "release.roots", str(ROOT / "dist"), f"--cache={ROOT / 'build/roots'}"]
    if shutil.which("musl-gcc"):
        steps.append([python, "-m", "release.musl", str(ROOT / "dist")])
    if os.geteuid() == 0 and "--no-systems" not in session.posargs:
        steps.append(systems)
    with tempfile.TemporaryDirectory() as work:
        clone = Path(work) / "clone"
        session.run("git", "clone", "--quiet", str(ROOT), str(clone), external=True)
        path = f"{clone / '.venv/bin'}{os.pathsep}{os.environ['PATH']}"
        with session.chdir(clone):
            for step in steps:
                session.run(*step, external=True, env={"PATH": path, "PYTHONPATH": ""})
    if systems not in steps:
        session.warn(f"left out, for root to run: {' '.join(systems[1:])}")
