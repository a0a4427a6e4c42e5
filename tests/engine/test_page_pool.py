# SPDX-License-Identifier: Apache-2.0
"""The page pool against a model that is one flag for each page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.engine.engine_shim import PARAM_INVALID, SUCCESS, Shim

pytestmark = pytest.mark.sanitize

SHIFT = 10
PAGE = 1 << SHIFT
BASE = 0x7F00_0000_0000


class Model:
    """Which allocation holds each page; 0 is free."""

    def __init__(self, pages: int) -> None:
        self.pages = [0] * pages

    def free_spans(self) -> list[tuple[int, int]]:
        """(pages, first page) of each maximal free span."""
        spans = []
        first = 0
        for page in range(len(self.pages) + 1):
            if page == len(self.pages) or self.pages[page]:
                if page > first:
                    spans.append((page - first, first))
                first = page + 1
        return spans

    def allocate(self, size: int) -> int:
        """The address, 0 when nothing fits."""
        need = max(1, -(-size // PAGE))
        fitting = sorted(span for span in self.free_spans() if span[0] >= need)
        if not fitting:
            return 0
        length, first = fitting[0]
        start = first + length - need
        address = BASE + start * PAGE
        self.pages[start : start + need] = [address] * need
        return address

    def free(self, address: int) -> bool:
        held = address in self.pages and address != 0
        self.pages = [0 if page == address else page for page in self.pages]
        return held

    def free_bytes(self) -> int:
        return self.pages.count(0) * PAGE


class Pool:
    def __init__(self, shim: Shim, size: int, shift: int = SHIFT) -> None:
        self.ffi = shim.ffi
        self.lib: Any = shim.lib
        self.handle = self.lib.shim_pool_new(BASE, size, shift)

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.lib.shim_pool_delete(self.handle)

    def allocate(self, size: int) -> int:
        return int(self.lib.shim_pool_allocate(self.handle, size))

    def allocate_all(self, size: int, count: int) -> list[int] | None:
        out = self.ffi.new("uint64_t[]", 64)  # more than any pool here has pages
        answer = self.lib.shim_pool_allocate_all(self.handle, size, count, out)
        assert answer in (0, 1), "a failed call changed the vector"
        return list(out)[:count] if answer else None

    def free(self, address: int) -> bool:
        return bool(self.lib.shim_pool_free(self.handle, address))

    def free_bytes(self) -> int:
        return int(self.lib.shim_pool_free_bytes(self.handle))


@pytest.fixture
def four_pages(shim: Shim) -> Iterator[Pool]:
    with Pool(shim, 256 << 10, 16) as pool:
        yield pool


@pytest.mark.rule("C3.3-9", "C3.3-11", "C3.3-15")
@pytest.mark.parametrize("size", [0, 1, 64 << 10])
def test_four_tensors_in_256_kib(four_pages: Pool, size: int) -> None:
    addresses = [four_pages.allocate(size) for _ in range(4)]
    assert addresses == [BASE + page * (64 << 10) for page in (3, 2, 1, 0)]
    assert four_pages.allocate(size) == 0
    assert four_pages.free_bytes() == 0


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("allocate"), st.integers(0, 6 * PAGE)),
        st.tuples(st.just("all"), st.integers(0, 4 * PAGE), st.integers(0, 5)),
        st.tuples(st.just("free"), st.integers(0, 50)),
        st.tuples(st.just("free bad"), st.integers(-2 * PAGE, 40 * PAGE)),
    ),
    max_size=60,
)


@pytest.mark.rule("C3.3-9", "C3.3-10", "C3.3-11", "C3.3-12", "C3.3-13")
@given(st.integers(PAGE, 40 * PAGE), OPERATIONS)
def test_against_model(shim: Shim, size: int, operations: list[tuple[Any, ...]]) -> None:
    model = Model(size // PAGE)
    held: list[int] = []
    with Pool(shim, size) as pool:
        for name, *args in operations:
            if name == "allocate":
                address = pool.allocate(args[0])
                assert address == model.allocate(args[0])
                held += [address] if address else []
            elif name == "all":
                before = list(model.pages)
                wanted = [model.allocate(args[0]) for _ in range(args[1])]
                if 0 in wanted:
                    model.pages = before
                    assert pool.allocate_all(*args) is None
                else:
                    assert pool.allocate_all(*args) == wanted
                    held += wanted
            elif name == "free" and held:
                address = held.pop(args[0] % len(held))
                assert pool.free(address)
                assert model.free(address)
                assert not pool.free(address), "freed twice"
            elif name == "free bad" and BASE + args[0] not in held:
                assert not pool.free(BASE + args[0])
            assert pool.free_bytes() == model.free_bytes()
        for address in held:
            assert pool.free(address)
        whole = size // PAGE * PAGE
        assert pool.allocate(whole) == BASE, "everything merged again"


@pytest.mark.rule("C3.3-10", "C3.3-11")
def test_exact_fit_comes_before_a_larger_span(shim: Shim) -> None:
    with Pool(shim, 16 * PAGE) as pool:
        sizes = [3, 1, 2, 1, 4, 1, 4]
        addresses = [pool.allocate(pages * PAGE) for pages in sizes]
        for index in (0, 2, 4):
            assert pool.free(addresses[index])
        assert pool.allocate(2 * PAGE) == addresses[2]
        assert pool.allocate(2 * PAGE) == addresses[0] + PAGE, "high end of the smaller of the rest"


def test_sizes_no_pool_has(four_pages: Pool, shim: Shim) -> None:
    assert four_pages.allocate(2**64 - 1) == 0
    assert four_pages.allocate_all(1, 2**32 - 1) is None
    assert four_pages.allocate_all(2**64 - 1, 3) is None
    assert shim.lib.shim_pool_round_up(four_pages.handle, 2**64 - 1) == 2**64 - 1
    assert shim.lib.shim_pool_round_up(four_pages.handle, 65537) == 131072
    assert shim.lib.shim_pool_round_up(four_pages.handle, 0) == 65536


@pytest.mark.rule("C3.3-4")
@pytest.mark.parametrize(
    ("size", "shift", "words"),
    [
        (1 << 20, 9, ["page_shift", "is 9", "10 to 30"]),
        (1 << 40, 31, ["is 31", "10 to 30"]),
        (65535, 16, ["65535 bytes", "one page of 65536"]),
        (0, 10, ["0 bytes"]),
        ((2**32 - 1) << 10, 10, ["4294967295 pages"]),
    ],
)
def test_refused_configs(shim: Shim, size: int, shift: int, words: list[str]) -> None:
    assert shim.lib.shim_check_pool(size, shift) == PARAM_INVALID
    for word in ["device pool", *words]:
        assert word in shim.text()


@pytest.mark.parametrize(
    ("size", "shift"), [(1024, 10), (1 << 30, 30), (65536, 16), (((2**32 - 1) << 10) - 1, 10)]
)
def test_allowed_configs(shim: Shim, size: int, shift: int) -> None:
    assert shim.lib.shim_check_pool(size, shift) == SUCCESS
