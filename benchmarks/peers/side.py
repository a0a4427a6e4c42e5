# SPDX-License-Identifier: Apache-2.0
"""One of the two processes of a peer: python -m benchmarks.peers.side MODULE DESCRIPTOR."""

from __future__ import annotations

import importlib
import os
import sys

from llm_datadist._bench import sides


def main() -> None:
    name, descriptor = sys.argv[1:]
    module = importlib.import_module(f"benchmarks.peers.{name}")
    sides.serve(int(descriptor), module.Owner, module.Puller)
    # What the peer's library does at the end of a process is not our affair.
    os._exit(0)


if __name__ == "__main__":
    main()
