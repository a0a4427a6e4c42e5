# SPDX-License-Identifier: Apache-2.0
"""Peers that die, close or stop during transfers: contract 7.6 and 7.7, decisions 24, 42 and 47."""

from __future__ import annotations

import pytest

from llm_datadist import BlocksCacheKey, LLMStatusCode
from llm_datadist.testing import Geometry, check, eventually, moved
from llm_datadist.testing.actor import ClusterAddress
from tests.conformance.paths import ON_ASCEND, Path, helped_path
from tests.conformance.refusals import GONE, check_refusal, refused
from tests.conformance.relay import relay
from tests.conformance.stage import OWNER, PULLER, SMALL, Pair, Stage, linked, notices
from tests.conformance.work import repeat, seconds_of

S = LLMStatusCode
KEY = BlocksCacheKey(OWNER, 0)
# Large enough that a pull is under way at almost any time while it is repeated.
LARGE = Geometry(num_tensors=2, num_blocks=64, block_bytes=128 << 10)
LONG_MS = 20000
# How late a deadline may be on a loaded machine.
MARGIN_S = 1.5


@pytest.mark.rule("C7.6-2", "C7.6-6", "C7.6-7", "C10-42")
@pytest.mark.parametrize("operation", ["pull", "push"])
@pytest.mark.parametrize("attempt", range(3))
def test_killed_in_the_middle(stage: Stage, path: Path, operation: str, attempt: int) -> None:
    pair = stage.pair(path, LARGE, sync_timeout_ms=LONG_MS)
    everything = list(range(LARGE.num_blocks))
    call = pair.puller.start_call(repeat, operation, "kv", KEY, everything, "repeat")
    pair.puller.wait_for("repeat", times=3 + attempt)
    pair.owner.kill()
    done, error = call.result(LONG_MS / 1000 / 2)
    assert done >= 3
    check_refusal(error, S.LLM_TIMEOUT, OWNER)
    assert GONE in str(error)
    if operation == "pull":
        check(
            pair.target, moved(pair.target.filled(), pair.source.filled(), everything, everything)
        )
    # The next call fails at once, too.
    taken, error = pair.puller.call(seconds_of, operation, "kv", KEY, [0], [0])
    check_refusal(error, S.LLM_TIMEOUT, OWNER)
    assert taken < 1
    # The link still counts, until it is unlinked; then everything works with a new peer.
    notices(pair.puller, OWNER)
    assert pair.puller.unlink(pair.owner, force=True) == S.LLM_SUCCESS
    with refused(S.LLM_NOT_YET_LINK, OWNER):
        pair.puller.pull("kv", KEY, [0], [0])
    again = stage.engine(OWNER, path)
    source = path.cache(again, "kv", LARGE, 9, 0)
    linked(pair.puller, again)
    before = pair.target.read()
    pair.puller.pull("kv", KEY, [3], [4])
    check(pair.target, moved(before, source.filled(), [3], [4]))


@pytest.mark.rule("C7.6-2", "C10-24")
@pytest.mark.sanitize
def test_a_killed_peer_is_noticed_without_waiting_out_the_deadline(pair: Pair) -> None:
    pair.puller.pull("kv", KEY, [0], [0])
    pair.owner.kill()
    notices(pair.puller, OWNER)
    for operation in ("pull", "push"):
        taken, error = pair.puller.call(seconds_of, operation, "kv", KEY, [0], [0])
        check_refusal(error, S.LLM_TIMEOUT, OWNER)
        assert GONE in str(error)
        assert taken < 0.9
    check(pair.target, moved(pair.target.filled(), pair.source.filled(), [0], [0]))


