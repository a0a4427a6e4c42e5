# SPDX-License-Identifier: Apache-2.0
"""The Chinese pages: compared with the English ones, and what README.zh.md tells to do works."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.package.tree import ROOT


@pytest.fixture
def translations() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tr", ROOT / "docs" / "translations.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_each_page_was_compared_with_its_translation(translations: ModuleType) -> None:
    found = translations.differences()
    # Whoever changes an English page changes the Chinese one, or says here that it need not.
    assert found == [], f"translate, then: {translations.COMMAND}"


def test_a_change_on_one_side_is_told(
    translations: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(translations, "ROOT", tmp_path)
    monkeypatch.setattr(translations, "COMPARED", tmp_path / "compared.json")
    monkeypatch.setattr(translations, "PAGES", {"a.md": "a.zh.md"})
    english, chinese = tmp_path / "a.md", tmp_path / "a.zh.md"
    english.write_text("# A\none\n## B\n```sh\n# no heading\n```\n## B\n- two\n")
    chinese.write_text("# 甲\n一\n## 乙\n```sh\n# no heading\n```\n## 乙\n- 二\n")
    monkeypatch.setattr(sys, "argv", ["translations.py", "--renew"])
    translations.COMPARED.write_text(translations.json.dumps(translations.current()))
    assert translations.differences() == []
    english.write_text(english.read_text().replace("- two", "- three\n- four"))
    assert translations.differences() == [
        "a.md: the section 'B (2)' changed: a.zh.md has to say the same",
        "a.zh.md has other items of lists than a.md",
    ]
    english.write_text(english.read_text().replace("- three\n- four", "- two"))
    chinese.write_text(chinese.read_text().replace("二", "贰"))
    assert translations.differences() == ["a.zh.md changed, a.md has not"]


# What installs, which the tests of the wheel do in a clean environment; the rest is run here.
INSTALLS = (["python3", "-m", "venv"], [".venv/bin/pip", "install"])


def _commands(page: Path) -> list[list[str]]:
    text = page.read_text(encoding="utf-8")
    lines = "\n".join(re.findall(r"^```sh\n(.*?)^```$", text, re.DOTALL | re.MULTILINE))
    return [
        shlex.split(command, comments=True)
        for line in lines.splitlines()
        for command in line.split("&&")
    ]


def test_the_way_of_a_chinese_reader(tmp_path: Path) -> None:
    """README.zh.md to the demo, then docs/zh/quickstart.md to a passing test, by their commands."""
    readme, quickstart = ROOT / "README.zh.md", ROOT / "docs" / "zh" / "quickstart.md"
    assert "(docs/zh/quickstart.md)" in readme.read_text(encoding="utf-8")
    text = quickstart.read_text(encoding="utf-8")
    for name, code in re.findall(r"^```python\n# file: (\S+)\n(.*?)^```$", text, re.DOTALL | re.M):
        (tmp_path / name).write_text(code)
    (ini,) = re.findall(r"```ini\n(.*?)```", text, re.DOTALL)
    (tmp_path / "pytest.ini").write_text(ini)
    # The environment of the commands: what is here, under the names that they have there.
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name, arguments in (("python", ""), ("llm-datadist", "-m llm_datadist ")):
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {arguments}"$@"\n')
        program.chmod(0o755)
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "LLM_DATADIST_BACKEND": "mock"}
    variables["PYTEST_ADDOPTS"] = "-p llm_datadist_cffi_pytest -p no:cacheprovider"
    commands = [each for each in (*_commands(readme), *_commands(quickstart)) if each]
    ran = []
    for command in commands:
        # The suite of the project itself is what runs this test.
        if command[:3] in INSTALLS or command[:2] in INSTALLS or "-n" in command:
            continue
        assert command[0].startswith(".venv/bin/"), command
        if command[1] == "demo":
            command = [*command, "--layers=2", "--blocks=16"]
        done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        ran.append((command[1], done.stdout))
    assert [name for name, _ in ran].count("demo") == 1
    assert "2 passed" in ran[-1][1]
