# SPDX-License-Identifier: Apache-2.0
"""What the Ascend library cannot be asked, each with the capability that is missing.

A test is named by its function, or a whole file by its name. On the mock everything runs. Nothing
is here because it fails.
"""

from __future__ import annotations

import pytest
from paths import ON_ASCEND

_NO_SCRIPTS = (
    "LLDD_CAN_INJECT_FAULTS",
    "fault scripts are the mock's; tests/ascend has the faults of the fake CANN",
)
ASCEND = {
    "test_fault_loops.py": _NO_SCRIPTS,
    "test_fault_rules.py": _NO_SCRIPTS,
    "test_fault_shaping.py": _NO_SCRIPTS,
    "test_fault_statuses.py": _NO_SCRIPTS,
    "test_refused_process_vm.py": ("process_vm", "it is about the transports of the mock"),
    "test_c1_9_8_a_cpu_cache_is_no_cache_of_the_engine": (
        "device memory at host addresses",
        "it calls a device pool host memory, and ACL takes that at its word",
    ),
    "test_c3_2_17_what_init_does_not_look_at": (
        "a transport that begins with the first link",
        "HIXL begins with init where the address is known, and reads its options then",
    ),
}


def exclude(items: list[pytest.Item]) -> None:
    """Mark what is not run here."""
    for item in items if ON_ASCEND else []:
        function = item.name.partition("[")[0]
        found = ASCEND.get(item.path.name) or ASCEND.get(function)
        if found is not None:
            item.add_marker(pytest.mark.skip(reason=f"capability {found[0]}: {found[1]}"))
