# SPDX-License-Identifier: Apache-2.0
"""Compatibility: the log module lives here (contract 1.1)."""
