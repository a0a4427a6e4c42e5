# SPDX-License-Identifier: Apache-2.0
"""A peer on this host hands over memory that is not what it says (decision 74)."""

from __future__ import annotations

import os
import struct

import numpy as np
import pytest

from llm_datadist import BlocksCacheKey, LLMException
from llm_datadist.testing import Geometry
from tests.attacks.conftest import Victim
from tests.attacks.protocol import Attacker, Gift, Region, sealed_memory, table_of_one

ATTACKER = 666
ADDR = 0x7000_0000_0000
STRIDE = 4096
LARGE, SMALL = 64 << 20, 4096
HUGE = 0x4 | 21 << 26  # MFD_HUGETLB, of 2 MiB
SEAL, SHRINK, GROW = 1, 2, 4


def attack(victim: Victim, gift: Gift, size: int, blocks: list[int]) -> list[str]:
    """Link with that gift, say that a pool of that size has a cache, and have blocks of it pulled
    and pushed. Returns what the victim's client was told.
    """
    peer = victim.peer
    cache = peer.register("kv", Geometry(1, 16, STRIDE), 1)
    attacker = Attacker(victim.port, ATTACKER, regions=[Region(ADDR, size, 0)], gift=gift)
    assert attacker.given != b"", "the pools alone are strange"
    thread = attacker.serve_table(table_of_one(ADDR, STRIDE, size // STRIDE))
    told = []
    key = BlocksCacheKey(ATTACKER, 0)
    for block in blocks:
        for move in (
            lambda block=block: peer.pull("kv", key, [block], [0], tensor_num_per_layer=1),
            lambda block=block: peer.push("kv", key, [0], [block], tensor_num_per_layer=1),
        ):
            try:
                move()
            except LLMException as refused:
                told.append(str(refused))
            else:
                told.append("")
    before = cache.filled()
    after = cache.read()
    told.append("" if np.array_equal(after, before) else "the cache was changed")
    attacker.stream.shutdown(2)
    thread.join()
    attacker.close()
    return told


def all_refused(told: list[str]) -> None:
    assert all(told[:-1]), "each transfer is refused"
    assert told[-1] == "", "nothing was read into the victim's cache"


@pytest.mark.rule("C10-79")
@pytest.mark.parametrize("order", ["the right one first", "the right one last"])
def test_two_pools_with_one_number(victim: Victim, order: str) -> None:
    right = (0, LARGE, sealed_memory(LARGE))
    wrong = (0, SMALL, sealed_memory(SMALL))
    pools = [right, wrong] if order == "the right one first" else [wrong, right]
    # Past the small one there is other memory of the victim.
    all_refused(attack(victim, Gift.proper(pools), LARGE, [1, 2, 64, 1024, 16000]))


@pytest.mark.rule("C10-79")
def test_a_pool_that_is_smaller_than_its_region(victim: Victim) -> None:
    all_refused(attack(victim, Gift.proper([(0, SMALL, sealed_memory(SMALL))]), LARGE, [1, 1024]))


@pytest.mark.rule("C10-80")
@pytest.mark.parametrize("seals", [0, SEAL, SEAL | GROW, SEAL | SHRINK], ids=str)
def test_a_pool_whose_size_is_not_sealed(victim: Victim, seals: int) -> None:
    descriptor = sealed_memory(LARGE, seals=seals)
    os.pwrite(descriptor, bytes(LARGE), 0)
    all_refused(attack(victim, Gift.proper([(0, LARGE, descriptor)]), LARGE, [1, 2]))


@pytest.mark.rule("C10-80")
@pytest.mark.parametrize("which", ["pool", "region table", "link page"])
def test_memory_of_huge_pages(victim: Victim, which: str) -> None:
    try:
        huge = sealed_memory(4 << 20, flags=HUGE)
    except OSError as error:
        pytest.skip(f"no memory of huge pages on this machine: {error}")
    gift = Gift.proper([(0, 4 << 20, sealed_memory(4 << 20))])
    if which == "pool":
        gift.pools = [(0, 4 << 20, huge)]
    elif which == "region table":
        gift.region_table = huge
    else:
        gift.link_page = huge
    if which == "pool":
        all_refused(attack(victim, gift, 4 << 20, [1]))
    else:
        attacker = Attacker(victim.port, ATTACKER, regions=[Region(ADDR, SMALL)], gift=gift)
        assert attacker.given == b""
        attacker.close()
    assert victim.peer.process.poll() is None


@pytest.mark.rule("C10-81")
def test_holes_are_not_filled_by_this_process(victim: Victim) -> None:
    sparse = sealed_memory(LARGE)
    os.pwrite(sparse, b"\1" * STRIDE, 0)
    used = os.fstat(sparse).st_blocks
    told = attack(victim, Gift.proper([(0, LARGE, sparse)]), LARGE, [0, 1, 1024, 16000])
    # The block that is in memory is pulled, and overwritten by the push.
    assert told[:2] == ["", ""]
    assert all(told[2:-1])
    assert os.pread(sparse, STRIDE, 0) == b"\1" * STRIDE
    assert os.fstat(sparse).st_blocks == used


@pytest.mark.rule("C10-91")
def test_the_channel_is_closed_once_the_link_is_confirmed(victim: Victim) -> None:
    regions = [Region(ADDR, LARGE, 0)]
    attacker = Attacker(victim.port, ATTACKER, regions=regions, confirm=False)
    late = Attacker(victim.port, ATTACKER + 1, regions=regions)
    gift = Gift.proper([(0, LARGE, sealed_memory(LARGE))])
    assert struct.unpack_from("<I", attacker.give(gift))[0] == 0x48434D4C
    attacker.confirm()
    assert late.give(gift) == b""
    attacker.close()
    late.close()
