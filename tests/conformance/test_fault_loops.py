# SPDX-License-Identifier: Apache-2.0
"""Operations that fail at each of their steps in turn.

An operation is done again and again; the first time its first passage of a fault point fails, then
the second, and so on, until it gets through. Each failure is a status of the contract, leaves
everything as it was before, and the engines work on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count

import numpy as np
import pytest

from llm_datadist import LLMConfig, LLMDataDist, LLMException, LLMRole, LLMStatusCode, Placement
from llm_datadist._native.control import runtime_control
from llm_datadist.introspection import MemoryKind
from llm_datadist.testing import Resources, eventually, faults, leaked
from tests.conformance.engines import (
    EngineHere,
    Engines,
    Held,
    blocks_of,
    by_request,
    cluster_of,
    pool_config,
)
from tests.conformance.stage import OWNER

S = LLMStatusCode
REGISTERED = MemoryKind.REGISTERED
# More passages than any operation here has.
ENDLESS = 50


def status_of(operation: Callable[[], object]) -> LLMStatusCode:
    """How a call ends."""
    try:
        answer = operation()
    except LLMException as error:
        if "injected by the fault rule" not in str(error):
            raise
        return error.status_code
    return answer[0] if isinstance(answer, tuple) else S.LLM_SUCCESS


def each_failure(points: str, status: LLMStatusCode) -> Iterator[Callable[[], bool]]:
    """Let the first passage of the points fail, then the second, ...

    Yields what tells whether it has happened yet; ends with the first attempt in which it has not.
    """
    for attempt in count():
        assert attempt < ENDLESS, "the operation never gets through"
        rule = f"{points} status={status.name} after={attempt} times=1"
        with faults.inject(rule, must_fire=False) as injection:
            yield lambda injection=injection: injection.fired == 1
        if injection.fired == 0:
            return


@contextmanager
def nothing_more_is_held() -> Iterator[None]:
    """Descriptors, threads, mapped memory and registrations are what they were."""
    before, devices = Resources.of(os.getpid()), runtime_control("devices")
    yield

    def more() -> list[str]:
        now = runtime_control("devices")
        changed = [] if now == devices else [f"{devices} -> {now}"]
        return leaked(before, Resources.of(os.getpid())) + changed

    try:
        eventually(lambda: not more(), "all is given back", 5)
    except AssertionError:
        pytest.fail(f"left behind: {more()}")


def go_through(
    operation: Callable[[], object],
    points: str,
    status: LLMStatusCode,
    expected: LLMStatusCode | None = None,
    after_failure: Callable[[], object] = lambda: None,
    undo: Callable[[], object] = lambda: None,
) -> int:
    """Do it until it gets through; returns how often it failed."""
    failures = 0
    for happened in each_failure(points, status):
        with nothing_more_is_held():
            outcome = status_of(operation)
            if happened():
                failures += 1
                assert outcome == (status if expected is None else expected)
                after_failure()
            else:
                assert outcome == S.LLM_SUCCESS
                undo()
    return failures


FAILURES = [S.LLM_FAILED, S.LLM_TIMEOUT, S.LLM_OUT_OF_MEMORY, S.LLM_DEVICE_MEM_ERROR]


@dataclass
class Two:
    """Two engines with caches, linked if need be, whose transfers can be tried."""

    engines: Engines
    owner: EngineHere
    puller: EngineHere
    source: Held
    target: Held
    moved: Iterator[int] = field(default_factory=count)

    @classmethod
    def make(cls, engines: Engines, **options) -> Two:
        owner, puller = engines.two(**options)
        return cls(engines, owner, puller, owner.paged(model_id=0), puller.paged())

    def link(self) -> object:
        return self.puller.datadist.link_clusters([cluster_of(self.owner)], 5000)

    def unlink(self, force: bool = False) -> object:
        return self.puller.datadist.unlink_clusters([cluster_of(self.owner)], 5000, force)

    def pull(self) -> object:
        self.puller.manager.pull_blocks(blocks_of(), self.target.cache, [3, 1], [0, 2])
        return None

    def pulls(self) -> None:
        """A pull succeeds and brings the bytes."""
        for tensor in self.target.tensors:
            tensor[:] = 0
        self.pull()
        assert np.array_equal(self.target.now[:, [0, 2]], self.source.now[:, [3, 1]])
        assert not self.target.now[:, [1, 3]].any()


@pytest.mark.sanitize
@pytest.mark.parametrize("status", FAILURES)
def test_init(status: LLMStatusCode) -> None:
    config = LLMConfig()
    config.enable_cache_manager = True
    config.allow_multiple_instances = True
    config.listen_ip_info = "127.0.0.1:0"
    config.mem_pool_cfg = config.host_mem_pool_cfg = pool_config(1 << 20)
    datadist = LLMDataDist(LLMRole.MIX, OWNER)

    def init() -> None:
        datadist.init(config.generate_options())

    failed = 0
    for happened in each_failure("open_device,pool,commit", status):
        with nothing_more_is_held():
            outcome = status_of(init)
            if happened():
                failed += 1
                # A host pool that cannot be had is a plain failure.
                host_pool = failed == 3 and status == S.LLM_OUT_OF_MEMORY
                assert outcome == (S.LLM_FAILED if host_pool else status)
            datadist.finalize()
    assert failed == 3


@pytest.mark.sanitize
@pytest.mark.parametrize("status", FAILURES)
def test_register(engines: Engines, status: LLMStatusCode) -> None:
    engine = engines.open(OWNER)
    held: list[Held] = []

    def register() -> None:
        held.append(engine.paged(memory=REGISTERED, tensors=3, model_id=0))

    def unregister() -> None:
        engine.manager.unregister_cache(held.pop().id)

    assert go_through(register, "register", status, undo=unregister) == 3


@pytest.mark.sanitize
@pytest.mark.parametrize("status", FAILURES)
def test_allocate(engines: Engines, status: LLMStatusCode) -> None:
    # The pool has room for one such cache, so that pages which a failure keeps are missed.
    engine = engines.open(OWNER, pool=1 << 20, page_shift=16)
    held: list[Held] = []

    def allocate() -> None:
        held.append(engine.contiguous(4, 64 << 10, [by_request(1)], tensors=4))

    def deallocate() -> None:
        engine.manager.deallocate_cache(held[-1].cache)
        engine.manager.remove_cache_key(by_request(1))
        held.clear()

    def works() -> None:
        allocate()
        deallocate()

    assert go_through(allocate, "commit", status, None, works, deallocate) == 4


@pytest.mark.sanitize
@pytest.mark.threads
@pytest.mark.parametrize("status", FAILURES)
@pytest.mark.parametrize("one_sided", [True, False], ids=["one-sided", "request"])
def test_link(engines: Engines, status: LLMStatusCode, one_sided: bool) -> None:
    two = Two.make(engines, one_sided=one_sided)

    def works() -> None:
        assert two.puller.datadist.links() == []
        eventually(lambda: two.owner.datadist.links() == [], "the owner has no link")
        assert two.link() == (0, [0])
        two.pulls()
        assert two.unlink() == (0, [0])

    failed = go_through(
        two.link, "endpoint,connect,accept,confirm", status, None, works, two.unlink
    )
    # Both ends describe themselves, the acceptor connects and the initiator, the acceptor confirms.
    assert failed == 5


@pytest.mark.sanitize
@pytest.mark.parametrize("status", FAILURES)
@pytest.mark.parametrize("one_sided", [True, False], ids=["one-sided", "request"])
def test_pull(engines: Engines, path, status: LLMStatusCode, one_sided: bool) -> None:
    two = Two.make(engines, path=path, one_sided=one_sided)
    assert two.link() == (0, [0])
    two.pulls()
    assert go_through(two.pull, "*", status, after_failure=two.pulls) == 1


@pytest.mark.sanitize
@pytest.mark.parametrize("status", FAILURES)
def test_push_of_several_layers(engines: Engines, path, status: LLMStatusCode) -> None:
    two = Two.make(engines, path=path)
    assert two.link() == (0, [0])
    two.pulls()
    before = two.source.now

    def push() -> None:
        two.puller.manager.push_blocks(blocks_of(), two.target.cache, [5], [5])

    done = []

    def earlier_layers_stay() -> None:
        layer = len(done)
        done.append(layer)
        # Two tensors a layer.
        written = slice(0, 2 * layer)
        assert np.array_equal(two.source.now[written, 5], two.target.now[written, 5])
        assert np.array_equal(two.source.now[2 * layer :, 5], before[2 * layer :, 5])

    assert go_through(push, "*", status, after_failure=earlier_layers_stay) == 2
    two.pulls()


@pytest.mark.sanitize
@pytest.mark.parametrize("status", FAILURES)
def test_copies(engines: Engines, status: LLMStatusCode) -> None:
    engine = engines.open(OWNER)
    paged, dst, src = engine.paged(), engine.contiguous(), engine.contiguous()
    host = engine.paged(placement=Placement.HOST, memory=REGISTERED)
    manager = engine.manager
    for operation in (
        lambda: manager.copy_blocks(paged.cache, {0: [1, 2]}),
        lambda: manager.copy_cache(dst.cache, src.cache),
        lambda: manager.swap_blocks(paged.cache, host.cache, {0: 1}),
    ):
        assert go_through(operation, "*", status) == 1
    assert np.array_equal(paged.now[:, 1], paged.first[:, 0])
    assert np.array_equal(dst.now[:, 0], src.first[:, 0])
    assert np.array_equal(host.now[:, 1], paged.first[:, 0])


@pytest.mark.sanitize
@pytest.mark.parametrize("status", FAILURES)
def test_unregister(engines: Engines, status: LLMStatusCode) -> None:
    engine = engines.open(OWNER)
    with nothing_more_is_held():
        for happened in each_failure("unregister", status):
            held = engine.paged(memory=REGISTERED, tensors=3, model_id=0)
            outcome = status_of(lambda held=held: engine.manager.unregister_cache(held.id))
            # Whatever the answer: the cache, its key and all its registrations are gone.
            assert outcome == (status if happened() else S.LLM_SUCCESS)
            engine.manager.unregister_cache(held.id)


@pytest.mark.sanitize
@pytest.mark.threads
@pytest.mark.parametrize("force", [False, True], ids=["unforced", "forced"])
def test_unlink_and_finalize(engines: Engines, force: bool) -> None:
    two = Two.make(engines)
    with nothing_more_is_held():
        for happened in each_failure("close", S.LLM_TIMEOUT):
            assert two.link() == (0, [0])
            two.pulls()
            outcome = status_of(lambda: two.unlink(force))
            if not happened():
                assert outcome == S.LLM_SUCCESS
            assert two.puller.datadist.links() == []
            eventually(
                lambda: all(link.state.name != "LIVE" for link in two.owner.datadist.links()),
                "the owner has no live link",
            )
            two.owner.datadist.unlink_clusters([cluster_of(two.puller)], 5000, True)
    assert two.link() == (0, [0])
    with faults.inject("close status=LLM_FAILED") as injection:
        two.puller.datadist.finalize()
        two.owner.datadist.finalize()
    assert injection.fired >= 1
