# SPDX-License-Identifier: Apache-2.0
"""What a version of the C ABI had, a later one has as it was: release/abi records it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from release import abi

NEWEST = abi.records()[-1]
PROGRAM = Path(__file__).with_name("last_header.c")


@pytest.mark.parametrize("folder", abi.records(), ids=lambda folder: folder.name)
def test_nothing_that_was_recorded_is_gone_or_changed(folder, header):
    layout = abi.layout_of(header)
    if not abi.promised(folder, layout):
        pytest.skip(f"version {abi.version_of(layout)} need not keep what {folder.name} had")
    broken, _ = abi.compare(abi.recorded(folder), layout)
    assert broken == [], f"if the version is unreleased and this is meant: {abi.WRITE}"


def test_a_record_is_what_its_header_says():
    recorded = NEWEST / "llm_datadist.h"
    layout = abi.layout_of(recorded.read_text())
    assert abi.recorded(NEWEST) == layout
    assert abi.version_of(layout) == NEWEST.name
    functions = {name.split()[1] for name in layout if name.startswith("function ")}
    assert (NEWEST / "symbols.txt").read_text().split() == sorted(functions)


@pytest.mark.parametrize(
    ("change", "by", "broken"),
    [
        (r"    uint32_t port;.*\n", "", "member lldd_address.port is gone"),
        (r"uint32_t port;", "uint32_t a_port;", "member lldd_address.port is gone"),
        (r"uint32_t port;", "uint64_t port;", "lldd_address.port was uint32_t, 4 bytes at 4, is"),
        (r"(    uint64_t addr;\n)(    uint64_t size;\n)", r"\2\1", "lldd_memory.addr was"),
        (r"#define LLDD_TYPE_BF16 27", "#define LLDD_TYPE_BF16 28", "LLDD_TYPE_BF16 was 0x1b"),
        (r"#define LLDD_TYPE_BF16 27\n", "", "constant LLDD_TYPE_BF16 is gone"),
        (r"uint32_t lldd_version\(void\);", "", "function lldd_version is gone (uint32_t (void))"),
        (r"uint32_t lldd_version\(void\)", "int32_t lldd_version(void)", "lldd_version was uint32"),
        (r"lldd_log_set\(uint32_t level, int32_t fd\)", "lldd_log_set(uint32_t a)", "lldd_log_set"),
    ],
)
def test_what_breaks_programs_is_found(change, by, broken):
    header = (NEWEST / "llm_datadist.h").read_text()
    changed = re.sub(change, by, header, count=1)
    assert changed != header
    found, _ = abi.compare(abi.recorded(NEWEST), abi.layout_of(changed))
    assert any(broken in line for line in found), found


def test_what_is_added_breaks_nothing():
    header = (NEWEST / "llm_datadist.h").read_text()
    header = header.replace("} lldd_memory;", "    uint64_t a_new_one;\n} lldd_memory;")
    header = header.replace(
        "uint32_t lldd_version(void);", "uint32_t lldd_version(void);\nint f();"
    )
    header = header.replace("int f();", "uint64_t lldd_a_new_one(lldd_engine *engine);")
    header = header.replace("lldd_version(void);", "lldd_version( void );")
    broken, added = abi.compare(abi.recorded(NEWEST), abi.layout_of(header))
    assert broken == []
    assert added == [
        "member lldd_memory.a_new_one: uint64_t, 8 bytes at 24",
        "function lldd_a_new_one: uint64_t (lldd_engine *)",
    ]


def test_a_released_version_is_not_recorded_anew(tmp_path, monkeypatch):
    """Unless nothing that it had is gone."""
    monkeypatch.setattr(abi, "RECORDS", tmp_path)
    released = []
    monkeypatch.setattr(abi, "unreleased", lambda version: version not in released)
    header = (NEWEST / "llm_datadist.h").read_text()
    assert abi.write(header) == tmp_path / NEWEST.name
    smaller = header.replace("uint32_t lldd_version(void);", "")
    released.append(NEWEST.name)
    with pytest.raises(ValueError, match="is released: function lldd_version is gone"):
        abi.write(smaller)
    assert "lldd_version\n" in (tmp_path / NEWEST.name / "symbols.txt").read_text()
    released.clear()
    abi.write(smaller)
    assert "lldd_version\n" not in (tmp_path / NEWEST.name / "symbols.txt").read_text()


def test_a_program_of_the_last_header_runs(cc, mock_library, tmp_path):
    """It moves a block between two engines of the library of today."""
    program = tmp_path / "program"
    work = tmp_path / "include"
    work.mkdir()
    shutil.copy(NEWEST / "llm_datadist.h", work)
    command = [*cc.command, "-std=c11", "-Wall", "-Wextra", "-Werror", f"-I{work}", str(PROGRAM)]
    built = subprocess.run(
        [*command, "-o", str(program), mock_library.path], text=True, capture_output=True
    )
    assert built.returncode == 0, built.stderr
    folder = str(Path(mock_library.path).parent)
    done = subprocess.run(
        [program], env={"LD_LIBRARY_PATH": folder}, text=True, capture_output=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "moved\n"), done.stdout + done.stderr


def test_abidiff_agrees(cc, tmp_path):
    if shutil.which("abidiff") is None:
        pytest.skip("capability abidiff: abigail-tools is not installed")
    recorded = NEWEST / "llm_datadist.h"
    compatible, report = abi.abidiff(recorded, abi.HEADER)
    assert compatible, report
    smaller = tmp_path / "smaller.h"
    smaller.write_text(recorded.read_text().replace("uint32_t lldd_version(void);", ""))
    compatible, report = abi.abidiff(recorded, smaller)
    assert not compatible
    assert "lldd_version" in report
