# SPDX-License-Identifier: Apache-2.0
"""The floors of the Python package, read from its imports: nothing imports from a floor above."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "llm_datadist"
# From the bottom up. What is in none of these folders is the interface with its binding.
FLOORS = ("testing", "_tools", "_box", "_bench", "_soak", "_cli")


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def floor_of(module: str) -> int:
    if module == "llm_datadist.__main__":
        return len(FLOORS)  # the command itself
    folder = module.split(".")[1:2]
    return FLOORS.index(folder[0]) + 1 if folder and folder[0] in FLOORS else 0


def imported_by(module: str, statement: ast.AST) -> Iterator[str]:
    """Yield the modules of the package that a statement imports."""
    if isinstance(statement, ast.Import):
        names = [alias.name for alias in statement.names]
    elif isinstance(statement, ast.ImportFrom):
        base = statement.module or ""
        if statement.level:
            is_package = FILES[module].name == "__init__.py"
            parts = module.split(".")
            parts = parts[: len(parts) - statement.level + is_package]
            base = ".".join([*parts, *filter(None, [base])])
        names = [f"{base}.{alias.name}" for alias in statement.names]
        names = [name if name in FILES else base for name in names]
    else:
        return
    yield from (name for name in names if name in FILES)


def when_imported(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield the statements that run when a module is imported."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        yield child
        yield from when_imported(child)


def test_there_is_something_on_each_floor():
    assert {floor_of(module) for module in FILES} == set(range(len(FLOORS) + 1))


@pytest.mark.parametrize("module", FILES)
def test_nothing_imports_from_a_floor_above(module):
    tree = ast.parse(FILES[module].read_text())
    imported = {name for node in ast.walk(tree) for name in imported_by(module, node)}
    assert {name for name in imported if floor_of(name) > floor_of(module)} == set()


def test_no_module_is_imported_by_what_it_imports():
    imports = {
        module: {
            name
            for statement in when_imported(ast.parse(path.read_text()))
            for name in imported_by(module, statement)
        }
        for module, path in FILES.items()
    }
    done: set[str] = set()

    def visit(module: str, way: list[str]) -> None:
        assert module not in way, " -> ".join([*way[way.index(module) :], module])
        if module not in done:
            for name in sorted(imports[module]):
                visit(name, [*way, module])
            done.add(module)

    for module in imports:
        visit(module, [])
