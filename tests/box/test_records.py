# SPDX-License-Identifier: Apache-2.0
"""What an engine writes into its box, and what a reader makes of it."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import pytest

from llm_datadist import BlocksCacheKey, LLMException, LLMStatusCode
from llm_datadist._box import layout
from llm_datadist._box.reader import Box, BoxError, boxes_of, read
from tests.box.engines import KEY, OWNER, PULLER, opened, pair

pytestmark = pytest.mark.sanitize


def of(folder: Path, cluster_id: int) -> Box:
    return next(box for box in boxes_of([str(folder)]) if box.cluster_id == cluster_id)


def test_each_call_has_its_record(folder: Path) -> None:
    with pair() as (_, puller):
        puller.pull(KEY, [3, 4, 1], [0, 1, 6])
        with pytest.raises(LLMException) as caught:
            puller.pull(BlocksCacheKey(OWNER, 7), [3], [0])
        puller.push(KEY, [2], [5])
        puller.datadist.cache_manager.copy_blocks(puller.cache, {1: [2]})
        assert of(folder, PULLER).state == "runs"
    box = of(folder, PULLER)
    assert (box.state, box.runtime) == ("closed", "mock")
    pull, failed, push, copy = box.calls
    assert [call.number for call in box.calls] == [1, 2, 3, 4]
    assert [call.kind for call in box.calls] == ["pull", "pull", "push", "copy_blocks"]
    assert all(call.whole and call.cache_id == puller.cache.cache_id for call in box.calls)
    assert pull.blocks == ((0, 3, 2), (6, 1, 1))
    assert (pull.digest, pull.runs) == (0, pull.blocks)
    assert (pull.peer, pull.key_model, pull.outcome, pull.bytes) == (OWNER, 0, "ok", 3 * 2 * 128)
    assert (pull.num_src, pull.num_dst, pull.path) == (3, 3, "cma")
    assert pull.entry_ns <= pull.turn_ns <= pull.first_byte_ns <= pull.end_ns <= failed.entry_ns
    assert failed.failed
    assert (failed.outcome, failed.bytes) == ("LLM_KV_CACHE_NOT_EXIST", 0)
    assert failed.text in str(caught.value)
    assert "model_id 7" in failed.text
    assert failed.first_byte_ns == 0 < failed.turn_ns
    assert (push.blocks, push.bytes) == (((2, 5, 1),), 2 * 128)
    assert (copy.blocks, copy.peer) == (((2, 1, 1),), 0)
    assert len({call.id for call in box.calls}) == 4


def test_long_lists_have_their_first_runs_and_a_digest(folder: Path) -> None:
    with pair() as (_, puller):
        puller.pull(KEY, [0, 2, 4, 6, 7], [7, 5, 3, 0, 1])
    (call,) = of(folder, PULLER).calls
    runs = [(7, 0, 1), (5, 2, 1), (3, 4, 1), (0, 6, 2)]
    assert (call.num_blocks, call.runs, list(call.blocks)) == (4, None, runs[:3])
    assert call.digest == layout.digest(runs)


def test_both_ends_have_the_events_of_their_link(folder: Path) -> None:
    with pair():
        pass
    owner, puller = of(folder, OWNER), of(folder, PULLER)
    assert [event.what for event in owner.events][:2] == ["open", "register"]
    made = [
        next(event for event in box.events if event.data.get("how") == "made")
        for box in (owner, puller)
    ]
    assert made[0].data["link"] == made[1].data["link"] != 0
    assert [event.data["peer"] for event in made] == [PULLER, OWNER]
    assert {event.what for event in puller.events} >= {
        "open",
        "register",
        "link",
        "unlink",
        "close",
    }
    register = next(event for event in owner.events if event.what == "register")
    assert register.data["dims"] == [8, 64]
    assert register.data["keys"] == [[3, 0, 0, 0]]


def test_the_latest_calls_stay(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_DATADIST_BOX_CALLS", "16")
    with opened(PULLER) as puller:
        for model in range(50):
            with pytest.raises(LLMException):
                puller.pull(BlocksCacheKey(9, model), [0], [0])
    box = of(folder, PULLER)
    assert [call.key_model for call in box.calls] == list(range(34, 50))
    assert box.forgotten["calls"] == 34
    assert all("no link to cluster 9" in call.text for call in box.calls)


def test_threads_write_whole_records(folder: Path) -> None:
    with opened(PULLER) as puller:

        def fail(thread: int) -> None:
            for each in range(200):
                with pytest.raises(LLMException):
                    puller.pull(BlocksCacheKey(9, 1000 * thread + each), [each % 8], [each % 5])

        threads = [threading.Thread(target=fail, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            check_each(of(folder, PULLER))
        for thread in threads:
            thread.join()
    box = of(folder, PULLER)
    check_each(box)
    expected = [1000 * thread + each for thread in range(4) for each in range(200)]
    assert sorted(call.key_model for call in box.calls) == expected
    assert {call.number for call in box.calls} == set(range(1, 801))


def check_each(box: Box) -> None:
    for call in box.calls:
        if call.whole:
            each = call.key_model % 1000
            assert call.blocks == ((each % 5, each % 8, 1),)
            assert call.outcome == "LLM_NOT_YET_LINK"


def test_without_the_variable_there_is_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLM_DATADIST_BOX")
    with pair() as (_, puller):
        puller.pull(KEY, [3], [0])
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("variable", "value", "text"),
    [
        ("LLM_DATADIST_BOX", "/no/such/folder", r'LLM_DATADIST_BOX: .* "/no/such/folder".*No such'),
        ("LLM_DATADIST_BOX_CALLS", "15", r'BOX_CALLS is "15", allowed is 16..1048576'),
        ("LLM_DATADIST_BOX_CALLS", "many", r'BOX_CALLS is "many"'),
    ],
)
def test_a_variable_that_is_wrong_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, text: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(LLMException, match=text) as caught, opened(PULLER):
        pass
    assert caught.value.status_code is LLMStatusCode.LLM_PARAM_INVALID
    assert list(folder.iterdir()) == []


def test_an_engine_that_cannot_be_opened_says_so_in_its_box(folder: Path) -> None:
    with pytest.raises(LLMException), opened(OWNER, listen_ip_info="192.0.2.1:1"):
        pass
    (opening, *_) = of(folder, OWNER).events
    assert (opening.what, opening.status) == ("open", LLMStatusCode.LLM_FAILED)
    assert "192.0.2.1" in opening.data["text"]


def test_what_is_no_box_is_refused(folder: Path) -> None:
    with pytest.raises(BoxError, match="no file with the suffix"):
        boxes_of([str(folder)])
    with pytest.raises(BoxError, match="no box is named"):
        boxes_of([])
    file = folder / "a.box"
    with pytest.raises(BoxError, match=r"a\.box cannot be read"):
        read(file)
    file.write_bytes(bytes(5000))
    with pytest.raises(BoxError, match=r"a\.box is no box"):
        read(file)


def test_a_damaged_box_is_refused_or_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_DATADIST_BOX_CALLS", "16")
    with pair() as (_, puller):
        puller.pull(KEY, [3], [0])
    path = of(folder, PULLER).path
    whole = Path(path).read_bytes()
    chance = random.Random(13)
    file = folder / "damaged.box"
    refused = 0
    for _ in range(60):
        damaged = bytearray(whole)
        for _ in range(chance.randint(1, 30)):
            place = chance.choice([chance.randrange(800), chance.randrange(20_000)])
            damaged[place] = chance.randrange(256)
        file.write_bytes(damaged[: chance.choice([len(whole), chance.randrange(len(whole))])])
        try:
            read(file)
        except BoxError:
            refused += 1
    assert 0 < refused < 60
    # Another format names the way out.
    file.write_bytes(whole[:8] + bytes([99]) + whole[9:])
    with pytest.raises(BoxError, match="format 99, this package reads 1"):
        read(file)
