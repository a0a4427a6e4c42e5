# SPDX-License-Identifier: Apache-2.0
"""What an error of the interface must look like."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from llm_datadist import LLMException, LLMStatusCode
from llm_datadist.status import LLMConfigValueError

GONE = "connection closed (peer exited, finalized or unlinked)"


def check_refusal(error: BaseException | None, status: LLMStatusCode, *texts: object) -> None:
    """The exception has this status and the right base classes, and says these things."""
    assert isinstance(error, LLMException), repr(error)
    assert error.status_code == status, str(error)
    # Published clients catch ValueError before LLMException (decision 4).
    assert isinstance(error, ValueError) == isinstance(error, LLMConfigValueError)
    assert not isinstance(error, OSError)
    for text in texts:
        # A number stands for itself, not for a part of another one.
        assert re.search(rf"(?<!\w){re.escape(str(text))}(?!\w)", str(error), re.IGNORECASE), (
            f"{str(error)!r} does not say {text!r}"
        )


@contextmanager
def refused(status: LLMStatusCode, *texts: object) -> Iterator[None]:
    """The block must raise such an exception."""
    with pytest.raises(LLMException) as caught:
        yield
    check_refusal(caught.value, status, *texts)


@contextmanager
def refused_by_engine(name: str, status: LLMStatusCode, *texts: object) -> Iterator[None]:
    """The same with the text of 1.2 for statuses of the engine."""
    with pytest.raises(LLMException) as caught:
        yield
    check_refusal(caught.value, status, *texts)
    assert str(caught.value).startswith(f"[{name}] failed, error code is {status}, ")
