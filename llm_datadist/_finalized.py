# SPDX-License-Identifier: Apache-2.0
"""What a CacheManager that is kept after finalize() has in place of its engine (contract 1.10)."""

from __future__ import annotations

from typing import NoReturn

from ._checks import refuse
from .status import LLMStatusCode


class FinalizedEngine:
    """Stands in for an Engine that is closed: reading any of its attributes raises.

    They are those that a CacheManager reads of its engine first, before it checks anything. So no
    operation of an open engine has to ask whether it is open.

    Args:
        cluster_id: of the engine that was closed.
    """

    def __init__(self, cluster_id: int) -> None:
        self._cluster_id = cluster_id

    def _raise(self) -> NoReturn:
        refuse(
            f"LLMDataDist with cluster_id {self._cluster_id} was finalized, and this CacheManager "
            "with it: after init(), LLMDataDist.cache_manager is another one",
            LLMStatusCode.LLM_ENGINE_FINALIZED,
        )

    @property
    def opened(self) -> NoReturn:
        """Raise LLMException with LLM_ENGINE_FINALIZED."""
        self._raise()

    @property
    def pull_few_blocks(self) -> NoReturn:
        """Raise LLMException with LLM_ENGINE_FINALIZED."""
        self._raise()
