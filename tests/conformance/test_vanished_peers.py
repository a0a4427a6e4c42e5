# SPDX-License-Identifier: Apache-2.0
"""Peers that vanish without closing anything: what the kernel, and what the engine, notices."""

from __future__ import annotations

import os
from typing import Any

import pytest

from llm_datadist import BlocksCacheKey
from llm_datadist.testing import eventually
from tests.conformance.paths import ON_ASCEND, helped_path
from tests.conformance.stage import OWNER, PULLER, SMALL, Stage, linked

PEER_TIMEOUT = "lldd.PeerTimeout"
ESTABLISHED, KEEPALIVE = "01", "02"


def timers(actor: Any) -> list[str]:
    """The kernel's timer of each established TCP connection of this process, 00 for none."""
    held = set()
    for entry in os.scandir("/proc/self/fd"):
        try:
            held.add(os.readlink(entry.path))
        except FileNotFoundError:
            # The descriptor of this very listing.
            continue
    found = []
    with open("/proc/self/net/tcp") as table:
        for line in table.readlines()[1:]:
            words = line.split()
            if words[3] == ESTABLISHED and f"socket:[{words[9]}]" in held:
                found.append(words[5].split(":")[0])
    return found


@pytest.mark.rule("C10-210")
@pytest.mark.parametrize(("option", "timer"), [({}, KEEPALIVE), ({PEER_TIMEOUT: "0"}, "00")])
def test_the_kernel_watches_every_connection_of_a_link(
    stage: Stage, option: dict[str, str], timer: str
) -> None:
    path = helped_path()
    owner = stage.engine(OWNER, path, options=option)
    puller = stage.engine(PULLER, path, listen=None, options=option)
    for peer in (owner, puller):
        path.cache(peer, "kv", SMALL, 1, 0)
    linked(puller, owner)
    for peer, other in ((puller, OWNER), (owner, PULLER)):
        peer.pull("kv", BlocksCacheKey(other, 0), [0], [0])
    # The control connection, and on the mock a stream for each end that asks.
    expected = [timer] * (1 if ON_ASCEND else 3)
    for peer in (owner, puller):
        # Until what was sent is acknowledged, another timer runs.
        eventually(
            lambda peer=peer: (
                (found := peer.call(timers)) == expected or (ON_ASCEND and timer in found)
            ),
            "every connection has this timer",
        )
