# SPDX-License-Identifier: Apache-2.0
"""Faults and slow links, injected into the runtime under the engines of a process.

    with faults.inject("read status=LLM_LINK_BUSY times=1") as injection:
        ...                                # the next pull or so fails
        assert injection.fired == 1

docs/faults.md has the language of the scripts. The mock runtime takes them, which
``backend_info().capabilities & CAN_INJECT_FAULTS`` tells. What this module does concerns the
process that calls it; the attribute ``faults`` of a Peer is the same for the peer's process.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Callable

from .._native.control import runtime_control
from .._native.loader import Capability

__all__ = [
    "CAN_INJECT_FAULTS",
    "FaultControl",
    "Injection",
    "PointCounts",
    "RuleCounts",
    "clear",
    "counters",
    "here",
    "inject",
    "replace",
    "rules",
]

CAN_INJECT_FAULTS = Capability.INJECT_FAULTS
"""The bit of ``backend_info().capabilities`` that tells whether the library injects faults."""


@dataclass(frozen=True)
class PointCounts:
    """How often a fault point was passed while there was any rule, and how often one fired."""

    calls: int
    fired: int


@dataclass(frozen=True)
class RuleCounts:
    """A rule, how many calls it was asked about, and for how many of them it fired."""

    id: int
    calls: int
    fired: int
    text: str


class Injection:
    """The rules that one inject() added; afterwards, what had become of them by then."""

    def __init__(self, control: FaultControl, ids: list[int]) -> None:
        self._control = control
        self._ids = ids
        self._last: list[RuleCounts] | None = None

    @property
    def rules(self) -> list[RuleCounts]:
        """The counts of each rule, in the order of the script."""
        if self._last is not None:
            return self._last
        return [each for each in self._control.rules() if each.id in self._ids]

    @property
    def fired(self) -> int:
        """How often any of the rules fired."""
        return sum(each.fired for each in self.rules)

    def end(self) -> None:
        """Take the rules away; calls that they hold up go on. A second time does nothing."""
        if self._last is None:
            self._last = self.rules
            self._control.remove(self._ids)


class FaultControl:
    """The fault rules of one process.

    Args:
        control: has the runtime of that process do a command with an argument.
    """

    def __init__(self, control: Callable[[str, str], str]) -> None:
        self._control = control
        # Rules of replace() that have to fire, by their ids.
        self._awaited: set[int] = set()

    @contextmanager
    def inject(self, script: str, *, must_fire: bool = True) -> Iterator[Injection]:
        """Add the rules of a script, and take them away at the end.

        Args:
            script: see docs/faults.md.
            must_fire: False: a rule may be there and never fire.

        Raises:
            LLMParamInvalidError: the script is wrong; names the rule and the word it is about.
            AssertionError: at the end, if nothing else was raised: a rule has not fired.
        """
        __tracebackhide__ = True
        ids = [int(word) for word in self._control("faults.add", script).split()]
        injection = Injection(self, ids)
        try:
            yield injection
        finally:
            injection.end()
        if must_fire:
            _require_none(_silent(injection.rules))

    def replace(self, script: str, *, must_fire: bool = True) -> None:
        """Set the rules of a script instead of all that there are. Raises as inject() does; that a
        rule has not fired is what unfired() tells.
        """
        self._control("faults.set", script)
        self._awaited = {rule.id for rule in self.rules()} if must_fire else set()

    def unfired(self) -> list[str]:
        """Return a text for each rule of replace() that is there, had to fire, and has not."""
        if not self._awaited:
            return []
        return _silent([rule for rule in self.rules() if rule.id in self._awaited])

    def clear(self) -> None:
        """Take all rules away, those of the environment included."""
        self._awaited.clear()
        self._control("faults.clear", "")

    def remove(self, ids: list[int]) -> None:
        """Take rules away by their ids."""
        self._control("faults.remove", " ".join(map(str, ids)))

    def counters(self) -> dict[str, PointCounts]:
        """Return the counts of each fault point by its name, since the process began."""
        return {
            name: PointCounts(int(calls), int(fired))
            for name, calls, fired in (line.split() for line in self._lines("point"))
        }

    def rules(self) -> list[RuleCounts]:
        """Return the rules that there are, with their counts."""
        fields = (line.split(" ", 3) for line in self._lines("rule"))
        return [
            RuleCounts(int(id_), int(calls), int(fired), text) for id_, calls, fired, text in fields
        ]

    def _lines(self, kind: str) -> list[str]:
        lines = self._control("faults.counters", "").splitlines()
        return [line[len(kind) + 1 :] for line in lines if line.startswith(f"{kind} ")]


def _silent(rules: list[RuleCounts]) -> list[str]:
    return [
        f"the rule {rule.text!r} has not fired: {rule.calls} calls were asked about it "
        "(must_fire=False allows that)"
        for rule in rules
        if not rule.fired
    ]


def _require_none(texts: list[str]) -> None:
    __tracebackhide__ = True
    if texts:
        raise AssertionError("; ".join(texts))


here = FaultControl(runtime_control)
"""The rules of the calling process."""

inject = here.inject
replace = here.replace
clear = here.clear
counters = here.counters
rules = here.rules
