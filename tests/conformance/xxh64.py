# SPDX-License-Identifier: Apache-2.0
"""XXH64 with seed 0, written a second time: what csrc/base/checksum.h must give."""

from __future__ import annotations

import struct

_MASK = 2**64 - 1
_P1, _P2, _P3, _P4, _P5 = (
    11400714785074694791,
    14029467366897019727,
    1609587929392839161,
    9650029242287828579,
    2870177450012600261,
)


def _left(value: int, bits: int) -> int:
    return (value << bits | value >> (64 - bits)) & _MASK


def _round(lane: int, word: int) -> int:
    return _left((lane + word * _P2) & _MASK, 31) * _P1 & _MASK


def xxh64(content: bytes) -> int:
    """Return the sum of the bytes."""
    rest = content
    value = _P5
    if len(content) >= 32:
        lanes = [(_P1 + _P2) & _MASK, _P2, 0, -_P1 & _MASK]
        whole = len(content) // 32 * 32
        for words in struct.iter_unpack("<4Q", content[:whole]):
            lanes = [_round(lane, word) for lane, word in zip(lanes, words)]
        rest = content[whole:]
        value = sum(_left(lane, bits) for lane, bits in zip(lanes, (1, 7, 12, 18))) & _MASK
        for lane in lanes:
            value = ((value ^ _round(0, lane)) * _P1 + _P4) & _MASK
    value = (value + len(content)) & _MASK
    while len(rest) >= 8:
        word = int.from_bytes(rest[:8], "little")
        value = (_left(value ^ _round(0, word), 27) * _P1 + _P4) & _MASK
        rest = rest[8:]
    if len(rest) >= 4:
        word = int.from_bytes(rest[:4], "little")
        value = (_left(value ^ (word * _P1 & _MASK), 23) * _P2 + _P3) & _MASK
        rest = rest[4:]
    for byte in rest:
        value = _left(value ^ (byte * _P5 & _MASK), 11) * _P1 & _MASK
    value = (value ^ value >> 33) * _P2 & _MASK
    value = (value ^ value >> 29) * _P3 & _MASK
    return value ^ value >> 32
