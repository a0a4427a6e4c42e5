# SPDX-License-Identifier: Apache-2.0
"""The published fabrics: what is generated from them, and that the mock's curves are they."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from types import ModuleType

import pytest

from llm_datadist import LLMException
from llm_datadist._native import libraries
from llm_datadist._native.control import control
from llm_datadist._native.facade import Facade
from llm_datadist._plan.fabrics import DIRECTIONS, SIZES_KIB, profiles

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fabrics", ROOT / "docs" / "fabrics.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def mock() -> Facade:
    library = libraries.load("mock")
    return Facade(library.ffi, library.lib)


def figures(mock: Facade, fabric: str, block_bytes: int) -> dict[str, float]:
    lines = control(mock, "fabric", f"{fabric} {block_bytes}").splitlines()
    return {name: float(value) for name, value in (line.split() for line in lines)}


def test_what_is_generated_is_up_to_date(generator: ModuleType) -> None:
    text = generator.PAGE.read_text(encoding="utf-8")
    if generator.TABLE.read_text() != generator.table() or text != generator.page(text):
        pytest.fail(f"run `{generator.COMMAND}`", pytrace=False)


def test_the_mock_has_the_published_figures(mock: Facade) -> None:
    assert len(profiles()) == 21
    for name, profile in profiles().items():
        for index, kib in enumerate(SIZES_KIB):
            found = figures(mock, name, kib << 10)
            for direction in DIRECTIONS:
                curve = profile.curves.get(direction)
                published = curve.gb_per_s[index] * 1e9 if curve else 0
                assert found[direction] == pytest.approx(published, rel=1e-6), (name, kib)


def test_between_the_sizes_the_curve_is_straight_in_log_log(mock: Facade) -> None:
    for name, profile in profiles().items():
        for low, high in zip(range(7), range(1, 8)):
            # Twice a size is the next one, and this is half-way in log.
            middle = round((SIZES_KIB[low] << 10) * math.sqrt(2))
            found = figures(mock, name, middle)
            for direction, curve in profile.curves.items():
                expected = math.sqrt(curve.gb_per_s[low] * curve.gb_per_s[high])
                assert found[direction] == pytest.approx(expected * 1e9, rel=1e-4), (name, middle)
                assert curve.at(middle) == pytest.approx(expected, rel=1e-4)


def test_beyond_the_sizes(mock: Facade) -> None:
    profile = profiles()["a2-roce-2hosts-default"]
    curve = profile.curves["rD2D"]
    for block_bytes, gb_per_s in (
        (1024, curve.gb_per_s[0] / 16),
        (1 << 30, curve.gb_per_s[-1]),
    ):
        found = figures(mock, profile.name, block_bytes)
        assert found["rD2D"] == pytest.approx(gb_per_s * 1e9)
        assert curve.at(block_bytes) == pytest.approx(gb_per_s)


def test_one_factor_for_everything(mock: Facade) -> None:
    once = figures(mock, "roce-200g:latency=30us", 65536)
    slower = figures(mock, "roce-200g:latency=30us:scale=250", 65536)
    assert once["latency"] == pytest.approx(30e-6)
    assert once["port"] == pytest.approx(24e9)
    for name, value in once.items():
        factor = 250 if name in ("latency", "jitter") else 1 / 250
        assert slower[name] == pytest.approx(value * factor)


def test_how_far_off_the_neighbours_are() -> None:
    # The dip of A3's default RoCE at 32 KiB, by hand from the published table.
    curve = profiles()["a3-roce-2hosts-default"].curves["D2rD"]
    low, dip, high = curve.gb_per_s[:3]
    assert dip < low < high
    assert curve.leave_one_out()[0] == pytest.approx(math.sqrt(low * high) / dip - 1)
    assert len(curve.leave_one_out()) == 6
    flat = profiles()["roce-400g"].curves["D2rD"]
    assert max(map(abs, flat.leave_one_out())) < 1e-9


@pytest.mark.parametrize(
    ("fabric", "text"),
    [
        ("a4-hccs", "there are .*: a2-hccs-1host-cs, .*, roce-400g"),
        ("", "is not a fabric and the bytes of a block"),
        ("roce-200g:scale=0.5", '"scale=0.5" is none of scale=N with N from 1 to 1000000'),
        ("roce-200g:latency=20", '"latency=20" is none of .* TIME in us, ms or s, at most 60s'),
        ("roce-200g:jitter=61s", '"jitter=61s"'),
        ("roce-200g:", '"" is none of'),
    ],
)
def test_a_bad_one_is_refused(mock: Facade, fabric: str, text: str) -> None:
    with pytest.raises(LLMException, match=text):
        figures(mock, fabric, 65536)
