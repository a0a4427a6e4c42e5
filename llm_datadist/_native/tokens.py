# SPDX-License-Identifier: Apache-2.0
"""What ends a transfer early, and knows how long its caller has waited for it."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any

from . import answers

if TYPE_CHECKING:
    from .facade import Facade

_UINT32_MAX = 2**32 - 1


class Token:
    """A token of the library, for one transfer that was asked for when it is made.

    Raises LLMException as lldd_token_new answers.
    """

    def __init__(self, native: Facade) -> None:
        self._native = native
        out = native.ffi.new("lldd_token **")
        status = native.token_new(out)
        if status:
            raise answers.failure(native, "token", status)
        self._handle = native.ffi.gc(out[0], native.token_free)
        self._start = monotonic()

    def cancel(self) -> None:
        """End the transfer early, or keep it from beginning."""
        self._native.token_cancel(self._handle)

    def put_into(self, args: Any) -> None:
        """Have a call with these arguments end by it; its time began when the token was made."""
        args.token = self._handle
        args.waited_ms = min(int((monotonic() - self._start) * 1000), _UINT32_MAX)

    def take_out(self, args: Any) -> None:
        """Leave nothing of it in arguments that are used again."""
        args.token = self._native.ffi.NULL
        args.waited_ms = 0

    def put_into_layer(self, args: Any) -> None:
        """Have the call for one layer end by it; each has its own time."""
        args.token = self._handle
