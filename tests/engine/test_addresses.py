# SPDX-License-Identifier: Apache-2.0
"""What is read of bytes from outside: IP addresses that peers name (decision 72), numbers."""

from __future__ import annotations

import pytest


@pytest.mark.rule("C10-76")
@pytest.mark.parametrize(
    ("text", "is_address"),
    [
        (b"127.0.0.1", 1),
        (b"::1", 1),
        (b"127.0.0.1\0", 0),
        (b"127.0.0.1\0x", 0),
        (b"::1\0x", 0),
        (b"\0", 0),
    ],
)
def test_an_address_with_a_null_character_is_none(shim, text, is_address):
    assert shim.lib.shim_is_address(text, len(text)) == is_address


def test_strangers_are_told_apart_by_their_networks(shim) -> None:
    """IPv4: by the address; IPv6: by its first 64 bits, which one host has all addresses of."""
    first, second, same, other = (
        shim.lib.shim_network(ip)
        for ip in (b"10.0.0.1", b"10.0.0.2", b"2001:db8::1", b"2001:db8:0:1::1")
    )
    assert len({first, second, same, other}) == 4
    assert shim.lib.shim_network(b"2001:db8::2:3") == same
    assert same == int.from_bytes(bytes.fromhex("20010db800000000"), "little")


@pytest.mark.parametrize(
    ("size", "numbers"),
    [(7, (0x0201, 0x06050403)), (6, (0x0201, 0x06050403)), (5, (0x0201, 0)), (1, (0, 0))],
)
def test_a_number_past_the_end_is_zero(shim, size, numbers) -> None:
    first, second = shim.ffi.new("uint16_t *"), shim.ffi.new("uint32_t *")
    is_read = shim.ffi.new("uint32_t *")
    shim.lib.shim_read_numbers(bytes(range(1, size + 1)), size, first, second, is_read)
    assert ((first[0], second[0]), is_read[0]) == (numbers, size >= 6)


@pytest.mark.parametrize(
    ("address", "place"),
    [(9, 3), (10, 0), (19, 1), (40, 0), (109, 0), (110, 3), (300, 2), (310, 3)],
)
def test_a_region_that_others_lie_in_is_found_to_its_last_byte(shim, address, place) -> None:
    """Two overlap: 10..109, 15..24; one is apart: 300..309."""
    found = shim.lib.shim_find_region([10, 300, 15], [100, 10, 10], 3, address)
    assert found == place