@pytest.mark.rule("C7.6-2", "C7.6-6")
@pytest.mark.sanitize
def test_a_connection_that_breaks_between_two_that_live(
    stage: Stage, registered_path: Path
) -> None:
    owner = stage.engine(OWNER, registered_path)
    puller = stage.engine(PULLER, registered_path, listen=None)
    pulls = [(puller, OWNER, KEY), (owner, PULLER, BlocksCacheKey(PULLER, 0))]
    at_rest = [peer.resources().descriptors for peer, _, _ in pulls]
    with relay(owner.listen_address) as between:
        there = ClusterAddress(OWNER, between.address)
        # Twice: what is left of the first link is not in the way of the second.
        for name in ("first", "second"):
            caches = [peer.register(name, SMALL, i, 0) for i, (peer, _, _) in enumerate(pulls)]
            assert puller.link_to(there).status == S.LLM_SUCCESS
            for peer, _, key in pulls:
                peer.pull(name, key, [0], [1])
            between.cut()
            held = [cache.read() for cache in caches]
            for (peer, other, key), cache, before in zip(pulls, caches, held):
                notices(peer, other)
                _, error = peer.call(seconds_of, "pull", name, key, [2], [2])
                check_refusal(error, S.LLM_TIMEOUT, other)
                assert GONE in str(error)
                check(cache, before)
            for (peer, other, _), before in zip(pulls, at_rest):
                if ON_ASCEND:
                    # HIXL keeps its connection, and the memory, of a process that lives: see
                    # docs/ascend.md.
                    error = peer.start_call("unregister", name).exception()
                    check_refusal(error, S.LLM_TIMEOUT, other)
                    assert "its connection broke" in str(error)
                    continue
                eventually(
                    lambda peer=peer, before=before: not peer.resources().descriptors - before,
                    "a dead link keeps no connection",
                )
                # Nor does it hold memory back.
                peer.call("unregister", name)
            assert puller.unlink_from(there, force=True).status == S.LLM_SUCCESS


@pytest.mark.rule("C7.7-1", "C10-42")
@pytest.mark.sanitize
@pytest.mark.threads
@pytest.mark.parametrize("ending", ["finalize", "unlink"])
def test_a_peer_that_closes_during_transfers(stage: Stage, path: Path, ending: str) -> None:
    pair = stage.pair(path, Geometry(2, 64, 16 << 10), sync_timeout_ms=LONG_MS)
    everything = list(range(64))
    call = pair.puller.start_call(repeat, "pull", "kv", KEY, everything, "repeat")
    pair.puller.wait_for("repeat", times=3)
    if ending == "finalize":
        pair.owner.finalize()
    else:
        assert pair.owner.unlink(pair.puller, force=True) == S.LLM_SUCCESS
    # The owner said that it ends: what it puts into its memory now must not arrive anywhere.
    if not path.of_pools:
        pair.owner.call("fill", "kv", 77)
    done, error = call.result(LONG_MS / 1000 / 2)
    assert done >= 3
    check_refusal(error, S.LLM_TIMEOUT, OWNER)
    assert GONE in str(error)
    check(pair.target, moved(pair.target.filled(), pair.source.filled(), everything, everything))


@pytest.mark.rule("C7.2-3", "C7.8-8")
@pytest.mark.sanitize
@pytest.mark.threads
def test_a_peer_that_unlinks_both_ends_during_transfers(pair: Pair) -> None:
    call = pair.puller.start_call(repeat, "pull", "kv", KEY, [0, 1, 2], "repeat")
    pair.puller.wait_for("repeat", times=3)
    # The client does not listen, and the request travels over the link's own connection.
    client = ClusterAddress(PULLER, ("127.0.0.1", 1))
    assert pair.owner.unlink_from(client).status == S.LLM_SUCCESS
    done, error = call.result()
    assert done >= 3
    # Contract 7.8: a pull that races with an unlink is a success, or not linked.
    check_refusal(error, S.LLM_NOT_YET_LINK, OWNER)


@pytest.mark.rule("C10-47")
def test_a_stopped_peer_is_a_timeout_and_the_link_works_when_it_goes_on(
    stage: Stage, path: Path
) -> None:
    pair = stage.pair(path, sync_timeout_ms=400)
    owner, puller = pair.owner, pair.puller
    owner.stop()
    # The first transfer has to read the table.
    taken, error = puller.call(seconds_of, "pull", "kv", KEY, [0], [0])
    check_refusal(error, S.LLM_TIMEOUT, OWNER)
    assert GONE not in str(error)
    assert 0.4 <= taken < 2
    owner.go_on()
    eventually(
        lambda: puller.start_call("pull", "kv", KEY, [1], [1]).exception() is None, "it goes on"
    )
    check(pair.target, moved(pair.target.filled(), pair.source.filled(), [1], [1]))


