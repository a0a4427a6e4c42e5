# SPDX-License-Identifier: Apache-2.0
"""Rank tables are compared by what they say: rank_table.h, lenient_json.h."""

from __future__ import annotations

import json
import random
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.engine.engine_shim import Shim

pytestmark = pytest.mark.sanitize


def difference(shim: Shim, own: str, other: str) -> str:
    return shim.string(shim.lib.shim_rank_table_difference(own.encode(), other.encode()))


def device(number: int, **more: str) -> dict[str, str]:
    return {"device_id": str(number), "device_ip": f"192.168.1.{number}", **more}


def server(number: int, *devices: dict[str, str]) -> dict[str, Any]:
    return {"server_id": f"10.0.0.{number}", "device": list(devices)}


def table(*servers: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"version": "1.0", "server_count": "2", "server_list": list(servers), **more}


FULL = table(
    server(1, device(0, rank_id="0"), device(1, rank_id="1")),
    server(2, device(0, rank_id="2"), device(1, rank_id="3")),
    super_pod_list=[
        {"super_pod_id": "0", "server_list": [{"server_id": "10.0.0.1"}]},
        {"super_pod_id": "1", "server_list": [{"server_id": "10.0.0.2"}]},
    ],
)


def shuffled(value: Any, source: random.Random, name: str = "") -> Any:
    if isinstance(value, dict):
        items = [(key, shuffled(each, source, key)) for key, each in value.items()]
        source.shuffle(items)
        return dict(items)
    if isinstance(value, list):
        items = [shuffled(each, source) for each in value]
        if name in ("server_list", "device", "super_pod_list"):
            source.shuffle(items)
        return items
    return value


@given(source=st.randoms(use_true_random=False), indent=st.sampled_from([None, 0, 1, 4]))
def test_order_of_lists_and_keys_and_white_space_say_nothing(shim: Shim, source, indent) -> None:
    other = json.dumps(shuffled(FULL, source), indent=indent)
    assert difference(shim, json.dumps(FULL), other) == ""
    assert difference(shim, other, json.dumps(FULL)) == ""


@pytest.mark.parametrize(
    ("own", "other"),
    [
        ('{"a": ["1", "2"]}', '{"a": ["1", "2",],}'),
        ('{"a": {"b": "1"}}', '\ufeff {"a": {"b": "1",}\t,\r\n} '),
        ('{"a": "\u00e9\U0001f600/"}', r'{"a": "\u00E9\ud83d\uDE00\/"}'),
        (
            '{"a": "\x7f\x80\u07ff\u0800\uffff\U00010000"}',
            r'{"a": "\u007f\u0080\u07ff\u0800\uffff\ud800\udc00"}',
        ),
        (r'{"a": "\t\"\\\n"}', r'{"a": "\u0009\u0022\u005c\u000A"}'),
        ('{"a": "2"}', '{"a": "1", "a": "2"}'),
        ("{}", " { } "),
        ('{"a": [-1.5e3, true, false, null]}', '{"a":[-1.5e3,true,false,null]}'),
    ],
)
def test_forms_that_say_the_same(shim: Shim, own: str, other: str) -> None:
    assert difference(shim, own, other) == ""


