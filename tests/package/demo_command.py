# SPDX-License-Identifier: Apache-2.0
"""The command line of the demo."""

from __future__ import annotations

import sys

# Longer than any run here takes on a slow machine; a hang is a failure, not a stuck test run.
RUN_SECONDS = 120

# 2 layers: 4 tensors of 8 blocks of 4 x 2 x 16 x 2 = 256 bytes.
SMALL = ["--layers=2", "--kv-heads=2", "--head-dim=16", "--block-tokens=4", "--blocks=8"]


def command(*arguments):
    return [sys.executable, "-m", "llm_datadist", "demo", *arguments]
