# SPDX-License-Identifier: Apache-2.0
"""The promise of the C ABI: what a release had, a later one has as it was.

    python -m release.abi             compare the header with what release/abi records; 1: it broke
    python -m release.abi --exact     nothing may have been added either, as before a release
    python -m release.abi --write     record the header as that of the version it names
    python -m release.abi --abidiff   have abidiff compare the same headers, where it is installed

A version's folder below release/abi has the header itself, which programs are compiled against in
tests, the names of its functions (``symbols.txt``), and its constants, structs with the place and
type of every member, and prototypes (``layout.txt``). A header may add to that: constants,
functions, structs, and members at the end of a struct, since each struct says its size. ``--write``
refuses a header that changes or drops something, unless CHANGELOG.md calls its version unreleased.
"""

from __future__ import annotations

import argparse
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import cffi

from llm_datadist._native import declarations

ROOT = Path(__file__).resolve().parent.parent
HEADER = ROOT / "csrc" / "include" / "llm_datadist.h"
RECORDS = ROOT / "release" / "abi"
WRITE = "python -m release.abi --write"
# Of abidiff's exit status: it failed, was used wrongly, or found what breaks programs.
ABIDIFF_BROKE = 1 | 2 | 8
# The versions themselves are what differs.
VERSION = ("constant LLDD_VERSION_MAJOR", "constant LLDD_VERSION_MINOR")

# What is declared, and how: "member lldd_config.role" and "uint32_t, 4 bytes at 4".
Layout = dict[str, str]


def layout_of(header: str) -> Layout:
    """Return what the marked region of a header declares, for 64-bit machines."""
    parsed = declarations.parse(header)
    ffi = cffi.FFI()
    ffi.cdef(parsed.text)
    found = {f"constant {name}": f"{value:#x}" for name, value in parsed.constants.items()}
    for struct in parsed.structs:
        ctype = ffi.typeof(struct.name)
        found[f"struct {struct.name}"] = f"{ffi.sizeof(ctype)} bytes"
        for name, field in ctype.fields:
            place = f"{field.type.cname}, {ffi.sizeof(field.type)} bytes at {field.offset}"
            found[f"member {struct.name}.{name}"] = place
    names = {function.name for function in parsed.functions}
    for line in parsed.text.splitlines():
        words = re.fullmatch(r"([\w *]*?)\b(\w+) \( (.*) \) ;", line)
        if words and words[2] in names:
            # Names of arguments are nobody's business but the header's.
            arguments = [re.sub(r" \w+$", "", argument) for argument in words[3].split(" , ")]
            found[f"function {words[2]}"] = f"{words[1].strip()} ({', '.join(arguments)})"
    return found


def compare(old: Layout, new: Layout) -> tuple[list[str], list[str]]:
    """Return what breaks programs that were compiled against ``old``, and what is added."""
    broken = []
    for name, was in old.items():
        now = new.get(name)
        grown = name.startswith("struct ") and now and int(now.split()[0]) >= int(was.split()[0])
        if now is None:
            broken.append(f"{name} is gone ({was})")
        elif now != was and not grown and name not in VERSION:
            broken.append(f"{name} was {was}, is {now}")
    return broken, [f"{name}: {new[name]}" for name in new if name not in old]


def records() -> list[Path]:
    """Return the folders of the versions that are recorded, the oldest first."""
    found = [path.parent for path in RECORDS.glob("*/layout.txt")]
    return sorted(found, key=lambda path: [int(part) for part in path.name.split(".")])


def recorded(folder: Path) -> Layout:
    """Return the layout that a version's folder has."""
    lines = (folder / "layout.txt").read_text().splitlines()
    return dict(line.split(": ", 1) for line in lines)


def version_of(layout: Layout) -> str:
    """Return major and minor version of a header."""
    return ".".join(str(int(layout[name], 0)) for name in VERSION)


def promised(folder: Path, layout: Layout) -> bool:
    """Whether a header must keep what a version had: before 1.0 within a minor version."""
    was, now = folder.name.split("."), version_of(layout).split(".")
    return was == now if now[0] == "0" else was[0] == now[0]


