# SPDX-License-Identifier: Apache-2.0
"""Tell on paper what transfers cost a deployment of prompts and decoders.

Simulates requests that come at random, are computed by a prompt and pulled by a decoder over a
fabric whose bandwidth is published: how many requests a second saturate it, and what the transfer
adds to the time to first token. No engine is opened and nothing is moved. What was not compared
with transfers that were really made is called extrapolated; docs/plan.md has that comparison.

The time to first token is that of the prompt plus what is printed: the transfer of all blocks of a
request, waiting for the link and for the ports included.
"""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from llm_datadist._tools.outcome import Refusal, finish
from llm_datadist._tools.table import fit, lay_out
from llm_datadist._tools.units import in_words

from ._arguments import positive

if TYPE_CHECKING:
    from llm_datadist._plan.deployment import Deployment, Load, Saturation

_SHAPE = re.compile(r"([1-9]\d*)P([1-9]\d*)D")
# Parts of the rate that saturates.
_LADDER = (0.1, 0.3, 0.5, 0.7, 0.9)
_REQUESTS, _PER_PROMPT = 4000, 40
# As many times that rate, so that every part that is too slow has work all the time.
_OVERLOAD = 1.2


def _amount(text: str) -> float:
    number = float(text)
    if not 0 < number < 1e12:
        raise argparse.ArgumentTypeError(f"must be more than 0, got {text}")
    return number


