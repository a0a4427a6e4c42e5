# SPDX-License-Identifier: Apache-2.0
"""Each check of the doctor, on machines that are made up."""

from __future__ import annotations

import errno
import os
import re
import resource
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import llm_datadist
from llm_datadist._cli import _doctor_ascend as ascend
from llm_datadist._cli import _doctor_host as host
from llm_datadist._cli import _doctor_library as library
from llm_datadist._cli import _doctor_package as package
from llm_datadist._cli._findings import Level, Machine, fail, ok, warn
from llm_datadist._cli._probe import Tried
from llm_datadist._cli._variables import Variable
from llm_datadist._cli.doctor import first_to_fix, works
from llm_datadist._native import cann, compiler, libraries, loader
from llm_datadist._tools.host import AvailableMemory, UsableCpus

ROOT = Path(__file__).resolve().parents[2]
GOOD = Tried(name="mock", version="0.1.0", description="host memory", path="/lib/m.so")
ABSENT = Tried(error=f"/lib/a.so: {loader.ABSENT}", kind="NativeLibraryError")


@pytest.fixture
def machine(tmp_path, mocker):
    """Make a machine with these files and variables; it has nothing of CANN."""
    mocker.patch.object(cann, "USUAL_ROOTS", ())

    def make(files=(), limit=4096, **environ):
        for name, text in dict(files).items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return Machine(
            root=str(tmp_path),
            environ=environ,
            limits=lambda _: (limit, limit),
        )

    return make


class TestPtraceScope:
    FILE = "proc/sys/kernel/yama/ptrace_scope"
    CAPABLE = "Name:\tpython\nCapEff:\t0000000000080000\n"
    NOT_CAPABLE = "Name:\tpython\nCapEff:\t000000ffffF7FFFF\n"

    @pytest.fixture
    def scoped(self, machine):
        def make(scope, status=self.NOT_CAPABLE, **environ):
            return machine({self.FILE: f"{scope}\n", "proc/self/status": status}, **environ)

        return make

    def test_no_yama(self, machine):
        assert host.ptrace_scope(machine()).level is Level.OK
        assert host.why_no_cma(machine()) == ""

    @pytest.mark.parametrize("scope", [0, 1])
    def test_peers_may(self, scoped, scope):
        assert host.ptrace_scope(scoped(scope)).level is Level.OK
        assert host.why_no_cma(scoped(scope)) == ""

    @pytest.mark.parametrize(("scope", "advice"), [(2, "CAP_SYS_PTRACE"), (3, "reboot")])
    def test_peers_may_not(self, scoped, scope, advice):
        finding = host.ptrace_scope(scoped(scope))
        assert finding.level is Level.WARN
        assert advice in finding.advice
        assert host.why_no_cma(scoped(scope)).startswith(f"ptrace scope {scope}: ")

    @pytest.mark.parametrize(("scope", "level"), [(2, Level.OK), (3, Level.WARN)])
    def test_with_the_capability(self, scoped, scope, level):
        assert host.ptrace_scope(scoped(scope, self.CAPABLE)).level is level

    def test_without_consent(self, scoped):
        finding = host.ptrace_scope(scoped(1, LLM_DATADIST_MOCK_PTRACER="none"))
        assert finding.advice == "unset LLM_DATADIST_MOCK_PTRACER"

    def test_a_file_without_sense_means_the_worst(self, scoped):
        assert host.ptrace_scope(scoped("what")).data["scope"] == 3

    def test_the_file_that_the_runtime_is_told_to_read(self, machine, tmp_path):
        (tmp_path / "elsewhere").write_text("2")
        other = machine(LLM_DATADIST_MOCK_PTRACE_SCOPE_FILE=str(tmp_path / "elsewhere"))
        assert host.ptrace_scope(other).data["scope"] == 2


