# SPDX-License-Identifier: Apache-2.0
"""What a client configures: roles, options, and the peers it links to (contract 1.5, 1.6 and
chapter 3).
"""

from __future__ import annotations

import json
from typing import Any, Union

from . import _addresses
from ._checks import INT32_MAX, UINT32_MAX, check_type, check_uint16, check_uint64
from ._enums import NamedIntEnum
from ._members import (
    DEFAULT_FINALIZE_TIMEOUT_MS,
    DEFAULT_PEER_TIMEOUT_MS,
    DEFAULT_SYNC_TIMEOUT_MS,
    AnyNumber,
    DeviceIds,
    Flag,
    Fraction,
    FurtherOptions,
    Member,
    Number,
    Pool,
    Secret,
    Text,
    Timeout,
    Uint32,
    read_json,
)
from ._misspelt import WarnsOfUnknownMembers

__all__ = ["LLMClusterInfo", "LLMConfig", "LLMRole", "LlmConfig"]

IpInfo = tuple[Union[int, str], int]

# Options without a member of LLMConfig.
ROLE = "llm.Role"
LISTEN_IP = "llm.ListenIp"
LISTEN_PORT = "llm.ListenPort"
FLOW_GRAPH_MEM_MAX_SIZE = "ge.flowGraphMemMaxSize"


class LLMRole(NamedIntEnum):
    """What an engine is for; has no influence on transfers."""

    PROMPT = 1
    DECODER = 2
    MIX = 3


class _ClusterInfo(Text):
    """JSON, in which the IPv4 texts of listen_ip_info become numbers."""

    accepts = "str, JSON"

    def checked(self, value: Any) -> Any:
        text = super().checked(value)
        return _with_numeric_ips(text) if text else text


class LLMConfig(WarnsOfUnknownMembers):
    """The options of an engine; generate_options() makes the dict for LLMDataDist.init().

    A member that was never set, or was set to None, is left to its default. Setters raise TypeError
    for a wrong type, and LLMConfigValueError (LLM_PARAM_INVALID, and a ValueError) or a plain
    ValueError for a value out of range. Setting a member that there is not is a warning. Source:
    3.1, decisions 4 and 65.
    """

    # First, so that the options of the other members win over them.
    ge_options = FurtherOptions(
        "Further options, taken over as they are; those of the other members win over them."
    )
    device_id = DeviceIds(
        "ge.exec.deviceId",
        "ge.session_device_id",
        "The device, or several, of which the engine takes exactly one.",
    )
    sync_kv_timeout = Timeout(
        "llm.SyncKvCacheWaitTime",
        "The deadline of pulls, pushes and each layer of an asynchronous transfer, in "
        "milliseconds.",
        default=DEFAULT_SYNC_TIMEOUT_MS,
    )
    listen_ip_info = Text(
        "llm.listenIpInfo",
        'The address to listen on: "127.0.0.1:26000" or "[::1]:26000"; port 0 picks a free one.',
    )
    enable_cache_manager = Flag(
        "llm.EnableCacheManager", "CacheManager mode: must be set, there is no other."
    )
    enable_remote_cache_accessible = Flag(
        "llm.EnableRemoteCacheAccessible",
        "One-sided mode instead of request mode; must be equal on both ends of a link.",
    )
    mem_pool_cfg = Pool("llm.MemPoolConfig", "The device pool.")
    host_mem_pool_cfg = Pool("llm.HostMemPoolConfig", "The host pool.")
    local_comm_res = Text(
        "llm.LocalCommRes",
        'The rank table of the own device, JSON; "" has one generated. Setting it, even to "", '
        "implies one-sided mode.",
        even_if_empty=True,
    )
    transfer_backend = Text(
        "llm.TransferBackend",
        'Unset, or "hixl": one-sided mode with links that only their maker can use.',
        even_if_empty=True,
    )
    global_resource_config = Text(
        "llm.GlobalResourceConfig", 'JSON for the "hixl" backend.', even_if_empty=True
    )
    link_total_time = Number(
        "llm.LinkTotalTime",
        "How long link() may take, in seconds; 0: the default of the runtime.",
        low=0,
        high=UINT32_MAX,
        default=0,
        most=INT32_MAX,
    )
    link_retry_count = Number(
        "llm.LinkRetryCount",
        "Among how many tries link() divides its time.",
        low=1,
        high=100,
        default=1,
    )
    rdma_traffic_class = Uint32("llm.RdmaTrafficClass", "The traffic class of RDMA.")
    rdma_service_level = Uint32("llm.RdmaServiceLevel", "The service level of RDMA.")
    enable_switch_role = Flag(
        "llm.EnableSwitchRole",
        "Accepted and not needed: switch_role() works anyway.",
        only_if_true=True,
    )
    deploy_res_path = Text("llm.deployResPath", "Accepted, without effect.")
    buf_pool_cfg = Text("llm.BufPoolCfg", "Accepted, without effect.")
    output_max_size = AnyNumber("llm.OutputMaxSize", "Accepted, without effect.")
    mem_utilization = Fraction("llm.MemoryUtilization", "Accepted, without effect.", default=0.95)
    cluster_info = _ClusterInfo(
        "llm.ClusterInfo",
        "Accepted, without effect; the IPv4 texts of listen_ip_info in it become numbers. Setting "
        "it raises JSONDecodeError for bad JSON and RuntimeError for a bad address.",
    )
    # Of this package alone (decision 41).
    allow_multiple_instances = Flag(
        "lldd.AllowMultipleInstances",
        "Whether this engine may be opened beside others of the process (decision 23).",
    )
    auth_token = Secret(
        "lldd.AuthToken",
        "A secret that both ends of a link must have (decision 41); not shown by repr and logs.",
    )

    buffer_pool = Text(
        "lldd.BufferPool",
        'The buffer pool of HIXL, "number:size in MB"; unset: "0:0", none. Both ends of a link '
        "must have the same; the mock has none.",
    )
    finalize_timeout = Timeout(
        "lldd.FinalizeTimeout",
        "How long finalize() waits for the library of the device, in milliseconds; what has not "
        "returned then keeps the device.",
        default=DEFAULT_FINALIZE_TIMEOUT_MS,
    )
    peer_timeout = Number(
        "lldd.PeerTimeout",
        "After how many milliseconds a peer is noticed that does not answer (its links are "
        "SILENT), or whose host has vanished (PEER_GONE), decision 24; 0: never.",
        low=0,
        high=INT32_MAX,
        default=DEFAULT_PEER_TIMEOUT_MS,
    )

    def __init__(self) -> None:
        self._options: dict[str, str] = {}
        self._values: dict[str, Any] = {}

    @property
    def options(self) -> dict[str, str]:
        """The dict that generate_options() fills, itself."""
        return self._options

    def generate_options(self) -> dict[str, str]:
        """Fill and return the options dict, the same object every time.

        Raises:
            IndexError: device_id is an empty list.
        """
        self._options.update(self._generated())
        return self._options

    def gen_options(self) -> dict[str, str]:
        """The same as generate_options()."""
        return self.generate_options()

    def _generated(self) -> dict[str, str]:
        generated: dict[str, str] = {}
        for member in MEMBERS:
            generated.update(member.options(self._values.get(member.name)))
        return generated

    def __repr__(self) -> str:
        try:
            return f"LLMConfig({masked({**self._options, **self._generated()})})"
        except IndexError:
            return f"LLMConfig(device_id={self.device_id})"


