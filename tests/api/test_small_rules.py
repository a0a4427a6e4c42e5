# SPDX-License-Identifier: Apache-2.0
"""Rules of chapters 1, 2 and 8 that no other file here is about; each test has its rule's name."""

from __future__ import annotations

import ast
import enum
import gc
import subprocess
import sys
from pathlib import Path

import pytest

import llm_datadist
from llm_datadist import (
    BlocksCacheKey,
    CacheDesc,
    CacheKey,
    CacheKeyByIdAndIndex,
    DataType,
    LLMClusterInfo,
    LLMException,
    LLMStatusCode,
    Memtype,
    RegisterMemStatus,
    datadist,
)
from llm_datadist.keys import PushType
from llm_datadist.status import native_error
from llm_datadist.utils.log import get_logger

S = LLMStatusCode
PACKAGE = Path(llm_datadist.__file__).parent


@pytest.mark.rule("C1.2-7", "C1.2-8")
def test_c1_2_8_a_refusal_is_logged_at_error_level_first(mocker):
    emit = mocker.patch.object(get_logger().handlers[0], "emit")
    with pytest.raises(LLMException, match="batch_dim_index") as caught:
        CacheDesc(1, [1], DataType.DT_INT8, batch_dim_index=3)
    assert caught.value.status_code is S.LLM_PARAM_INVALID
    (record,) = (call.args[0] for call in emit.call_args_list)
    assert (record.levelname, record.getMessage()) == ("ERROR", str(caught.value))


@pytest.mark.rule("C1.3-4", "C1.3-5", "C1.3-6", "C1.3-7")
@pytest.mark.parametrize(
    ("kind", "members"),
    [
        (RegisterMemStatus, {"OK": 0, "PREPARING": 1, "FAILED": 2}),
        (Memtype, {"MEM_TYPE_DEVICE": 0, "MEM_TYPE_HOST": 1}),
        (PushType, {"NO_CACHE_KEY": 0, "BLOCKS_CACHE_KEY": 1, "CACHE_KEY_BY_ID": 2}),
        (DataType, None),
    ],
)
def test_c1_3_4_plain_enumerations(kind, members):
    assert not issubclass(kind, int)
    assert kind.__str__ is enum.Enum.__str__
    if members is not None:
        assert {each.name: each.value for each in kind} == members


@pytest.mark.rule("C1.4-30")
def test_c1_4_30_link_raises_the_status_of_the_engine(native, open_datadist):
    native.fail("link", S.LLM_LINK_FAILED)
    with pytest.raises(LLMException, match=r"\[link\] failed") as caught:
        open_datadist(1).link("x", {1: 0, 2: 1}, "{}")
    assert caught.value.status_code is S.LLM_LINK_FAILED


@pytest.mark.rule("C1.4-31")
def test_c1_4_31_unlink_raises_the_status_of_the_engine(native, open_datadist):
    native.fail("unlink", S.LLM_NOT_YET_LINK)
    with pytest.raises(LLMException, match=r"\[unlink\] failed") as caught:
        open_datadist(1).unlink(5)
    assert caught.value.status_code is S.LLM_NOT_YET_LINK


@pytest.fixture
def register(native, open_datadist):
    """Register remote accessible, as far as the engine at hand allows it."""
    native.on("cache_register", lambda engine, args, cache_id: cache_id.__setitem__(0, 3))
    opened = open_datadist(1)
    desc = CacheDesc(1, [1], DataType.DT_INT8)
    opened.register = lambda: opened.cache_manager.register_cache(desc, [1], (), True)
    return opened


@pytest.mark.rule("C1.4-40")
def test_c1_4_40_link_is_remembered_after_unlink(register):
    register.unlink(register.link("x", {1: 0, 2: 1}, "{}"))
    with pytest.raises(LLMException, match="link") as caught:
        register.register()
    assert caught.value.status_code is S.LLM_PARAM_INVALID


@pytest.mark.rule("C1.4-41")
def test_c1_4_41_link_clusters_is_not_remembered(register):
    info = LLMClusterInfo()
    info.remote_cluster_id = 2
    info.append_local_ip_info("127.0.0.1", 1)
    assert register.link_clusters([info])[0] is S.LLM_SUCCESS
    assert register.register().cache_id == 3


AT_EXIT = """
import atexit

def look():
    from llm_datadist import LLMDataDist
    print(LLMDataDist.llm_engine_instance, datadist)

atexit.register(look)  # before the package registers its own, so it is called after that
from llm_datadist import LLMConfig, LLMDataDist, LLMRole
config = LLMConfig()
config.enable_cache_manager = True
datadist = LLMDataDist(LLMRole.MIX, 5)
datadist.init(config.generate_options())
print(LLMDataDist.llm_engine_instance is datadist)
"""


@pytest.mark.rule("C1.4.1-24")
def test_c1_4_1_24_a_live_instance_is_finalized_at_exit():
    result = subprocess.run(
        [sys.executable, "-c", AT_EXIT], capture_output=True, text=True, check=True
    )
    assert result.stdout.splitlines() == [
        "True",
        "None <LLMDataDist LLMRole.MIX cluster_id=5, not initialized>",
    ]
    assert result.stderr == ""


