# SPDX-License-Identifier: Apache-2.0
"""Say what keeps a tree from being released.

    python -m release.checks            as on any day
    python -m release.checks --final    as on the day of the release: CHANGELOG.md has its date

The version stands in ``llm_datadist/_version.py``; setuptools, the library and the documentation
read it there. The C header has major and minor version, since a C program has no other place to
read them, and CHANGELOG.md says what is new in the version.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def version_of(tree: Path) -> str:
    """Return the version of a tree; raises ValueError if it has none."""
    text = (tree / "llm_datadist" / "_version.py").read_text()
    found = re.search(r'^__version__ = "(\d+\.\d+\.\d+)"$', text, re.MULTILINE)
    if found is None:
        raise ValueError('llm_datadist/_version.py has no line such as __version__ = "0.1.0"')
    return found[1]


def _header_version(tree: Path) -> str:
    text = (tree / "csrc" / "include" / "llm_datadist.h").read_text()
    return ".".join(re.findall(r"^#define LLDD_VERSION_(?:MAJOR|MINOR) (\d+)$", text, re.MULTILINE))


def _changelog_problem(tree: Path, version: str, final: bool) -> list[str]:
    text = (tree / "CHANGELOG.md").read_text()
    newest = re.search(r"^## (\S+)(?: \((.*)\))?$", text, re.MULTILINE)
    if newest is None or newest[1] != version:
        heading = newest[0] if newest else "no heading"
        return [f"CHANGELOG.md begins with {heading!r}, the version is {version}"]
    dated = re.fullmatch(r"\d{4}-\d\d-\d\d", newest[2] or "")
    if final and not dated:
        return [f"CHANGELOG.md says {newest[0]!r}: a release has its date, (YYYY-MM-DD), there"]
    if not dated and newest[2] != "unreleased":
        return [f"CHANGELOG.md says {newest[0]!r}: (unreleased) or a date is meant"]
    return []


def _tags(tree: Path) -> list[str]:
    if not (tree / ".git").exists():
        return []
    done = subprocess.run(["git", "tag"], cwd=tree, text=True, capture_output=True, check=True)
    return done.stdout.split()


def problems(tree: Path = ROOT, final: bool = False) -> list[str]:
    """Return what is wrong, a sentence each; nothing if the tree can be released."""
    version = version_of(tree)
    minor = version.rpartition(".")[0]
    found = _changelog_problem(tree, version, final)
    if _header_version(tree) != minor:
        found.append(f"llm_datadist.h says {_header_version(tree)}, the version is {version}")
    if not (tree / "release" / "abi" / minor / "layout.txt").exists():
        found.append(f"release/abi has no {minor}: python -m release.abi --write")
    if final and f"v{version}" in _tags(tree):
        found.append(f"the tag v{version} exists: the next version is another one")
    return found


def main() -> int:
    """Print the problems; return 1 if there are any."""
    parser = argparse.ArgumentParser(prog="python -m release.checks", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--final", action="store_true", help="as on the day of the release")
    found = problems(final=parser.parse_args().final)
    for problem in found:
        print(problem)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
