# SPDX-License-Identifier: Apache-2.0
"""From the options dict of LLMDataDist.init() to the configuration of an engine (contract 1.4.1 and
chapter 3).

The dict is the client's: known clients write keys into it by hand. So everything is checked here
again, after LLMConfig.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from . import _addresses, config
from ._checks import INT32_MAX, UINT32_MAX, UINT64_MAX, check_type, is_strict_hardware, refuse
from .config import LLMRole
from .status import LLMStatusCode, warn

_ROLE_NAMES = {LLMRole.PROMPT: "Prompt", LLMRole.DECODER: "Decoder", LLMRole.MIX: "Mix"}
_DEFAULT_PAGE_SHIFT = 16
_DEFAULT_SYNC_TIMEOUT_MS = 1000


@dataclass(frozen=True)
class PoolOptions:
    """A memory pool: bytes, and log2 of the page's bytes. Size 0: no pool."""

    size: int = 0
    page_shift: int = _DEFAULT_PAGE_SHIFT


@dataclass(frozen=True)
class EngineOptions:
    """What an engine is opened with; the members are those of lldd_config."""

    cluster_id: int
    role: LLMRole
    one_sided: bool = False
    one_way_links: bool = False
    strict_hardware: bool = False
    device_id: int = 0
    sync_timeout_ms: int = _DEFAULT_SYNC_TIMEOUT_MS
    listen_ip: str | None = None
    listen_port: int = 0
    device_pool: PoolOptions = field(default_factory=PoolOptions)
    host_pool: PoolOptions = field(default_factory=PoolOptions)
    link_total_time_s: int = 0
    link_retry_count: int = 1
    rdma_traffic_class: int | None = None
    rdma_service_level: int | None = None
    local_comm_res: str | None = None
    global_resource_config: str | None = None
    auth_token: str | None = field(default=None, repr=False)


def read_options(cluster_id: int, role: LLMRole, client_options: dict[str, str]) -> EngineOptions:
    """Check an options dict and make an engine's configuration of it; the dict is not changed.

    Raises TypeError for a key or value that is no str, ValueError for a listen port that is no int,
    LLMException with LLM_FEATURE_NOT_ENABLED outside CacheManager mode (decision 2) and with
    LLM_PARAM_INVALID for everything else.
    """
    check_type("options", client_options, dict)
    _check_flow_graph_size(client_options)
    options = dict(client_options)
    options[config.ROLE] = _ROLE_NAMES[role]
    _apply_local_comm_res(options)
    _apply_transfer_backend(options)
    cache_manager_mode = options.get(config.ENABLE_CACHE_MANAGER) == "1"
    if cache_manager_mode and config.LISTEN_IP_INFO in options:
        check_type(config.LISTEN_IP_INFO, options[config.LISTEN_IP_INFO], str)
        ip, port = _addresses.split_listen_info(options[config.LISTEN_IP_INFO])
        options[config.LISTEN_IP], options[config.LISTEN_PORT] = ip, str(port)
    if not cache_manager_mode:
        refuse(
            "only CacheManager mode is provided: set enable_cache_manager = True",
            LLMStatusCode.LLM_FEATURE_NOT_ENABLED,
        )
    for key, value in options.items():
        check_type(f"option {key!r}", key, str)
        check_type(f"option {key!r}", value, str)
    return _engine_options(cluster_id, role, options)


def _check_flow_graph_size(options: dict[str, str]) -> None:
    if config.FLOW_GRAPH_MEM_MAX_SIZE in options:
        size = options[config.FLOW_GRAPH_MEM_MAX_SIZE]
        check_type(config.FLOW_GRAPH_MEM_MAX_SIZE, size, str)
        if not _is_digits(size):
            refuse(f"{config.FLOW_GRAPH_MEM_MAX_SIZE} must be digits, got {size!r}")


def _apply_local_comm_res(options: dict[str, str]) -> None:
    if config.LOCAL_COMM_RES in options:
        options.setdefault(config.ENABLE_CACHE_MANAGER, "1")
        options.setdefault(config.ENABLE_REMOTE_ACCESSIBLE, "1")
        if options[config.ENABLE_CACHE_MANAGER] != "1":
            refuse(f"{config.LOCAL_COMM_RES} needs {config.ENABLE_CACHE_MANAGER} = 1")


def _apply_transfer_backend(options: dict[str, str]) -> None:
    if config.TRANSFER_BACKEND in options:
        if options.get(config.ENABLE_CACHE_MANAGER) != "1":
            refuse(f"{config.TRANSFER_BACKEND} needs {config.ENABLE_CACHE_MANAGER} = 1")
        options.setdefault(config.ENABLE_REMOTE_ACCESSIBLE, "1")
        if options[config.ENABLE_REMOTE_ACCESSIBLE] != "1":
            refuse(f"{config.TRANSFER_BACKEND} needs {config.ENABLE_REMOTE_ACCESSIBLE} = 1")
        if config.LISTEN_IP_INFO not in options:
            refuse(f"{config.TRANSFER_BACKEND} needs {config.LISTEN_IP_INFO}")


