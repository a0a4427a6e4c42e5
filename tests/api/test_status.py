# SPDX-License-Identifier: Apache-2.0
"""Codes, exceptions, and the funnel from a native status to an exception."""

from __future__ import annotations

import enum
import pickle
import re
import subprocess
import sys
from functools import partial

import pytest

from llm_datadist import LLMDataDistWarning, LLMException, LLMStatusCode, Status
from llm_datadist import status as status_module
from llm_datadist.status import LLMConfigValueError, LLMParamInvalidError, code_of, native_error


@pytest.mark.rule("C2.1-31")
def test_numbers_are_those_of_the_header(ffi):
    constants = {
        name: value
        for name, value in ((n, getattr(ffi.dlopen(None), n, None)) for n in _integer_names(ffi))
        if name in {"LLDD_" + code.name[4:] for code in LLMStatusCode}
    }
    assert len(constants) == len(LLMStatusCode) - 1  # LLM_UNKNOWN_ERROR is Python's alone
    for name, value in constants.items():
        assert LLMStatusCode["LLM_" + name[5:]] == value


def _integer_names(ffi):
    return [name for name in dir(ffi.dlopen(None)) if name.startswith("LLDD_")]


@pytest.mark.rule("C9.1-2")
@pytest.mark.rule("C1.3-3")
@pytest.mark.parametrize("code", list(LLMStatusCode))
def test_codes_print_as_names_and_compare_as_numbers(code):
    assert str(code) == f"{code}" == f"LLMStatusCode.{code.name}"
    assert f"{code:>40}".strip() == str(code)
    assert f"{code:d}" == str(int(code))
    assert isinstance(code, enum.IntEnum)
    assert code == int(code)


def test_known_values():
    assert LLMStatusCode.LLM_FAILED == 4294967295
    assert LLMStatusCode.LLM_TIMEOUT == 1343270938
    assert LLMStatusCode.LLM_OUT_OF_MEMORY == 1343270940
    assert LLMStatusCode.LLM_UNKNOWN_ERROR == -1


@pytest.mark.rule("C2.2-1", "C2.2-3")
def test_an_exception_without_a_code_reads_success():
    failure = LLMException("text")
    assert isinstance(failure, RuntimeError)
    assert failure.status_code is LLMStatusCode.LLM_SUCCESS
    assert str(failure) == "text"


@pytest.mark.rule("C2.2-2")
def test_clients_construct_exceptions():
    failure = LLMException("text", status_code=LLMStatusCode.LLM_TIMEOUT)
    assert failure.status_code is LLMStatusCode.LLM_TIMEOUT
    assert failure.raw == LLMStatusCode.LLM_TIMEOUT


@pytest.mark.parametrize(
    ("code", "builtin"),
    [
        (LLMStatusCode.LLM_PARAM_INVALID, LLMParamInvalidError),
        (LLMStatusCode.LLM_KV_CACHE_NOT_EXIST, LookupError),
        (LLMStatusCode.LLM_OUT_OF_MEMORY, MemoryError),
        (LLMStatusCode.LLM_FEATURE_NOT_ENABLED, NotImplementedError),
        (LLMStatusCode.LLM_TIMEOUT, RuntimeError),
    ],
)
def test_exceptions_inherit_what_a_reader_expects(code, builtin):
    failure = native_error("op", code, "detail")
    assert isinstance(failure, LLMException)
    assert isinstance(failure, builtin)
    assert not isinstance(failure, ValueError)


@pytest.mark.rule("C9-3")
@pytest.mark.parametrize("code", list(LLMStatusCode))
def test_no_exception_is_an_os_error_and_all_pickle(code):
    failure = native_error("op", code, "detail", raw=17)
    assert not isinstance(failure, OSError)
    failure.note = "kept"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        copy = pickle.loads(pickle.dumps(failure, protocol))
        assert type(copy) is type(failure)
        assert copy.args == failure.args
        assert (copy.status_code, copy.raw, copy.note) == (code, 17, "kept")


def test_the_exception_of_a_setting_pickles():
    failure = LLMConfigValueError("text", status_code=LLMStatusCode.LLM_PARAM_INVALID)
    copy = pickle.loads(pickle.dumps(failure))
    assert (type(copy), str(copy)) == (LLMConfigValueError, "text")
    assert copy.status_code is LLMStatusCode.LLM_PARAM_INVALID


@pytest.mark.rule("C1.2-9")
def test_text_of_a_native_error():
    failure = native_error("pull_blocks", 0x5010B007, "no link to cluster 7.")
    assert str(failure) == (
        "[pull_blocks] failed, error code is LLMStatusCode.LLM_NOT_YET_LINK, no link to cluster 7."
    )


@pytest.mark.rule("C2.1-31", "C2.1-33")
def test_an_unknown_status_is_failed_with_the_number_kept():
    failure = native_error("op", 507899, "detail")
    assert failure.status_code is LLMStatusCode.LLM_FAILED
    assert failure.raw == 507899
    assert code_of(0x4C4C0001) is LLMStatusCode.LLM_FAILED


def test_the_device_number_wins_as_raw():
    assert native_error("op", LLMStatusCode.LLM_FAILED, "d", raw=107002).raw == 107002


@pytest.mark.rule("C1.9-28")
def test_status():
    assert Status(LLMStatusCode.LLM_SUCCESS).is_ok()
    failed = Status(status=LLMStatusCode.LLM_TIMEOUT)
    assert not failed.is_ok()
    assert failed.status_code is LLMStatusCode.LLM_TIMEOUT


def _through_frames(count, module):
    """Make a function of a module of this name that calls warn() through count frames."""
    scope = {"__name__": module, "warn": status_module.warn}
    exec(
        "def call(depth):\n    warn('a trap') if depth == 1 else call(depth - 1)",
        scope,
    )
    return partial(scope["call"], count)


@pytest.mark.parametrize("frames", [1, 2, 7])
def test_a_warning_names_the_line_of_the_client(frames):
    call = _through_frames(frames, "llm_datadist.inner.room")
    with pytest.warns(LLMDataDistWarning, match="a trap") as caught:
        call()
    assert caught[0].filename == __file__


def test_a_module_whose_name_begins_with_the_packages_is_a_client():
    call = _through_frames(3, "llm_datadist_connector")
    with pytest.warns(LLMDataDistWarning, match="a trap") as caught:
        call()
    assert (caught[0].filename, caught[0].lineno) == ("<string>", 2)


def test_a_warning_without_a_client_names_the_outermost_frame():
    code = "from llm_datadist import status\nstatus.warn('a trap')"
    run = [sys.executable, "-c", f"__name__ = 'llm_datadist.inner'\n{code}"]
    said = subprocess.run(run, capture_output=True, text=True, check=True).stderr
    assert said == "<string>:3: LLMDataDistWarning: a trap\n"


def test_all_public_names_exist():
    for name in status_module.__all__:
        assert re.fullmatch(r"[A-Z]\w+", name)
        assert hasattr(status_module, name)
