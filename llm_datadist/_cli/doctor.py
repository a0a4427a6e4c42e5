# SPDX-License-Identifier: Apache-2.0
"""Say what this machine offers, what will be used, and what to fix first.

Looks at the package and its neighbours of the same name, at CANN and devices, at the native
libraries and the choice among them, and at what the kernel and its limits allow. Libraries are
tried in processes of their own. Nothing is changed. The exit status is 0 if an engine can be
opened in this environment, and 1 otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from llm_datadist._tools.progress import Progress

if TYPE_CHECKING:
    from ._findings import Finding, Machine
    from ._probe import Tried

Section = tuple[str, "list[Finding]"]
SECTIONS = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the subcommand."""
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.add_argument(
        "--variables", action="store_true", help="print every environment variable that is read"
    )
    parser.add_argument(
        "--options", action="store_true", help="print every member of LLMConfig and its option"
    )
    parser.add_argument(
        "--peer",
        metavar="IP:PORT",
        help="look at a live engine instead: is it reached, which protocol, is a secret wanted",
    )
    parser.add_argument("--probe", metavar="WHAT", help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Examine the machine, or be a process that tries a library; returns the exit status."""
    # Nothing of this is imported to print a help text.
    if args.probe is not None:
        from . import _probe

        return _probe.answer(args.probe)
    if args.variables or args.options:
        return _print_tables(args)
    if args.peer is not None:
        return _look_at_peer(args)
    from ._findings import Machine

    progress = Progress(sys.stderr, SECTIONS)
    sections = []
    try:
        for section in examine(Machine(), progress):
            sections.append(section)
            progress.advance()
    except KeyboardInterrupt:
        print("llm-datadist doctor: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    finally:
        progress.clear()
    print(json.dumps(_for_machines(sections)) if args.json else _text(sections))
    return 0 if works(sections) else 1


def _look_at_peer(args: argparse.Namespace) -> int:
    from ._doctor_peer import NoAddressError, address_of, peer

    try:
        address = address_of(args.peer)
    except NoAddressError as error:
        print(f"llm-datadist doctor: --peer: {error}", file=sys.stderr)
        return 2
    sections: list[Section] = [(f"Engine at {args.peer}", peer(address))]
    found = sections[0][1]
    print(json.dumps(_shown(sections)) if args.json else "\n".join(_lines(sections)).rstrip())
    return 0 if all(finding.level.value != "fail" for finding in found) else 1


def _print_tables(args: argparse.Namespace) -> int:
    from llm_datadist._tools.table import lay_out, terminal_width

    from . import _variables
    from ._probe import in_child

    tables = []
    if args.variables:
        mock = in_child("mock", os.environ)
        if mock.error:
            print(f"without those of the mock runtime: {mock.error}", file=sys.stderr)
        tables.append((_variables.HEADINGS, _variables.variable_rows(mock.variables)))
    if args.options:
        tables.append((_variables.OPTION_HEADINGS, _variables.option_rows()))
    if args.json:
        rows = [dict(zip(headings, row)) for headings, table in tables for row in table]
        print(json.dumps(rows))
    else:
        width = terminal_width()
        print("\n\n".join("\n".join(lay_out([head, *rows], (), width)) for head, rows in tables))
    return 0


def examine(machine: Machine, progress: Progress) -> Iterator[Section]:
    """Make all checks, section by section."""
    from . import _doctor_ascend as device
    from . import _doctor_library as library
    from . import _doctor_package as package
    from ._probe import BACKEND, in_child

    progress.show("the package")
    yield (
        "Package",
        [package.plain_import(machine), package.versions(machine), package.compiler(machine)],
    )
    progress.show("the Ascend library")
    ascend = in_child("ascend", machine.environ)
    yield (
        "CANN",
        [
            library.toolkit(machine),
            device.driver(machine),
            device.hcomm(machine),
            library.devices(machine, ascend),
            device.device_network(machine),
        ],
    )
    progress.show("the mock library")
    mock = in_child("mock", machine.environ)
    progress.show("the backend")
    chosen = in_child(BACKEND, machine.environ)
    ascend_in_use = device.in_use(ascend, chosen)
    yield (
        "Libraries",
        [
            library.library("mock", mock),
            library.library("ascend", ascend),
            device.built_against(machine, ascend_in_use),
        ],
    )
    yield "Backend", [library.backend(machine, chosen)]
    progress.show("the kernel")
    yield from _of_kernel(machine)
    yield (
        "Transports of the mock runtime",
        [library.transport(machine, name) for name in library.TRANSPORTS],
    )
    yield (
        "Transport of the Ascend runtime",
        [
            device.hixl(ascend_in_use),
            *([device.hixl_address(machine)] if ascend_in_use.path else []),
        ],
    )
    yield _memory_and_cpus(machine, mock)
    yield "Environment", package.environment(machine, mock.variables)


def _of_kernel(machine: Machine) -> Iterator[Section]:
    from . import _doctor_host as host

    yield (
        "Kernel",
        [host.ptrace_scope(machine), host.process_vm(machine), host.user_namespaces(machine)],
    )
    yield "Ports", [host.loopback(machine), host.ephemeral_ports(machine)]


def _memory_and_cpus(machine: Machine, mock: Tried) -> Section:
    from . import _doctor_host as host

    return (
        "Memory and CPUs",
        [
            host.memory(mock),
            host.huge_pages(machine),
            host.locked_memory(machine),
            host.open_files(machine),
            host.cpus(machine, mock),
        ],
    )


def works(sections: list[Section]) -> bool:
    """Whether an engine can be opened."""
    return all(finding.level.value != "fail" for finding in dict(sections)["Backend"])


def first_to_fix(sections: list[Section]) -> Finding | None:
    """Return what stands most in the way of clients; None: nothing does.

    Without a backend nothing works at all, whatever else is wrong.
    """
    ordered = sorted(sections, key=lambda section: section[0] != "Backend")
    findings = [finding for _, found in ordered for finding in found]
    for level in ("fail", "warn"):
        for finding in findings:
            if finding.level.value == level:
                return finding
    return None


def _lines(sections: list[Section]) -> list[str]:
    lines = []
    for title, findings in sections:
        lines += [title, *(line for finding in findings for line in finding.lines()), ""]
    return lines


def _text(sections: list[Section]) -> str:
    lines = _lines(sections)
    first = first_to_fix(sections)
    if first is None:
        lines.append("Nothing to fix.")
    else:
        lines += ["First to fix", *first.lines()]
    return "\n".join(lines)


def _for_machines(sections: list[Section]) -> dict[str, Any]:
    first = first_to_fix(sections)
    return {
        "works": works(sections),
        "first_to_fix": None if first is None else first.name,
        "sections": _shown(sections),
    }


def _shown(sections: list[Section]) -> dict[str, Any]:
    return {
        title: [
            {
                "name": finding.name,
                "level": finding.level.value,
                "text": finding.text,
                "advice": finding.advice,
                "data": dict(finding.data),
            }
            for finding in findings
        ]
        for title, findings in sections
    }