@pytest.mark.parametrize(
    ("own", "other", "text"),
    [
        (table(server(1)), table(server(2)), [
            'server "10.0.0.1" is only here', 'server "10.0.0.2" is only there',
        ]),
        (table(server(1, device(0))), table(server(1, device(0), device(3))), [
            'server "10.0.0.1", device "3" is only there',
        ]),
        (table(server(1, device(0), device(1))), table(server(1, device(1), device(0, x="y"))), [
            'server "10.0.0.1", device "0": "x" is only there',
        ]),
        (
            table(server(2), server(1, device(0, rank_id="0"))),
            table(server(1, device(0, rank_id="5")), server(2)),
            ['server "10.0.0.1", device "0": "rank_id" is "0" here, "5" there'],
        ),
        (
            {"super_pod_list": [{"super_pod_id": "7", "server_list": [server(1), server(2)]}]},
            {"super_pod_list": [{"super_pod_id": "7", "server_list": [server(1)]}]},
            ['super pod "7", server "10.0.0.2" is only here'],
        ),
        ({"version": "1.0"}, {"version": "1.2"}, ['"version" is "1.0" here, "1.2" there']),
        ({"a": "1"}, {"a": 1}, ['"a" is "1" here, 1 there']),
        # Of other lists the order counts.
        ({"nic": ["a", "b"]}, {"nic": ["b", "a"]}, ['"nic" is ["a", "b"] here, ["b", "a"] there']),
        # A server that is listed twice is not the same as once.
        (table(server(1), server(1)), table(server(1)), ['server "10.0.0.1" is only here']),
        # Elements without an id are called by what they say.
        ({"device": ["0", "1"]}, {"device": ["1", "2"]}, [
            'device "0" is only here', 'device "2" is only there',
        ]),
    ],
)  # fmt: skip
def test_the_difference_is_named_by_server_and_device(shim: Shim, own, other, text) -> None:
    assert difference(shim, json.dumps(own), json.dumps(other)) == "; ".join(text)


def test_a_few_differences_are_shown_and_long_values_are_cut(shim: Shim) -> None:
    own, other = ({"server_list": [server(i) for i in range(a, a + 50)]} for a in (0, 100))
    text = difference(shim, json.dumps(own), json.dumps(other))
    assert text.count("is only here") == 4
    assert text.endswith("; and more")
    long = difference(shim, json.dumps({"a": "\u00e9" * 5000}), json.dumps({"a": "x\n" * 5000}))
    assert len(long) < 200
    assert "\n" not in long


def test_many_elements_that_are_equal(shim: Shim) -> None:
    same = [server(1, device(0))] * 200
    text = difference(shim, json.dumps(table(*same)), json.dumps(table(*same, server(2))))
    assert text.count("is only there") == 1
    assert "10.0.0.2" in text


@pytest.mark.parametrize(
    "text",
    [
        "", "a", "[1]", '"{}"', "{", "{]", "{,}", '{"a"}', '{"a":}', '{"a":1', '{"a" "b"}',
        "{'a':1}", '{"a":"\\x"}', '{"a":"\\u12"}', '{"a":"\\ud800"}', '{"a":"\\udc00x"}',
        '{"a":NaN}', "{} {}",
        '{"a":' + "[" * 40 + "]" * 40 + "}", '{"a":[' + "1," * 40000 + "]}",
    ],
    ids=range(20),
)  # fmt: skip
def test_what_is_no_table_is_compared_as_text(shim: Shim, text: str) -> None:
    assert difference(shim, text, text) == ""
    # One more blank is no difference between tables.
    assert "from byte" in difference(shim, text, text + " ")
    assert "from byte" in difference(shim, text + " ", '{"a": 1}')


@pytest.mark.parametrize(
    "text",
    [
        '{"device":' * 100_000,
        "[" * 150_000,
        '{"server_list":[' + ",".join(f'{{"server_id":"{i}"}}' for i in range(6000)) + "]}",
        '{"a":"' + "\\u0000" * 20_000 + '"}',
    ],
    ids=["open objects", "open lists", "many servers", "zeros"],
)
def test_hostile_tables_cost_little(shim: Shim, text: str) -> None:
    begin = time.process_time()
    assert difference(shim, "{}", text) != ""
    assert time.process_time() - begin < 5  # quadratic work would take far longer


@given(own=st.binary(max_size=60), other=st.binary(max_size=60))
def test_any_bytes_are_equal_to_themselves(shim: Shim, own: bytes, other: bytes) -> None:
    def differ(here: bytes, there: bytes) -> bool:
        text = shim.lib.shim_rank_table_difference(here, there)
        return bool(shim.ffi.string(text) != b"")

    own, other = own.replace(b"\0", b""), other.replace(b"\0", b"")
    assert not differ(own, own)
    assert differ(own, other) == differ(other, own)
