# SPDX-License-Identifier: Apache-2.0
"""Failures that a connector has to survive, as a class of tests for yours.

    from llm_datadist.testing.connector_suite import Adapter, ConnectorSuite

    class MyAdapter(Adapter): ...                    # five methods

    class TestMyConnector(ConnectorSuite):
        def make_adapter(self):
            return MyAdapter()

Each case has the connector load blocks of a prompt, which is a real engine in a process of its own,
while something goes wrong. The connector must answer in time, must not say that blocks have arrived
which have not (every byte is looked at), must leave other blocks alone, and must recover when the
fault is over. The connector's engine is in the process of the test, on the mock runtime.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Callable, TypeVar

import pytest

from .connector_scene import VARIABLE, Adapter, Prompt, Remote, Scene, transports
from .faults import here
from .leaks import LeakCheck
from .pattern import Geometry
from .waiting import eventually
from .warm import WarmPeers

__all__ = ["Adapter", "ConnectorSuite", "Remote"]

SRC, DST = [3, 1], [0, 2]
OTHER_SRC, OTHER_DST = [5, 0, 2], [7, 4, 6]


# Times as many attempts.
_MORE = 5
Case = TypeVar("Case", bound=Callable[..., None])


def _hangs(case: Case) -> Case:
    """Mark a case that lasts until the connector's timeouts are over."""
    case.hangs = True  # type: ignore[attr-defined]
    return case


