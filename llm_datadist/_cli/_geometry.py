# SPDX-License-Identifier: Apache-2.0
"""How large the KV cache of a model is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llm_datadist.testing import Geometry

# Bytes of an element, and the name of the DataType.
DTYPES = {
    "bfloat16": (2, "DT_BF16"),
    "float16": (2, "DT_FLOAT16"),
    "float32": (4, "DT_FLOAT"),
    "int8": (1, "DT_INT8"),
}

# Layers, KV heads, and elements of a head, as the models' own configurations state them.
MODELS = {
    "llama-2-7b": (32, 32, 128),
    "llama-3-8b": (32, 8, 128),
    "llama-3-70b": (80, 8, 128),
    "mistral-7b": (32, 8, 128),
    "gemma-2-9b": (42, 8, 256),
    "qwen2.5-0.5b": (24, 2, 64),
    "qwen2.5-7b": (28, 4, 128),
    "qwen2.5-72b": (80, 8, 128),
    "qwen3-32b": (64, 8, 128),
}
DEFAULT_MODEL = "llama-3-8b"


@dataclass(frozen=True)
class KVGeometry:
    """The paged KV cache of a model: a tensor of K and one of V for each layer."""

    layers: int
    kv_heads: int
    head_dim: int
    block_tokens: int
    dtype: str
    blocks: int

    @property
    def tensors(self) -> int:
        """How many tensors there are: K and V of each layer."""
        return 2 * self.layers

    @property
    def block_bytes(self) -> int:
        """Bytes of one block in one tensor."""
        return self.block_tokens * self.kv_heads * self.head_dim * DTYPES[self.dtype][0]

    @property
    def cache_bytes(self) -> int:
        """Bytes of all tensors."""
        return self.tensors * self.blocks * self.block_bytes

    def cache(self) -> Geometry:
        """Return it as the peers know it."""
        from llm_datadist.data_type import DataType
        from llm_datadist.testing import Geometry

        data_type = DataType[DTYPES[self.dtype][1]]
        block_shape = (self.block_tokens, self.kv_heads, self.head_dim)
        return Geometry(self.tensors, self.blocks, self.block_bytes, data_type, block_shape)

    def __str__(self) -> str:
        return (
            f"{self.layers} layers, K and V, {self.kv_heads} KV heads x {self.head_dim}, "
            f"{self.block_tokens} tokens a block, {self.dtype}"
        )
