# SPDX-License-Identifier: Apache-2.0
"""How caches are named: by request, by id, or as the blocks of a model (contract 1.8)."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from inspect import Parameter, Signature
from typing import Any, overload

from ._checks import UINT64_MAX, check_int64, check_uint32, check_uint64, refuse

__all__ = ["BlocksCacheKey", "CacheKey", "CacheKeyByIdAndIndex", "PushType"]

UNSET_ID = UINT64_MAX

_REQUIRED = Parameter.empty


class PushType(Enum):
    """What names the destination of a layer transfer."""

    NO_CACHE_KEY = 0
    BLOCKS_CACHE_KEY = 1
    CACHE_KEY_BY_ID = 2


def _signature(**defaults: Any) -> Signature:
    return Signature(
        [
            Parameter(name, Parameter.POSITIONAL_OR_KEYWORD, default=default)
            for name, default in defaults.items()
        ]
    )


def _bind(
    cls: str, names: Sequence[str], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """Match arguments to names, where cluster_id has the alias prompt_cluster_id.

    Python's own binding raises TypeError for what the contract answers with LLM_PARAM_INVALID, and
    knows no alias. A positional argument wins over a keyword, cluster_id over its alias.
    """
    if len(args) > len(names):
        refuse(f"{cls} takes at most {len(names)} arguments, got {len(args)}")
    values = dict(zip(names, args))
    if (
        "cluster_id" not in values
        and "cluster_id" not in kwargs
        and "prompt_cluster_id" not in kwargs
    ):
        refuse(f"{cls}: cluster_id is required")
    if "req_id" in names and "req_id" not in values and "req_id" not in kwargs:
        refuse(f"{cls}: req_id is required")
    for name, value in kwargs.items():
        if name in names:
            values.setdefault(name, value)
        elif name != "prompt_cluster_id":
            refuse(
                f"{cls}: Unsupported argument {name}, only {', '.join(names)} and "
                "prompt_cluster_id are"
            )
    if "cluster_id" not in values:
        values["prompt_cluster_id"] = kwargs["prompt_cluster_id"]
    return values


class CacheKey:
    """Names a contiguous cache by request, or by prefix.

    Args:
        cluster_id: of the owner, uint64; also as prompt_cluster_id. Ignored where the key is bound
            or removed.
        req_id: uint64; 2^64-1 means "not given", or a placeholder that takes a batch position and
            binds nothing.
        model_id: uint64.
        prefix_id: uint64; 2^64-1 means "not given". If given, it counts and req_id does not.

    Raises:
        LLMException: LLM_PARAM_INVALID, an argument is missing, unknown or one too many.
        TypeError: an argument is not an int.
        ValueError: a number is outside uint64.
    """

    __signature__ = _signature(
        cluster_id=_REQUIRED, req_id=_REQUIRED, model_id=0, prefix_id=UNSET_ID
    )

    @overload
    def __init__(
        self, cluster_id: int, req_id: int, model_id: int = 0, prefix_id: int = UNSET_ID
    ) -> None: ...

    @overload
    def __init__(
        self, *, prompt_cluster_id: int, req_id: int, model_id: int = 0, prefix_id: int = UNSET_ID
    ) -> None: ...

    def __init__(self, *args: int, **kwargs: int) -> None:
        values = _bind("CacheKey", ("cluster_id", "req_id", "model_id", "prefix_id"), args, kwargs)
        self._cluster_id: int = values[
            "cluster_id" if "cluster_id" in values else "prompt_cluster_id"
        ]
        self._req_id: int = values["req_id"]
        self._model_id: int = values.get("model_id", 0)
        self._prefix_id: int = values.get("prefix_id", UNSET_ID)
        check_uint64("cluster_id", self._cluster_id)
        check_uint64("req_id", self._req_id)
        check_uint64("model_id", self._model_id)
        check_uint64("prefix_id", self._prefix_id)

    @property
    def cluster_id(self) -> int:
        """The owner's cluster id."""
        return self._cluster_id

    @property
    def prompt_cluster_id(self) -> int:
        """The same as cluster_id."""
        return self._cluster_id

    @property
    def req_id(self) -> int:
        """The request; 2^64-1: not given."""
        return self._req_id

    @property
    def model_id(self) -> int:
        """The model."""
        return self._model_id

    @property
    def prefix_id(self) -> int:
        """The prefix; 2^64-1: not given."""
        return self._prefix_id

    def __repr__(self) -> str:
        return (
            f"CacheKey(cluster_id={self._cluster_id}, req_id={self._req_id}, "
            f"prefix_id={self._prefix_id}, model_id={self._model_id})"
        )


