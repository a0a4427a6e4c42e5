# SPDX-License-Identifier: Apache-2.0
"""IP addresses that peers name: decision 72."""

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
