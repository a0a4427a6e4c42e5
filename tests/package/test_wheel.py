# SPDX-License-Identifier: Apache-2.0
"""What the wheel and the source distribution are called, contain, and do."""

from __future__ import annotations

import ctypes
import email.parser
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from functools import partial
from pathlib import Path

import pytest

from llm_datadist._version import __version__
from release.wheels import unpack

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.slow


def run_setup(directory, *commands, **environment):
    """Run setup.py on the checkout, all but the objects elsewhere; returns what it printed."""
    result = subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore",
            "setup.py",
            "-q",
            "egg_info",
            f"--egg-base={directory}",
            *commands,
        ],
        cwd=ROOT,
        env={**os.environ, **environment},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert result.returncode == 0, result.stdout
    return result.stdout


def build_wheel(directory, output, **environment):
    """Build a wheel into a folder of ``directory``, in which everything else stays for the next."""
    printed = run_setup(
        directory,
        "build",
        f"--build-base={directory / 'build'}",
        "bdist_wheel",
        f"--bdist-dir={directory / 'bdist'}",
        f"--dist-dir={directory / output}",
        **environment,
    )
    (found,) = (directory / output).glob("*.whl")
    return found, printed


@pytest.fixture(scope="module")
def wheel(setup_module, needs_compiler, tmp_path_factory):
    """Build the wheel as on a machine without CANN."""
    directory = tmp_path_factory.mktemp("wheel")
    return build_wheel(directory, "dist", LLM_DATADIST_BUILD_ASCEND="0")[0]


@pytest.fixture(scope="module")
def ascend_build(setup_module, fake_cann, tmp_path_factory):
    """Return the folder of a build on a machine with CANN: of the wheel in its folder "ascend".

    Its objects are those of the library that the tests of the Ascend runtime use.
    """
    directory = tmp_path_factory.mktemp("ascend-wheel")
    cann = {"LLM_DATADIST_BUILD_ASCEND": "1", "ASCEND_HOME_PATH": str(fake_cann)}
    _, printed = build_wheel(directory, "ascend", **cann)
    assert f"CANN toolkit: {fake_cann} ($ASCEND_HOME_PATH)\n" in printed
    return directory


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Unpack the wheel where nothing else of this project is."""
    directory = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(directory)
    return directory


def test_one_wheel_for_every_python(wheel):
    name, version, python, abi, platform = wheel.stem.split("-")
    assert (name, version, python, abi) == ("llm_datadist_cffi", __version__, "py3", "none")
    assert platform.endswith(os.uname().machine)
    assert platform != "any"


def test_contents(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    modules = {"llm_datadist_cffi_cli.py", "llm_datadist_cffi_pytest.py"}
    expected = {
        *modules,
        "llm_datadist/__init__.py",
        "llm_datadist/py.typed",
        "llm_datadist/_native/_ffi.py",
        "llm_datadist/_native/_ffi.pyi",
        "llm_datadist/_native/lib/libllm_datadist_mock.so",
        "llm_datadist/include/llm_datadist.h",
        "llm_datadist/_bench/reference.c",
    }
    assert expected - names == set()
    of_package = {str(path.relative_to(ROOT)) for path in (ROOT / "llm_datadist").rglob("*.py")}
    assert of_package - names == set()
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "csrc").rglob("*") if path.suffix}
    packaged = {name for name in names if "/_native/src/" in name}
    assert packaged == {f"llm_datadist/_native/src/{name}" for name in sources}
    suite = {f"tests/conformance/{path.name}" for path in (ROOT / "tests/conformance").glob("*.py")}
    folder = "llm_datadist/testing/suite/"
    packaged = {name for name in names if name.startswith(folder)}
    assert packaged == {folder + name for name in (*suite, "tests/__init__.py", "pyproject.toml")}
    dist_info = f"llm_datadist_cffi-{__version__}.dist-info/"
    others = [
        name
        for name in names
        if not name.startswith(("llm_datadist/", dist_info)) and name not in modules
    ]
    assert others == []


def content_of(wheel):
    """Return names and content, but of the list of these."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/RECORD")]
        return {name: archive.read(name) for name in names}


