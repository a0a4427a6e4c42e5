# SPDX-License-Identifier: Apache-2.0
"""Types of arguments that several subcommands have."""

from __future__ import annotations

import argparse
import os
from collections.abc import Collection
from typing import Callable


def positive(text: str) -> int:
    """Parse a whole number of at least 1."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return number


def seconds(text: str) -> float:
    """Parse a duration."""
    number = float(text)
    if not 0.001 <= number <= 86400:
        raise argparse.ArgumentTypeError(f"must be 0.001 to 86400 seconds, got {text}")
    return number


def refuse_a_backend_that_is_none() -> None:
    """Raise Refusal where no library can be used, before each process of a command says so."""
    from llm_datadist._tools.outcome import Refusal

    from ._probe import BACKEND, in_child

    chosen = in_child(BACKEND, os.environ)
    if chosen.error:
        raise Refusal(f"{chosen.error} ('llm-datadist doctor' tells more)")


def names(legal: Collection[str]) -> Callable[[str], list[str]]:
    """Return a parser of names with commas between them, each of which must be legal."""

    def parse(text: str) -> list[str]:
        given = list(dict.fromkeys(text.split(",")))
        unknown = [name for name in given if name not in legal]
        if unknown:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(legal)}")
        return given

    return parse
