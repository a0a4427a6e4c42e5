# SPDX-License-Identifier: Apache-2.0
"""The loader refuses every library that does not fit, and says what is wrong with which file."""

from __future__ import annotations

import gc
import sys
import threading

import pytest

from llm_datadist._native import loader
from llm_datadist._native.loader import NativeLibraryError
from tests.abi.fake_library import FakeLibrary


@pytest.fixture
def build(cc, parsed, tmp_path):
    """Build a fake library with the given changes and return its path."""

    def make(**changes):
        path = tmp_path / "libfake.so"
        result = cc(
            "-std=c11",
            "-shared",
            "-fPIC",
            "-o",
            path,
            source=FakeLibrary(parsed, **changes).source(),
        )
        assert result.returncode == 0, result.stderr
        return path

    return make


def refusal(path):
    with pytest.raises(NativeLibraryError) as caught:
        loader.load(path)
    assert str(path) in str(caught.value)
    assert caught.value.path == str(path)
    return str(caught.value)


def test_a_good_library_is_taken_and_described(build):
    path = build(name="twin", devices=3)
    library = loader.load(path)
    assert library.path == str(path)
    assert library.info == loader.RuntimeInfo("twin", "1.2.3", "does nothing", 3, 2)
    assert library.lib.lldd_version() == library.lib.LLDD_VERSION_MINOR
    with pytest.raises(AttributeError):
        library.path = "elsewhere"


def test_a_library_is_opened_once(build):
    path = build()
    first = loader.load(path)
    assert loader.load(str(path)) is first


def test_threads_that_load_at_once_get_the_same_library(build):
    path = build()
    start = threading.Barrier(4)
    found = []

    def load():
        start.wait()
        found.append(loader.load(path))

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert all(library is found[0] for library in found)


def test_a_library_is_never_closed(build):
    path = build()
    library = loader.load(path)
    loader._loaded.pop(str(path))
    loader._opened.remove(library.lib)
    del library
    gc.collect()
    with open("/proc/self/maps") as maps:
        assert str(path) in maps.read()


def test_no_such_file(tmp_path):
    assert "there is no such library" in refusal(tmp_path / "libnothing.so")


def test_a_relative_path_is_not_searched_for(build, monkeypatch):
    path = build()
    monkeypatch.chdir(path.parent)
    with pytest.raises(NativeLibraryError, match="must be absolute"):
        loader.load(path.name)


def test_not_a_library(tmp_path):
    path = tmp_path / "libtext.so"
    path.write_text("not a library\n")
    assert "cannot be loaded" in refusal(path)


def test_unresolved_symbols_are_found_when_loading(build):
    path = build(extra="int nowhere(void); int use(void); int use(void) { return nowhere(); }")
    text = refusal(path)
    assert "cannot be loaded" in text
    assert "nowhere" in text


def test_another_kind_of_library(cc, tmp_path):
    path = tmp_path / "libother.so"
    result = cc("-shared", "-fPIC", "-o", path, source="int other(void) { return 1; }\n")
    assert result.returncode == 0, result.stderr
    assert "is not a library of llm_datadist" in refusal(path)


@pytest.mark.parametrize(
    ("version", "shown"),
    [("65536", "1.0"), ("LLDD_VERSION_MINOR + 1", "0.2"), ("0", "0.0")],
    ids=["major", "newer minor", "older minor"],
)
def test_another_version(build, version, shown):
    text = refusal(build(version=version))
    assert f"has version {shown} of the ABI, this package needs 0.1" in text
    assert "reinstall" in text


@pytest.mark.parametrize("fingerprint", [0, 1, 2**64 - 1])
def test_other_declarations(build, fingerprint):
    text = refusal(build(fingerprint=fingerprint))
    assert "was built from other declarations" in text
    assert f"{fingerprint:#018x}" in text
    assert "reinstall" in text


def test_no_fingerprint(build):
    assert "has no lldd_fingerprint" in refusal(build(without=("lldd_fingerprint",)))


def test_missing_functions_are_all_named(build):
    text = refusal(build(without=("lldd_pull", "lldd_last_error")))
    assert "lacks lldd_last_error, lldd_pull;" in text
    assert "reinstall" in text


@pytest.mark.parametrize(
    ("row", "place", "complaint"),
    [
        (
            ("lldd_config", ""),
            "0, 4096",
            "lays out lldd_config differently: 4096 bytes at offset 0",
        ),
        (("lldd_config", "role"), "8, 4", "lldd_config.role differently: 4 bytes at offset 8"),
        (("lldd_config", "role"), "4, 8", "lldd_config.role differently: 8 bytes at offset 4"),
        (("lldd_config", "role"), None, "lldd_config.role differently: nothing there"),
        (("lldd_pull_args", ""), None, "lldd_pull_args differently: nothing there"),
        (("lldd_config", "colour"), "0, 4", "0 there, nothing in this package"),
        (("lldd_novel", ""), "0, 8", "lays out lldd_novel differently"),
    ],
    ids=[
        "larger struct",
        "member moved",
        "member grown",
        "member missing",
        "struct missing",
        "member too many",
        "struct too many",
    ],
)
def test_another_layout(build, row, place, complaint):
    text = refusal(build(layout_rows={row: place}))
    assert complaint in text
    assert "reinstall" in text


def test_no_layout_table(build):
    assert "has no layout table" in refusal(build(layout_pointer="NULL"))


def test_a_library_that_cannot_describe_itself(build):
    text = refusal(build(describe_status="LLDD_FAILED"))
    assert "cannot describe itself: LLDD_FAILED: the device is on fire" in text


def test_declarations_that_were_not_generated(build, monkeypatch, tmp_path):
    """The file is not there: found out by looking for it in a package that lacks it."""
    import llm_datadist._native as package

    monkeypatch.delitem(sys.modules, "llm_datadist._native._ffi")
    monkeypatch.setattr(package, "__path__", [str(tmp_path)])
    with pytest.raises(NativeLibraryError, match="was not generated"):
        loader.load(build())


def test_cffi_is_missing(build, monkeypatch):
    monkeypatch.delitem(sys.modules, "llm_datadist._native._ffi")
    monkeypatch.setitem(sys.modules, "_cffi_backend", None)
    with pytest.raises(NativeLibraryError, match=r"_cffi_backend.*: pip install cffi"):
        loader.load(build())
