# SPDX-License-Identifier: Apache-2.0
"""The planner: its simulation against what can be computed by hand, its command, and one comparison
with transfers that are made.
"""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from benchmarks import plan_validation
from llm_datadist.__main__ import main
from llm_datadist._plan import simulation
from llm_datadist._plan.deployment import VALIDATED, Deployment, percentile
from llm_datadist._plan.fabrics import profiles
from llm_datadist._plan.simulation import Network, Request, simulate

# 10 bytes a second for one transfer, 12 for a port.
SLOW = Network(rate=10.0, port=12.0)


def ends(requests: list[Request], network: Network = SLOW) -> list[float]:
    return [result.end for result in simulate(requests, network)]


def test_a_transfer_alone() -> None:
    network = replace(SLOW, latency=0.5)
    assert ends([Request(1.0, 0, 0, 20.0)], network) == pytest.approx([1 + 2 + 0.5])


def test_a_link_has_one_transfer_at_a_time() -> None:
    network = replace(SLOW, latency=0.5)
    requests = [Request(0.0, 0, 0, 20.0), Request(0.1, 0, 0, 10.0)]
    assert ends(requests, network) == pytest.approx([2.5, 2.5 + 1 + 0.5])


def test_two_decoders_share_the_port_of_a_prompt() -> None:
    # 6 bytes a second each; then the second one has 10, as much as it may.
    requests = [Request(0.0, 0, 0, 12.0), Request(0.0, 0, 1, 22.0)]
    assert ends(requests) == pytest.approx([2.0, 2.0 + 1.0])


def test_what_one_port_cannot_take_others_have() -> None:
    # Decoder 0 gets from three prompts, 4 bytes a second each: prompt 0 has 8 left for decoder 1.
    requests = [Request(0.0, prompt, 0, 4.0) for prompt in range(3)]
    requests.append(Request(0.0, 0, 1, 8.0))
    assert ends(requests) == pytest.approx([1.0] * 4)


def test_a_prompt_computes_one_request_at_a_time() -> None:
    requests = [Request(0.0, 0, 0, 10.0, 2.0), Request(0.0, 0, 1, 10.0, 2.0)]
    results = simulate(requests, SLOW)
    assert [result.ready for result in results] == pytest.approx([2.0, 4.0])
    assert [result.added for result in results] == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize("exponential", [False, True])
def test_one_link_is_the_queue_of_the_textbook(exponential: bool) -> None:
    profile = replace(profiles()["roce-200g"], latency_us=0.0, jitter_us=0.0)
    plan = Deployment(1, 1, profile, 128 << 10, 1000, exponential=exponential)
    time = plan.alone
    half = plan.under(0.5 / time, 8000, 4)
    # Pollaczek and Khinchine: a load of one half, of fixed and of exponential times.
    waiting = 0.5 / (1 - 0.5) * time * (1.0 if exponential else 0.5)
    assert half.mean == pytest.approx(time + waiting, rel=0.05)
    assert half.load == pytest.approx(0.5)
    assert half.served_per_second == pytest.approx(0.5 / time, rel=0.03)


def test_more_than_saturates_is_not_served() -> None:
    plan = Deployment(2, 4, profiles()["a3-roce-2hosts-cs"], 128 << 10, 2000)
    most = plan.saturation()
    assert most.part == "the prompts' ports"
    assert most.requests_per_second == pytest.approx(2 * 23.9e9 / (2000 * (128 << 10)), rel=0.01)
    over = plan.under(2 * most.requests_per_second, 1500, 1)
    assert over.served_per_second == pytest.approx(most.requests_per_second, rel=0.05)
    assert over.p99 > 5 * plan.under(0.3 * most.requests_per_second, 1500, 1).p99


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"decoders": 1}, "the decoders' ports"),
        ({"block_bytes": 4096}, "the links, one transfer each"),
        ({"prefill": 10.0}, "the prompts' computing"),
    ],
)
def test_the_part_that_saturates(change: dict[str, float], part: str) -> None:
    plan = Deployment(2, 2, profiles()["a3-hccs-2hosts-default"], 2 << 20, 2000)
    assert replace(plan, **change).saturation().part == part  # type: ignore[arg-type]


def test_flows_that_are_far_away_keep_their_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Deployment(30, 40, profiles()["a3-roce-2hosts-cs"], 128 << 10, 2000)
    rate = 0.8 * plan.saturation().requests_per_second
    some = plan.under(rate, 500, 1)
    monkeypatch.setattr(simulation, "MOST_TOUCHED", 10**9)
    exactly = plan.under(rate, 500, 1)
    assert some.mean != exactly.mean
    assert some.mean == pytest.approx(exactly.mean, rel=0.005)
    assert some.p99 == pytest.approx(exactly.p99, rel=0.02)


def test_percentiles() -> None:
    assert [percentile([3.0, 1.0, 2.0, 4.0], percent) for percent in (50, 99, 1)] == [2.0, 4.0, 1.0]


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    def printed(*arguments: str) -> str:
        assert main(["plan", *arguments]) == 0
        return capsys.readouterr().out

    text = printed("2P4D", "--requests", "300")
    assert "saturates at" in text
    assert "the prompts' ports" in text
    # Of the loads, only the last one is beyond what was compared.
    assert text.count("extrapolated") == 1
    beyond = printed("500P500D", "--requests", "200", "--rate", "10", "--lengths", "exponential")
    assert "extrapolated: 500 prompts, validated up to 4; 500 decoders" in beyond
    answer = json.loads(printed("1P1D", "--json", "--rate", "5", "--requests", "200"))
    assert answer["loads"][0]["requests_per_second"] == 5
    assert answer["loads"][0]["added_p50_s"] >= answer["alone_s"] * 0.99
    assert answer["extrapolated"] == []


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["3P"], "SHAPE must be such as 1P1D or 2P4D, got '3P'"),
        (["1P1D", "--fabric", "x"], "--fabric 'x' is none of a2-hccs-1host-cs"),
        (
            ["1P1D", "--fabric", "a3-hccs-2hosts-default", "--direction", "rH2D"],
            "--direction is 'rH2D'; A3, HCCS, 2 hosts, communication domain carries D2rD, rD2D",
        ),
    ],
)
def test_what_cannot_be_planned(
    arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", *arguments]) == 2
    assert text in capsys.readouterr().err


def test_transfers_that_are_made_take_as_long(monkeypatch: pytest.MonkeyPatch) -> None:
    # A hundredth of what docs/plan.md has; the machine may be late, but the fabric is never faster.
    monkeypatch.setattr(plan_validation, "PER_LINK", 1)
    monkeypatch.setattr(plan_validation, "LEAST", 12)
    monkeypatch.setattr(plan_validation, "SCALE", 500)
    (run,) = plan_validation.shaped("2P4D", [VALIDATED.load], [1])
    assert run.requests == 12
    assert run.simulated_mean * 0.97 <= run.measured_mean < run.simulated_mean + 1000
