# SPDX-License-Identifier: Apache-2.0
"""Run a C program on the library of the musl wheel, with the musl of this machine.

    python -m release.musl dist

Needs musl-gcc (Debian, Ubuntu: apt install musl-tools). The program is tests/abi/last_header.c,
which moves a block between two engines; no Python for musl is tried.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

from release.wheels import ROOT, ReleaseError, run

PROGRAM = ROOT / "tests" / "abi" / "last_header.c"


def try_program(wheels: Path) -> str:
    """Compile and run the program; return what it printed. Raises ReleaseError."""
    found = sorted(wheels.glob(f"*musllinux*_{platform.machine()}.whl"))
    if len(found) != 1:
        raise ReleaseError(f"{wheels} has {len(found)} wheels for musl and {platform.machine()}")
    with tempfile.TemporaryDirectory() as work:
        with zipfile.ZipFile(found[0]) as archive:
            archive.extractall(work)
        package = Path(work) / "llm_datadist"
        (library,) = package.glob("_native/lib/*_mock.so")
        program = Path(work) / "program"
        include = f"-I{package / 'include'}"
        # The C library itself is known to the loader under the name that the library has for it.
        link = [str(library), "-Wl,--allow-shlib-undefined", "-o", str(program)]
        run(["musl-gcc", "-std=c11", "-Wall", "-Wextra", include, str(PROGRAM), *link], ROOT)
        return run([str(program)], ROOT, LD_LIBRARY_PATH=str(library.parent))


def main() -> int:
    """Try the wheel in the folder that the argument names."""
    if len(sys.argv) != 2 or not os.path.isdir(sys.argv[1]):
        print(__doc__, file=sys.stderr)
        return 2
    if shutil.which("musl-gcc") is None:
        print("missing: musl-gcc (Debian, Ubuntu: apt install musl-tools)", file=sys.stderr)
        return 2
    try:
        print(f"musl, {platform.machine()}: {try_program(Path(sys.argv[1])).strip()}")
    except ReleaseError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
