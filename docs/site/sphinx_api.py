# SPDX-License-Identifier: Apache-2.0
"""The pages of docs/api on the site: signatures and docstrings below the headings, and the header.

A heading of such a page that is the name of a class, method or function gets what its docstring
says, before the example that stands there. ``{c-header}`` is replaced by what
csrc/include/llm_datadist.h says.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from typing import Any

import c_header
import docstrings
from sphinx.application import Sphinx

import llm_datadist
from llm_datadist import testing

FOLDER = "docs/api/"
HEADING = re.compile(r"^(##+) (\S+)$", re.MULTILINE)
C_HEADER = "```{c-header}\n```"
# Where the names of the headings are looked for first, in this order; then in all public modules.
MODULES: tuple[str, ...] = (
    "llm_datadist",
    "llm_datadist.arrays",
    "llm_datadist.parallel",
    "llm_datadist.cache_manager",
    "llm_datadist.introspection",
    "llm_datadist.backends",
    "llm_datadist.status",
    "llm_datadist.testing",
)


# So that llm_datadist.arrays is there as an attribute.
for each_module in MODULES:
    importlib.import_module(each_module)


def _modules() -> Iterator[str]:
    yield from MODULES
    for package in (llm_datadist, testing):
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            if not module.name.rpartition(".")[2].startswith("_"):
                yield module.name


def _find(name: str) -> tuple[str, list[Any]]:
    """Return the full name of what a heading names, and the way to it: module, class, method."""
    for module in _modules():
        try:
            way: list[Any] = [importlib.import_module(module)]
        except ModuleNotFoundError:
            # It needs an extra that is not installed here.
            continue
        for part in name.split("."):
            found = getattr(way[-1], part, None)
            if found is None:
                break
            way.append(found)
        else:
            return f"{module}.{name}", way
    raise LookupError(f"{name} is neither a class nor a function of a public module")


def _documented(name: str) -> str:
    full, (*_, owner, found) = _find(name)
    options = ""
    if inspect.isclass(found):
        kind = "autoexception" if issubclass(found, BaseException) else "autoclass"
        members = [
            each for each, value in list(vars(found).items()) if _is_told(found, each, value)
        ]
        if members:
            options = f"   :members: {', '.join(members)}\n   :undoc-members:\n"
    else:
        kind = "automethod" if inspect.isclass(owner) else "autofunction"
    return f"```{{eval-rst}}\n.. {kind}:: {full}\n{options}```\n"


def _is_told(owner: type, name: str, value: Any) -> bool:
    """Tell whether a member stands below its class: a property, a field, one of an enumeration."""
    if name.startswith("_"):
        return False
    return isinstance(value, (property, owner)) or name in vars(owner).get("__annotations__", ())


def add_documentation(app: Sphinx, page: str, content: list[str]) -> None:
    """Insert the directives into a page of docs/api."""
    if not page.startswith(FOLDER):
        return
    text = content[0]
    if page == f"{FOLDER}c":
        text = text.replace(C_HEADER, c_header.page())
    elif page != f"{FOLDER}README":
        text = HEADING.sub(lambda heading: f"{heading[0]}\n\n{_documented(heading[2])}", text)
    content[0] = text


def convert_docstring(
    app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]
) -> None:
    """Make reStructuredText of the lines of a docstring, in their place."""
    lines[:] = docstrings.to_rst(lines)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("source-read", add_documentation)
    app.connect("autodoc-process-docstring", convert_docstring)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
