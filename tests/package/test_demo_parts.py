# SPDX-License-Identifier: Apache-2.0
"""The parts of the demo: arithmetic of caches, the memory that is there, the check of bytes."""

from __future__ import annotations

import io

import numpy as np
import pytest

from llm_datadist._cli import _geometry
from llm_datadist._cli._geometry import Geometry, in_words
from llm_datadist._cli._pattern import Moved, Pattern, WrongByte
from llm_datadist._cli._progress import Progress

hypothesis = pytest.importorskip("hypothesis")
st = hypothesis.strategies

TENSORS, BLOCKS, BLOCK_WORDS = 3, 5, 4
OWN, PEER, STEP = 1, 2, 7


# ---- geometry ----


def test_the_default_is_one_gib_a_process():
    layers, kv_heads, head_dim = _geometry.MODELS[_geometry.DEFAULT_MODEL]
    geometry = Geometry(layers, kv_heads, head_dim, 128, "bfloat16", 64)
    assert geometry.block_bytes == 128 * 8 * 128 * 2
    assert geometry.cache_bytes == 1 << 30
    assert geometry.pool_bytes == 1 << 30


def test_a_pool_has_whole_pages_for_each_tensor():
    geometry = Geometry(1, 1, 8, 1, "int8", 1)
    assert geometry.cache_bytes == 2 * 8
    assert geometry.pool_bytes == 2 * 65536


@pytest.mark.parametrize(
    ("size", "text"),
    [(8, "8 bytes"), (1 << 10, "1 KiB"), (3 << 29, "1.5 GiB"), (3 << 50, "3 PiB")],
)
def test_sizes_for_people(size, text):
    assert in_words(size) == text


# ---- bytes ----


def _filled(owner, step=STEP):
    tensors = [np.zeros((BLOCKS, BLOCK_WORDS), np.uint64) for _ in range(TENSORS)]
    Pattern(BLOCKS, BLOCK_WORDS).fill(tensors, owner, step)
    return tensors


def _ids(*numbers):
    return np.array(numbers, np.uint64)


def _check(tensors, moved=None):
    return Pattern(BLOCKS, BLOCK_WORDS).check(tensors, OWN, STEP, moved)


def test_what_was_filled_is_right_and_never_repeats():
    tensors = _filled(OWN)
    assert _check(tensors) is None
    words = np.concatenate([np.ravel(each) for owner in (OWN, PEER) for each in _filled(owner)])
    assert len(np.unique(words)) == len(words)


def test_moved_blocks_are_the_peers():
    own, peer = _filled(OWN), _filled(PEER)
    moved = Moved(PEER, _ids(4, 0), _ids(1, 2))
    for mine, theirs in zip(own, peer):
        mine[[1, 2]] = theirs[[4, 0]]
    assert _check(own, moved) is None
    # Not moved, moved elsewhere, and moved although nothing was asked for.
    assert _check(_filled(OWN), moved).block == 1
    assert _check(own, Moved(PEER, _ids(0, 4), _ids(1, 2))).block == 1
    assert _check(own).block == 1


def test_an_older_step_is_wrong():
    assert _check(_filled(OWN, STEP - 1)) is not None


@hypothesis.given(
    tensor=st.integers(0, TENSORS - 1),
    block=st.integers(0, BLOCKS - 1),
    offset=st.integers(0, 8 * BLOCK_WORDS - 1),
    bit=st.integers(0, 7),
)
def test_any_wrong_bit_is_found_where_it_is(tensor, block, offset, bit):
    tensors = _filled(OWN)
    row = tensors[tensor][block].view(np.uint8)
    right = int(row[offset])
    row[offset] ^= 1 << bit
    assert _check(tensors) == WrongByte(tensor, block, offset, right ^ (1 << bit), right)


# ---- progress ----


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_bar_on_a_terminal():
    stream = Terminal()
    progress = Progress(stream, 4)
    progress.advance()
    progress.show("pull")
    assert f"[{'#' * 6}{'.' * 18}] 1/4 pull" in stream.getvalue()
    progress.advance(3)
    progress.show("done")
    assert f"[{'#' * 24}] 4/4 done" in stream.getvalue()
    progress.clear()
    assert stream.getvalue().endswith("\r\033[K")


def test_nothing_where_there_is_no_terminal():
    stream = io.StringIO()
    progress = Progress(stream, 4)
    progress.show("pull")
    progress.clear()
    assert stream.getvalue() == ""
