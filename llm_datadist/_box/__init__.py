# SPDX-License-Identifier: Apache-2.0
"""Boxes: what an engine wrote down of what it was asked, read and put together (docs/trace.md)."""
