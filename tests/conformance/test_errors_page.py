# SPDX-License-Identifier: Apache-2.0
"""Each row of docs/errors.md, "Fault by fault": caused from outside, compared, recovered from."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any, Callable

import pytest

from llm_datadist import BlocksCacheKey, LLMStatusCode
from llm_datadist.testing import Peer, PeerCache, check, moved
from llm_datadist.testing.actor import ClusterAddress
from tests.conformance.paths import ON_ASCEND, helped_path
from tests.conformance.relay import Relay, relay
from tests.conformance.stage import OWNER, PULLER, SMALL, Stage, notices

PAGE = FilePath(__file__).resolve().parents[2] / "docs" / "errors.md"
if not PAGE.exists():
    pytest.skip("capability docs: a wheel has none", allow_module_level=True)
TIMEOUT_MS = 400
KEY = BlocksCacheKey(OWNER, 0)


def rows() -> list[tuple[str, str, str, str]]:
    """Fault, call, status and text of each row."""
    table = PAGE.read_text().partition("## Fault by fault")[2]
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in table.splitlines()
        if line.startswith("|")
    ]
    return [tuple(row[:4]) for row in cells[2:]]  # type: ignore[misc]


@dataclass
class Scene:
    """A puller that is linked to an owner through a relay."""

    stage: Stage
    owner: Peer
    puller: Peer
    source: PeerCache
    target: PeerCache
    relay: Relay

    @property
    def there(self) -> ClusterAddress:
        return ClusterAddress(OWNER, self.relay.address)

    def pull(self, key: BlocksCacheKey = KEY) -> tuple[LLMStatusCode, str]:
        error: Any = self.puller.start_call("pull", "mine", key, [1], [2]).exception()
        return error.status_code, str(error)

    def link(self) -> tuple[LLMStatusCode, str]:
        answer = self.puller.link_to(self.there)
        return answer.status, answer.details[0]

    def unlink(self, force: bool = False) -> tuple[LLMStatusCode, str]:
        answer = self.puller.unlink_from(self.there, force=force)
        return answer.status, answer.details[0]

    def links_again(self, force: bool) -> None:
        assert self.unlink(force)[0] == LLMStatusCode.LLM_SUCCESS
        assert self.link()[0] == LLMStatusCode.LLM_SUCCESS

    def links_to_the_successor(self) -> None:
        assert self.unlink(force=True)[0] == LLMStatusCode.LLM_SUCCESS
        successor = self.stage.engine(OWNER, helped_path())
        self.source = successor.register("kv", SMALL, 9, 0)
        assert self.puller.link_to(successor.cluster()).status == LLMStatusCode.LLM_SUCCESS

    def works(self) -> None:
        before = self.target.read()
        self.puller.pull("mine", KEY, [3], [4])
        check(self.target, moved(before, self.source.filled(), [3], [4]))

    def kill(self) -> None:
        self.owner.kill()
        notices(self.puller, OWNER)


@pytest.fixture
def scene(stage: Stage) -> Iterator[Scene]:
    path = helped_path()
    owner = stage.engine(OWNER, path)
    puller = stage.engine(PULLER, path, listen=None, sync_timeout_ms=TIMEOUT_MS)
    source, target = owner.register("kv", SMALL, 1, 0), puller.register("mine", SMALL, 2)
    with relay(owner.listen_address) as between:
        made = Scene(stage, owner, puller, source, target, between)
        assert made.link()[0] == LLMStatusCode.LLM_SUCCESS
        made.works()
        yield made


Told = tuple[LLMStatusCode, str]
FAULTS: dict[tuple[str, str], Callable[[Scene], Iterator[Told]]] = {}


def row(fault: str, call: str) -> Callable[..., Callable[[Scene], Iterator[Told]]]:
    def keep(cause: Callable[[Scene], Iterator[Told]]) -> Callable[[Scene], Iterator[Told]]:
        FAULTS[fault, call] = cause
        return cause

    return keep


# Each causes the fault, says what the call answered, and then recovers.


@row("the peer was killed", "pull")
def _killed(scene: Scene) -> Iterator[Told]:
    scene.kill()
    yield scene.pull()
    scene.links_to_the_successor()


@row("the peer called finalize", "pull")
def _finalized(scene: Scene) -> Iterator[Told]:
    scene.owner.finalize()
    notices(scene.puller, OWNER)
    yield scene.pull()
    scene.links_to_the_successor()


@row("the peer is stopped", "pull over TCP")
def _stopped(scene: Scene) -> Iterator[Told]:
    scene.owner.stop()
    yield scene.pull()
    scene.owner.go_on()


@row("the network was cut", "pull")
def _cut(scene: Scene) -> Iterator[Told]:
    scene.relay.cut()
    # A pull before that may still find its way, over a new stream.
    notices(scene.puller, OWNER)
    yield scene.pull()
    scene.links_again(force=True)


@row("the fault rule `read drop`", "pull")
def _dropped(scene: Scene) -> Iterator[Told]:
    if ON_ASCEND:
        pytest.skip("capability LLDD_CAN_INJECT_FAULTS: fault scripts are the mock's")
    with scene.puller.faults.inject("read drop times=1") as injection:
        yield scene.pull()
        assert injection.fired == 1
    scene.links_again(force=True)


@row("the peer unregistered the memory", "pull")
def _withdrawn(scene: Scene) -> Iterator[Told]:
    scene.owner.call("unregister", "kv")
    yield scene.pull()
    scene.source = scene.owner.register("kv again", SMALL, 5, 0)
    scene.links_again(force=False)


@row("the peer registered a cache after the first transfer", "pull")
def _registered_later(scene: Scene) -> Iterator[Told]:
    later = scene.owner.register("later", SMALL, 6, 1)
    key = BlocksCacheKey(OWNER, 1)
    yield scene.pull(key)
    scene.links_again(force=False)
    before = scene.target.read()
    scene.puller.pull("mine", key, [0], [0])
    check(scene.target, moved(before, later.filled(), [0], [0]))


@row("the peer was killed", "link_clusters")
def _linked_again(scene: Scene) -> Iterator[Told]:
    scene.kill()
    # A link by another address would not be one to the peer that is gone.
    successor = scene.stage.engine(OWNER, helped_path())
    answer = scene.puller.link_to(successor.cluster())
    yield answer.status, answer.details[0]
    successor.finalize()
    scene.links_to_the_successor()


@row("the peer was killed", "unlink_clusters")
def _unlinked(scene: Scene) -> Iterator[Told]:
    scene.kill()
    yield scene.unlink()
    scene.links_to_the_successor()


def test_every_row_is_caused() -> None:
    assert {row[:2] for row in rows()} == set(FAULTS)


@pytest.mark.parametrize("told", rows(), ids=lambda told: f"{told[0]}, {told[1]}")
def test_a_fault(scene: Scene, told: tuple[str, str, str, str]) -> None:
    fault, call, status, text = told
    causing = FAULTS[fault, call](scene)
    found, said = next(causing)
    assert found == LLMStatusCode[status], said
    assert text in said
    assert re.search(rf"cluster {OWNER}\b", said), f"{said!r} does not name the peer"
    assert next(causing, None) is None
    scene.works()
