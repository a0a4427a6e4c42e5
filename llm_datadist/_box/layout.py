# SPDX-License-Identifier: Apache-2.0
"""Where everything lies in a box: csrc/base/box_format.h, in Python's words."""

from __future__ import annotations

import struct

MAGIC = b"LLDDBOX\0"
FORMAT = 1
HEADER_BYTES = 4096
SLOT_BYTES = 256
RINGS = ("calls", "peers", "events", "texts")

# struct Header, without its rings: magic, format, slot bytes, cluster, pid, start of the process,
# boot id, opened, opened by the clock on the wall, closed, first half of the ids, host, runtime,
# time namespace.
HEADER = struct.Struct("<8sIIQIxxxxQ16sqqqQ64s16sQ")
# struct RingHead: offset, slots, next ticket, skipped, lost.
RING = struct.Struct("<QQ48xQQQ40x")
RINGS_AT = 256
# struct Record; the names are those of its members.
RECORD = struct.Struct("<QQqQQQQIIqQQQqIIIIIIIIIIqqIIqqqQQIIIIIIIIIII4x")
RECORD_FIELDS = (
    "state",
    "begun",
    "entry_ns",
    "id_high",
    "id_low",
    "parent",
    "peer",
    "kind",
    "thread",
    "cache_id",
    "key_model",
    "key_req",
    "key_prefix",
    "key_cache_id",
    "key_kind",
    "key_batch",
    "batch",
    "tensors_per_layer",
    "src_layer",
    "dst_layer",
    "src_layers",
    "dst_layers",
    "num_src",
    "num_dst",
    "size",
    "told_ns",
    "status",
    "link",
    "turn_ns",
    "first_byte_ns",
    "end_ns",
    "bytes",
    "digest",
    "num_blocks",
    "paths",
)
FIRST_BLOCKS = 3
# struct Text: state, time, about, part, parts, length; then the text.
TEXT = struct.Struct("<QqQIIIxxxx")

assert RECORD.size == SLOT_BYTES

KINDS = {1: "pull", 2: "push", 3: "layer", 4: "copy_cache", 5: "copy_blocks", 6: "swap_blocks"}
# By the number of their bit.
PATHS = ("mapped", "cma", "tcp", "hixl")


def digest(runs: list[tuple[int, int, int]]) -> int:
    """Return the digest of pairs of blocks, given as runs: (own, peer's, count), in order."""
    value = 0xCBF29CE484222325
    for run in runs:
        for number in run:
            value = (value ^ number) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return value
