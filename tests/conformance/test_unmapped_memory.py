# SPDX-License-Identifier: Apache-2.0
"""Memory that is not there, may not be touched, or lies anywhere: contract 9 number 11,
docs/architecture.md "Unmapped memory".
"""

from __future__ import annotations

import pytest

from llm_datadist import BlocksCacheKey, LLMStatusCode
from llm_datadist.testing import Geometry, Peer, check, moved
from tests.conformance.paths import Path
from tests.conformance.refusals import refused_by_engine
from tests.conformance.stage import OWNER, PULLER, SMALL, Stage, linked

S = LLMStatusCode
KEY = BlocksCacheKey(OWNER, 0)
OPERATIONS = ["pull", "push"]


def two(stage: Stage, path: Path, owner_kind: str, puller_kind: str, geometry=SMALL):
    """Two linked peers over memory of these kinds; where it can be written, it is filled."""

    def cache(peer: Peer, kind: str, stamp: int, model: int | None):
        filled = None if kind in ("nowhere", "read only") else stamp
        return peer.register("kv", geometry, filled, model, memory_kind=kind)

    owner = stage.engine(OWNER, path)
    puller = stage.engine(PULLER, path, listen=None)
    source = cache(owner, owner_kind, 1, 0)
    target = cache(puller, puller_kind, 2, None)
    linked(puller, owner)
    path.require(puller, owner, stage.process_vm_refused)
    return owner, puller, source, target


def only_the_listed_blocks_may_have_suffered(target, blocks: list[int], before=None) -> None:
    """A transfer that failed may have written its blocks in part, and nothing else."""
    expected = target.filled() if before is None else before
    actual = target.read()
    expected[:, blocks] = actual[:, blocks]
    check(target, expected)


def still_work(owner: Peer, puller: Peer, path: Path) -> None:
    """Both processes live, and the link serves other caches."""
    source = owner.register("fine", SMALL, 11, 5)
    target = puller.register("fine", SMALL, 12)
    assert puller.unlink(owner) == S.LLM_SUCCESS
    linked(puller, owner)
    puller.pull("fine", BlocksCacheKey(OWNER, 5), [3], [4])
    puller.push("fine", BlocksCacheKey(OWNER, 5), [9], [9])
    check(target, moved(target.filled(), source.filled(), [3], [4]))
    check(source, moved(source.filled(), target.filled(), [9], [9]))


@pytest.mark.rule("C9-43", "C9-44")
@pytest.mark.sanitize
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("geometry", [SMALL, Geometry(2, 32, 256 << 10)], ids=["small", "large"])
def test_an_unmapped_address_of_the_owner(
    stage: Stage, registered_path: Path, operation: str, geometry: Geometry
) -> None:
    owner, puller, _, target = two(stage, registered_path, "nowhere", "numpy", geometry)
    blocks = list(range(1, geometry.num_blocks - 1))
    for _ in range(3):
        with refused_by_engine(f"{operation}_blocks", S.LLM_FAILED, OWNER):
            getattr(puller, operation)("kv", KEY, blocks, blocks)
    only_the_listed_blocks_may_have_suffered(target, blocks)
    still_work(owner, puller, registered_path)


@pytest.mark.rule("C9-43", "C9-44")
@pytest.mark.sanitize
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("geometry", [SMALL, Geometry(2, 32, 256 << 10)], ids=["small", "large"])
def test_an_unmapped_address_of_the_caller(
    stage: Stage, registered_path: Path, operation: str, geometry: Geometry
) -> None:
    owner, puller, source, _ = two(stage, registered_path, "numpy", "nowhere", geometry)
    blocks = list(range(geometry.num_blocks))
    for _ in range(3):
        with refused_by_engine(f"{operation}_blocks", S.LLM_FAILED):
            getattr(puller, operation)("kv", KEY, blocks, blocks)
    check(source, source.filled())
    still_work(owner, puller, registered_path)


@pytest.mark.sanitize
@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_unmapped_address_beside_a_pool(stage: Stage, operation: str) -> None:
    # The peer's memory is mapped here, so the bytes are copied by this process itself.
    environment = {"LLM_DATADIST_MOCK_TRANSPORT": "mapped"}
    owner = stage.engine(OWNER, device_pool=1 << 20, environment=environment)
    puller = stage.engine(PULLER, listen=None, device_pool=1 << 20, environment=environment)
    source = owner.allocate("kv", SMALL, 1, 0)
    puller.register("kv", SMALL, None, memory_kind="nowhere")
    fine = puller.allocate("fine", SMALL, 3)
    linked(puller, owner)
    with refused_by_engine(f"{operation}_blocks", S.LLM_FAILED):
        getattr(puller, operation)("kv", KEY, [0, 1], [0, 1])
    check(source, source.filled())
    puller.pull("fine", KEY, [0], [1])
    check(fine, moved(fine.filled(), source.filled(), [0], [1]))


@pytest.mark.parametrize("operation", OPERATIONS)
def test_memory_that_may_only_be_read(stage: Stage, registered_path: Path, operation: str) -> None:
    kinds = ("read only", "numpy") if operation == "push" else ("numpy", "read only")
    owner, puller, _, _ = two(stage, registered_path, *kinds)
    with refused_by_engine(f"{operation}_blocks", S.LLM_FAILED):
        getattr(puller, operation)("kv", KEY, [0, 5], [0, 5])
    # The other direction only reads it.
    getattr(puller, "pull" if operation == "push" else "push")("kv", KEY, [0, 5], [0, 5])
    still_work(owner, puller, registered_path)


@pytest.mark.parametrize("kind", ["numpy", "page aligned", "odd", "malloc", "mmap"])
def test_any_alignment_and_allocator(stage: Stage, registered_path: Path, kind: str) -> None:
    for geometry in (SMALL, Geometry(2, 8, 200_000)):
        _, puller, source, target = two(stage, registered_path, kind, kind, geometry)
        src, dst = [3, 4, 5, 0], [0, 1, 7, 3]
        puller.pull("kv", KEY, src, dst)
        expected = moved(target.filled(), source.filled(), src, dst)
        check(target, expected)
        puller.push("kv", KEY, [7], [6])
        check(source, moved(source.filled(), expected, [7], [6]))


@pytest.mark.rule("C9-44")
@pytest.mark.parametrize("operation", OPERATIONS)
def test_memory_that_the_owner_took_away_while_registered(
    stage: Stage, registered_path: Path, operation: str
) -> None:
    # A client error, which may end the process that did it, but never the peer.
    owner, puller, _, target = two(stage, registered_path, "mmap", "numpy")
    puller.pull("kv", KEY, [0], [0])
    owner.call("memory_call", "kv", "unmap")
    error = puller.start_call(operation, "kv", KEY, [1, 2], [1, 2]).exception()
    assert error is not None
    assert error.status_code in (S.LLM_FAILED, S.LLM_TIMEOUT)
    source = SMALL.filled(1)
    only_the_listed_blocks_may_have_suffered(
        target, [1, 2], moved(target.filled(), source, [0], [0])
    )


def test_a_zero_address_is_refused_and_a_range_past_the_address_space(stage: Stage) -> None:
    peer = stage.engine(OWNER)
    for address in (0, 2**64 - 4096):
        with refused_by_engine("register_blocks_cache", S.LLM_PARAM_INVALID):
            peer.call(register_at, address)
    peer.register("fine", SMALL, 1)


def register_at(actor, address: int) -> None:
    addrs = [address] * SMALL.num_tensors
    actor.datadist.cache_manager.register_blocks_cache(SMALL.desc(), addrs)
