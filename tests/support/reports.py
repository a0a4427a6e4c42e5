# SPDX-License-Identifier: Apache-2.0
"""A plugin of pytest that reports each file of tests to another process when it is done.

    python -m pytest -p tests.support.reports --reports-to=DESCRIPTOR

The first line is a JSON object with the files that have tests in this session, and those whose
tests were all deselected. Then each file has a line: its name, how many tests passed, why others
were skipped, and the tests that failed with what pytest has to say of them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Generator
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--reports-to", type=int, metavar="DESCRIPTOR", required=True)


def pytest_configure(config: pytest.Config) -> None:
    descriptor = config.getoption("--reports-to")
    # It was inherited from the process that listens; no child of a test may keep it open.
    os.set_inheritable(descriptor, False)
    config.pluginmanager.register(Reports(descriptor))


class Reports:
    """The outcomes of the file that runs at the moment."""

    def __init__(self, descriptor: int) -> None:
        self._out = os.fdopen(descriptor, "w", buffering=1)
        self._deselected: list[str] = []
        self._begin()

    def _begin(self) -> None:
        self._passed = 0
        self._skipped: list[str] = []
        self._failed: list[tuple[str, str]] = []

    def _send(self, message: Any) -> None:
        self._out.write(json.dumps(message) + "\n")

    def pytest_deselected(self, items: list[pytest.Item]) -> None:
        self._deselected += [item.path.name for item in items]

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        selected = {item.path.name for item in session.items}
        deselected = {*self._deselected} - selected
        self._send({"selected": sorted(selected), "deselected": sorted(deselected)})

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._failed.append((f"{report.when} of {report.nodeid}", report.longreprtext))
        elif report.skipped:
            assert isinstance(report.longrepr, tuple)
            self._skipped.append(report.longrepr[2])
        elif report.when == "call":
            self._passed += 1

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(
        self, item: pytest.Item, nextitem: pytest.Item | None
    ) -> Generator[None, object, object]:
        done = yield
        if nextitem is None or nextitem.path != item.path:
            outcomes = {"passed": self._passed, "skipped": self._skipped, "failed": self._failed}
            self._send({"file": item.path.name, **outcomes})
            self._begin()
        return done
