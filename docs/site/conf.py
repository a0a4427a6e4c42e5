# SPDX-License-Identifier: Apache-2.0
"""How Sphinx makes a site of the pages: ``nox -s docs`` writes it to build/site/."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# The extensions beside this file, and docs/fidelity.py, which reads the rules of the contract.
sys.path[:0] = [str(ROOT), str(ROOT / "docs" / "site"), str(ROOT / "docs")]

from llm_datadist import __version__ as release  # noqa: E402

project = "llm-datadist"
author = "the llm-datadist authors"
copyright = "The llm-datadist authors, Apache-2.0"
version = release

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx_rules",
    "sphinx_contents",
    "sphinx_api",
    "sphinx_tables",
]

# The pages are read where they are, so that the links between them are the same everywhere.
root_doc = "docs/index"
include_patterns = ["*.md", "docs/**.md", "examples/**.md"]
exclude_patterns = ["AGENTS.md", "**/.*", ".*", "build", "dist", "llm_datadist", "tests", "csrc"]
source_suffix = {".md": "markdown"}
suppress_warnings: list[str] = []
nitpicky = True
# Types of others, whose pages are elsewhere, and types that only appear in signatures.
nitpick_ignore_regex = [
    ("c:identifier", r"u?int(8|16|32|64)_t"),
    ("py:class", r"(collections|concurrent|numpy|os|subprocess)\..*"),
    # Sphinx divides the type of a field of a dataclass at its comma.
    ("py:class", r"dict\[str"),
    ("py:class", r"AbstractContextManager|Engine|NDArray|PullKey|PullKeywords|Source|Token"),
    ("py:class", r"llm_datadist\.events\.Source"),
    ("py:class", r"llm_datadist\.(_\w+|testing\.\w+)\..*"),
    ("py:exc", r"NativeLibraryError|LLMParamInvalidError|PicklingError|JSONDecodeError"),
    ("py:func", r"library|select"),
]

myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"

html_theme = "furo"
html_title = f"llm-datadist {release}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_extra_path = ["root"]
html_show_sourcelink = False
html_copy_source = False
