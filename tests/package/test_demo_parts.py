# SPDX-License-Identifier: Apache-2.0
"""The parts of the demo: arithmetic of caches, the memory that is there, the check of bytes."""

from __future__ import annotations

import io

import numpy as np
import pytest

from llm_datadist._cli import _geometry
from llm_datadist._cli._geometry import KVGeometry
from llm_datadist._tools.progress import Progress
from llm_datadist._tools.units import in_words
from llm_datadist.testing import Geometry
from llm_datadist.testing.pattern import WrongByte, first_wrong_byte

hypothesis = pytest.importorskip("hypothesis")
st = hypothesis.strategies

SHAPE = Geometry(num_tensors=3, num_blocks=5, block_bytes=32)
STAMP = 7


# ---- geometry ----


def test_the_default_is_one_gib_a_process():
    layers, kv_heads, head_dim = _geometry.MODELS[_geometry.DEFAULT_MODEL]
    geometry = KVGeometry(layers, kv_heads, head_dim, 128, "bfloat16", 64)
    assert geometry.block_bytes == 128 * 8 * 128 * 2
    assert geometry.cache_bytes == geometry.cache().cache_bytes == 1 << 30
    desc = geometry.cache().desc()
    assert (desc.num_tensors, desc.shape) == (64, [64, 128, 8, 128])
    assert desc.size == geometry.cache().tensor_bytes
    assert geometry.cache().pool_bytes() == 1 << 30


def test_a_pool_has_whole_pages_for_each_tensor():
    geometry = KVGeometry(1, 1, 8, 1, "int8", 1)
    assert geometry.cache_bytes == 2 * 8
    assert geometry.cache().pool_bytes() == 2 * 65536


@pytest.mark.parametrize(
    ("size", "text"),
    [(8, "8 bytes"), (1 << 10, "1 KiB"), (3 << 29, "1.5 GiB"), (3 << 50, "3 PiB")],
)
def test_sizes_for_people(size, text):
    assert in_words(size) == text


# ---- bytes ----


@hypothesis.given(
    tensor=st.integers(0, SHAPE.num_tensors - 1),
    block=st.integers(0, SHAPE.num_blocks - 1),
    offset=st.integers(0, SHAPE.block_bytes - 1),
    bit=st.integers(0, 7),
)
def test_any_wrong_bit_is_found_where_it_is(tensor, block, offset, bit):
    tensors = list(SHAPE.filled(STAMP))
    assert first_wrong_byte(tensors, STAMP) is None
    row = tensors[tensor][block].view(np.uint8)
    right = int(row[offset])
    row[offset] ^= 1 << bit
    wrong = WrongByte(tensor, block, offset, right ^ (1 << bit), right)
    assert first_wrong_byte(tensors, STAMP) == wrong


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
