# SPDX-License-Identifier: Apache-2.0
"""Keys and proofs of connections against known answers: both ends share the code, and would agree
on a wrong one (decision 77).

The answers were computed once with the hmac module of Python, from what csrc/engine/keys.h says.
"""

from __future__ import annotations

import pytest

from tests.engine.engine_shim import Shim

SECRET = b"s3cret"
# Magic, version 2, purpose, authentication, no features, 8 bytes of identity, a nonce.
INITIATOR = bytes.fromhex(
    "4c4c444402000101000000000000000000000000000102030405060708090a0b0c0d0e0f"
)
ACCEPTOR = bytes.fromhex("4c4c444402000101000000000000000000000000101112131415161718191a1b1c1d1e1f")
STREAM = bytes.fromhex("4c4c444402000201000000008877665544332211202122232425262728292a2b2c2d2e2f")
LINK_KEY = bytes.fromhex("7e63c49d40c08ba13ffad0d565055d04988533c9c5bacf66219d0509cace8c78")
STREAM_KEY = bytes.fromhex("8a386e3d0c36e98bad88a691fa84e31d8163887cd14c0f51c470d191de59ec95")
KEY_WITHOUT_SECRET = bytes.fromhex(
    "326592181feaede78ebaf150cb2ba08f970844d36461e09a1a1392cfd9c4dea7"
)
PROOFS = [
    (1, b"greeting", b"", "a678e6a30f2133bf5a610ff397bc5e44fecdbd19ddf25d910d7aab0020fd0fd8"),
    (0, b"greeting", b"", "6d63973b278d7d182cf1a265218ae41af6e1714cb8951df140f25a40686e2651"),
    (1, b"link", b"request", "016e9a74e34d45bfc9ddd652862c962e7b240478574a1791e0fa452170e0d340"),
]


def derived(shim: Shim, base: bytes, initiator: bytes, acceptor: bytes) -> bytes:
    key = shim.ffi.new("uint8_t[32]")
    assert shim.lib.shim_derive_key(base, len(base), initiator, acceptor, key)
    return bytes(shim.ffi.buffer(key))


@pytest.mark.rule("C10-113")
@pytest.mark.parametrize(
    ("base", "initiator", "key"),
    [
        (SECRET, INITIATOR, LINK_KEY),
        (b"", INITIATOR, KEY_WITHOUT_SECRET),
        (LINK_KEY, STREAM, STREAM_KEY),
    ],
    ids=["link", "no secret", "stream"],
)
def test_known_keys(shim: Shim, base: bytes, initiator: bytes, key: bytes) -> None:
    assert derived(shim, base, initiator, ACCEPTOR) == key


@pytest.mark.rule("C10-113")
def test_each_byte_of_either_greeting_counts(shim: Shim) -> None:
    """But for magic and version, which are the same in all."""
    keys = {LINK_KEY}
    for place in range(8, len(INITIATOR)):
        for which in (0, 1):
            greetings = [bytearray(INITIATOR), bytearray(ACCEPTOR)]
            greetings[which][place] ^= 1
            keys.add(derived(shim, SECRET, bytes(greetings[0]), bytes(greetings[1])))
    assert len(keys) == 1 + 2 * (len(INITIATOR) - 8)
    assert derived(shim, SECRET, ACCEPTOR, INITIATOR) not in keys


@pytest.mark.rule("C10-113")
@pytest.mark.parametrize(("by_initiator", "label", "message", "expected"), PROOFS)
def test_known_proofs(
    shim: Shim, by_initiator: int, label: bytes, message: bytes, expected: str
) -> None:
    proof = shim.ffi.new("uint8_t[32]")
    shim.lib.shim_proof(LINK_KEY, by_initiator, label, message, len(message), proof)
    assert bytes(shim.ffi.buffer(proof)).hex() == expected
