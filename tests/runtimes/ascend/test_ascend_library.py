# SPDX-License-Identifier: Apache-2.0
"""The Ascend library as a file: it exports what the mock exports, and nothing else."""

from __future__ import annotations

import re
import subprocess

from llm_datadist._native import libraries


def exported(path) -> set[str]:
    listing = subprocess.run(
        ["nm", "-D", "--defined-only", path], check=True, capture_output=True, text=True
    )
    return {line.split()[-1].split("@")[0] for line in listing.stdout.splitlines()}


def test_exports(library):
    symbols = exported(library)
    assert {name for name in symbols if not name.startswith("lldd_")} == set()
    assert symbols == exported(libraries.packaged("mock"))


def test_needs_cann_and_the_dynamic_cxx_runtime(library):
    listing = subprocess.run(
        ["readelf", "-d", library], check=True, capture_output=True, text=True
    ).stdout
    needed = set(re.findall(r"\(NEEDED\).*\[(.+)\]", listing))
    assert {"libcann_hixl.so", "libmetadef.so", "libacl_rt.so", "libstdc++.so.6"} <= needed


def test_strings_are_of_the_old_abi(library):
    symbols = subprocess.run(
        ["nm", "-C", "--defined-only", library], check=True, capture_output=True, text=True
    ).stdout
    assert "lldd::ascend::" in symbols
    assert "std::__cxx11::basic_string" not in symbols


def test_it_says_what_it_is(peers):
    peer = peers.start(7)
    info = peer.call(backend_info)
    assert info["name"] == "ascend"
    assert info["device_count"] == 32
    assert "FakeAscend" in info["description"]
    assert info["path"].endswith("libllm_datadist_ascend.so")


def backend_info(actor) -> dict:
    from dataclasses import asdict

    import llm_datadist

    return asdict(llm_datadist.backend_info())
