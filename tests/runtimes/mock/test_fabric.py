# SPDX-License-Identifier: Apache-2.0
"""Transfers that last as long as over a fabric, with ports that they share."""

from __future__ import annotations

import time
from typing import Any

import pytest

from llm_datadist import LLMException, LLMStatusCode, Placement
from llm_datadist._native.control import runtime_control
from llm_datadist._plan.fabrics import profiles
from llm_datadist.testing import Geometry, eventually

VARIABLE = "LLM_DATADIST_MOCK_FABRIC"
BLOCK = 64 << 10
GEOMETRY = Geometry(num_tensors=2, num_blocks=16, block_bytes=BLOCK)
# What a busy machine adds to a call that is told how long to take.
SLACK = 2.0
# So that no two blocks are one run.
EVEN, ODD = range(0, 16, 2), range(1, 16, 2)
BYTES = 2 * len(EVEN) * BLOCK


def seconds_of(member: Any, operation: str, key: Any) -> float:
    begin = time.monotonic()
    getattr(member, operation)("kv", key, EVEN, ODD)
    return time.monotonic() - begin


@pytest.mark.parametrize("transport", ["mapped", "cma", "tcp"])
def test_a_transfer_lasts_as_long_as_the_table_says(datadist_cluster: Any, transport: str) -> None:
    profile = profiles()["a2-roce-2hosts-default"]
    variables = {VARIABLE: f"{profile.name}:scale=500:latency=20us:jitter=0us"}
    variables["LLM_DATADIST_MOCK_TRANSPORT"] = transport
    pool = {"device_pool": 16 << 20, "geometry": None} if transport == "mapped" else {}
    cluster = datadist_cluster(
        "1P1D", in_process=True, environment=variables, **{"geometry": GEOMETRY, **pool}
    )
    (prompt,), (decoder,) = cluster.prompts, cluster.decoders
    if pool:
        prompt.allocate("kv", GEOMETRY, 1, 0)
        decoder.allocate("kv", GEOMETRY, 2, 0)
    for operation, direction in (("pull", "rD2D"), ("push", "D2rD")):
        rate = profile.curves[direction].at(BLOCK) * 1e9
        expected = (BYTES / rate + 20e-6) * 500
        taken = seconds_of(decoder, operation, prompt.key())
        assert expected <= taken < expected + SLACK
    reasons = {path.reason for path in decoder.call("link_paths", prompt.cluster_id)}
    assert all(f"{profile.name}, 500 times slower" in reason for reason in reasons)
    assert f"fabric {profile.name}, 500 times slower" in runtime_control("devices")


def test_a_port_is_shared(datadist_cluster: Any) -> None:
    # 24 GB/s, 5000 times slower: 4.8 MB/s, 0.22 s for a pull alone.
    variables = {VARIABLE: "roce-200g:scale=5000:latency=0us:jitter=0us"}
    cluster = datadist_cluster("2P3D", in_process=True, geometry=GEOMETRY, environment=variables)
    first, second = cluster.prompts
    alone = BYTES / (24e9 / 5000)

    def together(*pulls: tuple[Any, Any]) -> list[float]:
        begin = time.monotonic()
        calls = [decoder.start_call(_pull, prompt.key()) for decoder, prompt in pulls]
        return [call.result() - begin for call in calls]

    one, two, three = cluster.decoders
    # The prompt's port gives each a third, as long as all are there.
    assert max(together((one, first), (two, first), (three, first))) >= 2.95 * alone
    # A decoder's port as well.
    assert max(together((one, first), (one, second))) >= 1.95 * alone
    # And no other one: the two do not wait for each other.
    assert max(together((one, first), (two, second))) < 1.9 * alone + SLACK


def _pull(actor: Any, key: Any) -> float:
    actor.pull("kv", key, EVEN, ODD)
    return time.monotonic()


def test_a_direction_that_the_product_does_not_carry(datadist_cluster: Any) -> None:
    variables = {VARIABLE: "a3-hccs-2hosts-default:scale=2"}
    cluster = datadist_cluster(
        "1P1D", in_process=True, linked=False, geometry=None, environment=variables
    )
    prompt, decoder = cluster.members
    prompt.register("kv", GEOMETRY, 1, 0, placement=Placement.HOST, remote_accessible=True)
    decoder.register("kv", GEOMETRY, 2, 0)
    cluster.link()
    refused = "A3, HCCS, 2 hosts, communication domain does not carry"
    with pytest.raises(LLMException, match=f"{refused} rH2D") as error:
        decoder.pull("kv", prompt.key(), EVEN, ODD)
    assert error.value.status_code == LLMStatusCode.LLM_FEATURE_NOT_ENABLED
    with pytest.raises(LLMException, match=r"write from device .* to host memory of the peer"):
        decoder.push("kv", prompt.key(), EVEN, ODD)
    # The other way round the remote side is device memory.
    prompt.push("kv", decoder.key(), EVEN, ODD)


@pytest.mark.parametrize("ended_by", ["its deadline", "the end of its peer"])
def test_a_transfer_that_ends_early(datadist_cluster: Any, ended_by: str) -> None:
    dies = ended_by == "the end of its peer"
    cluster = datadist_cluster(
        "1P1D",
        in_process=True,
        geometry=GEOMETRY,
        environment={VARIABLE: "roce-100g:latency=20s"},
        sync_timeout_ms=60000 if dies else 150,
    )
    (prompt,), (decoder,) = cluster.prompts, cluster.decoders
    call = decoder.start_call("pull", "kv", prompt.key(), EVEN, ODD)
    if dies:
        # The bytes are there before the call returns.
        eventually(lambda: decoder.call("read", "kv")[0, 1, 0] == GEOMETRY.filled(1)[0, 0, 0], "")
        prompt.finalize()
    error = call.exception(10)
    assert isinstance(error, LLMException)
    assert error.status_code == LLMStatusCode.LLM_TIMEOUT
    assert ("over roce-100g the 1048576 bytes take" in str(error)) is not dies


def test_a_bad_name_is_refused_when_the_engine_opens(datadist_cluster: Any) -> None:
    with pytest.raises(LLMException, match=f"{VARIABLE}.*there are .*a3-roce-2hosts-cs") as error:
        datadist_cluster("1P1D", in_process=True, environment={VARIABLE: "a3-roce"})
    assert error.value.status_code == LLMStatusCode.LLM_PARAM_INVALID