def test_process_vm(machine, mocker):
    error = host._process_vm_error()
    assert error in (0, errno.EPERM, errno.ENOSYS)
    mocker.patch.object(host, "_process_vm_error", return_value=errno.EPERM)
    finding = host.process_vm(machine())
    assert (finding.level, finding.data["errno"]) == (Level.WARN, errno.EPERM)
    assert "seccomp" in finding.advice
    assert "Operation not permitted" in host.why_no_cma(machine())
    mocker.patch.object(host, "_process_vm_error", return_value=0)
    assert host.process_vm(machine()).level is Level.OK


def test_mapped_memory_is_really_tried(mocker):
    before = set(os.listdir("/proc/self/fd"))
    assert host.why_no_mapped() == ""
    assert set(os.listdir("/proc/self/fd")) == before
    mocker.patch.object(socket, "recv_fds", side_effect=OSError(errno.EPERM, "refused"))
    assert "cannot be passed and mapped" in host.why_no_mapped()
    assert set(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("mapping", "most", "expected"),
    [
        ("0 0 4294967295", "100", "the initial user namespace; more"),
        ("0 1000 1", "100", "a user namespace of its own; .*; more"),
        ("0 0 4294967295", "0", "; none can be made"),
        ("", "", "the initial user namespace"),
    ],
)
def test_user_namespaces(machine, mapping, most, expected):
    files = {"proc/self/uid_map": f"  {mapping}\n", "proc/sys/user/max_user_namespaces": most}
    assert re.search(expected, host.user_namespaces(machine(files)).text)


def test_loopback(machine, mocker):
    assert host.why_no_listener("127.0.0.1") == ""
    assert host.why_no_listener("192.0.2.1") == os.strerror(errno.EADDRNOTAVAIL)
    assert host.why_no_connection("127.0.0.1") == ""
    assert host.why_no_connection("192.0.2.1") == os.strerror(errno.EADDRNOTAVAIL)
    refused = mocker.patch.object(host, "why_no_connection", return_value="")
    assert host.loopback(machine()).level is Level.OK
    refused.side_effect = lambda address: "no IPv6" if ":" in address else ""
    assert "::1 is not: no IPv6" in host.loopback(machine()).text
    assert host.loopback(machine()).level is Level.OK
    refused.side_effect = lambda address: "down"
    assert host.loopback(machine()).level is Level.WARN


IN_A_NAMESPACE = """
from llm_datadist._cli import _doctor_host as host
from llm_datadist._cli._findings import Machine
finding = host.loopback(Machine())
print(host.why_no_listener("127.0.0.1") == "", finding.level.value, finding.text, finding.advice)
"""


def test_a_loopback_interface_that_is_down():
    command = ["unshare", "--net", "--map-root-user", sys.executable, "-c", IN_A_NAMESPACE]
    tried = subprocess.run(command, capture_output=True, text=True, check=False)
    if tried.returncode and "unshare" in tried.stderr:
        pytest.skip(f"capability network namespace: {tried.stderr.strip()}")
    # Ports can be bound, and nothing is reached.
    assert tried.stdout.startswith("True warn no process is reached at 127.0.0.1: "), tried
    assert "ip link set lo up" in tried.stdout


def test_ephemeral_ports(machine):
    file = "proc/sys/net/ipv4/ip_local_port_range"
    finding = host.ephemeral_ports(machine({file: "32768\t60999\n"}))
    assert finding.data == {"low": 32768, "high": 60999}
    assert "does not tell" in host.ephemeral_ports(machine({file: "x"})).text


@pytest.mark.parametrize(
    ("available", "where", "level", "words", "advice"),
    [
        (4 << 30, "on this machine", Level.OK, "4 GiB available on this machine", ""),
        (2 << 30, "in the control group /a", Level.OK, "2 GiB available in the control group", ""),
        (1 << 29, "in the control group /a", Level.WARN, "512 MiB", "give the container more"),
        (1 << 29, "on this machine", Level.WARN, "512 MiB", "end what uses the memory"),
    ],
)
def test_memory(available, where, level, words, advice):
    finding = host.memory(replace(GOOD, memory=AvailableMemory(available, where)))
    assert finding.level is level
    assert words in finding.text
    assert finding.advice.startswith(advice)
    assert finding.data == {"available": available, "where": where}


