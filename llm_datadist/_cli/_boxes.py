# SPDX-License-Identifier: Apache-2.0
"""The boxes that a command reads: those that are named, or the folder of LLM_DATADIST_BOX."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from llm_datadist._tools.outcome import Refusal

if TYPE_CHECKING:
    from llm_datadist._box.reader import Box


def add_boxes(parser: argparse.ArgumentParser) -> None:
    """Declare the argument that names boxes, which is the last one without a dash."""
    parser.add_argument(
        "boxes",
        nargs="*",
        metavar="BOX",
        help="files or folders (default: the folder LLM_DATADIST_BOX)",
    )


def boxes_named(args: argparse.Namespace) -> list[Box]:
    """Read them. Raises Refusal: one is no box, or none is named."""
    from llm_datadist._box.reader import BoxError, boxes_of

    default = os.environ.get("LLM_DATADIST_BOX")
    try:
        return boxes_of(args.boxes or ([default] if default else []))
    except BoxError as error:
        raise Refusal(str(error)) from error
