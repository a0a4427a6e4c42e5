# SPDX-License-Identifier: Apache-2.0
"""IP addresses in the three forms they have here: client text, the contract's number, library text.

An IPv4 address is stored as an int whose lowest byte is the first octet, an IPv6 address as
normalised text (contract 1.6, decisions 22 and 41).
"""

from __future__ import annotations

import ipaddress
import socket
from typing import Union

from ._checks import UINT16_MAX, UINT32_MAX, check_no_null, refuse

Ip = Union[int, str]


def parse(text: str) -> Ip:
    """Turn a client's text into the stored form; brackets around IPv6 are accepted, zone ids are
    not.

    Raises RuntimeError for anything that is no address; for a text with a null character it is an
    LLMException with LLM_PARAM_INVALID.
    """
    check_no_null("ip", text)
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if ":" in bare:
        try:
            if "%" in bare:
                raise ValueError("zone ids are not supported")
            return str(ipaddress.IPv6Address(bare))
        except ValueError as cause:
            raise RuntimeError(f"{text!r} is not an IP address: {cause}") from cause
    # inet_aton takes the classic short forms that the contract asks for, and anything after a
    # blank, which it ignores.
    if bare != text or not text.isascii() or any(char.isspace() for char in text):
        raise RuntimeError(f"{text!r} is not an IP address")
    try:
        return int.from_bytes(socket.inet_aton(text), "little")
    except OSError as cause:
        raise RuntimeError(f"{text!r} is not an IP address") from cause


def to_text(ip: Ip) -> str:
    """Turn the stored form into the library's text. Raises TypeError for an int that is no IPv4
    address.
    """
    if isinstance(ip, str):
        return ip
    if not 0 <= ip <= UINT32_MAX:
        raise TypeError(f"ip as an int must be in [0, {UINT32_MAX}], got {ip}")
    return socket.inet_ntoa(int(ip).to_bytes(4, "little"))


def show(ip: Ip, port: int) -> str:
    """Write an address for people; never raises."""
    if isinstance(ip, int):
        return f"{to_text(ip) if 0 <= ip <= UINT32_MAX else ip}:{port}"
    return f"[{ip}]:{port}"


def split_listen_info(text: str) -> tuple[str, int]:
    """Split "127.0.0.1:26000" or "[::1]:26000" into library text and port (contract 1.4.1 step 8,
    decisions 22 and 48).

    Raises LLMException (LLM_PARAM_INVALID) for another form or a port above 65535, ValueError for a
    port that is no int.
    """
    check_no_null("llm.listenIpInfo", text)
    host, bracket, rest = text.rpartition("]")
    if bracket:
        if not (host.startswith("[") and rest.startswith(":")):
            refuse(f"llm.listenIpInfo must be ip:port or [ipv6]:port, got {text!r}")
        ip, port_text = host[1:], rest[1:]
        if "%" in ip:
            refuse(f"llm.listenIpInfo must not have a zone id, got {text!r}")
    else:
        parts = text.split(":")
        if len(parts) != 2:
            refuse(f"llm.listenIpInfo must be ip:port or [ipv6]:port, got {text!r}")
        ip, port_text = parts
    port = int(port_text)
    if not 0 <= port <= UINT16_MAX:
        refuse(f"the port of llm.listenIpInfo must be in [0, {UINT16_MAX}], got {port}")
    return ip, port