def test_a_library_that_does_not_tell_of_the_host(machine):
    assert "does not load" in host.memory(ABSENT).text
    assert "does not load" in host.cpus(machine(), ABSENT).text


def test_limits(machine):
    assert "64 KiB may be locked" in host.locked_memory(machine(limit=65536)).text
    assert "any amount" in host.locked_memory(machine(limit=resource.RLIM_INFINITY)).text
    assert host.open_files(machine(limit=1024)).level is Level.OK
    assert host.open_files(machine(limit=64)).advice == "ulimit -n 64"


def test_huge_pages(machine):
    folder = "sys/kernel/mm/transparent_hugepage"
    files = {
        f"{folder}/enabled": "always [madvise] never\n",
        f"{folder}/shmem_enabled": "always within_size advise [never] deny force\n",
        "proc/sys/vm/nr_hugepages": "7\n",
    }
    finding = host.huge_pages(machine(files))
    assert finding.level is Level.OK
    assert finding.data == {"own": "madvise", "shared": "never", "reserved": "7"}
    files[f"{folder}/enabled"] = "always madvise [never]\n"
    assert f"/{folder}/enabled" in host.huge_pages(machine(files)).advice


@pytest.mark.parametrize(
    ("quota", "threads", "advice"),
    [
        (None, "8", ""),
        (2, "", ""),  # the runtime starts no more than that
        (2, "2", ""),
        (2, "3", "set LLM_DATADIST_MOCK_THREADS=2, or unset it"),
    ],
)
def test_cpus(machine, quota, threads, advice):
    told = replace(GOOD, cpus=UsableCpus(4, quota))
    finding = host.cpus(machine(LLM_DATADIST_MOCK_THREADS=threads), told)
    assert finding.data == {"allowed": 4, "quota": quota}
    assert finding.advice == advice
    assert finding.level is (Level.WARN if advice else Level.OK)


# ---- the package ----


class TestPlainImport:
    def test_this_package(self, machine):
        finding = package.plain_import(machine(**{**os.environ, "PYTHONPATH": str(ROOT)}))
        assert finding.level is Level.OK
        assert finding.data["found"] == llm_datadist.__file__

    def test_another_one(self, machine, tmp_path):
        (tmp_path / "llm_datadist").mkdir()
        decoy = tmp_path / "llm_datadist" / "__init__.py"
        decoy.write_text("raise ImportError('only looked for')\n")
        path = os.pathsep.join([str(tmp_path), str(ROOT)])
        finding = package.plain_import(machine(**{**os.environ, "PYTHONPATH": path}))
        assert finding.level is Level.FAIL
        assert finding.data["found"] == str(decoy)
        assert f"put {ROOT} in front on PYTHONPATH" in finding.advice
        assert f"take {tmp_path} away" in finding.advice

    def test_none(self, machine, mocker):
        mocker.patch.object(package, "_FIND", "print('')")
        finding = package.plain_import(machine(**os.environ))
        assert finding.level is Level.FAIL
        assert "finds nothing" in finding.text

    def test_a_python_that_does_not_run(self, machine, mocker):
        mocker.patch.object(package, "_FIND", "raise SystemExit('out of order')")
        finding = package.plain_import(machine(**os.environ))
        assert finding.level is Level.FAIL
        assert "out of order" in finding.text


