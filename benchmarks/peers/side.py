# SPDX-License-Identifier: Apache-2.0
"""What the processes of a duel do before anything else."""

from __future__ import annotations

import atexit
import ctypes
import os
import signal

from llm_datadist.testing.actor import Actor

_PR_SET_PDEATHSIG = 1


def prepare(actor: Actor) -> None:
    # A closed channel ends a process that runs; one that is stopped would stay indefinitely.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)
    # What a peer's library does at the end of a process is not our affair.
    atexit.register(os._exit, 0)
