# SPDX-License-Identifier: Apache-2.0
"""Compares what llm_datadist._plan simulates with transfers that are really made.

    python -m benchmarks.plan_validation                # all: about five minutes
    python -m benchmarks.plan_validation --only 2P4D --loads 0.5 --seeds 1
    python -m benchmarks.plan_validation --write docs   # and the table and the plot of docs/plan.md

Shaped: all engines are in this process and pull over a fabric of the mock runtime, scaled so that
the processor has little to do; requests arrive at random, and the simulation is given the same
ones.
Unshaped: a prompt in another process, over TCP as fast as it goes, whose bandwidth and latency are
measured before, one transfer at a time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Callable

from llm_datadist import LLMRole
from llm_datadist._plan.deployment import Deployment, percentile
from llm_datadist._plan.fabrics import DIRECTIONS, SIZES_KIB, Curve, Profile, profiles
from llm_datadist._plan.simulation import Request, simulate
from llm_datadist.testing import Geometry, LocalPeer, Peer
from llm_datadist.testing.commands import Member

LISTEN = "127.0.0.1:0"
FABRIC, SCALE = "a3-roce-2hosts-cs", 2200
SHAPES = {"1P1D": (1, 1), "2P4D": (2, 4), "4P8D": (4, 8)}
LOADS = (0.3, 0.5, 0.7)
SEEDS = (1, 2, 3)
# So many requests per link and run, and at least so many.
PER_LINK, LEAST = 4, 40
SHAPED = Geometry(num_tensors=1, num_blocks=128, block_bytes=64 << 10)
UNSHAPED = Geometry(num_tensors=1, num_blocks=512, block_bytes=64 << 10)


@dataclass(frozen=True)
class Run:
    """One comparison; milliseconds, of the time that the transfer adds."""

    what: str
    load: float
    seed: int
    requests: int
    simulated_mean: float
    measured_mean: float
    simulated_p99: float
    measured_p99: float
    late: float  # mean of how late this machine began a transfer, part of what is measured
    busy: float  # of a core, by this process

    @property
    def error(self) -> float:
        """How far the measured mean is from the simulated one."""
        return self.measured_mean / self.simulated_mean - 1


def clamped(requests: Sequence[Request], geometry: Geometry) -> list[Request]:
    """The requests, none larger than half of a cache."""
    most = float(geometry.num_blocks // 2 * geometry.block_bytes)
    return [replace(request, size=min(request.size, most)) for request in requests]


def carry_out(
    requests: Sequence[Request],
    prompts: Sequence[Member],
    decoders: Sequence[Member],
    geometry: Geometry,
) -> tuple[list[float], list[float]]:
    """Pull what each request needs when it arrives; returns how long each took since then, and how
    late it began, in seconds.
    """
    every_second = range(0, geometry.num_blocks, 2)
    begin = time.monotonic() + 0.2

    def pull(request: Request) -> tuple[float, float]:
        late = time.monotonic() - begin - request.time
        blocks = [*every_second[: round(request.size / geometry.block_bytes)]]
        # No block beside another one on both sides: each is a run of its own.
        targets = [block + 1 for block in blocks]
        key = prompts[request.prompt].key()
        decoders[request.decoder].pull("kv", key, blocks, targets)
        return time.monotonic() - begin - request.time, late

    with ThreadPoolExecutor(64) as threads:
        calls = []
        for request in requests:
            time.sleep(max(0.0, begin + request.time - time.monotonic()))
            calls.append(threads.submit(pull, request))
        answers = [call.result() for call in calls]
    return [taken for taken, _ in answers], [late for _, late in answers]


def compared(
    what: str,
    load: float,
    seed: int,
    deployment: Deployment,
    requests: Sequence[Request],
    make: Callable[[], tuple[list[float], list[float]]],
) -> Run:
    """Simulate and measure."""
    simulated = [each.added * 1e3 for each in simulate(requests, deployment.network, seed)]
    cpu, wall = time.process_time(), time.monotonic()
    taken, late = make()
    busy = (time.process_time() - cpu) / (time.monotonic() - wall)
    measured = [each * 1e3 for each in taken]
    return Run(
        what,
        load,
        seed,
        len(requests),
        statistics.fmean(simulated),
        statistics.fmean(measured),
        percentile(simulated, 99),
        percentile(measured, 99),
        statistics.fmean(late) * 1e3,
        busy,
    )


def opened(
    exits: ExitStack, member: Member, number: int, role: LLMRole, fabric: str | None
) -> Member:
    """The member, with an engine that is closed at the end."""
    exits.callback(member.reset)
    variables = {"LLM_DATADIST_MOCK_FABRIC": fabric, "LLM_DATADIST_MOCK_TRANSPORT": None}
    if fabric is None:
        variables["LLM_DATADIST_MOCK_TRANSPORT"] = "tcp"
    member.init(number, role=role, listen=LISTEN, sync_timeout_ms=120_000, environment=variables)
    return member


def shaped(shape: str, loads: Sequence[float], seeds: Sequence[int]) -> list[Run]:
    """Runs on the shaped mock."""
    prompts_of, decoders_of = SHAPES[shape]
    deployment = Deployment(
        prompts_of,
        decoders_of,
        profiles()[FABRIC],
        SHAPED.block_bytes,
        24,
        "rD2D",
        0.0,
        True,
        SCALE,
    )
    runs = []
    with ExitStack() as exits:
        members = [
            opened(
                exits,
                LocalPeer(),
                number,
                LLMRole.PROMPT if number <= prompts_of else LLMRole.DECODER,
                f"{FABRIC}:scale={SCALE}",
            )
            for number in range(1, prompts_of + decoders_of + 1)
        ]
        for member in members:
            member.register("kv", SHAPED, member.cluster_id, 0)
        prompts, decoders = members[:prompts_of], members[prompts_of:]
        for decoder in decoders:
            decoder.link(*prompts)
        with ThreadPoolExecutor(len(decoders)) as threads:
            # Each link knows the peer's caches from its first transfer on.
            for prompt in prompts:
                calls = [
                    threads.submit(each.pull, "kv", prompt.key(), [0], [1]) for each in decoders
                ]
                for call in calls:
                    call.result()
        for load in loads:
            for seed in seeds:
                rate = load * deployment.saturation().requests_per_second
                count = max(LEAST, PER_LINK * prompts_of * decoders_of)
                requests = clamped(deployment.requests(rate, count, seed), SHAPED)
                runs.append(
                    compared(
                        shape,
                        load,
                        seed,
                        deployment,
                        requests,
                        partial(carry_out, requests, prompts, decoders, SHAPED),
                    )
                )
                print(describe(runs[-1]), file=sys.stderr, flush=True)
    return runs


def measured_profile(prompt: Member, decoder: Member) -> Profile:
    """What the link does with one transfer at a time: a straight line through two sizes."""
    sizes = (16, 192)
    times = {}
    for blocks in sizes * 15:
        sources = [*range(0, 2 * blocks, 2)]
        begin = time.monotonic()
        decoder.pull("kv", prompt.key(), sources, [block + 1 for block in sources])
        times.setdefault(blocks, []).append(time.monotonic() - begin)
    small, large = (statistics.fmean(times[blocks]) for blocks in sizes)
    rate = (sizes[1] - sizes[0]) * UNSHAPED.block_bytes / (large - small)
    latency = max(0.0, small - sizes[0] * UNSHAPED.block_bytes / rate)
    curve = Curve((rate / 1e9,) * len(SIZES_KIB))
    return Profile(
        "tcp", "this machine", "TCP", 1, "", latency * 1e6, 0.0, dict.fromkeys(DIRECTIONS, curve)
    )


def unshaped(load: float, seed: int) -> Run:
    """One run over TCP as fast as it goes."""
    with ExitStack() as exits:
        peer = exits.enter_context(Peer.start())
        peer.wait_for("ready")
        prompt = opened(exits, peer, 1, LLMRole.PROMPT, None)
        decoder = opened(exits, LocalPeer(), 2, LLMRole.DECODER, None)
        prompt.register("kv", UNSHAPED, 1, 0)
        decoder.register("kv", UNSHAPED, 2)
        decoder.link(prompt)
        profile = measured_profile(prompt, decoder)
        deployment = Deployment(1, 1, profile, UNSHAPED.block_bytes, 96, exponential=True)
        rate = load * deployment.saturation().requests_per_second
        requests = clamped(deployment.requests(rate, 300, seed), UNSHAPED)
        return compared(
            f"1P1D over TCP, unshaped, {profile.port_gb_per_s:.2f} GB/s",
            load,
            seed,
            deployment,
            requests,
            partial(carry_out, requests, [prompt], [decoder], UNSHAPED),
        )


def describe(run: Run) -> str:
    """One line."""
    return (
        f"{run.what} load {run.load:.0%} seed {run.seed}: simulated {run.simulated_mean:.1f} ms, "
        f"measured {run.measured_mean:.1f} ms ({run.error:+.1%}), begun {run.late:.1f} ms late, "
        f"{run.busy:.0%} of a core"
    )


def markdown(runs: Sequence[Run]) -> str:
    """The table of docs/plan.md."""
    lines = [
        "| what | load | seed | requests | mean: simulated | measured | off by | "
        "p99: simulated | measured | begun late by | of a core |",
        "|" + "---|" * 11,
    ]
    for run in runs:
        lines.append(
            f"| {run.what} | {run.load:.0%} | {run.seed} | {run.requests} | "
            f"{run.simulated_mean:.1f} | {run.measured_mean:.1f} | {run.error:+.1%} | "
            f"{run.simulated_p99:.0f} | {run.measured_p99:.0f} | {run.late:.1f} | {run.busy:.0%} |"
        )
    return "\n".join(lines) + "\n"


def plot(runs: Sequence[Run], file: Path) -> None:
    """Measured over simulated; needs matplotlib."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "plan"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5, 4))
    least = min(min(run.simulated_mean, run.measured_mean) for run in runs) * 0.8
    most = max(max(run.simulated_mean, run.measured_mean) for run in runs) * 1.2
    axes.fill_between(
        [least, most], [least * 0.9, most * 0.9], [least * 1.1, most * 1.1], color="0.9"
    )
    axes.plot([least, most], [least, most], color="0.6", linewidth=1)
    for what in dict.fromkeys(run.what for run in runs):
        own = [run for run in runs if run.what == what]
        axes.plot(
            [run.simulated_mean for run in own],
            [run.measured_mean for run in own],
            "o",
            markersize=4,
            label=what,
        )
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="simulated: mean time added, ms",
        ylabel="measured, ms (grey: within 10 %)",
    )
    axes.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})


def write(runs: Sequence[Run], folder: Path) -> None:
    """Put the table and the plot into the pages."""
    page = folder / "plan.md"
    begin, end = "<!-- begin: validation -->\n", "<!-- end: validation -->\n"
    text = page.read_text(encoding="utf-8")
    before, after = text.split(begin)[0], text.split(end)[1]
    page.write_text(before + begin + markdown(runs) + end + after, encoding="utf-8")
    plot(runs, folder / "plan-validation.svg")


def main() -> None:
    """Run all that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", choices=[*SHAPES, "tcp"], action="append")
    parser.add_argument("--loads", type=float, nargs="+", default=LOADS)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="of plan.md; needs matplotlib")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all runs")
    args = parser.parse_args()
    wanted = args.only or [*SHAPES, "tcp"]
    runs = []
    for shape in wanted:
        if shape == "tcp":
            runs.append(unshaped(0.5, 1))
            print(describe(runs[-1]), file=sys.stderr, flush=True)
        else:
            runs += shaped(shape, args.loads, args.seeds)
    if args.json:
        args.json.write_text(json.dumps([asdict(run) for run in runs]))
    if args.write:
        write(runs, args.write)
    print(markdown(runs), end="")


if __name__ == "__main__":
    main()
