# SPDX-License-Identifier: Apache-2.0
"""Where this package's native libraries are, and the sources that they can be built from.

The mock library lies in the package. The Ascend library may, if the package was built on a machine
with CANN; otherwise ``llm-datadist build-ascend`` puts it into a folder of the user, since the
package may be read-only. That folder's name has the version, the fingerprint of the declarations,
a digest of the sources and the machine in it, so a package never meets the library of another one.
A library that was built against another CANN than the one it would meet is not used either.
"""

from __future__ import annotations

import glob
import os
from pathlib import Path

from llm_datadist._native import cann, loader
from llm_datadist._native.loader import NativeLibrary, NativeLibraryError
from llm_datadist._version import __version__

AGAIN = "run 'llm-datadist build-ascend' again"
_NATIVE = os.path.dirname(os.path.abspath(__file__))
PACKAGED = os.path.join(_NATIVE, "lib")


def file_name(name: str) -> str:
    """Return the name of the library's file."""
    return f"libllm_datadist_{name}.so"


def packaged(name: str) -> str:
    """Return the path at which the package has the library, if it has it."""
    return os.path.join(PACKAGED, file_name(name))


def user_folder() -> str | None:
    """Return the folder of this user for what ``build-ascend`` makes for this package.

    Below ``XDG_CACHE_HOME``, by default ``~/.cache``; None if the user has no home either.

    Raises:
        NativeLibraryError: the declarations were not generated.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):
        base = os.path.expanduser("~/.cache")
    if not os.path.isabs(base):
        return None
    key = f"{__version__}-{fingerprint():016x}-{sources():016x}-{os.uname().machine}"
    return os.path.join(base, "llm-datadist", key)


def fingerprint() -> int:
    """Return the fingerprint of the declarations that this package calls libraries by.

    Raises:
        NativeLibraryError: they were not generated.
    """
    return int(loader.declarations().FINGERPRINT)


def sources() -> int:
    """Return the digest of the sources that this package was built from.

    Raises:
        NativeLibraryError: it was not generated.
    """
    declarations = loader.declarations()
    if not hasattr(declarations, "SOURCES"):
        raise NativeLibraryError(
            f"{declarations.__name__} is of an older build, without the digest of the sources; "
            f"{loader.ADVICE}"
        )
    return int(declarations.SOURCES)


def of_other_builds(name: str) -> list[str]:
    """Return the libraries that ``build-ascend`` made of other sources, for this machine.

    Raises:
        NativeLibraryError: the declarations were not generated.
    """
    folder = user_folder() if name == "ascend" else None
    if folder is None:
        return []
    parent, key = os.path.split(folder)
    here = f"*-{glob.escape(os.uname().machine)}"
    found = glob.glob(os.path.join(glob.escape(parent), here, file_name(name)))
    return sorted(path for path in found if os.path.basename(os.path.dirname(path)) != key)


def candidates(name: str) -> list[str]:
    """Return the paths that have the library, the one to try first in front.

    If none has, this is the path in the package, so that loading it says what is missing.

    Raises:
        NativeLibraryError: the declarations were not generated.
    """
    paths = [packaged(name)]
    folder = user_folder() if name == "ascend" else None
    if folder is not None:
        paths.append(os.path.join(folder, file_name(name)))
    return [path for path in paths if os.path.exists(path)] or paths[:1]


def load(name: str) -> NativeLibrary:
    """Load the first candidate that fits this package.

    Raises:
        NativeLibraryError: none does; the text says what is wrong with each.
    """
    failures = []
    for path in candidates(name):
        try:
            if os.path.exists(path):
                _check_owner(path)
                _check_toolkit(path)
            elif others := of_other_builds(name):
                raise NativeLibraryError(
                    f"{path}: {loader.ABSENT}, and {others[0]} was made from the sources of "
                    f"another build of this package; {AGAIN}",
                    path=path,
                )
            return loader.load(path)
        except NativeLibraryError as error:
            failures.append(error)
    if len(failures) == 1:
        raise failures[0]
    raise NativeLibraryError("; ".join(map(str, failures)), path=failures[0].path)


def source_tree() -> Path | None:
    """Return the folder that has ``csrc``: in an installed package, or in a checkout."""
    packaged_sources = Path(_NATIVE) / "src"
    checkout = Path(_NATIVE).parent.parent
    for tree in (packaged_sources, checkout):
        if (tree / "csrc" / "exports.map").is_file():
            return tree
    return None


def why_outdated(library: str) -> str:
    """Say which CANN a library was built against and which other one it would meet; "" if none."""
    built = cann.built_against(library)
    changed = "" if built is None else cann.what_changed(built)
    return changed and f"it was built against {built}, and {changed}"


def _check_toolkit(library: str) -> None:
    """Refuse a library that was built against another CANN: C++ passes between the two."""
    outdated = why_outdated(library)
    if outdated:
        raise NativeLibraryError(f"{library}: is not used, since {outdated}; {AGAIN}", path=library)


def _check_owner(library: str) -> None:
    """Refuse to load what another user could have put into the user's folder."""
    if os.path.dirname(library) == PACKAGED:
        return
    for path in (os.path.dirname(library), library):
        found = os.stat(path)
        if found.st_uid not in (0, os.geteuid()) or found.st_mode & 0o022:
            raise NativeLibraryError(
                f"{library}: is not used, since {path} belongs to another user (uid "
                f"{found.st_uid}) or others may write to it (mode {found.st_mode & 0o777:o})",
                path=library,
            )
