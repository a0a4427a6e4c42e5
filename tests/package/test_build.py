# SPDX-License-Identifier: Apache-2.0
"""The build compiles what changed and nothing else, and refuses clearly."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from llm_datadist._native import building
from llm_datadist._native.compiler import COMMANDS, BuildError, Compiler
from tests.package.tree import ROOT

EXPORTS = "{ global: lldd_*; local: *; };\n"
TARGET = building.Target("sample", (".",))


@pytest.fixture
def tree(needs_compiler, tmp_path, monkeypatch):
    """Make a source tree of two files and a header."""
    for name in ("CXX", "CXXFLAGS", "LDFLAGS"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "csrc").mkdir()
    (tmp_path / "csrc" / "exports.map").write_text(EXPORTS)
    (tmp_path / "one.h").write_text("int helper();\n")
    (tmp_path / "one.cc").write_text('#include "one.h"\nint helper() { return 1; }\n')
    (tmp_path / "two.cc").write_text('extern "C" int lldd_two();\nint lldd_two() { return 2; }\n')
    return tmp_path


def compiler_of(target, tree, build_dir, defines=(), sanitize=(), werror=None):
    flags = building.compile_flags(target, tree, build_dir, sanitize)
    return Compiler(tree, build_dir, [*flags, *defines], werror=werror)


@pytest.fixture
def make(tree, capfd):
    """Build the tree; returns the names of the files that were compiled. ``make.printed()`` is what
    the compiler printed then."""

    def run(defines=(), sanitize=(), target=TARGET):
        build_dir = tree / "build" / "-".join(["normal", *sanitize])
        build_dir.mkdir(parents=True, exist_ok=True)
        capfd.readouterr()
        compiler = compiler_of(target, tree, build_dir, defines, sanitize)
        compiler.link(
            compiler.compile_all(target.sources(tree), jobs=2),
            build_dir / "lib.so",
            building.link_flags(target, tree, sanitize),
            target.libraries,
            [tree / building.VERSION_SCRIPT],
        )
        shown = capfd.readouterr()
        printed.append(shown.err)
        lines = shown.out.split("\n")
        return sorted(line.rpartition(" compiling ")[2] for line in lines if " compiling " in line)

    printed = []
    run.printed = lambda: printed[-1]
    return run


def touch_later(path):
    """Make a file newer than anything built so far."""
    later = path.stat().st_mtime_ns + 10**12
    os.utime(path, ns=(later, later))


def test_only_what_changed_is_compiled(make, tree):
    assert make() == ["one.cc", "two.cc"]
    assert make() == []
    touch_later(tree / "two.cc")
    assert make() == ["two.cc"]


def test_a_changed_header_counts(make, tree):
    make()
    touch_later(tree / "one.h")
    assert make() == ["one.cc"]


def test_a_header_that_is_gone_counts(make, tree):
    make()
    (tree / "one.h").unlink()
    (tree / "one.cc").write_text("int helper();\nint helper() { return 1; }\n")
    assert make() == ["one.cc"]


def test_other_flags_compile_everything(make, monkeypatch):
    make()
    assert make(defines=["-DOTHER=1"]) == ["one.cc", "two.cc"]
    monkeypatch.setenv("CXXFLAGS", "-O0")
    assert make(defines=["-DOTHER=1"]) == ["one.cc", "two.cc"]
    assert make(defines=["-DOTHER=1"]) == []


def test_linking_happens_when_needed(make, tree):
    make()
    library = tree / "build" / "normal" / "lib.so"
    first = library.stat().st_ino
    make()
    assert library.stat().st_ino == first
    touch_later(tree / "csrc" / "exports.map")
    make()
    assert library.stat().st_ino != first
    assert list(library.parent.glob("*.new")) == []


def test_a_removed_source_is_linked_no_more(make, tree):
    make()
    library = tree / "build" / "normal" / "lib.so"
    first = library.stat().st_ino
    (tree / "one.cc").unlink()
    make()
    assert library.stat().st_ino != first


def test_a_sanitized_library_lies_beside_the_normal_one(make, tree):
    make()
    normal = tree / "build" / "normal" / "lib.so"
    before = normal.read_bytes()
    if subprocess.run(
        ["c++", "-fsanitize=undefined", "-x", "c++", "-", "-o", tree / "probe"],
        input="int main() {}",
        text=True,
        capture_output=True,
    ).returncode:
        pytest.skip("this compiler has no UndefinedBehaviorSanitizer")
    assert make(sanitize=["undefined"]) == ["one.cc", "two.cc"]
    assert normal.read_bytes() == before
    assert make() == []


def test_errors_are_shown(make, tree):
    (tree / "two.cc").write_text("int broken( {}\n")
    with pytest.raises(BuildError, match=r"two\.cc"):
        make()


WARNED = "int f(long x);\nint f(long x) { return x; }\n"


def test_warnings_are_errors_in_this_projects_own_tests(make, tree):
    """tests/conftest.py says so."""
    (tree / "two.cc").write_text(WARNED)
    with pytest.raises(BuildError, match="conversion"):
        make()


@pytest.mark.parametrize("value", [None, "", "0"])
def test_warnings_are_printed_elsewhere(make, tree, monkeypatch, value):
    """No compiler of a user's keeps the library from being built."""
    monkeypatch.delenv("LLM_DATADIST_WERROR")
    if value is not None:
        monkeypatch.setenv("LLM_DATADIST_WERROR", value)
    (tree / "two.cc").write_text(WARNED)
    assert make() == ["one.cc", "two.cc"]
    assert "conversion" in make.printed()
    assert (tree / "build" / "normal" / "lib.so").exists()
    assert make() == []


