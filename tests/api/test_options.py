# SPDX-License-Identifier: Apache-2.0
"""From the options of init() to lldd_config: contract 1.4.1, 3.2 and 3.3."""

from __future__ import annotations

import pytest

from llm_datadist import LLMDataDistWarning, LLMException, LLMRole, LLMStatusCode
from llm_datadist.options import PoolOptions, read_options

CM = {"llm.EnableCacheManager": "1"}


def assert_refused(options, text, code=LLMStatusCode.LLM_PARAM_INVALID):
    with pytest.raises(LLMException, match=text) as caught:
        read_options(1, LLMRole.PROMPT, options)
    assert caught.value.status_code is code


@pytest.mark.rule("C3.2-2", "C3.2-6", "C3.2-8", "C3.2-19", "C3.2-23")
def test_defaults():
    options = read_options(7, LLMRole.MIX, CM)
    assert (options.cluster_id, options.role) == (7, LLMRole.MIX)
    assert (options.one_sided, options.one_way_links, options.strict_hardware) == (
        False,
        False,
        False,
    )
    assert (options.device_id, options.sync_timeout_ms, options.listen_ip) == (0, 1000, None)
    assert options.device_pool == options.host_pool == PoolOptions(0, 16)
    assert (options.local_comm_res, options.auth_token) == (None, None)


@pytest.mark.rule("C1.4.1-6", "C3.2-24", "C3.2-30", "C3.3-5")
def test_everything_given():
    client = {
        **CM,
        "llm.EnableRemoteCacheAccessible": "1",
        "llm.TransferBackend": "hixl",
        "llm.GlobalResourceConfig": "{}",
        "llm.LocalCommRes": "{}",
        "ge.exec.deviceId": "3",
        "llm.SyncKvCacheWaitTime": "2500",
        "llm.listenIpInfo": "127.0.0.1:26000",
        "llm.MemPoolConfig": '{"memory_size": 4096, "page_shift": 12, "other": null}',
        "llm.HostMemPoolConfig": '{"memory_size": 65536}',
        "llm.LinkTotalTime": "9",
        "llm.LinkRetryCount": "4",
        "llm.RdmaTrafficClass": "100",
        "llm.RdmaServiceLevel": "0",
        "lldd.AuthToken": "secret",
        "lldd.PeerTimeout": "2000",
        "llm.BufPoolCfg": "ignored",
    }
    before = dict(client)
    options = read_options(1, LLMRole.DECODER, client)
    assert client == before
    assert (options.one_sided, options.one_way_links) == (True, True)
    assert (options.local_comm_res, options.global_resource_config) == ("{}", "{}")
    assert (options.device_id, options.sync_timeout_ms) == (3, 2500)
    assert (options.listen_ip, options.listen_port) == ("127.0.0.1", 26000)
    assert options.device_pool == PoolOptions(4096, 12)
    assert options.host_pool == PoolOptions(65536, 16)
    # The retry count is not read with "hixl".
    assert (options.link_total_time_s, options.link_retry_count) == (9, 1)
    assert (options.rdma_traffic_class, options.rdma_service_level) == (100, 0)
    assert options.auth_token == "secret"
    assert options.peer_timeout_ms == 2000
    assert "secret" not in repr(options)


@pytest.mark.rule("C3.2-37")
def test_a_wait_time_of_0_is_the_default_with_a_warning():
    with pytest.warns(LLMDataDistWarning, match=r"llm\.SyncKvCacheWaitTime is 0: the default"):
        options = read_options(1, LLMRole.MIX, {**CM, "llm.SyncKvCacheWaitTime": "0"})
    assert options.sync_timeout_ms == 1000


@pytest.mark.rule("C1.4.1-18")
@pytest.mark.parametrize(
    ("text", "ip", "port"),
    [("127.0.0.1:0", "127.0.0.1", 0), ("[::1]:26000", "::1", 26000), ("[::]:65535", "::", 65535)],
)
def test_listen_addresses(text, ip, port):
    options = read_options(1, LLMRole.PROMPT, {**CM, "llm.listenIpInfo": text})
    assert (options.listen_ip, options.listen_port) == (ip, port)


@pytest.mark.rule("C1.4.1-15")
@pytest.mark.parametrize(
    "text",
    [
        "",
        "127.0.0.1",
        "::1:26000",
        "a:b:c",
        "[::1]26000",
        "::1]:1",
        "[fe80::1%eth0]:1",
        "1.2.3.4:65536",
        "1.2.3.4:-1",
    ],
)
def test_bad_listen_addresses(text):
    assert_refused({**CM, "llm.listenIpInfo": text}, "listenIpInfo")


@pytest.mark.rule("C1.4.1-17")
@pytest.mark.parametrize("text", ["127.0.0.1:", "127.0.0.1:x", "[::1]:1.5"])
def test_a_listen_port_that_is_no_int(text):
    with pytest.raises(ValueError, match="invalid literal") as caught:
        read_options(1, LLMRole.PROMPT, {**CM, "llm.listenIpInfo": text})
    assert not isinstance(caught.value, LLMException)


