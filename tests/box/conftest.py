# SPDX-License-Identifier: Apache-2.0
"""A folder for boxes, which engines of the test use."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLM_DATADIST_BOX", str(tmp_path))
    monkeypatch.setenv("LLM_DATADIST_BACKEND", "mock")
    return tmp_path
