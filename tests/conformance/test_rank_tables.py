# SPDX-License-Identifier: Apache-2.0
"""Rank tables are compared by what they say: contract 7.4, decision 51."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llm_datadist import BlocksCacheKey
from llm_datadist.testing import describe_difference, moved
from tests.conformance.communicators import join, ranks_of, wait_until_failed, wait_until_ok
from tests.conformance.paths import Path
from tests.conformance.stage import SMALL, Stage


def device(number: int, rank: int) -> dict[str, str]:
    return {"device_id": str(number), "device_ip": f"192.168.1.{rank}", "rank_id": str(rank)}


def server(number: int, *devices: dict[str, str]) -> dict[str, Any]:
    return {"server_id": f"10.0.0.{number}", "device": list(devices)}


def table(*servers: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"version": "1.0", "server_count": str(len(servers)), "server_list": [*servers], **more}


def pod(number: int, *servers: int) -> dict[str, Any]:
    listed = [{"server_id": f"10.0.0.{each}"} for each in servers]
    return {"super_pod_id": str(number), "server_list": listed}


FIRST, SECOND = server(1, device(0, 0)), server(2, device(0, 1))
ONE_TABLE = {
    "two servers, the own one first": (
        json.dumps(table(FIRST, SECOND)),
        json.dumps(table(SECOND, FIRST)),
    ),
    "one server with two devices": (
        json.dumps(table(server(1, device(0, 0), device(1, 1)))),
        json.dumps(table(server(1, device(1, 1), device(0, 0)))),
    ),
    "a super pod list": (
        json.dumps(table(FIRST, SECOND, super_pod_list=[pod(0, 1, 2), pod(1, 3)])),
        json.dumps(table(SECOND, FIRST, super_pod_list=[pod(1, 3), pod(0, 2, 1)])),
    ),
    "a trailing comma": (
        json.dumps(table(FIRST, SECOND)),
        json.dumps(table(SECOND, FIRST)).replace("}]", "},]").replace('"}', '",}'),
    ),
    "keys and white space": (
        json.dumps(table(FIRST, SECOND), sort_keys=True, indent=4),
        json.dumps(table(FIRST, SECOND), separators=(",", ":")),
    ),
}


@pytest.mark.rule("C7.4-16", "C10-51")
@pytest.mark.parametrize("tables", ONE_TABLE.values(), ids=list(ONE_TABLE))
@pytest.mark.parametrize("turned", [False, True], ids=["", "turned"])
def test_c7_4_16_tables_that_say_the_same_link_and_blocks_move(
    stage: Stage, path: Path, tables: tuple[str, str], turned: bool
) -> None:
    peers = [stage.engine(101 + i, path, listen=None) for i in range(2)]
    for peer in peers:
        path.cache(peer, "kv", SMALL, peer.cluster_id, 0)
    texts = reversed(tables) if turned else tables
    ids = [join(peer, ranks_of(*peers), rank_table=text) for peer, text in zip(peers, texts)]
    # Nothing is said about a difference of form: wait_until_ok wants no warning.
    wait_until_ok(*zip(peers, ids))
    path.require(*peers, stage.process_vm_refused)
    for peer, other in (peers, peers[::-1]):
        peer.pull("kv", BlocksCacheKey(other.cluster_id, 0), [5], [6])
    first, second = (SMALL.filled(peer.cluster_id) for peer in peers)
    assert describe_difference(peers[0].call("read", "kv"), moved(first, second, [5], [6])) == ""
    assert describe_difference(peers[1].call("read", "kv"), moved(second, first, [5], [6])) == ""


@pytest.mark.rule("C7.4-16", "C10-51")
@pytest.mark.parametrize(
    ("own", "other", "here", "there"),
    [
        (
            table(FIRST, SECOND),
            table(SECOND, server(1, device(0, 7))),
            '"rank_id" is "0" here, "7" there',
            '"rank_id" is "7" here, "0" there',
        ),
        (
            table(FIRST, server(2, device(0, 1), device(4, 9))),
            table(SECOND, FIRST),
            'server "10.0.0.2", device "4" is only here',
            'server "10.0.0.2", device "4" is only there',
        ),
    ],
)
def test_c7_4_16_where_the_content_differs_server_and_device_are_named(
    stage: Stage, own, other, here: str, there: str
) -> None:
    peers = [stage.engine(101 + i, listen=None) for i in range(2)]
    ids = [
        join(peer, ranks_of(*peers), rank_table=json.dumps(each))
        for peer, each in zip(peers, (own, other))
    ]
    for peer, comm_id, text in zip(peers, ids, (here, there)):
        said = wait_until_failed(peer, comm_id)
        assert text in said
        assert "another rank table: server" in said
