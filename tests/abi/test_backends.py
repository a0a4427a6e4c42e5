# SPDX-License-Identifier: Apache-2.0
"""Which library is used: argument, select(), environment, auto."""

from __future__ import annotations

import threading
import warnings

import pytest

from llm_datadist import backends
from llm_datadist._native import cann, libraries, loader
from llm_datadist._native.loader import NativeLibrary, NativeLibraryError, RuntimeInfo
from llm_datadist.status import LLMDataDistWarning


class Machine:
    """The libraries that can be loaded here, and what else auto looks at."""

    def __init__(self):
        self.libraries = {}
        self.loads = []
        self.add("mock", devices=16)

    def add(self, name, devices):
        self.install(libraries.packaged(name), name, devices)

    def install(self, path, name, devices):
        info = RuntimeInfo(name, "0.1.0", f"the {name} of a test", devices, 5)
        self.libraries[path] = NativeLibrary(ffi=None, lib=None, path=path, info=info)

    def load(self, path):
        self.loads.append(path)
        if path not in self.libraries:
            raise NativeLibraryError(f"{path}: there is no such library", path=path)
        return self.libraries[path]


@pytest.fixture
def machine(mocker, monkeypatch):
    machine = Machine()
    mocker.patch.object(backends.loader, "load", machine.load)
    mocker.patch.object(backends, "_choice", backends._Choice())
    mocker.patch.object(cann, "USUAL_ROOTS", ())
    mocker.patch.object(cann, "DEVICE_PATTERN", "/nowhere/davinci*")
    mocker.patch.object(libraries, "user_folder", return_value=None)
    for name in ("LLM_DATADIST_BACKEND", "ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME"):
        monkeypatch.delenv(name, raising=False)
    return machine


def chosen():
    return backends.library().info.name


def test_the_argument_comes_first(machine, monkeypatch):
    machine.add("ascend", devices=8)
    monkeypatch.setenv("LLM_DATADIST_BACKEND", "ascend")
    backends.select("ascend")
    assert backends.library("mock").info.name == "mock"


def test_select_comes_before_the_environment(machine, monkeypatch):
    machine.add("ascend", devices=8)
    monkeypatch.setenv("LLM_DATADIST_BACKEND", "ascend")
    backends.select("mock")
    assert chosen() == "mock"


def test_the_environment_comes_before_auto(machine, monkeypatch):
    machine.add("ascend", devices=8)
    monkeypatch.setenv("LLM_DATADIST_BACKEND", "mock")
    assert chosen() == "mock"


@pytest.mark.parametrize("value", [None, "", "auto"])
def test_auto_takes_a_device(machine, monkeypatch, value):
    machine.add("ascend", devices=8)
    if value is not None:
        monkeypatch.setenv("LLM_DATADIST_BACKEND", value)
    assert chosen() == "ascend"


def test_auto_without_a_device_takes_the_mock_with_one_warning(machine):
    with pytest.warns(LLMDataDistWarning, match="LLM_DATADIST_BACKEND=mock"):
        assert backends.backend_info().name == "mock"
    # Warnings are errors: a second one would end the test.
    assert backends.backend_info().name == "mock"
    assert chosen() == "mock"


def test_auto_does_not_take_a_library_without_devices(machine):
    machine.add("ascend", devices=0)
    with pytest.warns(LLMDataDistWarning):
        assert chosen() == "mock"


def test_the_mock_that_was_asked_for_does_not_warn(machine, monkeypatch):
    monkeypatch.setenv("LLM_DATADIST_BACKEND", "mock")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert chosen() == "mock"


@pytest.mark.parametrize("variable", ["ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME"])
def test_a_toolkit_without_a_library_is_an_error(machine, monkeypatch, tmp_path, variable):
    monkeypatch.setenv(variable, str(tmp_path))
    with pytest.raises(NativeLibraryError) as caught:
        backends.library()
    text = str(caught.value)
    assert f"a CANN toolkit in {tmp_path}" in text
    assert "'llm-datadist build-ascend'" in text
    assert "LLM_DATADIST_BACKEND=mock" in text
    assert "there is no such library" in text


def test_a_toolkit_in_its_usual_place_is_found(machine, mocker, tmp_path):
    mocker.patch.object(cann, "USUAL_ROOTS", ("/nowhere/cann", str(tmp_path)))
    with pytest.raises(NativeLibraryError, match=f"a CANN toolkit in {tmp_path}"):
        backends.library()


