# SPDX-License-Identifier: Apache-2.0
"""Speaking to the runtime under the engine: commands and answers are text."""

from __future__ import annotations

from .._checks import check_no_null
from ..status import error
from . import facade, marshal
from .facade import Facade

_ANSWER_BYTES = 64 << 10


def runtime_control(command: str, argument: str = "") -> str:
    """Have the runtime of the library in use do something; "help" lists its commands.

    Fixes the library for this process, as opening an engine does. Raises what backends.library()
    raises, and LLMException as the runtime answers.
    """
    return control(facade.current(), command, argument)


def control(native: Facade, command: str, argument: str = "") -> str:
    """As runtime_control, with the runtime of any loaded library; fixes nothing."""
    check_no_null("command", command)
    check_no_null("argument", argument)
    ffi = native.ffi
    needed = ffi.new("uint64_t *", _ANSWER_BYTES)
    while True:
        # Only answers of commands that change nothing are longer than the first try.
        size = needed[0]
        answer = ffi.new("char[]", size)
        status = native.runtime_control(command.encode(), argument.encode(), answer, size, needed)
        if status:
            details = marshal.text(ffi, native.last_error())
            raise error(f"[{command}] {details}", status, native.last_error_raw())
        if needed[0] <= size:
            return marshal.text(ffi, answer)
