# SPDX-License-Identifier: Apache-2.0
"""The language of fault scripts, where scripts come from, and what is counted."""

from __future__ import annotations

from pathlib import Path

import pytest

import llm_datadist
from llm_datadist import LLMException, LLMStatusCode
from llm_datadist.testing import Geometry, Peer, faults
from tests.conformance.engines import Engines, blocks_of
from tests.conformance.refusals import refused
from tests.conformance.stage import OWNER, Stage

S = LLMStatusCode
FAULTS = "LLM_DATADIST_MOCK_FAULTS"
POINTS = (
    "open_device, pool, commit, register, unregister, copy, endpoint, connect, accept, confirm, "
    "read, write, close, link"
)
WORDS = (
    "status, drop, delay, jitter, bandwidth, nic, mute, corrupt, peer, after, every, times, "
    "probability, seed"
)


@pytest.fixture
def copy(engines: Engines):
    """Copies a block, which passes one fault point; tells whether it went well."""
    engine = engines.open(OWNER)
    held = engine.paged()

    def copy() -> bool:
        try:
            engine.manager.copy_blocks(held.cache, {0: [1]})
        except LLMException as error:
            if error.status_code != S.LLM_LINK_BUSY:
                raise
            return False
        return True

    return copy


def outcomes(copy, rule: str, calls: int) -> str:
    """A letter for each call: . for success, F for the fault."""
    with faults.inject(f"copy status=LLM_LINK_BUSY {rule}", must_fire=False) as injection:
        seen = "".join(".F"[not copy()] for _ in range(calls))
        assert (injection.rules[0].calls, injection.fired) == (calls, seen.count("F"))
    assert injection.fired == seen.count("F")
    return seen


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("", "FFFFFFFF"),
        ("times=2", "FF......"),
        ("after=3", "...FFFFF"),
        ("after=3 times=1", "...F...."),
        ("every=3", "..F..F.."),
        ("every=1", "FFFFFFFF"),
        ("after=2 every=1 times=1", "..F....."),
        ("after=0 times=8", "FFFFFFFF"),
        ("after=1 every=2 times=2", "..F.F..."),
        ("probability=0", "........"),
        ("probability=1 seed=9", "FFFFFFFF"),
    ],
)
def test_when_a_rule_fires(copy, rule: str, expected: str) -> None:
    assert outcomes(copy, rule, 8) == expected


def test_chance_is_the_same_each_time_and_another_with_another_seed(copy) -> None:
    first, again, other = (
        outcomes(copy, f"probability=0.25 seed={seed}", 200) for seed in (7, 7, 8)
    )
    assert first == again != other
    assert 25 <= first.count("F") <= 75


def test_the_first_rule_that_ends_the_call_counts(copy) -> None:
    script = """
        # Comments and empty lines; blanks do not count.
        copy delay=1us;;   copy   status=LLDD_LINK_BUSY   after=1   # the second call

        copy status=LLM_LINK_BUSY
    """
    with faults.inject(script) as injection:
        assert [copy(), copy()] == [False, False]
        assert [(rule.calls, rule.fired) for rule in injection.rules] == [(2, 2), (2, 1), (1, 1)]
        assert injection.rules[1].text == "copy status=LLDD_LINK_BUSY after=1"
        assert [rule.text for rule in faults.rules()] == [rule.text for rule in injection.rules]
    assert faults.rules() == []
    assert copy()


def test_a_star_means_the_points_where_something_can_happen(engines: Engines) -> None:
    def fired() -> dict[str, int]:
        return {name: counts.fired for name, counts in faults.counters().items()}

    before = fired()
    with faults.inject("* delay=1us"):
        owner, puller = engines.two()
        owner.paged(model_id=0)
        target = puller.paged()
        engines.link(puller, owner)
        puller.manager.pull_blocks(blocks_of(), target.cache, [0], [1])
    passed = {name for name, times in fired().items() if times > before[name]}
    # Not endpoint, accept and confirm: the I/O thread must not wait.
    assert passed == {"open_device", "pool", "commit", "connect", "read"}


def test_points_count_calls_only_while_there_is_a_rule(copy) -> None:
    def counts() -> tuple[int, int]:
        now = faults.counters()["copy"]
        return now.calls, now.fired

    start = counts()
    assert copy()
    assert counts() == start
    with faults.inject("read drop", must_fire=False):
        assert copy()
        assert counts() == (start[0] + 1, start[1])
    with faults.inject("copy status=LLM_LINK_BUSY times=1"):
        assert [copy(), copy()] == [False, True]
    assert counts() == (start[0] + 3, start[1] + 1)
    assert ", ".join(faults.counters()) == POINTS


