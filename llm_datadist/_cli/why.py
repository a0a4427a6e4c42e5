# SPDX-License-Identifier: Apache-2.0
"""Tell what happened to a transfer, from the boxes of both ends.

With an id (its first digits are enough, or CLUSTER:NUMBER): when the transfer was asked for, had
its link, moved its first byte and ended, with which text, and what both ends had to say of the link
and of caches around it. With one of the words failed, slow, open: a table of such transfers, with
their ids. Boxes are files or folders; see docs/trace.md. The exit status is 1 when there is no such
transfer.
"""

from __future__ import annotations

import argparse

from llm_datadist._tools.outcome import PeerFailure, finish

from ._boxes import add_boxes, boxes_named

LISTS = ("failed", "slow", "open")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the subcommand."""
    parser.add_argument(
        "id", metavar="ID", help=f"of the transfer, or one of the words {', '.join(LISTS)}"
    )
    add_boxes(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    return finish("why", False, lambda: _result(args))


def _result(args: argparse.Namespace) -> str:
    from llm_datadist._box.why import explain, listing

    boxes = boxes_named(args)
    if args.id in LISTS:
        return listing(boxes, args.id)
    story = explain(boxes, args.id)
    if story is None:
        names = ", ".join(box.name for box in boxes)
        raise PeerFailure(f"no transfer has an id that begins with {args.id!r}; read: {names}")
    return story
