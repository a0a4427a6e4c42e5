# SPDX-License-Identifier: Apache-2.0
"""Compatibility: names that clients import from here (contract 1.1)."""

from .config import LLMClusterInfo, LlmConfig, LLMRole

__all__ = ["LLMClusterInfo", "LLMRole", "LlmConfig"]
