# SPDX-License-Identifier: Apache-2.0
"""The layers of the native sources hold: includes go down, and never round in a circle."""

from __future__ import annotations

import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.package.tree import ROOT, name_of, native_sources

# From the ground up: what a folder may include of the others.
LAYERS = {
    "csrc/include": set(),
    "csrc/base": {"csrc/include"},
    "csrc/runtime": {"csrc/include", "csrc/base"},
    "csrc/engine": {"csrc/include", "csrc/base", "csrc/runtime"},
    "csrc/ascend": {"csrc/include", "csrc/base", "csrc/runtime"},
    "mock_runtime": {"csrc/include", "csrc/base", "csrc/runtime"},
}
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)
# Where the compiler looks for what stands between quotation marks, see building.py.
SEARCHED = (ROOT / "csrc", ROOT / "csrc" / "include", ROOT)
# CANN's own headers, and what the build generates.
NOT_OURS = re.compile(r"(acl|hixl|external|ge)/|lldd_layout\.inc")


def _layer(name: str) -> str:
    return name.rpartition("/")[0]


def _included(source: Path) -> set[str]:
    """Return our own files that this one includes."""
    found = set()
    for name in INCLUDE.findall(source.read_text()):
        places = [folder / name for folder in SEARCHED if (folder / name).is_file()]
        assert len(places) == 1 or NOT_OURS.match(name), f"{source}: {name} is {places}"
        found.update(name_of(place) for place in places)
    return found


INCLUDES = {name_of(source): _included(source) for source in native_sources()}


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_includes_only_what_lies_below_it(layer):
    here = {name: found for name, found in INCLUDES.items() if _layer(name) == layer}
    assert here
    allowed = {layer, *LAYERS[layer]}
    wrong = [
        f"{name} includes {included}"
        for name, found in here.items()
        for included in found
        if _layer(included) not in allowed
    ]
    assert wrong == []


def test_every_source_lies_in_a_layer():
    assert {_layer(name) for name in INCLUDES} == set(LAYERS)


def test_no_file_includes_itself_by_way_of_others():
    try:
        TopologicalSorter(INCLUDES).prepare()
    except CycleError as circle:
        pytest.fail(" includes ".join(reversed(circle.args[1])))


def test_no_source_file_is_included():
    assert [name for found in INCLUDES.values() for name in found if not name.endswith(".h")] == []


def test_what_an_older_c_library_lacks_comes_from_one_header():
    """A manylinux_2_17 wheel is built for a glibc that declares neither function."""
    sources = [path for path in native_sources() if "csrc/ascend" not in name_of(path)]
    users = {
        name_of(path)
        for path in sources
        if re.search(r"\b(?:getrandom|memfd_create)\(", path.read_text())
    } - {"csrc/base/older_libc.h"}
    assert users
    assert [name for name in users if "csrc/base/older_libc.h" not in INCLUDES[name]] == []
