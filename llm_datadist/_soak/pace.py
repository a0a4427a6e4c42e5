# SPDX-License-Identifier: Apache-2.0
"""How much longer than usual everything takes, and may take."""

from __future__ import annotations

from llm_datadist.testing.resources import RESIDENT_TELLS

# By how much a sanitizer slows everything down: deadlines, and what disturbs transfers.
FACTOR = 1 if RESIDENT_TELLS else 4
# Seconds that a call may take beyond its deadline.
GRACE = 0.5 * FACTOR
