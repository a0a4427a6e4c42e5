# SPDX-License-Identifier: Apache-2.0
"""``llm-datadist build-ascend``: from the sources of the package into a folder of the user."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import pytest

from llm_datadist import backends
from llm_datadist.__main__ import main
from llm_datadist._native import building, cann, declarations, libraries, loader
from llm_datadist._native.loader import NativeLibraryError
from tests.package.small_cann import empty_toolkit, small_toolkit, small_tree


@pytest.fixture
def home(machine, monkeypatch, tmp_path):
    """Give the user an empty cache folder and the package a small source tree."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(libraries, "PACKAGED", str(tmp_path / "lib"))
    tree = small_tree(tmp_path / "tree")
    monkeypatch.setattr(libraries, "source_tree", lambda: tree)
    return Path(libraries.user_folder())


@pytest.fixture
def command(home, capfd):
    """Run it; returns its status, stdout and stderr."""

    def run(*arguments):
        status = main(["build-ascend", *arguments])
        shown = capfd.readouterr()
        return status, shown.out, shown.err

    return run


def test_it_says_what_it_found_and_made(command, needs_compiler, machine, home):
    small_toolkit(machine)
    (machine / "version.info").write_text("Version=8.5.0\n")
    status, out, err = command()
    assert status == 0, err
    library = home / "libllm_datadist_ascend.so"
    assert f"CANN toolkit  {machine} (the usual place, version 8.5.0)" in out
    assert f"library       {library}\n" in out
    assert "built         4 files" in out
    assert "[4/4] csrc/ascend/c.cc" in err
    # This tree is not all of it, and that is said, too.
    assert f"loads         not here: {library}: is not a library of llm_datadist" in out
    assert out.rstrip().endswith("llm-datadist doctor")
    # The objects are gone; nobody else may write where libraries are loaded from.
    assert list(home.iterdir()) == [library]
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert libraries.candidates("ascend") == [str(library)]


def test_it_replaces_what_it_made(command, needs_compiler, machine, home):
    small_toolkit(machine)
    assert command()[0] == 0
    first = (home / "libllm_datadist_ascend.so").stat().st_ino
    assert command()[0] == 0
    assert (home / "libllm_datadist_ascend.so").stat().st_ino != first


def test_no_toolkit(command, home):
    status, out, err = command()
    assert (status, out) == (1, "")
    assert err.startswith("llm-datadist build-ascend: no CANN toolkit to build against: ")
    assert "ASCEND_HOME_PATH" in err
    assert not home.exists()


def test_a_toolkit_that_is_named_is_the_only_one(command, machine, tmp_path):
    empty_toolkit(machine)
    status, _, err = command("--toolkit", str(tmp_path / "none"))
    assert status == 1
    assert f"{tmp_path / 'none'} (--toolkit) does not exist. " in err


def test_a_package_without_sources(command, machine, monkeypatch):
    empty_toolkit(machine)
    monkeypatch.setattr(libraries, "source_tree", lambda: None)
    status, _, err = command()
    assert status == 1
    assert "the package has no sources in it" in err


def test_sources_without_the_runtime(command, machine):
    empty_toolkit(machine)
    shutil.rmtree(libraries.source_tree() / "csrc" / "ascend")
    status, _, err = command()
    assert status == 1
    assert "has no csrc/ascend" in err


def test_sources_of_another_package(command, machine):
    empty_toolkit(machine)
    header = libraries.source_tree() / "csrc" / "include" / "llm_datadist.h"
    end = declarations.END_MARK
    header.write_text(header.read_text().replace(end, "typedef int lldd_other;\n" + end))
    status, _, err = command()
    assert status == 1
    assert "is not the header that this package was built from; reinstall" in err


def test_changed_sources_are_told_of(command, needs_compiler, machine, monkeypatch):
    """They may be somebody's repair of what this CANN does not like."""
    small_toolkit(machine)
    tree = libraries.source_tree()
    monkeypatch.setattr(loader.declarations(), "SOURCES", building.sources_digest(tree))
    assert f"sources       {tree}\n" in command()[1]
    (tree / "csrc" / "ascend" / "more.h").touch()
    assert f"sources       {tree} (changed since this package was built)\n" in command()[1]


def test_what_it_made_for_another_environment(command, needs_compiler, machine, monkeypatch):
    (small_toolkit(machine) / "version.info").write_text("Version=8.5.0\n")
    source = libraries.source_tree() / "csrc" / "base" / "a.cc"
    source.write_text('#include "lldd_layout.inc"\n#include <string>\n')
    header = '#include <cstddef>\n#include "llm_datadist.h"\n'
    source.write_text(
        header
        + source.read_text()
        + "const void *Rows();\n"
        + "const void *Rows() { return kLayout; }\n"
    )
    other = empty_toolkit(machine.parent / "other")
    (other / "version.info").write_text("Version=8.6.0\n")
    monkeypatch.setenv("ASCEND_HOME_PATH", str(other))
    status, out, err = command("--toolkit", str(machine))
    assert status == 0, err
    assert (
        f"loads         not in this environment: it was built against CANN 8.5.0 in {machine}"
        in out
    )
    assert f"{other} ($ASCEND_HOME_PATH) is CANN 8.6.0" in out


def test_what_the_compiler_says_is_shown(command, needs_compiler, machine, home):
    small_toolkit(machine)
    (libraries.source_tree() / "csrc" / "ascend" / "c.cc").write_text("int broken( {}\n")
    status, _, err = command()
    assert status == 1
    assert "c.cc:1:" in err
    assert list(home.iterdir()) == []


