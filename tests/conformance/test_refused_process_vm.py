# SPDX-License-Identifier: Apache-2.0
"""Where process_vm_readv and writev are refused, another path is taken and says why: performance.md
number 7.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
from typing import Any

import pytest

from llm_datadist import BlocksCacheKey, LLMStatusCode
from llm_datadist.introspection import MemoryKind
from llm_datadist.testing import Peer, check, moved
from tests.conformance.paths import TRANSPORT, path_to
from tests.conformance.refusals import refused_by_engine
from tests.conformance.stage import OWNER, PULLER, SMALL, Stage, linked

S = LLMStatusCode
KEY = BlocksCacheKey(OWNER, 0)
SCOPE_FILE = "LLM_DATADIST_MOCK_PTRACE_SCOPE_FILE"
PTRACER = "LLM_DATADIST_MOCK_PTRACER"
NOBODY = 65534
# The numbers of process_vm_readv and process_vm_writev.
PROCESS_VM_CALLS = {"x86_64": (310, 311), "aarch64": (270, 271)}


def needs_process_vm(stage: Stage) -> None:
    if stage.process_vm_refused:
        pytest.skip(f"capability process_vm: {stage.process_vm_refused}")


def needs_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("capability setuid: only root becomes another user")


def become_nobody(peer: Peer) -> None:
    """Change the user after all imports: nobody may not be able to read Python's files."""
    peer.init(99, listen="127.0.0.1:0")
    peer.register("warm up", SMALL, 1)
    with refused_by_engine("pull_blocks", S.LLM_NOT_YET_LINK):
        peer.pull("warm up", KEY, [0], [0])
    assert peer.link_to().status == S.LLM_PARAM_INVALID
    peer.reset()
    peer.call("become_user", NOBODY)


def two(stage: Stage, owner: Peer, puller: Peer, **environment: str):
    stage.engine(OWNER, process=owner, environment=environment)
    stage.engine(PULLER, process=puller, listen=None, environment=environment)
    source = owner.register("kv", SMALL, 1, 0)
    target = puller.register("kv", SMALL, 2)
    linked(puller, owner)
    return source, target


def expect(owner: Peer, puller: Peer, source, target, path: str, *reasons: str) -> None:
    """The puller reaches the owner's registered memory on this path, for these reasons, and the
    bytes arrive.
    """
    found = path_to(puller, owner, MemoryKind.REGISTERED)
    assert found.path == path, found
    for reason in reasons:
        assert reason in found.reason.lower(), found
    puller.pull("kv", KEY, [3], [4])
    puller.push("kv", KEY, [9], [8])
    check(target, moved(target.filled(), source.filled(), [3], [4]))
    check(source, moved(source.filled(), target.filled(), [9], [8]))


def expect_refusal(owner: Peer, puller: Peer, source, target, reason: str) -> None:
    """With no other path allowed, nothing can serve, and the error says why."""
    found = path_to(puller, owner, MemoryKind.REGISTERED)
    assert found.path == "none", found
    assert reason in found.reason
    for operation in ("pull", "push"):
        with refused_by_engine(f"{operation}_blocks", S.LLM_FEATURE_NOT_ENABLED, OWNER, reason):
            getattr(puller, operation)("kv", KEY, [0], [0])
    check(target, target.filled())
    check(source, source.filled())


def test_nothing_refuses_it(stage: Stage) -> None:
    needs_process_vm(stage)
    owner, puller = stage.process(), stage.process()
    caches = two(stage, owner, puller)
    expect(owner, puller, *caches, "cma")
    assert path_to(owner, puller, MemoryKind.REGISTERED).path == "cma"


@pytest.mark.parametrize("transports", ["mapped,cma,tcp", "cma"])
def test_an_owner_that_is_not_dumpable(stage: Stage, transports: str) -> None:
    # The capability would read it all the same, so the reader gives it up.
    owner, puller = stage.process_of_its_own(), stage.process_of_its_own()
    owner.call("become_undumpable")
    puller.call("drop_ptrace_capability")
    caches = two(stage, owner, puller, **{TRANSPORT: transports})
    if transports == "cma":
        expect_refusal(owner, puller, *caches, "process_vm_readv")
    else:
        expect(owner, puller, *caches, "tcp", "process_vm_readv")


