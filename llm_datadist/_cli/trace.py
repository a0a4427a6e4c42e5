# SPDX-License-Identifier: Apache-2.0
"""Write the transfers of boxes as a trace for Perfetto or chrome://tracing.

Each engine is a process of the trace, each of its threads a row with a slice per transfer: the wait
for the link, the plan, the bytes. What peers did with it has rows of its own, and arrows lead from
where bytes were to where they went. All times are on the clock of the first box. Boxes are files or
folders; see docs/trace.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from llm_datadist._tools.outcome import finish

from ._boxes import add_boxes, boxes_named


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the subcommand."""
    add_boxes(parser)
    parser.add_argument(
        "--output", metavar="FILE", help="where the trace goes (default: to stdout)"
    )


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    return finish("trace", False, lambda: _result(args))


def _result(args: argparse.Namespace) -> str:
    from llm_datadist._box.trace import chrome_trace

    boxes = boxes_named(args)
    text = json.dumps(chrome_trace(boxes))
    if args.output is None:
        return text
    Path(args.output).write_text(text)
    calls = sum(len(box.calls) for box in boxes)
    print(f"{calls} transfers of {len(boxes)} engines", file=sys.stderr)
    return str(args.output)