def test_a_warning_is_no_obstacle(command, needs_compiler, machine, home, monkeypatch):
    """To a user, that is: here LLM_DATADIST_WERROR is 1."""
    small_toolkit(machine)
    source = libraries.source_tree() / "csrc" / "ascend" / "c.cc"
    source.write_text(source.read_text() + "int f(long x);\nint f(long x) { return x; }\n")
    status, _, err = command()
    assert (status, "[-Werror=conversion]" in err) == (1, True)
    monkeypatch.delenv("LLM_DATADIST_WERROR")
    status, _, err = command()
    assert (status, "[-Wconversion]" in err) == (0, True)
    assert (home / "libllm_datadist_ascend.so").exists()


def test_a_user_without_a_home(command, machine, monkeypatch):
    empty_toolkit(machine)
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    status, _, err = command()
    assert status == 1
    assert "name a folder for caches with XDG_CACHE_HOME" in err
    assert libraries.candidates("ascend") == [libraries.packaged("ascend")]


class TestFolder:
    """Which library is taken, of those in the package and in the user's folder."""

    @pytest.fixture
    def built(self, home):
        """Return the library in the user's folder; here it is a file without a meaning."""
        home.mkdir(parents=True, mode=0o700)
        library = home / "libllm_datadist_ascend.so"
        library.touch(mode=0o755)
        return library

    @pytest.fixture
    def load(self, mocker):
        """Load nothing; returns what was loaded. A path ending in ``refused`` is."""

        def load(path):
            if Path(path).read_text() == "refused":
                raise NativeLibraryError(f"{path}: refused", path=path)
            return path

        return mocker.patch.object(loader, "load", side_effect=load)

    def test_its_name_holds_all_that_must_agree(self, home):
        version, fingerprint, sources, machine = home.name.split("-")
        assert int(fingerprint, 16) == libraries.fingerprint()
        assert int(sources, 16) == libraries.sources()
        assert machine == os.uname().machine
        assert version == libraries.__version__

    def test_a_relative_cache_folder_does_not_count(self, home, monkeypatch, tmp_path):
        monkeypatch.setenv("XDG_CACHE_HOME", "cache")
        monkeypatch.setenv("HOME", str(tmp_path))
        assert Path(libraries.user_folder()).parent == tmp_path / ".cache" / "llm-datadist"

    def test_the_packages_own_comes_first(self, built, load):
        assert libraries.load("ascend") == str(built)
        own = Path(libraries.packaged("ascend"))
        own.parent.mkdir()
        own.touch()
        assert libraries.load("ascend") == str(own)

    def test_the_next_is_taken_if_the_first_does_not_fit(self, built, load):
        own = Path(libraries.packaged("ascend"))
        own.parent.mkdir()
        own.write_text("refused")
        assert libraries.load("ascend") == str(built)
        built.write_text("refused")
        with pytest.raises(NativeLibraryError) as caught:
            libraries.load("ascend")
        assert str(caught.value) == f"{own}: refused; {built}: refused"

    def test_one_of_other_sources_is_told_of(self, built, load, monkeypatch, mocker):
        """A newer wheel: of the same version, perhaps, and with the same header."""
        number = libraries.sources() + 1
        monkeypatch.setattr(loader.declarations(), "SOURCES", number)
        mocker.patch.object(backends, "_choice", backends._Choice())
        mocker.patch.object(cann, "DEVICE_PATTERN", str(built))
        with pytest.raises(NativeLibraryError) as caught:
            backends.library("auto")
        text = str(caught.value)
        assert f"{built} was made from the sources of another build of this package" in text
        assert "run 'llm-datadist build-ascend' again" in text
        assert load.mock_calls == []

    def test_one_for_another_machine_is_not(self, built, load, mocker):
        mocker.patch.object(os, "uname", return_value=mocker.Mock(machine="other"))
        load.side_effect = NativeLibraryError("absent", path="")
        with pytest.raises(NativeLibraryError, match=r"^absent$"):
            libraries.load("ascend")

    def test_one_that_was_built_against_another_cann(self, built, load, machine, mocker):
        place = empty_toolkit(machine)
        (place / "version.info").write_text("Version=8.5.0\n")
        built.write_text(cann.find().record + "\0")
        assert libraries.load("ascend") == str(built)
        (place / "version.info").write_text("Version=8.6.0\n")
        mocker.patch.object(backends, "_choice", backends._Choice())
        with pytest.raises(NativeLibraryError) as caught:
            backends.library("auto")
        assert (
            f"{built}: is not used, since it was built against CANN 8.5.0 in {place}, and {place} "
            f"(where it was) is CANN 8.6.0 now; run 'llm-datadist build-ascend' again"
        ) in str(caught.value)
        # Who insists may name it.
        assert backends.library(built) == str(built)

    def test_declarations_of_an_older_build(self, monkeypatch):
        monkeypatch.delattr(loader.declarations(), "SOURCES")
        with pytest.raises(NativeLibraryError, match="without the digest of the sources; reinst"):
            libraries.load("ascend")

    def test_the_mock_is_never_the_users(self, built, home):
        (home / "libllm_datadist_mock.so").touch()
        assert libraries.candidates("mock") == [libraries.packaged("mock")]

    @pytest.mark.parametrize("mode", [0o720, 0o702])
    def test_a_folder_that_others_may_write_to(self, built, load, mode):
        built.parent.chmod(mode)
        with pytest.raises(NativeLibraryError, match=rf"others may write to it \(mode {mode:o}\)"):
            libraries.load("ascend")
        assert load.mock_calls == []

    def test_a_library_of_another_user(self, built, load, mocker):
        mocker.patch.object(os, "geteuid", return_value=built.stat().st_uid + 1)
        if built.stat().st_uid == 0:
            os.chown(built, 4321, -1)
        with pytest.raises(NativeLibraryError, match="belongs to another user"):
            libraries.load("ascend")
        assert load.mock_calls == []
