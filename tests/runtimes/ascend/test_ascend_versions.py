# SPDX-License-Identifier: Apache-2.0
"""What the runtime does differently by the version of HIXL that is installed, and for none of them:
options, buffer pools, devices, overlaps, forked children.
"""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from llm_datadist import BlocksCacheKey, LLMException, LLMStatusCode, Placement
from llm_datadist.testing import Geometry, check, eventually, memory, moved
from llm_datadist.testing.actor import EngineSpec
from tests.support.fake_cann import toolkit

S = LLMStatusCode
OWNER, PULLER = 7, 8
SMALL = Geometry()
KEY = BlocksCacheKey(OWNER, 0)
DEVICE = "ge.exec.deviceId"
CONFIG = "llm.GlobalResourceConfig"
POOL = "lldd.BufferPool"


def failure(call) -> LLMException:
    with pytest.raises(LLMException) as caught:
        call()
    return caught.value


def warned_at_init(actor: Any, options: dict[str, str]) -> list[str]:
    spec = EngineSpec(
        OWNER, listen="127.0.0.1:0", several_in_a_process=True, options={DEVICE: "9", **options}
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        spec.open().finalize()
    return [str(each.message) for each in caught]


@pytest.mark.parametrize(
    ("which", "value", "told"),
    [
        ("old_peers", '{"version": "1.3"}', "HIXL 8.5.0 does not know it"),
        ("peers", '{"version": "1.2"}', 'only version "1.3" has one'),
        ("peers", '{"version": "1.3"}', ""),
    ],
)
def test_a_comm_resource_without_effect_is_said(request, which, value, told) -> None:
    peer = request.getfixturevalue(which).start(
        PULLER, options={"lldd.AllowMultipleInstances": "1"}
    )
    said = peer.call(warned_at_init, {"llm.LocalCommRes": value})
    if told:
        assert told in said[0]
    else:
        assert said == []


@pytest.mark.parametrize("which", ["peers", "old_peers"])
def test_a_resource_config_as_text_or_file(request, which: str, tmp_path: Path) -> None:
    """HIXL 8.5 wants a file, later ones the text: the client may give either."""
    peers = request.getfixturevalue(which)
    file = tmp_path / "config.json"
    file.write_text('{"a": 1}')
    peers.start(OWNER, options={CONFIG: '{"a": 1}'})
    peers.start(PULLER, options={CONFIG: str(file)})
    error = failure(lambda: peers.start(9, options={CONFIG: "nonsense"}))
    assert error.status_code == S.LLM_PARAM_INVALID
    assert "GlobalResourceConfig" in str(error)


def test_the_oldest_refuses_an_ascend_950(peers, old_peers) -> None:
    """Before HIXL is asked, whose 8.5.0 says nothing of it."""
    for soc in ("Ascend950PR_9599", "Ascend910_9599"):
        error = failure(lambda s=soc: old_peers.start(OWNER, environment={"FAKE_CANN_SOC": s}))
        assert error.status_code == S.LLM_PARAM_INVALID
        assert f"HIXL 8.5.0 does not support {soc}, which needs CANN 9.0.0 or later" in str(error)
    old_peers.start(OWNER, environment={"FAKE_CANN_SOC": "Ascend910B3"})
    newer = toolkit.surroundings("9.0.0")
    peers.start(PULLER, environment={**newer, "FAKE_CANN_SOC": "Ascend950PR_9599"})


def test_a_failed_start_leaves_the_process(old_peers) -> None:
    """HIXL 8.5.0 ends the process with an object whose Initialize failed: it is kept."""
    error = failure(lambda: old_peers.start(OWNER, options={"llm.RdmaTrafficClass": "133"}))
    assert error.raw == 103900
    old_peers.start(PULLER)


def test_engines_on_one_device_are_not_linked(peers) -> None:
    owner = peers.start(OWNER, options={DEVICE: "3"})
    puller = peers.start(PULLER, options={DEVICE: "3"})
    answer = puller.link_to(owner.cluster())
    assert answer.status == S.LLM_PARAM_INVALID
    assert "both ends are on device 3 of this host" in answer.details[0]
    # What a process sees of the devices is not what the host has.
    elsewhere = peers.start(
        9, options={DEVICE: "3"}, environment={"ASCEND_RT_VISIBLE_DEVICES": "4,5,6,7"}
    )
    error = elsewhere.link_to(owner.cluster()).details[0]
    assert "both ends are on device" not in error


def test_buffer_pools_must_be_equal(peers) -> None:
    owner = peers.start(OWNER)
    puller = peers.start(PULLER, options={POOL: "4:8"})
    answer = puller.link_to(owner.cluster())
    assert answer.status == S.LLM_PARAM_INVALID
    assert "lldd.BufferPool" in answer.details[0]
    assert '"4:8"' in answer.details[0]
    assert '"0:0"' in answer.details[0]
    other = peers.start(9, options={POOL: "4:8"})
    other.register("kv", SMALL, 1, 0)
    puller.register("kv", SMALL, 2)
    assert puller.link(other) == S.LLM_SUCCESS
    puller.pull("kv", BlocksCacheKey(9, 0), [0], [0])
    with pytest.raises(LLMException, match="BufferPool"):
        peers.start(10, options={POOL: "rubbish"})


def test_long_timeouts_on_the_oldest(old_peers) -> None:
    """Staged, HIXL 8.5.0 counts them in 32 bits, and ends the process when they do not fit."""
    spec = {"sync_timeout_ms": 2**31 - 1, "options": {POOL: "4:8"}}
    owner = old_peers.start(OWNER, **spec)
    puller = old_peers.start(PULLER, **spec)
    source, target = owner.register("kv", SMALL, 1, 0), puller.register("kv", SMALL, 2)
    assert puller.link(owner) == S.LLM_SUCCESS
    puller.pull("kv", KEY, [0], [1])
    check(target, moved(target.filled(), source.filled(), [0], [1]))


# ---- overlaps


def register_ranges(actor: Any, ranges: list[tuple[int, int]]) -> list[str]:
    """Register [begin, end) pages of one allocation; returns why not, "" if it was."""
    page = 64 << 10
    if not hasattr(actor, "held"):
        actor.held = memory.of_client(16 * page, Placement.DEVICE, actor.device_id)
        actor.by_range = {}
    told = []
    for begin, end in ranges:
        desc = SMALL.desc()
        desc.shape[1] = (end - begin) * page // desc.shape[0] // 8 * 8
        try:
            cache = actor.datadist.cache_manager.register_blocks_cache(
                desc, [actor.held.address + begin * page] * desc.num_tensors, None
            )
        except LLMException as error:
            told.append(str(error))
            continue
        actor.by_range[begin, end] = cache
        told.append("")
    return told


def unregister_ranges(actor: Any, ranges: list[tuple[int, int]]) -> None:
    for each in ranges:
        actor.datadist.cache_manager.unregister_cache(actor.by_range.pop(each).cache_id)


def release(actor: Any) -> None:
    actor.held.release()


def test_overlapping_ranges(peers) -> None:
    """HIXL takes equal ranges and ranges apart: what lies within another needs none of its own,
    what overlaps is joined as long as nothing is linked.
    """
    owner, puller = peers.start(OWNER), peers.start(PULLER, listen=None)
    assert owner.call(register_ranges, [(0, 4), (1, 2), (3, 6), (8, 10), (5, 9)]) == [""] * 5
    owner.call(unregister_ranges, [(0, 4), (3, 6)])
    owner.register("kv", SMALL, 1, 0)
    puller.register("kv", SMALL, 2)
    assert puller.link(owner) == S.LLM_SUCCESS
    puller.pull("kv", KEY, [0], [0])
    within, across = owner.call(register_ranges, [(6, 7), (9, 12)])
    assert within == ""
    assert "overlap" in across
    assert "only while nothing is linked" in across
    puller.pull("kv", KEY, [1], [1])
    owner.call(unregister_ranges, [(1, 2), (8, 10), (5, 9), (6, 7)])
    assert owner.call(register_ranges, [(9, 12)]) == [""]
    assert "only while nothing is linked" in owner.call(register_ranges, [(11, 14)])[0]
    assert puller.unlink(owner) == S.LLM_SUCCESS
    eventually(lambda: owner.call(register_ranges, [(11, 14)]) == [""], "the connection is gone")


# ---- forked children

FORK = """
import os, sys
from llm_datadist.testing.actor import EngineSpec
datadist = EngineSpec(7, listen="127.0.0.1:0").open()
pid = os.fork()
if pid == 0:
    print("the child's words")
    sys.exit(3)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3 if hasattr(
    os, "waitstatus_to_exitcode") else True
datadist.finalize()
"""


@pytest.mark.parametrize("version", toolkit.VERSIONS)
def test_a_forked_child_exits_in_the_ordinary_way(on_fake: dict[str, str], version: str) -> None:
    result = subprocess.run(
        [sys.executable, "-c", FORK],
        env={**os.environ, **on_fake, **toolkit.surroundings(version)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (result.returncode, result.stdout) == (0, "the child's words\n"), result.stderr
