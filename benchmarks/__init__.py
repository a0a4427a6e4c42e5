# SPDX-License-Identifier: Apache-2.0
"""Benchmarks: pulls of this package beside what the machine allows. See README.md."""