@pytest.mark.rule("C3.2-7", "C6.1-32")
@pytest.mark.parametrize("operation", ["pull", "push"])
def test_nothing_arrives_after_a_timeout_was_reported(stage: Stage, operation: str) -> None:
    pair = stage.pair(helped_path(), LARGE, sync_timeout_ms=400)
    owner, puller = pair.owner, pair.puller
    everything = list(range(LARGE.num_blocks))
    getattr(puller, operation)("kv", KEY, [0], [0])
    owner.stop()
    taken, error = puller.call(seconds_of, operation, "kv", KEY, everything, everything)
    check_refusal(error, S.LLM_TIMEOUT, OWNER)
    assert 0.4 <= taken < 2
    # Late bytes of the pull would fall into this.
    puller.call("fill", "kv", 30)
    owner.go_on()
    eventually(
        lambda: puller.start_call("pull", "kv", KEY, [5], [6]).exception() is None, "it goes on"
    )
    source = owner.call("read", "kv")
    if operation == "pull":
        check(pair.target, moved(LARGE.filled(30), pair.source.filled(), [5], [6]))
        check(pair.source, pair.source.filled())
    else:
        check(pair.target, moved(LARGE.filled(30), source, [5], [6]))
    puller.push("kv", KEY, everything, everything)
    check(pair.source, pair.target.read())


@pytest.mark.rule("C6.1-31")
def test_a_stopped_peers_memory_is_read_without_it(stage: Stage, path: Path) -> None:
    if path.needs_the_peer:
        pytest.skip("capability one-sided reads: this path needs the peer's help")
    pair = stage.pair(path)
    pair.puller.pull("kv", KEY, [0], [0])
    pair.owner.stop()
    pair.puller.pull("kv", KEY, [1], [1])
    pair.puller.push("kv", KEY, [9], [2])
    pair.owner.go_on()
    check(pair.target, moved(pair.target.filled(), pair.source.filled(), [0, 1], [0, 1]))
    check(pair.source, moved(pair.source.filled(), pair.target.filled(), [9], [2]))


@pytest.mark.rule("C6.1-32", "C7.8-4", "C10-82")
@pytest.mark.parametrize("operation", ["pull", "push"])
def test_waiting_for_other_transfers_of_the_link_counts(stage: Stage, operation: str) -> None:
    # Sixteen calls over one stopped link queue; none waits longer than if it were alone.
    pair = stage.pair(helped_path(), sync_timeout_ms=1000)
    pair.puller.pull("kv", KEY, [0], [0])
    pair.owner.stop()
    calls = [pair.puller.start_call(seconds_of, operation, "kv", KEY, [0], [0]) for _ in range(16)]
    times = []
    for call in calls:
        taken, error = call.result()
        check_refusal(error, S.LLM_TIMEOUT, OWNER)
        times.append(taken)
    pair.owner.go_on()
    assert min(times) > 0.9
    assert max(times) < 1 + MARGIN_S


@pytest.mark.rule("C7.6-4")
def test_killed_while_linking(stage: Stage) -> None:
    owner = stage.engine(OWNER)
    puller = stage.engine(PULLER, listen=None)
    owner.stop()
    call = puller.start_call("link", [owner.cluster()], LONG_MS)
    # The kernel completes the connection for the stopped process; it says nothing, and dies.
    owner.kill()
    assert call.result(5).status in (S.LLM_LINK_FAILED, S.LLM_TIMEOUT)
    assert puller.call("links") == []


@pytest.mark.threads
def test_many_pullers_of_one_killed_owner(stage: Stage, path: Path) -> None:
    pair = stage.pair(path, sync_timeout_ms=LONG_MS)
    other = stage.engine(21, path)
    path.cache(other, "kv", SMALL, 8, 0)
    linked(pair.puller, other)
    calls = [
        pair.puller.start_call(repeat, "pull", "kv", KEY, [i], f"repeat {i}") for i in range(4)
    ]
    for i in range(4):
        pair.puller.wait_for(f"repeat {i}", times=2)
    pair.owner.kill()
    for call in calls:
        check_refusal(call.result()[1], S.LLM_TIMEOUT, OWNER)
    # Other links do not suffer.
    pair.puller.pull("kv", BlocksCacheKey(21, 0), [7], [7])
