# SPDX-License-Identifier: Apache-2.0
"""Engines with boxes in the process of the test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from llm_datadist import BlocksCacheKey, Cache, LLMDataDist, LLMRole, arrays

BLOCKS = 8
OWNER, PULLER = 1, 2
KEY = BlocksCacheKey(OWNER, 0)


@dataclass
class Engine:
    datadist: LLMDataDist
    cache: Cache

    def pull(self, key: BlocksCacheKey, src: list[int], dst: list[int]) -> None:
        self.datadist.cache_manager.pull_blocks(key, self.cache, src, dst)

    def push(self, key: BlocksCacheKey, src: list[int], dst: list[int]) -> None:
        self.datadist.cache_manager.push_blocks(key, self.cache, src, dst)


@contextmanager
def opened(
    cluster_id: int, key: BlocksCacheKey | None = None, **options: object
) -> Iterator[Engine]:
    """An engine with one cache of two tensors, eight blocks of 128 bytes each."""
    common = {"enable_remote_cache_accessible": True, "allow_multiple_instances": True}
    tensors = [np.full((BLOCKS, 64), cluster_id, np.float16) for _ in range(2)]
    with LLMDataDist.open(LLMRole.MIX, cluster_id, **{**common, **options}) as datadist:
        cache = arrays.register_blocks(datadist.cache_manager, tensors, key)
        yield Engine(datadist, cache)


@contextmanager
def pair(**options: object) -> Iterator[tuple[Engine, Engine]]:
    """An owner and a puller, linked."""
    with (
        opened(OWNER, KEY, listen_ip_info="127.0.0.1:0", **options) as owner,
        opened(PULLER, **options) as puller,
        puller.datadist.linked(owner.datadist),
    ):
        yield owner, puller