@pytest.mark.rule("C1.4.1-25")
def test_c1_4_1_25_the_hook_swallows_only_llm_exceptions(native, open_datadist):
    opened = open_datadist()
    native.fail("engine_close", S.LLM_FAILED)
    datadist._finalize_at_exit()
    assert datadist.LLMDataDist.llm_engine_instance is None
    native.fail("engine_close", 0)
    opened.init({"llm.EnableCacheManager": "1"})

    def close(engine):
        raise ArithmeticError("in the library's stead")

    native.facade.engine_close, answers = close, native.facade.engine_close
    with pytest.raises(ArithmeticError, match="in the library's stead"):
        datadist._finalize_at_exit()
    native.facade.engine_close = answers


@pytest.mark.rule("C1.8-4")
def test_c1_8_4_which_argument_wins():
    key = CacheKey(1, 2, cluster_id=7, req_id=8, model_id=3)
    assert (key.cluster_id, key.req_id, key.model_id) == (1, 2, 3)
    assert CacheKey(prompt_cluster_id=5, req_id=1, cluster_id=4).cluster_id == 4
    assert CacheKey(1, req_id=1, prompt_cluster_id=5).cluster_id == 1


@pytest.mark.rule("C1.8-14")
@pytest.mark.parametrize("kind", [CacheKey, BlocksCacheKey, CacheKeyByIdAndIndex])
def test_c1_8_14_keys_are_compared_by_identity(kind):
    key, same = kind(1, 2), kind(1, 2)
    assert key != same
    assert len({key, same, key}) == 2


@pytest.mark.rule("C1.9-3")
def test_c1_9_3_dropping_a_cache_frees_nothing(native, manager):
    native.on("cache_register", lambda engine, args, cache_id: cache_id.__setitem__(0, 3))
    manager.register_cache(CacheDesc(1, [1], DataType.DT_INT8), [1])
    calls = len(native.calls)
    gc.collect()
    assert native.calls[calls:] == []


CODES = {
    "LLM_SUCCESS": 0,
    "LLM_FAILED": 4294967295,
    "LLM_WAIT_PROCESS_TIMEOUT": 1343270913,
    "LLM_KV_CACHE_NOT_EXIST": 1343270914,
    "LLM_REPEAT_REQUEST": 1343270915,
    "LLM_REQUEST_ALREADY_COMPLETED": 1343270916,
    "LLM_PARAM_INVALID": 1343270917,
    "LLM_ENGINE_FINALIZED": 1343270918,
    "LLM_NOT_YET_LINK": 1343270919,
    "LLM_ALREADY_LINK": 1343270920,
    "LLM_LINK_FAILED": 1343270921,
    "LLM_UNLINK_FAILED": 1343270922,
    "LLM_NOTIFY_PROMPT_UNLINK_FAILED": 1343270923,
    "LLM_CLUSTER_NUM_EXCEED_LIMIT": 1343270924,
    "LLM_PROCESSING_LINK": 1343270925,
    "LLM_DEVICE_OUT_OF_MEMORY": 1343270926,
    "LLM_PREFIX_ALREADY_EXIST": 1343270927,
    "LLM_PREFIX_NOT_EXIST": 1343270928,
    "LLM_SEQ_LENOVERLIMIT": 1343270929,
    "LLM_NO_FREE_BLOCK": 1343270930,
    "LLM_BLOCKS_OUT_OF_MEMORY": 1343270931,
    "LLM_EXIST_LINK": 1343270936,
    "LLM_FEATURE_NOT_ENABLED": 1343270937,
    "LLM_TIMEOUT": 1343270938,
    "LLM_LINK_BUSY": 1343270939,
    "LLM_OUT_OF_MEMORY": 1343270940,
    "LLM_DEVICE_MEM_ERROR": 507053,
    "LLM_SUSPECT_REMOTE_ERROR": 507057,
    "LLM_UNKNOWN_ERROR": -1,
}


@pytest.mark.rule(*(f"C2.1-{n}" for n in range(1, 31)))
def test_c2_1_1_every_code_and_no_other():
    assert {code.name: int(code) for code in LLMStatusCode} == CODES


@pytest.mark.rule("C2.1-31", "C2.1-33")
@pytest.mark.parametrize(("name", "number"), CODES.items())
def test_c2_1_31_a_native_status_becomes_its_code(name, number):
    failure = native_error("op", number, "detail")
    assert failure.status_code is LLMStatusCode[name]
    assert failure.raw == number


@pytest.mark.rule("C2.1-30", "C2.1-31", "C2.1-33")
@pytest.mark.parametrize("number", [0x5010B014, 0x5010B015, 0x5010B016, 0x5010B017, 507046, 507899])
def test_c2_1_31_an_unknown_status_is_failed(number):
    assert native_error("op", number, "detail").status_code is S.LLM_FAILED


@pytest.mark.rule("C8.1-14")
@pytest.mark.parametrize(
    "path", [pytest.param(each, id=each.stem) for each in sorted(PACKAGE.rglob("*.py"))]
)
def test_c8_1_14_the_package_is_python_3_9(path):
    ast.parse(path.read_text(encoding="utf-8"), str(path), feature_version=(3, 9))
