# SPDX-License-Identifier: Apache-2.0
"""Where a Python source can be mutated."""

from __future__ import annotations

import ast
from typing import Union

from tests.mutation.cpp import Site

# How each is written, and what is written instead.
COMPARISONS: dict[type[ast.cmpop], tuple[str, str]] = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
}
ARITHMETIC: dict[type[ast.operator], str] = {
    ast.Add: "-",
    ast.Sub: "+",
    ast.Mult: "//",
    ast.FloorDiv: "*",
    ast.Div: "*",
    ast.LShift: ">>",
    ast.RShift: "<<",
    ast.BitAnd: "|",
    ast.BitOr: "&",
}
Node = Union[ast.expr, ast.stmt]


class Finder(ast.NodeVisitor):
    """Collects the mutants of one module; annotations and docstrings are left alone."""

    def __init__(self, file: str, source: str) -> None:
        self.file = file
        self.source = source.encode()
        self.starts = [0]
        for line in self.source.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))
        self.found: list[Site] = []

    def place(self, node: Node) -> tuple[int, int]:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return (
            self.starts[node.lineno - 1] + node.col_offset,
            self.starts[node.end_lineno - 1] + node.end_col_offset,
        )

    def text(self, node: Node) -> str:
        start, end = self.place(node)
        return self.source[start:end].decode()

    def add(self, node: Node, instead: str) -> None:
        start, end = self.place(node)
        last = node.end_lineno or node.lineno
        old = " ".join(self.text(node).split())
        change = f"{old} -> {' '.join(instead.split())}"
        self.found.append(
            Site(self.file, start, end, node.lineno, node.lineno, last, change, instead)
        )

    def visit_Compare(self, node: ast.Compare) -> None:
        sides = [node.left, *node.comparators]
        for changed in range(len(node.ops)):
            words = [self.text(sides[0])]
            for place, (operator, side) in enumerate(zip(node.ops, sides[1:])):
                words += [COMPARISONS[type(operator)][place == changed], self.text(side)]
            self.add(node, " ".join(words))
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        other = " or " if isinstance(node.op, ast.And) else " and "
        self.add(node, "(" + other.join(self.text(value) for value in node.values) + ")")
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if type(node.op) in ARITHMETIC and not isinstance(node.left, ast.JoinedStr):
            self.add(
                node, f"{self.text(node.left)} {ARITHMETIC[type(node.op)]} {self.text(node.right)}"
            )
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.Not):
            self.add(node, f"({self.text(node.operand)})")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, bool):
            self.add(node, str(not node.value))
        elif isinstance(node.value, int):
            self.add(node, f"({self.text(node)} + 1)")
            self.add(node, f"({self.text(node)} - 1)")

    def visit_If(self, node: ast.If) -> None:
        if self.text(node.test) != "TYPE_CHECKING":
            self.add(node.test, f"(not ({self.text(node.test)}))")
            self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Call):
            self.add(node, "pass")
            self.generic_visit(node)

    def visit_Return(self, node: ast.Return) -> None:
        if node.value is not None and self.text(node.value) != "None":
            self.add(node, "return None")
            self.visit(node.value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_arg(self, node: ast.arg) -> None:
        """An annotation is nothing that runs."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        for part in (*node.args.defaults, *(each for each in node.args.kw_defaults if each)):
            self.visit(part)
        if not any("overload" in self.text(each) for each in node.decorator_list):
            for statement in node.body:
                self.visit(statement)


def sites(file: str, source: str) -> list[Site]:
    """Return all mutants of a module, in the order of their places."""
    finder = Finder(file, source)
    finder.visit(ast.parse(source))
    return sorted(finder.found, key=lambda site: (site.start, site.end, site.change))


def mutated(source: str, site: Site) -> str:
    """Return the module with this mutant."""
    raw = source.encode()
    assert site.instead is not None
    return (raw[: site.start] + site.instead.encode() + raw[site.end :]).decode()
