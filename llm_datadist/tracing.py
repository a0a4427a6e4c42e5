# SPDX-License-Identifier: Apache-2.0
"""Ids of transfers that are the client's own: W3C trace contexts (https://www.w3.org/TR/trace-context/).

What runs in a `with transfer_context(...)` is called by that id in the boxes of both ends
(docs/trace.md) and in the log.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import Context, ContextVar, copy_context
from typing import TYPE_CHECKING, Callable

if TYPE_CHECKING:
    from ._native.facade import Facade

__all__ = ["transfer_context"]

# 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01, or the second part alone.
_TRACEPARENT = re.compile(
    r"(?:(?!ff)[0-9a-f]{2}-)?(?P<trace>[0-9a-f]{32})(?:-(?P<span>[0-9a-f]{16})-[0-9a-f]{2}(?:-.*)?)?"
)
_NONE = (0, 0, 0)
_current: ContextVar[tuple[int, int, int]] = ContextVar("llm_datadist transfer", default=_NONE)
_thread = threading.local()
# Whether there ever was a context: until then a transfer costs one look at this more.
in_use = False


@contextmanager
def transfer_context(traceparent: str) -> Iterator[str]:
    """Have the transfers in the `with` block run under an id of the client's.

    The id goes with the context (contextvars): an asyncio task keeps its own, and the thread of a
    CacheTask takes that of its call.

    Args:
        traceparent: the header of that name, "00-<32 digits>-<16 digits>-<2 digits>", or its trace
            id alone: 32 hexadecimal digits in lower case, not all 0.

    Yields:
        The trace id, which `llm-datadist why` takes.

    Raises:
        ValueError: it is neither.
    """
    global in_use
    found = _TRACEPARENT.fullmatch(traceparent)
    if found is None or not int(found["trace"], 16) or found["span"] == "0" * 16:
        raise ValueError(
            f"traceparent is {traceparent!r}, allowed is a W3C traceparent "
            "(00-<32 hexadecimal digits>-<16>-<2>, neither id 0), or its 32 digits alone"
        )
    trace = found["trace"]
    in_use = True
    token = _current.set((int(trace[:16], 16), int(trace[16:], 16), int(found["span"] or "0", 16)))
    try:
        yield trace
    finally:
        _current.reset(token)


def tell(native: Facade) -> None:
    """Tell the library under which id this thread transfers now; where `in_use` says so."""
    wanted = _current.get()
    if getattr(_thread, "told", None) != (native, wanted):
        native.transfer_context(*wanted)
        _thread.told = (native, wanted)


def kept(run: Callable[[], None]) -> Callable[[], None]:
    """Return what does the same on another thread, under the id of this one."""
    if not in_use:
        return run
    context: Context = copy_context()
    return lambda: context.run(run)
