# SPDX-License-Identifier: Apache-2.0
"""A peer that falls silent without closing anything: the fault `link mute`."""

from __future__ import annotations

from llm_datadist import BlocksCacheKey, LLMStatusCode
from llm_datadist.introspection import LinkState
from llm_datadist.testing import check, eventually, moved
from tests.conformance.paths import Path, helped_path
from tests.conformance.refusals import check_refusal
from tests.conformance.stage import OWNER, PULLER, SMALL, Stage, linked, links_of

S = LLMStatusCode
KEY = BlocksCacheKey(OWNER, 0)
# The shortest at which a busy machine is not taken for a silent one.
SPEC = {"sync_timeout_ms": 300, "options": {"lldd.PeerTimeout": "1000"}}


def test_a_mute_peer_is_silent_and_its_link_stays(stage: Stage) -> None:
    pair = stage.pair(helped_path(), **SPEC)
    other = stage.engine(OWNER + 1, listen=None, **SPEC)
    linked(other, pair.owner)
    owner, puller = pair.owner, pair.puller
    puller.pull("kv", KEY, [0], [0])
    with owner.faults.inject(f"link mute peer={PULLER}") as injection:
        assert injection.fired == 1
        error = puller.start_call("pull", "kv", KEY, [1], [1]).exception()
        check_refusal(error, S.LLM_TIMEOUT, OWNER)
        # Neither end hears anything; the link to another peer is as it was.
        eventually(lambda: links_of(puller)[OWNER] is LinkState.SILENT, "the puller says so", 5)
        eventually(lambda: links_of(owner)[PULLER] is LinkState.SILENT, "the owner says so", 5)
        assert links_of(other)[OWNER] is LinkState.LIVE
        assert links_of(owner)[OWNER + 1] is LinkState.LIVE
    eventually(lambda: links_of(puller)[OWNER] is LinkState.LIVE, "it answers again", 5)
    eventually(lambda: links_of(owner)[PULLER] is LinkState.LIVE, "it hears again", 5)
    puller.pull("kv", KEY, [2], [2])
    check(pair.target, moved(pair.target.filled(), pair.source.filled(), [0, 2], [0, 2]))
    counters = puller.call("counters")
    assert (counters.links_silent, counters.links_lost) == (1, 0)


def test_what_the_mute_end_calls_waits_for_the_end_of_the_rule(stage: Stage, path: Path) -> None:
    pair = stage.pair(path, sync_timeout_ms=200)
    puller = pair.puller
    puller.pull("kv", KEY, [0], [0])
    with puller.faults.inject("link mute"):
        error = puller.start_call("pull", "kv", KEY, [1], [1]).exception()
        check_refusal(error, S.LLM_TIMEOUT, OWNER)
        assert 'the link is mute by the fault rule "link mute"' in str(error)
    puller.pull("kv", KEY, [3], [3])
    check(pair.target, moved(pair.target.filled(), pair.source.filled(), [0, 3], [0, 3]))


def test_a_link_that_is_made_while_the_rule_is_there(stage: Stage) -> None:
    owner = stage.engine(OWNER)
    puller = stage.engine(PULLER, listen=None)
    puller.register("kv", SMALL, 1)
    with owner.faults.inject("link mute times=1"):
        assert puller.link_to(owner.cluster(), timeout_ms=300).status == S.LLM_TIMEOUT
        # The rule has made its one link mute.
        linked(puller, owner)
    assert links_of(puller) == {OWNER: LinkState.LIVE}
