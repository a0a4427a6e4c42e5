# SPDX-License-Identifier: Apache-2.0
"""From header text to declarations, fingerprint and layout table."""

from __future__ import annotations

import pytest

from llm_datadist._native import declarations

BODY = """
/* A constant. */
#define LLDD_ONE 0x1
#define LLDD_UNSET 0xFFFFFFFFFFFFFFFF
typedef uint32_t lldd_status; // a status
typedef struct lldd_engine lldd_engine;
typedef struct lldd_pair {
    uint32_t struct_size;  /* first */
    uint32_t reserved;
    const char *name;
    char text[16];
} lldd_pair;
/* Opens. */
lldd_status lldd_open(const lldd_pair *pair,
                      lldd_engine **engine);
"""


def wrap(body):
    begin, end = declarations.BEGIN_MARK, declarations.END_MARK
    return f"#include <stdint.h>\n{begin}\n{body}\n{end}\nint not_read(void);\n"


def parse(body):
    return declarations.parse(wrap(body))


def test_reads_constants_structs_and_functions():
    parsed = parse(BODY)
    assert parsed.constants == {"LLDD_ONE": 1, "LLDD_UNSET": 2**64 - 1}
    members = (
        ("struct_size", "uint32_t", 0),
        ("reserved", "uint32_t", 0),
        ("name", "char", 1),
        ("text", "char", 1),
    )
    assert parsed.structs == (("lldd_pair", members),)
    arguments = (("pair", "lldd_pair", 1), ("engine", "lldd_engine", 2))
    assert parsed.functions == (("lldd_open", ("", "lldd_status", 0), arguments),)


def test_comments_and_spacing_do_not_count():
    other = BODY.replace("/* Opens. */", "// Opens,\n// as it says.")
    other = other.replace("const char *name", "const  char* name").replace("\n\n", "\n")
    assert parse(other) == parse(BODY)
    assert parse(other).fingerprint == parse(BODY).fingerprint


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("reserved", "spare"),
        ("uint32_t reserved", "int32_t reserved"),
        ("[16]", "[24]"),
        ("0x1", "2"),
        ("const lldd_pair *", "lldd_pair *"),
        ("lldd_engine **engine", "lldd_engine **engine, uint32_t flags"),
    ],
)
def test_every_declaration_counts(old, new):
    assert old in BODY
    assert parse(BODY.replace(old, new)).fingerprint != parse(BODY).fingerprint


def test_fingerprint_has_64_bits():
    assert 0 < parse(BODY).fingerprint < 2**64


def test_layout_has_a_row_for_every_struct_and_member():
    rows = [
        line.strip()
        for line in declarations.layout_source(parse(BODY)).splitlines()
        if '{"' in line
    ]
    assert rows[0] == '{"lldd_pair", "", 0, sizeof(::lldd_pair)},'
    assert rows[4] == (
        '{"lldd_pair", "text", offsetof(::lldd_pair, text), sizeof(::lldd_pair::text)},'
    )
    assert len(rows) == 5


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("#define LLDD_SUM (1 + 2)", "only #define NAME integer"),
        ("#define LLDD_F(x) 1", "only #define NAME integer"),
        ("#ifdef SOMETHING", "only #define NAME integer"),
        ("#define LLDD_A 1\n#define LLDD_A 1", "defined twice"),
        ("typedef struct a { int x, y; } a;", "one member"),
        ("typedef struct a { int x : 3; } a;", "one member"),
        ("typedef struct a { int x; } b;", "typedef struct NAME"),
        ("struct a { int x; };", "typedef struct NAME"),
        ("int f(void)", "unfinished"),
        ("extern int x;", "expected a function"),
        ("void f(int (*callback)(void));", "expected a function"),
    ],
)
def test_refuses_what_the_binding_cannot_read(body, complaint):
    with pytest.raises(declarations.DeclarationError, match=complaint):
        parse(body)


@pytest.mark.parametrize(
    "text",
    [
        "nothing",
        declarations.BEGIN_MARK,
        declarations.END_MARK + declarations.BEGIN_MARK,
        (declarations.BEGIN_MARK + declarations.END_MARK) * 2,
    ],
)
def test_refuses_a_header_without_one_region(text):
    with pytest.raises(declarations.DeclarationError):
        declarations.parse(text)
