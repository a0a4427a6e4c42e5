# SPDX-License-Identifier: Apache-2.0
"""Toolkit folders that look like CANN's as far as the search and the linker look."""

from __future__ import annotations

import subprocess
from pathlib import Path

HEADER = Path(__file__).resolve().parents[2] / "csrc" / "include" / "llm_datadist.h"

HIXL = '#pragma once\nextern "C" int hixl_number();\nextern "C" int metadef_number();\n'
# A header of someone else's, with what would be an error in one of ours.
ACL = '#pragma once\n#include <vector>\nextern "C" inline int acl_shorten(long x) { return x; }\n'


def empty_toolkit(root, *, runtime="acl_rt"):
    """Make the files that the search looks for, without anything in them."""
    for name in ("hixl/hixl.h", "acl/acl.h"):
        (root / "include" / name).parent.mkdir(parents=True)
        (root / "include" / name).touch()
    (root / "lib64").mkdir()
    for name in ("cann_hixl", "metadef", runtime, "ascend_hal"):
        (root / "lib64" / f"lib{name}.so").touch()
    return root


def small_toolkit(root):
    """Make a toolkit that one can include, link and load: of one function."""
    empty_toolkit(root)
    (root / "include" / "hixl" / "hixl.h").write_text(HIXL)
    (root / "include" / "acl" / "acl.h").write_text(ACL)
    sources = {
        "cann_hixl": "int hixl_number(void); int hixl_number(void) { return 2; }",
        # As CANN's: the strings of the interface of one library are in another.
        "metadef": "int metadef_number(void); int metadef_number(void) { return 40; }",
        "acl_rt": "int acl_nothing;",
        "ascend_hal": "int hal_nothing;",
    }
    for name, source in sources.items():
        library = root / "lib64" / f"lib{name}.so"
        command = ["c++", "-shared", "-fPIC", "-x", "c", "-", f"-Wl,-soname,{library.name}"]
        subprocess.run([*command, "-o", str(library)], input=source, text=True, check=True)
    return root


def small_tree(root):
    """Make a source tree whose Ascend library calls that function."""
    files = {
        "csrc/include/llm_datadist.h": HEADER.read_text(),
        "csrc/exports.map": "{ global: lldd_*; local: *; };\n",
        "csrc/base/a.cc": "#include <string>\nstd::string A();\nstd::string A() { return {}; }\n",
        "csrc/runtime/d.cc": "int D();\nint D() { return 4; }\n",
        "csrc/engine/b.cc": "int B();\nint B() { return 1; }\n",
        "csrc/ascend/c.cc": (
            "#include <stdexcept>\n#include <string>\n"
            "#include <acl/acl.h>\n#include <hixl/hixl.h>\n"
            "#if _GLIBCXX_USE_CXX11_ABI != 0\n#error the strings of the new ABI\n#endif\n"
            'extern "C" __attribute__((visibility("default"))) int lldd_number();\n'
            "int lldd_number() {\n"
            "    try { throw std::runtime_error(std::string(20, 'x')); }\n"
            "    catch (const std::exception &) { return metadef_number() + hixl_number(); }\n"
            "}\n"
        ),
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root
