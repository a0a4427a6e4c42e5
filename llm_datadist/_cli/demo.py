# SPDX-License-Identifier: Apache-2.0
"""Move KV blocks between two processes and check every byte.

Starts a prompt process and a decoder process, each with a paged KV cache of the geometry of a
real model, and links them over 127.0.0.1. The decoder pulls scattered blocks from the prompt, then
pushes scattered blocks to it. Before each transfer both caches are filled anew, afterwards every
byte of both is checked; only the transfers are timed. The exit status is 0 when all bytes are
right, 1 for a wrong byte or a failure, 2 for arguments that cannot be served.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from llm_datadist._tools.host import available_memory
from llm_datadist._tools.outcome import Refusal, finish
from llm_datadist._tools.table import fit, lay_out, terminal_width
from llm_datadist._tools.units import in_words

from ._arguments import names, positive, refuse_a_backend_that_is_none, seconds
from ._geometry import DEFAULT_MODEL, DTYPES, MODELS, KVGeometry

if TYPE_CHECKING:
    from . import _demo_run

TRANSPORTS = ("mapped", "cma", "tcp")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the subcommand."""
    _add_geometry(parser)
    _add_ways(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    # Proves that the check sees a byte that is wrong in, or outside, the blocks that were moved.
    parser.add_argument(
        "--corrupt-for-test", choices=["addressed", "untouched"], default="", help=argparse.SUPPRESS
    )


def _add_geometry(parser: argparse.ArgumentParser) -> None:
    shape = parser.add_argument_group("geometry of the caches")
    shape.add_argument(
        "--model",
        choices=sorted(MODELS),
        default=DEFAULT_MODEL,
        metavar="NAME",
        help="take layers, KV heads and head size from this model (default: %(default)s); one of "
        + ", ".join(sorted(MODELS)),
    )
    shape.add_argument("--layers", type=positive, metavar="N", help="instead of the model's")
    shape.add_argument("--kv-heads", type=positive, metavar="N", help="instead of the model's")
    shape.add_argument("--head-dim", type=positive, metavar="N", help="instead of the model's")
    shape.add_argument(
        "--block-tokens",
        type=positive,
        default=128,
        metavar="N",
        help="tokens in a block (default: %(default)s)",
    )
    shape.add_argument(
        "--dtype", choices=sorted(DTYPES), default="bfloat16", help="default: %(default)s"
    )
    shape.add_argument(
        "--blocks",
        type=positive,
        default=64,
        metavar="N",
        help="blocks of each cache (default: %(default)s); half of them are moved",
    )


def _add_ways(parser: argparse.ArgumentParser) -> None:
    how = parser.add_argument_group("how the bytes are moved")
    how.add_argument(
        "--memory",
        choices=["registered", "allocated"],
        default="registered",
        help="registered numpy memory, or memory of the engine's pool (default: %(default)s)",
    )
    how.add_argument(
        "--transport",
        type=names(TRANSPORTS),
        metavar="LIST",
        help="which of mapped,cma,tcp may be used, in this order (default: what "
        "LLM_DATADIST_MOCK_TRANSPORT says)",
    )
    how.add_argument(
        "--rounds",
        type=positive,
        default=3,
        metavar="N",
        help="pulls and pushes; the table has their median (default: %(default)s)",
    )
    how.add_argument("--seed", type=int, default=0, help="of the block lists")
    how.add_argument(
        "--timeout",
        type=seconds,
        default=60.0,
        metavar="SECONDS",
        help="for a transfer, for linking, and for each answer of a process (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Run the demo; returns the exit status."""
    return finish("demo", args.json, lambda: _result(args))


def _result(args: argparse.Namespace) -> str:
    # numpy and the engine are not imported to print a help text.
    from . import _demo_run

    geometry = _geometry(args)
    refuse_a_backend_that_is_none()
    _refuse_what_does_not_fit(geometry)
    report = _demo_run.run(
        _demo_run.Plan(
            geometry=geometry,
            allocated=args.memory == "allocated",
            transport=args.transport and ",".join(args.transport),
            rounds=args.rounds,
            seed=args.seed,
            timeout=args.timeout,
            corrupt=args.corrupt_for_test,
        )
    )
    return json.dumps(_for_machines(report)) if args.json else _table(report)


def _geometry(args: argparse.Namespace) -> KVGeometry:
    layers, kv_heads, head_dim = MODELS[args.model]
    geometry = KVGeometry(
        layers=args.layers or layers,
        kv_heads=args.kv_heads or kv_heads,
        head_dim=args.head_dim or head_dim,
        block_tokens=args.block_tokens,
        dtype=args.dtype,
        blocks=args.blocks,
    )
    if geometry.block_bytes % 8 != 0:
        raise Refusal(
            f"a block of {geometry.block_tokens} tokens x {geometry.kv_heads} heads x "
            f"{geometry.head_dim} {geometry.dtype} has {geometry.block_bytes} bytes; the check "
            "needs a multiple of 8"
        )
    if args.corrupt_for_test == "untouched" and geometry.blocks == 1:
        raise Refusal("one block, which is moved, leaves none untouched")
    return geometry


def _refuse_what_does_not_fit(geometry: KVGeometry) -> None:
    from llm_datadist._tools.processes import PROCESS_OVERHEAD

    needed = 2 * (geometry.cache().pool_bytes() + PROCESS_OVERHEAD)
    available = available_memory()
    if needed > available.bytes:
        block = geometry.tensors * geometry.block_bytes
        fitting = (available.bytes // 2 - PROCESS_OVERHEAD) // block
        advice = f"--blocks {fitting} would fit" if fitting > 0 else "not even one block fits"
        raise Refusal(
            f"two caches of {in_words(geometry.cache_bytes)} ({geometry.blocks} blocks of "
            f"{in_words(block)}: {geometry}) need {in_words(needed)} of memory, "
            f"{in_words(available.bytes)} is available {available.where}; {advice}"
        )


def _for_machines(report: _demo_run.Report) -> dict[str, Any]:
    plan = report.plan
    return {
        "runtime": report.runtime,
        "geometry": {
            **asdict(plan.geometry),
            "tensors": plan.geometry.tensors,
            "block_bytes": plan.geometry.block_bytes,
            "cache_bytes": plan.geometry.cache_bytes,
        },
        "memory": plan.memory,
        "transport": plan.transport,
        "rounds": plan.rounds,
        "operations": [
            {
                "operation": done.operation,
                "from": done.source,
                "to": done.destination,
                "blocks": done.blocks,
                "bytes": done.bytes,
                "seconds": done.median_seconds,
                "seconds_each": done.seconds,
                "gb_per_s": done.bytes / done.median_seconds / 1e9,
                "path": report.path,
            }
            for done in report.operations
        ],
        "path_reason": report.path_reason,
        "checked_bytes": report.checked_bytes,
        "wrong_bytes": 0,
    }


def _table(report: _demo_run.Report) -> str:
    plan = report.plan
    geometry = plan.geometry
    rows = [("operation", "from -> to", "blocks", "bytes", "time", "GB/s", "path")]
    for done in report.operations:
        rows.append(
            (
                done.operation,
                f"{done.source} -> {done.destination}",
                str(done.blocks),
                in_words(done.bytes),
                f"{done.median_seconds * 1e3:.3g} ms",
                f"{done.bytes / done.median_seconds / 1e9:.2f}",
                report.path,
            )
        )
    lines = lay_out(rows, range(2, 6), terminal_width())
    block = geometry.tensors * geometry.block_bytes
    times = "the only round" if plan.rounds == 1 else f"the median of {plan.rounds} rounds"
    return "\n".join(
        [
            f"{geometry}",
            *fit(
                f"{geometry.blocks} blocks of {in_words(block)}: {in_words(geometry.cache_bytes)} "
                f"of {plan.memory} memory in each process, runtime {report.runtime}"
            ),
            "",
            *lines,
            "",
            *fit(f"time: {times}; path {report.path}: {report.path_reason}"),
            f"checked: {in_words(report.checked_bytes)}, every byte right",
        ]
    )