def test_a_wheel_built_with_cann_has_one_file_more(wheel, ascend_build):
    """And the same in every other, byte for byte."""
    (built,) = (ascend_build / "ascend").glob("*.whl")
    assert built.name == wheel.name
    mock, ascend = content_of(wheel), content_of(built)
    assert set(ascend) - set(mock) == {"llm_datadist/_native/lib/libllm_datadist_ascend.so"}
    assert [name for name in mock if mock[name] != ascend.get(name)] == []


def test_the_ascend_library_of_a_wheel_works(ascend_build, fake_cann, tmp_path):
    """Without the environment script of CANN, which only CANN's package needs."""
    (built,) = (ascend_build / "ascend").glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        archive.extractall(tmp_path)
    environment = {"LLM_DATADIST_BACKEND": "auto", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    environment["LLM_DATADIST_HOST_IP"] = ""
    entry = str(tmp_path / "llm_datadist_cffi_cli.py")
    result = run_installed(tmp_path, entry, "doctor", "--json", **environment)
    assert result.returncode == 0, result.stdout + result.stderr
    (backend,) = json.loads(result.stdout)["sections"]["Backend"]
    library = tmp_path / "llm_datadist" / "_native" / "lib" / "libllm_datadist_ascend.so"
    assert backend["data"] == {"chosen": "ascend", "path": str(library)}
    findings = {finding["name"]: finding for finding in sections_of(result)}
    assert findings["built against"]["data"]["root"] == str(fake_cann)
    soc = "FakeAscend in host memory"
    assert findings["hixl"]["data"] == {"usable": True, "soc": soc, "product": None}
    assert findings["hixl address"]["data"]["source"] == "route"


def sections_of(result):
    """Return the findings of a doctor with --json."""
    return [each for found in json.loads(result.stdout)["sections"].values() for each in found]


def test_a_library_that_an_earlier_build_left_is_not_packaged(wheel, ascend_build):
    """CANN, or the wish for it, may be gone since."""
    left = ascend_build / "build"
    (library,) = left.rglob("libllm_datadist_ascend.so")
    found, printed = build_wheel(ascend_build, "mock", LLM_DATADIST_BUILD_ASCEND="0")
    assert content_of(found) == content_of(wheel)
    assert f"removed {library}, which an earlier build left\n" in printed
    assert list(left.rglob("*_ascend.so")) == []


def test_metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        folder = f"llm_datadist_cffi-{__version__}.dist-info"
        license_text = archive.read(f"{folder}/licenses/LICENSE").decode()
        metadata = email.parser.Parser().parsestr(archive.read(f"{folder}/METADATA").decode())
        entry_points = archive.read(f"{folder}/entry_points.txt").decode()
        root_is_purelib = archive.read(f"{folder}/WHEEL").decode()
    assert metadata["Name"] == "llm-datadist-cffi"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert "Framework :: Pytest" in metadata.get_all("Classifier")
    assert metadata["Description-Content-Type"].startswith("text/markdown")
    assert metadata.get_payload().startswith("# llm-datadist-cffi\n")
    assert license_text == (ROOT / "LICENSE").read_text()
    required = [text for text in metadata.get_all("Requires-Dist") if "extra" not in text]
    assert sorted(required) == ["cffi>=1.15", "numpy"]
    assert {"test", "dev", "plot"} <= set(metadata.get_all("Provides-Extra"))
    assert "llm-datadist = llm_datadist_cffi_cli:main" in entry_points
    assert "[pytest11]\nllm_datadist_cffi_pytest = llm_datadist_cffi_pytest\n" in entry_points
    assert "Root-Is-Purelib: false" in root_is_purelib


def test_the_header_is_the_one_it_was_built_from(installed):
    shipped = installed / "llm_datadist" / "include" / "llm_datadist.h"
    assert shipped.read_text() == (ROOT / "csrc" / "include" / "llm_datadist.h").read_text()


def run_installed(installed, *arguments, path=(), cwd=None, before=None, **environment):
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("ASCEND_")},
        "PYTHONPATH": os.pathsep.join([*map(str, path), str(installed)]),
        "LLM_DATADIST_BACKEND": "mock",
        **environment,
    }
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd or installed.parent,
        env=environment,
        text=True,
        capture_output=True,
        preexec_fn=before,
    )


