# SPDX-License-Identifier: Apache-2.0
"""What kernel, control groups and limits allow: the checks of the host for ``doctor``."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import resource
import socket

from llm_datadist._tools.units import in_words

from ._findings import Finding, Machine, ok, warn
from ._probe import Tried

SCOPE_VARIABLE = "LLM_DATADIST_MOCK_PTRACE_SCOPE_FILE"
_SCOPE_FILE = "proc/sys/kernel/yama/ptrace_scope"
_CAP_SYS_PTRACE = 19
_LITTLE_MEMORY = 1 << 30
_FEW_FILES = 256
# For a connection within the host.
_PATIENCE_S = 2
_THREADS_VARIABLE = "LLM_DATADIST_MOCK_THREADS"
_PAGE = 4096
_NOT_ASKED = "unknown: the mock library, which would tell, does not load"


# ---- reaching the memory of another process ----


def ptrace_scope(machine: Machine) -> Finding:
    """What Yama lets processes of one user do with each other's memory."""
    scope = _scope(machine)
    name = "ptrace scope"
    if scope is None:
        return ok(name, "no Yama here: processes of one user may reach each other", scope=None)
    why_not = _why_yama_refuses(machine, scope)
    if why_not:
        return warn(
            name,
            f"{scope}: {why_not}, so registered memory goes over TCP between processes",
            _scope_advice(machine, scope),
            scope=scope,
        )
    reason = {0: "processes of one user may reach each other", 1: "the owner's consent is needed"}
    text = reason.get(scope, "CAP_SYS_PTRACE is needed, and this process has it")
    return ok(name, f"{scope}: {text}" + (", and the runtime gives it" if scope == 1 else ""))


def process_vm(machine: Machine) -> Finding:
    """Whether this process may use process_vm_readv at all, tried on itself."""
    error = _process_vm_error()
    if error == 0:
        return ok("process_vm", "process_vm_readv works on this process")
    return warn(
        "process_vm",
        f"process_vm_readv is refused: {os.strerror(error)}",
        "allow the system calls process_vm_readv and process_vm_writev in the container's seccomp "
        "profile (docker: --cap-add SYS_PTRACE does)",
        errno=error,
    )


def why_no_cma(machine: Machine) -> str:
    """Say why memory of another process cannot be read in place; "" if it can."""
    error = _process_vm_error()
    if error:
        return f"process_vm_readv is refused in this process: {os.strerror(error)}"
    scope = _scope(machine)
    refusal = "" if scope is None else _why_yama_refuses(machine, scope)
    return refusal and f"ptrace scope {scope}: {refusal}"


def why_no_mapped() -> str:
    """Say why the pool of another process cannot be mapped; "" if it can."""
    if not hasattr(os, "memfd_create"):
        return ""  # an old Python; the runtime asks the kernel itself
    try:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with ours, theirs:
            sealed = os.memfd_create("llm_datadist_doctor", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            try:
                os.ftruncate(sealed, _PAGE)
                socket.send_fds(ours, [b"x"], [sealed])
            finally:
                os.close(sealed)
            (passed,) = socket.recv_fds(theirs, 1, 1)[1]
            try:
                mmap.mmap(passed, _PAGE).close()
            finally:
                os.close(passed)
    except OSError as error:
        return f"a memfd cannot be passed and mapped: {error}"
    return ""


def user_namespaces(machine: Machine) -> Finding:
    """Whether this process lives in a user namespace of its own, and may make others."""
    mapping = (machine.read("proc/self/uid_map") or "").split()
    most = machine.read("proc/sys/user/max_user_namespaces")
    unprivileged = machine.read("proc/sys/kernel/unprivileged_userns_clone")
    possible = "none can be made" if "0" in (most, unprivileged) else "more can be made"
    where = "the initial user namespace"
    if mapping and mapping != ["0", "0", "4294967295"]:
        where = "a user namespace of its own; processes outside cannot be read in place"
    return ok("user namespaces", f"this process is in {where}; {possible}", uid_map=mapping)


def _scope(machine: Machine) -> int | None:
    text = machine.read(machine.environ.get(SCOPE_VARIABLE) or _SCOPE_FILE)
    # As the runtime does: a file that makes no sense means the worst.
    return None if text is None else int(text) if text.isdigit() else 3


def _why_yama_refuses(machine: Machine, scope: int) -> str:
    capable = _has_ptrace_capability(machine)
    if scope == 0 or (scope in (1, 2) and capable):
        return ""
    if scope == 1:
        silent = machine.environ.get("LLM_DATADIST_MOCK_PTRACER") == "none"
        return "the runtime is told not to give the owner's consent" if silent else ""
    return "CAP_SYS_PTRACE is needed" if scope == 2 else "nobody may"


def _scope_advice(machine: Machine, scope: int) -> str:
    if scope == 1:
        return "unset LLM_DATADIST_MOCK_PTRACER"
    lower = f"set {machine.path(_SCOPE_FILE)} to 0 or 1"
    return f"{lower}, or give the processes CAP_SYS_PTRACE" if scope == 2 else f"{lower} and reboot"


def _has_ptrace_capability(machine: Machine) -> bool:
    for line in (machine.read("proc/self/status") or "").splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> _CAP_SYS_PTRACE & 1)
    return False


class _Vector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def _process_vm_error() -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "process_vm_readv"):
        return errno.ENOSYS
    source, target = ctypes.create_string_buffer(b"x", 1), ctypes.create_string_buffer(1)
    local, remote = (_Vector(ctypes.addressof(buffer), 1) for buffer in (target, source))
    moved = libc.process_vm_readv(
        os.getpid(), ctypes.byref(local), 1, ctypes.byref(remote), 1, ctypes.c_ulong(0)
    )
    return 0 if moved == 1 else ctypes.get_errno() or errno.EFAULT


