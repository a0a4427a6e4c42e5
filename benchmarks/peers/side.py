# SPDX-License-Identifier: Apache-2.0
"""One of the two processes of a pair: python -m benchmarks.peers.side MODULE DESCRIPTOR."""

from __future__ import annotations

import ctypes
import importlib
import os
import signal
import sys

from llm_datadist._bench import sides

_PR_SET_PDEATHSIG = 1


def main() -> None:
    # A closed channel ends a process that runs; one that is stopped would stay for ever.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)
    name, descriptor = sys.argv[1:]
    module = importlib.import_module(name)
    sides.serve(int(descriptor), module.Owner, module.Puller)
    # What a peer's library does at the end of a process is not our affair.
    os._exit(0)


if __name__ == "__main__":
    main()