class ConnectorSuite:
    """Derive a class with a name that begins with Test, and write make_adapter().

    The attributes may be set: geometry of the caches, timeout_ms for a transfer and for a link,
    short_timeout_ms for them where something hangs until they are over, attempts until a connector
    has recovered, deadline_s of an answer, own_id as its cluster id, and transport: "mapped", "cma"
    or "tcp", on both sides; None: what the environment says.
    """

    geometry = Geometry(num_tensors=4, num_blocks=8, block_bytes=512)
    timeout_ms = 2000
    short_timeout_ms = 300
    attempts = 3
    deadline_s = 15.0
    own_id = 2
    transport: str | None = None

    def make_adapter(self) -> Adapter:
        """Return a new adapter, not yet open."""
        raise NotImplementedError(f"{type(self).__name__} needs make_adapter()")

    @pytest.fixture
    def scene(
        self,
        request: pytest.FixtureRequest,
        datadist_scope: str,
        monkeypatch: pytest.MonkeyPatch,
        _datadist_warm_peers: WarmPeers,
    ) -> Iterator[Scene]:
        """The connector, open, and what a case does with it."""
        leaks = LeakCheck()
        if self.transport is not None:
            monkeypatch.setenv(VARIABLE, transports(self.transport))
        hangs = getattr(request.function, "hangs", False)
        timeout_ms = self.short_timeout_ms if hangs else self.timeout_ms
        adapter = self.make_adapter()
        adapter.open(self.own_id, self.geometry, timeout_ms)
        scene = Scene(
            adapter,
            self.geometry,
            self.own_id,
            _datadist_warm_peers,
            self.transport,
            self.deadline_s,
            # A busy machine also exceeds a short timeout.
            _MORE * self.attempts if hangs else self.attempts,
        )
        yield scene
        here.clear()
        adapter.close()
        scene.end()
        leaks.finalize()

    # ---- nothing is wrong ----

    def test_blocks_arrive(self, scene: Scene) -> None:
        """Two loads, and the first one again."""
        prompt = scene.prompt()
        scene.succeeds(prompt, SRC, DST)
        scene.succeeds(prompt, OTHER_SRC, OTHER_DST)
        scene.succeeds(prompt, SRC, DST)

    def test_blocks_of_two_prompts_arrive(self, scene: Scene) -> None:
        """Each has its own bytes."""
        first, second = scene.prompt(1, cluster_id=1), scene.prompt(3, cluster_id=3)
        scene.succeeds(first, SRC, DST)
        scene.succeeds(second, OTHER_SRC, OTHER_DST)

    # ---- the handshake ----

    def test_handshake_breaks(self, scene: Scene) -> None:
        """The connection ends while the link is made."""
        prompt = scene.prompt()
        with here.inject("connect drop times=1"):
            scene.recovers(prompt, SRC, DST)

    def test_handshake_is_refused(self, scene: Scene) -> None:
        """The prompt has no room for the link, once."""
        prompt = scene.prompt()
        with prompt.peer.faults.inject("accept status=LLM_LINK_BUSY times=1"):
            scene.recovers(prompt, SRC, DST)

    @_hangs
    def test_handshake_hangs(self, scene: Scene) -> None:
        """Making the link takes for ever, and then works."""
        prompt = scene.prompt()
        with here.inject("connect delay=60s"):
            scene.fails(prompt, SRC, DST)
        scene.recovers(prompt, SRC, DST)

    def test_nobody_listens(self, scene: Scene) -> None:
        """The address of the metadata is one that nobody has; then a prompt comes up there."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = probe.getsockname()
        prompt = scene.prompt()
        there = Remote(prompt.remote.cluster_id, address, 0, self.geometry)
        scene.fails(Prompt(prompt.peer, there, prompt.cache), SRC, DST)
        scene.recovers(prompt, SRC, DST)

    # ---- the link ----

    def test_link_is_lost_before_a_load(self, scene: Scene) -> None:
        """The prompt drops its end and says nothing."""
        prompt = scene.prompt()
        scene.succeeds(prompt, SRC, DST)
        prompt.peer.unlink_from(scene.own_address(), force=True)
        scene.recovers(prompt, OTHER_SRC, OTHER_DST)

    def test_link_is_lost_within_a_load(self, scene: Scene) -> None:
        """The connection ends while blocks are moved."""
        prompt = scene.prompt()
        with here.inject("read drop times=1"):
            scene.recovers(prompt, SRC, DST)

    def test_prompt_dies_after_a_load(self, scene: Scene) -> None:
        """What has arrived stays; what has not cannot arrive any more."""
        prompt = scene.prompt()
        scene.succeeds(prompt, SRC, DST)
        prompt.peer.kill()
        scene.fails(prompt, OTHER_SRC, OTHER_DST)

    # ---- transfers ----

    def test_link_is_busy_once(self, scene: Scene) -> None:
        """A status that goes away."""
        prompt = scene.prompt()
        with here.inject("read status=LLM_LINK_BUSY times=1"):
            scene.recovers(prompt, SRC, DST)

    def test_transfers_fail_for_long(self, scene: Scene) -> None:
        """A status that stays for some time."""
        prompt = scene.prompt()
        with here.inject("read status=LLM_SUSPECT_REMOTE_ERROR"):
            scene.fails(prompt, SRC, DST)
        scene.recovers(prompt, SRC, DST)

    def test_status_without_a_name(self, scene: Scene) -> None:
        """A number of the device that no table has."""
        prompt = scene.prompt()
        with here.inject("read status=507053 times=1"):
            scene.recovers(prompt, SRC, DST)

    def test_prompt_is_slow(self, scene: Scene) -> None:
        """Within the time that a transfer may take."""
        prompt = scene.prompt()
        with here.inject("read delay=30ms"):
            scene.recovers(prompt, SRC, DST)

    @_hangs
    def test_prompt_is_too_slow(self, scene: Scene) -> None:
        """Beyond it."""
        prompt = scene.prompt()
        with here.inject("read delay=60s"):
            scene.fails(prompt, SRC, DST)
        scene.recovers(prompt, SRC, DST)

    # ---- the prompt ----

    @_hangs
    def test_prompt_is_silent_before_the_handshake(self, scene: Scene) -> None:
        """Its process is stopped."""
        prompt = scene.prompt()
        prompt.peer.stop()
        scene.fails(prompt, SRC, DST)
        prompt.peer.go_on()
        scene.recovers(prompt, SRC, DST)

    @_hangs
    def test_prompt_falls_silent(self, scene: Scene) -> None:
        """Its process is stopped behind a link: one-sided reads may go on, over TCP they cannot."""
        prompt = scene.prompt()
        scene.succeeds(prompt, SRC, DST)
        prompt.peer.stop()
        scene.attempt(prompt, OTHER_SRC, OTHER_DST)
        prompt.peer.go_on()
        scene.recovers(prompt, OTHER_SRC, OTHER_DST)

    def test_prompt_is_restarted_elsewhere(self, scene: Scene) -> None:
        """Under the same id, at another address, which its new metadata says."""
        old = scene.prompt(stamp=1)
        scene.succeeds(old, SRC, DST)
        old.peer.kill()
        scene.recovers(scene.prompt(stamp=5), SRC, DST)

    def test_prompt_is_restarted_where_it_was(self, scene: Scene) -> None:
        """Under the same id, at the same address: nothing tells the connector."""
        old = scene.prompt(stamp=1)
        scene.succeeds(old, SRC, DST)
        old.peer.kill()
        new = scene.prompt(stamp=5, listen="{}:{}".format(*old.remote.address))
        scene.recovers(Prompt(new.peer, old.remote, new.cache), SRC, DST)

    def test_memory_is_registered_anew(self, scene: Scene) -> None:
        """Under the same key: the bytes are those of the new memory."""
        prompt = scene.prompt(stamp=1)
        scene.succeeds(prompt, SRC, DST)
        scene.take_cache(prompt.peer)
        cache = scene.give_cache(prompt.peer, stamp=5)
        scene.recovers(Prompt(prompt.peer, prompt.remote, cache), SRC, DST)

    def test_cache_is_gone_for_some_time(self, scene: Scene) -> None:
        """The prompt has no such cache; then it has."""
        prompt = scene.prompt(stamp=1)
        scene.take_cache(prompt.peer)
        scene.fails(prompt, SRC, DST)
        cache = scene.give_cache(prompt.peer, stamp=5)
        scene.recovers(Prompt(prompt.peer, prompt.remote, cache), SRC, DST)

    @pytest.mark.filterwarnings("ignore:.*is replaced by one from:llm_datadist.LLMDataDistWarning")
    def test_two_clients_of_one_id(self, scene: Scene) -> None:
        """Another process links to the prompt under the id of the connector."""
        prompt = scene.prompt()
        scene.succeeds(prompt, SRC, DST)
        twin = scene.idle_peer()
        twin.init(scene.own_id, environment=scene.environment())
        twin.link(prompt.peer)
        scene.recovers(prompt, OTHER_SRC, OTHER_DST)

    def test_half_a_push(self, scene: Scene) -> None:
        """A prompt pushes into the connector's cache and stops half way; the load that follows has
        all bytes.
        """
        if scene.adapter.key is None:
            pytest.skip("capability push: Adapter.key is None")
        prompt = scene.prompt()
        scene.succeeds(prompt, SRC, DST)
        rule = "write status=LLM_SUSPECT_REMOTE_ERROR after=1"
        with prompt.peer.faults.inject(rule) as injection:
            call = prompt.peer.tell("push", "kv", scene.adapter.key, SRC, OTHER_DST[:2])
            assert call.exception() is not None
            assert injection.fired == 1
        scene.recovers(prompt, SRC, OTHER_DST[:2])

    # ---- what is asked for ----

    @pytest.mark.parametrize(
        ("src", "dst"),
        [([99, 1], DST), (SRC, [0, 99]), ([3], DST)],
        ids=["no such block there", "no such block here", "one block for two"],
    )
    def test_wrong_blocks(self, scene: Scene, src: list[int], dst: list[int]) -> None:
        """Nothing is written outside the blocks that were asked for, and the next load works."""
        prompt = scene.prompt()
        scene.fails(prompt, src, dst)
        scene.recovers(prompt, SRC, DST)

    def test_cache_of_another_shape(self, scene: Scene) -> None:
        """The prompt's blocks have twice as many bytes."""
        shape = Geometry(
            self.geometry.num_tensors, self.geometry.num_blocks, 2 * self.geometry.block_bytes
        )
        scene.fails(scene.prompt(geometry=shape), SRC, DST)

    # ---- the end ----

    def test_close_during_a_load(self, scene: Scene) -> None:
        """Both return, and the load says that it failed."""
        prompt = scene.prompt()
        scene.succeeds(prompt, SRC, DST)
        answers: list[bool] = []
        calls = here.counters()["read"].fired
        with here.inject("read delay=60s"):
            loading = threading.Thread(
                target=lambda: answers.append(scene.attempt(prompt, OTHER_SRC, OTHER_DST))
            )
            loading.start()
            eventually(lambda: here.counters()["read"].fired > calls, "the load has begun")
            scene.adapter.close()
            loading.join(self.deadline_s)
        assert answers == [False], "the load has said that it failed, in time"

    def test_close_leaves_nothing(self, scene: Scene) -> None:
        """Neither engines, nor descriptors, nor threads: opened, used and closed a second time."""
        prompt = scene.prompt()
        scene.succeeds(prompt, SRC, DST)
        scene.adapter.close()
        leaks = LeakCheck()
        adapter = self.make_adapter()
        adapter.open(self.own_id, self.geometry, self.timeout_ms)
        adapter.connect(prompt.remote)
        assert adapter.load(prompt.remote, SRC, DST)
        adapter.close()
        assert leaks.finish() == []
