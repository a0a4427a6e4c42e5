# SPDX-License-Identifier: Apache-2.0
"""What keeps the tree in order agrees with itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("tool", ["ruff", "clang-format", "codespell"])
def test_a_commit_is_checked_by_the_versions_of_the_extra(tool: str) -> None:
    """pre-commit installs its tools itself, so it has versions of its own."""
    extra = re.findall(rf'"{tool}==([0-9.]+)"', (ROOT / "pyproject.toml").read_text())
    hooks = re.findall(rf'"{tool}==([0-9.]+)"', (ROOT / ".pre-commit-config.yaml").read_text())
    assert len(extra) == 1
    assert {*hooks} == {*extra}
