# SPDX-License-Identifier: Apache-2.0
"""The pytest plugin, in a pytest of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from queue import Queue

from llm_datadist.testing import Peer
from llm_datadist.testing.hanging import HangWatch

ROOT = Path(__file__).resolve().parents[2]
PLUGIN = "llm_datadist_cffi_pytest"


def run_pytest(folder: Path, text: str, ini: str = "") -> subprocess.CompletedProcess[str]:
    """Run the tests of this text where nothing of the repository is configured."""
    (folder / "test_client.py").write_text(text)
    (folder / "pytest.ini").write_text(f"[pytest]\nfilterwarnings = error\n{ini}")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("PYTEST_ADDOPTS", None)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", PLUGIN, "-p", "no:cacheprovider"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )


def outcome(result: subprocess.CompletedProcess[str]) -> str:
    """The counts of the last line: "2 passed, 1 error"."""
    return re.sub(r" in [0-9.]+s.*|=+ ?", "", result.stdout.strip().splitlines()[-1])


def test_every_pytest_of_the_environment_has_it() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    assert f'[project.entry-points.pytest11]\n{PLUGIN} = "{PLUGIN}"\n' in text
    installed = {
        entry.value
        for distribution in metadata.distributions()
        if distribution.metadata["Name"] == "llm-datadist-cffi"
        for entry in distribution.entry_points
        if entry.group == "pytest11"
    }
    assert installed == {PLUGIN}, "install the package again: its entry points are older"


def test_it_costs_nothing_where_it_is_not_used(tmp_path: Path) -> None:
    result = run_pytest(
        tmp_path,
        "import sys\n"
        "def test_nothing():\n"
        f"    assert '{PLUGIN}' in sys.modules\n"
        "    assert not {'llm_datadist', 'numpy', 'cffi', '_cffi_backend'} & set(sys.modules)\n",
    )
    assert outcome(result) == "1 passed", result.stdout


def test_each_test_has_a_scope_of_its_own(tmp_path: Path) -> None:
    result = run_pytest(
        tmp_path,
        """
import os

import pytest

from llm_datadist.testing import Peer
from llm_datadist.testing.hanging import HangWatch

seen = set()

def scope_of(actor):
    return os.environ["LLM_DATADIST_SCOPE"]

@pytest.mark.parametrize("number", range(2))
def test_scope(datadist_scope, datadist_peers, number):
    assert os.environ["LLM_DATADIST_SCOPE"] == datadist_scope
    assert datadist_peers().call(scope_of) == datadist_scope
    seen.add(datadist_scope)

def test_they_differ():
    assert len(seen) == 2
    assert "LLM_DATADIST_SCOPE" not in os.environ
""",
    )
    assert outcome(result) == "3 passed", result.stdout + result.stderr


def test_faults_end_with_the_test_and_must_have_fired(tmp_path: Path) -> None:
    result = run_pytest(
        tmp_path,
        """
def test_left(datadist_faults):
    datadist_faults.replace("read drop", must_fire=False)
    with datadist_faults.inject("write drop", must_fire=False):
        assert len(datadist_faults.rules()) == 2

def test_gone(datadist_faults):
    assert datadist_faults.rules() == []
    datadist_faults.replace("write drop")

def test_silent(datadist_faults):
    with datadist_faults.inject("read drop"):
        pass
""",
    )
    assert outcome(result) == "1 failed, 2 passed, 1 error", result.stdout + result.stderr
    assert "the rule 'write drop' has not fired: 0 calls were asked about it" in result.stdout
    assert "AssertionError: the rule 'read drop' has not fired" in result.stdout
    assert "faults.py" not in result.stdout, "the traceback ends in the test"


IN_ONE_PROCESS = """
import os
import signal
import subprocess

import pytest
from llm_datadist import LLMDataDist, LLMException, LLMRole
from llm_datadist.testing import check, moved

