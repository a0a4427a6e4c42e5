# SPDX-License-Identifier: Apache-2.0
"""The command ``llm-datadist``, also ``python -m llm_datadist``.

A subcommand is a module of ``llm_datadist._cli`` that has its name (with ``_`` where the command
has a hyphen), a docstring whose first line is its help, ``add_arguments(parser)`` and
``run(args)``, which returns the exit status.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
from collections.abc import Sequence

import llm_datadist._cli
from llm_datadist._tools.outcome import ending
from llm_datadist._tools.table import DescriptionFormatter
from llm_datadist._version import __version__


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command with all its subcommands."""
    parser = argparse.ArgumentParser(
        prog="llm-datadist",
        description="KV-cache blocks between processes.",
    )
    parser.add_argument("--version", action="version", version=f"llm-datadist-cffi {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for found in pkgutil.iter_modules(llm_datadist._cli.__path__):
        if found.name.startswith("_"):
            continue
        module = importlib.import_module(f"llm_datadist._cli.{found.name}")
        summary, _, details = (module.__doc__ or "").strip().partition("\n")
        command = commands.add_parser(
            found.name.replace("_", "-"),
            help=summary,
            description=f"{summary}\n{details}",
            formatter_class=DescriptionFormatter,
        )
        module.add_arguments(command)
        # An argument that nobody knows is told with the usage of the command that it was given to.
        command.set_defaults(run=module.run, refuse=command.error)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with the given arguments (default: those of the process).

    Returns the exit status of the subcommand; 130 when it was interrupted, 141 when nobody reads
    its output any more, 1 when the output cannot be written. Wrong arguments end the process with
    status 2.
    """

    def run() -> int:
        args, unknown = build_parser().parse_known_args(arguments)
        if unknown:
            args.refuse(f"unrecognized arguments: {' '.join(unknown)}")
        return int(args.run(args))

    return ending("llm-datadist", run)


if __name__ == "__main__":
    sys.exit(main())
