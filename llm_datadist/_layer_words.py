# SPDX-License-Identifier: Apache-2.0
"""What a layer is, for the interface and the binding alike.

A layer is a number of consecutive tensors of a cache: a key tensor and a value tensor, unless the
client says otherwise (contract 5.4, 6.1, 6.2).
"""

from __future__ import annotations

from ._checks import UINT32_MAX

# In transfer_cache_async always; in a pull or a push the default of tensor_num_per_layer.
TENSORS_PER_LAYER = 2

# (src start, src count, dst start, dst count); a count of 0 means that no range was given.
LayerRanges = tuple[int, int, int, int]
ALL_LAYERS: LayerRanges = (0, 0, 0, 0)

# LLDD_ALL_LAYERS, the number of layers of a push: as many whole ones as the own cache has.
ALL_WHOLE_LAYERS = UINT32_MAX