def test_what_was_compiled_with_warnings_does_not_stay(make, tree, monkeypatch):
    monkeypatch.setenv("LLM_DATADIST_WERROR", "0")
    (tree / "two.cc").write_text(WARNED)
    make()
    monkeypatch.setenv("LLM_DATADIST_WERROR", "1")
    for _ in range(2):
        with pytest.raises(BuildError, match="conversion"):
            make()
    (tree / "two.cc").write_text("int f(int x);\nint f(int x) { return x; }\n")
    # The other one had none.
    assert make() == ["two.cc"]
    assert make() == []


def test_an_argument_decides_about_warnings_first(tree, monkeypatch):
    (tree / "two.cc").write_text(WARNED)
    for variable, werror in (("1", False), ("0", True)):
        monkeypatch.setenv("LLM_DATADIST_WERROR", variable)
        compiler = compiler_of(TARGET, tree, tree / variable, werror=werror)
        if werror:
            with pytest.raises(BuildError, match="conversion"):
                compiler.compile_all(TARGET.sources(tree), jobs=1)
        else:
            compiler.compile_all(TARGET.sources(tree), jobs=1)


def test_any_other_value_is_refused(tree, monkeypatch):
    monkeypatch.setenv("LLM_DATADIST_WERROR", "yes")
    with pytest.raises(BuildError, match="WERROR must be 0, 1 or empty, not 'yes'"):
        compiler_of(TARGET, tree, tree)


def test_undefined_symbols_are_errors(make, tree):
    (tree / "two.cc").write_text(
        'int nowhere();\nextern "C" int lldd_two();\nint lldd_two() { return nowhere(); }\n'
    )
    with pytest.raises(BuildError, match=r"linking failed[\s\S]*nowhere"):
        make()


