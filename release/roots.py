# SPDX-License-Identifier: Apache-2.0
"""Install the wheels of a release into clean systems, and run their demo and selftest there.

    python -m release.roots dist                        all of them
    python -m release.roots dist bullseye-amd64 sid-amd64
    python -m release.roots dist bullseye-arm64 -- -k pull_blocks

A system is a Debian of debootstrap, unpacked once below build/roots and never written to: each run
has it under an overlay in memory, in mount, pid and user namespaces of its own. One of another
architecture is unpacked only, not configured, and runs under qemu-user. Needs root, Linux 6.7 for
the latter (binfmt_misc by namespace), and what ``missing()`` names; pip fetches what the wheel
depends on, for the Python of the system. Arguments after -- go to pytest, by way of selftest;
without them it is all of the selftest, and under the emulation EMULATED_TESTS.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from release.wheels import ROOT, ReleaseError, run

MIRROR = "http://deb.debian.org/debian"
# The extra "test", and what it needs below Python 3.11: pip reads markers for its own Python.
PACKAGES = ("hypothesis", "numpy", "cffi", "pytest", "pytest-mock", "pytest-xdist", "setuptools")
BACKPORTS = ("exceptiongroup", "tomli", "typing_extensions", "colorama", "sortedcontainers")
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
# The emulation is slow, and has no process_vm_readv.
EMULATED_TESTS = ("-k", "test_pull_blocks and tcp")
GLIBCS = ("2014", "_2_17", "_2_27", "_2_28")
# The magic of an ELF file for aarch64, with a mask, as binfmt_misc wants them.
BINFMT = (
    r":qemu-aarch64:M::\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
    r":\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:{qemu}:F"
)
INSIDE = """
echo "$(ldd --version 2>/dev/null | head -n 1), $(python3 --version), $(uname -m)"
python3 -m venv /tmp/venv
/tmp/venv/bin/pip -q --disable-pip-version-check install --no-index \
    --find-links /wheels --find-links /needed 'llm-datadist-cffi[test]'
cd /tmp
venv/bin/llm-datadist demo --blocks 16
venv/bin/llm-datadist selftest -- -q -p no:cacheprovider "$@"
"""
# $1 the system, $2 an empty folder, $3 wheels, $4 what they need, $5 a line for binfmt_misc or
# nothing, $6 the script; the rest are its arguments.
AROUND = """
set -eu
system=$1 work=$2 wheels=$3 needed=$4 binfmt=$5 script=$6; shift 6
mount -t tmpfs tmpfs "$work"
mkdir "$work/upper" "$work/work" "$work/root"
mount -t overlay overlay -o "lowerdir=$system,upperdir=$work/upper,workdir=$work/work" "$work/root"
cd "$work/root"
mount -t proc proc proc
mount --rbind /dev dev
mount --rbind /sys sys
mkdir wheels needed
mount --bind "$wheels" wheels
mount --bind "$needed" needed
echo '127.0.0.1 localhost' > etc/hosts
[ -e etc/passwd ] || echo 'root:x:0:0:root:/root:/bin/sh' > etc/passwd
if [ -n "$binfmt" ]; then
    mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
    printf '%s' "$binfmt" > /proc/sys/fs/binfmt_misc/register
fi
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 \
    chroot . /bin/sh -euc "$script" sh "$@"
