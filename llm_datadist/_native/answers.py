# SPDX-License-Identifier: Apache-2.0
"""What the library answers to a call that fails."""

from __future__ import annotations

from ..status import LLMException, native_error
from . import marshal
from .facade import Facade


def failure(native: Facade, name: str, status: int) -> LLMException:
    """Make the exception of this thread's last call, which answered a status that is not success.

    Args:
        native: the library that was called.
        name: of the operation, for the text.
        status: what was answered.
    """
    details = marshal.text(native.ffi, native.last_error())
    return native_error(name, status, details, native.last_error_raw())
