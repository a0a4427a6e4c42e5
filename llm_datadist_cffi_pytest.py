# SPDX-License-Identifier: Apache-2.0
"""Fixtures for tests of clients, in every pytest of an environment where the package is installed.

So it must cost nothing where nobody asks for them: the package itself is imported by the fixtures.
And the module has a name of its own: llm_datadist may be CANN's package on a path that comes first.

The names are those that docs/testing.md explains.
"""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from llm_datadist.testing import (
        DatadistCalls,
        DatadistCluster,
        DatadistEngine,
        DatadistFaults,
        DatadistPeers,
    )
    from llm_datadist.testing.warm import WarmPeers

_STRICT, _BACKEND = "LLM_DATADIST_STRICT_HARDWARE", "LLM_DATADIST_BACKEND"
# Whether a test has failed so far, at its node.
_FAILED = "_llm_datadist_failed"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the ini options."""
    parser.addini(
        "datadist_strict",
        "be as strict about arguments as a device: sets LLM_DATADIST_STRICT_HARDWARE, unless it is "
        "set, for the tests and their peers",
        type="bool",
        default=False,
    )
    parser.addini(
        "datadist_backend",
        "the library that tests use, such as mock: sets LLM_DATADIST_BACKEND, unless it is set",
        default="",
    )
    parser.addini(
        "datadist_leaks",
        "tests with datadist_engine, datadist_cluster or datadist_peers must leave no engine, "
        "descriptor, thread or memory behind in their process",
        type="bool",
        default=True,
    )
    parser.addini(
        "datadist_hang",
        "seconds after which such a test writes the stacks of its process and of its peers to "
        "stderr; 0: never",
        default="120",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Set the variables of the ini options, for everything that the session runs."""
    strict = "1" if config.getini("datadist_strict") else ""
    for name, value in ((_STRICT, strict), (_BACKEND, config.getini("datadist_backend"))):
        if value and name not in os.environ:
            os.environ[name] = value
            config.add_cleanup(partial(os.environ.pop, name, None))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Note that a test failed: what it left behind is then no news."""
    outcome = yield
    if outcome.get_result().failed:
        setattr(item, _FAILED, True)


def _complain(request: pytest.FixtureRequest, texts: list[str]) -> None:
    """Fail the test, unless it has failed already."""
    __tracebackhide__ = True
    if texts and not getattr(request.node, _FAILED, False):
        pytest.fail("\n".join(texts), pytrace=False)


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
def _datadist_process(
    request: pytest.FixtureRequest, datadist_scope: str
) -> Iterator[DatadistPeers]:
    """The peers of a test; at its end they end, and nothing is left behind in its own process."""
    from llm_datadist.testing.fixtures import DatadistPeers
    from llm_datadist.testing.hanging import HangWatch
    from llm_datadist.testing.leaks import LeakCheck

    leaks = LeakCheck()
    peers = DatadistPeers()
    watch = HangWatch(
        float(request.config.getini("datadist_hang")),
        lambda: peers.started,
        lambda text: _tell(request.config, text),
    )
    yield peers
    watch.end()
    failures = peers.end()
    left = leaks.finish()
    _complain(request, failures + (left if request.config.getini("datadist_leaks") else []))


def _tell(config: pytest.Config, text: str) -> None:
    """Write to the stderr of pytest, whatever is captured."""
    capture = config.pluginmanager.getplugin("capturemanager")
    if capture is None:
        print(text, file=sys.stderr, flush=True)
        return
    with capture.global_and_fixture_disabled():
        print(text, file=sys.stderr, flush=True)


@pytest.fixture
def datadist_peers(_datadist_process: DatadistPeers) -> DatadistPeers:
    """Start a peer in a process of its own; keyword arguments are environment variables for it
    (None takes one away).

    At the end of the test each must end in the regular way, unless the test has killed it.
    """
    return _datadist_process


@pytest.fixture
def datadist_engine(_datadist_process: DatadistPeers) -> Iterator[DatadistEngine]:
    """Open engines in the process of the test: datadist_engine(1, listen_ip_info="127.0.0.1:0").

    They are finalised at the end, whatever the test did. So are engines that the code under test
    opened by itself; that it left one open fails the test.
    """
    from llm_datadist.testing.fixtures import DatadistEngine

    engines = DatadistEngine()
    yield engines
    engines.end()


@pytest.fixture
def datadist_cluster(_datadist_process: DatadistPeers) -> Iterator[DatadistCluster]:
    """Make a set of linked prompts and decoders: datadist_cluster("2P1D"), each in a process of its
    own, or with in_process=True all in the process of the test.
    """
    from llm_datadist.testing.fixtures import DatadistCluster

    clusters = DatadistCluster(_datadist_process)
    yield clusters
    clusters.end()


@pytest.fixture(scope="session")
def _datadist_warm_peers() -> Iterator[WarmPeers]:
    """Processes for the cases of a connector suite, which reset them."""
    from llm_datadist.testing.warm import WarmPeers

    peers = WarmPeers()
    yield peers
    peers.end()


@pytest.fixture
def datadist_calls() -> Iterator[DatadistCalls]:
    """All transfers of this process since the test began: key, blocks, bytes, path, microseconds.

    Those of the code under test included, on whatever thread.
    """
    from llm_datadist.testing.calls import recording

    with recording() as calls:
        yield calls


@pytest.fixture
def datadist_faults(request: pytest.FixtureRequest) -> Iterator[DatadistFaults]:
    """The fault rules of this process, see llm_datadist.testing.faults.

    A rule that has never fired fails the test, unless it was set with must_fire=False; whatever
    rules are left at the end are taken away.
    """
    from llm_datadist.testing.faults import here

    yield here
    unfired = here.unfired()
    here.clear()
    _complain(request, unfired)
