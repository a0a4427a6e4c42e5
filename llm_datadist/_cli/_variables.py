# SPDX-License-Identifier: Apache-2.0
"""Every environment variable and every option that is read: the two tables for people.

The variables of the mock runtime stand in the runtime's own table, which is asked for them; the
options are the members of LLMConfig.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llm_datadist._native.facade import Facade


@dataclass(frozen=True)
class Variable:
    """An environment variable: who reads it, what it may be, and what it means."""

    name: str
    values: str
    default: str
    meaning: str
    reader: str


_PACKAGE, _ENGINE, _ASCEND, _BUILD, _TESTS = (
    "the package",
    "the engine",
    "the Ascend runtime",
    "builds",
    "tests",
)
MOCK = "the mock runtime"
_NOT_SET = "not set"

# Every variable that is read, but those of the mock runtime.
VARIABLES = (
    Variable(
        "LLM_DATADIST_BACKEND",
        "auto, mock, ascend, or the absolute path of a library",
        "auto",
        "which library is used",
        _PACKAGE,
    ),
    Variable(
        "LLM_DATADIST_STRICT_HARDWARE",
        "0, 1",
        "0",
        "1: be as strict about arguments as a device",
        _PACKAGE,
    ),
    Variable(
        "LLM_DATADIST_CHECK",
        "0, 1",
        "0",
        "1: also warn of mistakes that take time to find, such as blocks written twice",
        _ENGINE,
    ),
    Variable(
        "LLM_DATADIST_VERIFY",
        "0, 1",
        "0",
        "1: each transfer compares checksums of source and destination, which reads both again",
        _ENGINE,
    ),
    Variable(
        "LLM_DATADIST_STATISTICS",
        "0, 1",
        "1",
        "0: no clock is read for statistics, which then lack latencies and times of success",
        _ENGINE,
    ),
    Variable(
        "LLM_DATADIST_BOX",
        "path of a folder",
        _NOT_SET,
        "where each engine keeps a box, a file with what it was asked; see docs/trace.md",
        _ENGINE,
    ),
    Variable(
        "LLM_DATADIST_BOX_CALLS",
        "16..1048576",
        "4096",
        "how many calls a box has room for, rounded up to a power of 2: the latest ones stay",
        _ENGINE,
    ),
    Variable(
        "LLM_DATADIST_SCOPE", "text", "empty", "keeps communicators of the same name apart", _ENGINE
    ),
    Variable(
        "LLM_DATADIST_RENDEZVOUS",
        "ip:port, [ip]:port",
        _NOT_SET,
        "where the members of a communicator meet across hosts",
        _ENGINE,
    ),
    Variable(
        "LLM_DATADIST_HOST_IP",
        "IP address",
        "the address from which the first peer is reached",
        "the address of this host from which members of a communicator dial; of the Ascend runtime "
        "also the one that is told to peers where none is listened at",
        _ENGINE,
    ),
    Variable(
        "LLM_DATADIST_BUILD_ASCEND",
        "0, 1",
        "1 if a CANN toolkit is found",
        "whether installing builds the Ascend library; 1: or fails",
        _BUILD,
    ),
    Variable("LLM_DATADIST_BUILD_JOBS", "1..", "all CPUs", "compilers at a time", _BUILD),
    Variable(
        "LLM_DATADIST_BUILD_OUTPUT",
        "path",
        "below build/native",
        "where a sanitized mock library goes",
        _BUILD,
    ),
    Variable(
        "LLM_DATADIST_SANITIZE",
        "comma list of address, undefined, or thread",
        "none",
        "sanitizers to build a library with",
        _BUILD,
    ),
    Variable("LLM_DATADIST_WERROR", "0, 1", "0", "1: warnings of the compiler are errors", _BUILD),
    Variable(
        "LLM_DATADIST_TEST_PATHS",
        "comma list of mapped, cma, tcp, ascend",
        "all that are there",
        "the paths that the conformance suite must run on",
        _TESTS,
    ),
    Variable(
        "LLM_DATADIST_TEST_PATIENCE",
        "seconds",
        "30",
        "after which a peer that does not answer is stuck",
        _TESTS,
    ),
    Variable(
        "LLM_DATADIST_TEST_DEVICES",
        "comma list of device ids",
        "0",
        "the devices that peers take in turn",
        _TESTS,
    ),
    Variable(
        "LLM_DATADIST_TEST_DEVICE_IP",
        "IP address",
        "127.0.0.1",
        "an address of this host at which engines listen",
        _TESTS,
    ),
    Variable(
        "LLM_DATADIST_TEST_DEVICE_OPTIONS",
        "JSON object, or array of objects",
        "{}",
        "more options of the engines; those of an array are taken in turn",
        _TESTS,
    ),
    Variable(
        "LLM_DATADIST_TEST_FAKE_CANN",
        "1",
        _NOT_SET,
        "1: the Ascend library runs on the stand-in for CANN",
        _TESTS,
    ),
    Variable(
        "ASCEND_GLOBAL_LOG_LEVEL",
        "0 (debug), 1, 2, 3 (errors), 4 (nothing)",
        "3",
        "what is logged",
        _PACKAGE,
    ),
    Variable(
        "LLM_DATADIST_LOG",
        "text, json",
        "text",
        "json: each line of the log is a JSON object",
        _PACKAGE,
    ),
    Variable(
        "LLM_DATADIST_SLOW_MS",
        "milliseconds",
        "0: none",
        "transfers that take longer are warned of in the log",
        _ENGINE,
    ),
    Variable("ASCEND_HOME_PATH", "path", "the usual places", "the CANN toolkit", _BUILD),
    Variable(
        "ASCEND_TOOLKIT_HOME",
        "path",
        "the usual places",
        "the CANN toolkit, if ASCEND_HOME_PATH is not set",
        _BUILD,
    ),
    Variable(
        "ASCEND_RT_VISIBLE_DEVICES",
        "as CANN has it",
        "not set",
        "which devices of the host the process sees: two engines on one are not linked",
        "the Ascend runtime",
    ),
    Variable(
        "AUTO_USE_UC_MEMORY",
        "as CANN has it",
        "0",
        "importing the package sets it to 0 if it is not set",
        "CANN",
    ),
    Variable(
        "XDG_CACHE_HOME",
        "path",
        "~/.cache",
        "below it lies what build-ascend makes",
        _PACKAGE,
    ),
)
HEADINGS = ("Variable", "Values", "Default", "Meaning", "Read by")
OPTION_HEADINGS = ("Member of LLMConfig", "Option", "Accepts", "Default", "Meaning")


def of_mock(native: Facade) -> tuple[Variable, ...]:
    """Ask a library of the mock runtime for the variables that it reads."""
    from llm_datadist._native.control import control

    variables = []
    for line in control(native, "environment").splitlines():
        name, values, default, meaning = line.split("\t")
        variables.append(Variable(name, values, default, meaning, MOCK))
    return tuple(variables)


def variable_rows(mock: tuple[Variable, ...]) -> list[tuple[str, ...]]:
    """Return a row for each variable, under HEADINGS; those of the mock runtime are given."""
    listed = sorted([*VARIABLES, *mock], key=lambda variable: variable.name)
    return [(each.name, each.values, each.default, each.meaning, each.reader) for each in listed]


def option_rows() -> list[tuple[str, ...]]:
    """Return a row for each member of LLMConfig, under OPTION_HEADINGS."""
    from llm_datadist.config import MEMBERS

    return [
        (
            member.name,
            ", ".join(member.keys) or "(any)",
            member.accepts,
            member.default,
            member.__doc__ or "",
        )
        for member in MEMBERS
    ]
