# SPDX-License-Identifier: Apache-2.0
"""The tables of options and variables: their pages, and that nothing is missing from them."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from llm_datadist import LLMConfig
from llm_datadist._cli import _variables
from llm_datadist._native import libraries
from llm_datadist._native.facade import Facade
from llm_datadist.config import MEMBERS

ROOT = Path(__file__).resolve().parents[2]
# In quotation marks, as programs name a variable.
QUOTED = re.compile(r"[\"']((?:LLM_DATADIST|ASCEND)_[A-Z_]+[A-Z])[\"']")


@pytest.fixture(scope="module")
def mock_variables():
    library = libraries.load("mock")
    return _variables.of_mock(Facade(library.ffi, library.lib))


def test_the_pages_are_up_to_date():
    spec = importlib.util.spec_from_file_location("tables", ROOT / "docs" / "tables.py")
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    for path, text in tables.pages().items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            pytest.fail(f"{path.name} is not up to date: run `{tables.COMMAND}`", pytrace=False)


def test_every_variable_that_is_read_is_in_the_table(mock_variables):
    files = [ROOT / "setup.py", *(ROOT / "tests" / "conformance").glob("*.py")]
    files += (ROOT / "llm_datadist").rglob("*.py")
    for folder in ("csrc", "mock_runtime"):
        files += [path for path in (ROOT / folder).rglob("*") if path.suffix in (".cc", ".h")]
    read = {name for path in files for name in QUOTED.findall(path.read_text())}
    assert len(read) > 15
    assert read - {each.name for each in (*_variables.VARIABLES, *mock_variables)} == set()


def test_no_variable_stands_twice(mock_variables):
    names = [each.name for each in (*_variables.VARIABLES, *mock_variables)]
    assert len(names) == len(set(names))


def test_every_member_is_a_documented_row():
    assert len(MEMBERS) == 26
    for member in MEMBERS:
        assert getattr(LLMConfig, member.name) is member
        assert member.__doc__.endswith(".")
        assert member.accepts
        assert member.default


def test_no_option_stands_twice():
    keys = [key for member in MEMBERS for key in member.keys]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize(
    ("argument", "names"),
    [
        ("--variables", ["LLM_DATADIST_BACKEND", "LLM_DATADIST_MOCK_DEVICES", "1..1024"]),
        ("--options", ["link_retry_count", "llm.LinkRetryCount", "int in [1, 100]"]),
    ],
)
def test_doctor_prints_them(argument, names):
    command = [sys.executable, str(ROOT / "llm_datadist_cffi_cli.py"), "doctor", argument]
    done = subprocess.run(command, text=True, capture_output=True, timeout=60, check=True)
    for name in names:
        assert name in done.stdout
