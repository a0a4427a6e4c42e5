# SPDX-License-Identifier: Apache-2.0
"""Names and signatures that existing clients were written against: contract 1.1, 1.4 to 1.10."""

from __future__ import annotations

import importlib
import inspect
import os
import subprocess
import sys

import pytest

import llm_datadist
from llm_datadist.cache_manager import CacheManager

NAMES = {
    "LLMClusterInfo",
    "LLMStatusCode",
    "LLMException",
    "LLMRole",
    "LlmConfig",
    "LLMConfig",
    "DataType",
    "Status",
    "CacheDesc",
    "CacheKey",
    "CacheKeyByIdAndIndex",
    "KvCache",
    "Cache",
    "BlocksCacheKey",
    "LLMDataDist",
    "Placement",
    "RegisterMemStatus",
    "LayerSynchronizer",
    "TransferConfig",
    "CacheTask",
    "TransferWithCacheKeyConfig",
    "Memtype",
    "MemInfo",
}

MODULES = {
    "llm_datadist.status": "LLMStatusCode LLMException Status",
    "llm_datadist.configs": "LLMRole LLMClusterInfo LlmConfig",
    "llm_datadist.data_type": "DataType",
    "llm_datadist.v2.llm_types": (
        "Cache CacheDesc BlocksCacheKey CacheKey CacheKeyByIdAndIndex KvCache MemInfo Memtype "
        "Placement RegisterMemStatus LayerSynchronizer TransferConfig TransferWithCacheKeyConfig "
        "CacheTask PushType"
    ),
    "llm_datadist.v2.cache_manager": "CacheManager",
    "llm_datadist.v2.llm_datadist": "LLMDataDist",
    "llm_datadist.utils.log": "get_logger",
}


@pytest.mark.rule("C1.1-1")
def test_v2_list_is_exactly_the_documented_names():
    assert len(llm_datadist.v2_list) == 23
    assert set(llm_datadist.v2_list) == NAMES


@pytest.mark.rule("C1.1-14")
def test_star_import_works():
    namespace = {}
    exec("from llm_datadist import *", namespace)
    assert namespace.keys() >= NAMES
    assert "CacheManager" not in namespace


@pytest.mark.rule("C1.1-4", "C1.1-5", "C1.1-6", "C1.1-8", "C1.1-9", "C1.1-10", "C1.1-11", "C1.1-15")
@pytest.mark.parametrize(("module", "names"), MODULES.items())
def test_compatibility_modules(module, names):
    imported = importlib.import_module(module)
    for name in names.split():
        obj = getattr(imported, name)
        if name in NAMES:
            assert obj is getattr(llm_datadist, name)


@pytest.mark.rule("C1.1-2", "C1.1-14")
@pytest.mark.parametrize("name", ["TensorDesc", "Tensor", "KvCacheManager"])
def test_names_of_the_old_api_are_import_errors(name):
    with pytest.raises(ImportError, match=name):
        getattr(llm_datadist, name)
    with pytest.raises(ImportError, match=name):
        exec(f"from llm_datadist import {name}", {})


@pytest.mark.rule("C1.1-3", "C1.1-9")
def test_other_missing_names():
    with pytest.raises(AttributeError, match="has no attribute"):
        assert llm_datadist.CacheManager


def test_extensions_are_importable_and_not_in_the_list():
    for name in ("LLMDataDistWarning", "__version__", "backend_info"):
        assert hasattr(llm_datadist, name)
        assert name not in llm_datadist.v2_list
    assert issubclass(llm_datadist.LLMDataDistWarning, UserWarning)


@pytest.mark.rule("C1.11-1")
@pytest.mark.parametrize(("before", "after"), [(None, "0"), ("1", "1")])
def test_uc_memory_default(before, after):
    environment = {k: v for k, v in os.environ.items() if k != "AUTO_USE_UC_MEMORY"}
    if before is not None:
        environment["AUTO_USE_UC_MEMORY"] = before
    code = "import os, llm_datadist; print(os.environ['AUTO_USE_UC_MEMORY'])"
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == after


