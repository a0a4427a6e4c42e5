# SPDX-License-Identifier: Apache-2.0
"""The copy kernels of a library are those that the CPU has, whatever compiled it."""

from __future__ import annotations

import platform
import re
from pathlib import Path

import pytest

from llm_datadist import backends
from llm_datadist._native import control

# In the order of choice: what Linux calls the feature of the CPU.
FEATURES = {"avx512": "avx512f", "avx2": "avx2", "movsb": "erms"}


def test_the_kernels_of_this_cpu_can_be_chosen():
    if backends.backend_info().name != "mock":
        pytest.skip("capability mock: copy kernels are of the mock runtime")
    if platform.machine() != "x86_64":
        pytest.skip(f"capability x86-64: this is {platform.machine()}")
    flags = re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)[1]
    expected = [name for name, feature in FEATURES.items() if feature in flags.split()]
    usable = re.search(r"^usable: (.*)$", control.runtime_control("kernel"), re.MULTILINE)[1]
    assert re.findall(r"\w+", usable) == [*expected, "memcpy"]
