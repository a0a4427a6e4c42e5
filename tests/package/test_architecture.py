# SPDX-License-Identifier: Apache-2.0
"""docs/architecture.md names every lock and every thread, and nothing that is not there."""

from __future__ import annotations

import re
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path

from tests.package.tree import ROOT, name_of, native_sources

PAGE = ROOT / "docs" / "architecture.md"
TEXT = PAGE.read_text()
MUTEX = re.compile(r"^\s*(?:mutable |static )*(?:std::mutex|Mutex) (\w+)\b[^()\n]*(?:\([^\n]*\))?;")
STARTED = re.compile(r'StartThread\("([^"]+)"')
# A thread that is made by its constructor, and not by StartThread.
MADE_BY_HAND = re.compile(r"std::thread(?: [a-z_]+)?[({]")
PATH = re.compile(r"`([\w./-]+(?:/|\.(?:h|cc|py|md)))`")
CITED = re.compile(r'architecture(?:\.md)?,?\s+"([^"]+)"')


def _rows(heading: str) -> list[list[str]]:
    """Return the cells of the first table below a heading, its head left out."""
    below = TEXT.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    table = re.search(r"(?:^\|.*\n)+", below, re.MULTILINE)
    assert table is not None
    lines = table.group().splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def _locks() -> list[tuple[str, str]]:
    """Return file and name of every mutex in the sources, but for the one that a Mutex is."""
    return [
        (name_of(source), found.group(1))
        for source in native_sources()
        if name_of(source) != "csrc/base/mutex.h"
        for line in source.read_text().splitlines()
        if (found := MUTEX.match(line))
    ]


def _listed() -> list[tuple[str, str, list[str]]]:
    """Return file, name and what may be taken under it, for each row of the table of locks."""
    return [
        (file.strip("`"), lock.strip("`"), re.findall(r"`([^`]+)`", taken))
        for lock, file, _, taken in _rows("Locks")
    ]


def test_every_lock_is_in_the_table_and_no_other():
    listed = Counter((file, re.split("::", lock.split(" ")[0])[-1]) for file, lock, _ in _listed())
    assert listed == Counter(_locks())
    assert len(listed) > 30


def test_the_order_of_the_locks_has_no_circle():
    # Two files have an `Instance::mutex`; neither is taken under another one.
    graph = {lock: set(taken) for _, lock, taken in _listed()}
    unknown = {name for taken in graph.values() for name in taken} - set(graph)
    assert unknown == set()
    assert "Instance::mutex" not in {name for taken in graph.values() for name in taken}
    TopologicalSorter(graph).prepare()  # raises CycleError


def test_every_thread_is_in_the_table_and_no_other():
    started = {
        (name, name_of(source))
        for source in native_sources()
        for name in STARTED.findall(source.read_text())
    }
    listed = {(row[0].strip("`"), row[1].strip("`")) for row in _rows("Threads")}
    native = {(name, file) for name, file in listed if file.endswith(".cc")}
    assert native == started
    for name, file in listed - native - {("a client's", "-")}:
        assert re.search(f'name(_prefix)?="{name}"', (ROOT / file).read_text())


def test_no_thread_is_made_without_a_name():
    by_hand = {
        name_of(source): found
        for source in native_sources()
        if (found := MADE_BY_HAND.findall(source.read_text()))
    }
    assert set(by_hand) == {"csrc/base/thread.cc"}


def test_every_path_exists():
    paths = set(PATH.findall(TEXT))
    assert len(paths) > 40
    missing = [
        path
        for path in paths
        if not (ROOT / path).exists() and not (ROOT / "csrc" / "runtime" / path).exists()
    ]
    assert missing == []


def test_every_folder_of_the_sources_is_in_the_tree():
    named = {path for row in _rows("The tree") for path in PATH.findall(row[0])}
    folders = {
        name_of(path.parent) + "/"
        for top in ("csrc", "mock_runtime", "llm_datadist")
        for path in (ROOT / top).rglob("*")
        if path.suffix in (".h", ".cc", ".py")
    }
    assert folders <= named


def test_every_section_that_is_cited_exists():
    headings = set(re.findall(r"^## (.*)$", TEXT, re.MULTILINE))
    cited = {
        section
        for folder in ("tests", "csrc", "mock_runtime", "llm_datadist")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".h", ".cc") and path != Path(__file__)
        for section in CITED.findall(path.read_text())
    }
    assert cited
    assert cited <= headings
    linked = set(re.findall(r"\]\(#([\w-]+)\)", TEXT))
    assert linked <= {heading.lower().replace(" ", "-") for heading in headings}
