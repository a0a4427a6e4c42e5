# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the conformance suite: the rules of the interface, between real processes, on every
path.
"""

from __future__ import annotations

import ctypes
import os
import pathlib
from collections import Counter
from collections.abc import Iterator

import pytest

from llm_datadist import Placement
from llm_datadist.introspection import MemoryKind
from llm_datadist.testing import Resources, device, memory, wait_until_given_back
from llm_datadist.testing.resources import children_of
from tests.conformance.engines import Engines, open_engines
from tests.conformance.exclusions import exclude
from tests.conformance.paths import Path, wanted
from tests.conformance.stage import (
    SMALL,
    Pair,
    PeerPool,
    Stage,
    load_library,
    open_stage,
    probe_process_vm,
)
from tests.conformance.together import NearPeer, NearStage, open_together

HERE = pathlib.Path(__file__).parent
FAILED = pytest.StashKey[list]()
PR_SET_CHILD_SUBREAPER = 36


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "path" in metafunc.fixturenames:
        metafunc.parametrize("path", wanted(), ids=str, indirect=True)
    if "registered_path" in metafunc.fixturenames:
        registered = [path for path in wanted() if path.memory is MemoryKind.REGISTERED]
        metafunc.parametrize("registered_path", registered, ids=str, indirect=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    exclude([item for item in items if item.path.parent == HERE])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    item.stash.setdefault(FAILED, [False])[0] |= report.failed
    return report


@pytest.fixture
def path(request: pytest.FixtureRequest) -> Path:
    """mapped: allocated caches; cma: registered memory by process_vm_*; tcp: registered memory by
    TCP. Of the Ascend library, ascend: registered memory, ascend-pool: allocated caches.
    """
    return request.param


@pytest.fixture
def registered_path(request: pytest.FixtureRequest) -> Path:
    """The paths that serve registered memory, for what only a client's memory can do."""
    return request.param


@pytest.fixture(scope="session")
def pool() -> Iterator[PeerPool]:
    # What a dying peer leaves behind becomes a child of this process, where it is noticed.
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    pool = PeerPool()
    here = NearPeer()
    here.call(load_library)
    here.reset()
    yield pool
    pool.close()
    libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


@pytest.fixture(scope="session")
def process_vm_refused(pool: PeerPool) -> str:
    return probe_process_vm(pool)


@pytest.fixture(scope="module", autouse=True)
def _nothing_left_behind(pool: PeerPool, process_vm_refused: str) -> Iterator[None]:
    """When the tests of a file are done, no process, descriptor or thread of theirs is left."""

    def held() -> Resources:
        # Each warm peer is a child, with a channel and a thread that reads it.
        own = Resources.of(os.getpid())
        for each in ("socket:", "/memfd:stacks of a peer (deleted)"):
            own.descriptors[each] -= len(pool.idle)
        threads = Counter({"any": sum(own.threads.values()) - len(pool.idle)})
        warm = {each.peer.pid for each in pool.idle}
        others = Counter(
            f"{name} {pid}" for pid, name in children_of(os.getpid()).items() if pid not in warm
        )
        return Resources(own.descriptors, threads, own.shared_mappings, others)

    before = held()
    yield
    try:
        wait_until_given_back(before, held)
    except AssertionError as error:
        pytest.fail(f"the tests left something behind: {error}")


@pytest.fixture
def stage(
    request: pytest.FixtureRequest, pool: PeerPool, process_vm_refused: str, datadist_scope: str
) -> Iterator[Stage]:
    failed = request.node.stash.setdefault(FAILED, [False])
    with open_stage(pool, process_vm_refused, failed, datadist_scope) as stage:
        yield stage


@pytest.fixture
def together(process_vm_refused: str, datadist_scope: str) -> Iterator[NearStage]:
    """The same with peers in this process."""
    with open_together(process_vm_refused, datadist_scope) as stage:
        yield stage


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch, datadist_scope: str) -> Iterator[Engines]:
    """Engines of this process; finalized at the end."""
    with open_engines(monkeypatch) as engines:
        yield engines


@pytest.fixture
def small_addresses() -> Iterator[list[int]]:
    """Device memory that a client has, to register as a small cache; all tensors are the same."""
    one = memory.of_client(SMALL.tensor_bytes, Placement.DEVICE, device.id_of(device.options_of(0)))
    yield [one.address] * SMALL.num_tensors
    one.release()


@pytest.fixture
def pair(stage: Stage, path: Path) -> Pair:
    return stage.pair(path)
