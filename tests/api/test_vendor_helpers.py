# SPDX-License-Identifier: Apache-2.0
"""Private helpers of the vendor's modules that scripts import: contract 1.1 and 1.2."""

from __future__ import annotations

import inspect

import pytest

from llm_datadist import LLMException, LLMStatusCode, configs, status
from llm_datadist.utils import utils
from llm_datadist.utils.log import get_logger

S = LLMStatusCode
LIMITS = {
    "check_uint8": (0, 2**8 - 1),
    "check_uint16": (0, 2**16 - 1),
    "check_uint32": (0, 2**32 - 1),
    "check_uint64": (0, 2**64 - 1),
    "check_int32": (-(2**31), 2**31 - 1),
    "check_int64": (-(2**63), 2**63 - 1),
}


@pytest.mark.rule("C1.1-16", "C2.1-31")
@pytest.mark.parametrize(
    ("number", "code"),
    [(0, S.LLM_SUCCESS), (0x5010B005, S.LLM_PARAM_INVALID), (17, S.LLM_FAILED)],
)
def test_code_2_status(number, code):
    assert status.code_2_status(number) is code


@pytest.mark.rule("C1.1-16", "C1.2-9")
def test_handle_llm_status():
    status.handle_llm_status(0, "op", "detail")
    status.handle_llm_status(S.LLM_SUCCESS, "op", "detail")
    for number, code in ((S.LLM_TIMEOUT, S.LLM_TIMEOUT), (17, S.LLM_FAILED)):
        with pytest.raises(LLMException) as caught:
            status.handle_llm_status(number, "op", "detail")
        assert caught.value.status_code is code
        assert str(caught.value) == f"[op] failed, error code is LLMStatusCode.{code.name}, detail."


@pytest.mark.rule("C1.1-16", "C1.2-7", "C1.2-8")
@pytest.mark.parametrize(
    ("raise_if", "good", "bad"),
    [
        (status.raise_if_false, (True, 1, [0]), (False, None, [])),
        (status.raise_if_true, (False, None, []), (True, 1, [0])),
    ],
)
def test_raise_if(mocker, raise_if, good, bad):
    emit = mocker.patch.object(get_logger().handlers[0], "emit")
    for condition in good:
        raise_if(condition, "text")
    assert emit.call_args_list == []
    for condition in bad:
        with pytest.raises(LLMException, match=r"^text$") as caught:
            raise_if(condition, "text")
        assert caught.value.status_code is S.LLM_PARAM_INVALID
        assert emit.call_args.args[0].getMessage() == "text"
        with pytest.raises(LLMException) as caught:
            raise_if(condition, "text", status_code=S.LLM_FAILED)
        assert caught.value.status_code is S.LLM_FAILED


@pytest.mark.rule("C1.1-17", "C1.6-6", "C1.6-8")
def test_trans_str_ip():
    assert configs.trans_str_ip("127.0.0.1") == 16777343
    assert configs.trans_str_ip("0::1") == "::1"
    with pytest.raises(RuntimeError, match="is not an IP address"):
        configs.trans_str_ip("localhost")


@pytest.mark.rule("C1.1-18", "C1.2-6")
@pytest.mark.parametrize("name", LIMITS)
def test_numbers(name):
    check = getattr(utils, name)
    for inside in LIMITS[name]:
        check("argument", inside)
    for outside in (LIMITS[name][0] - 1, LIMITS[name][1] + 1):
        with pytest.raises(ValueError, match=rf"^argument must be in .*, got {outside}$"):
            check("argument", outside)
    for wrong in (None, "1", 1.0):
        with pytest.raises(TypeError, match=r"^argument only support int"):
            check("argument", wrong)


@pytest.mark.rule("C1.1-18", "C1.2-1", "C1.2-4")
def test_check_isinstance():
    for good in (
        (1, int),
        ("a", [int, str]),
        (None, int),
        ([1, "a"], list),
        ([1, 2], (list, tuple), int),
        ((1, "a"), [list, tuple], [int, str]),
        ({1: "value"}, dict, int),
    ):
        utils.check_isinstance("argument", *good)
    for bad, name in (
        (("a", int), "argument"),
        (("a", [int, list]), "argument"),
        (({1}, (list, tuple), int), "argument"),
        (([1, "a"], list, int), r"argument\[1\]"),
        (({"key": 1}, dict, int), r"argument\[0\]"),
        ((None, int, None, False), "argument"),
    ):
        with pytest.raises(TypeError, match=f"^{name} only support"):
            utils.check_isinstance("argument", *bad)


@pytest.mark.rule("C1.1-18", "C1.2-5")
def test_check_dict():
    utils.check_dict("argument", {1: "a"}, int, str)
    utils.check_dict("argument", None, int, str)
    for bad, name in (
        (({"a": "a"}, int, str), r"argument\[0\]"),
        (({1: 1}, int, str), r"argument\[1\]"),
        (([1], int, str), "argument"),
        ((None, int, str, False), "argument"),
    ):
        with pytest.raises(TypeError, match=f"^{name} only support"):
            utils.check_dict("argument", *bad)


@pytest.mark.rule("C1.1-19")
@pytest.mark.parametrize(
    ("function", "parameters"),
    [
        (status.code_2_status, ["code"]),
        (status.handle_llm_status, ["status", "name", "details"]),
        (status.raise_if_false, ["condition", "text", "status_code"]),
        (status.raise_if_true, ["condition", "text", "status_code"]),
        (configs.trans_str_ip, ["ip"]),
        (utils.check_isinstance, ["name", "value", "types", "element_types", "allow_none"]),
        (utils.check_dict, ["name", "value", "key_types", "value_types", "allow_none"]),
    ],
)
def test_signatures(function, parameters):
    assert list(inspect.signature(function).parameters) == parameters
    assert inspect.getdoc(function).startswith("Compatibility: ")
