# SPDX-License-Identifier: Apache-2.0
"""Checksums against published answers, and against a second implementation.

Both ends of a link share our code, so a wrong sum would still agree between them.
"""

from __future__ import annotations

import pytest

from tests.conformance.xxh64 import xxh64
from tests.engine.engine_shim import Shim

pytestmark = pytest.mark.sanitize

# Of XXH64 with seed 0.
KNOWN = [
    (b"", 0xEF46DB3751D8E999),
    (b"a", 0xD24EC4F1A98C6E5B),
    (b"abc", 0x44BC2CF5AD770999),
    (b"Nobody inspects the spammish repetition", 0xFBCEA83C8A378BF1),
]


def checksum(shim: Shim, content: bytes, piece: int = 1 << 20) -> int:
    found = shim.lib.shim_checksum(content, len(content), piece)
    assert isinstance(found, int)
    return found


@pytest.mark.parametrize(("content", "expected"), KNOWN, ids=lambda each: str(each)[:12])
def test_published_answers(shim: Shim, content: bytes, expected: int) -> None:
    assert checksum(shim, content) == expected
    assert xxh64(content) == expected


def test_every_length_in_any_pieces(shim: Shim) -> None:
    content = bytes((i * 37 + 11) % 256 for i in range(133))
    for size in range(len(content)):
        expected = xxh64(content[:size])
        for piece in (1, 5, 31, 32, 33, 64, 200):
            assert checksum(shim, content[:size], piece) == expected, (size, piece)


def test_any_bit_changes_the_sum(shim: Shim) -> None:
    content = bytearray(range(100))
    sums = {checksum(shim, bytes(content))}
    for bit in range(8 * len(content)):
        content[bit // 8] ^= 1 << bit % 8
        sums.add(checksum(shim, bytes(content)))
        content[bit // 8] ^= 1 << bit % 8
    assert len(sums) == 8 * len(content) + 1
