# SPDX-License-Identifier: Apache-2.0
"""Texts with a null character, at which a C library takes them to end: decision 72."""

from __future__ import annotations

import json

import pytest

from llm_datadist import (
    LLMClusterInfo,
    LLMConfig,
    LLMException,
    LLMRole,
    LLMStatusCode,
)
from llm_datadist._members import Text
from llm_datadist._native import control
from llm_datadist.config import MEMBERS
from llm_datadist.options import read_options
from llm_datadist.status import LLMConfigValueError

pytestmark = pytest.mark.rule("C10-74")

TEXTS = [member.name for member in MEMBERS if isinstance(member, Text)]


def refused(call, name):
    with pytest.raises(LLMException, match=f"{name}.* must not have a null character") as caught:
        call()
    assert caught.value.status_code is LLMStatusCode.LLM_PARAM_INVALID
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("text", ["\0secret", "sec\0ret", "secret\0"])
@pytest.mark.parametrize("member", TEXTS)
def test_setters(member, text):
    assert issubclass(LLMConfigValueError, ValueError)
    config = LLMConfig()
    with pytest.raises(LLMConfigValueError, match=f"{member} must not have a null character"):
        setattr(config, member, text)
    assert getattr(config, member) == ""


@pytest.mark.parametrize("further", [{"a\0": "b"}, {"a": "b\0"}])
def test_further_options(further):
    with pytest.raises(LLMConfigValueError, match=r"of ge_options|ge_options\['a'\]"):
        LLMConfig().ge_options = further


@pytest.mark.parametrize("key", ["lldd.AuthToken", "llm.LocalCommRes", "llm.deployResPath", "x"])
def test_options_written_by_hand(key):
    options = {"llm.EnableCacheManager": "1", key: "\0secret"}
    refused(lambda: read_options(1, LLMRole.PROMPT, options), f"option '{key}'")
    options = {"llm.EnableCacheManager": "1", "llm.listenIpInfo": "127.0.0.1\0:1"}
    refused(lambda: read_options(1, LLMRole.PROMPT, options), "llm.listenIpInfo")
    options = {"llm.EnableCacheManager": "1", "a\0": "1"}
    refused(lambda: read_options(1, LLMRole.PROMPT, options), "a key of options")


@pytest.mark.parametrize("ip", ["127.0.0.1\0x", "::1\0", "\0"])
def test_addresses_of_clusters(ip):
    info = LLMClusterInfo()
    refused(lambda: info.append_remote_ip_info(ip, 1), "ip")
    refused(lambda: info.append_local_ip_info(ip, 1), "ip")


def test_addresses_that_a_subclass_gives(native, open_datadist):
    class Info(LLMClusterInfo):
        remote_ip_info_list = (("127.0.0.1\0x", 1),)

    info = Info()
    info.remote_cluster_id = 3
    info.append_local_ip_info("127.0.0.1", 1)
    refused(lambda: open_datadist().link_clusters([info], 1000), "ip")
    assert not native.of("link_clusters")


def test_switch_role(native, open_datadist):
    datadist = open_datadist()
    refused(
        lambda: datadist.switch_role(LLMRole.MIX, {"llm.listenIpInfo": "127.0.0.1\0:1"}),
        "llm.listenIpInfo",
    )
    assert not native.of("engine_switch_listener")


def test_communicators(native, open_datadist):
    datadist = open_datadist()
    refused(lambda: datadist.link("a\0b", {1: 0, 2: 1}, json.dumps({})), "comm_name")
    refused(lambda: datadist.link("a", {1: 0, 2: 1}, "{}\0"), "rank_table")
    # In the order of the arguments.
    refused(lambda: datadist.link("a\0b", {}, "{}\0"), "comm_name")
    refused(lambda: datadist.link("a", {}, "{}\0"), "rank_table")
    assert not native.of("link")


def test_commands_to_the_runtime(native):
    refused(lambda: control.runtime_control("fau\0lts"), "command")
    refused(lambda: control.runtime_control("faults", "\0"), "argument")
