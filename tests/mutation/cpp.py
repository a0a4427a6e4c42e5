# SPDX-License-Identifier: Apache-2.0
"""Where a C++ source can be mutated, and a source that holds many mutants at once.

Each mutant is switched on by its number, in the environment of a process (see SWITCH), so a library
with all of them is compiled once. The sources are those that clang-format leaves: operators have
blanks around them, template arguments have none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

VARIABLE = "LLDD_MUTANT"
# A file with a byte for each number, which becomes 1 when a process comes to that mutant.
REACHED = "LLDD_MUTANTS_REACHED"
# Every number is below.
NUMBERS = 1 << 16
# The header that every mutated source includes.
SWITCH = f"""#pragma once
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>
#include <cstdlib>
inline bool lldd_mutant(int number) {{
    static const int chosen = [] {{
        const char *value = std::getenv("{VARIABLE}");
        return value == nullptr ? 0 : std::atoi(value);
    }}();
    static char *const reached = []() -> char * {{
        const char *name = std::getenv("{REACHED}");
        const int file = name == nullptr ? -1 : ::open(name, O_RDWR | O_CLOEXEC);
        if (file < 0) return nullptr;
        void *bytes = ::mmap(nullptr, {NUMBERS}, PROT_WRITE, MAP_SHARED, file, 0);
        ::close(file);
        return bytes == MAP_FAILED ? nullptr : static_cast<char *>(bytes);
    }}();
    if (reached != nullptr) reached[number] = 1;
    return number == chosen;
}}
// At loading: tests that compare what a process has mapped before and after do not see it.
[[maybe_unused]] static const bool lldd_loaded = lldd_mutant(0);
"""

OPERATORS = {
    " <": (" <=",),
    " <=": (" <",),
    " >": (" >=",),
    " >=": (" >",),
    " ==": (" !=",),
    " !=": (" ==",),
    " &&": (" ||",),
    " ||": (" &&",),
    " +": (" -",),
    " -": (" +",),
    " *": (" /",),
    " /": (" *",),
    " <<": (" >>",),
    " >>": (" <<",),
    " &": (" |",),
    " |": (" &",),
    "true": ("false",),
    "false": ("true",),
    "std::min": ("std::max",),
    "std::max": ("std::min",),
}
TOKEN = re.compile(
    r" (?:<=|>=|==|!=|&&|\|\||<<|>>|[<>+\-*/&|])(?=\s)|\b(?:true|false)\b|\bstd::(?:min|max)\b"
    r"|(?<![\w.])(?:0x[0-9a-fA-F]+|\d+)[uUlL]*(?![\w.])|!(?=[\w(])"
)
HEAD = re.compile(r"\b(if|while|for) \(|\breturn |(?<=[\w\]]) = ")
LAMBDA = re.compile(r"(?:^|[^\w\])])\[")
# A call, an assignment or an increment, from its first word on.
STATEMENT = re.compile(
    r"^ {4,}(?!return|case|default|else|if|for|while|do|switch|using|delete|throw|static_assert"
    r"|LLDD_LOG|Log\()(?:\(void\))?(?:[*\w.\[\]:]|->|\(\)|\+\+|--)+(?:\(| (?:[+\-|&^]?=) |;)",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Site:
    """One mutant: what stands in a file from start to end, and what would instead.

    A statement is taken out; an expression is exchanged for another one, which stands in the first
    of its lines.
    """

    file: str
    start: int
    end: int
    first_line: int
    line: int
    last_line: int
    change: str
    instead: str | None  # None: the statement is taken out

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.change}"


def masked(text: str) -> str:
    """Return the text with blanks for comments, literals and lines of the preprocessor."""
    pattern = re.compile(
        r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|(?<![0-9a-fA-F])\'(?:\\.|[^\'\\\n])+\''
        r"|^[ ]*#(?:[^\n\\]|\\.|\\\n)*",
        re.DOTALL | re.MULTILINE,
    )
    return pattern.sub(lambda found: re.sub(r"[^\n]", "_", found.group()), text)


def end_of(text: str, start: int, ends: str) -> int | None:
    """Return where one of these characters stands outside of brackets; None: nowhere."""
    depth = 0
    for place in range(start, len(text)):
        letter = text[place]
        if depth == 0 and letter in ends:
            return place
        if letter in "([{":
            depth += 1
        elif letter in ")]}":
            depth -= 1
            if depth < 0:
                return None
    return None


def expressions(text: str) -> Iterator[tuple[int, int, bool]]:
    """Yield start and end of each expression in a masked text, and whether it is a condition."""
    for head in HEAD.finditer(text):
        start = head.end()
        if head.group(1) is None:
            end = end_of(text, start, ";")
        elif head.group(1) == "for":
            first = end_of(text, start, ";")
            if first is None:
                continue
            start = first + 1
            end = end_of(text, start, ";")
        else:
            end = end_of(text, start, ")")
        if end is None:
            continue
        span = text[start:end]
        # Lambdas, lists, declarations in conditions, and functions that are none.
        if set("{};") & set(span) or LAMBDA.search(span) or " = " in span:
            continue
        pure = text[: head.start()].endswith(("const", "override", "noexcept"))
        if pure or span.strip() in ("", "default", "delete"):
            continue
        yield start, end, head.group(1) in ("if", "while")


def of_expression(file: str, raw: str, text: str, span: tuple[int, int, bool]) -> Iterator[Site]:
    start, end, is_condition = span
    whole = text[start:end]
    first = raw.count("\n", 0, start) + 1
    last = first + whole.count("\n")

    def flat(content: str) -> str:
        return re.sub(r"\s*\n\s*", " ", content)

    if is_condition:
        change = f"{flat(raw[start:end])} -> negated"
        yield Site(file, start, end, first, first, last, change, f"!({flat(raw[start:end])})")
    for token in TOKEN.finditer(whole):
        old = token.group()
        if old == "!":
            instead: tuple[str, ...] = ("",)
        elif old in OPERATORS:
            instead = OPERATORS[old]
        else:
            instead = (f"({old} + 1)", f"({old} - 1)") if old.rstrip("uUlL") != "0" else ("1",)
        line = first + whole.count("\n", 0, token.start())
        for new in instead:
            mutated = raw[start : start + token.start()] + new + raw[start + token.end() : end]
            change = (
                f"{old.strip()} -> {new.strip() or 'nothing'} in {flat(raw[start:end]).strip()}"
            )
            yield Site(file, start, end, first, line, last, change, flat(mutated))


def statements(file: str, raw: str, text: str) -> Iterator[Site]:
    for found in STATEMENT.finditer(text):
        start = found.end() - len(found.group().lstrip())
        before = text[: found.start()].rstrip()
        if not before or before[-1] not in ";{}:)":
            continue
        end = end_of(text, start, ";")
        if end is None or "{" in text[start:end]:
            continue
        line = raw.count("\n", 0, start) + 1
        last = line + text.count("\n", start, end)
        what = re.sub(r"\s*\n\s*", " ", raw[start : end + 1])
        yield Site(file, start, end + 1, line, line, last, f"{what} -> taken out", None)


def sites(file: str, raw: str) -> list[Site]:
    """Return all mutants of a source, in the order of their places."""
    text = masked(raw)
    found = [
        site
        for span in expressions(text)
        if "//" not in raw[span[0] : span[1]]
        for site in of_expression(file, raw, text, span)
    ]
    found += statements(file, raw, text)
    return sorted(found, key=lambda site: (site.start, site.end, site.change))


def with_mutants(raw: str, chosen: Iterable[tuple[int, Site]], header: str) -> str:
    """Return the source with these mutants in it, none of which acts unless it is chosen.

    The header is a file with SWITCH in it. For the compiler, lines stay where they are. Spans nest
    or are apart from each other.
    """
    edits: list[tuple[int, int, int, str]] = []
    for number, site in chosen:
        size = site.end - site.start
        if site.instead is None:
            around = (f"{{ if (!lldd_mutant({number})) {{ ", " } }")
        else:
            around = (f"(lldd_mutant({number}) ? ({site.instead}) : (", "))")
        # At one place what ends goes first, the outermost begins first and ends last.
        edits.append((site.start, 1, -size * 10000 + number, around[0]))
        edits.append((site.end, 0, size * 10000 - number, around[1]))
    result, done = [], 0
    for place, _, _, inserted in sorted(edits):
        result += [raw[done:place], inserted]
        done = place
    text = without_constexpr("".join(result) + raw[done:])
    return f'#include "{header}"\n#line 1\n{text}'


def without_constexpr(text: str) -> str:
    """Return the text in which constants that a mutant may change are computed at run time."""
    pattern = re.compile(r"^constexpr (?=[^\n(]* = \(lldd_mutant)", re.MULTILINE)
    return pattern.sub("static const ", text)
