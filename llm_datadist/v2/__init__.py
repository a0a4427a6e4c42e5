# SPDX-License-Identifier: Apache-2.0
"""Compatibility: the modules of CANN's package that clients import from (contract 1.1)."""
