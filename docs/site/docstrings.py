# SPDX-License-Identifier: Apache-2.0
"""From the docstrings of this package, plain text in Google's style, to reStructuredText.

Nothing in them is markup but ``code`` and the sections Args, Returns, Raises and Example: stars and
bars are what they are, and an indented paragraph is code.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

SECTION = re.compile(r"(Args|Returns|Raises|Example):")
ENTRY = re.compile(r" {4}(?P<names>\w[\w., ]*?): (?P<text>.*)")
MARKED = re.compile(r"(``.+?``|:\w+:`.+?`)")
INDENT = "    "


def _escaped(text: str) -> str:
    parts = MARKED.split(text)
    parts[::2] = [re.sub(r"([\\*|`]|_(?=\W|$))", r"\\\1", part) for part in parts[::2]]
    return "".join(parts)


def _blocks(lines: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield sections and paragraphs: the name of the section, or "", and the lines."""
    block: list[str] = []
    name = ""
    for line in [*lines, ""]:
        begins = SECTION.fullmatch(line)
        # A section ends with a line that is not indented; a paragraph also with an empty one.
        if begins or (name and line and not line.startswith(" ")) or (not name and not line):
            if block:
                yield name, block
            block, name = [], begins[1] if begins else ""
            if begins or not line:
                continue
        block.append(line)
    if block:
        yield name, block


def _entries(lines: list[str]) -> Iterator[tuple[list[str], str]]:
    """Yield the names and the text of each entry of Args or Raises."""
    names: list[str] = []
    text: list[str] = []
    for line in [*lines, None]:
        entry = ENTRY.fullmatch(line) if line else None
        if names and (entry or line is None):
            yield names, _escaped(" ".join(text))
        if entry:
            names, text = entry["names"].split(", "), [entry["text"]]
        elif line and line.strip():
            text.append(line.strip())


def _code(lines: list[str]) -> list[str]:
    return ["::", "", *(INDENT + line for line in lines), ""]


def to_rst(lines: list[str]) -> list[str]:
    """Return the lines of a docstring, which begin at the margin, as reStructuredText."""
    text: list[str] = []
    for name, block in _blocks(lines):
        if name in ("Args", "Raises"):
            role = "param" if name == "Args" else "raises"
            for names, what in _entries(block):
                text += [f":{role} {each}: {what}" for each in names]
            text.append("")
        elif name == "Returns":
            text += [f":returns: {_escaped(' '.join(line.strip() for line in block))}", ""]
        elif name == "Example" or all(line.startswith(INDENT) for line in block):
            text += _code(block)
        else:
            text += [*(_escaped(line) for line in block), ""]
    return text