@pytest.mark.parametrize("transports", ["mapped,cma,tcp", "cma"])
def test_another_user(stage: Stage, transports: str) -> None:
    needs_root()
    owner, puller = stage.process(), stage.process_of_its_own()
    become_nobody(puller)
    caches = two(stage, owner, puller, **{TRANSPORT: transports})
    if transports == "cma":
        expect_refusal(owner, puller, *caches, "process_vm_readv")
    else:
        expect(owner, puller, *caches, "tcp", "process_vm_readv")


def test_another_user_and_the_path_of_each_direction_is_its_own(stage: Stage) -> None:
    needs_root()
    needs_process_vm(stage)
    owner, puller = stage.process(), stage.process_of_its_own()
    become_nobody(puller)
    stage.engine(OWNER, process=owner)
    stage.engine(PULLER, process=puller, listen=None)
    source = owner.register("kv", SMALL, 1, 0)
    target = puller.register("kv", SMALL, 2, 0)
    linked(puller, owner)
    # Root's process may read the other one's, but not the other way round.
    assert path_to(owner, puller, MemoryKind.REGISTERED).path == "cma"
    expect(owner, puller, source, target, "tcp", "process_vm_readv")
    owner.pull("kv", BlocksCacheKey(PULLER, 0), [1], [2])


class Filter(ctypes.Structure):
    """struct sock_filter of linux/filter.h."""

    _fields_ = (
        ("code", ctypes.c_uint16),
        ("jt", ctypes.c_uint8),
        ("jf", ctypes.c_uint8),
        ("k", ctypes.c_uint32),
    )


class Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("filters", ctypes.POINTER(Filter)))


def have_the_kernel_refuse(actor: Any, error: int) -> None:
    """Let process_vm_readv and writev of this thread fail from now on, as a container may."""
    readv, writev = PROCESS_VM_CALLS[platform.machine()]
    load, equal, answer = 0x20, 0x15, 0x06
    filters = (Filter * 5)(
        Filter(load, 0, 0, 0),
        Filter(equal, 1, 0, readv),
        Filter(equal, 0, 1, writev),
        Filter(answer, 0, 0, 0x00050000 | error),  # SECCOMP_RET_ERRNO
        Filter(answer, 0, 0, 0x7FFF0000),  # SECCOMP_RET_ALLOW
    )
    libc = ctypes.CDLL(None, use_errno=True)
    no_new_privileges, set_seccomp, filter_mode = 38, 22, 2
    assert libc.prctl(no_new_privileges, 1, 0, 0, 0) == 0
    program = Program(len(filters), filters)
    assert libc.prctl(set_seccomp, filter_mode, ctypes.byref(program), 0, 0) == 0, os.strerror(
        ctypes.get_errno()
    )