def test_the_library_of_the_wheel_loads(installed):
    code = (
        "from llm_datadist import backends; info = backends.backend_info(); "
        "print(info.name, info.version, info.path)"
    )
    result = run_installed(installed, "-c", code)
    assert result.returncode == 0, result.stderr
    library = installed / "llm_datadist" / "_native" / "lib" / "libllm_datadist_mock.so"
    assert result.stdout.split() == ["mock", __version__, str(library)]


@pytest.fixture
def decoy(tmp_path):
    """Make a directory with another llm_datadist, as CANN has one, and return the directory."""
    package = tmp_path / "llm_datadist"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('the decoy was imported')\n")
    return tmp_path


def test_the_command_ignores_another_llm_datadist(installed, decoy):
    code = "import sys, llm_datadist_cffi_cli; sys.argv[1:] = ['--version']; "
    result = run_installed(installed, "-c", code + "llm_datadist_cffi_cli.main()", path=[decoy])
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == f"llm-datadist-cffi {__version__}"
    decoyed = run_installed(installed, "-c", "import llm_datadist", path=[decoy])
    assert "the decoy was imported" in decoyed.stderr


def test_the_processes_of_the_demo_ignore_it_too(installed, decoy):
    """Neither the path nor the current directory (a checkout, say) decides what they import."""
    entry = installed / "llm_datadist_cffi_cli.py"
    demo = [str(entry), "demo", "--blocks", "2", "--json"]
    result = run_installed(installed, *demo, path=[decoy], cwd=decoy)
    assert result.returncode == 0, result.stdout + result.stderr
    assert json.loads(result.stdout)


def test_the_suite_of_the_wheel_runs(installed, decoy):
    """On the library of the wheel, between processes of the wheel."""
    command = [str(installed / "llm_datadist_cffi_cli.py"), "selftest"]
    some = ["--", "-q", "-k", "test_pull_blocks and mapped", "--maxfail=1"]
    result = run_installed(installed, *command, *some, path=[decoy], cwd=decoy)
    assert result.returncode == 0, result.stdout + result.stderr
    first, _, rest = result.stdout.partition("\n")
    assert first.startswith(f"mock {__version__}, ")
    assert first.endswith(f"({installed}/llm_datadist/_native/lib/libllm_datadist_mock.so)")
    assert re.search(r"^\d+ passed, (1 skipped, )?\d+ deselected", rest, re.MULTILINE)


def test_the_suite_needs_a_backend(installed):
    command = [str(installed / "llm_datadist_cffi_cli.py"), "selftest", "--backend", "cuda"]
    result = run_installed(installed, *command)
    assert result.returncode == 2
    assert "names the backend 'cuda'; legal are auto, mock" in result.stderr


def test_build_ascend_without_a_toolkit(installed, tmp_path):
    entry = installed / "llm_datadist_cffi_cli.py"
    result = run_installed(
        installed, str(entry), "build-ascend", "--toolkit", str(tmp_path / "cann")
    )
    assert result.returncode == 1
    assert f"{tmp_path / 'cann'} (--toolkit) does not exist" in result.stderr


def obey_modes():
    """Let root, too, write only where modes allow it, from the next program on."""
    if os.geteuid() == 0 and _PRCTL(_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE, 0, 0, 0) != 0:
        os._exit(1)


_PRCTL = ctypes.CDLL(None).prctl
_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE = 24, 1


@pytest.fixture
def read_only(installed, tmp_path):
    """Return a copy of the installed wheel in which nobody may write."""
    folder = tmp_path / "site-packages"
    shutil.copytree(installed, folder, ignore=shutil.ignore_patterns("__pycache__"))
    folders = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    for path in folder.rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    folder.chmod(0o555)
    tried = run_installed(folder, "-c", f"open({str(folder / 'new')!r}, 'w')", before=obey_modes)
    if "PermissionError" not in tried.stderr:
        pytest.skip(f"capability read-only folders: {tried.stderr or 'written to all the same'}")
    yield folder
    for path in folders:
        path.chmod(0o755)


