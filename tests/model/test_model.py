# SPDX-License-Identifier: Apache-2.0
"""Engines against their model: a few seconds here, long with `python -m tests.model.run_long`."""

from __future__ import annotations

import pytest

pytest.importorskip("hypothesis")

from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.model.machine import Machine, OneSided, Request

SHORT = settings(
    max_examples=12,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.parametrize("machine", [OneSided, Request])
def test_engines_do_what_the_model_does(machine: type[Machine]) -> None:
    run_state_machine_as_test(machine, settings=SHORT)
