# SPDX-License-Identifier: Apache-2.0
"""From the C header to what the build needs: cffi declarations, a fingerprint, a layout table, and
the types of all of it for a checker of Python types.

Pure functions over text. setup.py loads this file by its path before the package exists, so it
imports nothing but the standard library.

The walk: ``region`` cuts out the marked part of the header, ``parse`` strips comments and spacing
and sorts its statements, and everything else is read off the result. Two headers that differ only
in comments or spacing have the same declarations and so the same fingerprint.
"""

from __future__ import annotations

import hashlib
import re
from typing import NamedTuple

BEGIN_MARK = "/* [lldd declarations begin] */"
END_MARK = "/* [lldd declarations end] */"

_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
_DEFINE = re.compile(r"#define (\w+) (0[xX][0-9a-fA-F]+|[0-9]+)")
_TOKEN = re.compile(r"\w+|[^\w\s]")
_STRUCT = re.compile(r"typedef struct (\w+) \{ (.*) \} (\w+) ;")
_MEMBER = re.compile(r"([\w *]*?)\b(\w+)((?: \[ \d+ \])?)")
_FUNCTION = re.compile(r"([\w *]*?)\b(\w+) \( ([^()]*) \) ;")


class DeclarationError(ValueError):
    """The header has something in its marked region that the binding cannot read."""


class Value(NamedTuple):
    """A member, an argument, or what a function returns.

    ``ctype`` is the C type without "const" and the stars, ``depth`` counts the stars and brackets.
    """

    name: str
    ctype: str
    depth: int


class Struct(NamedTuple):
    """A struct with members; opaque ones are not listed."""

    name: str
    members: tuple[Value, ...]


class Function(NamedTuple):
    """A function of the library."""

    name: str
    returns: Value
    arguments: tuple[Value, ...]


class Declarations(NamedTuple):
    """The marked region of the header, normalised: one statement a line, tokens one blank apart."""

    text: str
    constants: dict[str, int]
    structs: tuple[Struct, ...]
    functions: tuple[Function, ...]

    @property
    def fingerprint(self) -> int:
        """64 bits that change with every declaration, and with nothing else."""
        digest = hashlib.sha256(self.text.encode("ascii")).digest()
        return int.from_bytes(digest[:8], "big")


def region(header: str) -> str:
    """Return what stands between the two marks of the header.

    Raises DeclarationError unless each mark stands there once, in order.
    """
    if header.count(BEGIN_MARK) != 1 or header.count(END_MARK) != 1:
        raise DeclarationError(f"the header must have {BEGIN_MARK} and {END_MARK} once each")
    before, rest = header.split(BEGIN_MARK)
    if END_MARK in before:
        raise DeclarationError(f"{END_MARK} stands before {BEGIN_MARK}")
    return rest.split(END_MARK)[0]


def parse(header: str) -> Declarations:
    """Read the marked region of the header.

    Raises DeclarationError for what the rules of the header do not allow there: directives other
    than ``#define NAME integer``, several members declared at once, nested structs.
    """
    # A comment separates tokens like a blank; its line ends stay, since directives end with them.
    body = _COMMENT.sub(lambda found: " " + "\n" * found.group().count("\n"), region(header))
    constants: dict[str, int] = {}
    statements: list[str] = []
    tokens: list[str] = []
    depth = 0
    for line in body.splitlines():
        if line.lstrip().startswith("#"):
            name, value = _constant(line)
            if name in constants:
                raise DeclarationError(f"{name} is defined twice")
            constants[name] = value
            statements.append(f"#define {name} {value}")
            continue
        for token in _TOKEN.findall(line):
            tokens.append(token)
            depth += (token == "{") - (token == "}")
            if token == ";" and depth == 0:
                statements.append(" ".join(tokens))
                tokens.clear()
    if tokens:
        raise DeclarationError(f"unfinished statement: {' '.join(tokens)}")
    declared = [text for text in statements if not text.startswith("#")]
    return Declarations(
        text="\n".join(statements) + "\n",
        constants=constants,
        structs=tuple(_struct(text) for text in declared if "{" in text),
        functions=tuple(_function(text) for text in declared if not text.startswith("typedef ")),
    )


def layout_source(declarations: Declarations) -> str:
    """Return the C++ text that defines ``kLayout``, the table that lldd_layout() hands out.

    One row for each struct with an empty member name and its size, then one for each member. The
    numbers come from the compiler that builds the library.
    """
    rows: list[str] = []
    for name, members in declarations.structs:
        rows.append(f'    {{"{name}", "", 0, sizeof(::{name})}},')
        rows.extend(
            f'    {{"{name}", "{member.name}", offsetof(::{name}, {member.name}), '
            f"sizeof(::{name}::{member.name})}},"
            for member in members
        )
    return "\n".join(
        [
            "// Generated from llm_datadist.h; needs that header and <cstddef> before it.",
            "static constexpr lldd_field kLayout[] = {",
            *rows,
            "};",
            "",
        ]
    )


def _constant(line: str) -> tuple[str, int]:
    found = _DEFINE.fullmatch(" ".join(line.split()))
    if found is None:
        raise DeclarationError(f"only #define NAME integer is allowed here: {line.strip()}")
    return found.group(1), int(found.group(2), 0)


def _struct(statement: str) -> Struct:
    found = _STRUCT.fullmatch(statement)
    if found is None or found.group(1) != found.group(3):
        raise DeclarationError(f"expected 'typedef struct NAME {{ ... }} NAME;': {statement}")
    members = [_member(text.strip()) for text in found.group(2).split(";") if text.strip()]
    return Struct(found.group(1), tuple(members))


def _member(text: str) -> Value:
    found = _MEMBER.fullmatch(text)
    if found is None:
        raise DeclarationError(f"expected one member of a plain type: {text}")
    return _value(found.group(2), found.group(1), 1 if found.group(3) else 0)


def _function(statement: str) -> Function:
    found = _FUNCTION.fullmatch(statement)
    if found is None:
        raise DeclarationError(f"expected a function: {statement}")
    arguments = [] if found.group(3) == "void" else found.group(3).split(" , ")
    return Function(
        found.group(2),
        _value("", found.group(1), 0),
        tuple(_member(text) for text in arguments),
    )


def _value(name: str, ctype: str, brackets: int) -> Value:
    words = [word for word in ctype.split() if word not in ("const", "*")]
    return Value(name, " ".join(words), ctype.count("*") + brackets)
