# SPDX-License-Identifier: Apache-2.0
"""How a subcommand ends: a result on stdout, or a sentence on stderr and an exit status."""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Callable


class Refusal(Exception):
    """What was asked cannot be served."""


class PeerFailure(Exception):
    """A process failed, died, or did not answer in time; the text names it."""


def ending(command: str, run: Callable[[], int]) -> int:
    """Run a command to its end and write all of its output; returns the exit status, without a
    traceback for what the machine or the user did: an interrupt, a reader of the output that is
    gone, an error of the operating system.
    """
    try:
        try:
            status = run()
        finally:
            # Also before argparse ends the process, after a help text for instance.
            sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        text, status = "interrupted", 128 + signal.SIGINT
    except BrokenPipeError:
        _write_no_more()
        return 128 + signal.SIGPIPE
    except OSError as error:
        _write_no_more()
        text, status = (None if error.filename else error.strerror) or str(error), 1
    print(f"{command}: {text}", file=sys.stderr)
    return status


def _write_no_more() -> None:
    # The interpreter flushes stdout once more at its end, which would fail again, with a traceback.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


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