DATADIST = {
    "__init__": "(self, role, cluster_id)",
    "init": "(self, options)",
    "finalize": "(self)",
    "check_link_status": "(self, remote_cluster_id)",
    "link_clusters": "(self, clusters, timeout=3000)",
    "unlink_clusters": "(self, clusters, timeout=3000, force=False)",
    "link": "(self, comm_name, cluster_rank_info, rank_table)",
    "unlink": "(self, comm_id)",
    "query_register_mem_status": "(self, comm_id)",
    "switch_role": "(self, role, switch_options=None)",
}
MANAGER = {
    "allocate_cache": "(self, cache_desc, cache_keys=())",
    "allocate_blocks_cache": "(self, cache_desc, blocks_cache_key=None)",
    "deallocate_cache": "(self, cache)",
    "deallocate_blocks_cache": "(self, cache)",
    "register_cache": "(self, cache_desc, addrs, cache_keys=(), remote_accessible=None)",
    "register_blocks_cache": (
        "(self, cache_desc, addrs, blocks_cache_key=None, remote_accessible=None)"
    ),
    "unregister_cache": "(self, cache_id)",
    "remove_cache_key": "(self, cache_key)",
    "copy_cache": (
        "(self, dst, src, dst_batch_index=0, src_batch_index=0, offset=0, size=-1, req_id=None)"
    ),
    "copy_blocks": "(self, cache, copy_block_info)",
    "swap_blocks": "(self, src_cache, dst_cache, src_to_dst)",
    "pull_cache": "(self, cache_key, cache, batch_index=0, size=-1, **kwargs)",
    "pull_blocks": "(self, src_cache_key, dst_cache, src_blocks=(), dst_blocks=(), **kwargs)",
    "push_cache": (
        "(self, dst_cache_key, src_cache, src_batch_index=0, src_layer_range=None, "
        "dst_layer_range=None, size=-1, tensor_num_per_layer=2)"
    ),
    "push_blocks": (
        "(self, dst_cache_key, src_cache, src_blocks=(), dst_blocks=(), src_layer_range=None, "
        "dst_layer_range=None, tensor_num_per_layer=2)"
    ),
    "transfer_cache_async": (
        "(self, src_cache, layer_synchronizer, transfer_configs, src_block_indices=None, "
        "dst_block_indices=None, dst_block_memory_size=None, *, tensor_num_per_layer=None)"
    ),
    "remap_registered_memory": "(self, mem_infos)",
    "check_cache_key": "(cache_key)",
    "set_is_call_linked": "(self)",
}
CLASSES = {
    "CacheDesc": (
        "(num_tensors, shape, data_type, placement=<Placement.DEVICE: 1>, batch_dim_index=0, "
        "seq_len_dim_index=-1, kv_tensor_format=None)"
    ),
    "CacheKey": "(cluster_id, req_id, model_id=0, prefix_id=18446744073709551615)",
    "BlocksCacheKey": "(cluster_id, model_id=0)",
    "CacheKeyByIdAndIndex": "(cluster_id, cache_id, batch_index=0)",
    "MemInfo": "(mem_type, addr, size)",
    "TransferConfig": "(dst_cluster_id, dst_addrs, src_layer_range=None, src_batch_index=0)",
    "TransferWithCacheKeyConfig": (
        "(cache_key, src_layer_range=None, dst_layer_range=None, src_batch_index=0)"
    ),
    "LLMClusterInfo": "()",
    "LLMConfig": "()",
    "Status": "(status)",
}


def signature(function):
    bare = inspect.signature(function)
    parameters = [each.replace(annotation=each.empty) for each in bare.parameters.values()]
    return str(bare.replace(parameters=parameters, return_annotation=bare.empty))


@pytest.mark.rule("C1.4-8", "C1.4-9", "C1.4-12", "C1.4-13", *(f"C1.10-{n}" for n in range(3, 20)))
@pytest.mark.parametrize(
    ("owner", "name", "expected"),
    [(llm_datadist.LLMDataDist, *row) for row in DATADIST.items()]
    + [(CacheManager, *row) for row in MANAGER.items()],
)
def test_signatures_of_methods(owner, name, expected):
    assert signature(getattr(owner, name)) == expected


@pytest.mark.rule(
    "C1.7-1", "C1.8-1", "C1.8-6", "C1.8-11", "C1.9-12", "C1.9-16", "C1.9-19", "C1.9-28"
)
@pytest.mark.parametrize(("name", "expected"), CLASSES.items())
def test_signatures_of_classes(name, expected):
    assert signature(getattr(llm_datadist, name)) == expected


@pytest.mark.rule("C1.9-27")
@pytest.mark.parametrize("method", ["synchronize", "get_results"])
def test_signatures_of_a_task(method):
    task_method = getattr(llm_datadist.CacheTask, method)
    assert signature(task_method) == "(self, timeout_in_millis=None)"


@pytest.mark.rule("C6.7-1")
@pytest.mark.parametrize("name", ["pull_cache", "pull_blocks", "push_cache", "push_blocks"])
def test_calls_that_return_a_task_have_the_same_arguments(name):
    later = getattr(CacheManager, f"{name}_async")
    assert signature(later) == signature(getattr(CacheManager, name))


@pytest.mark.parametrize(
    "name", ["cache_manager", "kv_cache_manager", "cluster_id", "listen_address"]
)
def test_properties(name):
    assert isinstance(inspect.getattr_static(llm_datadist.LLMDataDist, name), property)


@pytest.mark.rule("C1.9-15")
def test_layer_synchronizer_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        llm_datadist.LayerSynchronizer()


LOG_LEVELS = {"0": "DEBUG", "1": "INFO", "2": "WARNING", "3": "ERROR", "x": "ERROR", None: "ERROR"}


@pytest.mark.rule("C1.11-2")
@pytest.mark.parametrize(("value", "level"), LOG_LEVELS.items())
def test_log_level_and_stream(value, level):
    environment = {k: v for k, v in os.environ.items() if k != "ASCEND_GLOBAL_LOG_LEVEL"}
    if value is not None:
        environment["ASCEND_GLOBAL_LOG_LEVEL"] = value
    code = (
        "import logging\nfrom llm_datadist.utils.log import get_logger\n"
        "log = get_logger()\nassert log is logging.getLogger('LLM_DATADIST')\n"
        "print(logging.getLevelName(log.level))\nlog.error('a line')"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert result.stdout.split()[0] == level
    assert "a line" in result.stdout
    assert result.stderr == ""


def test_the_log_can_be_redirected(capsys):
    from llm_datadist.utils import log

    log.redirect(sys.stderr)
    try:
        log.get_logger().error("to stderr")
    finally:
        log.redirect(None)
    log.get_logger().error("to stdout")
    captured = capsys.readouterr()
    assert "to stderr" in captured.err
    assert "to stderr" not in captured.out
    assert "to stdout" in captured.out
