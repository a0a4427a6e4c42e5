# SPDX-License-Identifier: Apache-2.0
"""Faults to plant, one per target, each in a copy of one source: a target that does not find its
own would find no other.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.fuzz import build


class Plant(NamedTuple):
    """A fault: a text of a file, which comes there once, and what stands in its place."""

    target: str
    what: str
    file: str
    sound: str
    faulty: str


PLANTS = (
    Plant(
        "greeting",
        "the end of a greeting's purposes is one too far",
        "csrc/engine/wire.cc",
        "purpose_number > static_cast<uint8_t>(Purpose::kMeeting)) {",
        "purpose_number > static_cast<uint8_t>(Purpose::kMeeting) + 1) {",
    ),
    Plant(
        "frames",
        "a parser forgets how much it has taken when a frame came in pieces",
        "csrc/engine/control_channel.cc",
        "    taken_ = 0;\n    return false;",
        "    if (rest.empty()) taken_ = 0;\n    return false;",
    ),
    Plant(
        "messages",
        "the number of addresses of a kLocate is not compared with its bytes",
        "csrc/engine/wire.cc",
        "if (count > reader.left() / sizeof(uint64_t)) return false;\n    addrs.resize(count);",
        "if (count > reader.left()) return false;\n    addrs.resize(count / 8);",
    ),
    Plant(
        "table",
        "the blocks of a peer's cache are checked with a limit by one too large",
        "csrc/engine/plan_checks.cc",
        "pairs.max_remote() < remote.shape.count",
        "pairs.max_remote() <= remote.shape.count",
    ),
    Plant(
        "endpoint",
        "a region may wrap around the end of the address space",
        "mock_runtime/endpoint.cc",
        "region->size - 1 > UINT64_MAX - region->addr",
        "region->size > UINT64_MAX",
    ),
    Plant(
        "ascend_endpoint",
        "a region may wrap around the end of the address space",
        "csrc/ascend/regions.cc",
        "region.size - 1 > UINT64_MAX - region.addr",
        "region.size > UINT64_MAX",
    ),
    Plant(
        "card",
        "what is left over behind a card is not noticed",
        "csrc/engine/meeting.cc",
        "    port = reader.Number<uint32_t>();\n    return reader.Done();",
        "    port = reader.Number<uint32_t>();\n    return reader.ok();",
    ),
    Plant(
        "rank_table",
        "the digits of an escape at the end of a text are read past it",
        "csrc/engine/lenient_json.cc",
        "        if (rest_.size() < 4) return false;\n",
        "",
    ),
    Plant(
        "fault_script",
        "a probability above 1 is taken",
        "mock_runtime/fault_script.cc",
        "*probability <= 1;",
        "*probability <= 2;",
    ),
    Plant(
        "stream_server",
        "a run is checked as if it ended a byte earlier",
        "mock_runtime/tcp_server.cc",
        "owner_.memory->Check(owner_.mark, run->addr, run->length, &name);",
        "owner_.memory->Check(owner_.mark, run->addr, run->length > 1 ? run->length - 1 : 1, "
        "&name);",
    ),
    Plant(
        "stream_client",
        "an answer that memory was withdrawn counts as done",
        "mock_runtime/path_tcp.cc",
        "case kTcpWithdrawn: return {MoveFailure::kWithdrawn, 0, answer.addr};",
        "case kTcpWithdrawn: return {};",
    ),
    Plant(
        "channel",
        "the number of descriptors that came is not compared with the message",
        "mock_runtime/channel.cc",
        "received.size() != expected) {",
        "received.size() > expected) {",
    ),
    Plant(
        "shared_words",
        "a wait for a peer that is inside has no end",
        "mock_runtime/link_page.cc",
        "if (over || deadline.passed()) break;",
        "if (over) break;",
    ),
    Plant(
        "rendezvous",
        "a card that cannot be read closes the rendezvous to those that come later",
        "csrc/engine/rendezvous.cc",
        "if (known != nullptr && !OnFrame(known, kind, body)) End(known);",
        "if (known != nullptr && !OnFrame(known, kind, body)) {\n"
        "                listener_.Stop();\n                End(known);\n            }",
    ),
    Plant(
        "conversation",
        "an answer that no call waits for is given to the one that does",
        "csrc/engine/control_channel.cc",
        "if (found != waiting_.end()) {",
        "if (!waiting_.empty()) {",
    ),
    Plant(
        "options",
        "a page may be shifted by anything",
        "llm_datadist/_members.py",
        "if not _is_unsigned(shift) or not 10 <= shift < 31:",
        "if not _is_unsigned(shift) or not 10 <= shift <= 31:",
    ),
)


def faulty_text(plant: Plant) -> str:
    """Return the text of the file with the fault in it."""
    text = (build.ROOT / plant.file).read_text()
    if text.count(plant.sound) != 1:
        raise SystemExit(f"{plant.file} has {text.count(plant.sound)} times: {plant.sound}")
    return text.replace(plant.sound, plant.faulty)


@contextmanager
def planted_package(plant: Plant) -> Iterator[Path]:
    """Copy what a target in Python needs, with the fault in it."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        for name in ("llm_datadist", "tests/fuzz"):
            shutil.copytree(build.ROOT / name, tree / name)
        shutil.copyfile(build.ROOT / "tests/__init__.py", tree / "tests/__init__.py")
        (tree / plant.file).write_text(faulty_text(plant))
        yield tree
