# SPDX-License-Identifier: Apache-2.0
"""Statistics for Prometheus, through prometheus-client, the extra `prometheus` of the package.

    from llm_datadist import prometheus

    prometheus.serve(datadist, 9400)                 # http://127.0.0.1:9400/metrics
    prometheus.register(datadist)                    # or: into the registry that is served already

An extension of this package.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import REGISTRY, CollectorRegistry, start_http_server
from prometheus_client.core import Metric

from ._checks import check_int32, check_type
from ._openmetrics import families
from .datadist import LLMDataDist

if TYPE_CHECKING:
    from threading import Thread
    from wsgiref.simple_server import WSGIServer

__all__ = ["Collector", "register", "serve"]


class Collector:
    """What a registry collects from: statistics() of one engine, anew for each scrape.

    Args:
        datadist: an engine; while it is not initialized there are no metrics of it.
    """

    def __init__(self, datadist: LLMDataDist) -> None:
        check_type("datadist", datadist, LLMDataDist)
        self._datadist = datadist

    def describe(self) -> list[Metric]:
        """Return nothing: the registry need not scrape to know the names."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics as they are now."""
        try:
            statistics = self._datadist.statistics()
        except RuntimeError:
            # Before init and after finalize, also of an engine that is finalized right now.
            return
        for family in families(statistics):
            metric = Metric(family.name, family.text, family.kind, family.unit)
            for sample in family.samples:
                metric.add_sample(family.name + sample.suffix, sample.labels, sample.value)
            yield metric


def register(datadist: LLMDataDist, registry: CollectorRegistry = REGISTRY) -> Collector:
    """Add the metrics of an engine to a registry, by default the one of prometheus_client.

    Returns:
        The collector, for registry.unregister().
    """
    collector = Collector(datadist)
    registry.register(collector)
    return collector


def serve(
    datadist: LLMDataDist, port: int, address: str = "127.0.0.1"
) -> tuple[WSGIServer, Thread]:
    """Serve the metrics of one engine over HTTP, in a thread.

    Args:
        datadist: the engine.
        port: 0 picks a free one, which is server.server_port of what is returned.
        address: of this host.

    Returns:
        (server, thread) of prometheus_client; server.shutdown() and server.server_close() end it.
    """
    check_int32("port", port)
    check_type("address", address, str)
    registry = CollectorRegistry()
    register(datadist, registry)
    server, thread = start_http_server(port, address, registry)
    return server, thread
