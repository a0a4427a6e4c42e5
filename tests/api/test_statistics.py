# SPDX-License-Identifier: Apache-2.0
"""Statistics as dicts, as OpenMetrics text, and through prometheus_client."""

from __future__ import annotations

import json
import re
import urllib.request

import pytest

from llm_datadist import LLMDataDist, LLMRole, LLMStatusCode
from llm_datadist.introspection import Counters, LastError, LinkState
from llm_datadist.statistics import Latency, LinkStatistics, Statistics, Traffic

BUCKETS = (0, 1, 0, 3, *[0] * 23, 1)


def traffic(factor: int = 1, failures: int = 1) -> Traffic:
    return Traffic(
        pulls=5 * factor,
        pushes=2 * factor,
        bytes_pulled={"tcp": 4096 * factor},
        bytes_pushed={"mapped": 512 * factor},
        failures={"LLM_TIMEOUT": failures},
        latency=Latency(tuple(count * factor for count in BUCKETS), 1000 * factor),
        last_success=10.5,
        last_error=LastError(LLMStatusCode.LLM_TIMEOUT, 'not "done"\nin time', 11.25),
    )


def statistics() -> Statistics:
    link = LinkStatistics(7, "3fa2b1c0", LinkState.SILENT, "[::1]:1", traffic(), Traffic())
    counters = Counters(*range(1, 12))
    return Statistics(4, counters, traffic(2, 3), Traffic(), (link,))


@pytest.mark.rule("C1.14-2")
def test_latencies() -> None:
    latency = Latency(BUCKETS, 1000)
    assert (latency.count, latency.mean_us) == (5, 200.0)
    assert [latency.quantile_us(share) for share in (0, 0.2, 0.5, 0.8, 1)] == [2, 2, 8, 8, 1 << 26]
    assert (Latency().quantile_us(0.5), Latency().mean_us) == (0, 0.0)
    with pytest.raises(ValueError, match=r"share must be 0 to 1, got 1\.5"):
        latency.quantile_us(1.5)


@pytest.mark.rule("C1.14-8")
def test_as_a_dict() -> None:
    plain = json.loads(json.dumps(statistics().as_dict()))
    assert plain["links"][0]["state"] == "SILENT"
    assert plain["links"][0]["own"]["last_error"]["status_code"] == "LLM_TIMEOUT"
    assert plain["own"]["latency"]["buckets"] == [2 * count for count in BUCKETS]
    assert plain["counters"]["pulls"] == 1


@pytest.mark.rule("C1.14-8")
def test_openmetrics_text() -> None:
    text = statistics().openmetrics()
    assert text.endswith("\n# EOF\n")
    link = 'cluster="4",asked_by="this_engine",peer="7",link="3fa2b1c0"'
    rest = 'cluster="4",asked_by="this_engine",peer="",link=""'
    for line in (
        f'lldd_transfers_total{{{link},kind="pull"}} 5',
        # Over links that are gone.
        f'lldd_transfers_total{{{rest},kind="pull"}} 5',
        f'lldd_transferred_bytes_total{{{link},kind="push",path="mapped"}} 512',
        f'lldd_transfer_failures_total{{{rest},status="LLM_TIMEOUT"}} 2',
        f'lldd_transfer_seconds_bucket{{{link},le="8e-06"}} 4',
        f'lldd_transfer_seconds_bucket{{{link},le="+Inf"}} 5',
        f"lldd_transfer_seconds_sum{{{link}}} 0.001",
        f'lldd_last_error_timestamp_seconds{{{link},status="LLM_TIMEOUT"}} 11.25',
        'lldd_links_made_total{cluster="4"} 8',
    ):
        assert f"\n{line}\n" in f"\n{text}", f"{line}\nis not in\n{text}"
    states = re.findall(r"lldd_link_state\{.*lldd_link_state=\"(\w+)\"\} ([01])", text)
    assert dict(states) == {"LIVE": "0", "PEER_GONE": "0", "CLOSING": "0", "SILENT": "1"}


def prometheus_client() -> None:
    pytest.importorskip(
        "prometheus_client", reason="capability prometheus-client: it is not installed (an extra)"
    )


@pytest.mark.rule("C1.14-8")
def test_the_text_is_what_a_parser_of_openmetrics_takes() -> None:
    prometheus_client()
    from prometheus_client.openmetrics.parser import text_string_to_metric_families

    found = {
        family.name: family for family in text_string_to_metric_families(statistics().openmetrics())
    }
    assert found["lldd_transfer_seconds"].type == "histogram"
    assert found["lldd_link_state"].type == "stateset"
    assert sum(sample.value for sample in found["lldd_transfer_failures"].samples) == 3


@pytest.mark.rule("C1.14-9")
def test_prometheus_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    prometheus_client()
    from llm_datadist import prometheus

    datadist = LLMDataDist(LLMRole.MIX, 4)
    server, thread = prometheus.serve(datadist, 0)
    try:
        url = f"http://127.0.0.1:{server.server_port}/metrics"

        def scrape() -> str:
            with urllib.request.urlopen(url, timeout=10) as answer:
                text: str = answer.read().decode()
                return text

        # No engine is open.
        assert "lldd_" not in scrape()
        monkeypatch.setattr(datadist, "statistics", statistics)
        assert re.search(r'lldd_transfers_total\{.*peer="7".*\} 5\.0', scrape())
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    with pytest.raises(TypeError, match="datadist"):
        prometheus.Collector(7)  # type: ignore[arg-type]
