# SPDX-License-Identifier: Apache-2.0
"""The course of a soak: season after season until the time is over."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Callable

from llm_datadist._tools.outcome import PeerFailure
from llm_datadist.testing import DeadlineError, PeerGoneError, Resources, leaked

from .plan import draw_season
from .season import SeasonRun
from .tally import LEAK, Tally
from .troupe import Troupe

_PATIENCE = 60.0


@dataclass(frozen=True)
class Course:
    """What to do."""

    seconds: float
    seed: int
    season: int | None  # only this one
    peers: int
    transports: Sequence[str]
    plants: bool = False  # a fault of each kind, for the soak's own tests


def run(course: Course, show: Callable[[float, str], None]) -> Tally:
    """Make a soak.

    Args:
        course: what to do.
        show: is told the seconds that have passed, and what is being done.

    Raises:
        PeerFailure: a process could not be started, or is stuck.
    """
    tally = Tally()
    before = Resources.of(os.getpid())
    troupe = Troupe(tally, _PATIENCE)
    troupe.start_ahead(course.peers + 1)
    well = False
    try:
        _make_seasons(course, troupe, tally, show)
        well = True
    except (PeerGoneError, DeadlineError) as failure:
        raise PeerFailure(str(failure)) from failure
    finally:
        troupe.close(well)
    for text in leaked(before, Resources.of(os.getpid())):
        tally.find(LEAK, "at the end", f"the soak itself: {text}")
    return tally


def _make_seasons(
    course: Course, troupe: Troupe, tally: Tally, show: Callable[[float, str], None]
) -> None:
    start = time.monotonic()

    def passed() -> float:
        return time.monotonic() - start

    def is_over() -> bool:
        return passed() >= course.seconds

    number = 0 if course.season is None else course.season
    while True:
        season = draw_season(course.seed, number, course.peers, course.transports)
        SeasonRun(
            season, troupe, tally, is_over, lambda text: show(passed(), text), course.plants
        ).run()
        number += 1
        if course.season is not None or is_over():
            break
    tally.seconds = passed()
