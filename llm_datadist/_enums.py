# SPDX-License-Identifier: Apache-2.0
"""The base of the enumerations that are numbers and print as names (contract 1.3)."""

from __future__ import annotations

from enum import IntEnum


class NamedIntEnum(IntEnum):
    """An IntEnum whose str() and f-strings read "Class.MEMBER" on every Python version.

    IntEnum prints as a number from Python 3.11 (str) and 3.12 (f-strings) on, and clients compare
    and log the names.
    """

    def __str__(self) -> str:
        return f"{type(self).__name__}.{self.name}"

    def __format__(self, spec: str) -> str:
        if spec and spec[-1] in "bcdeEfFgGnoxX%":
            return format(int(self), spec)
        return format(str(self), spec)
