# SPDX-License-Identifier: Apache-2.0
"""A small connector in the manner of vLLM's: paged KV caches of a prompt and of a decoder process.

The decoder pulls by block ids (load), or the prompt pushes each layer as soon as it is computed
(push). What fails is tried again over a new link; what cannot be repaired is a LoadError, upon
which a scheduler computes the prompt anew. Prompt and decoder may divide the heads among different
numbers of ranks.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from llm_datadist import (
    BlocksCacheKey,
    CacheTask,
    LLMClusterInfo,
    LLMDataDist,
    LLMException,
    LLMRole,
    LLMStatusCode,
    TransferWithCacheKeyConfig,
    arrays,
)
from llm_datadist.parallel import HeadSplit, LayerGate, Pull, pull_many

# model_id of the caches: by blocks, and over the same memory with a block for each head.
BY_BLOCKS, BY_HEADS = 0, 1

# Trying these again changes nothing.
_PERMANENT = (LLMStatusCode.LLM_PARAM_INVALID, LLMStatusCode.LLM_FEATURE_NOT_ENABLED)
_LINKED = (LLMStatusCode.LLM_SUCCESS, LLMStatusCode.LLM_ALREADY_LINK)

_logger = logging.getLogger(__name__)


class LoadError(Exception):
    """The blocks have not arrived. What they contain is open; other blocks are as they were."""


@dataclass(frozen=True)
class Metadata:
    """What one rank tells the others: who it is, where it listens, which heads it has."""

    cluster_id: int
    ip: str
    port: int
    rank: int = 0
    ranks: int = 1

    def as_json(self) -> dict[str, Any]:
        """Return it for the wire; Metadata(**...) reads it."""
        return asdict(self)


@dataclass
class _Remote:
    metadata: Metadata
    is_linked: bool = False
    # Whoever links, unlinks or transfers; other remotes go on meanwhile.
    lock: threading.Lock = field(default_factory=threading.Lock)


class KVConnector:
    """One rank.

    Args:
        cluster_id: unique among all ranks of all instances.
        kv_caches: K and V of each layer in turn, [blocks, heads, tokens, size] each: numpy arrays
            or torch tensors.
        num_heads: KV heads of the model.
        rank: of this process among the tensor-parallel ranks of its instance.
        ranks: how many there are.
        listen: ip:port.
        timeout_ms: of a transfer and of a link.
        attempts: of a load.
    """

    def __init__(
        self,
        cluster_id: int,
        kv_caches: Sequence[Any],
        *,
        num_heads: int,
        rank: int = 0,
        ranks: int = 1,
        listen: str = "127.0.0.1:0",
        timeout_ms: int = 1000,
        attempts: int = 3,
    ) -> None:
        self._num_heads, self._rank, self._ranks = num_heads, rank, ranks
        self._timeout_ms, self._attempts = timeout_ms, attempts
        self._remotes: dict[int, _Remote] = {}
        self._is_closed = False
        self._engine = LLMDataDist.open(
            LLMRole.MIX,
            cluster_id,
            enable_remote_cache_accessible=True,
            # Several ranks in one process, as tests have them.
            allow_multiple_instances=True,
            listen_ip_info=listen,
            sync_kv_timeout=timeout_ms,
        )
        try:
            self._manager = self._engine.cache_manager
            blocks, heads = kv_caches[0].shape[:2]
            self.key = BlocksCacheKey(cluster_id, BY_BLOCKS)
            self._cache = arrays.register_blocks(self._manager, kv_caches, self.key)
            self._by_heads = arrays.register_blocks(
                self._manager,
                kv_caches,
                BlocksCacheKey(cluster_id, BY_HEADS),
                num_blocks=blocks * heads,
            )
        except BaseException:
            self._engine.finalize()
            raise
        self._layers = len(kv_caches) // 2

    @property
    def metadata(self) -> Metadata:
        """What the other ranks have to know."""
        address = self._engine.listen_address
        assert address is not None
        return Metadata(self._engine.cluster_id, *address, self._rank, self._ranks)

    def add_remote(self, metadata: Metadata) -> None:
        """Take the metadata of another rank; again when that rank was started anew."""
        known = self._remotes.get(metadata.cluster_id)
        if known is None:
            self._remotes[metadata.cluster_id] = _Remote(metadata)
            return
        with known.lock:
            if known.metadata != metadata:
                self._unlink(known)
                known.metadata = metadata

    def close(self) -> None:
        """End; loads that run on other threads fail. A second time does nothing."""
        self._is_closed = True
        # Interrupts transfers, so no lock is taken that they hold.
        self._engine.finalize()

    # ---- pulls, by a decoder ----

    def load(
        self, remote_ids: Sequence[int], src_blocks: Sequence[int], dst_blocks: Sequence[int]
    ) -> None:
        """Load blocks from the ranks of a prompt: block k of src_blocks to block k of dst_blocks.

        Args:
            remote_ids: cluster ids of all ranks of the prompt, in the order of ranks.

        Raises:
            LoadError: they have not arrived.
        """
        remotes = [self._remote(each) for each in remote_ids]
        if len(remotes) == 1 and remotes[0].metadata.ranks == self._ranks:
            key = BlocksCacheKey(remote_ids[0], BY_BLOCKS)
            self._try(remotes[0], Pull(key, self._cache, src_blocks, dst_blocks))
            return
        split = HeadSplit(self._num_heads, len(remotes), self._ranks, single_heads=True)
        for share in split.shares(self._rank):
            key = BlocksCacheKey(remote_ids[share.src_rank], BY_HEADS)
            src, dst = share.blocks(src_blocks, dst_blocks)
            self._try(remotes[share.src_rank], Pull(key, self._by_heads, src, dst))

    def _try(self, remote: _Remote, pull: Pull) -> None:
        """Climb the ladder: again, then again over a new link."""
        with remote.lock:
            for attempt in range(1, self._attempts + 1):
                try:
                    self._link(remote)
                    pull_many(self._manager, [pull])
                    return
                except (LLMException, RuntimeError) as failure:
                    if self._is_final(failure, attempt):
                        raise LoadError(
                            f"{remote.metadata}, attempt {attempt}: {failure}"
                        ) from failure
                    _logger.warning("%s, attempt %d: %s", remote.metadata, attempt, failure)
                    if failure.status_code != LLMStatusCode.LLM_LINK_BUSY:
                        self._unlink(remote)

    def _is_final(self, failure: Exception, attempt: int) -> bool:
        if self._is_closed or not isinstance(failure, LLMException):
            return True
        return attempt == self._attempts or failure.status_code in _PERMANENT

    # ---- pushes, by a prompt ----

    def push(
        self, remote_id: int, src_blocks: Sequence[int], dst_blocks: Sequence[int]
    ) -> LayerPush:
        """Begin to push blocks to a decoder with as many ranks, layer by layer.

        Raises:
            LoadError: there is no link.
        """
        remote = self._remote(remote_id)
        with remote.lock:
            try:
                self._link(remote)
            except (LLMException, RuntimeError) as failure:
                raise LoadError(f"{remote.metadata}: {failure}") from failure
        gate = LayerGate()
        layers = range(self._layers)
        config = TransferWithCacheKeyConfig(BlocksCacheKey(remote_id, BY_BLOCKS), layers, layers)
        task = self._manager.transfer_cache_async(
            self._cache, gate, [config], src_blocks, dst_blocks
        )
        return LayerPush(gate, task, self._timeout_ms * (self._layers + 1))

    # ---- links ----

    def _remote(self, cluster_id: int) -> _Remote:
        try:
            return self._remotes[cluster_id]
        except KeyError:
            raise LoadError(f"there is no metadata of cluster {cluster_id}") from None

    def _link(self, remote: _Remote) -> None:
        if remote.is_linked:
            return
        info = self._info(remote)
        _, (status,) = self._engine.link_clusters([info], self._timeout_ms)
        if status not in _LINKED:
            raise LLMException(f"no link: {info.link_detail}", status_code=status)
        remote.is_linked = True

    def _unlink(self, remote: _Remote) -> None:
        """Drop this end, whatever the other one does. A later transfer links again."""
        remote.is_linked = False
        if not self._is_closed:
            self._engine.unlink_clusters([self._info(remote)], self._timeout_ms, force=True)

    def _info(self, remote: _Remote) -> LLMClusterInfo:
        info = LLMClusterInfo()
        info.remote_cluster_id = remote.metadata.cluster_id
        info.append_local_ip_info("127.0.0.1", 0)
        info.append_remote_ip_info(remote.metadata.ip, remote.metadata.port)
        return info


class LayerPush:
    """A push under way: the forward pass says which layers are computed."""

    def __init__(self, gate: LayerGate, task: CacheTask, timeout_ms: int) -> None:
        self._gate, self._task, self._timeout_ms = gate, task, timeout_ms

    def layer_is_ready(self, layer: int) -> None:
        """Send a layer; returns at once."""
        self._gate.ready(layer)

    def finish(self) -> None:
        """Wait until all layers were sent; the decoder may be told then.

        Raises:
            LoadError: not all have arrived.
        """
        status = self._task.synchronize(self._timeout_ms)
        self._gate.cancel()
        if status != LLMStatusCode.LLM_SUCCESS:
            raise LoadError(f"the push ended with {status.name}")