"""


class System(NamedTuple):
    """A clean Debian: which release, for which architecture, and the version of its Python."""

    suite: str
    architecture: str
    python: str

    @property
    def name(self) -> str:
        """What it is called on the command line."""
        return f"{self.suite}-{self.architecture}"

    @property
    def machine(self) -> str:
        """What uname calls the architecture."""
        return MACHINES[self.architecture]

    @property
    def emulated(self) -> bool:
        """Whether this machine cannot run its programs itself."""
        return self.machine != platform.machine()


SYSTEMS = (
    System("bullseye", "amd64", "3.9"),
    System("sid", "amd64", "3.14"),
    System("bullseye", "arm64", "3.9"),
    System("sid", "arm64", "3.14"),
)


def missing(systems: list[System]) -> list[str]:
    """Return what this machine lacks to run the systems, each with what it is for."""
    found = []
    if os.geteuid() != 0:
        found.append("root (to mount and to change the root)")
    tools = {"debootstrap": "the systems", "unshare": "their namespaces"}
    if any(system.emulated for system in systems):
        tools["qemu-aarch64-static"] = "aarch64; Debian: qemu-user-static"
    found += [f"{name} ({use})" for name, use in tools.items() if shutil.which(name) is None]
    return found


def unpack(system: System, folder: Path) -> Path:
    """Return the system's root; debootstrap it unless an earlier run did."""
    target = folder / system.name
    if target.exists():
        return target
    draft = folder / f"{system.name}.new"
    shutil.rmtree(draft, ignore_errors=True)
    command = ["debootstrap", "--variant=minbase", "--include=python3,python3-venv"]
    if system.emulated:
        command += ["--foreign", f"--arch={system.architecture}"]
    run([*command, system.suite, str(draft), MIRROR], ROOT)
    if system.emulated:
        # debootstrap's second stage would run thousands of programs under the emulation.
        for package in sorted((draft / "var/cache/apt/archives").glob("*.deb")):
            run(["dpkg-deb", "--extract", str(package), str(draft)], ROOT)
    return draft.rename(target)


def fetch(system: System, folder: Path) -> Path:
    """Have pip download what the wheel needs, for the system's Python; return the folder."""
    target = folder / f"{system.name}-wheels"
    version = system.python.replace(".", "")
    chosen = [f"--platform=manylinux{glibc}_{system.machine}" for glibc in GLIBCS]
    abis = [f"--abi={abi}" for abi in (f"cp{version}", "abi3", "none")]
    command = [sys.executable, "-m", "pip", "-q", "download", "--only-binary=:all:"]
    command += [f"--python-version={system.python}", "--implementation=cp", *chosen, *abis]
    for packages in (PACKAGES, BACKPORTS):
        run([*command, f"--dest={target}", *packages], ROOT)
    return target


def try_in(system: System, wheels: Path, folder: Path, pytest: list[str]) -> None:
    """Install the wheel in the system, run demo and selftest, and pass on what they print."""
    root, needed = unpack(system, folder), fetch(system, folder)
    namespaces = ["--mount", "--pid", "--fork", "--kill-child"]
    binfmt = ""
    if system.emulated:
        pytest = pytest or [*EMULATED_TESTS]
        namespaces += ["--user", "--map-root-user"]
        binfmt = BINFMT.format(qemu=shutil.which("qemu-aarch64-static"))
    with tempfile.TemporaryDirectory() as work:
        places = [str(path.absolute()) for path in (root, Path(work), wheels, needed)]
        done = subprocess.run(
            ["unshare", *namespaces, "sh", "-c", AROUND, "sh", *places, binfmt, INSIDE, *pytest]
        )
    if done.returncode != 0:
        raise ReleaseError(f"{system.name}: the run ended with {done.returncode}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m release.roots", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    names = {system.name: system for system in SYSTEMS}
    parser.add_argument("wheels", type=Path, help="the folder that release.wheels filled")
    parser.add_argument("systems", nargs="*", metavar="SYSTEM", help=f"of {', '.join(names)}")
    parser.add_argument("--cache", type=Path, default=ROOT / "build" / "roots")
    cut = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    arguments = parser.parse_args(sys.argv[1:cut])
    arguments.pytest = sys.argv[cut + 1 :]
    if unknown := sorted({*arguments.systems} - {*names}):
        parser.error(f"no system {', '.join(unknown)}; legal are {', '.join(names)}")
    arguments.systems = [names[name] for name in arguments.systems or names]
    return arguments


def main() -> int:
    """Try the wheels in the systems that the arguments name."""
    arguments = _arguments()
    if lacking := missing(arguments.systems):
        print(f"missing: {', '.join(lacking)}", file=sys.stderr)
        return 2
    arguments.cache.mkdir(parents=True, exist_ok=True)
    for system in arguments.systems:
        emulation = ", emulated by qemu-user" if system.emulated else ""
        print(f"== {system.name}, Python {system.python}{emulation}", flush=True)
        began = time.monotonic()
        try:
            try_in(system, arguments.wheels, arguments.cache, arguments.pytest)
        except ReleaseError as error:
            print(error, file=sys.stderr)
            return 1
        print(f"== {system.name}: {time.monotonic() - began:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
