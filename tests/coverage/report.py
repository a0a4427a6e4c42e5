# SPDX-License-Identifier: Apache-2.0
"""The report of coverage: its figures by part, and what is not covered, with a reason.

Parts are folders of sources, or some of their files. A figure may not fall below that of
figures.json; a file of which a part of the lines is not covered has a reason in reasons.json.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
FIGURES = HERE / "figures.json"
REASONS = HERE / "reasons.json"
# Runs differ by what a busy machine makes of races: so many points of a hundred.
SLACK = 0.5
# A file with fewer of its lines covered than this needs a reason.
ENOUGH = 95.0
# In this order: a file belongs to the first part that one of its beginnings names.
PARTS = {
    "wire": (
        *("csrc/engine/wire.", "csrc/engine/control_channel.", "csrc/engine/greeting."),
        *("csrc/base/codec.h", "mock_runtime/tcp_protocol.h", "mock_runtime/endpoint."),
    ),
    "engine": ("csrc/engine/",),
    "base": ("csrc/base/", "csrc/runtime/"),
    "mock": ("mock_runtime/",),
    "python: commands": ("llm_datadist/_cli/", "llm_datadist/_bench/", "llm_datadist/_soak/"),
    "python": ("llm_datadist/",),
}


@dataclass
class File:
    """The counts of one source, and the numbers of the lines that nothing ran."""

    name: str
    lines: int
    branches: int
    branches_covered: int
    missing: list[int] = field(default_factory=list)

    @property
    def percent(self) -> float:
        """Of the lines, how many of a hundred were run."""
        return 100.0 * (self.lines - len(self.missing)) / self.lines if self.lines else 100.0


def of_python(text: str) -> Iterator[File]:
    """Read the JSON of coverage.py."""
    for name, entry in json.loads(text)["files"].items():
        summary = entry["summary"]
        yield File(
            name,
            summary["num_statements"],
            summary["num_branches"],
            summary["covered_branches"],
            entry["missing_lines"],
        )


def of_cpp(text: str) -> Iterator[File]:
    """Read the JSON of gcovr."""
    for entry in json.loads(text)["files"]:
        counts: dict[int, int] = {}
        branches = covered = 0
        for line in entry["lines"]:
            if line.get("gcovr/noncode") or line.get("gcovr/excluded"):
                continue
            number = line["line_number"]
            counts[number] = counts.get(number, 0) + line["count"]
            kept = [each for each in line["branches"] if not each.get("gcovr/excluded")]
            branches += len(kept)
            covered += sum(each["count"] > 0 for each in kept)
        missing = [number for number, count in sorted(counts.items()) if not count]
        yield File(entry["file"], len(counts), branches, covered, missing)


def part_of(name: str) -> str | None:
    """Return the part that a file belongs to."""
    for part, beginnings in PARTS.items():
        if name.startswith(beginnings):
            return part
    return None


def figures(files: list[File]) -> dict[str, dict[str, float]]:
    """Return lines and branches covered, of a hundred, by part."""
    found = {}
    for part in PARTS:
        own = [file for file in files if part_of(file.name) == part]
        lines, branches = sum(each.lines for each in own), sum(each.branches for each in own)
        if lines:
            missing = sum(len(each.missing) for each in own)
            taken = sum(each.branches_covered for each in own)
            found[part] = {
                "lines": round(100.0 * (lines - missing) / lines, 2),
                "branches": round(100.0 * taken / branches, 2) if branches else 100.0,
            }
    return found


def problems(files: list[File], noted: dict[str, Any], reasons: dict[str, str]) -> list[str]:
    """Return a text for each figure that fell, and each file that lacks a reason or has one too
    many.
    """
    found = []
    now = figures(files)
    for part, values in noted.items():
        for what, value in values.items():
            measured = now.get(part, {}).get(what, 0.0)
            if measured < value - SLACK:
                found.append(f"{part}: {measured} % of the {what}, figures.json has {value} %")
    names = {file.name for file in files}
    for file in files:
        if part_of(file.name) and file.percent < ENOUGH and file.name not in reasons:
            found.append(f"{file.name}: {file.percent:.1f} % of the lines, and no reason")
    found += [f"{name} of reasons.json is no source" for name in reasons if name not in names]
    return found


def _ranges(numbers: list[int]) -> str:
    texts: list[str] = []
    first = last = -1
    for number in [*numbers, -1]:
        if number == last + 1 and last > 0:
            last = number
            continue
        if last > 0:
            texts.append(str(first) if first == last else f"{first}-{last}")
        first = last = number
    return ", ".join(texts)


def page(files: list[File], reasons: dict[str, str]) -> str:
    """Return the report in Markdown."""
    lines = ["# Coverage", "", "| part | lines | branches |", "|---|---|---|"]
    for part, values in figures(files).items():
        lines.append(f"| {part} | {values['lines']} % | {values['branches']} % |")
    lines += ["", "## What is not covered", "", "| file | lines | which are not | why |"]
    lines += ["|---|---|---|---|"]
    for file in sorted(files, key=lambda each: each.percent):
        if file.missing and part_of(file.name):
            why = reasons.get(file.name, "")
            lines.append(
                f"| {file.name} | {file.percent:.1f} % | {_ranges(file.missing)} | {why} |"
            )
    return "\n".join(lines) + "\n"
