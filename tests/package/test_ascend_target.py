# SPDX-License-Identifier: Apache-2.0
"""The Ascend library: which toolkit it is built against, what is said where there is none, and
what the compiler is told."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys

import pytest

from llm_datadist._native import building, cann
from llm_datadist._native.compiler import BuildError
from tests.package.small_cann import empty_toolkit, small_toolkit, small_tree


def complaint():
    with pytest.raises(cann.ToolkitError) as caught:
        cann.find()
    return str(caught.value)


def test_nothing_anywhere(machine):
    text = complaint()
    assert f"{machine} (the usual place) does not exist" in text
    assert "older (the usual place) does not exist" in text
    assert "ASCEND_HOME_PATH" in text
    assert cann.present() == []


def test_the_usual_places_in_turn(machine):
    older = empty_toolkit(machine.parent / "older")
    assert cann.find().root == older
    empty_toolkit(machine)
    assert cann.find().root == machine
    assert [place.root for place in cann.present()] == [machine, older]


@pytest.mark.parametrize("variable", cann.VARIABLES)
def test_a_variable_decides_alone(machine, monkeypatch, variable):
    empty_toolkit(machine)
    named = machine.parent / "named"
    monkeypatch.setenv(variable, str(named))
    assert complaint().startswith(
        f"no CANN toolkit to build against: {named} (${variable}) does not exist. "
    )
    empty_toolkit(named)
    assert cann.find().reason == f"${variable}"
    assert [place.root for place in cann.present()] == [named, machine]


def test_home_path_comes_before_toolkit_home(machine, tmp_path):
    first, second = empty_toolkit(tmp_path / "first"), empty_toolkit(tmp_path / "second")
    environ = {"ASCEND_TOOLKIT_HOME": str(second), "ASCEND_HOME_PATH": str(first)}
    assert cann.find(cann.places(environ)).root == first


@pytest.mark.parametrize(
    ("gone", "named"),
    [
        ("include/hixl/hixl.h", "include/hixl/hixl.h"),
        ("include/acl/acl.h", "include/acl/acl.h"),
        ("lib64/libcann_hixl.so", "lib64/libcann_hixl.so"),
        ("lib64/libmetadef.so", "lib64/libmetadef.so"),
        ("lib64/libacl_rt.so", "lib64/libacl_rt.so or lib64/libascendcl.so"),
        ("lib64/libascend_hal.so", "lib64/libascend_hal.so"),
    ],
)
def test_what_is_missing_is_named(machine, gone, named):
    empty_toolkit(machine)
    (machine / gone).unlink()
    assert f"{machine} (the usual place) lacks {named};" in complaint()
    assert [place.root for place in cann.present()] == [machine]


def test_older_toolkits_have_the_runtime_under_another_name(machine):
    empty_toolkit(machine, runtime="ascendcl")
    names = [name for name, _ in cann.find().libraries]
    assert names == ["cann_hixl", "metadef", "ascendcl", "ascend_hal"]


def test_the_driver_may_be_a_stub_that_is_only_linked(machine):
    empty_toolkit(machine)
    stubs = machine / f"{os.uname().machine}-linux" / "devlib"
    stubs.mkdir(parents=True)
    shutil.move(str(machine / "lib64" / "libascend_hal.so"), stubs)
    toolkit = cann.find()
    assert toolkit.library_folders == [machine / "lib64", stubs]
    # The driver may be another machine's; wherever it is, it is found.
    assert toolkit.runtime_folders == [machine / "lib64", machine.parent / "driver"]


def test_a_link_to_the_latest_is_followed(machine):
    release = empty_toolkit(machine.parent / "8.5.0")
    machine.symlink_to(release)
    assert cann.find().root == release


@pytest.mark.parametrize(
    ("path", "text", "expected"),
    [
        ("version.cfg", "# version: 1.0\nruntime_running_version=[8.5.0:8.5.0]\n", "8.5.0"),
        ("compiler/version.info", "Version=8.5.RC1\nversion_dir=8.5\n", "8.5.RC1"),
        ("aarch64-linux/ascend_toolkit_install.info", "package=x\nversion=8.5.1\n", "8.5.1"),
        ("version.info", "nothing of the kind\n", ""),
        ("empty", "", ""),
    ],
)
def test_the_version_is_read_where_there_is_one(tmp_path, path, text, expected):
    (tmp_path / path).parent.mkdir(exist_ok=True)
    (tmp_path / path).write_text(text)
    assert cann.version(tmp_path) == expected


@pytest.fixture
def generated():
    return building.Generated(7, "// no layout\n", "0.0.0")


@pytest.fixture
def library(machine, needs_compiler, generated, tmp_path):
    """Build the small tree against the small toolkit."""
    small_toolkit(machine)
    output = tmp_path / "out" / "lib.so"
    tree = small_tree(tmp_path / "tree")
    building.build(building.ascend(cann.find()), tree, tmp_path / "objects", output, generated)
    return output


def test_it_loads_without_an_environment_script(library):
    """Found without LD_LIBRARY_PATH; an exception passes through the C++ runtime of the process."""
    assert ctypes.CDLL(str(library)).lldd_number() == 42


def test_it_loads_with_the_driver_in_its_own_folder(machine, needs_compiler, generated, tmp_path):
    """The toolkit has but a stub of it, as CANN's has."""
    small_toolkit(machine)
    driver = machine.parent / "driver"
    driver.mkdir()
    hal = machine / "lib64" / "libascend_hal.so"
    shutil.copy(hal, driver)
    stubs = machine / f"{os.uname().machine}-linux" / "devlib"
    stubs.mkdir(parents=True)
    hal.rename(stubs / hal.name)
    output = tmp_path / "lib.so"
    target = building.ascend(cann.find())
    # Needed for certain, whether or not this small tree calls it.
    target = target._replace(libraries=("-Wl,--no-as-needed", *target.libraries))
    building.build(target, small_tree(tmp_path / "tree"), tmp_path / "o", output, generated)
    maps = "print([line.split()[-1] for line in open('/proc/self/maps') if 'ascend_hal' in line])"
    code = f"import ctypes; ctypes.CDLL({str(output)!r}); {maps}"
    clean = {name: value for name, value in os.environ.items() if name != "LD_LIBRARY_PATH"}
    command = [sys.executable, "-c", code]
    loaded = subprocess.run(command, env=clean, text=True, capture_output=True)
    assert loaded.returncode == 0, loaded.stderr
    assert str(driver / hal.name) in loaded.stdout


