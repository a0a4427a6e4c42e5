# SPDX-License-Identifier: Apache-2.0
"""A local copy that is longer than any memory: decision 71."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

# The pieces of so many bytes would take 200 MB.
_LENGTH = 1 << 43
_MOST_GROWTH_KB = 32 << 10
_PROGRAM = f"""
import mmap
from llm_datadist import *
def peak():
    return [int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmHWM")][0]
config = LLMConfig()
config.enable_cache_manager = True
datadist = LLMDataDist(LLMRole.PROMPT, 1)
datadist.init(config.generate_options())
manager = datadist.cache_manager
def cache(placement):
    desc = CacheDesc(1, [1, {_LENGTH}], DataType.DT_INT8, placement)
    return Cache(1, desc, [1 << 44], True)
host = Cache.create_cpu_cache(cache(Placement.HOST).cache_desc, [1 << 45])
before = peak()
try:
    manager.swap_blocks(host, cache(Placement.DEVICE), {{0: 0}})
except LLMException as refused:
    print(refused.status_code.name, refused)
print("grown", peak() - before)
"""


@pytest.mark.rule("C10-72")
def test_an_absurd_length_is_refused_before_it_is_planned():
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        env={**os.environ, "LLM_DATADIST_BACKEND": "mock"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    refused, grown = done.stdout.splitlines()
    assert refused.startswith("LLM_FAILED")
    assert f"is not mapped for the copy of {_LENGTH} bytes" in refused
    assert int(grown.split()[1]) < _MOST_GROWTH_KB