def test_injections_nest_and_replace_and_clear_take_everything_away(copy) -> None:
    with faults.inject("copy status=LLM_LINK_BUSY after=1") as outer:
        with faults.inject("copy status=LLM_LINK_BUSY times=1") as inner:
            assert [copy(), copy()] == [False, False]
        assert (inner.fired, outer.fired) == (1, 1)
        faults.replace("copy delay=1us")
        assert [rule.text for rule in faults.rules()] == ["copy delay=1us"]
        assert copy()
        faults.clear()
        assert faults.rules() == []


@pytest.mark.parametrize(
    ("rule", "word", "why"),
    [
        ("reed drop", "reed", f"is no fault point; allowed are *, {POINTS}"),
        ("read,wrote drop", "wrote", "is no fault point"),
        ("read", "read", "has nothing that happens there; add one of status, drop, delay"),
        ("read times=1", "read", "has nothing that happens there"),
        ("* peer=3", "*", "has nothing that happens there"),
        ("read dealy=3ms", "dealy=3ms", f"is unknown; allowed are {WORDS}"),
        ("read status=LLM_NONSENSE", "status=LLM_NONSENSE", "needs a name such as LLM_TIMEOUT"),
        ("read status=LLM_SUCCESS", "status=LLM_SUCCESS", "or a number from 1 to 0xFFFFFFFF"),
        ("read status=0", "status=0", "needs a name"),
        ("read status=0x100000000", "status=0x100000000", "needs a name"),
        ("read status", "status", "needs a name"),
        ("read status=-1", "status=-1", "needs a name"),
        ("read drop=1", "drop=1", "takes no value"),
        ("read drop status=5", "drop", "allowed is one of the two"),
        ("read drop drop", "drop", "comes a second time"),
        ("read delay=20", "delay=20", "needs a whole number with us, ms or s, at most 60s"),
        ("read delay=61s", "delay=61s", "at most 60s"),
        ("read delay=60001ms", "delay=60001ms", "at most 60s"),
        ("read delay=60000001us", "delay=60000001us", "at most 60s"),
        ("read delay=1.5s", "delay=1.5s", "needs a whole number"),
        ("read delay=99999999999999999999s", "delay=99999999999999999999s", "at most 60s"),
        ("read bandwidth=0GB/s", "bandwidth=0GB/s", "needs a whole number from 1 with B/s"),
        ("read bandwidth=10Gbit", "bandwidth=10Gbit", "needs a whole number"),
        ("register bandwidth=1GB/s", "bandwidth=1GB/s", "at register: it moves no bytes"),
        ("copy corrupt=1", "corrupt=1", "at copy: it moves no bytes over a link"),
        ("read corrupt=0", "corrupt=0", "needs a whole number from 1"),
        ("read drop corrupt=1", "corrupt", "with which no bytes are moved"),
        ("read bandwidth=1MB/s nic=a/b", "nic=a/b", "needs the name of a port: letters"),
        ("pool bandwidth=1MB/s nic=a", "bandwidth=1MB/s", "at pool: it moves no bytes"),
        ("read delay=1ms nic=a", "nic", "stands without the bandwidth= of the port"),
        ("read mute", "mute", "is possible at link alone"),
        ("link mute=1", "mute=1", "takes no value"),
        ("link status=5", "status=5", "at link: it is no call"),
        ("link", "link", "or mute for link"),
        ("copy,pool drop", "drop", "at pool: it has no link that could be broken off"),
        ("endpoint delay=1ms", "delay=1ms", "at endpoint: the I/O thread, which must not wait"),
        ("register drop peer=1", "drop", "at register: it has no link"),
        ("register status=5 peer=1", "peer=1", "at register: it belongs to no link"),
        ("read drop every=0", "every=0", "needs a whole number from 1"),
        ("read drop times=0", "times=0", "needs a whole number from 1"),
        ("read drop after=18446744073709551616", "after=18446744073709551616", "from 0"),
        ("read drop after=-1", "after=-1", "needs a whole number from 0"),
        ("read drop probability=1.01", "probability=1.01", "needs a number from 0 to 1"),
        ("read drop probability=nan", "probability=nan", "needs a number from 0 to 1"),
        ("read drop seed=x", "seed=x", "needs a whole number from 0"),
        ("read drop peer=me", "peer=me", "needs the cluster id of a peer"),
    ],
)
def test_a_bad_rule_is_named_with_the_word_and_what_is_allowed(
    rule: str, word: str, why: str
) -> None:
    with (
        pytest.raises(LLMException, match="fault rule 2") as caught,
        faults.inject(f"write drop; {rule}"),
    ):
        pass
    assert caught.value.status_code == S.LLM_PARAM_INVALID
    assert f'fault rule 2 "{rule}": "{word}" ' in str(caught.value)
    assert why in str(caught.value)
    # Nothing of a bad script is used.
    assert faults.rules() == []


