# SPDX-License-Identifier: Apache-2.0
"""What the mock runtime takes for the memory and CPUs of this process, on hosts that are made up:
folders with /proc and /sys as kernels and container runtimes lay them out.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from llm_datadist._native import libraries
from llm_datadist._native.facade import Facade
from llm_datadist._tools.host import AvailableMemory, UsableCpus, available_memory, cpus_of
from llm_datadist.status import LLMOutOfMemoryError
from llm_datadist.testing import Geometry, Peer

GIB = 1 << 30
VARIABLE = "LLM_DATADIST_MOCK_HOST_ROOT"
MEMINFO = "MemTotal:       16777216 kB\nMemFree:  1024 kB\nMemAvailable:    8388608 kB\n"
ON_MACHINE = AvailableMemory(8 * GIB, "on this machine")
UNIFIED = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
# Another file system, two hierarchies of version 1, one of which has two controllers, and version
# 2 beside them without controllers.
HYBRID = (
    "23 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n"
    "33 31 0:31 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
    "35 31 0:32 / /sys/fs/cgroup/memory rw shared:8 master:2 - cgroup cgroup rw,memory\n"
    "41 31 0:38 / /sys/fs/cgroup/unified rw shared:7 - cgroup2 cgroup2 rw\n"
)

Files = Mapping[str, str]


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Files], str]:
    """Make a host with these files, and have the runtime of this process look at it."""

    def make(files: Files) -> str:
        for name, text in {"proc/meminfo": MEMINFO, **files}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        monkeypatch.setenv(VARIABLE, str(tmp_path))
        return str(tmp_path)

    return make


def group(folder: str, limit: object, used: int, inactive_file: int = 0) -> Files:
    """The files of one memory group of version 2."""
    return {
        f"{folder}/memory.max": f"{limit}\n",
        f"{folder}/memory.current": f"{used}\n",
        f"{folder}/memory.stat": f"anon 5\nfile 7\ninactive_file {inactive_file}\nactive_file 9\n",
    }


def unified(path: str, *groups: Files, mounts: str = UNIFIED) -> dict[str, str]:
    files = {"proc/self/cgroup": f"0::{path}\n", "proc/self/mountinfo": mounts}
    for each in groups:
        files.update(each)
    return files


def version_1(folder: str, limit: int, used: int, inactive_file: int = 0) -> Files:
    """The files of one memory group of version 1, whose totals count the groups below it."""
    return {
        f"{folder}/memory.limit_in_bytes": f"{limit}\n",
        f"{folder}/memory.usage_in_bytes": f"{used}\n",
        f"{folder}/memory.stat": f"inactive_file 1\ntotal_inactive_file {inactive_file}\n",
    }


# ---- memory ----


def test_a_machine_without_limits(host):
    host(unified("/user.slice", group("sys/fs/cgroup/user.slice", "max", 5 * GIB)))
    assert available_memory() == ON_MACHINE


def test_a_machine_without_control_groups(host):
    host({})
    assert available_memory() == ON_MACHINE


def test_page_cache_that_can_be_reclaimed_is_not_used(host):
    root = host(unified("/", group("sys/fs/cgroup", 8 * GIB, 8 * GIB, 6 * GIB)))
    assert available_memory() == AvailableMemory(
        6 * GIB, f"in the control group {root}/sys/fs/cgroup"
    )


def test_a_group_has_no_more_than_its_limit(host):
    # The two files are read one after the other.
    host(unified("/", group("sys/fs/cgroup", GIB, GIB, 2 * GIB)))
    assert available_memory().bytes == GIB


def test_a_group_beyond_its_limit_has_nothing(host):
    host(unified("/", group("sys/fs/cgroup", GIB, 2 * GIB)))
    assert available_memory().bytes == 0


def test_the_limit_of_an_ancestor_counts(host):
    outer = group("sys/fs/cgroup/outer", 3 * GIB, 2 * GIB, GIB // 2)
    inner = group("sys/fs/cgroup/outer/inner", "max", 4096)
    root = host(unified("/outer/inner", outer, inner))
    assert available_memory() == AvailableMemory(
        GIB + GIB // 2, f"in the control group {root}/sys/fs/cgroup/outer"
    )


def test_the_least_of_all_counts(host):
    outer = group("sys/fs/cgroup/outer", 3 * GIB, GIB)
    inner = group("sys/fs/cgroup/outer/inner", 2 * GIB, GIB)
    root = host(unified("/outer/inner", outer, inner))
    assert available_memory() == AvailableMemory(
        GIB, f"in the control group {root}/sys/fs/cgroup/outer/inner"
    )


def test_a_limit_above_what_the_machine_has(host):
    host(unified("/", group("sys/fs/cgroup", 64 * GIB, GIB)))
    assert available_memory() == ON_MACHINE


def test_a_container_that_is_told_the_path_of_the_host(host):
    root = host(unified("/of/the/host", group("sys/fs/cgroup", 2 * GIB, GIB)))
    assert available_memory() == AvailableMemory(GIB, f"in the control group {root}/sys/fs/cgroup")


def test_only_a_part_of_the_hierarchy_is_mounted(host):
    mounts = "30 23 0:26 /docker/12 /groups rw - cgroup2 none rw\n"
    inner = group("groups/job", 2 * GIB, GIB)
    # What the mount does not show must not be taken for its own.
    other = group("groups/docker/12/job", GIB // 4, 0)
    root = host(unified("/docker/12/job", inner, other, mounts=mounts))
    assert available_memory() == AvailableMemory(GIB, f"in the control group {root}/groups/job")


def test_a_group_of_which_only_the_name_begins_alike_is_another_one(host):
    mounts = "30 23 0:26 /docker/1 /groups rw - cgroup2 none rw\n"
    host(unified("/docker/12", group("groups/2", GIB, 0), mounts=mounts))
    assert available_memory() == ON_MACHINE


def test_a_mount_with_a_space_in_its_path(host):
    mounts = r"30 23 0:26 / /my\040groups\134 rw - cgroup2 none rw" + "\n"
    root = host(unified("/", group("my groups\\", GIB, 0), mounts=mounts))
    assert available_memory() == AvailableMemory(GIB, f"in the control group {root}/my groups\\")


@pytest.mark.parametrize("path", ["/", "/docker/12"])
def test_version_1(host, path):
    folder = "sys/fs/cgroup/memory" + path.rstrip("/")
    root = host(
        {
            "proc/self/cgroup": f"12:cpu,cpuacct:/x\n4:memory:{path}\n1:name=systemd:/\n0::/\n",
            "proc/self/mountinfo": HYBRID,
            # "No limit" of version 1, above the group.
            **version_1("sys/fs/cgroup/memory", 9223372036854771712, 12 * GIB),
            **version_1(folder, 2 * GIB, 2 * GIB, GIB),
            # That of another controller, and of version 2, which has no memory here.
            **version_1("sys/fs/cgroup/cpu,cpuacct/x", 1, 1),
            **version_1("sys/fs/cgroup/unified", 1, 1),
        }
    )
    assert available_memory() == AvailableMemory(GIB, f"in the control group {root}/{folder}")


def test_files_that_make_no_sense_are_no_limit(host):
    files = unified("/", group("sys/fs/cgroup", "soon", 1))
    files["proc/self/cgroup"] += "nonsense\n:\n7\n"
    files["proc/self/mountinfo"] += "nonsense\n\n1 2 3\n30 23 0:26 / /x rw - cgroup2\n"
    host(files)
    assert available_memory() == ON_MACHINE


def test_this_machine_has_some():
    assert available_memory().bytes > 0


# ---- what allocations answer ----

CACHE = Geometry(num_tensors=2, num_blocks=8, block_bytes=512 << 10)  # 8 MiB


def allocate(root: str) -> None:
    with Peer.start({VARIABLE: root}) as peer:
        peer.init(1, device_pool=16 << 20)
        peer.allocate("cache", CACHE, stamp=1)


def test_a_group_full_of_page_cache_has_room_for_a_cache(host):
    allocate(host(unified("/", group("sys/fs/cgroup", 8 * GIB, 8 * GIB, 7 * GIB))))


def test_the_text_names_the_group_that_has_no_room(host):
    outer = group("sys/fs/cgroup/outer", GIB, GIB, 4096)
    inner = group("sys/fs/cgroup/outer/inner", "max", 4096)
    root = host(unified("/outer/inner", outer, inner))
    text = f"4096 are available in the control group {root}/sys/fs/cgroup/outer"
    with pytest.raises(LLMOutOfMemoryError, match=re.escape(text) + "[.]$"):
        allocate(root)


def test_the_text_says_that_the_machine_has_no_room(host):
    root = host({"proc/meminfo": "MemAvailable:  8 kB\n"})
    with pytest.raises(LLMOutOfMemoryError, match=r"8192 are available on this machine\.$"):
        allocate(root)


# ---- CPUs ----


def usable_cpus() -> UsableCpus:
    library = libraries.load("mock")
    return cpus_of(Facade(library.ffi, library.lib))


@pytest.mark.parametrize(
    ("path", "quotas", "quota"),
    [
        ("/a/b", {"a": "350000 100000", "a/b": "max 100000"}, 3),  # of the ancestor, rounded down
        ("/a/b", {"a": "350000 100000", "a/b": "50000 100000"}, 1),  # at least one
        ("/a", {"a": "350000 100000", "a/b": "50000 100000"}, 3),
        ("/of/the/host", {"a": "350000 100000"}, None),
        ("/of/the/host", {"": "200000 100000"}, 2),
        ("/a", {"": "max 100000"}, None),
        ("/a", {"": "200000 0"}, None),
    ],
)
def test_quotas_of_version_2(host, path, quotas, quota):
    files = {f"sys/fs/cgroup/{name}/cpu.max": f"{text}\n" for name, text in quotas.items()}
    host(unified(path, files))
    assert usable_cpus().quota == quota


@pytest.mark.parametrize(("text", "quota"), [("400000", 4), ("-1", None), ("", None)])
def test_quotas_of_version_1(host, text, quota):
    folder = "sys/fs/cgroup/cpu,cpuacct/docker"
    host(
        {
            "proc/self/cgroup": "5:cpuset:/docker\n4:cpu,cpuacct:/docker\n0::/\n",
            "proc/self/mountinfo": HYBRID,
            f"{folder}/cpu.cfs_quota_us": text,
            f"{folder}/cpu.cfs_period_us": "100000\n",
        }
    )
    assert usable_cpus().quota == quota


def test_the_quota_bounds_the_threads_that_copy(host):
    root = host(unified("/", {"sys/fs/cgroup/cpu.max": "100000 100000\n"}))
    with Peer.start({VARIABLE: root}) as peer:
        peer.init(1)
        assert "allowed: 1\n" in peer.call("runtime_control", "threads", "")


REFUSES_MEMFD = """
#include <errno.h>
int memfd_create(const char *name, unsigned flags) { errno = EPERM; return -1; }
"""
OPENS_WITH_A_POOL = """
from llm_datadist import LLMDataDist, LLMException, LLMRole
try:
    LLMDataDist.open(LLMRole.MIX, 1, mem_pool_cfg='{"memory_size": 1048576}')
except LLMException as refused:
    print(refused.status_code.name, refused)
"""


def test_a_container_that_refuses_shared_memory_is_not_out_of_memory(tmp_path: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("capability C compiler: neither cc nor gcc is there")
    (tmp_path / "refuses.c").write_text(REFUSES_MEMFD)
    library = tmp_path / "refuses.so"
    command = [compiler, "-shared", "-fPIC", str(tmp_path / "refuses.c"), "-o", str(library)]
    subprocess.run(command, check=True)
    preload = f"{os.environ.get('LD_PRELOAD', '')} {library}".strip()
    said = subprocess.run(
        [sys.executable, "-c", OPENS_WITH_A_POOL],
        env={**os.environ, "LD_PRELOAD": preload},
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.stdout.startswith("LLM_FAILED "), said
    assert "memfd_create is refused" in said.stdout
