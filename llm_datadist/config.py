# SPDX-License-Identifier: Apache-2.0
"""What a client configures: roles, options, and the peers it links to (contract 1.5, 1.6 and
chapter 3).
"""

from __future__ import annotations

import json
from typing import Any, Union

from . import _addresses
from ._checks import (
    INT32_MAX,
    UINT32_MAX,
    check_elements,
    check_optional,
    check_type,
    check_uint16,
    check_uint32,
    check_uint64,
    refuse_setting,
    wrong_type,
)
from ._enums import NamedIntEnum
from ._misspelt import WarnsOfUnknownMembers

__all__ = ["LLMClusterInfo", "LLMConfig", "LLMRole", "LlmConfig"]

IpInfo = tuple[Union[int, str], int]

DEVICE_ID = "ge.exec.deviceId"
SESSION_DEVICE_ID = "ge.session_device_id"
FLOW_GRAPH_MEM_MAX_SIZE = "ge.flowGraphMemMaxSize"
ROLE = "llm.Role"
SYNC_TIMEOUT = "llm.SyncKvCacheWaitTime"
LISTEN_IP_INFO = "llm.listenIpInfo"
LISTEN_IP = "llm.ListenIp"
LISTEN_PORT = "llm.ListenPort"
ENABLE_CACHE_MANAGER = "llm.EnableCacheManager"
ENABLE_REMOTE_ACCESSIBLE = "llm.EnableRemoteCacheAccessible"
MEM_POOL = "llm.MemPoolConfig"
HOST_MEM_POOL = "llm.HostMemPoolConfig"
LOCAL_COMM_RES = "llm.LocalCommRes"
TRANSFER_BACKEND = "llm.TransferBackend"
GLOBAL_RESOURCE = "llm.GlobalResourceConfig"
LINK_TOTAL_TIME = "llm.LinkTotalTime"
LINK_RETRY_COUNT = "llm.LinkRetryCount"
RDMA_TRAFFIC_CLASS = "llm.RdmaTrafficClass"
RDMA_SERVICE_LEVEL = "llm.RdmaServiceLevel"
ENABLE_SWITCH_ROLE = "llm.EnableSwitchRole"
DEPLOY_RES_PATH = "llm.deployResPath"
BUF_POOL = "llm.BufPoolCfg"
OUTPUT_MAX_SIZE = "llm.OutputMaxSize"
MEM_UTILIZATION = "llm.MemoryUtilization"
CLUSTER_INFO = "llm.ClusterInfo"
# Of this package alone (decision 41).
ALLOW_MULTIPLE_INSTANCES = "lldd.AllowMultipleInstances"
AUTH_TOKEN = "lldd.AuthToken"


class LLMRole(NamedIntEnum):
    """What an engine is for; has no influence on transfers."""

    PROMPT = 1
    DECODER = 2
    MIX = 3


