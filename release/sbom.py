# SPDX-License-Identifier: Apache-2.0
"""The bill of materials of a wheel: what is linked into its library, as CycloneDX (PEP 770)."""

from __future__ import annotations

import json
import re

# Which parts of LLVM zig links into a C++ library, none of which stays a file of its own.
LLVM_PARTS = ("libc++", "libc++abi", "libunwind", "compiler-rt")
LLVM_LICENSE = "Apache-2.0 WITH LLVM-exception"


def llvm_version(compiler_version: str) -> str:
    """Return LLVM's version from what ``zig c++ --version`` prints; raises ValueError."""
    found = re.search(r"clang version (\d+\.\d+\.\d+)", compiler_version)
    if found is None:
        raise ValueError(f"no version of clang in {compiler_version!r}")
    return found[1]


def bill(version: str, zig: str, llvm: str) -> str:
    """Return the document for a wheel of this version, compiled by this zig with this LLVM."""
    itself = f"pkg:pypi/llm-datadist-cffi@{version}"
    parts = [
        {
            "type": "library",
            "bom-ref": f"{name}@{llvm}",
            "name": name,
            "version": llvm,
            "licenses": [{"expression": LLVM_LICENSE}],
        }
        for name in LLVM_PARTS
    ]
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "tools": {"components": [{"type": "application", "name": "zig", "version": zig}]},
            "component": {
                "type": "library",
                "bom-ref": itself,
                "name": "llm-datadist-cffi",
                "version": version,
                "purl": itself,
                "licenses": [{"expression": "Apache-2.0"}],
            },
        },
        "components": parts,
        "dependencies": [{"ref": itself, "dependsOn": [part["bom-ref"] for part in parts]}],
    }
    return json.dumps(document, indent=1) + "\n"