def test_build_ascend_from_the_wheel(read_only, fake_cann, tmp_path):
    """On a device host, as a user who may not write to site-packages: the wheel's sources are
    compiled, the result is found, an engine opens.
    """
    entry = str(read_only / "llm_datadist_cffi_cli.py")
    of_the_package = set(read_only.rglob("*"))
    run = partial(run_installed, read_only, entry, before=obey_modes)
    environment = {
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "LLM_DATADIST_BACKEND": "ascend",
        # What the compiler makes of it is not what is tested here.
        "CXXFLAGS": "-O0 -g0",
    }
    before = run("doctor", "--json", **environment)
    assert (before.returncode, json.loads(before.stdout)["works"]) == (1, False)
    built = run("build-ascend", "--toolkit", str(fake_cann), **environment)
    assert built.returncode == 0, built.stderr
    (library,) = (tmp_path / "cache").rglob("*.so")
    assert f"library       {library}\n" in built.stdout
    assert "loads         ascend " in built.stdout
    after = run("doctor", "--json", **environment)
    assert after.returncode == 0, after.stdout
    (backend,) = json.loads(after.stdout)["sections"]["Backend"]
    assert backend["data"] == {"chosen": "ascend", "path": str(library)}
    assert set(read_only.rglob("*")) == of_the_package


def test_the_bench_of_the_wheel(installed, tmp_path):
    """It has everything with it: reference.c, too."""
    entry = installed / "llm_datadist_cffi_cli.py"
    bench = [str(entry), "bench", "--tiny", "--path=allocated", "--only=W3", "--rounds=1", "--json"]
    result = run_installed(installed, *bench, cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    report = json.loads(result.stdout)
    # Whether they can be compiled is the machine's affair, but the source is there.
    assert report["no_references"] == "" or "no C compiler" in report["no_references"]
    assert [each["work"] for each in report["results"]] == ["W3"]


def test_a_source_distribution_builds_the_same_wheel(setup_module, wheel, tmp_path):
    """All of it but the library, which a compiler of nothing makes here."""
    run_setup(tmp_path, "sdist", f"--dist-dir={tmp_path}")
    (archive,) = tmp_path.glob("*.tar.gz")
    tree = unpack(archive, tmp_path / "unpacked")
    cxx = tmp_path / "c++"
    cxx.write_text('#!/bin/sh\nwhile [ $# -gt 1 ]; do [ "$1" = -o ] && : > "$2"; shift; done\n')
    cxx.chmod(0o755)
    environment = {**os.environ, "CXX": str(cxx), "LLM_DATADIST_BUILD_ASCEND": "0"}
    command = [sys.executable, "-W", "ignore", "setup.py", "-q", "bdist_wheel"]
    result = subprocess.run(command, cwd=tree, env=environment, text=True, capture_output=True)
    assert result.returncode == 0, result.stderr
    (found,) = (tree / "dist").glob("*.whl")
    assert found.name == wheel.name
    built, expected = content_of(found), content_of(wheel)
    library = "llm_datadist/_native/lib/libllm_datadist_mock.so"
    assert expected.pop(library) != built.pop(library)
    assert set(built) == set(expected)
    assert [name for name in expected if built[name] != expected[name]] == []


def test_a_source_distribution_has_what_the_build_needs(setup_module, tmp_path):
    run_setup(tmp_path, "sdist", f"--dist-dir={tmp_path}")
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    patterns = ("csrc/**/*", "mock_runtime/**/*", "llm_datadist/**/*.py", "tests/**/*.py")
    patterns += ("llm_datadist/_bench/*.c", "benchmarks/**/*")
    needed = {
        str(path.relative_to(ROOT))
        for pattern in patterns
        for path in ROOT.glob(pattern)
        if path.is_file() and path.name != "_ffi.py" and path.suffix != ".pyc"
    }
    needed |= {"setup.py", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"}
    assert needed - names == set()
    assert [name for name in names if name.endswith((".so", "_ffi.py", "_ffi.pyi"))] == []