class _Secret(str):
    """A text that a log or a traceback of the options dict does not show."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


def masked(options: dict[str, str]) -> dict[str, str]:
    """Copy options for a log, without the secret."""
    return {key: "***" if key == AUTH_TOKEN else value for key, value in options.items()}


class LLMConfig(WarnsOfUnknownMembers):
    """The options of an engine; generate_options() makes the dict for LLMDataDist.init().

    A member that was never set, or was set to None, is left to its default. Setters raise TypeError
    for a wrong type, and LLMConfigValueError (LLM_PARAM_INVALID, and a ValueError) or a plain
    ValueError for a value out of range. Setting a member that there is not is a warning. Source:
    3.1, decisions 4 and 65.
    """

    def __init__(self) -> None:
        self._options: dict[str, str] = {}
        self._device_id: int | list[int] | tuple[int, ...] | None = None
        self._sync_kv_timeout: int | str | None = None
        self._ge_options: dict[str, str] = {}
        self._mem_utilization = 0.95
        self._texts: dict[str, str | None] = {}
        self._flags: dict[str, bool | None] = {}
        self._numbers: dict[str, int | None] = {}

    def _set_text(self, member: str, key: str, value: str | None) -> None:
        check_optional(member, value, str)
        self._texts[key] = value

    def _set_flag(self, member: str, key: str, value: bool | None) -> None:
        check_optional(member, value, bool)
        self._flags[key] = value

    def _set_number(self, member: str, key: str, value: int | None, low: int, high: int) -> None:
        check_optional(member, value, int)
        if value is not None and not low <= value <= high:
            refuse_setting(f"{member} must be in [{low}, {high}], got {value}")
        self._numbers[key] = value

    @property
    def device_id(self) -> int | list[int] | tuple[int, ...] | None:
        """The device, or several, of which the engine takes exactly one: int32, from 0."""
        return self._device_id

    @device_id.setter
    def device_id(self, value: int | list[int] | tuple[int, ...]) -> None:
        if not isinstance(value, (int, list, tuple)):
            raise wrong_type("device_id", value, "int, or list or tuple of int")
        devices = [value] if isinstance(value, int) else value
        check_elements("device_id", devices, int)
        for device in devices:
            if device < 0:
                refuse_setting(f"device_id must not be negative, got {device}")
            if device > INT32_MAX:
                raise ValueError(f"device_id must be in [0, {INT32_MAX}], got {device}")
        self._device_id = value

    @property
    def sync_kv_timeout(self) -> int | str | None:
        """The deadline of pulls, pushes and each layer of an asynchronous transfer, in
        milliseconds; default 1000.
        """
        return self._sync_kv_timeout

    @sync_kv_timeout.setter
    def sync_kv_timeout(self, value: int | str | None) -> None:
        check_optional("sync_kv_timeout", value, (int, str))
        if value is not None:
            if isinstance(value, str) and not (value.isascii() and value.isdigit()):
                refuse_setting(f"sync_kv_timeout must be digits, got {value!r}")
            if int(value) <= 0:
                refuse_setting(f"sync_kv_timeout must be positive, got {value}")
            if int(value) > INT32_MAX:
                raise ValueError(f"sync_kv_timeout must be in [1, {INT32_MAX}], got {value}")
        self._sync_kv_timeout = value

    @property
    def listen_ip_info(self) -> str:
        """The address to listen on: "127.0.0.1:26000" or "[::1]:26000"; port 0 picks a free one."""
        return self._texts.get(LISTEN_IP_INFO) or ""

    @listen_ip_info.setter
    def listen_ip_info(self, value: str | None) -> None:
        self._set_text("listen_ip_info", LISTEN_IP_INFO, value)

    @property
    def enable_cache_manager(self) -> bool:
        """CacheManager mode: must be set, there is no other."""
        return bool(self._flags.get(ENABLE_CACHE_MANAGER))

    @enable_cache_manager.setter
    def enable_cache_manager(self, value: bool | None) -> None:
        self._set_flag("enable_cache_manager", ENABLE_CACHE_MANAGER, value)

    @property
    def enable_remote_cache_accessible(self) -> bool:
        """One-sided mode instead of request mode; must be equal on both ends of a link."""
        return bool(self._flags.get(ENABLE_REMOTE_ACCESSIBLE))

    @enable_remote_cache_accessible.setter
    def enable_remote_cache_accessible(self, value: bool | None) -> None:
        self._set_flag("enable_remote_cache_accessible", ENABLE_REMOTE_ACCESSIBLE, value)

    @property
    def mem_pool_cfg(self) -> str:
        """The device pool, JSON: {"memory_size": bytes, "page_shift": 10..30, default 16}."""
        return self._texts.get(MEM_POOL) or ""

    @mem_pool_cfg.setter
    def mem_pool_cfg(self, value: str | None) -> None:
        self._set_text("mem_pool_cfg", MEM_POOL, value)

    @property
    def host_mem_pool_cfg(self) -> str:
        """The host pool, as mem_pool_cfg."""
        return self._texts.get(HOST_MEM_POOL) or ""

    @host_mem_pool_cfg.setter
    def host_mem_pool_cfg(self, value: str | None) -> None:
        self._set_text("host_mem_pool_cfg", HOST_MEM_POOL, value)

    @property
    def local_comm_res(self) -> str:
        """The rank table of the own device, JSON; "" has one generated. Setting it, even to "",
        implies one-sided mode.
        """
        return self._texts.get(LOCAL_COMM_RES) or ""

    @local_comm_res.setter
    def local_comm_res(self, value: str | None) -> None:
        self._set_text("local_comm_res", LOCAL_COMM_RES, value)

    @property
    def transfer_backend(self) -> str:
        """Unset, or "hixl": one-sided mode with links that only their maker can use."""
        return self._texts.get(TRANSFER_BACKEND) or ""

    @transfer_backend.setter
    def transfer_backend(self, value: str | None) -> None:
        self._set_text("transfer_backend", TRANSFER_BACKEND, value)

    @property
    def global_resource_config(self) -> str:
        """JSON for the "hixl" backend."""
        return self._texts.get(GLOBAL_RESOURCE) or ""

    @global_resource_config.setter
    def global_resource_config(self, value: str | None) -> None:
        self._set_text("global_resource_config", GLOBAL_RESOURCE, value)

    @property
    def link_total_time(self) -> int:
        """How long link() may take, in seconds; 0: the default."""
        return self._numbers.get(LINK_TOTAL_TIME) or 0

    @link_total_time.setter
    def link_total_time(self, value: int | None) -> None:
        self._set_number("link_total_time", LINK_TOTAL_TIME, value, 0, UINT32_MAX)

    @property
    def link_retry_count(self) -> int:
        """Among how many tries link() divides its time: 1 to 100."""
        return self._numbers.get(LINK_RETRY_COUNT) or 1

    @link_retry_count.setter
    def link_retry_count(self, value: int | None) -> None:
        self._set_number("link_retry_count", LINK_RETRY_COUNT, value, 1, 100)

    @property
    def rdma_traffic_class(self) -> int | None:
        """For RDMA, uint32."""
        return self._numbers.get(RDMA_TRAFFIC_CLASS)

    @rdma_traffic_class.setter
    def rdma_traffic_class(self, value: int) -> None:
        check_uint32("rdma_traffic_class", value)
        self._numbers[RDMA_TRAFFIC_CLASS] = value

    @property
    def rdma_service_level(self) -> int | None:
        """For RDMA, uint32."""
        return self._numbers.get(RDMA_SERVICE_LEVEL)

    @rdma_service_level.setter
    def rdma_service_level(self, value: int) -> None:
        check_uint32("rdma_service_level", value)
        self._numbers[RDMA_SERVICE_LEVEL] = value

    @property
    def ge_options(self) -> dict[str, str]:
        """Further options, taken over as they are; those of the other members win over them."""
        return self._ge_options

    @ge_options.setter
    def ge_options(self, value: dict[str, str] | None) -> None:
        check_optional("ge_options", value, dict)
        for key, text in (value or {}).items():
            check_type("a key of ge_options", key, str)
            check_type(f"ge_options[{key!r}]", text, str)
        self._ge_options = value or {}

    @property
    def enable_switch_role(self) -> bool:
        """Accepted and not needed: switch_role() works anyway."""
        return bool(self._flags.get(ENABLE_SWITCH_ROLE))

    @enable_switch_role.setter
    def enable_switch_role(self, value: bool | None) -> None:
        self._set_flag("enable_switch_role", ENABLE_SWITCH_ROLE, value or None)

    @property
    def deploy_res_path(self) -> str:
        """Accepted, without effect."""
        return self._texts.get(DEPLOY_RES_PATH) or ""

    @deploy_res_path.setter
    def deploy_res_path(self, value: str | None) -> None:
        self._set_text("deploy_res_path", DEPLOY_RES_PATH, value)

    @property
    def buf_pool_cfg(self) -> str:
        """Accepted, without effect."""
        return self._texts.get(BUF_POOL) or ""

    @buf_pool_cfg.setter
    def buf_pool_cfg(self, value: str | None) -> None:
        self._set_text("buf_pool_cfg", BUF_POOL, value)

    @property
    def output_max_size(self) -> int | None:
        """Accepted, without effect."""
        return self._numbers.get(OUTPUT_MAX_SIZE)

    @output_max_size.setter
    def output_max_size(self, value: int | None) -> None:
        check_optional("output_max_size", value, int)
        self._numbers[OUTPUT_MAX_SIZE] = value

    @property
    def mem_utilization(self) -> float:
        """Accepted, without effect: a float in [0, 1]."""
        return self._mem_utilization

    @mem_utilization.setter
    def mem_utilization(self, value: float | None) -> None:
        check_optional("mem_utilization", value, float)
        if value is not None and not 0 <= value <= 1:
            refuse_setting(f"mem_utilization must be in [0, 1], got {value}")
        self._mem_utilization = 0.95 if value is None else value

    @property
    def cluster_info(self) -> str:
        """Accepted, without effect: JSON, in which the IPv4 texts of listen_ip_info become ints.

        Setting raises JSONDecodeError for bad JSON and RuntimeError for a bad address.
        """
        return self._texts.get(CLUSTER_INFO) or ""

    @cluster_info.setter
    def cluster_info(self, value: str | None) -> None:
        check_optional("cluster_info", value, str)
        self._texts[CLUSTER_INFO] = _with_numeric_ips(value) if value else value

    @property
    def allow_multiple_instances(self) -> bool:
        """Whether this engine may be opened beside others of the process (decision 23)."""
        return bool(self._flags.get(ALLOW_MULTIPLE_INSTANCES))

    @allow_multiple_instances.setter
    def allow_multiple_instances(self, value: bool | None) -> None:
        self._set_flag("allow_multiple_instances", ALLOW_MULTIPLE_INSTANCES, value)

    @property
    def auth_token(self) -> str:
        """A secret that both ends of a link must have (decision 41); not shown by repr and logs."""
        return str(self._texts.get(AUTH_TOKEN) or "")

    @auth_token.setter
    def auth_token(self, value: str | None) -> None:
        check_optional("auth_token", value, str)
        self._texts[AUTH_TOKEN] = _Secret(value) if value else value

    @property
    def options(self) -> dict[str, str]:
        """The dict that generate_options() fills, itself."""
        return self._options

    def generate_options(self) -> dict[str, str]:
        """Fill and return the options dict, the same object every time.

        Raises IndexError when device_id is an empty list.
        """
        options = self._options
        options.update(self._ge_options)
        if self._device_id is not None:
            devices = [self._device_id] if isinstance(self._device_id, int) else self._device_id
            options[DEVICE_ID] = ";".join(str(device) for device in devices)
            options[SESSION_DEVICE_ID] = str(devices[0])
        if self._sync_kv_timeout is not None:
            options[SYNC_TIMEOUT] = str(self._sync_kv_timeout)
        for key, text in self._texts.items():
            if text or (text is not None and key in _EMITTED_WHEN_EMPTY):
                options[key] = text
        for key, flag in self._flags.items():
            if flag is not None:
                options[key] = "1" if flag else "0"
        for key, number in self._numbers.items():
            if number is not None:
                options[key] = str(number)
        options[MEM_UTILIZATION] = str(self._mem_utilization)
        return options

    def gen_options(self) -> dict[str, str]:
        """The same as generate_options()."""
        return self.generate_options()

    def __repr__(self) -> str:
        preview = LLMConfig.__new__(LLMConfig)
        preview.__dict__.update(self.__dict__, _options=dict(self._options))
        try:
            return f"LLMConfig({masked(preview.generate_options())})"
        except IndexError:
            return f"LLMConfig(device_id={self._device_id})"


_EMITTED_WHEN_EMPTY = (LOCAL_COMM_RES, TRANSFER_BACKEND, GLOBAL_RESOURCE)

LlmConfig = LLMConfig


def _with_numeric_ips(text: str) -> str:
    info: Any = json.loads(text)
    for cluster in info if isinstance(info, list) else [info]:
        if isinstance(cluster, dict):
            for address in cluster.get("listen_ip_info") or ():
                if isinstance(address, dict) and isinstance(address.get("ip"), str):
                    address["ip"] = _addresses.parse(address["ip"])
    return json.dumps(info)


class LLMClusterInfo:
    """A peer to link to or unlink from."""

    def __init__(self) -> None:
        self._remote_cluster_id: int | None = None
        self._remote_role_type: LLMRole | int | None = None
        self._local_ip_info_list: list[IpInfo] = []
        self._remote_ip_info_list: list[IpInfo] = []
        self._link_detail = ""

    @property
    def remote_cluster_id(self) -> int | None:
        """The peer's id, uint64; None until set, or until learnt by link_clusters (decision 21)."""
        return self._remote_cluster_id

    @remote_cluster_id.setter
    def remote_cluster_id(self, value: int) -> None:
        check_uint64("remote_cluster_id", value)
        self._remote_cluster_id = value

    @property
    def remote_role_type(self) -> LLMRole | int | None:
        """The peer's role; never used."""
        return self._remote_role_type

    @remote_role_type.setter
    def remote_role_type(self, value: LLMRole | int) -> None:
        check_type("remote_role_type", value, (LLMRole, int))
        self._remote_role_type = value

    def append_local_ip_info(self, ip: str | int, port: int) -> None:
        """Add an own address: what the device may derive its comm resource from.

        Args:
            ip: IPv4 or IPv6 text, or an IPv4 address as an int whose lowest byte is the first
                octet.
            port: uint16.

        Raises TypeError, ValueError for the port, RuntimeError for a text that is no address.
        """
        self._local_ip_info_list.append(_ip_info(ip, port))

    def append_remote_ip_info(self, ip: str | int, port: int) -> None:
        """Add the address that the peer listens on; arguments as for append_local_ip_info."""
        self._remote_ip_info_list.append(_ip_info(ip, port))

    @property
    def local_ip_info_list(self) -> list[IpInfo]:
        """(ip, port) pairs; ip is an int for IPv4 and normalised text for IPv6 (decision 41)."""
        return self._local_ip_info_list

    @property
    def remote_ip_info_list(self) -> list[IpInfo]:
        """(ip, port) pairs, as local_ip_info_list."""
        return self._remote_ip_info_list

    @property
    def link_detail(self) -> str:
        """What went wrong in the last link_clusters or unlink_clusters with this object; "" after
        success.

        An extension: those calls return codes, which say little about the cause.
        """
        return self._link_detail

    def __repr__(self) -> str:
        remote = [_addresses.show(*info) for info in self._remote_ip_info_list]
        return f"LLMClusterInfo(remote_cluster_id={self._remote_cluster_id}, remote={remote})"


def _ip_info(ip: str | int, port: int) -> IpInfo:
    check_type("ip", ip, (str, int))
    check_uint16("port", port)
    return (_addresses.parse(ip) if isinstance(ip, str) else ip, port)
