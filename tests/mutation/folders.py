# SPDX-License-Identifier: Apache-2.0
"""What is mutated, and which tests are the fast part of the suite for it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

CONTROL = "tests/conformance/test_control_messages.py"
PLANS = "tests/engine/test_block_plan.py"
RUNTIME = "tests/runtimes/mock/test_runtime.py"
FAULTS = "tests/conformance/test_fault_rules.py"


def conformance(*names: str) -> tuple[str, ...]:
    return tuple(f"tests/conformance/test_{name}.py" for name in names)


def ascend(*names: str) -> tuple[str, ...]:
    return tuple(f"tests/runtimes/ascend/test_ascend_{name}.py" for name in names)


@dataclass(frozen=True)
class Folder:
    """Sources, and what tests them: first what concerns one file, then what concerns all."""

    name: str
    patterns: tuple[str, ...]
    tests: tuple[str, ...]
    first: dict[str, tuple[str, ...]] = field(default_factory=dict)
    # pytest's -m: what takes long, or needs another build, is not the fast part.
    selects: str = "not slow"
    # Tests of moments, which a busy machine may miss.
    without: tuple[str, ...] = ()
    left_out: str = "$^"
    environment: dict[str, str] = field(default_factory=dict)

    def all_tests(self) -> list[str]:
        """Return the tests for a mutant in any file."""
        first = [test for tests in self.first.values() for test in tests]
        return list(dict.fromkeys([*first, *self.tests]))

    def first_tests_of(self, file: str) -> list[str]:
        """Return the tests that concern this file."""
        found = [
            test
            for pattern, tests in self.first.items()
            if re.search(pattern, file)
            for test in tests
        ]
        return list(dict.fromkeys(found))

    def tests_of(self, file: str) -> list[str]:
        """Return the tests for a mutant in this file, the most relevant first."""
        return list(dict.fromkeys([*self.first_tests_of(file), *self.tests]))

    def has(self, file: str) -> bool:
        return re.search(self.left_out, file) is None


LINKING = conformance("control_messages", "linking", "link_steps", "communicators")
BYTES = conformance("pull_blocks", "push_blocks", "push_cache", "pull_sizes", "copies")
ATTACKS = tuple(
    f"tests/attacks/test_{name}.py"
    for name in ("flood_of_requests", "links_left_behind", "shared_memory")
)
REQUESTS = conformance("request_mode_lookup", "request_mode_keys", "request_mode_pins")
CACHES = conformance("caches_ids_and_keys", "caches_pools", "caches_register", "caches_release")

FOLDERS = {
    folder.name: folder
    for folder in (
        Folder(
            "engine",
            ("csrc/engine/*.cc", "csrc/engine/*.h"),
            (
                *LINKING,
                *BYTES,
                *CACHES,
                *REQUESTS,
                *conformance(
                    "swap_and_remap", "engine_options", "decisions_values", "async_checks"
                ),
                *conformance("switch_role", "protocol_versions", "peer_frame", "one_sided_pull"),
                *conformance("after_the_link", "interrupted_transfers", "one_at_a_time"),
                *conformance("dead_and_stopped_peers", "decisions_links", "caches_table"),
                *conformance("warnings_of_peers", "forked_child", "client_habits", "async_task"),
                *ATTACKS,
            ),
            {
                "plan_|tensor": (PLANS, "tests/engine/test_tensor.py"),
                "page_pool": ("tests/engine/test_page_pool.py", *conformance("caches_pools")),
                "cache_store|cache_key|owner_": ("tests/engine/test_cache_store.py", *REQUESTS),
                "rank_table|lenient_json": ("tests/engine/test_rank_table.py",),
                "peer_table": (*conformance("caches_table"), CONTROL),
                "wire|control_channel|hello|acceptor": (
                    CONTROL,
                    *conformance("control_port", "protocol_versions"),
                    *ATTACKS,
                ),
                "groups|meeting|rendezvous": conformance(
                    "communicators", "communicator_calls", "rendezvous", "rank_tables"
                ),
                "transfers|mismatches": (
                    *conformance("pull_check_order", "push_order", "silent_mismatches"),
                    *conformance("async_transfer", "decisions_strict"),
                ),
                "abi_|engine.cc|call_gate": (
                    "tests/abi/test_library.py",
                    *conformance("engine_options", "threads_life_cycle"),
                ),
                "link_(initiator|directory)|link.cc": conformance(
                    "linking_at_once", "decisions_links", "one_way_links", "dead_and_stopped_peers"
                ),
            },
            without=(
                "tests/conformance/test_request_mode_pins.py::"
                "test_c4_4_2_a_local_call_in_progress_keeps_its_cache",
            ),
            environment={"LLM_DATADIST_TEST_PATHS": "mapped"},
        ),
        Folder(
            "base",
            ("csrc/base/*.cc", "csrc/base/*.h", "csrc/runtime/*.cc", "csrc/runtime/*.h"),
            (
                "tests/engine/test_hmac.py",
                "tests/runtimes/mock/test_host.py",
                CONTROL,
                RUNTIME,
                *conformance("linking", "communicators", "control_port", "forked_child"),
                *conformance("pull_blocks", "caches_register", "request_mode_lookup"),
                *conformance("interrupted_transfers", "dead_and_stopped_peers", "rendezvous"),
                *conformance("threads_life_cycle", "decisions_values", "one_at_a_time"),
                *conformance("silent_mismatches", "protocol_versions", "link_steps"),
                *conformance("tasks", "verified_transfers", "log_lines"),
                "tests/abi/test_log.py",
                "tests/engine/test_addresses.py",
                "tests/engine/test_cache_store.py",
                "tests/engine/test_checksum.py",
                "tests/attacks/test_strangers.py",
                *ATTACKS,
            ),
            {
                "hmac": ("tests/engine/test_hmac.py",),
                "checksum": ("tests/engine/test_checksum.py",),
                "strangers": ("tests/attacks/test_strangers.py",),
                "interrupt|deadline": conformance("tasks", "interrupted_transfers"),
                "control_groups": ("tests/runtimes/mock/test_host.py",),
                "range_map|regions|pieces": (RUNTIME, CONTROL),
                "status|log": conformance("fault_rules", "fault_statuses"),
                "event_loop|socket|listener|deadline": (CONTROL, *conformance("link_steps")),
            },
            environment={"LLM_DATADIST_TEST_PATHS": "tcp"},
        ),
        Folder(
            "mock",
            ("mock_runtime/*.cc", "mock_runtime/*.h"),
            (
                RUNTIME,
                "tests/runtimes/mock/test_host.py",
                *conformance("pull_blocks", "push_blocks", "copies", "unmapped_memory"),
                *conformance("withdrawing_memory", "refused_process_vm", "link_steps"),
                *conformance("fault_rules", "fault_statuses", "fault_shaping", "forked_child"),
                *conformance("interrupted_transfers", "dead_and_stopped_peers"),
                *conformance("caches_register", "caches_pools", "engine_options", "control_port"),
                "tests/runtimes/mock/test_absurd_lengths.py",
                *ATTACKS,
            ),
            {
                "fault": conformance("fault_rules", "fault_statuses", "fault_shaping"),
                "environment|host_": ("tests/runtimes/mock/test_host.py",),
                "control|runtime": (FAULTS, *conformance("engine_options")),
            },
        ),
        Folder(
            "ascend",
            ("csrc/ascend/*.cc", "csrc/ascend/*.h"),
            (
                *ascend("links", "device", "limits", "holds", "withdrawal", "faults"),
                *ascend("clients_device", "library", "silent_peers", "versions"),
            ),
            {
                "copies": ascend("limits", "faults", "device"),
                "cann": ascend("faults"),
                "memory|withdrawals": ascend("withdrawal"),
            },
        ),
        Folder(
            "python",
            ("llm_datadist/*.py", "llm_datadist/_native/*.py"),
            ("tests/api", "tests/abi"),
            left_out=r"_ffi|_native/(building|cann|compiler|declarations)",
        ),
    )
}