def test_versions(machine, mocker):
    finding = package.versions(machine())
    assert finding.level is Level.OK
    assert finding.data["package"] == llm_datadist.__version__
    assert finding.data["python"] == ".".join(map(str, sys.version_info[:3]))
    assert finding.data["abi"] == ".".join(llm_datadist.__version__.split(".")[:2])
    mocker.patch.object(package, "_version_of", lambda name: "" if name == "numpy" else "1")
    finding = package.versions(machine())
    assert (finding.level, finding.advice) == (Level.FAIL, "pip install numpy")


def test_a_missing_compiler_is_no_fault(machine, mocker):
    mocker.patch.object(compiler, "find_compiler", side_effect=compiler.BuildError("none"))
    assert package.compiler(machine()).level is Level.OK


class TestEnvironment:
    OF_MOCK = (Variable("LLM_DATADIST_MOCK_DEVICES", "1..1024", "16", "how many devices", "mock"),)

    def test_values_and_secrets(self, machine):
        found = package.environment(
            machine(
                LLM_DATADIST_BACKEND="mock",
                LLM_DATADIST_MOCK_DEVICES="3",
                LLM_DATADIST_AUTH_TOKEN="hunter2",
                HOME="/root",
            ),
            self.OF_MOCK,
        )
        told = {finding.name: finding for finding in found}
        assert told["LLM_DATADIST_BACKEND"].text == "mock"
        assert told["LLM_DATADIST_MOCK_DEVICES"].data["value"] == "3"
        assert "hunter2" not in str(found)
        assert "HOME" not in told
        assert "LLM_DATADIST_SCOPE" in told["not set"].data["names"]

    def test_a_misspelt_name(self, machine):
        environ = {"LLM_DATADIST_BACKENDS": "mock", "LLM_DATADIST_TEST_PATIENCE": "60"}
        found = package.environment(machine(**environ), self.OF_MOCK)
        (misspelt,) = [finding for finding in found if finding.level is Level.WARN]
        assert misspelt.name == "LLM_DATADIST_BACKENDS"
        assert "did you mean LLM_DATADIST_BACKEND" in misspelt.advice

    def test_without_the_mock_its_variables_are_not_judged(self, machine):
        found = package.environment(machine(LLM_DATADIST_MOCK_DEVICES="3"), ())
        assert [finding for finding in found if finding.level is Level.WARN] == []


# ---- CANN, libraries, the backend ----


def toolkit_at(root):
    for name in [*(f"include/{name}" for name in cann.HEADERS), "lib64/libcann_hixl.so"]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    (root / "lib64" / "libacl_rt.so").touch()
    (root / "lib64" / "libmetadef.so").touch()
    (root / "version.info").write_text("Version=8.5.0\n")
    return root


class TestToolkit:
    def test_none(self, machine):
        assert library.toolkit(machine()).data == {"root": None}

    def test_a_variable_that_names_nothing(self, machine, tmp_path):
        finding = library.toolkit(machine(ASCEND_HOME_PATH=str(tmp_path / "gone")))
        assert finding.level is Level.WARN
        assert f"{tmp_path / 'gone'} ($ASCEND_HOME_PATH) does not exist" in finding.text

    def test_incomplete_and_complete(self, machine, tmp_path, mocker):
        mocker.patch.object(cann, "DRIVER_FOLDERS", ())
        root = toolkit_at(tmp_path / "cann")
        here = machine(ASCEND_TOOLKIT_HOME=str(root))
        finding = library.toolkit(here)
        assert finding.level is Level.WARN
        assert "lacks lib64/libascend_hal.so" in finding.text
        (root / "lib64" / "libascend_hal.so").touch()
        finding = library.toolkit(here)
        assert finding.level is Level.OK
        assert finding.data == {"root": str(root), "version": "8.5.0"}


class TestHcomm:
    def test_no_toolkit(self, machine):
        assert ascend.hcomm(machine()).data == {"path": None}

    def test_beside_hixl_and_not(self, machine, tmp_path):
        root = toolkit_at(tmp_path / "cann")
        here = machine(ASCEND_HOME_PATH=str(root))
        finding = ascend.hcomm(here)
        assert finding.level is Level.WARN
        assert f"{root / 'lib64' / 'libhcomm.so'} does not exist" in finding.text
        assert finding.advice == f"source {root}/set_env.sh before a client starts"
        (root / "lib64" / "libhcomm.so").touch()
        assert ascend.hcomm(here).level is Level.OK


