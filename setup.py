# SPDX-License-Identifier: Apache-2.0
"""Builds the native libraries and the cffi declarations; everything else is in pyproject.toml.

setuptools can build extension modules, which are tied to one Python version, but not a plain
shared library. So one command of our own, ``build_native``, takes part in ``build``: it compiles
and links what ``llm_datadist/_native/building.py`` describes, and generates ``_ffi.py`` from the
header, with ``_ffi.pyi`` for checkers of types. Developers run it alone:

    python setup.py build_native --inplace

Environment, beside what compiler.py reads:
    LLM_DATADIST_BUILD_ASCEND  1: also the library for Ascend devices, or fail; 0: not that one;
                               default: if a CANN toolkit is found
    LLM_DATADIST_SANITIZE      "address,undefined" or "thread": libraries beside the normal ones
    LLM_DATADIST_BUILD_OUTPUT  where such a mock library goes (default: under build/native/)
"""

from __future__ import annotations

import importlib
import os
import re
import shutil
import sys
from pathlib import Path
from types import ModuleType

from setuptools import Command, Distribution, __version__, setup

if int(__version__.partition(".")[0]) < 77:
    # An older one would complain of pyproject.toml, in words that do not say what to do.
    raise SystemExit(
        f"setup.py needs setuptools 77 or later, not {__version__}: pip install 'setuptools>=77'"
    )

from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build import build
from setuptools.errors import PlatformError

ROOT = Path(__file__).resolve().parent


def load_native(name: str):
    """Import a module of ``llm_datadist._native`` without the packages around it."""
    if "lldd_native" not in sys.modules:
        package = ModuleType("lldd_native")
        package.__path__ = [str(ROOT / "llm_datadist" / "_native")]
        sys.modules["lldd_native"] = package
    return importlib.import_module(f"lldd_native.{name}")


building = load_native("building")
cann = load_native("cann")
compiler = load_native("compiler")
declarations = load_native("declarations")
stubs = load_native("stubs")

HEADER = ROOT / building.HEADER
# Where they are in a package that was built.
SOURCES = "_native/src"
SUITE = "testing/suite"


def long_description(readme: str) -> str:
    """Return README.md as an index shows it: with the names of files in place of links to them."""

    def named(link: re.Match[str]) -> str:
        text, file = link[1], link[2].partition("#")[0]
        return f"`{file}`" if text == file else f"{text} (`{file}`)"

    return re.sub(r"\[([^\]]+)\]\((?!https?://)([^)\s]+)\)", named, readme)


def ascend_target():
    """Return the Ascend library as a target, or None; say why."""
    asked = os.environ.get("LLM_DATADIST_BUILD_ASCEND", "")
    if asked not in ("", "0", "1"):
        raise PlatformError(f"LLM_DATADIST_BUILD_ASCEND must be 0, 1 or empty, not {asked!r}")
    if asked == "0":
        print("no Ascend library: LLM_DATADIST_BUILD_ASCEND is 0", flush=True)
        return None
    try:
        toolkit = cann.find()
        target = building.ascend(toolkit)
        target.sources(ROOT)
    except (cann.ToolkitError, compiler.BuildError) as error:
        if asked:
            raise PlatformError(f"LLM_DATADIST_BUILD_ASCEND is 1, but {error}") from error
        print(f"no Ascend library: {error}", flush=True)
        return None
    print(f"CANN toolkit: {toolkit.root} ({toolkit.reason})", flush=True)
    return target


