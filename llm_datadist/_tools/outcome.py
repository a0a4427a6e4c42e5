# SPDX-License-Identifier: Apache-2.0
"""How a subcommand ends: a result on stdout, or a sentence on stderr and an exit status."""

from __future__ import annotations

import json
import signal
import sys
from typing import Callable


class Refusal(Exception):
    """What was asked cannot be served."""


class PeerFailure(Exception):
    """A process failed, died, or did not answer in time; the text names it."""


def finish(command: str, as_json: bool, run: Callable[[], str]) -> int:
    """Print what ``run`` returns; returns the exit status.

    0, or 1 for a failure of a process, 2 for a refusal, 130 for Ctrl-C. With ``as_json`` stdout has
    an object in any case.
    """
    try:
        print(run())
        return 0
    except Refusal as refusal:
        text, status = str(refusal), 2
    except PeerFailure as failure:
        text, status = str(failure), 1
    except KeyboardInterrupt:
        text, status = "interrupted", 128 + signal.SIGINT
    print(f"llm-datadist {command}: {text}", file=sys.stderr)
    if as_json:
        print(json.dumps({"error": text}))
    return status
