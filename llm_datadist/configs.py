# SPDX-License-Identifier: Apache-2.0
"""Compatibility: names that clients import from here (contract 1.1)."""

from ._addresses import Ip, parse
from .config import LLMClusterInfo, LlmConfig, LLMRole

__all__ = ["LLMClusterInfo", "LLMRole", "LlmConfig"]


def trans_str_ip(ip: str) -> Ip:
    """Compatibility: turn the text of an address into what LLMClusterInfo stores.

    Args:
        ip: IPv4 or IPv6 text.

    Returns an int whose lowest byte is the first octet, for IPv6 normalised text. Raises
    RuntimeError for what is no address. Source: 1.6.
    """
    return parse(ip)
