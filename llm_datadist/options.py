# SPDX-License-Identifier: Apache-2.0
"""From the options dict of LLMDataDist.init() to the configuration of an engine (contract 1.4.1 and
chapter 3).

The dict is the client's: known clients write keys into it by hand. So everything is checked here
again, after LLMConfig.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from . import _addresses, config
from ._checks import UINT16_MAX, check_no_null, check_type, is_strict_hardware, refuse
from ._members import (
    DEFAULT_FINALIZE_TIMEOUT_MS,
    DEFAULT_PEER_TIMEOUT_MS,
    DEFAULT_SYNC_TIMEOUT_MS,
    PoolOptions,
    is_digits,
    read_number,
)
from .config import LLMConfig, LLMRole
from .status import LLMStatusCode

_CACHE_MANAGER = LLMConfig.enable_cache_manager.key
_REMOTE_ACCESSIBLE = LLMConfig.enable_remote_cache_accessible.key
_LOCAL_COMM_RES = LLMConfig.local_comm_res.key
_TRANSFER_BACKEND = LLMConfig.transfer_backend.key
_LISTEN_IP_INFO = LLMConfig.listen_ip_info.key

_ROLE_NAMES = {LLMRole.PROMPT: "Prompt", LLMRole.DECODER: "Decoder", LLMRole.MIX: "Mix"}


@dataclass(frozen=True)
class EngineOptions:
    """What an engine is opened with; marshal.config() makes an lldd_config of it."""

    cluster_id: int
    role: LLMRole
    one_sided: bool = False
    one_way_links: bool = False
    strict_hardware: bool = False
    device_id: int = 0
    sync_timeout_ms: int = DEFAULT_SYNC_TIMEOUT_MS
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
    buffer_pool: str | None = None
    finalize_timeout_ms: int = DEFAULT_FINALIZE_TIMEOUT_MS
    peer_timeout_ms: int = DEFAULT_PEER_TIMEOUT_MS


def read_options(cluster_id: int, role: LLMRole, client_options: dict[str, str]) -> EngineOptions:
    """Check an options dict and make an engine's configuration of it; the dict is not changed.

    Raises:
        TypeError: a key or value is not a str.
        ValueError: the listen port is not an int.
        LLMException: LLM_FEATURE_NOT_ENABLED outside CacheManager mode (decision 2),
            LLM_PARAM_INVALID for everything else.
    """
    check_type("options", client_options, dict)
    _check_flow_graph_size(client_options)
    options = dict(client_options)
    options[config.ROLE] = _ROLE_NAMES[role]
    _apply_local_comm_res(options)
    _apply_transfer_backend(options)
    cache_manager_mode = options.get(_CACHE_MANAGER) == "1"
    if cache_manager_mode and _LISTEN_IP_INFO in options:
        check_type(_LISTEN_IP_INFO, options[_LISTEN_IP_INFO], str)
        ip, port = _addresses.split_listen_info(options[_LISTEN_IP_INFO])
        options[config.LISTEN_IP], options[config.LISTEN_PORT] = ip, str(port)
    if not cache_manager_mode:
        refuse(
            "only CacheManager mode is provided: set enable_cache_manager = True",
            LLMStatusCode.LLM_FEATURE_NOT_ENABLED,
        )
    for key, value in options.items():
        check_type(f"option {key!r}", key, str)
        check_type(f"option {key!r}", value, str)
        check_no_null("a key of options", key)
        check_no_null(f"option {key!r}", value)
    return _engine_options(cluster_id, role, options)


def _check_flow_graph_size(options: dict[str, str]) -> None:
    if config.FLOW_GRAPH_MEM_MAX_SIZE in options:
        size = options[config.FLOW_GRAPH_MEM_MAX_SIZE]
        check_type(config.FLOW_GRAPH_MEM_MAX_SIZE, size, str)
        if not is_digits(size):
            refuse(f"{config.FLOW_GRAPH_MEM_MAX_SIZE} must be digits, got {size!r}")


def _apply_local_comm_res(options: dict[str, str]) -> None:
    if _LOCAL_COMM_RES in options:
        options.setdefault(_CACHE_MANAGER, "1")
        options.setdefault(_REMOTE_ACCESSIBLE, "1")
        if options[_CACHE_MANAGER] != "1":
            refuse(f"{_LOCAL_COMM_RES} needs {_CACHE_MANAGER} = 1")


def _apply_transfer_backend(options: dict[str, str]) -> None:
    if _TRANSFER_BACKEND in options:
        if options.get(_CACHE_MANAGER) != "1":
            refuse(f"{_TRANSFER_BACKEND} needs {_CACHE_MANAGER} = 1")
        options.setdefault(_REMOTE_ACCESSIBLE, "1")
        if options[_REMOTE_ACCESSIBLE] != "1":
            refuse(f"{_TRANSFER_BACKEND} needs {_REMOTE_ACCESSIBLE} = 1")
        if _LISTEN_IP_INFO not in options:
            refuse(f"{_TRANSFER_BACKEND} needs {_LISTEN_IP_INFO}")


def _engine_options(cluster_id: int, role: LLMRole, options: dict[str, str]) -> EngineOptions:
    backend = options.get(_TRANSFER_BACKEND, "hixl")
    if backend != "hixl":
        refuse(f'{_TRANSFER_BACKEND} must be "hixl", got {backend!r}')
    one_way_links = _TRANSFER_BACKEND in options
    # The "hixl" backend does not even read it (contract 3.2).
    retries = 1 if one_way_links else LLMConfig.link_retry_count.read(options)
    return EngineOptions(
        cluster_id=cluster_id,
        role=role,
        one_sided=LLMConfig.enable_remote_cache_accessible.read(options),
        one_way_links=one_way_links,
        strict_hardware=is_strict_hardware(),
        device_id=LLMConfig.device_id.read(options),
        sync_timeout_ms=LLMConfig.sync_kv_timeout.read(options),
        listen_ip=options.get(config.LISTEN_IP),
        listen_port=read_number(options, config.LISTEN_PORT, 0, UINT16_MAX, 0),
        device_pool=LLMConfig.mem_pool_cfg.pool(options),
        host_pool=LLMConfig.host_mem_pool_cfg.pool(options),
        link_total_time_s=LLMConfig.link_total_time.read(options),
        link_retry_count=retries,
        rdma_traffic_class=LLMConfig.rdma_traffic_class.read(options),
        rdma_service_level=LLMConfig.rdma_service_level.read(options),
        local_comm_res=LLMConfig.local_comm_res.read(options),
        global_resource_config=LLMConfig.global_resource_config.read(options),
        auth_token=LLMConfig.auth_token.read(options),
        buffer_pool=LLMConfig.buffer_pool.read(options),
        finalize_timeout_ms=LLMConfig.finalize_timeout.read(options),
        peer_timeout_ms=LLMConfig.peer_timeout.read(options),
    )


def allows_multiple_instances(options: object) -> bool:
    """Tell whether the options of an init() ask for an engine beside others (decision 23)."""
    return isinstance(options, dict) and options.get(LLMConfig.allow_multiple_instances.key) == "1"
