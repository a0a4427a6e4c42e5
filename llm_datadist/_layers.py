# SPDX-License-Identifier: Apache-2.0
"""What a layer range means in a pull, a push, an asynchronous transfer (contract 5.4, 6.1, 6.2).

A layer is tensors_per_layer consecutive tensors. The three operations treat a missing or an empty
range differently, which is why this is in one place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

from ._checks import UINT32_MAX, check_layer_range, check_uint32, length, refuse, require
from ._layer_words import ALL_WHOLE_LAYERS, TENSORS_PER_LAYER, LayerRanges
from ._misspelt import warn_of_unknown_keywords
from .cache import Cache
from .status import warn
from .transfer import AnyTransferConfig, TransferConfig


class PullKeywords(TypedDict, total=False):
    """The keywords of pull_cache and pull_blocks, for editors and type checkers."""

    src_layer_range: range | None
    dst_layer_range: range | None
    tensor_num_per_layer: int


PULL_KEYWORDS = tuple(PullKeywords.__annotations__)


def pull_tensors_per_layer(kwargs: Mapping[str, Any]) -> int:
    """Check and return tensor_num_per_layer of a pull; warns of keywords that no pull has."""
    warn_of_unknown_keywords("pull_cache and pull_blocks", kwargs, PULL_KEYWORDS)
    value = kwargs.get("tensor_num_per_layer", TENSORS_PER_LAYER)
    check_uint32("tensor_num_per_layer", value)
    require(value > 0, "tensor_num_per_layer must be positive")
    return int(value)


def pull_layers(kwargs: Mapping[str, Any]) -> LayerRanges:
    """Check and return the layer ranges of a pull."""
    return (
        *_pull_range("src_layer_range", kwargs.get("src_layer_range")),
        *_pull_range("dst_layer_range", kwargs.get("dst_layer_range")),
    )


def _pull_range(name: str, value: Any) -> tuple[int, int]:
    """Check a layer range of a pull, where an empty one counts as not given (contract 5.4)."""
    if value is None or (isinstance(value, (range, list, tuple)) and not value):
        return 0, 0
    check_layer_range(name, value)
    check_uint32(f"the first layer of {name}", value.start)
    check_uint32(f"the last layer of {name}", value[-1])
    # A count of 2^32 is all that a last layer of 2^32-1 leaves over; the engine refuses anything
    # that large.
    return value.start, min(len(value), UINT32_MAX)


def push_layers(
    name: str,
    cache: Cache,
    src_range: range | None,
    dst_range: range | None,
    tensors_per_layer: int,
) -> tuple[tuple[int, int], int]:
    """Check the layer ranges of a push; returns the first layers here and there, and how many."""
    check_uint32("tensor_num_per_layer", tensors_per_layer)
    require(tensors_per_layer > 0, "tensor_num_per_layer must be positive")
    num_tensors = cache.cache_desc.num_tensors
    num_layers = num_tensors // tensors_per_layer
    if src_range is None and dst_range is None:
        if not num_layers:
            _warn_of_no_layer(name, num_tensors, tensors_per_layer)
            return (0, 0), 0
        # The engine refuses a number of tensors that is not a whole number of layers.
        return (0, 0), ALL_WHOLE_LAYERS
    if src_range is not None:
        check_layer_range("src_layer_range", src_range)
    if dst_range is not None:
        check_layer_range("dst_layer_range", dst_range)
    src = range(num_layers) if src_range is None else src_range
    dst = range(num_layers) if dst_range is None else dst_range
    for layers in (src, dst):
        # Before len(), which is limited to what a ssize_t holds.
        check_uint32("the end of a layer range", layers.stop)
    if len(src) != len(dst):
        refuse(f"src_layer_range and dst_layer_range must have one length, got {src} and {dst}")
    return (src.start, dst.start), len(src)


def _warn_of_no_layer(name: str, num_tensors: int, tensors_per_layer: int) -> None:
    warn(
        f"{name}: nothing is pushed, because a layer has {tensors_per_layer} tensors and the cache "
        f"{num_tensors}; set tensor_num_per_layer"
    )


def async_tensors_per_layer(asked: int | None, strict_hardware: bool) -> int:
    """Check and return tensor_num_per_layer of a transfer_cache_async."""
    if asked is None:
        return TENSORS_PER_LAYER
    if strict_hardware:
        raise TypeError(
            "tensor_num_per_layer of transfer_cache_async is an extension that CANN does not have: "
            f"in strict-hardware mode a layer has {TENSORS_PER_LAYER} tensors"
        )
    check_uint32("tensor_num_per_layer", asked)
    require(asked > 0, "tensor_num_per_layer must be positive")
    return int(asked)


def config_layers(
    index: int,
    config: AnyTransferConfig,
    src_cache: Cache,
    tensors_per_layer: int,
    by_blocks: bool,
) -> range:
    """Check one config of a transfer_cache_async, fill in its range if need be, and return it."""
    name = f"transfer_configs[{index}]"
    num_layers = src_cache.cache_desc.num_tensors // tensors_per_layer
    if config.src_layer_range is None:
        require(num_layers, f"{name}: the cache has no layer")
        config.src_layer_range = range(num_layers)
    layers = config.src_layer_range
    if by_blocks and config.src_batch_index != 0:
        refuse(
            f"{name}: src_batch_index must be 0 with src_block_indices, "
            f"got {config.src_batch_index}"
        )
    if not src_cache.is_blocks_cache and config.src_batch_index >= src_cache._count:
        refuse(
            f"{name}: src_batch_index must be in [0, {src_cache._count}), "
            f"got {config.src_batch_index}"
        )
    if layers.stop > num_layers:
        refuse(f"{name}: src_layer_range must be in [0, {num_layers}), got {layers}")
    if isinstance(config, TransferConfig):
        num_addrs = len(list(config.dst_addrs))
        if num_addrs != tensors_per_layer * len(layers):
            refuse(
                f"{name}: {len(layers)} layers need {tensors_per_layer * len(layers)} dst_addrs, "
                f"got {num_addrs}"
            )
    elif config.dst_layer_range is None or length(config.dst_layer_range) != len(layers):
        refuse(
            f"{name}: dst_layer_range must have {len(layers)} layers, got {config.dst_layer_range}"
        )
    return layers
