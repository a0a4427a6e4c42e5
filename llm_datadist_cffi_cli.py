# SPDX-License-Identifier: Apache-2.0
"""The entry of the console script ``llm-datadist``.

CANN has a Python package of the name llm_datadist, too, and its environment script may put it
first on the path. This module's name is its own, so it is always found, and it takes the
llm_datadist that lies beside it, whatever the path and the current directory hold.
"""

from __future__ import annotations

import importlib.util
import os
import sys


def _import_neighbour() -> None:
    """Import the package llm_datadist that was installed together with this module."""
    package = os.path.join(os.path.dirname(os.path.abspath(__file__)), "llm_datadist")
    spec = importlib.util.spec_from_file_location(
        "llm_datadist",
        os.path.join(package, "__init__.py"),
        submodule_search_locations=[package],
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"{package} is not a package")
    module = importlib.util.module_from_spec(spec)
    sys.modules["llm_datadist"] = module
    spec.loader.exec_module(module)


def main() -> int:
    """Run the command line; returns the exit status."""
    _import_neighbour()
    from llm_datadist.__main__ import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
