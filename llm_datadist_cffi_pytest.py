# SPDX-License-Identifier: Apache-2.0
"""Fixtures for tests of clients, in every pytest of an environment where the package is installed.

So it must cost nothing where nobody asks for them: the package itself is imported by the fixtures.
And the module has a name of its own: llm_datadist may be CANN's package on a path that comes first.

The names are those that docs/testing.md explains.
"""

from __future__ import annotations

import signal
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Callable

import pytest

if TYPE_CHECKING:
    from types import ModuleType

    from llm_datadist.testing import Peer


@pytest.fixture
def datadist_scope(monkeypatch: pytest.MonkeyPatch) -> str:
    """A fresh LLM_DATADIST_SCOPE for the test, in its own process and in those that it starts.

    Members of a communicator meet within a scope only, so tests that run at the same time, or one
    after the other, never meet by the names that both use.
    """
    scope = uuid.uuid4().hex
    monkeypatch.setenv("LLM_DATADIST_SCOPE", scope)
    return scope


@pytest.fixture
def datadist_peers(datadist_scope: str) -> Iterator[Callable[..., Peer]]:
    """Start a peer in a process of its own; keyword arguments are environment variables for it
    (None takes one away).

    At the end of the test each must end in the regular way, unless the test has killed it.
    """
    from llm_datadist.testing import Peer

    def end(peer: Peer) -> None:
        ended_with = peer.process.poll()
        if ended_with is None:
            peer.close()
            return
        peer.kill()
        if ended_with != -signal.SIGKILL:
            pytest.fail(f"{peer} ended with {ended_with} during the test")

    with ExitStack() as exits:

        def start(**environment: str | None) -> Peer:
            peer = Peer.start(environment)
            exits.callback(end, peer)
            peer.wait_for("ready")
            return peer

        yield start


@pytest.fixture
def datadist_faults() -> Iterator[ModuleType]:
    """The module llm_datadist.testing.faults; whatever rules the test leaves are taken away."""
    from llm_datadist.testing import faults

    yield faults
    faults.clear()
