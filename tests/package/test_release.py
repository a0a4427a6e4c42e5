# SPDX-License-Identifier: Apache-2.0
"""What a release is checked for, and what the build says where it lacks something."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from release import checks, roots, sbom, wheels
from tests.package.tree import ROOT

PARTS = ("CHANGELOG.md", "csrc/include/llm_datadist.h", "llm_datadist/_version.py")


@pytest.fixture
def tree(tmp_path):
    """Return a folder with the files that the checks read."""
    for name in PARTS:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "release" / "abi", tmp_path / "release" / "abi")
    return tmp_path


def edit(path, pattern, by):
    text = path.read_text()
    changed = re.sub(pattern, by, text, count=1, flags=re.MULTILINE)
    assert changed != text
    path.write_text(changed)


def test_this_tree_can_be_released_but_for_its_date():
    assert checks.problems() == []
    text = (ROOT / "CHANGELOG.md").read_text()
    left = [problem for problem in checks.problems(final=True) if "exists" not in problem]
    assert bool(left) == ("(unreleased)" in text)


def test_a_version_that_stands_elsewhere_too_is_found(tree):
    edit(tree / "llm_datadist/_version.py", r'"\d+\.\d+\.\d+"', '"7.3.1"')
    found = checks.problems(tree)
    assert len(found) == 3
    assert "the version is 7.3.1" in found[0]
    assert re.match(r"llm_datadist\.h says \d+\.\d+, the version is 7\.3\.1", found[1])
    assert found[2] == "release/abi has no 7.3: python -m release.abi --write"


def test_the_heading_of_the_changelog_has_a_date_in_the_end(tree):
    edit(tree / "CHANGELOG.md", r"^(## \d+\.\d+\.\d+) \(.*\)$", r"\1 (2030-01-31)")
    assert checks.problems(tree, final=True) == []
    edit(tree / "CHANGELOG.md", r"\(2030-01-31\)", "(soon)")
    assert "(unreleased) or a date is meant" in checks.problems(tree)[0]
    assert "a release has its date" in checks.problems(tree, final=True)[0]


def test_the_long_description_has_no_link_into_the_tree(setup_module):
    """An index shows it where there is no tree."""
    readme = (ROOT / "README.md").read_text()
    text = setup_module.long_description(readme)
    assert re.findall(r"\]\((?!https?://)[^)]*\)", text) == []
    assert len(re.findall(r"\]\((?!https?://)[^)]*\)", readme)) > 20
    assert "`docs/quickstart.md`" in text
    assert text.index("pip install") < text.index("```")
    assert setup_module.long_description("[a page](docs/b.md#c), [x](https://e.org)") == (
        "a page (`docs/b.md`), [x](https://e.org)"
    )


def build_native(directory, **environment):
    """Run the build with this environment; returns how it ended."""
    return subprocess.run(
        [
            *(sys.executable, "-W", "ignore", "setup.py", "-q"),
            *("build_native", f"--build-lib={directory / 'lib'}"),
        ],
        cwd=ROOT,
        env={**os.environ, "LLM_DATADIST_BUILD_ASCEND": "0", **environment},
        text=True,
        capture_output=True,
    )


def test_a_build_without_a_compiler_says_what_to_install(setup_module, tmp_path, monkeypatch):
    """In its last line, which pip shows at the end of what it shows of a build."""
    monkeypatch.delenv("CXX", raising=False)
    done = build_native(tmp_path, PATH=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "error: libllm_datadist_mock.so: no C++ compiler (c++, g++, clang++): install one that "
        "knows C++17, for example GCC 9 (Debian, Ubuntu: apt install g++), or name it with CXX"
    )


def test_a_build_without_cffi_says_what_to_install(setup_module, tmp_path):
    """As ``pip install --no-build-isolation`` does where there is no index."""
    (tmp_path / "cffi.py").write_text("raise ImportError('none here')\n")
    done = build_native(tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "error: the build writes declarations with cffi, which is missing (none here): "
        "pip install 'cffi>=1.15', from a file where no index can be reached"
    )
    assert "Traceback" not in done.stderr


def test_what_the_tools_of_a_release_lack_is_named(monkeypatch):
    monkeypatch.setattr(wheels.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(wheels.shutil, "which", lambda name, path=None: None)
    assert wheels.missing() == [*wheels.NEEDED, "patchelf"]
    monkeypatch.setattr(roots.os, "geteuid", lambda: 1000)
    assert roots.missing([roots.System("sid", "amd64", "3.14")]) == [
        "root (to mount and to change the root)",
        "debootstrap (the systems)",
        "unshare (their namespaces)",
    ]


def test_the_bill_of_materials_names_what_is_linked_in():
    llvm = sbom.llvm_version("clang version 21.1.0 (https://example.org abc)\nTarget: x86_64\n")
    document = json.loads(sbom.bill("0.1.0", "0.17.1", llvm))
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    named = {each["name"]: each["version"] for each in document["components"]}
    assert named == dict.fromkeys(("libc++", "libc++abi", "libunwind", "compiler-rt"), "21.1.0")
    (of_itself,) = document["dependencies"]
    assert of_itself["ref"] == document["metadata"]["component"]["bom-ref"]
    assert of_itself["dependsOn"] == [each["bom-ref"] for each in document["components"]]
    with pytest.raises(ValueError, match="no version of clang in 'gcc'"):
        sbom.llvm_version("gcc")


def test_each_platform_has_a_system_that_tries_it():
    """But musl, of which docs/release.md says what was tried."""
    machines = {each.machine for each in wheels.PLATFORMS if each.tag.startswith("manylinux")}
    assert machines == {system.machine for system in roots.SYSTEMS}
    assert {system.python for system in roots.SYSTEMS} == {"3.9", "3.14"}