# The table of options, row by row.
MEMBERS: tuple[Member[Any, Any], ...] = tuple(
    member for member in vars(LLMConfig).values() if isinstance(member, Member)
)

LlmConfig = LLMConfig


def config_of_members(members: dict[str, Any]) -> LLMConfig:
    """Return a config with these members set.

    Raises AttributeError for a name that is no member, and what the setters raise.
    """
    names = {member.name for member in MEMBERS}
    config = LLMConfig()
    for name, value in members.items():
        if name not in names:
            raise AttributeError(f"LLMConfig has no member {name!r}; there are {sorted(names)}")
        setattr(config, name, value)
    return config


def masked(options: dict[str, str]) -> dict[str, str]:
    """Copy options for a log, without the secret."""
    secret = LLMConfig.auth_token.key
    return {key: "***" if key == secret else value for key, value in options.items()}


def _with_numeric_ips(text: str) -> str:
    info: Any = read_json(text)
    for cluster in info if isinstance(info, list) else [info]:
        addresses = cluster.get("listen_ip_info") if isinstance(cluster, dict) else None
        if isinstance(addresses, list):
            for address in addresses:
                if isinstance(address, dict) and isinstance(address.get("ip"), str):
                    address["ip"] = _addresses.parse(address["ip"])
    try:
        return json.dumps(info)
    except RecursionError:
        raise json.JSONDecodeError("nested too deeply", text, 0) from None


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
        """Add an address of this host: the connections of the link go out from the first one of
        the remote address's family, so that it chooses the network card; the port does not count.

        "0.0.0.0" and "::" choose nothing, nor does a loopback address on the way to another host.
        An address that is none of this host's makes link_clusters answer LLM_PARAM_INVALID
        (decision 85).

        Args:
            ip: IPv4 or IPv6 text, or an IPv4 address as an int whose lowest byte is the first
                octet.
            port: uint16.

        Raises:
            TypeError: an argument has another type.
            ValueError: the port is out of its range.
            RuntimeError: the text is not an address.
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