class TestDeviceNetwork:
    def test_no_device(self, machine):
        assert ascend.device_network(machine()).data == {"source": None}

    def test_its_addresses(self, machine, mocker):
        mocker.patch.object(cann, "devices", return_value=["/dev/davinci0"])
        here = machine()
        finding = ascend.device_network(here)
        assert finding.level is Level.WARN
        assert "port 16666, which must be free there" in finding.text
        assert "comm_resource_config.listen_port" in finding.text
        assert "hccn.conf" in finding.advice
        there = Path(here.path("etc/hccn.conf"))
        there.parent.mkdir(parents=True, exist_ok=True)
        there.touch()
        assert ascend.device_network(here).level is Level.OK


class TestDriver:
    FILE = "usr/local/Ascend/driver/version.info"

    def test_none(self, machine):
        assert ascend.driver(machine()).data == {"version": None}

    def test_its_version(self, machine):
        text = "Version=24.1.rc3\nascendhal_version=7.35.23\naicpu_version=1.0\n"
        finding = ascend.driver(machine({self.FILE: text}))
        assert (finding.level, finding.data) == (Level.OK, {"version": "24.1.rc3"})
        assert finding.text.startswith("24.1.rc3 (")

    def test_a_file_that_does_not_say(self, machine):
        assert ascend.driver(machine({self.FILE: "x"})).data == {"version": ""}


class TestBuiltAgainst:
    @pytest.fixture
    def root(self, tmp_path):
        return toolkit_at(tmp_path / "cann")

    @pytest.fixture
    def loaded(self, root, tmp_path):
        """Make a library that was built against that toolkit, and loads."""
        path = tmp_path / "lib.so"
        path.write_text(f"ELF\0{cann.Toolkit(root, '', root, (), root).record}\0")
        return Tried(name="ascend", path=str(path))

    def test_the_one_here(self, machine, root, loaded):
        finding = ascend.built_against(machine(ASCEND_HOME_PATH=str(root)), loaded)
        assert finding.level is Level.OK
        assert finding.text == f"CANN 8.5.0 in {root}, which is the toolkit here"
        assert finding.data == {"library": loaded.path, "root": str(root), "version": "8.5.0"}

    def test_none_here_but_it_is_still_there(self, machine, root, loaded):
        finding = ascend.built_against(machine(), loaded)
        assert (finding.level, finding.text) == (Level.OK, f"CANN 8.5.0 in {root}")

    def test_another_version_here(self, machine, root, loaded):
        (root / "version.info").write_text("Version=8.6.0\n")
        finding = ascend.built_against(machine(ASCEND_HOME_PATH=str(root)), loaded)
        assert finding.level is Level.WARN
        assert f"8.5.0 in {root}; here is CANN 8.6.0 in {root}" in finding.text
        assert "llm-datadist build-ascend" in finding.advice
        assert finding.data["version"] == "8.5.0"

    def test_another_place_here(self, machine, loaded, tmp_path):
        other = toolkit_at(tmp_path / "other")
        finding = ascend.built_against(machine(ASCEND_HOME_PATH=str(other)), loaded)
        assert finding.level is Level.WARN
        assert f"here is CANN 8.5.0 in {other} ($ASCEND_HOME_PATH)" in finding.text

    def test_one_that_is_gone(self, machine, root, loaded):
        root.rename(root.with_name("moved"))
        finding = ascend.built_against(machine(), loaded)
        assert (finding.level, finding.text) == (
            Level.WARN,
            f"CANN 8.5.0 in {root}, which does not exist",
        )

    def test_a_library_that_is_refused(self, machine, root, loaded, mocker):
        found = [str(root / "none.so"), loaded.path]
        mocker.patch.object(libraries, "candidates", return_value=found)
        finding = ascend.built_against(machine(), Tried(error="refused"))
        assert finding.data["library"] == loaded.path

    def test_no_library(self, machine, mocker):
        mocker.patch.object(libraries, "candidates", return_value=["/nowhere/lib.so"])
        assert ascend.built_against(machine(), ABSENT).data == {"library": None}
        error = loader.NativeLibraryError("not generated")
        mocker.patch.object(libraries, "candidates", side_effect=error)
        assert ascend.built_against(machine(), ABSENT).data == {"library": None}

    def test_one_that_does_not_say(self, machine, tmp_path):
        (tmp_path / "lib.so").touch()
        tried = Tried(name="ascend", path=str(tmp_path / "lib.so"))
        finding = ascend.built_against(machine(), tried)
        assert (finding.level, finding.data["root"]) == (Level.OK, None)

    def test_the_backend_may_be_another_ascend_library(self, loaded):
        named = Tried(name="ascend", path="/opt/lib/other.so")
        assert ascend.in_use(loaded, named) is named
        assert ascend.in_use(loaded, GOOD) is loaded
        assert ascend.in_use(loaded, ABSENT) is loaded


