# SPDX-License-Identifier: Apache-2.0
"""What a checker of Python types knows of the binding and of LLMConfig."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llm_datadist._native import _ffi, declarations, stubs

ROOT = Path(__file__).resolve().parents[2]
HEADER = ROOT / "csrc" / "include" / "llm_datadist.h"

SNIPPET = """\
from __future__ import annotations

from llm_datadist import LLMConfig
from llm_datadist._native import marshal
from llm_datadist._native.facade import Facade


def use(native: Facade) -> None:
    args = marshal.new(native.ffi, "lldd_pull_args")
    args.num_src_blocks = 1
    args.num_src_block = 1  # error: attr-defined
    args.cache_id = "1"  # error: assignment
    marshal.new(native.ffi, "lldd_pull_arg")  # error: call-overload
    marshal.constant(native.ffi, "LLDD_KEY_REQUESTS")  # error: arg-type
    out = native.ffi.new("lldd_engine **")
    native.engine_close(out[0])
    native.engine_close(args)  # error: arg-type
    native.pull(out[0])  # error: call-arg
    native.engine_shut(out[0])  # error: attr-defined
    status: str = native.pull(out[0], args)  # error: assignment


def configure(config: LLMConfig) -> None:
    config.link_retry_count = 3
    config.link_retry_count = "3"  # error: assignment
    config.link_retry_counts = 3  # error: attr-defined
    config.device_id = [0]
    config.device_id = None  # error: assignment
    count: int = config.link_retry_count
    text: str = config.link_retry_count  # error: assignment
"""


def test_every_declaration_is_in_the_stub():
    parsed = declarations.parse(HEADER.read_text())
    stub = stubs.stub(parsed)
    for struct in parsed.structs:
        block = re.search(rf"^class {struct.name}:\n((?:    .*\n)+)", stub, re.MULTILINE).group(1)
        named = [line.split(":")[0].strip() for line in block.splitlines()]
        assert named == [member.name for member in struct.members]
    functions = [name for name in dir(_ffi.ffi.dlopen(None)) if name.startswith("lldd_")]
    assert len(functions) > 30
    for name in functions:
        assert f"    def {name}(self" in stub
        assert f"    def {name[5:]}(self" in stub
    assert all(f"    {name}: int\n" in stub for name in parsed.constants)


def test_the_generated_stub_is_that_of_the_header():
    written = Path(_ffi.__file__).with_suffix(".pyi").read_text()
    assert written == stubs.stub(declarations.parse(HEADER.read_text()))


@pytest.mark.slow
def test_mypy_finds_what_is_misspelt(tmp_path, monkeypatch):
    api = pytest.importorskip("mypy.api", reason="capability mypy: not installed")
    snippet = tmp_path / "snippet.py"
    snippet.write_text(SNIPPET)
    monkeypatch.chdir(ROOT)
    options = ["--strict", "--no-error-summary", "--show-error-codes", "--no-color-output"]
    told, trouble, _ = api.run([*options, f"--cache-dir={tmp_path / 'cache'}", str(snippet)])
    assert trouble == ""
    pattern = re.compile(r"snippet\.py:(\d+): error: .*\[([a-z-]+)\]$", re.MULTILINE)
    found = [(int(line), code) for line, code in pattern.findall(told)]
    expected = [
        (number, line.partition("# error: ")[2])
        for number, line in enumerate(SNIPPET.splitlines(), 1)
        if "# error: " in line
    ]
    assert found == expected, told
