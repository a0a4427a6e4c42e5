# SPDX-License-Identifier: Apache-2.0
"""What came of a soak: counts, and findings, each of which is a fault."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from llm_datadist._tools.units import in_words

# Findings by kind, as the summary names them.
WRONG, LATE_BYTES, LEAK, LATE_CALL = "wrong bytes", "late bytes", "leaks", "late calls"
REFUSED, ENDED = "unexpected failures", "ended processes"
KINDS = (WRONG, LATE_BYTES, LEAK, LATE_CALL, REFUSED, ENDED)
# Texts that are kept; all are counted.
_MOST_TEXTS = 30


@dataclass
class Tally:
    """Counts of a soak."""

    seconds: float = 0.0
    seasons: int = 0
    rounds: int = 0
    # By what was called and how it ended.
    calls: Counter[tuple[str, str]] = field(default_factory=Counter)
    disturbances: Counter[str] = field(default_factory=Counter)
    moved_bytes: int = 0
    checked_bytes: int = 0
    skipped: int = 0
    findings: Counter[str] = field(default_factory=Counter)
    texts: list[str] = field(default_factory=list)

    def find(self, kind: str, where: str, text: str, count: int = 1) -> None:
        """Note a fault."""
        self.findings[kind] += count
        if len(self.texts) < _MOST_TEXTS:
            self.texts.append(f"{kind}: {where}: {text}")

    @property
    def operations(self) -> int:
        """Calls that were made."""
        return sum(self.calls.values())

    @property
    def failed(self) -> int:
        """Calls that did not succeed."""
        return sum(count for (_, status), count in self.calls.items() if status != "LLM_SUCCESS")

    def summary(self) -> str:
        """Return the line for people."""
        done = self.disturbances
        parts = [
            f"{self.seconds:.0f} s",
            f"{self.seasons} seasons of {self.rounds} rounds",
            f"{self.operations} operations, {self.failed} of them failed",
            f"{in_words(self.moved_bytes)} moved, {in_words(self.checked_bytes)} checked",
            f"{done['kill']} kills, {done['stop']} stops, {done['restart']} restarts",
            *(f"{self.findings[kind]} {kind}" for kind in KINDS),
        ]
        return "; ".join(parts)

    def for_machines(self) -> dict[str, object]:
        """Return the same, and more, for JSON."""
        calls: dict[str, dict[str, int]] = {}
        for (call, status), count in sorted(self.calls.items()):
            calls.setdefault(call, {})[status] = count
        return {
            "seconds": self.seconds,
            "seasons": self.seasons,
            "rounds": self.rounds,
            "operations": self.operations,
            "failed": self.failed,
            "skipped": self.skipped,
            "moved_bytes": self.moved_bytes,
            "checked_bytes": self.checked_bytes,
            "calls": calls,
            "disturbances": dict(sorted(self.disturbances.items())),
            "findings": {kind: self.findings[kind] for kind in KINDS},
            "texts": self.texts,
        }
