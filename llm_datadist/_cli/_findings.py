# SPDX-License-Identifier: Apache-2.0
"""What a check of ``llm-datadist doctor`` answers, and what it may look at."""

from __future__ import annotations

import os
import resource
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Callable

from llm_datadist._tools.table import terminal_width

_WIDTH = 100


class Level(Enum):
    """How bad it is. FAIL: clients do not get what they ask for; WARN: less than they could."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Finding:
    """What one check found; ``advice`` is what to do about it, ``data`` is for programs."""

    name: str
    level: Level
    text: str
    advice: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """Return it in words, as a few indented lines."""
        width = min(_WIDTH, terminal_width() or _WIDTH)
        head = f"  {self.level.value:<6}"
        told = textwrap.wrap(
            f"{self.name}: {self.text}",
            width,
            initial_indent=head,
            subsequent_indent=" " * len(head),
            break_long_words=False,
            break_on_hyphens=False,
        )
        if self.advice:
            told += textwrap.wrap(
                self.advice,
                width,
                initial_indent=" " * len(head) + "-> ",
                subsequent_indent=" " * (len(head) + 3),
                break_long_words=False,
                break_on_hyphens=False,
            )
        return told


def ok(name: str, text: str, **data: Any) -> Finding:
    """Return a finding that needs nothing to be done."""
    return Finding(name, Level.OK, text, data=data)


def warn(name: str, text: str, advice: str, **data: Any) -> Finding:
    """Return a finding of something that could be better, and how."""
    return Finding(name, Level.WARN, text, advice, data)


def fail(name: str, text: str, advice: str, **data: Any) -> Finding:
    """Return a finding of something that does not work, and what to do."""
    return Finding(name, Level.FAIL, text, advice, data)


@dataclass(frozen=True)
class Machine:
    """What checks look at; tests put something else in its place.

    Args:
        root: where /proc, /sys and /dev are found.
        environ: the environment variables.
        limits: resource.getrlimit.
    """

    root: str = "/"
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    limits: Callable[[int], tuple[int, int]] = resource.getrlimit

    def path(self, name: str) -> str:
        """Return where a file of the kernel is, such as ``proc/self/status``."""
        return os.path.join(self.root, name)

    def read(self, name: str) -> str | None:
        """Return the text of such a file; None: there is none, or it may not be read."""
        try:
            with open(self.path(name), errors="replace") as file:
                return file.read().strip()
        except OSError:
            return None