@pytest.mark.parametrize(
    "options", [{}, {"llm.EnableCacheManager": "0"}, {"llm.EnableCacheManager": "true"}]
)
def test_only_cache_manager_mode(options):
    assert_refused(options, "enable_cache_manager = True", LLMStatusCode.LLM_FEATURE_NOT_ENABLED)


@pytest.mark.rule("C1.4.1-8", "C1.4.1-9", "C1.4.1-10")
def test_local_comm_res_implies_one_sided_mode():
    assert read_options(1, LLMRole.PROMPT, {"llm.LocalCommRes": ""}).one_sided
    explicit = {"llm.LocalCommRes": "{}", "llm.EnableRemoteCacheAccessible": "0"}
    assert not read_options(1, LLMRole.PROMPT, explicit).one_sided
    assert_refused({"llm.LocalCommRes": "", "llm.EnableCacheManager": "0"}, "EnableCacheManager")


@pytest.mark.rule("C1.4.1-11", "C1.4.1-12", "C1.4.1-13", "C3.2-20", "C3.2-21")
def test_transfer_backend_needs():
    assert_refused({"llm.TransferBackend": ""}, "EnableCacheManager")
    off = {**CM, "llm.TransferBackend": "hixl", "llm.EnableRemoteCacheAccessible": "0"}
    assert_refused(off, "EnableRemoteCacheAccessible")
    assert_refused({**CM, "llm.TransferBackend": "hixl"}, "listenIpInfo")
    listening = {**CM, "llm.listenIpInfo": "127.0.0.1:0"}
    for name in ("", "hccl", "HIXL"):
        assert_refused({**listening, "llm.TransferBackend": name}, "TransferBackend")
    assert read_options(1, LLMRole.PROMPT, {**listening, "llm.TransferBackend": "hixl"}).one_sided


@pytest.mark.rule(
    "C1.4.1-5",
    "C2.1-37",
    "C3.2-3",
    "C3.2-5",
    "C3.2-8",
    "C3.2-24",
    "C3.2-27",
    "C3.2-30",
    "C3.3-1",
    "C3.3-2",
    "C3.3-3",
    "C3.3-4",
)
@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("ge.exec.deviceId", ["0;1", "", "-1", "True", "2147483648", "1" * 5000]),
        ("llm.SyncKvCacheWaitTime", ["", "1s", "-5", "00s", "2147483648", "\u0661"]),
        ("llm.EnableRemoteCacheAccessible", ["2", "", "true"]),
        ("llm.LinkTotalTime", ["-1", "2147483648"]),
        ("llm.LinkRetryCount", ["0", "101", "x"]),
        ("lldd.PeerTimeout", ["", "-1", "1s", "2147483648"]),
        ("llm.RdmaTrafficClass", ["-1", "4294967296"]),
        ("llm.RdmaServiceLevel", ["x"]),
        ("ge.flowGraphMemMaxSize", ["1,2", "", "x"]),
        (
            "llm.MemPoolConfig",
            [
                "",
                "[]",
                "{",
                "{}",
                '{"memory_size": -1}',
                '{"memory_size": 1.0}',
                '{"memory_size": true}',
                '{"memory_size": "1048576"}',
                '{"memory_size": 65535}',
                '{"memory_size": 1048576, "page_shift": 9}',
                '{"memory_size": 10737418240, "page_shift": 31}',
                '{"memory_size": 1048576, "page_shift": null}',
                '{"memory_size": 4398046511104, "page_shift": 10}',
                '{"memory_size": 18446744073709551616, "page_shift": 30}',
            ],
        ),
    ],
)
def test_refused_values(key, values):
    for value in values:
        assert_refused({**CM, key: value}, key.rpartition(".")[2])


def test_both_pools_are_checked():
    assert_refused({**CM, "llm.HostMemPoolConfig": "{}"}, "HostMemPoolConfig")


@pytest.mark.rule("C1.4.1-3", "C1.4.1-5", "C1.2-5", "C1.2-15")
@pytest.mark.parametrize(
    "options", [None, [], "x", {**CM, "a": 1}, {**CM, 1: "a"}, {"ge.flowGraphMemMaxSize": 1}]
)
def test_types(options):
    with pytest.raises(TypeError):
        read_options(1, LLMRole.PROMPT, options)


def test_strict_hardware_mode_is_an_environment_variable(monkeypatch):
    monkeypatch.setenv("LLM_DATADIST_STRICT_HARDWARE", "1")
    assert read_options(1, LLMRole.PROMPT, CM).strict_hardware
    monkeypatch.setenv("LLM_DATADIST_STRICT_HARDWARE", "0")
    assert not read_options(1, LLMRole.PROMPT, CM).strict_hardware
