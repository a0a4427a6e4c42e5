# SPDX-License-Identifier: Apache-2.0
"""Boxes of processes that were killed: nothing is torn, and nothing is missing."""

from __future__ import annotations

from pathlib import Path

from tests.box import kills


def test_either_end_may_be_killed_at_any_point(folder: Path) -> None:
    assert kills.run(folder, times=4, seed=8) >= 4 * 60
