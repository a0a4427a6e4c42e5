# SPDX-License-Identifier: Apache-2.0
"""What a type checker tells a client: mypy over a small file that uses the package."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import llm_datadist

# Each line that is wrong ends with what mypy must say of it.
CLIENT = """
from llm_datadist import BlocksCacheKey, Cache, CacheKey, CacheKeyByIdAndIndex, LLMConfig
from llm_datadist.parallel import HeadSplit, Pull, pull_many
from llm_datadist.testing import (
    DatadistCalls,
    DatadistCluster,
    DatadistEngine,
    DatadistFaults,
    DatadistPeers,
)
from llm_datadist.v2.cache_manager import CacheManager

BlocksCacheKey(1)
BlocksCacheKey(1, 2)
BlocksCacheKey(cluster_id=1, model_id=2)
BlocksCacheKey(prompt_cluster_id=1)
BlocksCacheKey()  # E: require at least one argument
BlocksCacheKey(1, modelid=2)  # E: No overload variant
BlocksCacheKey("1")  # E: No overload variant
CacheKey(1, 2)
CacheKey(1, 2, 3, 4)
CacheKey(1, req_id=2, prefix_id=4)
CacheKey(prompt_cluster_id=1, req_id=2)
CacheKey(1)  # E: No overload variant
CacheKey(1, 2, prefixid=4)  # E: No overload variant
CacheKeyByIdAndIndex(1, 2, batch=3)  # E: Unexpected keyword argument "batch"


def use(manager: CacheManager, cache: Cache) -> None:
    key = BlocksCacheKey(1)
    manager.pull_blocks(key, cache, [1], [2])
    manager.pull_blocks(key, cache, [1], [2], src_layer_range=range(1), tensor_num_per_layer=1)
    manager.pull_blocks(key, cache, [1], [2], dst_layer_range=None)
    manager.pull_blocks(key, cache, [1], [2], src_layer_rnge=range(1))  # E: Unexpected keyword
    manager.pull_blocks(key, cache, [1], [2], src_layer_range=[1])  # E: Argument "src_layer_range"
    by_id = CacheKeyByIdAndIndex(1, 2)
    manager.pull_cache(by_id, cache, 0, -1, dst_layer_range=range(1))
    manager.pull_cache(by_id, cache, tensors_per_layer=2)  # E: Unexpected keyword
    config = LLMConfig()
    config.listen_ip_info = "127.0.0.1:0"
    config.listen_ip = "127.0.0.1:0"  # E: "LLMConfig" has no attribute "listen_ip"
    many = [Pull(key, cache, [1], [2], {"src_layer_range": range(1)})]
    pull_many(manager, many)
    pull_many(manager, [key])  # E: List item 0 has incompatible type
    Pull(key, cache, [1], [2], {"src_layers": range(1)})  # E: Extra key "src_layers"
    HeadSplit(8, 4, 2).share(0)  # E: has no attribute "share"


def test_fixtures(
    datadist_peers: DatadistPeers,
    datadist_engine: DatadistEngine,
    datadist_cluster: DatadistCluster,
    datadist_calls: DatadistCalls,
    datadist_faults: DatadistFaults,
) -> None:
    peer = datadist_peers(LLM_DATADIST_CHECK="1")
    peer.init(1, listen="127.0.0.1:0")
    peer.init(1, listens="127.0.0.1:0")  # E: Unexpected keyword argument "listens"
    datadist_engine(1).cache_manager.unregister_cache(1)
    datadist_engine("one")  # E: Argument 1 to "__call__" of "DatadistEngine"
    cluster = datadist_cluster("1P1D", in_process=True)
    cluster.decoders[0].pull("kv", cluster.prompts[0].key(), [1], [2])
    cluster.decoder  # E: "Cluster" has no attribute "decoder"
    sum(call.bytes for call in datadist_calls)
    datadist_calls[0].byte  # E: "Call" has no attribute "byte"
    with datadist_faults.inject("read drop", must_fire=False) as injection:
        injection.fire  # E: "Injection" has no attribute "fire"
"""


@pytest.mark.slow
def test_a_type_checker_finds_what_a_client_misspells(tmp_path: Path) -> None:
    pytest.importorskip("mypy", reason="mypy is not installed (extra dev)")
    client = tmp_path / "client.py"
    client.write_text(CLIENT)
    (tmp_path / "mypy.ini").write_text("[mypy]\nstrict = True\nfollow_imports = silent\n")
    command = [sys.executable, "-m", "mypy", "--config-file=mypy.ini", "--cache-dir=cache"]
    done = subprocess.run(
        [*command, "--no-error-summary", "--hide-error-context", client.name],
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(Path(llm_datadist.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    found = {}
    for line in (done.stdout + done.stderr).splitlines():
        place, _, text = line.partition(": error: ")
        if text:
            found[int(place.partition(":")[2])] = text
    expected = {
        number: line.partition("# E: ")[2]
        for number, line in enumerate(CLIENT.splitlines(), 1)
        if "# E: " in line
    }
    assert found.keys() == expected.keys(), done.stdout + done.stderr
    for number, text in expected.items():
        assert text in found[number]
