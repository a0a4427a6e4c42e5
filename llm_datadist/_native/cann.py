# SPDX-License-Identifier: Apache-2.0
"""Where the CANN toolkit of this machine is, what of it is missing, and whether a library was built
against another one.

setup.py loads this file by its path before the package exists, so it imports nothing but the
standard library.
"""

from __future__ import annotations

import glob
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

# The first that is set decides alone: a user who names a toolkit does not want another one.
VARIABLES = ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME")
USUAL_ROOTS = ("/usr/local/Ascend/cann", "/usr/local/Ascend/ascend-toolkit/latest")
DRIVER_FOLDERS = ("/usr/local/Ascend/driver/lib64/driver", "/usr/local/Ascend/driver/lib64")
DRIVER_VERSION = "/usr/local/Ascend/driver/version.info"
DEVICE_PATTERN = "/dev/davinci*"

HEADERS = ("hixl/hixl.h", "acl/acl.h")
# Each line is one library, under the names that it has had; the newest first.
# metadef has the strings of the interface of cann_hixl.
LIBRARIES = (("cann_hixl",), ("metadef",), ("acl_rt", "ascendcl"), ("ascend_hal",))

# In front of what a library tells of its toolkit, in the file of the library.
_RECORD = "LLDD_BUILT_AGAINST="

_VERSION_FILES = ("version.cfg", "version.info", "*/version.info", "*/*/version.info", "*/*.info")
_VERSION_LINE = re.compile(r"^\s*(?:\w*_)?version\s*=\s*\[?([^\]\s:]+)", re.I | re.M)


class ToolkitError(Exception):
    """There is no toolkit that one could build against; the text says what was looked for."""


class Place(NamedTuple):
    """A folder that a toolkit may be in, and what makes one think so."""

    root: Path
    reason: str


class Toolkit(NamedTuple):
    """A toolkit with everything that the Ascend library is built from."""

    root: Path
    reason: str
    include: Path
    # Name for the linker, and the folder that the library is in.
    libraries: tuple[tuple[str, Path], ...]
    # Under the name by which it was found, which may be that of another release one day.
    place: Path

    @property
    def library_folders(self) -> list[Path]:
        """The folders to search, in the order in which the libraries were found."""
        return list(dict.fromkeys(folder for _, folder in self.libraries))

    @property
    def runtime_folders(self) -> list[Path]:
        """The folders that a process loads from: a stub is for linking only.

        Those of the driver are always among them, even if there is none where this is built.
        """
        own = [folder for folder in self.library_folders if folder.name == "lib64"]
        return list(dict.fromkeys([*own, *map(Path, DRIVER_FOLDERS)]))

    @property
    def record(self) -> str:
        """What a library that is built against it is to have in it, for built_against()."""
        told = {"place": str(self.place), "root": str(self.root), "version": version(self.root)}
        return _RECORD + json.dumps(told)


class Built(NamedTuple):
    """The toolkit that a library was built against: as it was then."""

    place: Path
    root: Path
    version: str

    def __str__(self) -> str:
        return in_words(self.root, self.version)


def places(environ: Mapping[str, str] = os.environ) -> list[Place]:
    """Return where a toolkit to build against may be, whether or not anything is there."""
    return _named(environ)[:1] or _usual()


def present(environ: Mapping[str, str] = os.environ) -> list[Place]:
    """Return every place at which there is a folder: a toolkit, or what was one."""
    return [place for place in [*_named(environ), *_usual()] if place.root.is_dir()]


def find(candidates: Iterable[Place] | None = None) -> Toolkit:
    """Return the first toolkit that has all that a build needs.

    Args:
        candidates: where to look; None: in :func:`places`.

    Raises:
        ToolkitError: there is none; the text says for each place what is missing.
    """
    complaints = []
    for place in places() if candidates is None else candidates:
        missing, libraries = _look(place.root)
        if not missing:
            # "latest" is a link: what was compiled against one release is not taken for another.
            root = place.root.resolve()
            return Toolkit(root, place.reason, root / "include", tuple(libraries), place.root)
        complaints.append(f"{place.root} ({place.reason}) {missing}")
    raise ToolkitError(
        f"no CANN toolkit to build against: {'; '.join(complaints)}. Install CANN 8.5 or later, or "
        f"name the folder that it is in with {VARIABLES[0]}"
    )


