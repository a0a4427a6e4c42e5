# SPDX-License-Identifier: Apache-2.0
"""Warnings of names that no code reads: keywords and members that a client may have misspelt
(decisions 64 and 65).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING

from .status import warn_once


def _hint(name: str, known: Sequence[str]) -> str:
    near = get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"


def warn_of_unknown_keywords(callers: str, given: Iterable[str], known: Sequence[str]) -> None:
    """Warn, once for each name, of keywords that the callers ignore."""
    for name in given:
        if name not in known:
            warn_once(
                f"keyword {name} of {callers}",
                f"{callers} ignore the keyword {name!r}: {_hint(name, known)}",
            )


class WarnsOfUnknownMembers:
    """A class whose objects take members that it does not have, as any Python object, and warn."""

    # Hidden from type checkers, which would otherwise accept every member.
    if not TYPE_CHECKING:

        def __setattr__(self, name: str, value: object) -> None:
            kind = type(self)
            if not name.startswith("_") and not hasattr(kind, name):
                _warn_of_unknown_member(kind, name)
            super().__setattr__(name, value)


def _warn_of_unknown_member(kind: type, name: str) -> None:
    known = [each for each in dir(kind) if _is_settable(kind, each)]
    # A client's subclass may have members of its own; there only a likely slip is named.
    if kind.__module__.startswith(f"{__package__}.") or get_close_matches(name, known, n=1):
        warn_once(
            f"member {name} of {kind.__name__}",
            f"{kind.__name__} has no member {name!r}, it is set without effect: "
            f"{_hint(name, known)}",
        )


def _is_settable(kind: type, name: str) -> bool:
    member = getattr(kind, name)
    if name.startswith("_") or callable(member):
        return False
    return not isinstance(member, property) or member.fset is not None