@pytest.mark.parametrize(
    "rule",
    [
        "read status=1",
        "read status=0xFFFFFFFF",
        "read delay=60s",
        "read delay=60000ms",
        "read delay=60000000us",
        "read bandwidth=1B/s",
        "read drop after=18446744073709551615",
        "read drop peer=18446744073709551615",
        "read drop probability=1.0",
    ],
)
def test_a_rule_at_a_limit(rule: str) -> None:
    with faults.inject(rule, must_fire=False):
        assert [each.text for each in faults.rules()] == [rule]


def test_ids_that_are_no_ids() -> None:
    from llm_datadist._native.control import runtime_control

    with pytest.raises(LLMException, match="seven"):
        runtime_control("faults.remove", "1 seven")
    runtime_control("faults.remove", "123456789")


def load(peer: Peer, cluster_id: int = OWNER) -> None:
    peer.init(cluster_id, device_pool=1 << 20)
    peer.allocate("kv", Geometry(2, 2, 64), 1)


def test_a_script_of_the_environment(stage: Stage, tmp_path: Path) -> None:
    peer = stage.process_of_its_own(**{FAULTS: "commit status=LLM_LINK_BUSY times=1"})
    with refused(S.LLM_LINK_BUSY, "commit status=LLM_LINK_BUSY times=1"):
        load(peer)
    peer.allocate("kv", Geometry(2, 2, 64), 1)
    assert peer.faults.rules()[0].fired == 1
    # The same value is not read again: the rule's one time is over.
    peer.finalize()
    load(peer, OWNER + 1)


def test_a_script_in_a_file(stage: Stage, tmp_path: Path) -> None:
    script = tmp_path / "faults.txt"
    script.write_text("# Slow memory.\ncommit delay=1us\n\npool status=4711 after=1\n")
    peer = stage.process_of_its_own(**{FAULTS: f"@{script}"})
    load(peer)
    assert [rule.fired for rule in peer.faults.rules()] == [2, 0]
    peer.finalize()
    with refused(S.LLM_FAILED, "pool status=4711 after=1"):
        load(peer)


def test_another_value_exchanges_the_rules_of_the_environment_only(stage: Stage) -> None:
    peer = stage.process()
    peer.init(OWNER, environment={FAULTS: "pool status=5; commit delay=1us"})
    with peer.faults.inject("copy delay=2us", must_fire=False):
        peer.finalize()
        peer.init(OWNER, environment={FAULTS: "commit delay=3us"}, device_pool=1 << 20)
        assert [rule.text for rule in peer.faults.rules()] == ["copy delay=2us", "commit delay=3us"]
        peer.finalize()
        peer.init(OWNER, environment={FAULTS: None})
        assert [rule.text for rule in peer.faults.rules()] == ["copy delay=2us"]


@pytest.mark.parametrize(
    ("value", "texts"),
    [
        ("commit delya=1s", ["fault rule 1", "delya=1s", "allowed are"]),
        ("@/nowhere/faults.txt", ["/nowhere/faults.txt cannot be read"]),
        ("@/", ["the file / cannot be read: Is a directory"]),
        ("@/dev/zero", ["is longer than 1048576 bytes"]),
    ],
)
def test_a_bad_value_of_the_environment_fails_init(
    stage: Stage, value: str, texts: list[str]
) -> None:
    peer = stage.process()
    with pytest.raises(LLMException, match=FAULTS) as caught:
        peer.init(OWNER, environment={FAULTS: value})
    for text in texts:
        assert text in str(caught.value)
    peer.init(OWNER, environment={FAULTS: None})


def open_with_a_pool(actor) -> None:
    """What a forked child does: an engine of its own, that the parent's rules do not refuse."""
    from llm_datadist import LLMConfig, LLMDataDist, LLMRole

    config = LLMConfig()
    config.enable_cache_manager = True
    config.allow_multiple_instances = True
    config.mem_pool_cfg = '{"memory_size": 1048576}'
    datadist = LLMDataDist(LLMRole.MIX, 99)
    datadist.init(config.generate_options())
    assert faults.rules() == []
    datadist.finalize()


def test_a_forked_child_begins_without_the_rules_that_its_parent_set(stage: Stage) -> None:
    peer = stage.process()
    peer.init(OWNER)
    with peer.faults.inject("pool,open_device status=LLM_FAILED", must_fire=False):
        child = peer.call("fork", open_with_a_pool)
        assert peer.call("wait_for_forked", child) == 0


def test_the_mock_says_that_it_can() -> None:
    assert llm_datadist.backend_info().capabilities & faults.CAN_INJECT_FAULTS
