# SPDX-License-Identifier: Apache-2.0
"""NIXL with its UCX back end, from Python, as vLLM's connector uses it.

The blocks of both sides are described once, and each pull selects some by their numbers. UCX_TLS
chooses the transports.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from nixl_cu12._api import nixl_agent, nixl_agent_config

from llm_datadist._bench.work import Work
from llm_datadist.testing.pattern import Blocks

from . import arenas
from .arenas import check


def _agent(name: str, address: int, size: int) -> nixl_agent:
    agent = nixl_agent(name, nixl_agent_config(enable_prog_thread=True, backends=["UCX"]))
    if agent.register_memory([(address, size, 0, "")], "DRAM") is None:
        raise RuntimeError("register_memory failed")
    return agent


def _descriptors(first: int, work: Work) -> Any:
    """Return address, length, and device of all blocks."""
    blocks = work.tensors * work.blocks
    starts = np.uint64(first) + np.arange(blocks, dtype=np.uint64) * np.uint64(work.block_bytes)
    lengths = np.full(blocks, work.block_bytes, np.uint64)
    return np.column_stack([starts, lengths, np.zeros(blocks, np.uint64)])


class Owner(arenas.Owner):
    def info(self) -> bytes:
        self._agent = _agent("owner", self.address, self.size)
        return self._agent.get_agent_metadata()


class Puller(arenas.Puller):
    def attach(self, owner: bytes) -> None:
        self._agent = _agent("puller", self.address, self.size)
        self._owner = self._agent.add_remote_agent(owner)

    def begin_work(self, work: Work, theirs: list[int]) -> None:
        ours, others = _descriptors(self.address, work), _descriptors(theirs[0], work)
        self._local = self._agent.prep_xfer_dlist("NIXL_INIT_AGENT", ours, "DRAM")
        self._remote = self._agent.prep_xfer_dlist(self._owner, others, "DRAM")

    def prepare(self, src: Blocks, dst: Blocks, size: int) -> Any:
        return self.numbers(src, dst, size, np.int32)

    def pull(self, prepared: Any) -> None:
        agent = self._agent
        theirs, numbers = prepared
        handle = agent.make_prepped_xfer("READ", self._local, numbers, self._remote, theirs)
        state = agent.transfer(handle)
        while state == "PROC":
            state = agent.check_xfer_state(handle)
        check(state, "DONE", "check_xfer_state")
        agent.release_xfer_handle(handle)
