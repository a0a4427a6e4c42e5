# SPDX-License-Identifier: Apache-2.0
"""The mutants of a folder, drawn with a seed, and the tree that holds them."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from llm_datadist._native import building, cann, compiler
from tests.mutation import cpp, python
from tests.mutation.cpp import Site
from tests.mutation.folders import Folder
from tests.support.fake_cann import toolkit

ROOT = Path(__file__).resolve().parents[2]
# Two runs at a time need two.
WORK = Path(os.environ.get("LLDD_MUTATION_WORK", ROOT / "build" / "mutation")).absolute()
TREE = WORK / "tree"
HEADER = WORK / "mutant.h"
BUILT = WORK / "built"
# What is compiled once is run for minutes, and mutants have warnings.
FLAGS = ("-O0", "-w")
# So that numbers of several folders in one library are different.
APART = 10_000
# What only the builds for the sanitizers have in them.
ASSERTION = re.compile(r"LLDD_O(N|FF)_IO_THREAD")
EQUIVALENT = Path(__file__).with_name("equivalent.json")


@dataclass(frozen=True)
class Mutant:
    """A mutant under its number, by which it is switched on and run again."""

    number: int
    site: Site

    def reason(self) -> str:
        """Return why no test can tell it from the original, if somebody has found that."""
        for known in json.loads(EQUIVALENT.read_text()):
            if (known["file"], known["change"]) != (self.site.file, self.site.change):
                continue
            if same_change(known["file"], known["change"])[known["which"] - 1] == self.site:
                return str(known["reason"])
        return ""


def git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()


def sites_of(file: str) -> list[Site]:
    """Return the mutants that a source could have, in the order of their places."""
    return (python if file.endswith(".py") else cpp).sites(file, (ROOT / file).read_text())


def same_change(file: str, change: str) -> list[Site]:
    """Return the places of a source where this change is possible."""
    return [site for site in sites_of(file) if site.change == change]


def all_sites(folder: Folder) -> list[Site]:
    """Return every mutant that the folder's sources could have, in the order of their places."""
    found: list[Site] = []
    for file in git("ls-files", "--", *folder.patterns).split():
        # git's * goes into folders below, too.
        if folder.has(file) and any(Path(file).match(each) for each in folder.patterns):
            found += sites_of(file)
    return found


def drawing(folder: Folder, offset: int, seed: str) -> list[Mutant]:
    """Return all mutants in the order in which they are drawn; the number is the place in it."""
    sites = all_sites(folder)
    random.Random(f"{seed} {folder.name}").shuffle(sites)
    return [
        Mutant(offset * APART + place, site)
        for place, site in enumerate(sites, 1)
        if not ASSERTION.match(site.change)
    ]


def copy_tree() -> None:
    """Copy what git knows of the working tree, and what is generated in it."""
    TREE.mkdir(parents=True, exist_ok=True)
    for name in git("ls-files", "--cached", "--others", "--exclude-standard").splitlines():
        source, target = ROOT / name, TREE / name
        if not source.is_file():
            continue
        content = source.read_bytes()
        if not target.exists() or target.read_bytes() != content:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
    for generated in (ROOT / "llm_datadist" / "_native").glob("_ffi.py*"):
        shutil.copy2(generated, TREE / "llm_datadist" / "_native")
    compiler.write_if_changed(HEADER, cpp.SWITCH)


def write_sources(mutants: Iterable[Mutant]) -> None:
    """Put these mutants into the copied sources, and none into the others."""
    by_file: dict[str, list[tuple[int, Site]]] = {}
    for mutant in mutants:
        by_file.setdefault(mutant.site.file, []).append((mutant.number, mutant.site))
    for file, chosen in by_file.items():
        text = (ROOT / file).read_text()
        compiler.write_if_changed(TREE / file, cpp.with_mutants(text, chosen, str(HEADER)))