class TestBuiltAgainst:
    """What a library tells of its toolkit, and what it would meet today."""

    @pytest.fixture
    def release(self, machine, needs_compiler):
        """Make the usual place a link to a release, as CANN's installer does."""
        root = small_toolkit(machine.parent / "8.5.0")
        (root / "version.info").write_text("Version=8.5.0\n")
        machine.symlink_to(root)
        return root

    @pytest.fixture
    def built(self, release, generated, tmp_path):
        """Build a tree that includes what is generated, as abi_library.cc does."""
        output = tmp_path / "out" / "lib.so"
        tree = small_tree(tmp_path / "tree")
        source = tree / "csrc" / "base" / "a.cc"
        source.write_text('#include "lldd_layout.inc"\n' + source.read_text())
        building.build(building.ascend(cann.find()), tree, tmp_path / "o", output, generated)
        return cann.built_against(str(output))

    def test_it_is_read_from_the_file(self, built, release, machine):
        assert built == cann.Built(machine, release, "8.5.0")
        assert str(built) == f"CANN 8.5.0 in {release}"
        assert cann.what_changed(built) == ""

    def test_a_folder_with_every_kind_of_character(self, tmp_path):
        root = tmp_path / 'a "b" \\ \u00e9'
        toolkit = cann.Toolkit(root, "", root, (), root)
        library = tmp_path / "lib"
        library.write_bytes(b"\x7fELF\0" + toolkit.record.encode() + b"\0rest")
        assert cann.built_against(str(library)) == cann.Built(root, root, "")

    @pytest.mark.parametrize("content", [b"", b"\x7fELF", None])
    def test_a_library_that_does_not_say(self, tmp_path, content):
        if content is not None:
            (tmp_path / "lib").write_bytes(content)
        assert cann.built_against(str(tmp_path / "lib")) is None

    def test_an_upgrade_in_place(self, built, release, machine):
        (release / "version.info").write_text("Version=8.5.1\n")
        text = f"{machine} (where it was) is CANN 8.5.1 in {release} now"  # by the link
        assert cann.what_changed(built) == text

    def test_an_upgrade_beside_it(self, built, machine):
        newer = empty_toolkit(machine.parent / "8.6.0")
        (newer / "version.info").write_text("Version=8.6.0\n")
        machine.unlink()
        machine.symlink_to(newer)
        assert f"is CANN 8.6.0 in {newer} now" in cann.what_changed(built)

    def test_the_environment_names_another(self, built, tmp_path):
        other = empty_toolkit(tmp_path / "other")
        environ = {"ASCEND_HOME_PATH": str(other)}
        text = f"{other} ($ASCEND_HOME_PATH) is CANN of unknown version now"
        assert cann.what_changed(built, environ) == text
        # The same release in another place will do.
        (other / "version.info").write_text("Version=8.5.0\n")
        assert cann.what_changed(built, environ) == ""

    def test_a_toolkit_that_is_gone_is_the_loaders_affair(self, built, machine):
        machine.unlink()
        assert cann.what_changed(built, {"ASCEND_HOME_PATH": "/nowhere"}) == ""


