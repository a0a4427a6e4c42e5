# SPDX-License-Identifier: Apache-2.0
"""Four decoders, of which one is stopped, one is cut off and one uses a wrong id: who has only the
owner's log, or only its statistics(), or only the trace of its box, finds them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

import pytest

from llm_datadist import BlocksCacheKey, LLMException
from llm_datadist._box.reader import boxes_of
from llm_datadist._box.trace import chrome_trace
from llm_datadist.introspection import LinkState
from llm_datadist.statistics import Statistics
from llm_datadist.testing import Peer, eventually
from llm_datadist.testing.actor import ClusterAddress
from tests.conformance.paths import helped_path
from tests.conformance.relay import relay
from tests.conformance.stage import OWNER, SMALL, Stage
from tests.conformance.test_log_lines import log_to

WELL, STOPPED, CUT_OFF, WRONG_ID = 21, 22, 23, 24
FINDINGS = {STOPPED: "does not answer", CUT_OFF: "is cut off", WRONG_ID: "asks for model_id 99"}


def from_log(lines: list[str]) -> dict[int, str]:
    """What somebody finds who has only the owner's log, and does not know what was done."""
    found = {}
    for line in lines:
        if silent := re.search(r"the link to cluster (\d+) .*is silent: its peer has not", line):
            found[int(silent[1])] = "does not answer"
        elif lost := re.search(r"link \w{8} to cluster (\d+) .*lost: connection closed", line):
            found[int(lost[1])] = "is cut off"
        elif told := re.search(
            r"WARNING.* to cluster (\d+) .*transfers of the peer have failed.*"
            r"LLDD_KV_CACHE_NOT_EXIST: pull of BlocksCacheKey with (\w+ \d+)",
            line,
        ):
            found[int(told[1])] = f"asks for {told[2]}"
    return found


def from_statistics(statistics: Statistics) -> dict[int, str]:
    """The same of who has only statistics()."""
    found = {}
    for link in statistics.links:
        if link.state is LinkState.SILENT:
            found[link.peer_cluster_id] = "does not answer"
        elif link.state is LinkState.PEER_GONE:
            found[link.peer_cluster_id] = "is cut off"
        elif link.peers.failures:
            assert link.peers.last_error is not None
            asked = re.search(r"BlocksCacheKey with (\w+ \d+)", link.peers.last_error.text)
            assert asked, link.peers.last_error
            found[link.peer_cluster_id] = f"asks for {asked[1]}"
    return found


def from_trace(trace: dict[str, Any]) -> dict[int, str]:
    """The same of who has only the trace of the owner's box."""
    found = {}
    for event in sorted(trace["traceEvents"], key=lambda each: each.get("ts", 0)):
        if end := re.fullmatch(
            r"link to cluster (\d+) (silent|lost: connection closed.*)", event["name"]
        ):
            found[int(end[1])] = "does not answer" if end[2] == "silent" else "is cut off"
        elif told := re.fullmatch(r"pull by cluster (\d+)", event["name"]):
            asked = re.search(r"BlocksCacheKey with (\w+ \d+)", event["args"]["what"])
            if event["args"]["ended"] == "LLM_KV_CACHE_NOT_EXIST" and asked:
                found[int(told[1])] = f"asks for {asked[1]}"
    return found


@dataclass
class Scene:
    owner: Peer
    log: FilePath
    boxes: FilePath  # the folder of the owner's box


@pytest.fixture
def scene(stage: Stage, tmp_path: FilePath) -> Iterator[Scene]:
    """The owner, to whom all this has happened."""

    path = helped_path()
    log = tmp_path / "log"
    boxes = {True: tmp_path / "the owner's", False: tmp_path / "others'"}
    for folder in boxes.values():
        folder.mkdir()
    process = stage.process_of_its_own(
        ASCEND_GLOBAL_LOG_LEVEL="1", LLM_DATADIST_BOX=str(boxes[True])
    )
    process.call(log_to, str(log))
    options = {"lldd.PeerTimeout": "1000"}
    owner = stage.engine(OWNER, path, process=process, options=options)
    owner.register("kv", SMALL, 1, 0)
    decoders = {}
    for cluster_id in (WELL, STOPPED, CUT_OFF, WRONG_ID):
        environment = {"LLM_DATADIST_BOX": str(boxes[False])}
        decoder = stage.engine(cluster_id, path, listen=None, environment=environment)
        decoders[cluster_id] = decoder
        decoders[cluster_id].register("kv", SMALL, 2)
    with relay(owner.listen_address) as proxy:
        for cluster_id, decoder in decoders.items():
            address = proxy.address if cluster_id == CUT_OFF else owner.listen_address
            assert decoder.link_to(ClusterAddress(OWNER, address)).status == 0
            decoder.pull("kv", BlocksCacheKey(OWNER, 0), [1], [1])
        decoders[STOPPED].stop()
        proxy.cut()
        with pytest.raises(LLMException):
            decoders[WRONG_ID].pull("kv", BlocksCacheKey(OWNER, 99), [1], [1])
        decoders[WELL].pull("kv", BlocksCacheKey(OWNER, 0), [2], [2])
        yield Scene(owner, log, boxes[True])
        decoders[STOPPED].go_on()


@pytest.mark.rule("C1.14-10")
def test_who_is_it(scene: Scene) -> None:
    eventually(
        lambda: from_statistics(scene.owner.call("statistics")) == FINDINGS,
        "statistics() tell",
        10,
    )
    eventually(lambda: from_log(scene.log.read_text().splitlines()) == FINDINGS, "the log tells", 5)
    eventually(
        lambda: from_trace(chrome_trace(boxes_of([str(scene.boxes)]))) == FINDINGS,
        "the trace tells",
        5,
    )
    statistics: Statistics = scene.owner.call("statistics")
    pulled = {link.peer_cluster_id: link.peers.pulls for link in statistics.links}
    assert pulled[WELL] == 2
    assert pulled[WRONG_ID] == 1