def test_a_toolkit_that_is_gone_does_not_count(machine, monkeypatch, tmp_path):
    monkeypatch.setenv("ASCEND_HOME_PATH", str(tmp_path / "gone"))
    with pytest.warns(LLMDataDistWarning):
        assert chosen() == "mock"


def test_a_device_without_a_library_is_an_error(machine, mocker, tmp_path):
    (tmp_path / "davinci0").touch()
    mocker.patch.object(cann, "DEVICE_PATTERN", str(tmp_path / "davinci*"))
    with pytest.raises(NativeLibraryError, match=r"the device .*davinci0"):
        backends.library()


def test_a_device_whose_library_sees_none_is_an_error(machine, mocker, tmp_path):
    machine.add("ascend", devices=0)
    (tmp_path / "davinci0").touch()
    mocker.patch.object(cann, "DEVICE_PATTERN", str(tmp_path / "davinci*"))
    with pytest.raises(NativeLibraryError, match="reports no device"):
        backends.library()


def test_ascend_asked_for_and_absent_is_an_error(machine, monkeypatch):
    monkeypatch.setenv("LLM_DATADIST_BACKEND", "ascend")
    with pytest.raises(NativeLibraryError, match="there is no such library"):
        backends.library()


def test_an_absolute_path(machine, monkeypatch):
    machine.install("/opt/lib/third.so", "third", 1)
    monkeypatch.setenv("LLM_DATADIST_BACKEND", "/opt/lib/third.so")
    assert chosen() == "third"


@pytest.mark.parametrize("name", ["Mock", "cuda", "lib/third.so", "./third.so"])
def test_unknown_names_list_the_legal_ones(machine, monkeypatch, name):
    monkeypatch.setenv("LLM_DATADIST_BACKEND", name)
    legal = "auto, mock, ascend, or the absolute path of a library"
    for choose in (
        backends.library,
        backends.backend_info,
        lambda: backends.library(name),
        lambda: backends.select(name),
    ):
        with pytest.raises(ValueError, match=legal) as caught:
            choose()
        assert repr(name) in str(caught.value)
    assert machine.loads == []


def test_the_current_directory_is_not_searched(machine, monkeypatch, tmp_path):
    machine.install(str(tmp_path / "mock"), "planted", 1)
    (tmp_path / "libllm_datadist_mock.so").touch()
    monkeypatch.chdir(tmp_path)
    backends.library("mock")
    assert machine.loads == [libraries.packaged("mock")]


def test_the_first_engine_fixes_the_library(machine, monkeypatch):
    machine.add("ascend", devices=8)
    assert backends.library("mock").info.name == "mock"
    monkeypatch.setenv("LLM_DATADIST_BACKEND", "ascend")
    assert chosen() == "mock"
    assert backends.backend_info().name == "mock"
    assert backends.library("mock").info.name == "mock"
    for choose in (backends.select, backends.library):
        with pytest.raises(RuntimeError, match="cannot change"):
            choose("ascend")
    assert chosen() == "mock"


def test_describing_fixes_nothing(machine):
    machine.add("ascend", devices=8)
    assert backends.backend_info().name == "ascend"
    backends.select("mock")
    assert chosen() == "mock"


def test_a_failed_choice_fixes_nothing(machine):
    with pytest.raises(NativeLibraryError):
        backends.library("ascend")
    with pytest.raises(NativeLibraryError):
        backends.select("ascend")
    assert backends.library("mock").info.name == "mock"


def test_the_description_is_the_librarys(machine):
    backends.select("mock")
    assert backends.backend_info() == backends.BackendInfo(
        name="mock",
        version="0.1.0",
        path=libraries.packaged("mock"),
        description="the mock of a test",
        device_count=16,
        capabilities=5,
    )


def test_threads_get_one_library(machine):
    machine.add("ascend", devices=8)
    start = threading.Barrier(4)
    found = []

    def choose():
        start.wait()
        found.append(backends.library())

    threads = [threading.Thread(target=choose) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert all(library is found[0] for library in found)


def test_the_fingerprint_is_that_of_the_declarations():
    assert libraries.fingerprint() == loader.declarations().FINGERPRINT > 0
