# SPDX-License-Identifier: Apache-2.0
"""Files that are written for users."""

from __future__ import annotations

import os
from contextlib import suppress


def write_whole(file: str, content: bytes) -> None:
    """Write a file, or leave what was there. Raises OSError."""
    fresh = f"{file}.{os.getpid()}.new"
    try:
        with open(fresh, "wb") as writing:
            writing.write(content)
        os.replace(fresh, file)
    except OSError:
        with suppress(FileNotFoundError):
            os.unlink(fresh)
        raise
