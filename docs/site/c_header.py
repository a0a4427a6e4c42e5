# SPDX-License-Identifier: Apache-2.0
"""The C header as a page of the site: rules, constants, structs and functions with their texts."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

from llm_datadist._native import declarations

HEADER = Path(__file__).resolve().parents[2] / "csrc" / "include" / "llm_datadist.h"
BANNER = re.compile(r" -{10,} (.*) ---- ")
ITEM = re.compile(
    r"/\*(?P<comment>.*?)\*/"
    r"|#define (?P<name>\w+) (?P<value>\w+)"
    r"|typedef struct (?P<struct>\w+) \{\n(?P<members>.*?)\} \w+;"
    r"|typedef (?P<type>[^{};]+);"
    r"|(?P<function>\w[^{};/#]*);",
    re.DOTALL,
)
MEMBER = re.compile(r"\s*(?P<member>[^;/]+);[ \t]*(?:/\*(?P<comment>.*?)\*/)?", re.DOTALL)
RULE = re.compile(r"^(\w[\w ]*?)  +(?=\S)", re.MULTILINE)
# Code, emphasis, and names.
WORDS = re.compile(
    r"`[^`]+`|\*\w[\w -]*\*|\*\w+|\bLLDD_[A-Z_]+\*?|\blldd_\w+(?:\(\))?|\b[a-z]+_[a-z_]+\b"
)


def _prose(comment: str) -> str:
    """Return a comment as text of reStructuredText, on one line."""
    text = " ".join(line.strip().removeprefix("* ") for line in comment.strip().splitlines())

    def role(word: str) -> str:
        if word.endswith("()"):
            return rf"\ :c:func:`{word[:-2]}`\ "
        if word.startswith("*") and word.endswith("*"):
            return rf"\ {word}\ "
        return rf"\ ``{word.strip('`')}``\ "

    parts = WORDS.split(text)
    found = [role(word) for word in WORDS.findall(text)]
    escaped = [re.sub(r"([\\`*|_])", r"\\\1", part) for part in parts]
    return "".join(a + b for a, b in zip(escaped, [*found, ""])).strip()


def _rst(lines: list[str]) -> str:
    return "\n".join(["```{eval-rst}", *lines, "```", ""])


def _indented(text: str, depth: int) -> list[str]:
    return ["", textwrap.indent(text, " " * depth), ""] if text else [""]


def _struct(name: str, members: str, comment: str) -> str:
    lines = [f".. c:struct:: {name}", *_indented(_prose(comment), 3)]
    for member in MEMBER.finditer(members):
        declared = " ".join(member["member"].split())
        lines += [f"   .. c:member:: {declared}", *_indented(_prose(member["comment"] or ""), 6)]
    return _rst(lines)


def _constants(comment: str, rows: list[tuple[str, str]]) -> Iterator[str]:
    if comment:
        yield _rst([_prose(comment)])
    if rows:
        yield "\n".join(["| Name | Value |", "|---|---|", *(f"| `{a}` | {b} |" for a, b in rows)])
        yield ""


def _declared(text: str) -> Iterator[str]:
    """Yield the pieces of the page for the marked part of the header."""
    comment = ""
    rows: list[tuple[str, str]] = []
    for item in ITEM.finditer(text):
        if item["name"]:
            rows.append((item["name"], item["value"]))
            continue
        if rows:
            yield from _constants(comment, rows)
            comment, rows = "", []
        banner = BANNER.fullmatch(item["comment"] or "")
        if banner:
            yield f"## {banner[1].capitalize()}\n"
        elif item["comment"]:
            if comment:
                yield from _constants(comment, [])
            comment = item["comment"]
        elif item["struct"]:
            yield _struct(item["struct"], item["members"], comment)
            comment = ""
        elif item["type"]:
            name = item["type"].split()[-1]
            yield _rst([f".. c:type:: {name}", *_indented(_prose(comment), 3)])
            comment = ""
        else:
            signature = " ".join(item["function"].split())
            yield _rst([f".. c:function:: {signature}", *_indented(_prose(comment), 3)])
            comment = ""


def _introduction(text: str) -> Iterator[str]:
    """Yield the pieces for the comment at the top: paragraphs, an example, and rules."""
    comment = text[text.index("/*") + 2 : text.index("*/")]
    lines = [
        line[3:] if line.startswith(" * ") else line.lstrip(" *") for line in comment.splitlines()
    ]
    parts = re.split(r"^([A-Z][A-Z ]+)$", "\n".join(lines), flags=re.MULTILINE)
    for title, body in zip(parts[1::2], parts[2::2]):
        body = textwrap.dedent(body.strip("\n"))
        yield f"## {title.capitalize()}\n"
        if body.startswith("lldd_config config"):
            yield f"```c\n{body.strip()}\n```\n"
            continue
        rules = RULE.split(textwrap.dedent(body))
        if rules[0].strip():
            yield _rst([_prose(rules[0])])
        rows = [f"**{name}.** {_prose(rule)}" for name, rule in zip(rules[1::2], rules[2::2])]
        if rows:
            yield _rst([line for row in rows for line in (row, "")])


def page() -> str:
    """Return the header as text of MyST."""
    text = HEADER.read_text(encoding="utf-8")
    return "\n".join([*_introduction(text), *_declared(declarations.region(text))])
