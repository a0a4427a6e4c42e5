# SPDX-License-Identifier: Apache-2.0
"""Faults that are planted in a copy of the sources, one or more per target: a target that does not
find its own would find no other.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.fuzz import build

COPIED = ("csrc", "mock_runtime", "llm_datadist", "tests/fuzz", "tests/__init__.py")


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
        "an escape at the end of a text is read past it",
        "csrc/engine/lenient_json.cc",
        "        if (rest_.empty()) return false;\n        const char escape = rest_[0];",
        "        const char escape = rest_.data()[0];",
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


@contextmanager
def planted(plant: Plant) -> Iterator[Path]:
    """A copy of the sources with the fault in it; objects are shared by the copies."""
    tree = Path(tempfile.gettempdir()) / "lldd-fuzz-planted"
    for name in COPIED:
        source, copy = build.ROOT / name, tree / name
        _copy_what_differs(source, copy)
    place = tree / plant.file
    text = place.read_text()
    if text.count(plant.sound) != 1:
        raise SystemExit(f"{plant.file} has {text.count(plant.sound)} times: {plant.sound}")
    place.write_text(text.replace(plant.sound, plant.faulty))
    yield tree


def _copy_what_differs(source: Path, copy: Path) -> None:
    """Copy without touching what is there already, so that it is not compiled again."""
    files = [source] if source.is_file() else [each for each in source.rglob("*") if each.is_file()]
    for file in files:
        there = copy if file == source else copy / file.relative_to(source)
        if there.exists() and there.read_bytes() == file.read_bytes():
            continue
        there.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, there)
