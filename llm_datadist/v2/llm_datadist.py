# SPDX-License-Identifier: Apache-2.0
"""Compatibility: a name that clients import from here (contract 1.1)."""

from ..datadist import LLMDataDist

__all__ = ["LLMDataDist"]