class BlocksCacheKey:
    """Names the paged cache of a model.

    Args:
        cluster_id: of the owner, uint64; also as prompt_cluster_id. Ignored where the key is
            bound.
        model_id: uint64; a process with several paged caches tells them apart by it.

    Raises:
        LLMException: LLM_PARAM_INVALID, an argument is missing, unknown or one too many.
        TypeError: an argument is not an int.
        ValueError: a number is outside uint64.

    Source: decision 31.
    """

    __signature__ = _signature(cluster_id=_REQUIRED, model_id=0)

    @overload
    def __init__(self, cluster_id: int, model_id: int = 0) -> None: ...

    @overload
    def __init__(self, *, prompt_cluster_id: int, model_id: int = 0) -> None: ...

    def __init__(self, *args: int, **kwargs: int) -> None:
        if len(args) == 2 and not kwargs:
            # Clients make a key for each pull, so the usual form does not go through the rest.
            self._cluster_id, self._model_id = cluster_id, model_id = args
            self._name_given = "cluster_id"
            if type(cluster_id) is type(model_id) is int and (
                0 <= cluster_id <= UINT64_MAX and 0 <= model_id <= UINT64_MAX
            ):
                return
        values = _bind("BlocksCacheKey", ("cluster_id", "model_id"), args, kwargs)
        self._name_given = "cluster_id" if "cluster_id" in values else "prompt_cluster_id"
        self._cluster_id = values[self._name_given]
        self._model_id = values.get("model_id", 0)
        check_uint64(self._name_given, self._cluster_id)
        check_uint64("model_id", self._model_id)

    @property
    def cluster_id(self) -> int:
        """The owner's cluster id."""
        return self._cluster_id

    @property
    def prompt_cluster_id(self) -> int:
        """The same as cluster_id."""
        return self._cluster_id

    @property
    def model_id(self) -> int:
        """The model."""
        return self._model_id

    def __repr__(self) -> str:
        return f"BlocksCacheKey({self._name_given}={self._cluster_id}, model_id={self._model_id})"


class CacheKeyByIdAndIndex:
    """Names a cache by its id at the owner.

    Args:
        cluster_id: of the owner, uint64.
        cache_id: int64, as Cache.cache_id reads there.
        batch_index: uint32, the batch entry of a contiguous cache.

    Raises:
        TypeError: an argument has another type.
        ValueError: a number is out of its range.
    """

    def __init__(self, cluster_id: int, cache_id: int, batch_index: int = 0) -> None:
        check_uint64("cluster_id", cluster_id)
        check_int64("cache_id", cache_id)
        check_uint32("batch_index", batch_index)
        self._cluster_id = cluster_id
        self._cache_id = cache_id
        self._batch_index = batch_index

    @property
    def cluster_id(self) -> int:
        """The owner's cluster id."""
        return self._cluster_id

    @property
    def cache_id(self) -> int:
        """The cache's id at the owner."""
        return self._cache_id

    @property
    def batch_index(self) -> int:
        """The batch entry."""
        return self._batch_index

    def __repr__(self) -> str:
        return (
            f"CacheKeyByIdAndIndex(cluster_id={self._cluster_id}, cache_id={self._cache_id}, "
            f"batch_index={self._batch_index})"
        )