def unreleased(version: str) -> bool:
    """Whether CHANGELOG.md calls the version unreleased."""
    text = (ROOT / "CHANGELOG.md").read_text()
    return (
        re.search(rf"^## {re.escape(version)}\.0 \(unreleased\)$", text, re.MULTILINE) is not None
    )


def write(header: str) -> Path:
    """Record a header; return the folder. Raises ValueError if it breaks a version released."""
    layout = layout_of(header)
    version = version_of(layout)
    folder = RECORDS / version
    if folder.exists() and not unreleased(version):
        broken, _ = compare(recorded(folder), layout)
        if broken:
            raise ValueError(f"version {version} is released: " + "; ".join(broken))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / HEADER.name).write_text(header)
    (folder / "layout.txt").write_text("".join(f"{each}: {layout[each]}\n" for each in layout))
    functions = sorted(each.split()[1] for each in layout if each.startswith("function "))
    (folder / "symbols.txt").write_text("".join(f"{name}\n" for name in functions))
    return folder


def stub(header: Path, work: Path, compiler: str = "cc") -> Path:
    """Compile a library whose functions have the header's types and do nothing, for abidiff."""
    source, library = work / "stub.c", work / "stub.so"
    text = declarations.parse(header.read_text()).text
    bodies = [
        re.sub(r" ;$", " { __builtin_trap(); }", line)
        for line in text.splitlines()
        if line.endswith(") ;") and not line.startswith("typedef ")
    ]
    source.write_text(f'#include "{header}"\n' + "\n".join(bodies) + "\n")
    options = ["-g", "-shared", "-fPIC", "-o", str(library), str(source)]
    subprocess.run([*shlex.split(compiler), *options], check=True)
    return library


def abidiff(old: Path, new: Path) -> tuple[bool, str]:
    """Return whether abidiff finds two headers compatible, and its report."""
    with tempfile.TemporaryDirectory() as work:
        folders = [Path(work) / name for name in ("old", "new")]
        for folder in folders:
            folder.mkdir()
        libraries = [str(stub(header, at)) for header, at in zip((old, new), folders)]
        done = subprocess.run(["abidiff", *libraries], text=True, capture_output=True)
    return not done.returncode & ABIDIFF_BROKE, done.stdout + done.stderr


def _check(exact: bool, with_abidiff: bool) -> int:
    """Compare the header with each record that binds it, and say how it differs."""
    layout = layout_of(HEADER.read_text())
    failed = False
    for folder in (each for each in records() if promised(each, layout)):
        broken, added = compare(recorded(folder), layout)
        own = folder.name == version_of(layout)
        failed |= bool(broken) or (exact and own and bool(added))
        for line in broken:
            print(f"{folder.name}: BROKEN: {line}")
        for line in added:
            print(f"{folder.name}: added: {line}")
        if with_abidiff:
            compatible, report = abidiff(folder / HEADER.name, HEADER)
            failed |= not compatible
            print(f"{folder.name}: abidiff: {report.strip() or 'no difference'}")
    if failed:
        print(f"If the version is unreleased and this is meant: {WRITE}")
    return 1 if failed else 0


def main() -> int:
    """Do what the arguments say."""
    parser = argparse.ArgumentParser(prog="python -m release.abi", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    for name in ("exact", "write", "abidiff"):
        parser.add_argument(f"--{name}", action="store_true")
    arguments = parser.parse_args()
    if arguments.write:
        try:
            print(f"wrote {write(HEADER.read_text()).relative_to(ROOT)}")
        except ValueError as error:
            print(error, file=sys.stderr)
            return 1
        return 0
    found = shutil.which("abidiff") is not None
    if arguments.abidiff and not found:
        print("abidiff is not installed (Debian: abigail-tools): headers compared without it")
    return _check(arguments.exact, arguments.abidiff and found)


if __name__ == "__main__":
    sys.exit(main())
