# SPDX-License-Identifier: Apache-2.0
"""What the logs of two engines tell of a link, its transfers and its end."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path as FilePath
from typing import Any

import pytest

from llm_datadist import BlocksCacheKey, LLMException
from llm_datadist.testing import Peer
from tests.conformance.paths import Path
from tests.conformance.stage import OWNER, PULLER, SMALL, Stage, linked, notices

KEY = BlocksCacheKey(OWNER, 0)
NUMBER = r"(?P<link>link [0-9a-f]{8})"

Logged = Callable[..., "tuple[Peer, Callable[[], list[str]]]"]


def log_to(actor: Any, path: str) -> None:
    """Have the process's stdout, where the library logs, go to a file."""
    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), 1)


@pytest.fixture
def logged(stage: Stage, tmp_path: FilePath) -> Logged:
    """Open an engine whose log is read afterwards."""

    def open_engine(cluster_id: int, path: Path, level: str, **more: Any) -> Any:
        environment = {"ASCEND_GLOBAL_LOG_LEVEL": level, **more.pop("variables", {})}
        process = stage.process_of_its_own(**environment)
        file = tmp_path / f"{cluster_id}.log"
        process.call(log_to, str(file))
        engine = stage.engine(cluster_id, path, process=process, **more)
        return engine, lambda: file.read_text().splitlines()

    return open_engine


def found(lines: list[str], pattern: str) -> re.Match[str]:
    matches = [match for match in (re.search(pattern, line) for line in lines) if match]
    assert matches, f"no line matches {pattern!r}:\n" + "\n".join(lines)
    return matches[-1]


def test_both_logs_tell_of_a_link_by_one_number(logged: Logged, path: Path) -> None:
    owner, of_owner = logged(OWNER, path, "1")
    puller, of_puller = logged(PULLER, path, "0", listen=None)
    path.cache(owner, "kv", SMALL, 1, 0)
    path.cache(puller, "kv", SMALL, 2)
    linked(puller, owner)
    puller.pull("kv", KEY, [1], [2])
    with pytest.raises(LLMException):
        puller.pull("kv", BlocksCacheKey(OWNER, 99), [1], [2])
    assert puller.unlink(owner) == 0
    here = "allocated" if path.of_pools else "registered"
    theirs, ours = of_owner(), of_puller()
    ip, _ = owner.listen_address
    found(theirs, rf"INFO .*engine of cluster {OWNER} opened .*listening at {ip}:")
    found(ours, rf"engine of cluster {PULLER} opened .*listening at no address")
    found(theirs, rf"cache 1 {here}.*: \d+ tensors of \[.*BlocksCacheKey with model_id 0")
    way = path.transport or path.name
    made = rf"{NUMBER} to cluster {OWNER} \(.*\) made, dialled by this end; .* by {way} "
    number = found(ours, made)["link"]
    found(theirs, rf"{number} to cluster {PULLER} \(.*\) made, dialled by the peer; .* by {way} ")
    pulled = rf"DEBUG .*pull of .* from cluster {OWNER}.* over {number}: "
    blocks = r"1 blocks, (\d+) of \1 bytes"
    waits = r"[0-9.]+ ms \([0-9.]+ of them waiting for the link\)"
    found(ours, rf"{pulled}{blocks} by {way}, {waits}, LLDD_SUCCESS$")
    found(ours, rf"{pulled}.* by no path, .* LLDD_KV_CACHE_NOT_EXIST: the peer has no cache")
    found(ours, rf"{number} to cluster {OWNER} .* ended by this end")
    found(theirs, rf"{number} to cluster {PULLER} .* unlinked by the peer")
    # Transfers are told of at level DEBUG only.
    assert not any("bytes" in line for line in theirs)


def test_a_lost_link_and_a_slow_transfer(logged: Logged, registered_path: Path) -> None:
    path = registered_path
    owner, _ = logged(OWNER, path, "1")
    puller, of_puller = logged(
        PULLER, path, "1", listen=None, variables={"LLM_DATADIST_SLOW_MS": "20"}
    )
    owner.register("kv", SMALL, 1, 0)
    puller.register("kv", SMALL, 2)
    linked(puller, owner)
    puller.pull("kv", KEY, [1], [2])
    if not path.transport:
        with puller.faults.inject("read delay=40ms times=1"):
            puller.pull("kv", KEY, [3], [4])
        lines = of_puller()
        found(lines, rf"WARNING .*slow: pull of .* from cluster {OWNER}.* LLDD_SUCCESS$")
        assert len([line for line in lines if "slow: " in line]) >= 1
    owner.kill()
    notices(puller, OWNER)
    found(of_puller(), rf"{NUMBER} to cluster {OWNER} \(.*\) lost: connection closed")
    assert puller.unlink(owner, force=True) == 0
