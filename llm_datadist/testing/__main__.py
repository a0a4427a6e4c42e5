# SPDX-License-Identifier: Apache-2.0
"""Runs the process of a peer, as a script: python .../llm_datadist/testing/__main__.py DESCRIPTOR

By its path, because the current folder, or one of the path, may have another package of the name
llm_datadist, CANN's for instance: a peer uses the one that this file belongs to, and finds every
other module where the process finds it that started the peer. What it does is in peer_main.py,
whose classes must not exist a second time as __main__.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import signal
import sys

_FOLDER = os.path.dirname(os.path.abspath(__file__))


def _import_own_package() -> None:
    package = os.path.dirname(_FOLDER)
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


# Ctrl-C in a terminal also reaches the peers; the process that started them decides.
signal.signal(signal.SIGINT, signal.SIG_IGN)
# A script finds its own folder first, unless the interpreter is told otherwise.
if os.path.abspath(sys.path[0]) == _FOLDER:
    del sys.path[0]
_import_own_package()
importlib.import_module("llm_datadist.testing.peer_main").main()
