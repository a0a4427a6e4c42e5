# SPDX-License-Identifier: Apache-2.0
"""Waiting for what becomes true by itself and has no event to wait for."""

from __future__ import annotations

import time
from typing import Callable, TypeVar

__all__ = ["eventually"]

T = TypeVar("T")


def eventually(condition: Callable[[], T], what: str, seconds: float = 10.0) -> T:
    """Ask until the answer is true, and return it.

    Args:
        condition: is called again and again, with growing pauses of at most 20 ms.
        what: is expected, for the error.
        seconds: after which it is an error.

    Raises:
        AssertionError: the answer was not true in time; with the last one.
    """
    __tracebackhide__ = True
    end = time.monotonic() + seconds
    pause = 0.0005
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {what}; the last answer was {answer!r}")
        time.sleep(pause)
        pause = min(pause * 2, 0.02)