def _engine_options(cluster_id: int, role: LLMRole, options: dict[str, str]) -> EngineOptions:
    backend = options.get(config.TRANSFER_BACKEND, "hixl")
    if backend != "hixl":
        refuse(f'{config.TRANSFER_BACKEND} must be "hixl", got {backend!r}')
    one_way_links = config.TRANSFER_BACKEND in options
    # The "hixl" backend does not even read it (contract 3.2).
    retries = 1 if one_way_links else _number(options, config.LINK_RETRY_COUNT, 1, 100, 1)
    return EngineOptions(
        cluster_id=cluster_id,
        role=role,
        one_sided=_flag(options, config.ENABLE_REMOTE_ACCESSIBLE),
        one_way_links=one_way_links,
        strict_hardware=is_strict_hardware(),
        device_id=_number(options, config.DEVICE_ID, 0, INT32_MAX, 0),
        sync_timeout_ms=_sync_timeout_ms(options),
        listen_ip=options.get(config.LISTEN_IP),
        listen_port=_number(options, config.LISTEN_PORT, 0, 65535, 0),
        device_pool=_pool(options, config.MEM_POOL),
        host_pool=_pool(options, config.HOST_MEM_POOL),
        link_total_time_s=_number(options, config.LINK_TOTAL_TIME, 0, INT32_MAX, 0),
        link_retry_count=retries,
        rdma_traffic_class=_optional_number(options, config.RDMA_TRAFFIC_CLASS),
        rdma_service_level=_optional_number(options, config.RDMA_SERVICE_LEVEL),
        local_comm_res=options.get(config.LOCAL_COMM_RES) or None,
        global_resource_config=options.get(config.GLOBAL_RESOURCE) or None,
        auth_token=options.get(config.AUTH_TOKEN) or None,
    )


def allows_multiple_instances(options: object) -> bool:
    """Tell whether the options of an init() ask for an engine beside others (decision 23)."""
    return isinstance(options, dict) and options.get(config.ALLOW_MULTIPLE_INSTANCES) == "1"


def _is_digits(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _flag(options: dict[str, str], key: str) -> bool:
    value = options.get(key, "0")
    if value not in ("0", "1"):
        refuse(f"{key} must be 0 or 1, got {value!r}")
    return value == "1"


def _number(options: dict[str, str], key: str, low: int, high: int, default: int) -> int:
    text = options.get(key)
    if text is None:
        return default
    # More digits than any limit has are refused before int(), which is slow on megabytes of them.
    if not _is_digits(text) or len(text) > 20 or not low <= int(text) <= high:
        refuse(f"{key} must be an integer in [{low}, {high}], got {text[:40]!r}")
    return int(text)


def _sync_timeout_ms(options: dict[str, str]) -> int:
    """Read the deadline of transfers; 0, of which no rule says what it means, is the default."""
    timeout_ms = _number(options, config.SYNC_TIMEOUT, 0, INT32_MAX, _DEFAULT_SYNC_TIMEOUT_MS)
    if timeout_ms == 0:
        warn(f"{config.SYNC_TIMEOUT} is 0: the default of {_DEFAULT_SYNC_TIMEOUT_MS} ms is used")
        return _DEFAULT_SYNC_TIMEOUT_MS
    return timeout_ms


def _optional_number(options: dict[str, str], key: str) -> int | None:
    return _number(options, key, 0, UINT32_MAX, 0) if key in options else None


def _pool(options: dict[str, str], key: str) -> PoolOptions:
    """Read a pool's JSON: contract 3.3."""
    if key not in options:
        return PoolOptions()
    try:
        pool = json.loads(options[key])
    except ValueError as cause:
        refuse(f"{key} is not JSON: {cause}")
    if not isinstance(pool, dict):
        refuse(f"{key} must be a JSON object, got {options[key]!r}")
    size: Any = pool.get("memory_size")
    shift: Any = pool.get("page_shift", _DEFAULT_PAGE_SHIFT)
    if not _is_unsigned(size):
        refuse(f"{key}: memory_size must be an unsigned integer, got {size!r}")
    if not _is_unsigned(shift) or not 10 <= shift < 31:
        refuse(f"{key}: page_shift must be an integer in [10, 31), got {shift!r}")
    if (1 << shift) > size:
        refuse(f"{key}: a page of {1 << shift} bytes is larger than the pool of {size}")
    if (size >> shift) >= UINT32_MAX:
        refuse(f"{key}: {size} bytes are too many pages of {1 << shift} bytes")
    return PoolOptions(size, shift)


def _is_unsigned(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= UINT64_MAX
