# SPDX-License-Identifier: Apache-2.0
"""Kills either end of a link by SIGKILL at random points, and looks at both boxes afterwards.

``python -m tests.box.kills 1000`` does so a thousand times; the suite a few.
"""

from __future__ import annotations

import mmap
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Callable

from llm_datadist import BlocksCacheKey, LLMException
from llm_datadist._box.reader import Box, read
from llm_datadist.testing.actor import ClusterAddress
from tests.box.engines import KEY, OWNER, PULLER, Engine, opened

# Shared with the child: how many of its calls have returned, and the port it listens at.
_RETURNED, _PORT = 0, 8
_SECONDS = 30


class _Shared:
    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 16)

    def put(self, place: int, number: int) -> None:
        self._memory[place : place + 8] = number.to_bytes(8, "little")

    def get(self, place: int) -> int:
        return int.from_bytes(self._memory[place : place + 8], "little")

    def wait_for(self, place: int, least: int) -> int:
        end = time.monotonic() + _SECONDS
        while (number := self.get(place)) < least:
            assert time.monotonic() < end, "the child did not come so far"
            os.sched_yield()
        return number


def call(puller: Engine, number: int) -> None:
    """One call, whose record tells its number: the fourth of each four fails."""
    if number % 4 == 3:
        try:
            puller.pull(BlocksCacheKey(OWNER, number), [number % 8], [number % 5])
        except LLMException:
            return
    puller.pull(KEY, [number % 8], [number % 5])


def check(box: Box, returned: int, peer_killed: bool = False) -> None:
    """No record is torn, and none is missing of the calls that have returned."""
    whole = [record for record in box.calls if record.whole]
    assert [record.number for record in whole[:returned]] == list(range(1, returned + 1))
    assert len(whole) <= returned + 1
    assert len(box.calls) <= returned + 1
    for record in whole:
        number = record.number - 1
        assert record.blocks == ((number % 5, number % 8, 1),)
        assert record.entry_ns <= record.end_ns
        if number % 4 == 3 and not record.failed:
            raise AssertionError(f"{record} has not failed")
        if record.failed and not peer_killed:
            assert record.key_model == number
            assert f"model_id {number}" in record.text
        elif not record.failed:
            assert (record.key_model, record.bytes) == (0, 256)
            assert record.entry_ns <= record.turn_ns <= record.first_byte_ns <= record.end_ns


@contextmanager
def child(body: Callable[[], None]) -> Iterator[int]:
    """A forked process that runs body until it is killed."""
    pid = os.fork()
    if pid == 0:
        try:
            body()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    try:
        yield pid
    finally:
        try:
            os.kill(pid, signal.SIGKILL)
        finally:
            _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status), f"the child ended by itself: {status}"


def box_of(folder: Path, cluster_id: int, pid: int) -> Box:
    (path,) = folder.glob(f"{cluster_id}-{pid}-*.box")
    box = read(path)
    path.unlink()
    return box


def kill_puller(folder: Path, owner: Engine, chance: random.Random) -> int:
    """Kill the end that pulls; returns how many calls had returned."""
    shared = _Shared()
    address = owner.datadist.listen_address
    assert address is not None

    def pull_on() -> None:
        with opened(PULLER) as puller, puller.datadist.linked(address):
            for number in range(1_000_000):
                call(puller, number)
                shared.put(_RETURNED, number + 1)

    with child(pull_on) as pid:
        shared.wait_for(_RETURNED, 1)
        # Anywhere within the next calls.
        until = time.perf_counter_ns() + chance.randrange(2_000_000)
        while time.perf_counter_ns() < until:
            pass
    returned = shared.get(_RETURNED)
    box = box_of(folder, PULLER, pid)
    assert box.state == "killed"
    assert returned < 4096
    check(box, returned)
    owner.datadist.drop_gone_links()
    return returned


def kill_owner(folder: Path, chance: random.Random) -> int:
    """Kill the end that is pulled from; returns how many calls had returned."""
    shared = _Shared()

    def own() -> None:
        with opened(OWNER, KEY, listen_ip_info="127.0.0.1:0") as owner:
            address = owner.datadist.listen_address
            assert address is not None
            shared.put(_PORT, address[1])
            while True:
                signal.pause()

    with opened(PULLER) as puller:
        with child(own) as pid:
            peer = ClusterAddress(OWNER, ("127.0.0.1", shared.wait_for(_PORT, 1)))
            puller.datadist.link_clusters([peer.info()])
            dies_at = chance.randrange(60)
            for number in range(60):
                if number == dies_at:
                    os.kill(pid, signal.SIGKILL)
                try:
                    call(puller, number)
                except LLMException:
                    assert number >= dies_at
        box = box_of(folder, PULLER, os.getpid())
    check(box, 60, peer_killed=True)
    owner_box = box_of(folder, OWNER, pid)
    assert owner_box.state == "killed"
    assert [event.what for event in owner_box.events][:2] == ["open", "register"]
    return 60


def run(folder: Path, times: int, seed: int) -> int:
    """Kill both ends, each so many times; returns how many calls had returned."""
    chance = random.Random(seed)
    calls = 0
    with opened(OWNER, KEY, listen_ip_info="127.0.0.1:0") as owner:
        for _ in range(times):
            calls += kill_puller(folder, owner, chance)
    for _ in range(times):
        calls += kill_owner(folder, chance)
    return calls


def main(times: int) -> None:
    seed = time.time_ns() % 1_000_000
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LLM_DATADIST_BOX"] = folder
        os.environ["LLM_DATADIST_BACKEND"] = "mock"
        calls = run(Path(folder), times // 2, seed)
    took = time.monotonic() - begin
    print(
        f"seed {seed}: {times} kills, {calls} calls that had returned, no torn record, none missing"
    )
    print(f"{took:.0f} s")


if __name__ == "__main__":
    main(int(sys.argv[1]))
