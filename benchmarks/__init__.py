# SPDX-License-Identifier: Apache-2.0
"""Comparisons that need a checkout. See README.md."""
