# SPDX-License-Identifier: Apache-2.0
"""Which of several mistakes a call tells."""

from __future__ import annotations

from typing import Any, Callable

from llm_datadist import LLMException, LLMStatusCode
from tests.conformance.refusals import check_refusal


def outcome(call: Callable[..., Any], **arguments: Any) -> BaseException | None:
    try:
        call(**arguments)
    except Exception as error:
        return error
    return None


def check_order(
    call: Callable[..., Any], good: dict[str, Any], steps: list[tuple[dict[str, Any], Any, str]]
) -> None:
    """Break each step together with all later ones; a step is (bad arguments, error, text).

    An argument that two steps break has the value of the earlier one.
    """
    for index, (_, expected, text) in enumerate(steps):
        arguments = dict(good)
        for bad, _, _ in reversed(steps[index:]):
            arguments.update(bad)
        error = outcome(call, **arguments)
        if isinstance(expected, LLMStatusCode):
            check_refusal(error, expected)
        else:
            assert isinstance(error, expected), (index, repr(error))
            assert not isinstance(error, LLMException), (index, repr(error))
        assert text in str(error), (index, str(error))