def _not_negative(text: str) -> float:
    number = float(text)
    if not 0 <= number < 1e9:
        raise argparse.ArgumentTypeError(f"must be 0 or more, got {text}")
    return number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the subcommand."""
    parser.add_argument("shape", metavar="SHAPE", help="prompts and decoders, such as 2P4D")
    _add_fabric(parser.add_argument_group("the fabric"))
    request = parser.add_argument_group("a request")
    for name, default, text in (
        ("--tokens", 4096, "tokens of a prompt, on the average"),
        ("--block-tokens", 128, "tokens of a block"),
        ("--layers", 61, "layers of the model"),
        ("--tensors-per-layer", 2, "tensors of a layer: 2 for K and V, 1 for MLA"),
        ("--block-bytes", 128 << 10, "bytes of a block of one tensor"),
    ):
        request.add_argument(
            name, type=positive, default=default, metavar="N", help=f"{text} (default: {default})"
        )
    request.add_argument(
        "--lengths",
        choices=("fixed", "exponential"),
        default="fixed",
        help="whether all prompts are as long, or exponentially distributed (default: fixed)",
    )
    request.add_argument(
        "--prefill-ms",
        type=_not_negative,
        default=0.0,
        metavar="MS",
        help="for so long a prompt computes the average request, one at a time (default: 0)",
    )
    course = parser.add_argument_group("the simulation")
    course.add_argument(
        "--rate",
        type=_amount,
        action="append",
        metavar="N",
        help="requests a second; again for more (default: parts of what saturates)",
    )
    course.add_argument(
        "--requests",
        type=positive,
        metavar="N",
        help=f"per rate (default: {_REQUESTS}, or {_PER_PROMPT} per prompt if that is more)",
    )
    course.add_argument("--seed", type=int, default=1, metavar="N", help="of the arrivals")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")


def _add_fabric(group: Any) -> None:
    group.add_argument(
        "--fabric",
        default="a3-roce-2hosts-cs",
        metavar="NAME",
        help="a profile of docs/fabrics.md (default: %(default)s); another name lists them",
    )
    group.add_argument(
        "--direction",
        default="rD2D",
        metavar="NAME",
        help="rD2D: pulls from device to device memory, D2rD: pushes, and so on with H for host "
        "memory (default: %(default)s)",
    )
    group.add_argument("--scale", type=_amount, default=1.0, metavar="N", help="N times slower")
    group.add_argument("--latency-us", type=_not_negative, metavar="US", help="not the profile's")
    group.add_argument("--jitter-us", type=_not_negative, metavar="US", help="not the profile's")


def run(args: argparse.Namespace) -> int:
    """Plan; returns the exit status."""
    return finish("plan", args.json, lambda: _result(args))


def _deployment(args: argparse.Namespace) -> Deployment:
    from llm_datadist._plan.deployment import Deployment
    from llm_datadist._plan.fabrics import profiles

    shape = _SHAPE.fullmatch(args.shape)
    if shape is None:
        raise Refusal(f"SHAPE must be such as 1P1D or 2P4D, got {args.shape!r}")
    profile = profiles().get(args.fabric)
    if profile is None:
        raise Refusal(f"--fabric {args.fabric!r} is none of {', '.join(profiles())}")
    if args.latency_us is not None:
        profile = replace(profile, latency_us=args.latency_us)
    if args.jitter_us is not None:
        profile = replace(profile, jitter_us=args.jitter_us)
    per_tensor = -(-args.tokens // args.block_tokens)
    try:
        return Deployment(
            int(shape[1]),
            int(shape[2]),
            profile,
            args.block_bytes,
            per_tensor * args.layers * args.tensors_per_layer,
            args.direction,
            args.prefill_ms / 1e3,
            args.lengths == "exponential",
            args.scale,
        )
    except ValueError as error:
        raise Refusal(f"--{error}") from error


def _result(args: argparse.Namespace) -> str:
    deployment = _deployment(args)
    most = deployment.saturation()
    rates = args.rate or [part * most.requests_per_second for part in _LADDER]
    count = args.requests or max(_REQUESTS, _PER_PROMPT * deployment.prompts)
    loads = [deployment.under(rate, count, args.seed) for rate in rates]
    served = deployment.under(
        _OVERLOAD * most.requests_per_second, count, args.seed
    ).served_per_second
    if args.json:
        return json.dumps(_for_machines(deployment, most, served, loads))
    return "\n".join(_for_people(args, deployment, most, served, loads))


def _for_people(
    args: argparse.Namespace,
    deployment: Deployment,
    most: Saturation,
    served: float,
    loads: list[Load],
) -> list[str]:
    network = deployment.network
    slower = f", {args.scale:g} times slower" if args.scale != 1 else ""
    lines = fit(
        f"{args.shape} over {deployment.profile.name} ({deployment.profile.words}){slower}, "
        f"{deployment.direction}, blocks of {in_words(deployment.block_bytes)}: a transfer has "
        f"{network.rate / 1e9:.4g} GB/s, a port {network.port / 1e9:.4g} GB/s"
    )
    lines += fit(
        f"a request: {deployment.blocks} blocks, {in_words(round(deployment.request_bytes))}; its "
        f"transfer alone takes {_ms(deployment.alone)} ms"
    )
    lines += fit(
        f"saturates at {most.requests_per_second:.4g} requests/s: {most.part} "
        f"(simulated with {_OVERLOAD:g} times as many: {served:.4g} served)"
    )
    rows = [("requests/s", "load", "mean ms", "p50 ms", "p99 ms", "")]
    for load in loads:
        remark = "more than saturates: it grows without end" if load.load >= 1 else ""
        if not remark and load.extrapolated:
            remark = "extrapolated"
        rows.append(
            (
                f"{load.requests_per_second:.4g}",
                f"{load.load:.0%}",
                _ms(load.mean),
                _ms(load.p50),
                _ms(load.p99),
                remark,
            )
        )
    lines += ["", "added to the time to first token:", *lay_out(rows, range(5))]
    beyond = deployment.beyond_what_was_validated()
    if beyond:
        lines += ["", *fit(f"extrapolated: {'; '.join(beyond)} (docs/plan.md)")]
    return lines


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.4g}"


def _for_machines(
    deployment: Deployment, most: Saturation, served: float, loads: list[Load]
) -> dict[str, Any]:
    return {
        "fabric": deployment.profile.name,
        "direction": deployment.direction,
        "request_bytes": deployment.request_bytes,
        "alone_s": deployment.alone,
        "saturates_at": most.requests_per_second,
        "saturated_part": most.part,
        "served_when_overloaded": served,
        "extrapolated": deployment.beyond_what_was_validated(),
        "loads": [
            {
                "requests_per_second": load.requests_per_second,
                "load": load.load,
                "added_mean_s": load.mean,
                "added_p50_s": load.p50,
                "added_p99_s": load.p99,
                "extrapolated": load.extrapolated,
            }
            for load in loads
        ],
    }