class TestHixl:
    @staticmethod
    def tried(description):
        return Tried(name="ascend", path="/lib/a.so", description=description)

    def test_no_library(self):
        assert ascend.hixl(ABSENT).data == {"usable": False}

    @pytest.mark.parametrize(
        ("soc", "product", "words"),
        [
            ("Ascend910B3", "Atlas A2", "host memory cannot be the remote side"),
            ("Ascend910_9391", "Atlas A3", "RDMA every pair of device and host memory"),
            ("Ascend910B3", "Atlas A2", "start at a multiple of 2 MiB"),
            ("Ascend950PR_9599", "Ascend 950", "local_comm_res says what moves which memory"),
            ("Ascend910_9599", "Ascend 950", "no link or unlink"),
        ],
    )
    def test_products(self, soc, product, words):
        finding = ascend.hixl(self.tried(f"CANN; {soc}; transports: hixl"))
        assert finding.level is Level.OK
        assert finding.data == {"usable": True, "soc": soc, "product": product}
        assert f"on {product} ({soc}), " in finding.text
        assert words in finding.text

    @pytest.mark.parametrize(
        ("description", "soc", "words"),
        [
            ("CANN; Ascend910A; transports: hixl", "Ascend910A", "which product Ascend910A is"),
            ("CANN; no name; transports: hixl", "", "does not tell its name"),
            ("count the devices: ACL error 507008", "", "does not tell its name"),
        ],
    )
    def test_what_is_not_known_is_said(self, description, soc, words):
        finding = ascend.hixl(self.tried(description))
        assert finding.data == {"usable": True, "soc": soc, "product": None}
        assert words in finding.text
        for rule in ("HCCS", "RDMA", "on Ascend 950, local_comm_res"):
            assert rule in finding.text