class build_native(Command):
    """Compile the native libraries and generate the declarations that load them."""

    description = "build the native libraries and their cffi declarations"
    user_options = [  # noqa: RUF012 - declared like this by setuptools
        ("inplace", "i", "put the results into the source tree, for an editable install"),
        ("build-lib=", "b", "where the package is put together"),
        ("library-dir=", None, "where the libraries go (default: _native/lib of the package)"),
    ]
    boolean_options = ["inplace"]  # noqa: RUF012

    def initialize_options(self) -> None:
        """Start with nothing chosen; setuptools sets editable_mode for ``pip install -e``."""
        self.inplace = False
        self.editable_mode = False
        self.build_lib = None
        self.library_dir = None

    def finalize_options(self) -> None:
        """Take over what the ``build`` command knows."""
        self.set_undefined_options("build", ("build_lib", "build_lib"))

    def run(self) -> None:
        """Build libraries and ``_ffi.py``; copy what an installed package needs."""
        try:
            building.check_platform()
            sanitize = building.sanitizers_asked_for()
        except compiler.BuildError as error:
            raise PlatformError(str(error)) from error
        targets = [building.MOCK]
        ascend = ascend_target()
        if ascend is not None:
            targets.append(ascend)

        parsed = declarations.parse(HEADER.read_text())
        package = self._package_dir()
        sources = building.sources_digest(ROOT)
        self._write_ffi(parsed, sources, package / "_native" / "_ffi.py")
        building.write_if_changed(package / "_native" / "_ffi.pyi", stubs.stub(parsed))
        generated = building.Generated(
            parsed.fingerprint, declarations.layout_source(parsed), self.distribution.get_version()
        )
        for target in targets:
            build_dir = building.build_folder(ROOT, target, sanitize)
            output = self._output(target, build_dir, bool(sanitize))
            try:
                building.build(target, ROOT, build_dir, output, generated, sanitize)
            except compiler.BuildError as error:
                raise PlatformError(f"{target.library}: {error}{self._way_out(target)}") from error
            print(f"built {output}", flush=True)
        if self._in_tree() and not sanitize:
            building.write_commands(ROOT, [building.build_folder(ROOT, each) for each in targets])
        if ascend is None and not sanitize and not self.library_dir:
            # What an earlier build left would be used, or go into the wheel.
            for left in (package / "_native" / "lib").glob("*_ascend.so"):
                left.unlink()
                print(f"removed {left}, which an earlier build left", flush=True)
        if not self._in_tree():
            # A source that is gone would be compiled on the device host.
            for folder in (SOURCES, SUITE):
                shutil.rmtree(package / folder, ignore_errors=True)
            for source, name in self._copies():
                compiler.write_if_changed(package / name, source.read_text())

    @staticmethod
    def _copies() -> list[tuple[Path, str]]:
        """Return what a package that is not in the tree has of it, and where in the package.

        The header is for those who call the library from C, the sources are what ``build-ascend``
        compiles on a device host, the suite with pytest's configuration is what ``selftest`` runs.
        """
        files = building.packaged_sources(ROOT)
        sources = [(path, f"{SOURCES}/{path.relative_to(ROOT)}") for path in files]
        # With the package around it, since its modules import each other by their full names.
        tests = [ROOT / "tests" / "__init__.py", *(ROOT / "tests" / "conformance").glob("*.py")]
        suite = [
            (path, f"{SUITE}/{path.relative_to(ROOT)}")
            for path in [*sorted(tests), ROOT / "pyproject.toml"]
        ]
        return [(HEADER, f"include/{HEADER.name}"), *sources, *suite]

    @staticmethod
    def _way_out(target) -> str:
        """Say how to do without a library that was not asked for."""
        if target is building.MOCK or os.environ.get("LLM_DATADIST_BUILD_ASCEND"):
            return ""
        return "\nLLM_DATADIST_BUILD_ASCEND=0 builds the package without this library."

    def _output(self, target, build_dir: Path, sanitized: bool) -> Path:
        chosen = os.environ.get("LLM_DATADIST_BUILD_OUTPUT")
        if self.library_dir:
            return Path(self.library_dir).absolute() / target.library
        if not sanitized:
            return self._package_dir() / "_native" / "lib" / target.library
        if chosen and target is building.MOCK:
            return Path(chosen).absolute()
        return build_dir / target.library

    def get_source_files(self) -> list[str]:
        """List what a source distribution needs for this command."""
        patterns = ("csrc/**/*.cc", "csrc/**/*.h", "csrc/*.map", "mock_runtime/*")
        found = {path for pattern in patterns for path in ROOT.glob(pattern) if path.is_file()}
        return sorted(str(path.relative_to(ROOT)) for path in found)

    def get_outputs(self) -> list[str]:
        """List what this command creates."""
        package = self._package_dir()
        names = ["_native/_ffi.py", "_native/_ffi.pyi"]
        names += [str(path.relative_to(package)) for path in package.glob("_native/lib/*.so")]
        if not self._in_tree():
            names += [name for _, name in self._copies()]
        return [str(package / name) for name in names]

    def get_output_mapping(self) -> dict[str, str]:
        """Say which outputs are copies of source files, for editable installs: none."""
        return {}

    def _in_tree(self) -> bool:
        return bool(self.inplace or self.editable_mode)

    def _package_dir(self) -> Path:
        return ROOT / "llm_datadist" if self._in_tree() else Path(self.build_lib) / "llm_datadist"

    @staticmethod
    def _write_ffi(parsed, sources: int, path: Path) -> None:
        """Write the out-of-line ABI-mode module of cffi, with two numbers at its end."""
        try:
            from cffi import FFI
        except ImportError as error:
            raise PlatformError(
                f"the build writes declarations with cffi, which is missing ({error}): "
                "pip install 'cffi>=1.15', from a file where no index can be reached"
            ) from error
        ffi = FFI()
        ffi.set_source("llm_datadist._native._ffi", None)
        ffi.cdef(parsed.text)
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f"_ffi.{os.getpid()}.new")
        ffi.emit_python_code(str(draft))
        text = draft.read_text() + f"FINGERPRINT = {parsed.fingerprint:#018x}\n"
        # Here, so that no import has to read all sources.
        text += f"SOURCES = {sources:#018x}\n"
        draft.unlink()
        compiler.write_if_changed(path, text)


class build_with_native(build):
    """The usual build, and then the native library."""

    sub_commands = [*build.sub_commands, ("build_native", None)]  # noqa: RUF012


class platform_wheel(bdist_wheel):
    """A wheel for one platform and every Python: it has a library, but no extension module."""

    def get_tag(self) -> tuple[str, str, str]:
        """Return py3-none-<platform>."""
        return "py3", "none", super().get_tag()[2]


class PlatformDistribution(Distribution):
    """A distribution that goes to platlib."""

    def has_ext_modules(self) -> bool:
        """Say that the files depend on the platform."""
        return True


if __name__ == "__main__":
    setup(
        long_description=long_description((ROOT / "README.md").read_text(encoding="utf-8")),
        long_description_content_type="text/markdown",
        distclass=PlatformDistribution,
        cmdclass={
            "build": build_with_native,
            "build_native": build_native,
            "bdist_wheel": platform_wheel,
        },
    )