class TestSourcesDigest:
    def test_it_is_that_of_what_is_packaged(self, tmp_path):
        tree = small_tree(tmp_path / "tree")
        first = building.sources_digest(tree)
        shutil.copytree(tree, tmp_path / "elsewhere")
        (tmp_path / "elsewhere" / "README.md").write_text("not compiled\n")
        assert building.sources_digest(tmp_path / "elsewhere") == first

    @pytest.mark.parametrize("change", ["content", "name", "more"])
    def test_any_change_counts(self, tmp_path, change):
        tree = small_tree(tmp_path / "tree")
        first = building.sources_digest(tree)
        source = tree / "csrc" / "engine" / "b.cc"
        if change == "content":
            source.write_text(source.read_text() + "\n")
        elif change == "name":
            source.rename(source.with_name("c.cc"))
        else:
            source.with_name("c.h").touch()
        assert building.sources_digest(tree) != first


def test_what_it_needs_and_exports(library, machine):
    for tool in ("readelf", "nm"):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool} on this machine (binutils)")

    def output_of(*command):
        return subprocess.run(command, text=True, capture_output=True, check=True).stdout

    dynamic = output_of("readelf", "-d", library)
    assert "soname: [libllm_datadist_ascend.so]" in dynamic
    assert "[libstdc++.so.6]" in dynamic
    assert "[libcann_hixl.so]" in dynamic
    assert f"runpath: [{machine / 'lib64'}:{machine.parent / 'driver'}]" in dynamic
    exported = output_of("nm", "-D", "--defined-only", library).split()
    assert exported[2::3] == ["lldd_number"]


def test_a_changed_header_of_the_toolkit_counts(machine, needs_compiler, generated, tmp_path):
    small_toolkit(machine)
    tree = small_tree(tmp_path / "tree")

    def build():
        compiled = []
        building.build(
            building.ascend(cann.find()),
            tree,
            tmp_path / "objects",
            tmp_path / "lib.so",
            generated,
            report=lambda number, total, source: compiled.append((number, total, source)),
        )
        return compiled

    assert len(build()) == 4
    assert build() == []
    (machine / "include" / "hixl" / "hixl.h").write_text(
        'extern "C" int hixl_number(), metadef_number();\n'
    )
    assert build() == [(1, 1, "csrc/ascend/c.cc")]


def test_a_tree_without_the_runtime_says_so(tmp_path, generated):
    tree = small_tree(tmp_path)
    shutil.rmtree(tree / "csrc" / "ascend")
    toolkit = cann.Toolkit(tmp_path, "", tmp_path, (), tmp_path)
    with pytest.raises(BuildError, match=r"has no csrc/ascend, which .*_ascend\.so is"):
        building.build(building.ascend(toolkit), tree, tmp_path, tmp_path / "x.so", generated)
    assert not (tmp_path / "x.so").exists()


class TestSetup:
    """What setup.py makes of LLM_DATADIST_BUILD_ASCEND."""

    @pytest.fixture
    def setup(self, setup_module, machine, monkeypatch, tmp_path):
        monkeypatch.setattr(setup_module.cann, "USUAL_ROOTS", cann.USUAL_ROOTS)
        monkeypatch.setattr(setup_module.cann, "DRIVER_FOLDERS", cann.DRIVER_FOLDERS)
        monkeypatch.setattr(setup_module, "ROOT", small_tree(tmp_path / "tree"))
        monkeypatch.delenv("LLM_DATADIST_BUILD_ASCEND", raising=False)
        return setup_module

    def test_by_default_it_depends_on_the_toolkit(self, setup, machine, capsys):
        assert setup.ascend_target() is None
        assert "no Ascend library: no CANN toolkit" in capsys.readouterr().out
        empty_toolkit(machine)
        assert setup.ascend_target().library == "libllm_datadist_ascend.so"
        assert f"CANN toolkit: {machine} (the usual place)" in capsys.readouterr().out

    def test_asked_for_it_must_be_there(self, setup, machine, monkeypatch):
        monkeypatch.setenv("LLM_DATADIST_BUILD_ASCEND", "1")
        with pytest.raises(setup.PlatformError, match=r"ASCEND is 1, but no CANN toolkit"):
            setup.ascend_target()
        empty_toolkit(machine)
        assert setup.ascend_target().name == "ascend"
        shutil.rmtree(setup.ROOT / "csrc" / "ascend")
        with pytest.raises(setup.PlatformError, match=r"ASCEND is 1, but .* has no csrc/ascend"):
            setup.ascend_target()

    def test_refused_it_is_not_looked_for(self, setup, machine, monkeypatch, capsys):
        empty_toolkit(machine)
        monkeypatch.setenv("LLM_DATADIST_BUILD_ASCEND", "0")
        assert setup.ascend_target() is None
        assert "LLM_DATADIST_BUILD_ASCEND is 0" in capsys.readouterr().out

    def test_anything_else_is_an_error(self, setup, monkeypatch):
        monkeypatch.setenv("LLM_DATADIST_BUILD_ASCEND", "yes")
        with pytest.raises(setup.PlatformError, match="must be 0, 1 or empty, not 'yes'"):
            setup.ascend_target()
