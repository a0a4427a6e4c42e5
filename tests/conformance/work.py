# SPDX-License-Identifier: Apache-2.0
"""Work that peers do for longer, on threads of their own, until they are told to stop or something
fails.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable
from typing import Any

import numpy as np

from llm_datadist import BlocksCacheKey, LLMException
from llm_datadist.testing.pattern import origin

# A cache by its name, the key, source and destination blocks.
Job = tuple[str, BlocksCacheKey, list[int], list[int]]


def shuffled(seed: int, count: int) -> list[int]:
    blocks = list(range(count))
    random.Random(seed).shuffle(blocks)
    return blocks


def transfer_many(actor: Any, operation: str, jobs: Iterable[Job]) -> None:
    for name, key, src, dst in jobs:
        getattr(actor, operation)(name, key, src, dst)


def repeat(
    actor: Any, operation: str, name: str, key: BlocksCacheKey, blocks: list[int], label: str
) -> tuple[int, Exception | None]:
    """Transfer the same blocks over and over, until the flag of this label is set or a call fails.

    Announces the label after each success. Returns how many succeeded, and the failure.
    """
    call = getattr(actor, operation)
    stop = actor.flag(label)
    done = 0
    while not stop.is_set():
        try:
            call(name, key, blocks, blocks)
        except LLMException as error:
            return done, error
        done += 1
        actor.announce(label)
    return done, None


def repeat_whatever_happens(
    actor: Any, operation: str, name: str, key: BlocksCacheKey, blocks: list[int], label: str
) -> dict[str, int]:
    """The same, but failures do not end it. Announces "LABEL STATUS" for each call; returns how
    often each came.
    """
    call = getattr(actor, operation)
    stop = actor.flag(label)
    outcomes: dict[str, int] = {}
    while not stop.is_set():
        try:
            call(name, key, blocks, blocks)
            outcome = "LLM_SUCCESS"
        except LLMException as error:
            outcome = error.status_code.name
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
        actor.announce(f"{label} {outcome}")
    return outcomes


def stamps_in(actor: Any, name: str) -> set[int]:
    """The stamps of the caches that the words in a cache come from."""
    held = actor.caches[name]
    found: set[int] = set()
    for index in range(held.geometry.num_tensors):
        for word in np.unique(held.tensor(index)[:, :: held.geometry.words_per_block // 8]):
            found.add(origin(int(word))[0])
    return found


def seconds_of(actor: Any, operation: str, *args: Any) -> tuple[float, Exception | None]:
    """How long a call takes over there, and how it fails."""
    start = time.monotonic()
    try:
        getattr(actor, operation)(*args)
    except LLMException as error:
        return time.monotonic() - start, error
    return time.monotonic() - start, None