def test_a_failing_test(datadist_engine):
    datadist_engine(1, listen_ip_info="127.0.0.1:0")
    LLMDataDist.open(LLMRole.MIX, 9, allow_multiple_instances=True)
    raise KeyError("the test's own")

def test_does_not_fail_the_next(datadist_engine):
    engine = datadist_engine(allow_multiple_instances=False)
    assert engine.cluster_id == 1

def test_an_engine_of_the_code_under_test_is_left_open(datadist_engine):
    LLMDataDist.open(LLMRole.MIX, 8)

def test_a_descriptor_and_memory_are_left(datadist_engine):
    os.open(os.devnull, os.O_RDONLY)
    os.memfd_create("forgotten")

def test_calls(datadist_cluster, datadist_calls, datadist_faults):
    variables = {"LLM_DATADIST_MOCK_DEVICES": "4"}
    cluster = datadist_cluster("2P1D", in_process=True, environment=variables)
    first, second, target = cluster.caches
    decoder = cluster.decoders[0]
    layers = {"src_layer_range": range(1), "dst_layer_range": range(1)}
    decoder.pull("kv", second.peer.key(), [3, 1], [0, 2], **layers)
    decoder.push("kv", first.peer.key(), [5], [6])
    with datadist_faults.inject("read status=LLM_LINK_BUSY"), pytest.raises(LLMException):
        decoder.pull("kv", first.peer.key(), [0], [1])
    half = moved(target.filled(), second.filled(), [3, 1], [0, 2], [0, 1], [0, 1])
    check(target, half)
    pull, push, failed = datadist_calls
    assert (pull.operation, pull.cluster_id) == ("pull_blocks", 2)
    assert (pull.src_blocks, pull.dst_blocks, pull.bytes) == ((3, 1), (0, 2), 2 * 2 * 512)
    assert pull.key.model_id == 0 and pull.error is None
    assert pull.microseconds > 0 and pull.path.startswith("allocated: mapped, registered: ")
    assert push.operation == "push_blocks" and push.bytes == 4 * 512
    assert "LLM_LINK_BUSY" in str(failed.error) and datadist_calls.failed == [failed]
    assert datadist_calls.bytes == pull.bytes + push.bytes
    assert "pull_blocks with 2: blocks [3, 1] -> [0, 2], 2048 bytes" in repr(datadist_calls)

@pytest.fixture(scope="session")
def older_child():
    with subprocess.Popen(["sleep", "60"]) as child:
        yield child
        child.kill()

def test_a_child_of_the_session_changes_its_state(older_child, datadist_engine):
    older_child.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, older_child.pid, os.WSTOPPED | os.WNOWAIT)

def test_a_child_is_left(datadist_engine):
    children.append(subprocess.Popen(["sleep", "60"]))

def test_it_is_ended(older_child):
    children[0].kill()
    children[0].wait()

children = []

def test_strict(datadist_engine):
    assert os.environ["LLM_DATADIST_STRICT_HARDWARE"] == "1"
    assert "LLM_DATADIST_MOCK_DEVICES" not in os.environ
"""


def test_engines_of_the_process_of_the_test(tmp_path: Path) -> None:
    result = run_pytest(tmp_path, IN_ONE_PROCESS, "datadist_strict = true\n")
    assert outcome(result) == "1 failed, 8 passed, 3 errors", result.stdout + result.stderr
    assert 'KeyError: "the test\'s own"' in result.stdout
    assert re.search(r"^<LLMDataDist .*cluster_id=8.*> was left open$", result.stdout, re.MULTILINE)
    assert re.search(r"^1 more children: sleep, pid \d+$", result.stdout, re.MULTILINE)
    assert "1 more descriptors: /dev/null" in result.stdout
    assert "1 more descriptors: /memfd:forgotten (deleted)" in result.stdout


IN_SEVERAL = """
import os
import time

import pytest
from llm_datadist import LLMException
from llm_datadist.testing import check, eventually, moved
from llm_datadist.testing.script import Announce, Do, Exit, Flag, Inject, Linked, Unlink

