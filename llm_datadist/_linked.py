# SPDX-License-Identifier: Apache-2.0
"""Links for the length of a block: LLMDataDist.linked."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Union

from . import _addresses
from ._checks import check_uint16, refuse, wrong_type
from .config import LLMClusterInfo
from .status import LLMStatusCode, error
from .utils.log import get_logger

if TYPE_CHECKING:
    from .datadist import LLMDataDist

    Peer = Union[str, tuple[str, int], LLMClusterInfo, LLMDataDist]

SUCCESS = LLMStatusCode.LLM_SUCCESS


@contextmanager
def linked(
    engine: LLMDataDist, peers: Sequence[Peer], timeout: int
) -> Iterator[list[LLMClusterInfo]]:
    """Do LLMDataDist.linked."""
    clusters = [_cluster_of(f"peers[{index}]", peer) for index, peer in enumerate(peers)]
    _link(engine, clusters, timeout)
    try:
        yield clusters
    except BaseException:
        # What the block raised is what the caller has to see.
        for text in _unlink(engine, clusters, timeout):
            get_logger().warning(text)
        raise
    failures = _unlink(engine, clusters, timeout)
    if failures:
        raise error("; ".join(failures), LLMStatusCode.LLM_TIMEOUT)


def _link(engine: LLMDataDist, clusters: list[LLMClusterInfo], timeout: int) -> None:
    if not clusters:
        return
    _, codes = engine.link_clusters(clusters, timeout)
    failed = [(each, code) for each, code in zip(clusters, codes) if code != SUCCESS]
    if not failed:
        return
    for text in _unlink(
        engine, [each for each, code in zip(clusters, codes) if code == SUCCESS], timeout
    ):
        get_logger().warning(text)
    texts = [f"{each}: {code.name}, {each.link_detail}" for each, code in failed]
    raise error(f"linked() has no link to {'; '.join(texts)}", failed[0][1])


def _unlink(engine: LLMDataDist, clusters: list[LLMClusterInfo], timeout: int) -> list[str]:
    """Unlink from all, by force where it does not go in the regular way; return what failed.

    Another thread may finalize the engine meanwhile, which ends its links.
    """
    if not clusters or not engine._is_open:
        return []
    try:
        failures = _unlink_each(engine, clusters, timeout)
    except RuntimeError:
        if engine._is_open:
            raise
        return []
    return failures if engine._is_open else []


def _unlink_each(engine: LLMDataDist, clusters: list[LLMClusterInfo], timeout: int) -> list[str]:
    _, codes = engine.unlink_clusters(clusters, timeout)
    left = [each for each, code in zip(clusters, codes) if code != SUCCESS]
    if not left:
        return []
    _, codes = engine.unlink_clusters(left, timeout, force=True)
    return [
        f"linked() could not unlink from {each} by force: {code.name}, {each.link_detail}"
        for each, code in zip(left, codes)
        if code != SUCCESS
    ]


def _cluster_of(name: str, peer: Peer) -> LLMClusterInfo:
    if isinstance(peer, LLMClusterInfo):
        return peer
    address = _address_of(name, peer)
    cluster = LLMClusterInfo()
    cluster.append_remote_ip_info(*address)
    cluster.append_local_ip_info(_local_address_to(*address), 0)
    return cluster


def _address_of(name: str, peer: Peer) -> tuple[str, int]:
    from .datadist import LLMDataDist

    if isinstance(peer, LLMDataDist):
        address = peer.listen_address
        if address is None:
            refuse(f"{name} is {peer}, which does not listen: set LLMConfig.listen_ip_info")
        return address
    if isinstance(peer, str):
        return _addresses.split_listen_info(peer)
    if isinstance(peer, tuple) and len(peer) == 2 and isinstance(peer[0], str):
        check_uint16(f"{name}[1]", peer[1])
        return peer
    raise wrong_type(name, peer, '"ip:port", (ip, port), LLMClusterInfo or LLMDataDist')


def _local_address_to(ip: str, port: int) -> str:
    """Return the own address of the route to a peer; nothing is sent for it."""
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((ip, port or 1))
        except OSError as cause:
            refuse(f"this host has no route to {_addresses.show(ip, port)}: {cause}")
        return str(probe.getsockname()[0])