class Library:
    """A library whose objects are those of the working tree, but for what mutants are in.

    Args:
        target: what it is made of.
        output: where it is linked.
    """

    def __init__(self, target: building.Target, output: Path) -> None:
        self._target = target
        self._output = output
        folder = building.build_folder(ROOT, target)
        self._commands = json.loads((folder / compiler.COMMANDS).read_text())
        self._mutated: set[str] = set()

    def _needs(self, command: dict[str, object], files: Iterable[str]) -> bool:
        depends = Path(str(command["output"])).with_suffix(".d").read_text().split()
        # ccache makes names relative.
        return any(str(ROOT / file) in depends or file in depends for file in files)

    @staticmethod
    def _object(command: dict[str, object]) -> Path:
        return WORK / "objects" / Path(str(command["output"])).relative_to(ROOT / "build")

    def _compile(self, command: dict[str, object]) -> str:
        """Return what the compiler says if it refuses; else ""."""
        made = self._object(command)
        made.parent.mkdir(parents=True, exist_ok=True)
        words = [*compiler.find_compiler()]
        arguments = command["arguments"]
        assert isinstance(arguments, list)
        for word in arguments[1:]:
            if word == command["output"]:
                words.append(str(made))
            elif str(ROOT / "build") in word:
                words.append(word)
            else:
                words.append(word.replace(str(ROOT), str(TREE)))
        result = subprocess.run([*words, *FLAGS], capture_output=True, text=True)
        return "" if result.returncode == 0 else result.stderr

    def compile(self, files: set[str]) -> str:
        """Compile what these mutated files are in; return all that the compiler complains of."""
        self._mutated |= files
        wanted = [command for command in self._commands if self._needs(command, files)]
        with ThreadPoolExecutor(compiler.jobs()) as pool:
            return "".join(pool.map(self._compile, wanted))

    def link(self) -> None:
        objects = [
            str(self._object(each) if self._needs(each, self._mutated) else each["output"])
            for each in self._commands
        ]
        command = [*compiler.find_compiler(), *building.link_flags(self._target, ROOT), *objects]
        self._output.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run([*command, *self._target.libraries, "-o", str(self._output)], check=True)


def mock_library() -> Library:
    lib = TREE / "llm_datadist" / "_native" / "lib"
    return Library(building.MOCK, lib / building.MOCK.library)


def ascend_library() -> Library:
    toolkit.ascend_library()
    target = building.ascend(cann.find([cann.Place(toolkit.toolkit(), "the fake CANN")]))
    shutil.copytree(toolkit.BUILD, TREE / "build" / "fake_cann", dirs_exist_ok=True)
    return Library(target, BUILT / target.library)


def refused(mutants: Iterable[Mutant], said: str) -> list[Mutant]:
    """Return the mutants on whose lines the compiler found an error."""
    pattern = rf"^{re.escape(str(TREE))}/(\S+?):(\d+):\d+: (?:fatal )?error"
    places = {(file, int(line)) for file, line in re.findall(pattern, said, re.MULTILINE)}
    return [
        mutant
        for mutant in mutants
        if any(
            (mutant.site.file, line) in places
            for line in range(mutant.site.first_line, mutant.site.last_line + 1)
        )
    ]


def draw_compiled(
    order: list[Mutant], count: int, library: Library, others: list[Mutant]
) -> list[Mutant]:
    """Return the first mutants that can be compiled, that many of them, and compile them.

    Args:
        order: all that there are.
        count: how many are wanted.
        library: what they are compiled into.
        others: what is in the sources already.
    """
    chosen, waiting = order[:count], order[count:]
    files = {mutant.site.file for mutant in chosen}
    while files:
        write_sources([*others, *chosen])
        said = library.compile(files)
        bad = refused(chosen, said)
        if said and not bad:
            raise compiler.BuildError(f"no mutant is the reason of this:\n{said}")
        chosen = [mutant for mutant in chosen if mutant not in bad]
        more, waiting = waiting[: len(bad)], waiting[len(bad) :]
        chosen += more
        files = {mutant.site.file for mutant in (*bad, *more)}
        gone = files - {mutant.site.file for mutant in chosen}
        for file in gone:
            shutil.copy2(ROOT / file, TREE / file)
    return chosen
