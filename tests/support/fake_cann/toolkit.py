# SPDX-License-Identifier: Apache-2.0
"""Builds the fake CANN as a toolkit folder, and the Ascend library against it.

Both lie below build/ and are built again when a source changed. By hand, with the variables as its
output under which a process uses them (LLM_DATADIST_SANITIZE is heeded):

    python tests/support/fake_cann/toolkit.py
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

import llm_datadist
from llm_datadist._native import building, cann, compiler, declarations

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
BUILD = ROOT / "build" / "fake_cann"

# As CANN's: what its libraries export is seen, and its strings are those of the old ABI.
FLAGS = [
    *(flag for flag in building.COMPILE_FLAGS if "visibility" not in flag),
    compiler.WERROR,
    "-D_GLIBCXX_USE_CXX11_ABI=0",
    f"-I{HERE / 'include'}",
]
# Name, sources, and the libraries of the fake that it needs.
LIBRARIES = (
    ("acl_rt", ("acl.cc",), ()),
    ("metadef", ("metadef.cc",), ()),
    ("hcomm", ("hcomm.cc",), ()),
    ("ascend_hal", ("hal.cc",), ()),
    ("cann_hixl", ("hixl.cc", "wire.cc"), ("metadef", "acl_rt")),
)


def toolkit() -> Path:
    """Return the root of the fake toolkit: what ASCEND_HOME_PATH names."""
    inputs = sorted(path for path in HERE.rglob("*") if path.suffix in (".cc", ".h"))
    digest = hashlib.sha256(" ".join([*compiler.find_compiler(), *FLAGS]).encode())
    for path in inputs:
        digest.update(f"{path.relative_to(HERE)}\n".encode() + path.read_bytes())
    # A folder for each state: who uses an older one keeps it.
    root = BUILD / digest.hexdigest()[:16]
    with compiler.exclusive(BUILD):
        if not root.exists():
            draft = BUILD / "draft"
            shutil.rmtree(draft, ignore_errors=True)
            shutil.copytree(HERE / "include", draft / "include")
            (draft / "lib64").mkdir()
            for name, sources, needed in LIBRARIES:
                _link(draft / "lib64", name, sources, needed)
            draft.rename(root)
    return root


def _link(folder: Path, name: str, sources: tuple[str, ...], needed: tuple[str, ...]) -> None:
    command = [
        *compiler.find_compiler(),
        *FLAGS,
        "-shared",
        "-Wl,--no-undefined",
        f"-Wl,-soname,lib{name}.so",
    ]
    command += [str(HERE / source) for source in sources]
    # As CANN's, none knows where the others are: whoever loads one of them has to.
    command += [f"-L{folder}", *(f"-l{library}" for library in needed)]
    command += ["-o", str(folder / f"lib{name}.so")]
    # A sanitizer that watches Python (tests/sanitizers) shall not watch the compiler.
    environment = {key: value for key, value in os.environ.items() if key != "LD_PRELOAD"}
    subprocess.run(command, env=environment, check=True)


def ascend_library(sanitize: Iterable[str] = ()) -> Path:
    """Return the Ascend library, built against the fake toolkit, which no sanitizer watches."""
    found = cann.find([cann.Place(toolkit(), "the fake CANN of the tests")])
    parsed = declarations.parse((ROOT / building.HEADER).read_text())
    generated = building.Generated(
        parsed.fingerprint, declarations.layout_source(parsed), llm_datadist.__version__
    )
    target = building.ascend(found)
    # Where setup.py builds it, too: what one of them compiled, the other has.
    build_dir = building.build_folder(ROOT, target, sanitize)
    output = build_dir / target.library
    building.build(target, ROOT, build_dir, output, generated, sanitize, werror=True)
    return output


def environment(sanitize: Iterable[str] = ()) -> dict[str, str]:
    """Return the variables under which a process uses the two, built if they have to be."""
    return {
        "LLM_DATADIST_BACKEND": str(ascend_library(sanitize)),
        "LLM_DATADIST_TEST_FAKE_CANN": "1",
        # Where CANN really is does not matter then.
        "ASCEND_HOME_PATH": str(toolkit()),
    }


if __name__ == "__main__":
    for name, value in environment(building.sanitizers_asked_for()).items():
        print(f"{name}={value}")
