# SPDX-License-Identifier: Apache-2.0
"""LLMConfig, LLMClusterInfo and LLMRole: contract 1.5, 1.6 and 3.1."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_datadist import LLMClusterInfo, LLMConfig, LlmConfig, LLMException, LLMRole, LLMStatusCode
from llm_datadist.config import MEMBERS
from llm_datadist.status import LLMConfigValueError

PARAM_INVALID = LLMStatusCode.LLM_PARAM_INVALID


@pytest.mark.rule("C1.1-12")
def test_the_two_names_are_one_class():
    assert LLMConfig is LlmConfig


@pytest.mark.rule("C1.3-1")
def test_roles():
    assert [int(role) for role in LLMRole] == [1, 2, 3]
    assert str(LLMRole.PROMPT) == f"{LLMRole.PROMPT}" == "LLMRole.PROMPT"


DEFAULTS = {
    "device_id": None,
    "sync_kv_timeout": None,
    "listen_ip_info": "",
    "enable_cache_manager": False,
    "enable_remote_cache_accessible": False,
    "mem_pool_cfg": "",
    "host_mem_pool_cfg": "",
    "local_comm_res": "",
    "transfer_backend": "",
    "global_resource_config": "",
    "link_total_time": 0,
    "link_retry_count": 1,
    "rdma_traffic_class": None,
    "rdma_service_level": None,
    "ge_options": {},
    "enable_switch_role": False,
    "deploy_res_path": "",
    "buf_pool_cfg": "",
    "output_max_size": None,
    "mem_utilization": 0.95,
    "cluster_info": "",
    "allow_multiple_instances": False,
    "auth_token": "",
    "peer_timeout": 15000,
    "buffer_pool": "",
    "finalize_timeout": None,
}


@pytest.mark.rule(*(f"C3.1-{n}" for n in range(1, 22)))
@pytest.mark.parametrize(("member", "value"), DEFAULTS.items())
def test_defaults(member, value):
    assert getattr(LLMConfig(), member) == value


@pytest.mark.rule("C3.1-20")
def test_nothing_set_emits_memory_utilization_alone():
    assert LLMConfig().generate_options() == {"llm.MemoryUtilization": "0.95"}


@pytest.mark.rule(*(f"C3.1-{n}" for n in range(1, 21)))
@pytest.mark.parametrize(
    ("member", "value", "emitted"),
    [
        ("device_id", 0, {"ge.exec.deviceId": "0", "ge.session_device_id": "0"}),
        ("device_id", [2, 3], {"ge.exec.deviceId": "2;3", "ge.session_device_id": "2"}),
        ("device_id", (1,), {"ge.exec.deviceId": "1", "ge.session_device_id": "1"}),
        ("sync_kv_timeout", 5000, {"llm.SyncKvCacheWaitTime": "5000"}),
        ("sync_kv_timeout", "5000", {"llm.SyncKvCacheWaitTime": "5000"}),
        ("sync_kv_timeout", None, {}),
        ("listen_ip_info", "127.0.0.1:1", {"llm.listenIpInfo": "127.0.0.1:1"}),
        ("listen_ip_info", "", {}),
        ("enable_cache_manager", True, {"llm.EnableCacheManager": "1"}),
        ("enable_cache_manager", False, {"llm.EnableCacheManager": "0"}),
        ("enable_remote_cache_accessible", True, {"llm.EnableRemoteCacheAccessible": "1"}),
        ("enable_remote_cache_accessible", False, {"llm.EnableRemoteCacheAccessible": "0"}),
        ("mem_pool_cfg", "{}", {"llm.MemPoolConfig": "{}"}),
        ("mem_pool_cfg", "", {}),
        ("host_mem_pool_cfg", "not json", {"llm.HostMemPoolConfig": "not json"}),
        ("local_comm_res", "", {"llm.LocalCommRes": ""}),
        ("local_comm_res", "{}", {"llm.LocalCommRes": "{}"}),
        ("transfer_backend", "", {"llm.TransferBackend": ""}),
        ("transfer_backend", "hixl", {"llm.TransferBackend": "hixl"}),
        ("global_resource_config", "", {"llm.GlobalResourceConfig": ""}),
        ("link_total_time", 0, {"llm.LinkTotalTime": "0"}),
        ("link_total_time", 2**32 - 1, {"llm.LinkTotalTime": "4294967295"}),
        ("link_retry_count", 100, {"llm.LinkRetryCount": "100"}),
        ("peer_timeout", 0, {"lldd.PeerTimeout": "0"}),
        ("buffer_pool", "4:8", {"lldd.BufferPool": "4:8"}),
        ("finalize_timeout", 300, {"lldd.FinalizeTimeout": "300"}),
        ("rdma_traffic_class", 100, {"llm.RdmaTrafficClass": "100"}),
        ("rdma_service_level", 100, {"llm.RdmaServiceLevel": "100"}),
        ("ge_options", {"a": "b"}, {"a": "b"}),
        ("enable_switch_role", True, {"llm.EnableSwitchRole": "1"}),
        ("enable_switch_role", False, {}),
        ("deploy_res_path", "x", {"llm.deployResPath": "x"}),
        ("buf_pool_cfg", "x", {"llm.BufPoolCfg": "x"}),
        ("output_max_size", 0, {"llm.OutputMaxSize": "0"}),
        ("allow_multiple_instances", True, {"lldd.AllowMultipleInstances": "1"}),
        ("auth_token", "secret", {"lldd.AuthToken": "secret"}),
    ],
)
def test_option_of_each_member(member, value, emitted):
    config = LLMConfig()
    setattr(config, member, value)
    if value is not None:
        assert getattr(config, member) == value
    assert config.generate_options() == {**emitted, "llm.MemoryUtilization": "0.95"}
    assert all(type(key) is str for key in config.options)


@pytest.mark.rule(*(f"C3.1-{n}" for n in range(1, 22)))
@pytest.mark.parametrize(
    ("member", "value", "error"),
    [
        ("device_id", None, TypeError),
        ("device_id", "0", TypeError),
        ("device_id", [0, "1"], TypeError),
        ("device_id", 2**31, ValueError),
        ("sync_kv_timeout", 1.5, TypeError),
        ("sync_kv_timeout", 2**31, ValueError),
        ("listen_ip_info", 1, TypeError),
        ("enable_cache_manager", 1, TypeError),
        ("enable_remote_cache_accessible", "1", TypeError),
        ("mem_pool_cfg", {}, TypeError),
        ("host_mem_pool_cfg", {}, TypeError),
        ("local_comm_res", {}, TypeError),
        ("transfer_backend", 1, TypeError),
        ("global_resource_config", {}, TypeError),
        ("link_total_time", "1", TypeError),
        ("link_retry_count", 1.0, TypeError),
        ("rdma_traffic_class", None, TypeError),
        ("rdma_traffic_class", 2**32, ValueError),
        ("rdma_service_level", None, TypeError),
        ("rdma_service_level", -1, ValueError),
        ("ge_options", [], TypeError),
        ("ge_options", {"a": 1}, TypeError),
        ("ge_options", {1: "a"}, TypeError),
        ("enable_switch_role", 1, TypeError),
        ("deploy_res_path", 1, TypeError),
        ("buf_pool_cfg", 1, TypeError),
        ("output_max_size", "1", TypeError),
        ("mem_utilization", 1, TypeError),
        ("cluster_info", {}, TypeError),
        ("cluster_info", "no json", json.JSONDecodeError),
        ("cluster_info", '{"listen_ip_info": [{"ip": "x", "port": 1}]}', RuntimeError),
        ("allow_multiple_instances", 1, TypeError),
        ("auth_token", b"x", TypeError),
    ],
)
def test_setters_raise_builtins(member, value, error):
    with pytest.raises(error) as caught:
        setattr(LLMConfig(), member, value)
    assert not isinstance(caught.value, LLMException)


@pytest.mark.rule("C3.1-1", "C3.1-2", "C3.1-11", "C3.1-12", "C3.1-20")
@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("device_id", -1),
        ("device_id", [0, -1]),
        ("sync_kv_timeout", 0),
        ("sync_kv_timeout", "-1"),
        ("sync_kv_timeout", "1s"),
        ("sync_kv_timeout", "\u0661"),
        ("link_total_time", -1),
        ("link_total_time", 2**32),
        ("link_retry_count", 0),
        ("peer_timeout", -1),
        ("peer_timeout", 2**31),
        ("link_retry_count", 101),
        ("mem_utilization", 1.5),
        ("mem_utilization", 1.001),
        ("mem_utilization", -0.001),
        ("mem_utilization", float("nan")),
    ],
)
def test_setters_raise_param_invalid(member, value):
    with pytest.raises(LLMException) as caught:
        setattr(LLMConfig(), member, value)
    assert caught.value.status_code is PARAM_INVALID
    assert type(caught.value) is LLMConfigValueError


@pytest.mark.parametrize(
    ("member", "value", "option", "text"),
    [
        ("device_id", 0, "ge.exec.deviceId", "0"),
        ("sync_kv_timeout", 1, "llm.SyncKvCacheWaitTime", "1"),
        ("link_total_time", 0, "llm.LinkTotalTime", "0"),
        ("link_total_time", 2**32 - 1, "llm.LinkTotalTime", "4294967295"),
        ("link_retry_count", 1, "llm.LinkRetryCount", "1"),
        ("link_retry_count", 100, "llm.LinkRetryCount", "100"),
        ("mem_utilization", 0.0, "llm.MemoryUtilization", "0.0"),
        ("mem_utilization", 0.5, "llm.MemoryUtilization", "0.5"),
        ("mem_utilization", 1.0, "llm.MemoryUtilization", "1.0"),
    ],
)
def test_the_limits_themselves_are_taken(member, value, option, text):
    config = LLMConfig()
    setattr(config, member, value)
    assert getattr(config, member) == value
    assert config.generate_options()[option] == text


@pytest.mark.parametrize(
    "member",
    [m for m in DEFAULTS if m not in ("device_id", "rdma_traffic_class", "rdma_service_level")],
)
def test_none_means_unset(member):
    config = LLMConfig()
    setattr(config, member, None)
    assert getattr(config, member) == DEFAULTS[member]
    assert config.generate_options() == {"llm.MemoryUtilization": "0.95"}


@pytest.mark.rule("C3.1-22")
def test_an_empty_device_list_fails_when_options_are_made():
    config = LLMConfig()
    config.device_id = []
    with pytest.raises(IndexError):
        config.gen_options()
    assert "device_id" in repr(config)


@pytest.mark.rule("C1.5-1", "C1.5-2", "C1.5-4")
def test_one_dict_that_clients_may_add_to():
    config = LLMConfig()
    options = config.generate_options()
    options["llm.RdmaServiceLevel"] = "3"
    config.device_id = 4
    assert config.gen_options() is options is config.options
    assert options["llm.RdmaServiceLevel"] == "3"
    assert options["ge.exec.deviceId"] == "4"


@pytest.mark.rule("C1.5-3")
def test_generated_keys_stay():
    config = LLMConfig()
    config.mem_pool_cfg = "{}"
    config.generate_options()
    config.mem_pool_cfg = ""
    assert config.generate_options()["llm.MemPoolConfig"] == "{}"


@pytest.mark.rule("C3.1-15")
def test_members_win_over_ge_options():
    config = LLMConfig()
    config.ge_options = {"llm.LinkRetryCount": "7", "x": "y"}
    config.link_retry_count = 3
    assert config.generate_options()["llm.LinkRetryCount"] == "3"
    assert config.options["x"] == "y"


@pytest.mark.rule("C3.1-21")
def test_cluster_info_addresses_become_numbers():
    config = LLMConfig()
    config.cluster_info = '{"cluster_id": 1, "listen_ip_info": [{"ip": "127.0.0.1", "port": 9}]}'
    assert json.loads(config.generate_options()["llm.ClusterInfo"]) == {
        "cluster_id": 1,
        "listen_ip_info": [{"ip": 16777343, "port": 9}],
    }


def test_the_secret_is_not_shown():
    config = LLMConfig()
    config.auth_token = "a-secret"
    assert config.generate_options()["lldd.AuthToken"] == "a-secret"
    assert "a-secret" not in repr(config)
    assert "a-secret" not in repr(config.options)


def test_repr_does_not_fill_the_options():
    config = LLMConfig()
    config.device_id = 1
    assert "'ge.exec.deviceId': '1'" in repr(config)
    assert config.options == {}


class TestClusterInfo:
    @pytest.mark.rule("C1.6-1", "C1.6-2", "C1.6-10")
    def test_defaults(self):
        info = LLMClusterInfo()
        assert info.remote_cluster_id is None
        assert info.remote_role_type is None
        assert info.local_ip_info_list == []
        assert info.remote_ip_info_list == []
        assert info.link_detail == ""

    @pytest.mark.rule("C1.6-6", "C1.6-9", "C1.6-10")
    @pytest.mark.parametrize(
        ("ip", "stored"),
        [
            ("127.0.0.1", 16777343),
            ("127.1", 16777343),
            ("0x7f.1", 16777343),
            (16777343, 16777343),
            (-1, -1),
            (2**40, 2**40),
            ("::1", "::1"),
            ("[::1]", "::1"),
            ("2001:DB8:0:0::1", "2001:db8::1"),
        ],
    )
    def test_addresses_as_stored(self, ip, stored):
        info = LLMClusterInfo()
        info.append_local_ip_info(ip, 1)
        info.append_remote_ip_info(ip, 65535)
        assert info.local_ip_info_list == [(stored, 1)]
        assert info.remote_ip_info_list == [(stored, 65535)]

    @pytest.mark.rule("C1.6-6")
    @given(st.ip_addresses(v=4))
    def test_lowest_byte_is_the_first_octet(self, ip):
        info = LLMClusterInfo()
        info.append_remote_ip_info(str(ip), 1)
        assert info.remote_ip_info_list[0][0].to_bytes(4, "little") == ip.packed

    @pytest.mark.rule("C1.6-8")
    @pytest.mark.parametrize(
        "ip",
        [
            "",
            "localhost",
            "1.2.3.256",
            "1.2.3.4 x",
            "[1.2.3.4]",
            "fe80::1%eth0",
            "::g",
            "\u0661.1.1.1",
        ],
    )
    def test_no_address(self, ip):
        with pytest.raises(RuntimeError, match="is not an IP address") as caught:
            LLMClusterInfo().append_remote_ip_info(ip, 1)
        assert not isinstance(caught.value, LLMException)

    @pytest.mark.rule("C1.6-3", "C1.6-5")
    @pytest.mark.parametrize(
        ("ip", "port", "error"),
        [
            (None, 1, TypeError),
            (b"127.0.0.1", 1, TypeError),
            ("127.0.0.1", None, TypeError),
            ("127.0.0.1", "1", TypeError),
            ("127.0.0.1", 65536, ValueError),
            ("127.0.0.1", -1, ValueError),
        ],
    )
    def test_bad_arguments(self, ip, port, error):
        info = LLMClusterInfo()
        with pytest.raises(error):
            info.append_local_ip_info(ip, port)
        assert info.local_ip_info_list == []

    @pytest.mark.rule("C1.6-1")
    @pytest.mark.parametrize(
        ("value", "error"),
        [(None, TypeError), ("1", TypeError), (-1, ValueError), (2**64, ValueError)],
    )
    def test_remote_cluster_id(self, value, error):
        info = LLMClusterInfo()
        with pytest.raises(error):
            info.remote_cluster_id = value
        info.remote_cluster_id = 2**64 - 1
        assert info.remote_cluster_id == 2**64 - 1

    @pytest.mark.rule("C1.6-2")
    def test_remote_role_type(self):
        info = LLMClusterInfo()
        info.remote_role_type = LLMRole.PROMPT
        info.remote_role_type = 1
        assert info.remote_role_type == 1
        with pytest.raises(TypeError):
            info.remote_role_type = "PROMPT"


def test_what_an_engine_takes_is_said_where_it_is_less_than_a_setter_allows():
    accepted = {member.name: member.accepts for member in MEMBERS}
    assert not any("None" in each for each in accepted.values()), accepted
    less = [each for each in accepted.values() if "an engine takes" in each]
    assert less
    assert all(each.startswith("int in [") for each in less)