def test_a_set_from_one_line(datadist_cluster):
    cluster = datadist_cluster("1P1D", sync_timeout_ms=2000)
    (owner, puller) = cluster.members
    source, target = cluster.caches
    script = owner.play(
        Linked(2), Inject("close status=LLM_FAILED"), Unlink(2), Announce("dropped"),
        Flag("go on"), Exit(),
    )
    owner.wait_for("dropped")
    eventually(lambda: not puller.call("links") or puller.call("links")[0].state.name != "LIVE", "")
    with pytest.raises(LLMException):
        puller.pull("kv", owner.key(), [0], [0])
    puller.unlink(owner, force=True)
    cluster.link()
    puller.pull("kv", owner.key(), [3, 1], [0, 2])
    check(target, moved(target.filled(), source.filled(), [3, 1], [0, 2]))
    owner.set_flag("go on")
    owner.process.wait(10)

def test_a_script_that_fails(datadist_peers):
    (peer,) = datadist_peers.start(1)
    call = peer.play(Do("read", "nothing"), Announce("never"))
    assert "step 0" in str(call.exception())
"""


def test_peers_in_processes_of_their_own(tmp_path: Path) -> None:
    result = run_pytest(tmp_path, IN_SEVERAL, "datadist_hang = 0.001\n")
    assert outcome(result) == "2 passed, 1 error", result.stdout + result.stderr
    assert "step 0 of the script, Do('read', ...): 'nothing'" in result.stdout
    assert "the test takes more than 0.001 s; thread" in result.stderr
    assert "thread MainThread:" in result.stderr


def wait_in_the_peer(actor) -> None:
    actor.announce("waiting")
    actor.flag("never").wait()


def test_a_test_that_hangs_tells_all_stacks() -> None:
    told: Queue[str] = Queue()
    with Peer.start() as peer:
        assert "has not started" in peer.stacks()
        peer.start_call(wait_in_the_peer)
        peer.wait_for("waiting")
        watch = HangWatch(0.01, lambda: [peer], told.put)
        text = told.get(timeout=30)
        watch.end()
        HangWatch(60, lambda: [peer], told.put).end()
    assert "test_a_test_that_hangs_tells_all_stacks" in text
    assert "in wait_in_the_peer" in text
    assert "ended with 0" in peer.stacks()
    assert told.empty()


def test_it_goes_with_older_pytest() -> None:
    """A hook of the new kind would end every session of an environment with pytest 7."""
    assert "wrapper=True" not in (ROOT / f"{PLUGIN}.py").read_text().replace("hookwrapper", "")


def test_peers_must_end_in_the_regular_way(tmp_path: Path) -> None:
    result = run_pytest(
        tmp_path,
        """
import os

def leave(actor, code):
    os._exit(code)

def test_killed_by_the_test(datadist_peers):
    datadist_peers().kill()
    assert datadist_peers(LLDD_TEST="1").call(os_environ)["LLDD_TEST"] == "1"

def os_environ(actor):
    return dict(os.environ)

def test_died(datadist_peers):
    peer = datadist_peers()
    peer.start_call(leave, 3)
    peer.process.wait(10)
""",
    )
    assert outcome(result) == "2 passed, 1 error", result.stdout + result.stderr
    assert "ended with 3 during the test" in result.stdout


FIXTURES = ("peers", "faults", "scope", "engine", "cluster", "calls")


def test_pytest_lists_the_fixtures_with_their_meaning() -> None:
    listed = subprocess.run(
        [sys.executable, "-m", "pytest", "--fixtures", "-p", PLUGIN, "-c", os.devnull, __file__],
        cwd=ROOT / "docs",
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    for name in FIXTURES:
        entry = rf"^datadist_{name} .*{PLUGIN}\.py:\d+\n    [A-Z]"
        assert re.search(entry, listed.stdout, re.MULTILINE), name
