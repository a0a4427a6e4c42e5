# SPDX-License-Identifier: Apache-2.0
"""Transfers from as many threads as clients in the field use: number 8 of contract 9.1, 7.8."""

from __future__ import annotations

import random

import pytest

from llm_datadist import BlocksCacheKey, RegisterMemStatus
from llm_datadist.testing import Geometry, Peer, check, eventually, moved
from tests.conformance.paths import Path
from tests.conformance.stage import OWNER, PULLER, Stage, linked
from tests.conformance.work import shuffled, transfer_many

pytestmark = pytest.mark.threads

GEOMETRY = Geometry(num_tensors=4, num_blocks=64, block_bytes=2048)
PATIENT_MS = 20000


@pytest.mark.rule("C9.1-14", "C7.8-6")
@pytest.mark.sanitize
@pytest.mark.parametrize("one_sided", [True, False], ids=["one-sided", "request"])
def test_thirty_two_threads_pull_over_four_links(stage: Stage, path: Path, one_sided: bool) -> None:
    spec = {"one_sided": one_sided, "sync_timeout_ms": PATIENT_MS}
    owners = [stage.engine(11 + i, path, **spec) for i in range(4)]
    sources = [path.cache(each, "kv", GEOMETRY, each.cluster_id, 0) for each in owners]
    puller = stage.engine(PULLER, path, listen=None, **spec)
    targets = [path.cache(puller, f"from {i}", GEOMETRY, 50 + i) for i in range(4)]
    linked(puller, *owners)
    for owner in owners:
        path.require(puller, owner, stage.process_vm_refused)
    orders = [shuffled(i, GEOMETRY.num_blocks) for i in range(4)]
    calls = []
    for thread in range(32):
        # Each thread has two blocks of each target, and goes to all owners in an order of its own.
        part = [2 * thread, 2 * thread + 1]
        jobs = [
            (
                f"from {i}",
                BlocksCacheKey(owner.cluster_id, 0),
                [orders[i][block] for block in part],
                part,
            )
            for i, owner in enumerate(owners)
        ] * 4
        random.Random(thread).shuffle(jobs)
        calls.append(puller.start_call(transfer_many, "pull", jobs))
    for call in calls:
        call.result()
    everything = list(range(GEOMETRY.num_blocks))
    for source, target, order in zip(sources, targets, orders):
        check(target, moved(target.filled(), source.filled(), order, everything))
    pulls = {link.peer_cluster_id: link.pulls for link in puller.call("links")}
    assert pulls == {owner.cluster_id: 32 * 4 for owner in owners}


@pytest.mark.rule("C9.1-14")
@pytest.mark.sanitize
def test_twelve_threads_push_from_the_listening_side(stage: Stage, path: Path) -> None:
    server = stage.engine(OWNER, path, sync_timeout_ms=PATIENT_MS)
    clients = [
        stage.engine(21 + i, path, listen=None, sync_timeout_ms=PATIENT_MS) for i in range(2)
    ]
    source = path.cache(server, "kv", GEOMETRY, 1)
    targets = [path.cache(each, "kv", GEOMETRY, each.cluster_id, 0) for each in clients]
    for client in clients:
        linked(client, server)
        path.require(server, client, stage.process_vm_refused)
    calls = []
    for thread in range(12):
        part = list(range(thread, GEOMETRY.num_blocks, 12))
        jobs = [("kv", BlocksCacheKey(each.cluster_id, 0), part, part[::-1]) for each in clients]
        calls.append(server.start_call(transfer_many, "push", jobs * 5))
    for call in calls:
        call.result()
    for target in targets:
        expected = target.filled()
        for thread in range(12):
            part = list(range(thread, GEOMETRY.num_blocks, 12))
            expected = moved(expected, source.filled(), part, part[::-1])
        check(target, expected)
    assert server.call("counters").pushes == 12 * 5 * 2 * GEOMETRY.num_tensors // 2


def join(actor, name: str, ranks: dict[int, int]) -> int:
    return actor.datadist.link(name, ranks, "{}")


def state_of(actor, comm_id: int) -> RegisterMemStatus:
    return actor.datadist.query_register_mem_status(comm_id)


def leave(actor, comm_id: int) -> None:
    actor.datadist.unlink(comm_id)


def wait_until_ok(members: dict[Peer, int]) -> None:
    """As clients do: both sides poll."""
    for peer, comm_id in members.items():
        eventually(
            lambda p=peer, c=comm_id: p.call(state_of, c) is not RegisterMemStatus.PREPARING,
            f"{peer} is ready",
        )
        assert peer.call(state_of, comm_id) is RegisterMemStatus.OK


@pytest.mark.rule("C9.1-15")
@pytest.mark.sanitize
@pytest.mark.parametrize("one_sided", [True, False], ids=["one-sided", "request"])
def test_link_in_a_worker_thread_while_the_other_side_links(
    stage: Stage, path: Path, one_sided: bool
) -> None:
    spec = {"one_sided": one_sided, "listen": None}
    owner = stage.engine(OWNER, path, **spec)
    puller = stage.engine(PULLER, path, **spec)
    source = path.cache(owner, "kv", GEOMETRY, 1, 0)
    target = path.cache(puller, "kv", GEOMETRY, 2)
    ranks = {OWNER: 0, PULLER: 1}
    expected = target.filled()
    for round_ in range(5):
        # Whoever is first waits for the other without holding anybody up.
        in_worker, other = (owner, puller) if round_ % 2 else (puller, owner)
        call = in_worker.start_call(join, f"comm {round_}", ranks)
        members = {other: other.call(join, f"comm {round_}", ranks), in_worker: call.result()}
        assert set(members.values()) == {round_ + 1}
        wait_until_ok(members)
        puller.pull("kv", BlocksCacheKey(OWNER, 0), [round_], [round_ + 9])
        expected = moved(expected, source.filled(), [round_], [round_ + 9])
        check(target, expected)
        for peer, comm_id in members.items():
            peer.call(leave, comm_id)


@pytest.mark.rule("C9.1-15", "C7.8-3")
@pytest.mark.sanitize
def test_link_in_a_worker_thread_while_other_links_transfer(stage: Stage, path: Path) -> None:
    spec = {"sync_timeout_ms": PATIENT_MS}
    owner = stage.engine(OWNER, path, **spec)
    puller = stage.engine(PULLER, path, listen=None, **spec)
    late = stage.engine(33, path, listen=None, **spec)
    source = path.cache(owner, "kv", GEOMETRY, 1, 0)
    target = path.cache(puller, "kv", GEOMETRY, 2)
    linked(puller, owner)
    ranks = {33: 0, PULLER: 1}
    call = puller.start_call(join, "beside", ranks)
    jobs = [("kv", BlocksCacheKey(OWNER, 0), [thread], [thread]) for thread in range(8)]
    for each in [puller.start_call(transfer_many, "pull", [job] * 20) for job in jobs]:
        each.result()
    # The member that was waited for comes only now.
    members = {puller: call.result(), late: late.call(join, "beside", ranks)}
    wait_until_ok(members)
    blocks = list(range(8))
    check(target, moved(target.filled(), source.filled(), blocks, blocks))
