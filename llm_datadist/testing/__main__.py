# SPDX-License-Identifier: Apache-2.0
"""Runs the process of a peer; a file of its own, because its classes must not exist a second time
as __main__.
"""

from __future__ import annotations

from .peer_main import main

main()