class TestHixlAddress:
    def test_the_route(self, machine, mocker):
        mocker.patch.object(ascend, "_address_of_default_route", return_value="10.0.0.1")
        finding = ascend.hixl_address(machine())
        assert (finding.level, finding.data) == (
            Level.OK,
            {"source": "route", "address": "10.0.0.1"},
        )
        assert "listen_ip_info" in finding.text
        assert "LLM_DATADIST_HOST_IP is not set" in finding.text
        assert "by the default route 10.0.0.1" in finding.text

    def test_without_a_route(self, machine, mocker):
        mocker.patch.object(socket.socket, "connect", side_effect=OSError(errno.ENETUNREACH, "no"))
        finding = ascend.hixl_address(machine())
        assert (finding.level, finding.data["address"]) == (Level.OK, None)
        assert "there is no default route" in finding.text

    def test_the_variable(self, machine, mocker):
        mocker.patch.object(ascend, "why_no_listener", return_value="")
        finding = ascend.hixl_address(machine(LLM_DATADIST_HOST_IP="10.0.0.2"))
        assert finding.level is Level.OK
        assert finding.data == {"source": "LLM_DATADIST_HOST_IP", "address": "10.0.0.2"}

    @pytest.mark.parametrize(
        ("value", "words"),
        [
            ("host.example", "that is no IP address"),
            ("0.0.0.0", "HIXL needs one address"),
            ("::", "HIXL needs one address"),
            ("192.0.2.1", os.strerror(errno.EADDRNOTAVAIL)),
            ("127.0.0.1", "only this host reaches it"),
        ],
    )
    def test_an_address_that_will_not_do(self, machine, value, words):
        finding = ascend.hixl_address(machine(LLM_DATADIST_HOST_IP=value))
        assert finding.level is Level.WARN
        assert f"which is {value}: " in finding.text
        assert words in finding.text
        assert "set LLM_DATADIST_HOST_IP to an address of this host" in finding.advice


class TestDevices:
    def test_none(self, machine):
        finding = library.devices(machine({"dev/davinci_manager": ""}), ABSENT)
        assert finding.data == {"files": [], "counted": None}

    def test_two(self, machine):
        files = {"dev/davinci0": "", "dev/davinci1": "", "dev/davinci_manager": ""}
        seen = Tried(name="ascend", path="/lib/a.so", device_count=2)
        finding = library.devices(machine(files), seen)
        assert finding.data == {"files": ["davinci0", "davinci1"], "counted": 2}
        assert finding.level is Level.OK
        unseen = library.devices(machine(files), Tried(path="/lib/a.so"))
        assert (unseen.level, unseen.data["counted"]) == (Level.WARN, 0)

    def test_one_that_may_not_be_opened(self, machine, mocker):
        mocker.patch.object(os, "access", return_value=False)
        finding = library.devices(machine({"dev/davinci0": ""}), ABSENT)
        assert finding.level is Level.WARN
        assert "group" in finding.advice


class TestLibrary:
    def test_loads(self):
        finding = library.library("mock", GOOD)
        assert finding.level is Level.OK
        assert "/lib/m.so loads: mock 0.1.0, host memory" in finding.text

    def test_an_absent_mock_is_a_fault_and_an_absent_ascend_is_not(self, mocker):
        mocker.patch.object(libraries, "user_folder", return_value="/cache/x")
        assert library.library("mock", ABSENT).level is Level.WARN
        finding = library.library("ascend", ABSENT)
        assert finding.level is Level.OK
        assert "and /cache/x)" in finding.text

    @pytest.mark.parametrize(
        ("error", "advice"),
        [
            ("libhixl.so: cannot open shared object file", "set_env.sh"),
            ("was built from other declarations", "llm-datadist build-ascend"),
        ],
    )
    def test_one_that_does_not_load(self, error, advice):
        finding = library.library("ascend", Tried(error=error))
        assert (finding.level, finding.text) == (Level.WARN, error)
        assert advice in finding.advice

    @pytest.mark.parametrize("version", ["GLIBC_2.38", "GLIBCXX_3.4.31"])
    def test_one_of_a_newer_system(self, version):
        error = f"/lib/m.so: /lib/libc.so.6: version `{version}' not found (required by /lib/m.so)"
        for name, how in (("mock", "--no-binary llm-datadist-cffi"), ("ascend", "build-ascend")):
            advice = library.library(name, Tried(error=error)).advice
            assert re.search(rf"this one has glibc \d.*{how}", advice)


