# SPDX-License-Identifier: Apache-2.0
"""A plugin of pytest that notes which lines of one file run, and writes the others into a file.

For tests that run a pytest of their own: LINES_OF is the file, LINES_MISSED where they are written,
one number per line.
"""

from __future__ import annotations

import dis
import os
import sys
import threading
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

_FILE = os.path.realpath(os.environ["LINES_OF"])
_ran: set[int] = set()


def lines_of(code: CodeType) -> set[int]:
    """Return the lines of a code object and of those in it that do something."""
    found = {line for _, line in dis.findlinestarts(code) if line}
    # The first line of a function is its def, which belongs to the code around it.
    if code.co_name != "<module>":
        found.discard(code.co_firstlineno)
    return found.union(*(lines_of(each) for each in code.co_consts if isinstance(each, CodeType)))


def _trace(frame: FrameType, event: str, argument: Any) -> Any:
    if frame.f_code.co_filename != _FILE:
        return None
    _ran.add(frame.f_lineno)
    return _trace


def pytest_configure() -> None:
    threading.settrace(_trace)
    sys.settrace(_trace)


def pytest_unconfigure() -> None:
    sys.settrace(None)
    threading.settrace(None)  # type: ignore[arg-type]
    code = compile(Path(_FILE).read_text(), _FILE, "exec")
    missed = sorted(lines_of(code) - _ran)
    Path(os.environ["LINES_MISSED"]).write_text("".join(f"{line}\n" for line in missed))
