# SPDX-License-Identifier: Apache-2.0
"""SHA-256 and HMAC-SHA-256 against published vectors, and against Python's own.

Both ends of a link share our code, so a wrong digest would still agree between them.
"""

from __future__ import annotations

import hashlib
import hmac

import pytest

from tests.engine.engine_shim import Shim

pytestmark = pytest.mark.sanitize

BLOCK = 64
# FIPS 180-2, appendix B, the 896-bit example of NIST's page of examples, and the empty message and
# the shortest one of NIST's test vectors for byte-oriented messages.
SHA256 = [
    (b"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
    (b"\xd3", "28969cdfa74a12c82f3bad960b0b000aca2ac329deea5c2328ebc6f2ba9802c1"),
    (b"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
    (
        b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
    ),
    (
        b"abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmn"
        b"hijklmnoijklmnopjklmnopqklmnopqrlmnopqrsmnopqrstnopqrstu",
        "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1",
    ),
    (b"a" * 1_000_000, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"),
]
# RFC 4231, section 4: key, data, HMAC-SHA-256. Case 5 truncates the result to 128 bits.
LONG_KEY = b"\xaa" * 131
RFC_4231 = [
    (
        b"\x0b" * 20,
        b"Hi There",
        "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
    ),
    (
        b"Jefe",
        b"what do ya want for nothing?",
        "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
    ),
    (
        b"\xaa" * 20,
        b"\xdd" * 50,
        "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe",
    ),
    (
        bytes(range(1, 26)),
        b"\xcd" * 50,
        "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b",
    ),
    (b"\x0c" * 20, b"Test With Truncation", "a3b6167473100ee06e0c796c2955552b"),
    (
        LONG_KEY,
        b"Test Using Larger Than Block-Size Key - Hash Key First",
        "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
    ),
    (
        LONG_KEY,
        b"This is a test using a larger than block-size key and a larger than block-size data. "
        b"The key needs to be hashed before being used by the HMAC algorithm.",
        "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2",
    ),
]


def sha256(shim: Shim, message: bytes) -> bytes:
    digest = shim.ffi.new("uint8_t[32]")
    shim.lib.shim_sha256(message, len(message), digest)
    return bytes(digest)


def hmac_sha256(shim: Shim, key: bytes, message: bytes) -> bytes:
    digest = shim.ffi.new("uint8_t[32]")
    shim.lib.shim_hmac_sha256(key, len(key), message, len(message), digest)
    return bytes(digest)


@pytest.mark.parametrize(("message", "digest"), SHA256, ids=lambda each: f"{len(each)}")
def test_sha256_of_the_published_messages(shim: Shim, message: bytes, digest: str) -> None:
    assert sha256(shim, message).hex() == digest


@pytest.mark.parametrize(("key", "message", "digest"), RFC_4231, ids=range(1, 8))
def test_the_cases_of_rfc_4231(shim: Shim, key: bytes, message: bytes, digest: str) -> None:
    assert hmac_sha256(shim, key, message).hex()[: len(digest)] == digest


def test_every_length_of_padding(shim: Shim) -> None:
    """Around one block and two, where the length no longer fits behind the message."""
    for size in range(3 * BLOCK):
        message = bytes(range(size))
        assert sha256(shim, message) == hashlib.sha256(message).digest(), size


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK])
def test_keys_around_the_size_of_a_block(shim: Shim, size: int) -> None:
    """A key longer than a block is hashed; one of exactly a block is not."""
    key, message = bytes(range(1, size + 1)), b"a nonce of each end"
    assert hmac_sha256(shim, key, message) == hmac.digest(key, message, "sha256")


def test_digests_are_the_same_only_if_every_byte_is(shim: Shim) -> None:
    digest = hashlib.sha256(b"abc").digest()

    def same(other: bytes) -> bool:
        return bool(shim.lib.shim_same_digest(digest, len(digest), other, len(other)))

    assert same(bytes(digest))
    for place in range(len(digest)):
        for bit in range(8):
            other = bytearray(digest)
            other[place] ^= 1 << bit
            assert not same(bytes(other)), (place, bit)
    assert not same(digest[:-1])
    assert not same(digest + b"\0")
    assert not same(b"")
