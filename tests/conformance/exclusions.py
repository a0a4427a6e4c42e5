# SPDX-License-Identifier: Apache-2.0
"""What the Ascend library cannot be asked, each with the capability that is missing.

A test is named by its function, by that and the value of a parameter, or a whole file by its name.
On the mock everything runs. Nothing is here because it fails.
"""

from __future__ import annotations

import pytest

from tests.conformance.paths import ON_ASCEND, ON_DEVICE

_NO_SCRIPTS = (
    "LLDD_CAN_INJECT_FAULTS",
    "fault scripts are the mock's; tests/runtimes/ascend has the faults of the fake CANN",
)
_TO_ITSELF = (
    "links of an engine to itself",
    "HIXL connects no two engines of one device, and so none to itself",
)
_NO_SUMS = (
    "checksums of device memory",
    "the processor cannot read it, so init refuses LLM_DATADIST_VERIFY",
)
ASCEND = {
    "test_fault_loops.py": _NO_SCRIPTS,
    "test_fault_mute.py": _NO_SCRIPTS,
    "test_fault_rules.py": _NO_SCRIPTS,
    "test_fault_shaping.py": _NO_SCRIPTS,
    "test_fault_statuses.py": _NO_SCRIPTS,
    "test_a_peer_learns_sums_of_what_it_may_reach_only": _NO_SUMS,
    "test_a_changed_byte_is_found_and_named": _NO_SUMS,
    "test_nothing_is_compared_unless_it_is_asked_for": _NO_SCRIPTS,
    "test_a_block_that_is_written_twice_is_left_out": _NO_SUMS,
    "test_what_does_not_fit_one_message": _NO_SUMS,
    "test_a_peer_that_does_not_sum_is_a_timeout": _NO_SUMS,
    "test_a_pull_in_request_mode_keeps_its_key": _NO_SUMS,
    "test_layers_that_are_sent": _NO_SUMS,
    "test_where_the_kernel_refuses_process_vm": _NO_SUMS,
    "test_barriers.py": (
        "threads of the peer in this process's memory",
        "it stops one of them; with HIXL the hardware moves the bytes",
    ),
    "test_late_bytes.py": (
        "data streams of the engine",
        "it stalls them in a relay, and HIXL's bytes go elsewhere; docs/barriers.md has what holds",
    ),
    "test_refused_process_vm.py": ("process_vm", "it is about the transports of the mock"),
    "test_c1_9_8_a_cpu_cache_is_no_cache_of_the_engine": (
        "device memory at host addresses",
        "it calls a device pool host memory, and ACL takes that at its word",
    ),
    "test_a_fault": _NO_SCRIPTS,
    "test_c7_4_11_unlink_while_it_dials_the_other_member": _NO_SCRIPTS,
    "test_members_of_a_communicator_dial_from_the_host_ip": (
        "a transport that begins with the first link",
        "HIXL begins with init at LLM_DATADIST_HOST_IP, which must be an address of this host",
    ),
    "test_a_network_that_goes_silent_and_comes_back": (
        "data streams of the engine",
        "it stalls the control connection in a relay, and HIXL's bytes go elsewhere",
    ),
    "test_a_link_to_oneself_works_and_pulling_from_oneself_is_refused": _TO_ITSELF,
    "test_c6_1_30_the_own_cluster_is_not_linked_unless_it_is": _TO_ITSELF,
    "test_c10_52_the_own_id_warns": _TO_ITSELF,
    "test_c3_2_17_what_init_does_not_look_at": (
        "a transport that begins with the first link",
        "HIXL begins with init where the address is known, and reads its options then",
    ),
}

_OF_THE_HOST = (
    "device memory at host addresses",
    "it registers memory of the host as a device's, which only a stand-in for a device takes",
)
_NOT_MAPPED = (
    "device memory at host addresses",
    "it registers addresses where nothing is, which a device notices at once",
)
# Where device memory is a device's: what is more than the above.
DEVICE = {
    "test_an_unmapped_address_of_the_owner": _NOT_MAPPED,
    "test_an_unmapped_address_of_the_caller": _NOT_MAPPED,
    "test_an_unmapped_address_beside_a_pool": _NOT_MAPPED,
    "test_c5_5_24_nor_does_one_that_fails_while_it_reads": _NOT_MAPPED,
    "test_c9_42_registering_does_not_touch_the_memory": _NOT_MAPPED,
    "test_memory_that_is_not_mapped_is_failed": _NOT_MAPPED,
    "test_any_alignment_and_allocator": _OF_THE_HOST,
    "test_memory_that_may_only_be_read": _OF_THE_HOST,
    "test_memory_that_the_owner_took_away_while_registered": _OF_THE_HOST,
    ("test_unregistered_and_freed_while_peers_pull_and_push", "mapped anew"): _OF_THE_HOST,
}
EXCLUDED = {**(ASCEND if ON_ASCEND else {}), **(DEVICE if ON_DEVICE else {})}


def exclude(items: list[pytest.Item]) -> None:
    """Mark what is not run here."""
    for item in items:
        function = item.name.partition("[")[0]
        parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
        names = [item.path.name, function]
        names += [(function, value) for value in parameters if isinstance(value, str)]
        for found in (EXCLUDED[name] for name in names if name in EXCLUDED):
            item.add_marker(pytest.mark.skip(reason=f"capability {found[0]}: {found[1]}"))
