# SPDX-License-Identifier: Apache-2.0
"""The files of the repository, for tests of how they are written."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def name_of(path: Path) -> str:
    """Return the path from the root."""
    return path.relative_to(ROOT).as_posix()


def native_sources() -> list[Path]:
    """Return the C++ files of the library and of its runtimes."""
    return sorted(
        path
        for folder in ("csrc", "mock_runtime")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".h", ".cc")
    )