# ---- ports ----


def loopback(machine: Machine) -> Finding:
    """Whether processes of this host reach each other over its own addresses."""
    obstacles = {name: why_no_connection(name) for name in ("127.0.0.1", "::1")}
    data = {name: why or "reached" for name, why in obstacles.items()}
    if obstacles["127.0.0.1"]:
        text = f"no process is reached at 127.0.0.1: {obstacles['127.0.0.1']}"
        return warn("loopback", text, "bring the interface up: ip link set lo up", **data)
    if obstacles["::1"]:
        return ok("loopback", f"127.0.0.1 is reached; ::1 is not: {obstacles['::1']}", **data)
    return ok("loopback", "127.0.0.1 and ::1 are reached", **data)


def why_no_connection(address: str) -> str:
    """Say why a byte does not go over a connection to an own address; "" if it does."""
    try:
        with _listener(address) as listener:
            listener.settimeout(_PATIENCE_S)
            # A port can be bound while the interface is down; only a connection tells.
            with socket.create_connection(listener.getsockname()[:2], _PATIENCE_S) as dialled:
                accepted, _ = listener.accept()
                with accepted:
                    accepted.settimeout(_PATIENCE_S)
                    dialled.sendall(b"x")
                    if accepted.recv(1) != b"x":
                        return "a connection closes before a byte has arrived"
    except OSError as error:
        return _why(error)
    return ""


def why_no_listener(address: str) -> str:
    """Say why no port of an address can be bound; "" if one can."""
    try:
        _listener(address).close()
    except OSError as error:
        return _why(error)
    return ""


def _listener(address: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.create_server((address, 0), family=family, backlog=1)


def _why(error: OSError) -> str:
    # Not strerror, to which create_server adds the address.
    return os.strerror(error.errno) if error.errno else str(error)


def ephemeral_ports(machine: Machine) -> Finding:
    """Which ports any outgoing connection may hold when a listener wants them."""
    text = (machine.read("proc/sys/net/ipv4/ip_local_port_range") or "").split()
    if len(text) != 2 or not all(word.isdigit() for word in text):
        return ok("listen ports", "the kernel does not tell which ports it gives to connections")
    low, high = map(int, text)
    return ok(
        "listen ports",
        f"connections get ports {low} to {high}; a fixed listen port is safe outside of them",
        low=low,
        high=high,
    )


# ---- memory ----


def memory(mock: Tried) -> Finding:
    """How much memory caches may take, by the machine and its control groups."""
    if mock.memory is None:
        return ok("memory", _NOT_ASKED)
    available, where = mock.memory.bytes, mock.memory.where
    text = f"{in_words(available)} available {where}"
    if available < _LITTLE_MEMORY:
        in_group = "control group" in where
        advice = "give the container more memory" if in_group else "end what uses the memory"
        advice += ", or choose small pools"
        return warn("memory", text, advice, available=available, where=where)
    return ok("memory", text, available=available, where=where)


def locked_memory(machine: Machine) -> Finding:
    """How much memory this user may lock; the mock runtime locks none."""
    soft, _ = machine.limits(resource.RLIMIT_MEMLOCK)
    amount = "any amount" if soft == resource.RLIM_INFINITY else in_words(soft)
    return ok("locked memory", f"{amount} may be locked; the mock runtime locks none", limit=soft)


def open_files(machine: Machine) -> Finding:
    """How many descriptors a process may have; each link takes a few."""
    soft, hard = machine.limits(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < _FEW_FILES:
        return warn(
            "open files",
            f"a process may have {soft}; each link takes a few",
            f"ulimit -n {hard if hard != resource.RLIM_INFINITY else 65536}",
            limit=soft,
        )
    return ok("open files", f"a process may have {soft}", limit=soft)


def huge_pages(machine: Machine) -> Finding:
    """Whether large memory may have large pages, which are moved faster than small ones."""
    folder = "sys/kernel/mm/transparent_hugepage"
    own = _chosen(machine.read(f"{folder}/enabled"))
    shared = _chosen(machine.read(f"{folder}/shmem_enabled"))
    reserved = machine.read("proc/sys/vm/nr_hugepages") or "0"
    text = f"own memory: {own}; shared memory: {shared}; {reserved} reserved"
    data = {"own": own, "shared": shared, "reserved": reserved}
    if own == "never":
        return warn(
            "huge pages",
            text,
            "registered memory in small pages is read more slowly from other processes: "
            f"echo madvise > /{folder}/enabled",
            **data,
        )
    return ok("huge pages", text, **data)


def _chosen(text: str | None) -> str:
    """Return the word in brackets: "always [madvise] never"."""
    if text is None:
        return "unknown"
    return text.partition("[")[2].partition("]")[0] or text


# ---- CPUs ----


def cpus(machine: Machine, mock: Tried) -> Finding:
    """How many CPUs copies may use, by affinity and by control group."""
    if mock.cpus is None:
        return ok("CPUs", _NOT_ASKED)
    allowed, quota = mock.cpus.affinity, mock.cpus.quota
    data = {"allowed": allowed, "quota": quota}
    text = f"{allowed} may be used"
    if quota is None:
        return ok("CPUs", text, **data)
    text += f", for {quota} CPUs' worth of time by the control group"
    asked = machine.environ.get(_THREADS_VARIABLE, "")
    if asked.isdigit() and int(asked) > quota:
        return warn(
            "CPUs",
            f"{text}; large copies use {asked} threads, which are stopped when it is used up",
            f"set {_THREADS_VARIABLE}={quota}, or unset it",
            **data,
        )
    return ok("CPUs", text, **data)
