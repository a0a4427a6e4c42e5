# SPDX-License-Identifier: Apache-2.0
"""Every rule of the contract has a test or a reason, and docs/fidelity.md says so."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def fidelity():
    spec = importlib.util.spec_from_file_location("fidelity", ROOT / "docs" / "fidelity.py")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by name.
    sys.modules["fidelity"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["fidelity"]


def by_chapter(problems):
    lines = []
    for chapter in sorted({chapter for chapter, _ in problems}):
        lines.append(f"chapter {chapter}:" if chapter else "markers:")
        lines += [f"    {text}" for at, text in problems if at == chapter]
    return "\n".join(lines)


def test_every_rule_has_a_test_or_a_reason(fidelity):
    read = fidelity.read()
    assert len(read.rules) > 100
    if read.problems:
        pytest.fail(by_chapter(read.problems), pytrace=False)


def test_the_page_is_up_to_date(fidelity):
    expected = fidelity.page(fidelity.read())
    if not fidelity.PAGE.exists() or fidelity.PAGE.read_text(encoding="utf-8") != expected:
        pytest.fail(f"docs/fidelity.md is not up to date: run `{fidelity.COMMAND}`", pytrace=False)


@pytest.fixture
def scene(tmp_path, fidelity):
    """Read a contract of one chapter, and one file of tests."""

    def read(contract, tests=""):
        (tmp_path / "contract").mkdir()
        (tmp_path / "contract" / "01-a.md").write_text("## 1. Title\n### 1.1 Section\n" + contract)
        (tmp_path / "tests").mkdir()
        (tmp_path / "tests" / "test_a.py").write_text(tests)
        return fidelity.read(tmp_path / "contract", tmp_path / "tests")

    return read


def test_markers_are_found_wherever_pytest_finds_them(scene):
    read = scene(
        "".join(f"[C1.1-{number}]\n" for number in range(1, 11)),
        "import pytest\n"
        "pytestmark = [pytest.mark.slow, pytest.mark.rule('C1.1-1')]\n"
        "rule = pytest.mark.rule\n"
        "@pytest.mark.rule('C1.1-2', 'C1.1-3')\n"
        "def test_one(): pass\n"
        "@rule('C1.1-4')\n"
        "class TestTwo:\n"
        "    pytestmark = rule('C1.1-5')\n"
        "    @pytest.mark.parametrize('a', [pytest.param(1, marks=pytest.mark.rule('C1.1-6'))])\n"
        "    @rule('C1.1-7')\n"
        "    @rule('C1.1-8')\n"
        "    def test_three(self, a): pass\n"
        "@rule(*(f'C1.1-{n}' for n in range(9, 11)))\n"
        "def test_four(): pass\n",
    )
    assert read.problems == []
    names = {each: [test.name for test in tests] for each, tests in read.tests.items()}
    assert names == {
        "C1.1-1": ["test_one", "TestTwo.test_three", "test_four"],
        "C1.1-2": ["test_one"],
        "C1.1-3": ["test_one"],
        **{f"C1.1-{number}": ["TestTwo.test_three"] for number in range(4, 9)},
        **{f"C1.1-{number}": ["test_four"] for number in (9, 10)},
    }


@pytest.mark.parametrize(
    ("contract", "tests", "problem"),
    [
        ("no id", "", "section 1.1 has no ids"),
        ("[C1.1-1]", "", "C1.1-1 has neither a test nor a reason"),
        ("[C1.1-1 untested: a] [C1.1-1 untested: b]", "", "C1.1-1 stands twice"),
        ("[C1.2-1 untested: a]", "", "C1.2-1 stands in section 1.1"),
        ("[C1.1-1 untested]", "", "[C1.1-1 untested] is no tag"),
        ("[C1.1-1 differs: C10-1]", "", "C1.1-1 differs: C10-1 does not exist"),
        ("[C1.1-1 differs: me]", "", "C1.1-1 differs: 'me' is no id"),
        ("[C1.1-1 as: C1.1-2] [C1.1-2 untested: a]", "", "C1.1-2 has no tests of its own"),
        ("[C1.1-1 untested: a]", "@pytest.mark.rule('C1.1-1')\ndef test(): ...", "is tagged"),
        ("[C1.1-1 untested: a]", "@pytest.mark.rule('C2-1')\ndef test(): ...", "C2-1 of tests/"),
        ("[C1.1-1 untested: a]", "@pytest.mark.rule(X)\ndef test(): ...", "as plain texts"),
        ("[C1.1-1 untested: a]", "@pytest.mark.rule('C1.1-1')\ndef no(): ...", "at no test"),
    ],
)
def test_what_does_not_fit_is_said(scene, contract, tests, problem):
    texts = [text for _, text in scene(contract, tests).problems]
    assert any(problem in text for text in texts), texts