def devices() -> list[str]:
    """Return the device files of the driver; more than those of devices, if there are any."""
    return sorted(glob.glob(DEVICE_PATTERN))


def version(root: Path) -> str:
    """Return the version that a toolkit says it has, "" if it does not say."""
    for pattern in _VERSION_FILES:
        for path in sorted(root.glob(pattern)):
            try:
                text = path.read_text(errors="replace")
            except OSError:
                continue  # a file of another user: the next one may do
            found = version_in(text)
            if found:
                return found
    return ""


def version_in(text: str) -> str:
    """Return the version that the text of such a file tells, "" if it tells none."""
    found = _VERSION_LINE.search(text)
    return found.group(1) if found else ""


def in_words(root: Path, version: str) -> str:
    """Return a toolkit for a sentence."""
    return f"CANN {version or 'of unknown version'} in {root}"


def built_against(library: str) -> Built | None:
    """Return the toolkit that a library was built against; None: it does not say."""
    try:
        content = Path(library).read_bytes()
    except OSError:
        return None  # loading it says why
    _, mark, rest = content.partition(_RECORD.encode())
    if not mark:
        return None
    told = json.loads(rest.partition(b"\0")[0])
    return Built(Path(told["place"]), Path(told["root"]), told["version"])


def what_changed(built: Built, environ: Mapping[str, str] = os.environ) -> str:
    """Say which other toolkit a library that was built against that one would meet; "" if none.

    That is the toolkit which the environment names, since its script sets the path of libraries,
    too, else the one that is where the library's was. Releases of one version are not told apart.
    """
    for root, reason in [*_named(environ)[:1], Place(built.place, "where it was")]:
        if root.is_dir():
            now = Built(root, root.resolve(), version(root))
            both = built.version and now.version
            same = built.version == now.version if both else built.root == now.root
            told = now if now.root != root else f"CANN {now.version or 'of unknown version'}"
            return "" if same else f"{root} ({reason}) is {told} now"
    return ""


def folders_of(root: Path, name: str) -> list[Path]:
    """Return the folders that have this library of a toolkit, the one to take first in front."""
    return _folders(root, name)


def _named(environ: Mapping[str, str]) -> list[Place]:
    return [Place(Path(environ[name]), f"${name}") for name in VARIABLES if environ.get(name)]


def _usual() -> list[Place]:
    return [Place(Path(root), "the usual place") for root in USUAL_ROOTS]


def _look(root: Path) -> tuple[str, list[tuple[str, Path]]]:
    """Return what is missing, in words ("" if nothing is), and where the libraries are."""
    if not root.is_dir():
        return "does not exist", []
    lacking = [f"include/{name}" for name in HEADERS if not (root / "include" / name).is_file()]
    libraries = []
    for names in LIBRARIES:
        found = [(name, folder) for name in names for folder in _folders(root, name)]
        if found:
            libraries.append(found[0])
        else:
            lacking.append(" or ".join(f"lib64/lib{name}.so" for name in names))
    return (f"lacks {', '.join(lacking)}" if lacking else ""), libraries


def _folders(root: Path, name: str) -> list[Path]:
    """Return the folders with that library, the one of the toolkit's own libraries first."""
    target = root.resolve() / f"{os.uname().machine}-linux"
    folders = [root.resolve() / "lib64", target / "lib64", target / "devlib"]
    folders += [Path(folder) for folder in DRIVER_FOLDERS]
    return [folder for folder in folders if (folder / f"lib{name}.so").is_file()]
