# SPDX-License-Identifier: Apache-2.0
"""The pages of docs/ for users: what they show works, and the links between them lead somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.package.tree import ROOT

DOCS = ROOT / "docs"
# In the order of reading. Each begins with code that is run here.
PAGES = (
    *("quickstart", "concepts", "connector", "strict", "faults", "parallel", "testing"),
    *("variables", "ci", "glossary", "telemetry", "fabrics", "trace"),
)
BLOCK = re.compile(r"^```python\n# file: (\S+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
# Of the cases of the connector suite, which the example's test runs all of.
SOME = "not (TestMyConnector or TestMore) or blocks_arrive or during_a_load or busy_for_two"


@pytest.mark.parametrize("page", PAGES)
def test_a_page_begins_with_code(page: str) -> None:
    title, _, rest = (DOCS / f"{page}.md").read_text().partition("\n\n")
    assert title.startswith("# ")
    assert rest.startswith("```python\n# file: "), f"docs/{page}.md begins with {rest[:40]!r}"


def test_what_the_pages_show_works(tmp_path: Path) -> None:
    (ini,) = re.findall(r"```ini\n(.*?)```", (DOCS / "quickstart.md").read_text(), re.DOTALL)
    (tmp_path / "pytest.ini").write_text(ini)
    files: dict[str, str] = {}
    for page in (*PAGES, "api/testing"):
        for name, text in BLOCK.findall((DOCS / f"{page}.md").read_text()):
            assert name not in files, f"two blocks are {name}"
            files[name] = text
            (tmp_path / name).write_text(text)
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    for name in ("PYTEST_ADDOPTS", "LLM_DATADIST_BACKEND"):
        variables.pop(name, None)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "llm_datadist_cffi_pytest"]
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider", f"--basetemp={tmp_path / 'base'}", "-k", SOME],
        cwd=tmp_path,
        env=variables,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    tests = [name for name in files if name.startswith("test_")]
    assert int(re.findall(r"(\d+) passed", done.stdout)[0]) >= len(tests), done.stdout


# Fragments that begin in the middle of a program.
FRAGMENTS = {"ascend": 1, "faults": 1, "telemetry": 1, "zh/ascend": 1}


def test_each_block_of_python_is_run() -> None:
    """By the test above, by test_api_pages, or by test_translations: the same as in English."""
    run = {*PAGES, "api/testing", "zh/quickstart", "zh/connector"}
    fragments: dict[str, int] = {}
    for path in DOCS.rglob("*.md"):
        page = str(path.relative_to(DOCS).with_suffix(""))
        for block in re.findall(r"^```python\n(.*?)^```$", path.read_text(), re.DOTALL | re.M):
            if block.startswith("# file: "):
                assert page in run, f"docs/{page}.md has a file that no test runs"
            elif block.startswith(">>> "):
                assert page.startswith("api/"), f"docs/{page}.md has examples that no test runs"
            else:
                fragments[page] = fragments.get(page, 0) + 1
    assert fragments == FRAGMENTS


def test_links_lead_somewhere() -> None:
    pages = [
        *DOCS.glob("*.md"),
        *DOCS.glob("*/*.md"),
        *ROOT.glob("*.md"),
        ROOT / "examples" / "connector" / "README.md",
    ]
    assert len(pages) > 20
    broken = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in pages
        for target in re.findall(r"\]\(([^)#\s:]+)(?:#[^)]*)?\)", page.read_text())
        if not (page.parent / target).exists()
    ]
    assert broken == []


def test_the_check_of_the_site_finds_what_is_broken(tmp_path: Path) -> None:
    site = tmp_path / "site"
    (site / "deep").mkdir(parents=True)
    links = ("b.html#there", "b.html#gone", "gone.html", "#here", "https://example.org/gone")
    text = "".join(f'<a href="{link}" id="here">' for link in links)
    (site / "deep" / "a.html").write_text(text)
    (site / "deep" / "b.html").write_text('<p id="there"><img src="../gone.svg">')
    command = [sys.executable, DOCS / "site" / "links.py", site]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout.splitlines()) == (
        1,
        [
            "deep/a.html: b.html#gone: no such anchor",
            "deep/a.html: gone.html: no such file",
            "deep/b.html: ../gone.svg: no such file",
        ],
    )


def test_the_readme_leads_to_each_page() -> None:
    readme = (ROOT / "README.md").read_text()
    assert [page for page in PAGES if f"(docs/{page}.md)" not in readme] == []
