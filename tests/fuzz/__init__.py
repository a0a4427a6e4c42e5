# SPDX-License-Identifier: Apache-2.0
"""Fuzz targets for what reads bytes from outside: see docs/development.md."""
