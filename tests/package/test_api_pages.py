# SPDX-License-Identifier: Apache-2.0
"""docs/api: what the examples show is so, and each class, method and function has one."""

from __future__ import annotations

import doctest
import inspect
import logging
import re
import warnings
from collections.abc import Iterator
from types import ModuleType

import pytest

import llm_datadist
from llm_datadist import (
    arrays,
    backends,
    cache_manager,
    introspection,
    parallel,
    statistics,
    testing,
)
from tests.package.tree import ROOT

API = ROOT / "docs" / "api"
PAGES = ("engine", "caches", "transfers", "statuses", "parallel", "testing")
EXAMPLES = re.compile(r"^```python\n(>>> .*?)^```$", re.DOTALL | re.MULTILINE)
HEADING = re.compile(r"^##+ (\S+)$", re.MULTILINE)
# Under which name the pages have what a module exports.
MODULES: dict[ModuleType, str] = {
    llm_datadist: "",
    cache_manager: "",
    introspection: "",
    statistics: "",
    testing: "",
    arrays: "arrays.",
    parallel: "parallel.",
}


@pytest.mark.parametrize("page", PAGES)
def test_what_the_examples_show_is_so(page: str) -> None:
    text = (API / f"{page}.md").read_text(encoding="utf-8")
    # In their lines, so that a failure names the line of the page.
    source = [""] * (text.count("\n") + 1)
    for block in EXAMPLES.finditer(text):
        first = text.count("\n", 0, block.start(1))
        lines = block[1].splitlines()
        source[first : first + len(lines)] = lines
    examples = doctest.DocTestParser().get_doctest("\n".join(source), {}, page, f"{page}.md", 0)
    assert examples.examples
    told: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    # The log goes to stdout, which is compared.
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            runner.run(examples, out=told.append)
    finally:
        logging.disable(logging.NOTSET)
    assert not told, "".join(told)


def public() -> Iterator[str]:
    for module, prefix in MODULES.items():
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.ismodule(value):
                continue
            yield prefix + name
            # LlmConfig is another name of LLMConfig.
            if inspect.isclass(value) and value.__name__ == name:
                for method, of_class in vars(value).items():
                    is_method = inspect.isfunction(of_class) or isinstance(
                        of_class, (classmethod, staticmethod)
                    )
                    if is_method and not method.startswith("_"):
                        yield f"{name}.{method}"
    yield from ("BackendInfo", "backend_info", "select", "library", "LLMDataDistWarning")
    assert all(hasattr(backends, name) for name in ("select", "library"))


def test_each_class_method_and_function_has_its_place() -> None:
    headings: list[str] = []
    for page in PAGES:
        headings += HEADING.findall((API / f"{page}.md").read_text(encoding="utf-8"))
    assert len(headings) == len(set(headings))
    wanted = set(public())
    assert len(wanted) > 150
    assert sorted(wanted - set(headings)) == []
