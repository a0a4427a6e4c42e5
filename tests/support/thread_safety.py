# SPDX-License-Identifier: Apache-2.0
"""Clang's analysis of the attributes in csrc/base/mutex.h: which lock guards what.

    python -m tests.support.thread_safety

reads every source of both libraries, the Ascend one on the headers of the fake CANN, and prints
what does not hold.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from llm_datadist._native import building, declarations

ROOT = Path(__file__).resolve().parents[2]
FAKE_CANN = ROOT / "tests" / "support" / "fake_cann" / "include"
FOLDERS = (*building.MOCK.folders, "csrc/ascend")
FLAGS = ("-fsyntax-only", "-Wthread-safety", "-Werror")


def find_clang() -> str | None:
    """Return the path of clang++, None without one."""
    return shutil.which("clang++")


def check(clang: str, sources: Iterable[Path]) -> dict[Path, str]:
    """Have clang read sources, as many at a time as there are processors.

    Args:
        clang: path of clang++.
        sources: C++ files, which may include headers of the library.

    Returns:
        What clang says to each file that does not pass.
    """
    with tempfile.TemporaryDirectory() as folder:
        generated = Path(folder)
        layout = declarations.layout_source(
            declarations.parse((ROOT / building.HEADER).read_text())
        )
        (generated / "lldd_layout.inc").write_text(layout)
        flags = [*building.compile_flags(building.MOCK, ROOT, generated), *FLAGS]
        flags += ["-isystem", str(FAKE_CANN)]

        def read(source: Path) -> tuple[Path, str]:
            command = [clang, *flags, str(source)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            return source, done.stderr if done.returncode else ""

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return {source: text for source, text in pool.map(read, sources) if text}


def main() -> int:
    """Check all sources; 1 if one of them does not pass."""
    clang = find_clang()
    if clang is None:
        print("not checked: there is no clang++ (apt-get install clang)")
        return 0
    sources = [path for folder in FOLDERS for path in sorted((ROOT / folder).glob("*.cc"))]
    failed = check(clang, sources)
    print("".join(failed.values()), end="", file=sys.stderr)
    print(f"{len(sources)} sources read, {len(failed)} do not pass")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
