# SPDX-License-Identifier: Apache-2.0
"""Transfers between device memories that the test never touches by their addresses: what a device
host can run.

With LLM_DATADIST_TEST_DEVICES, say "0,1", on those of this machine, over the address that
LLM_DATADIST_TEST_DEVICE_IP gives, with the options that LLM_DATADIST_TEST_DEVICE_OPTIONS adds (see
llm_datadist/testing/device.py); else on the fake CANN.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest

from llm_datadist import (
    BlocksCacheKey,
    Cache,
    CacheDesc,
    DataType,
    LLMStatusCode,
    Placement,
)
from llm_datadist.config import LLMConfig
from llm_datadist.testing import device
from tests.runtimes.ascend.ascend_peers import Peers

S = LLMStatusCode
OWNER, PULLER = 7, 8
TENSORS, BLOCKS, BLOCK_BYTES = 4, 16, 128 << 10
SHAPE = [BLOCKS, BLOCK_BYTES]
POOL = 256 << 20
DEVICES = os.environ.get("LLM_DATADIST_TEST_DEVICES", "")
IP = os.environ.get("LLM_DATADIST_TEST_DEVICE_IP", "127.0.0.1")
# A link serves the end that made it, then.
ONE_WAY = LLMConfig.transfer_backend.key in device.options_of(0)


@pytest.fixture
def environment(request: pytest.FixtureRequest) -> dict[str, str]:
    if DEVICES:
        return {"LLM_DATADIST_BACKEND": "ascend"}
    on_fake: dict[str, str] = request.getfixturevalue("on_fake")
    return on_fake


@pytest.fixture
def pair(environment: dict[str, str], request: pytest.FixtureRequest):
    with ExitStack() as exits:
        peers = Peers(environment, exits)
        ends = []
        for number, cluster_id in enumerate((OWNER, PULLER)):
            peer = peers.start(
                cluster_id,
                listen=f"{IP}:0",
                device_pool=POOL,
                sync_timeout_ms=10_000,
                options={"ge.exec.deviceId": str(number), **device.options_of(number)},
            )
            peer.call(make, cluster_id)
            ends.append(peer)
        owner, puller = ends
        assert puller.link(owner, timeout_ms=20_000) == S.LLM_SUCCESS
        if ONE_WAY:
            assert owner.link(puller, timeout_ms=20_000) == S.LLM_SUCCESS
        yield owner, puller


def test_options_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DEVICES", "DEVICE_OPTIONS"):
        monkeypatch.delenv(f"LLM_DATADIST_TEST_{name}", raising=False)
    assert device.options_of(3) == {}
    monkeypatch.setenv("LLM_DATADIST_TEST_DEVICES", "4,6")
    monkeypatch.setenv("LLM_DATADIST_TEST_DEVICE_OPTIONS", '{"llm.LocalCommRes": "{}"}')
    assert device.options_of(2) == {"ge.exec.deviceId": "4", "llm.LocalCommRes": "{}"}
    monkeypatch.setenv("LLM_DATADIST_TEST_DEVICE_OPTIONS", '[{"a": "1"}, {"a": "2"}]')
    assert device.options_of(2) == {"ge.exec.deviceId": "4", "a": "1"}
    assert device.options_of(3) == {"ge.exec.deviceId": "6", "a": "2"}


def contents(seed: int) -> np.ndarray:
    """What a cache holds at first: [tensor, block, byte]."""
    return np.random.default_rng(seed).integers(0, 256, (TENSORS, *SHAPE), np.uint8)


def host_cache(arrays: np.ndarray) -> Cache:
    desc = CacheDesc(TENSORS, SHAPE, DataType.DT_INT8, Placement.HOST)
    return Cache.create_cpu_cache(desc, [each.ctypes.data for each in arrays])


def make(actor: Any, seed: int) -> None:
    desc = CacheDesc(TENSORS, SHAPE, DataType.DT_INT8, Placement.DEVICE)
    key = BlocksCacheKey(actor.datadist.cluster_id, 0)
    actor.manager = actor.datadist.cache_manager
    actor.on_device = actor.manager.allocate_blocks_cache(desc, key)
    arrays = contents(seed)
    actor.manager.swap_blocks(host_cache(arrays), actor.on_device, {i: i for i in range(BLOCKS)})


def read(actor: Any) -> np.ndarray:
    arrays = np.zeros((TENSORS, *SHAPE), np.uint8)
    actor.manager.swap_blocks(actor.on_device, host_cache(arrays), {i: i for i in range(BLOCKS)})
    return arrays


def pull(actor: Any, cluster_id: int, src: list[int], dst: list[int]) -> None:
    actor.manager.pull_blocks(BlocksCacheKey(cluster_id, 0), actor.on_device, src, dst)


def push(actor: Any, cluster_id: int, src: list[int], dst: list[int]) -> None:
    actor.manager.push_blocks(BlocksCacheKey(cluster_id, 0), actor.on_device, src, dst)


def copy(actor: Any, src: int, dst: int) -> None:
    actor.manager.copy_blocks(actor.on_device, {src: [dst]})


def test_in_and_out_of_the_device(pair):
    for peer, seed in zip(pair, (OWNER, PULLER)):
        assert (peer.call(read) == contents(seed)).all()
        peer.call(copy, 3, 5)
        expected = contents(seed)
        expected[:, 5] = expected[:, 3]
        assert (peer.call(read) == expected).all()


@pytest.mark.parametrize("active", [0, 1], ids=["linked to", "linked"])
def test_pull_and_push(pair, active):
    here, there = pair[active], pair[1 - active]
    mine, other = contents(here.cluster_id), contents(there.cluster_id)
    here.call(pull, there.cluster_id, [3, 4, 5, 0], [0, 1, 7, 3])
    mine[:, [0, 1, 7, 3]] = other[:, [3, 4, 5, 0]]
    assert (here.call(read) == mine).all()
    here.call(push, there.cluster_id, [9, 0], [15, 14])
    other[:, [15, 14]] = mine[:, [9, 0]]
    assert (there.call(read) == other).all()


def test_everything_again_and_again(pair):
    owner, puller = pair
    everything = list(range(BLOCKS))
    for _ in range(5):
        puller.call(pull, OWNER, everything, everything)
    assert (puller.call(read) == contents(OWNER)).all()
    puller.call(push, OWNER, everything, everything[::-1])
    assert (owner.call(read) == contents(OWNER)[:, ::-1]).all()


def test_linked_anew(pair):
    owner, puller = pair
    for _ in range(3):
        assert puller.unlink(owner) == S.LLM_SUCCESS
        assert puller.link(owner, timeout_ms=20_000) == S.LLM_SUCCESS
        puller.call(pull, OWNER, [1], [2])
    expected = contents(PULLER)
    expected[:, 2] = contents(OWNER)[:, 1]
    assert (puller.call(read) == expected).all()
