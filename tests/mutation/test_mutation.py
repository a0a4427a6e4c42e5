# SPDX-License-Identifier: Apache-2.0
"""The mutation tool itself: which mutants it finds, that a compiled one acts when it is chosen and
only then, and what it reports.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.mutation import cpp, draw, python
from tests.mutation.campaign import EQUIVALENT, KILLED, LIVES, TIMED_OUT, Outcome, table
from tests.mutation.cpp import VARIABLE
from tests.mutation.draw import Mutant
from tests.mutation.folders import FOLDERS

PROGRAM = """// a < b in a comment
#include <cstdio>
#include <algorithm>

constexpr int kLimit = 3 + 4;

int Changed(int value) {
    const char *text = "1 < 2";  // true
    if (value < kLimit &&
        text[0] != 'x') {
        value += 10;
    }
    return std::min(value,
                    100) + 1;
}

int main() {
    for (int i = 0; i < 2; ++i) std::printf("%d ", Changed(7 * i));
    std::puts("end");
    return 0;
}
"""
MODULE = '''"""Doc."""
from typing import Optional

LIMIT: int = 7


def check(value: int, flag: bool = True) -> Optional[int]:
    """Doc 1."""
    if 0 <= value < LIMIT and not flag:
        print("low")
    return value + 1
'''


def changes(found: list[cpp.Site]) -> list[str]:
    return [f"{site.line} {site.change}" for site in found]


def test_mutants_of_cpp() -> None:
    assert changes(cpp.sites("a.cc", PROGRAM)) == [
        "5 + -> - in 3 + 4",
        "5 3 -> (3 + 1) in 3 + 4",
        "5 3 -> (3 - 1) in 3 + 4",
        "5 4 -> (4 + 1) in 3 + 4",
        "5 4 -> (4 - 1) in 3 + 4",
        "10 != -> == in value < kLimit && text[0] != 'x'",
        "9 && -> || in value < kLimit && text[0] != 'x'",
        "10 0 -> 1 in value < kLimit && text[0] != 'x'",
        "9 < -> <= in value < kLimit && text[0] != 'x'",
        "9 value < kLimit && text[0] != 'x' -> negated",
        "11 value += 10; -> taken out",
        "14 + -> - in std::min(value, 100) + 1",
        "14 1 -> (1 + 1) in std::min(value, 100) + 1",
        "14 1 -> (1 - 1) in std::min(value, 100) + 1",
        "14 100 -> (100 + 1) in std::min(value, 100) + 1",
        "14 100 -> (100 - 1) in std::min(value, 100) + 1",
        "13 std::min -> std::max in std::min(value, 100) + 1",
        "18 0 -> 1 in 0",
        "18 2 -> (2 + 1) in i < 2",
        "18 2 -> (2 - 1) in i < 2",
        "18 < -> <= in i < 2",
        '19 std::puts("end"); -> taken out',
        "20 0 -> 1 in 0",
    ]


def run(program: Path, number: int) -> tuple[str, int]:
    done = subprocess.run(
        [program], env={**os.environ, VARIABLE: str(number)}, capture_output=True, text=True
    )
    return done.stdout, done.returncode


def test_compiled_mutants_act_when_they_are_chosen(tmp_path: Path) -> None:
    compiler = os.environ.get("CXX", "c++").split()
    if shutil.which(compiler[0]) is None:
        pytest.skip("capability C++ compiler: there is none")
    (tmp_path / "mutant.h").write_text(cpp.SWITCH)
    chosen = list(enumerate(cpp.sites("a.cc", PROGRAM), 1))
    source = tmp_path / "a.cc"
    source.write_text(cpp.with_mutants(PROGRAM, chosen, str(tmp_path / "mutant.h")))
    subprocess.run([*compiler, "-std=c++17", "-w", source, "-o", tmp_path / "a"], check=True)
    normal = run(tmp_path / "a", 0)
    assert normal == ("11 8 end\n", 0)
    results = {site.change: run(tmp_path / "a", number) for number, site in chosen}
    assert results["value += 10; -> taken out"] == ("1 8 end\n", 0)
    assert results['std::puts("end"); -> taken out'] == ("11 8 ", 0)
    assert results["2 -> (2 + 1) in i < 2"] == ("11 8 15 end\n", 0)
    assert results["2 -> (2 - 1) in i < 2"] == ("11 end\n", 0)
    assert results["std::min -> std::max in std::min(value, 100) + 1"] == ("101 101 end\n", 0)
    assert results["+ -> - in std::min(value, 100) + 1"] == ("9 6 end\n", 0)
    assert results["4 -> (4 + 1) in 3 + 4"] == ("11 18 end\n", 0)
    assert results["0 -> 1 in 0"] == ("11 8 end\n", 1)


def test_mutants_of_python() -> None:
    found = python.sites("a.py", MODULE)
    assert changes(found) == [
        "4 7 -> (7 + 1)",
        "4 7 -> (7 - 1)",
        "7 True -> False",
        "9 0 -> (0 + 1)",
        "9 0 -> (0 - 1)",
        "9 0 <= value < LIMIT -> 0 < value < LIMIT",
        "9 0 <= value < LIMIT -> 0 <= value <= LIMIT",
        "9 0 <= value < LIMIT and not flag -> (0 <= value < LIMIT or not flag)",
        "9 0 <= value < LIMIT and not flag -> (not (0 <= value < LIMIT and not flag))",
        "9 not flag -> (flag)",
        '10 print("low") -> pass',
        "11 return value + 1 -> return None",
        "11 value + 1 -> value - 1",
        "11 1 -> (1 + 1)",
        "11 1 -> (1 - 1)",
    ]
    for site in found:
        compile(python.mutated(MODULE, site), "a.py", "exec")


def test_a_drawing_is_the_same_for_a_seed_and_another_for_another() -> None:
    first, again, other = (draw.drawing(FOLDERS["base"], 1, seed) for seed in ("a", "a", "b"))
    assert first == again
    assert {mutant.site for mutant in first} == {mutant.site for mutant in other}
    assert [mutant.site for mutant in first[:20]] != [mutant.site for mutant in other[:20]]
    assert [mutant.number for mutant in first[:3]] == [10_001, 10_002, 10_003]


def test_every_folder_has_sources_and_its_tests_exist() -> None:
    for folder in FOLDERS.values():
        assert draw.all_sites(folder), folder.name
        for test in {*folder.tests, *(each for some in folder.first.values() for each in some)}:
            assert (draw.ROOT / test).exists(), test


def test_what_the_compiler_refuses_is_found_by_its_line() -> None:
    sites = [cpp.Site("csrc/a.cc", 0, 1, line - 1, line, line + 1, "", "") for line in (3, 7)]
    mutants = [Mutant(number, site) for number, site in enumerate(sites)]
    for line in (6, 8):
        said = f"{draw.TREE}/csrc/a.cc:{line}:5: error: no\n{draw.TREE}/csrc/b.cc:3:1: error: no\n"
        assert draw.refused(mutants, said) == mutants[1:]


def test_the_table_counts() -> None:
    verdicts = (KILLED, KILLED, TIMED_OUT, LIVES, EQUIVALENT)
    outcomes = [Outcome(n, f"a.cc:{n}: x", verdict, 1.0) for n, verdict in enumerate(verdicts)]
    lines = table({"base": outcomes}).splitlines()
    assert lines[1].split() == ["base", "5", "3", "1", "1", "0.75"]
    assert lines[-1] == "lives: base 3 a.cc:3: x"


def test_equivalents_have_reasons_and_are_there() -> None:
    for known in json.loads(draw.EQUIVALENT.read_text()):
        assert set(known) == {"file", "change", "which", "reason"}
        assert known["reason"].endswith(".")
        (site, *_) = draw.same_change(known["file"], known["change"])[known["which"] - 1 :]
        assert Mutant(1, site).reason() == known["reason"]
