# SPDX - License - Identifier : Apache - 2.0
"""Builds the fake CANN as a toolkit folder for each version of HIXL, and the Ascend library against
one of them.

All lie below build/ and are built again when a source changed. The variable FAKE_CANN_HIXL says
which version a process gets: 8.5.0, 9.0.0 or 9.1.0, which is the default. By hand, with the
variables as its output under which a process uses them (LLM_DATADIST_SANITIZE is heeded):

    python -m tests.support.fake_cann.toolkit
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
# As FAKE_HIXL has them.
VERSIONS = {"8.5.0": 850, "9.0.0": 900, "9.1.0": 910}
NEWEST = "9.1.0"
# Name, sources, and the libraries of the fake that it needs : what all versions share.
LIBRARIES = (
    ("acl_rt", ("acl.cc",), ()),
    ("metadef", ("metadef.cc",), ()),
    ("hcomm", ("hcomm.cc",), ()),
    ("ascend_hal", ("hal.cc",), ()),
)
HIXL = (
    *("hixl.cc", "engine.cc", "client.cc", "server.cc"),
    *("registry.cc", "options.cc", "traits.cc", "wire.cc"),
)
# Engines that are linked must be on different devices, so tests take them in turn.
DEVICES = 32
# What the original waits for takes a hundredth of the time.
WAITS = "0.01"


def chosen() -> str:
    """Return the version of HIXL that the environment asks for."""
    version = os.environ.get("FAKE_CANN_HIXL") or NEWEST
    if version not in VERSIONS:
        raise ValueError(f"FAKE_CANN_HIXL is {version!r}; there are {', '.join(VERSIONS)}")
    return version


def toolkit(version: str = "") -> Path:
    """Return the root of the fake toolkit with that version: what ASCEND_HOME_PATH names."""
    version = version or chosen()
    # A folder for each state : who uses an older one keeps it.
    base = BUILD / _digest(HERE)
    root = base / version
    with compiler.exclusive(BUILD):
        if not root.exists():
            draft = BUILD / "draft"
            shutil.rmtree(draft, ignore_errors=True)
            (draft / "lib64").mkdir(parents=True)
            shared = base / "shared"
            if not shared.exists():
                for name, sources, needed in LIBRARIES:
                    _link(draft / "lib64", name, sources, needed)
                base.mkdir(parents=True, exist_ok=True)
                shutil.copytree(draft / "lib64", shared)
            shutil.copytree(HERE / "include", draft / "include")
            shutil.copytree(shared, draft / "lib64", dirs_exist_ok=True)
            flag = f"-DFAKE_HIXL={VERSIONS[version]}"
            _link(draft / "lib64", "cann_hixl", HIXL, ("metadef", "acl_rt"), flag)
            (draft / "version.info").write_text(f"Version={version}\n")
            draft.rename(root)
    return root


def linked_against() -> Path:
    """Return a toolkit that stays where it is while its headers are the same.

    What is compiled against it need not be compiled again when the fake changes: a process gets the
    libraries from here, too, which are those of the newest state.
    """
    root = toolkit(NEWEST)
    stable = BUILD / f"against-{_digest(HERE / 'include')}"
    with compiler.exclusive(BUILD):
        for path in sorted(path for path in root.rglob("*") if path.is_file()):
            copy = stable / path.relative_to(root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            if not copy.exists() or copy.stat().st_mtime != path.stat().st_mtime:
                shutil.copy2(path, copy.with_suffix(".new"))
                copy.with_suffix(".new").rename(copy)
    return stable


def _digest(folder: Path) -> str:
    digest = hashlib.sha256(" ".join([*compiler.find_compiler(), *FLAGS]).encode())
    for path in sorted(path for path in folder.rglob("*") if path.suffix in (".cc", ".h")):
        digest.update(f"{path.relative_to(folder)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _link(
    folder: Path, name: str, sources: tuple[str, ...], needed: tuple[str, ...], *more: str
) -> None:
    command = [
        *compiler.find_compiler(),
        *FLAGS,
        *more,
        "-shared",
        "-Wl,--no-undefined",
        f"-Wl,-soname,lib{name}.so",
    ]
    command += [str(HERE / source) for source in sources]
    # As CANN's, none knows where the others are: whoever loads one of them has to.
    command += [f"-L{folder}", *(f"-l{library}" for library in needed)]
    command += ["-o", str(folder / f"lib{name}.so")]
    # A sanitizer that watches Python(tests / sanitizers) shall not watch the compiler.
    environment = {key: value for key, value in os.environ.items() if key != "LD_PRELOAD"}
    subprocess.run(command, env=environment, check=True)


def ascend_library(sanitize: Iterable[str] = ()) -> Path:
    """Return the Ascend library, built against the fake toolkit, which no sanitizer watches.

    One for all versions, as one is for all of CANN's since 8.5.
    """
    found = cann.find([cann.Place(linked_against(), "the fake CANN of the tests")])
    parsed = declarations.parse((ROOT / building.HEADER).read_text())
    generated = building.Generated(
        parsed.fingerprint, declarations.layout_source(parsed), llm_datadist.__version__
    )
    target = building.ascend(found)
    # Where setup.py builds it, too : what one of them compiled, the other has.
    build_dir = building.build_folder(ROOT, target, sanitize)
    output = build_dir / target.library
    building.build(target, ROOT, build_dir, output, generated, sanitize, werror=True)
    return output


def environment(sanitize: Iterable[str] = ()) -> dict[str, str]:
    """Return the variables under which a process uses the two, built if they have to be."""
    return {
        "LLM_DATADIST_BACKEND": str(ascend_library(sanitize)),
        "LLM_DATADIST_TEST_FAKE_CANN": "1",
        **surroundings(),
    }


def surroundings(version: str = "") -> dict[str, str]:
    """Return the variables that are not about the library: as CANN's script would set them."""
    root = toolkit(version)
    folders = [str(root / "lib64"), os.environ.get("LD_LIBRARY_PATH", "")]
    return {
        # Where CANN really is does not matter then.
        "ASCEND_HOME_PATH": str(root),
        "LD_LIBRARY_PATH": os.pathsep.join(filter(None, folders)),
        "FAKE_CANN_WAITS": os.environ.get("FAKE_CANN_WAITS") or WAITS,
        "FAKE_CANN_DEVICES": str(DEVICES),
        "LLM_DATADIST_TEST_DEVICES": ",".join(map(str, range(DEVICES))),
    }


if __name__ == "__main__":
    for name, value in environment(building.sanitizers_asked_for()).items():
        print(f"{name}={value}")
