# SPDX-License-Identifier: Apache-2.0
"""The header stands alone in C and C++, and keeps the rules that the binding relies on."""

from __future__ import annotations

import re
import sysconfig
from pathlib import Path

import cffi
import pytest

WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Werror"]


@pytest.fixture(scope="module")
def ffi(parsed):
    ffi = cffi.FFI()
    ffi.cdef(parsed.text)
    return ffi


@pytest.fixture(scope="module")
def structs(ffi, parsed):
    return {struct.name: ffi.typeof(struct.name) for struct in parsed.structs}


def test_compiles_alone_as_c11(cc):
    result = cc("-std=c11", *WARNINGS, "-fsyntax-only", source="#include <llm_datadist.h>\n")
    assert result.returncode == 0, result.stderr


def test_compiles_alone_as_cxx17(cxx):
    source = "#include <llm_datadist.h>\nint main() { return 0; }\n"
    result = cxx(
        "-std=c++17", *WARNINGS, "-Wold-style-cast", "-fsyntax-only", "-x", "c++", source=source
    )
    assert result.returncode == 0, result.stderr


def test_may_be_included_twice(cc):
    source = "#include <llm_datadist.h>\n#include <llm_datadist.h>\n"
    result = cc("-std=c11", *WARNINGS, "-fsyntax-only", source=source)
    assert result.returncode == 0, result.stderr


def test_every_macro_has_the_prefix(cc, header):
    with_it = cc("-std=c11", "-dM", "-E", source="#include <llm_datadist.h>\n").stdout
    without = cc("-std=c11", "-dM", "-E", source="#include <stdint.h>\n").stdout
    new = set(re.findall(r"#define (\w+)", with_it)) - set(re.findall(r"#define (\w+)", without))
    assert new
    assert [name for name in new if not name.startswith(("LLDD_", "LLM_DATADIST_H_"))] == []


def test_declarations_compile_in_api_mode(cc, parsed, tmp_path):
    """The C compiler checks each declaration that cffi read against the header's own."""
    include = Path(sysconfig.get_paths()["include"])
    if not (include / "Python.h").exists():
        pytest.skip(f"the headers of Python are not installed: {include / 'Python.h'}")
    ffi = cffi.FFI()
    ffi.set_source("api_mode", '#include "llm_datadist.h"')
    ffi.cdef(parsed.text)
    source = tmp_path / "api_mode.c"
    ffi.emit_c_code(str(source))
    # What cffi generates has a few warnings of its own; what concerns types are errors.
    result = cc("-Wall", "-Werror", "-fPIC", f"-I{include}", "-c", source, "-o", tmp_path / "a.o")
    assert result.returncode == 0, result.stderr


def test_every_struct_starts_with_its_size(structs):
    firsts = {name: ctype.fields[0] for name, ctype in structs.items() if name != "lldd_field"}
    for name, (member, field) in firsts.items():
        assert (name, member, field.type.cname) == (name, "struct_size", "uint32_t")


def test_sizes_are_multiples_of_eight(ffi, structs):
    odd = {name: ffi.sizeof(ctype) for name, ctype in structs.items() if ffi.sizeof(ctype) % 8}
    assert odd == {}


def test_no_struct_has_hidden_padding(ffi, structs):
    """Every byte is a member, so zeroing members zeroes the struct and a tail can be checked."""
    for name, ctype in structs.items():
        end = 0
        for member, field in ctype.fields:
            assert field.offset == end, f"padding before {name}.{member}"
            end += ffi.sizeof(field.type)
        assert end == ffi.sizeof(ctype), f"padding at the end of {name}"


def test_only_plain_member_types(structs):
    plain = re.compile(
        r"u?int(32|64)_t(\[\d+\])?|(const )?(char|u?int64_t|lldd_\w+) \*|char\[\d+\]"
    )
    for name, ctype in structs.items():
        for member, field in ctype.fields:
            assert plain.fullmatch(field.type.cname) or field.type.cname == "lldd_status", (
                f"{name}.{member} is a {field.type.cname}"
            )


def test_every_name_has_the_prefix(parsed):
    assert all(function.name.startswith("lldd_") for function in parsed.functions)
    assert all(struct.name.startswith("lldd_") for struct in parsed.structs)
    assert all(name.startswith("LLDD_") for name in parsed.constants)


def test_every_function_is_documented(header, parsed):
    for name in (function.name for function in parsed.functions):
        declaration = re.search(rf"^\w[\w *]*\b{name}\(", header, re.MULTILINE)
        before = header[: declaration.start()].rstrip()
        assert before.endswith("*/"), f"{name} has no comment"


def test_nothing_is_pending(header):
    """No function is announced that a later release fills in."""
    assert "pending" not in header.lower()


def test_the_version_is_that_of_the_package(parsed):
    from llm_datadist._version import __version__

    major, minor = __version__.split(".")[:2]
    constants = parsed.constants
    assert (constants["LLDD_VERSION_MAJOR"], constants["LLDD_VERSION_MINOR"]) == (
        int(major),
        int(minor),
    )