def test_a_missing_compiler_is_named(tree, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(BuildError, match=r"no C\+\+ compiler \(no-such-compiler\)"):
        compiler_of(TARGET, tree, tree)


def test_a_compiler_that_is_too_old_is_named(tree, monkeypatch):
    old = tree / "old-c++"
    old.write_text("#!/bin/sh\necho 'unrecognized option -std=c++17' >&2\nexit 1\n")
    old.chmod(0o755)
    monkeypatch.setenv("CXX", str(old))
    with pytest.raises(BuildError, match=r"old-c\+\+ does not compile C\+\+17"):
        compiler_of(TARGET, tree, tree)


def test_a_compiler_that_cannot_only_check_is_used(tree, monkeypatch):
    """Such as ``zig c++``, which fails where -fsyntax-only makes no object."""
    zig = tree / "zig-c++"
    zig.write_text('#!/bin/sh\ncase " $* " in *" -fsyntax-only "*) exit 1;; esac\nexec c++ "$@"\n')
    zig.chmod(0o755)
    monkeypatch.setenv("CXX", str(zig))
    compiler = compiler_of(TARGET, tree, tree / "build")
    assert len(compiler.compile_all(TARGET.sources(tree), jobs=1)) == 2


# As a library for glibc 2.17 is compiled, which declares neither of the two.
OLDER_LIBC = """
#include <fcntl.h>
#include <features.h>
#undef __GLIBC_MINOR__
#define __GLIBC_MINOR__ 17
#include "base/older_libc.h"
int main() {
    unsigned long long first = 0, second = 0;
    const int file = lldd::memfd_create("older", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    return lldd::getrandom(&first, 8, 0) == 8 && lldd::getrandom(&second, 8, 0) == 8 &&
                   first != second && fcntl(file, F_GETFD) == FD_CLOEXEC &&
                   fcntl(file, F_ADD_SEALS, F_SEAL_GROW) == 0
               ? 0 : 1;
}
"""


def test_system_calls_that_an_older_c_library_does_not_wrap(needs_compiler, tmp_path):
    program = tmp_path / "older"
    options = ["-std=c++17", "-Wall", "-Werror", f"-I{ROOT / 'csrc'}", "-x", "c++", "-"]
    built = subprocess.run(
        ["c++", *options, "-o", program], input=OLDER_LIBC, text=True, capture_output=True
    )
    assert built.returncode == 0, built.stderr
    assert subprocess.run([program]).returncode == 0


@pytest.mark.parametrize("system", ["Darwin", "Windows"])
def test_other_systems_are_refused(mocker, system):
    mocker.patch.object(building.platform, "system", return_value=system)
    with pytest.raises(BuildError, match=f"Linux only; this is {system}"):
        building.check_platform()


def test_32_bits_are_refused(mocker):
    mocker.patch.object(building.struct, "calcsize", return_value=4)
    with pytest.raises(BuildError, match="64-bit"):
        building.check_platform()


@pytest.mark.parametrize(
    ("value", "expected"),
    [("", []), ("thread", ["thread"]), ("undefined,address", ["address", "undefined"])],
)
def test_sanitizers_are_read(monkeypatch, value, expected):
    monkeypatch.setenv("LLM_DATADIST_SANITIZE", value)
    assert building.sanitizers_asked_for() == expected


def test_unknown_sanitizers_are_refused(monkeypatch):
    monkeypatch.setenv("LLM_DATADIST_SANITIZE", "address,rust")
    with pytest.raises(BuildError, match="rust; legal names are address"):
        building.sanitizers_asked_for()


def test_what_was_compiled_how_is_written_down(make, tree, monkeypatch):
    """With the compiler first, as clangd wants it, and in any order of builds."""
    cxx = tree / "ccache"
    cxx.write_text('#!/bin/sh\nexec "$@"\n')
    cxx.chmod(0o755)
    monkeypatch.setenv("CXX", f"{cxx} c++")
    make(["-DSAMPLE=1"])
    build_dir = tree / "build" / "normal"
    commands = json.loads((build_dir / COMMANDS).read_text())
    assert [command["file"] for command in commands] == [
        str(tree / n) for n in ("one.cc", "two.cc")
    ]
    for command in commands:
        assert command["directory"] == str(tree)
        assert command["arguments"][0] == "c++"
        assert {"-std=c++17", "-DSAMPLE=1", command["file"]} <= {*command["arguments"]}
        assert subprocess.run(command["arguments"], cwd=tree).returncode == 0
    building.write_commands(tree, [build_dir, build_dir])
    assert json.loads((tree / "build" / COMMANDS).read_text()) == commands