class TestBackend:
    REFUSED = Tried(error="this machine has the device", kind="NativeLibraryError")

    def test_works(self, machine):
        finding = library.backend(machine(LLM_DATADIST_BACKEND="mock"), GOOD)
        assert finding.level is Level.OK
        assert finding.text == "mock (LLM_DATADIST_BACKEND is mock); an engine opens"

    def test_a_device_without_a_library(self, machine, tmp_path):
        finding = library.backend(machine(), self.REFUSED)
        assert finding.level is Level.FAIL
        assert "install a CANN toolkit" in finding.advice
        root = toolkit_at(tmp_path / "cann")
        (root / "lib64" / "libascend_hal.so").touch()
        finding = library.backend(machine(ASCEND_HOME_PATH=str(root)), self.REFUSED)
        assert finding.advice.startswith("run 'llm-datadist build-ascend', or set ")
        assert "LLM_DATADIST_BACKEND=mock" in finding.advice

    @pytest.mark.parametrize(
        ("named", "kind", "advice"),
        [
            ("cuda", "ValueError", "correct LLM_DATADIST_BACKEND"),
            ("mock", "NativeLibraryError", loader.ADVICE),
            ("/lib/third.so", "NativeLibraryError", "name another library"),
        ],
    )
    def test_other_failures(self, machine, named, kind, advice):
        tried = Tried(error="no", kind=kind)
        finding = library.backend(machine(LLM_DATADIST_BACKEND=named), tried)
        assert finding.level is Level.FAIL
        assert advice in finding.advice

    def test_no_engine_opens(self, machine):
        tried = Tried(error="no device 0", kind="LLMException", name="ascend", path="/lib/a.so")
        finding = library.backend(machine(), tried)
        assert finding.level is Level.FAIL
        assert "no engine opens: no device 0" in finding.text
        assert finding.data == {"chosen": "ascend", "path": "/lib/a.so"}


class TestTransport:
    @pytest.fixture
    def reasons(self, mocker):
        """Let each transport have this reason for not working."""

        def give(mapped="", cma="", tcp=""):
            mocker.patch.object(library, "why_no_mapped", return_value=mapped)
            mocker.patch.object(library, "why_no_cma", return_value=cma)
            mocker.patch.object(library, "why_no_connection", return_value=tcp)

        return give

    @pytest.mark.parametrize("name", library.TRANSPORTS)
    def test_each(self, machine, reasons, name):
        reasons()
        assert library.transport(machine(), name).data == {"usable": True}
        reasons(**{name: "it is forbidden"})
        finding = library.transport(machine(), name)
        assert (finding.level, finding.data) == (Level.WARN, {"usable": False})
        assert "it is forbidden" in finding.text

    def test_one_that_is_not_wanted(self, machine, reasons):
        reasons()
        only_tcp = machine(LLM_DATADIST_MOCK_TRANSPORT="tcp")
        assert library.transport(only_tcp, "cma").data == {"usable": False}
        assert library.transport(only_tcp, "cma").level is Level.OK
        assert library.transport(only_tcp, "tcp").data == {"usable": True}


# ---- what is made of the findings ----


def test_the_backend_comes_first():
    decoyed = fail("import", "another", "go")
    broken = fail("backend", "none", "build")
    slow, fine = warn("memory", "little", "more"), ok("ports", "free")

    def sections(package, backend, memory):
        return [("Package", [package]), ("Backend", [backend]), ("Memory and CPUs", [memory])]

    assert first_to_fix(sections(decoyed, broken, slow)) is broken
    assert first_to_fix(sections(decoyed, fine, slow)) is decoyed
    assert first_to_fix(sections(fine, fine, slow)) is slow
    assert first_to_fix(sections(fine, fine, fine)) is None
    assert works(sections(decoyed, fine, slow))
    assert not works(sections(fine, broken, fine))


def test_long_findings_are_wrapped():
    lines = warn("name", "word " * 60, "advice " * 30).lines()
    assert max(map(len, lines)) <= 100
    assert lines[0].startswith("  warn  name: word")
    assert any(line.startswith("        -> advice") for line in lines)
