# SPDX-License-Identifier: Apache-2.0
"""Files and functions stay short enough to be read in one go."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from tests.package.tree import ROOT, name_of

LINES_OF_A_FILE = 500
LINES_OF_A_TEST_FILE = 700
LINES_OF_A_FUNCTION = 60
# The C ABI is one text for people who program in C; the rest is generated.
EXEMPT = {
    "csrc/include/llm_datadist.h",
    "llm_datadist/include/llm_datadist.h",
    "release/abi/0.1/llm_datadist.h",
    "llm_datadist/_native/_ffi.py",
    "llm_datadist/_native/_ffi.pyi",
}
PYTHON = (".py", ".pyi")
CPP = (".cc", ".h", ".c")

# Where a brace is none: comments, literals, lines of the preprocessor.
HIDDEN = re.compile(
    r"""//[^\n]*
    |/\*.*?\*/
    |R"(?P<mark>\w*)\(.*?\)(?P=mark)"
    |"(?:\\.|[^"\\\n])*"
    |(?<![0-9a-fA-F])'(?:\\.|[^'\\\n])+'
    |^[ \t]*\#(?:\\\n|[^\n])*""",
    re.VERBOSE | re.DOTALL | re.MULTILINE,
)
SCOPE = re.compile(r"\b(namespace|class|struct|union|enum|extern)\b")
# Parentheses that are no parameters: macros such as LLDD_CAPABILITY("mutex").
ATTRIBUTE = re.compile(r"\b(?:[A-Z][A-Z0-9_]+|alignas)\s*\([^()]*\)")
ACCESS = re.compile(r"\s*(?:public|protected|private)\s*:")

Function = tuple[str, int]


def _sources() -> dict[str, str]:
    folders = [
        path
        for path in ROOT.iterdir()
        if path.is_dir()
        and not path.name.startswith(".")
        and path.name not in ("build", "dist")
        and not (path / "pyvenv.cfg").exists()
    ]
    paths = [*ROOT.glob("*.py"), *(path for folder in folders for path in folder.rglob("*"))]
    return {
        name_of(path): path.read_text()
        for path in sorted(paths)
        if path.suffix in PYTHON + CPP and name_of(path) not in EXEMPT
    }


def python_functions(text: str) -> Iterator[Function]:
    """Yield the name of each function and its number of lines, the docstring included."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno is not None
            yield node.name, node.end_lineno - node.lineno + 1


def _opens_scope(head: str) -> bool:
    """Whether functions are defined inside the brace after this head: in a class, for instance."""
    return bool(SCOPE.search(head)) and "(" not in ATTRIBUTE.sub("", head) and head[-1] != "="


def _is_function(declaration: str) -> bool:
    """Whether a declaration with a brace in it is a function, and not a variable."""
    head = declaration[: declaration.index("{")].rstrip()
    is_default_argument = head.count("(") > head.count(")")
    return "(" in head and (head[-1] != "=" or is_default_argument)


def cpp_functions(text: str) -> Iterator[Function]:
    """Yield the first line of each function and its number of lines; what is in it belongs to it.

    Counts braces, outside of what HIDDEN finds. A head of `struct`, `namespace` and their kind
    without parameters opens a scope, in which it looks for functions.
    """
    text = HIDDEN.sub(lambda hidden: re.sub(r"[^\n]", " ", hidden[0]), text)
    scopes: list[bool] = []  # for each open brace
    start = 0  # of the declaration
    for found in re.finditer(r"[{};]", text):
        if found[0] == "{":
            is_scope = all(scopes) and _opens_scope(text[start : found.start()].rstrip() or ";")
            scopes.append(is_scope)
            if is_scope:
                start = found.end()
            continue
        was_scope = scopes.pop() if found[0] == "}" else False
        if not all(scopes):
            continue
        declaration = ACCESS.sub("", text[start : found.end()]).strip()
        if found[0] == "}" and not was_scope:
            # A member that is initialized with braces, or an argument: the declaration goes on.
            is_open = declaration.count("(") > declaration.count(")")
            if is_open or re.match(r"\s*[,{]", text[found.end() :]):
                continue
            if _is_function(declaration):
                yield declaration.splitlines()[0], declaration.count("\n") + 1
        start = found.end()
    assert scopes == [], "as many braces close as open"


def functions(name: str, text: str) -> Iterator[Function]:
    return python_functions(text) if name.endswith(PYTHON) else cpp_functions(text)


SOURCES = _sources()


def test_files_are_short() -> None:
    lines = {name: text.count("\n") for name, text in SOURCES.items()}
    assert len(lines) > 400
    too_long = {
        name: count
        for name, count in lines.items()
        if count > (LINES_OF_A_TEST_FILE if name.startswith("tests/") else LINES_OF_A_FILE)
    }
    assert too_long == {}


@pytest.mark.parametrize("suffixes", [PYTHON, CPP])
def test_functions_are_short(suffixes: tuple[str, ...]) -> None:
    found = [
        (lines, name, function)
        for name, text in SOURCES.items()
        if name.endswith(suffixes)
        for function, lines in functions(name, text)
    ]
    assert len(found) > 1000
    assert [each for each in found if each[0] > LINES_OF_A_FUNCTION] == []


def test_python_functions_are_found() -> None:
    text = (
        "class A:\n    async def f(self):\n        def g():\n            pass\n        return 1\n"
    )
    assert list(python_functions(text)) == [("f", 4), ("g", 2)]


CPP_TEXT = r"""
#define BRACE {  // not counted
namespace lldd {
enum class Kind : int { kOne = '{' };
const char *kNames[] = {"}", R"x(})x"};
class LLDD_CAPABILITY("mutex") Mutex final : public Base<int> {
  public:
    explicit Mutex(int size = 1'000) noexcept
        : size_{size}, // {
          next_{nullptr} {}
    int Size() const { return size_; }

  private:
    int size_{0};
};
template <class T>
struct Result Get(const T &value, Options options = {}) {
    auto inner = [&](int n) {
        if (n > 1) { return '}'; }
        return "{"[0];
    };
    return {inner(1)};
}
/* void Old() {
*/
Mutex::~Mutex() {}
} // namespace lldd
extern "C" {
int lldd_x(void);
int lldd_y(void)
{
    struct lldd_key key = {0};
    return key.kind;
}
}
"""


def test_cpp_functions_are_found() -> None:
    assert list(cpp_functions(CPP_TEXT)) == [
        ("explicit Mutex(int size = 1'000) noexcept", 3),
        ("int Size() const { return size_; }", 1),
        ("template <class T>", 8),
        ("Mutex::~Mutex() {}", 1),
        ("int lldd_y(void)", 5),
    ]
