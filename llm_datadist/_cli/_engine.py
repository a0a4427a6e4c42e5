# SPDX-License-Identifier: Apache-2.0
"""What the processes of demo and bench do alike with an engine on 127.0.0.1."""

from __future__ import annotations

import ctypes
import json
import warnings

import numpy as np

from llm_datadist import (
    LLMClusterInfo,
    LLMConfig,
    LLMDataDist,
    LLMDataDistWarning,
    LLMRole,
    LLMStatusCode,
    backend_info,
)
from llm_datadist.introspection import PathInfo
from llm_datadist.testing import device

from ._geometry import POOL_PAGE_SHIFT
from ._pattern import Words

_LOCAL = "127.0.0.1"


def open_engine(
    role: LLMRole, cluster_id: int, timeout_ms: int, pool_bytes: int | None
) -> LLMDataDist:
    """Return an engine that listens on a free port.

    Args:
        role: its role.
        cluster_id: its id.
        timeout_ms: for one transfer.
        pool_bytes: of its pool; None: it has none.

    Raises RuntimeError where device memory cannot be touched at its addresses.
    """
    config = LLMConfig()
    config.device_id = 0
    config.enable_cache_manager = True
    config.enable_remote_cache_accessible = True
    config.sync_kv_timeout = timeout_ms
    config.listen_ip_info = f"{_LOCAL}:0"
    if pool_bytes is not None:
        pool = {"memory_size": pool_bytes, "page_shift": POOL_PAGE_SHIFT}
        config.mem_pool_cfg = json.dumps(pool)
    engine = LLMDataDist(role, cluster_id)
    with warnings.catch_warnings():
        # The table's heading names the runtime.
        warnings.filterwarnings("ignore", "no Ascend device", LLMDataDistWarning)
        engine.init(config.generate_options())
    if not device.at_host_addresses():
        engine.finalize()
        raise RuntimeError(
            f"{backend_info().name}: demo and bench fill and check memory at its addresses, which "
            "a device's has not; llm-datadist selftest and examples/two_devices.py run there, and "
            "LLM_DATADIST_BACKEND=mock has these two run here"
        )
    return engine


def address_of(engine: LLMDataDist) -> tuple[str, int]:
    """Return where an engine listens."""
    address = engine.listen_address
    assert address is not None
    return address


def runtime() -> str:
    """Return name and version of the runtime of this process's engine."""
    info = backend_info()
    return f"{info.name} {info.version}"


def link(
    engine: LLMDataDist, cluster_id: int, address: tuple[str, int], timeout_ms: int
) -> LLMClusterInfo:
    """Link to the peer that listens there; returns what unlink wants."""
    cluster = LLMClusterInfo()
    cluster.remote_cluster_id = cluster_id
    cluster.append_local_ip_info(_LOCAL, 0)
    cluster.append_remote_ip_info(*address)
    status, _ = engine.link_clusters([cluster], timeout_ms)
    if status != LLMStatusCode.LLM_SUCCESS:
        raise RuntimeError(f"link_clusters to {address} answered {status}")
    return cluster


def unlink(engine: LLMDataDist, cluster: LLMClusterInfo, timeout_ms: int) -> None:
    """Undo link."""
    status, _ = engine.unlink_clusters([cluster], timeout_ms)
    if status != LLMStatusCode.LLM_SUCCESS:
        raise RuntimeError(f"unlink_clusters answered {status}")


def path_to(engine: LLMDataDist, cluster_id: int, allocated: bool) -> PathInfo:
    """Return how the peer's allocated, or registered, memory is reached."""
    kind = "ALLOCATED" if allocated else "REGISTERED"
    for path in engine.link_paths(cluster_id):
        if path.memory.name == kind:
            return path
    raise RuntimeError(f"the link to {cluster_id} lists no path for {kind} memory")


def words_at(address: int, words: int) -> Words:
    """View memory of this process."""
    array: Words = np.ctypeslib.as_array((ctypes.c_uint64 * words).from_address(address))
    return array