@pytest.mark.parametrize("error", [errno.EPERM, errno.ENOSYS], ids=errno.errorcode.get)
@pytest.mark.parametrize("first", ["pull", "push"])
def test_it_is_refused_once_the_link_is_made(
    stage: Stage, error: int, first: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """The transfer that meets it goes on over TCP, and so do all later ones."""
    needs_process_vm(stage)
    if platform.machine() not in PROCESS_VM_CALLS:
        pytest.skip("capability system call numbers: of x86-64 and aarch64 alone")
    owner, puller = stage.process(), stage.process_of_its_own(ASCEND_GLOBAL_LOG_LEVEL="2")
    source, target = two(stage, owner, puller)
    assert path_to(puller, owner, MemoryKind.REGISTERED).path == "cma"
    puller.call(have_the_kernel_refuse, error)
    getattr(puller, first)("kv", KEY, [1], [1])
    if first == "pull":
        puller.call("fill", "kv", 2)
    else:
        owner.call("fill", "kv", 1)
    expect(
        owner, puller, source, target, "tcp", "since the link was made", os.strerror(error).lower()
    )
    written = "".join(capfd.readouterr())
    assert written.count("its registered memory is reached by tcp from now on") == 1


SCOPES = {
    # Yama's scope, what the reader has, whether the owner lets others trace it: whether process_vm
    # may be used.
    "0": ("0\n", False, "any", True),
    "1, the owner allows it": ("1\n", False, "any", True),
    "1, the owner does not": ("1\n", False, "none", False),
    "1, with the capability": ("1\n", True, "none", True),
    "2, without the capability": ("2\n", False, "any", False),
    "2, with the capability": ("2\n", True, "any", True),
    "3, never": ("3\n", True, "any", False),
    "no Yama": (None, False, "none", True),
}


@pytest.mark.parametrize("name", SCOPES)
@pytest.mark.parametrize("transports", ["mapped,cma,tcp", "cma"])
def test_every_yama_scope(stage: Stage, tmp_path, name: str, transports: str) -> None:
    needs_process_vm(stage)
    scope, capable, tracer, usable = SCOPES[name]
    if capable and not has_ptrace_capability():
        pytest.skip("capability SYS_PTRACE: this process does not have it")
    file = tmp_path / "ptrace_scope"
    if scope is not None:
        file.write_text(scope)
    # Both give it up: who has fewer capabilities than the other needs this one.
    make = stage.process if capable else stage.process_of_its_own
    owner, puller = make(), make()
    if not capable:
        owner.call("drop_ptrace_capability")
        puller.call("drop_ptrace_capability")
    environment = {TRANSPORT: transports, SCOPE_FILE: str(file), PTRACER: tracer}
    caches = two(stage, owner, puller, **environment)
    if usable:
        expect(owner, puller, *caches, "cma")
    elif transports == "cma":
        expect_refusal(owner, puller, *caches, f"ptrace_scope is {scope.strip()}")
    else:
        expect(owner, puller, *caches, "tcp", f"ptrace_scope is {scope.strip()}")


def has_ptrace_capability() -> bool:
    with open("/proc/self/status") as status:
        (line,) = (line for line in status if line.startswith("CapEff:"))
    return bool(int(line.split()[1], 16) >> 19 & 1)


def test_registered_memory_needs_a_transport_that_serves_it(stage: Stage) -> None:
    environment = {TRANSPORT: "mapped"}
    owner, puller = stage.process(), stage.process()
    _, target = two(stage, owner, puller, **environment)
    found = path_to(puller, owner, MemoryKind.REGISTERED)
    assert found.path == "none"
    assert found.reason
    for operation in ("pull", "push"):
        with refused_by_engine(f"{operation}_blocks", S.LLM_FEATURE_NOT_ENABLED, OWNER):
            getattr(puller, operation)("kv", KEY, [0], [0])
    check(target, target.filled())


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("mapped,cma,tcp", "tcp", "tcp"),
        ("tcp", "mapped,cma,tcp", "tcp"),
        ("tcp,cma", "mapped,cma,tcp", "tcp"),
        ("cma", "tcp", "none"),
    ],
)
def test_both_ends_must_allow_a_transport(stage: Stage, one, other, expected) -> None:
    needs_process_vm(stage)
    puller = stage.engine(PULLER, listen=None, environment={TRANSPORT: one})
    owner = stage.engine(OWNER, environment={TRANSPORT: other})
    owner.register("kv", SMALL, 1, 0)
    puller.register("kv", SMALL, 2)
    linked(puller, owner)
    assert path_to(puller, owner, MemoryKind.REGISTERED).path == expected


def test_an_unknown_transport_fails_init(stage: Stage) -> None:
    peer = stage.process()
    with refused_by_engine("init", S.LLM_PARAM_INVALID, TRANSPORT, "rdma"):
        peer.init(1, environment={TRANSPORT: "cma,rdma"})


def test_mixed_memory_on_one_link(stage: Stage) -> None:
    needs_process_vm(stage)
    owner = stage.engine(OWNER, device_pool=1 << 20)
    puller = stage.engine(PULLER, listen=None, device_pool=1 << 20)
    sources = [owner.allocate("pool", SMALL, 1, 0), owner.register("own", SMALL, 2, 1)]
    targets = [puller.allocate("pool", SMALL, 3), puller.register("own", SMALL, 4)]
    linked(puller, owner)
    assert path_to(puller, owner, MemoryKind.ALLOCATED).path == "mapped"
    assert path_to(puller, owner, MemoryKind.REGISTERED).path == "cma"
    for target in targets:
        for model in range(2):
            puller.pull(target.name, BlocksCacheKey(OWNER, model), [3], [model])
        expected = moved(target.filled(), sources[0].filled(), [3], [0])
        check(target, moved(expected, sources[1].filled(), [3], [1]))
