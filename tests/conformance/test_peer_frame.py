# SPDX-License-Identifier: Apache-2.0
"""The frame of these tests itself: peers, their failures, and that it would notice wrong bytes and
leaks.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import sys
import threading
import types

import numpy as np
import pytest

import llm_datadist
from llm_datadist import LLMException, LLMStatusCode
from llm_datadist.testing import (
    DeadlineError,
    Geometry,
    Peer,
    PeerGoneError,
    describe_difference,
    eventually,
    leaked,
    moved,
    wait_until_given_back,
)
from llm_datadist.testing.pattern import Moved, WrongByte, first_wrong_byte, origin
from llm_datadist.testing.peer import PATIENCE
from tests.conformance.paths import LISTEN
from tests.conformance.stage import SMALL, Stage


def raise_status(actor) -> None:
    raise LLMException("a text", status_code=LLMStatusCode.LLM_TIMEOUT)


def raise_unpicklable(actor) -> None:
    class LocalError(Exception):
        pass

    raise LocalError("cannot travel")


def wait_for_ever(actor) -> None:
    actor.announce("waiting")
    actor.flag("never").wait()


def leave(actor, code: int) -> None:
    os._exit(code)


def hold_on_to(actor) -> None:
    actor.held = [socket.socket(), os.memfd_create("held")]
    threading.Thread(target=actor.flag("go").wait, daemon=True).start()


def let_go(actor) -> None:
    actor.held[0].close()
    os.close(actor.held[1])
    actor.set_flag("go")


def test_an_exception_travels_with_type_status_and_text(stage: Stage) -> None:
    peer = stage.process()
    with pytest.raises(LLMException, match="a text") as caught:
        peer.call(raise_status)
    assert caught.value.status_code == LLMStatusCode.LLM_TIMEOUT
    assert "raise_status" in str(caught.value.__cause__)
    with pytest.raises(AssertionError) as wrapped:
        peer.call(raise_unpicklable)
    assert "cannot travel" in str(wrapped.value.__cause__)


def test_a_function_that_a_peer_cannot_find_is_refused_with_its_name(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = stage.process()
    mine = types.ModuleType("only_in_this_process")
    exec("def own(actor): pass", mine.__dict__)
    monkeypatch.setitem(sys.modules, mine.__name__, mine)
    with pytest.raises(ModuleNotFoundError, match="only_in_this_process"):
        peer.call(mine.own)
    monkeypatch.setattr(mine.own, "__module__", "__main__")
    for call in (lambda: peer.call(mine.own), lambda: peer.call("set_flag", [mine.own])):
        with pytest.raises(pickle.PicklingError, match=r"own is defined in __main__.*peer's"):
            call()
    assert peer.call(environment_of, "ANY") is None


def test_an_init_that_fails_leaves_the_engine_that_was_there(stage: Stage) -> None:
    peer = stage.process()
    peer.init(cluster_id=1, listen=LISTEN)
    address = peer.listen_address
    with pytest.raises(LLMException, match="cluster_id 1 is initialized already"):
        peer.init(cluster_id=2, environment={"LLM_DATADIST_CHECK": "1"})
    assert (peer.cluster_id, peer.listen_address) == (1, address)
    assert peer.call("links") == []
    assert peer.call(environment_of, "LLM_DATADIST_CHECK") is None


def environment_of(actor, name: str) -> str | None:
    return os.environ.get(name)


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ({"block_bytes": 100}, "block_bytes must be a positive multiple of 8, got 100"),
        ({"block_bytes": 0}, "got 0"),
        ({"block_shape": (2, 3)}, r"block_shape \(2, 3\) of DT_FLOAT16 has 12 bytes.* is 512"),
    ],
)
def test_a_geometry_that_cannot_be_checked_is_refused(members, text) -> None:
    with pytest.raises(ValueError, match=text):
        Geometry(**members)


def test_a_command_that_does_not_answer(stage: Stage) -> None:
    peer = stage.process_of_its_own()
    call = peer.start_call(wait_for_ever)
    peer.wait_for("waiting")
    with pytest.raises(DeadlineError, match="wait_for_ever"):
        call.result(0.05)
    with pytest.raises(DeadlineError):
        peer.wait_for("something else", seconds=0.05)
    peer.set_flag("never")
    assert call.result() is None


def test_a_peer_that_is_gone() -> None:
    peer = Peer.start()
    peer.wait_for("ready")
    call = peer.start_call(leave, 3)
    with pytest.raises(PeerGoneError):
        call.result()
    with pytest.raises(PeerGoneError):
        peer.call("resources")
    with pytest.raises(AssertionError, match="ended with 3"):
        peer.close()


def file_of_package(actor) -> str:
    return llm_datadist.__file__


def test_a_peer_uses_the_package_of_its_test_whatever_the_current_folder_has(
    tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "llm_datadist"
    other.mkdir()
    (other / "__init__.py").write_text("raise ImportError('another package of this name')\n")
    monkeypatch.chdir(tmp_path)
    with Peer.start() as peer:
        assert peer.call(file_of_package) == llm_datadist.__file__


def say(actor, text: str) -> None:
    print(text, flush=True)


def test_stdout_of_a_peer_is_stderr_of_its_test(capfd: pytest.CaptureFixture[str]) -> None:
    with Peer.start() as peer:
        peer.call(say, "a word")
    assert capfd.readouterr() == ("", "a word\n")


def test_an_interrupt_is_for_the_test_not_for_its_peers() -> None:
    with Peer.start() as peer:
        peer.wait_for("ready")
        os.kill(peer.pid, signal.SIGINT)
        assert peer.call("resources")


def read_all(actor, file: str) -> None:
    with open(file) as pipe:
        actor.announce("reading")
        pipe.read()


def test_a_peer_whose_test_is_gone_ends_quietly(
    tmp_path, capfd: pytest.CaptureFixture[str]
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with Peer.start() as peer:
        call = peer.tell(read_all, str(pipe))
        with open(pipe, "w"):
            peer.wait_for("reading")
            peer.hang_up()
            with pytest.raises(PeerGoneError):
                call.result()
        assert peer.process.wait(PATIENCE) == 0
    assert capfd.readouterr() == ("", "")


def test_leaks_are_seen(stage: Stage) -> None:
    peer = stage.process()
    before = peer.resources()
    peer.call(hold_on_to)
    kinds = " ".join(leaked(before, peer.resources()))
    for kind in ("descriptors: socket:", "descriptors: /memfd:held", "threads: "):
        assert kind in kinds
    peer.call(let_go)
    wait_until_given_back(before, peer.resources, 10)


def test_every_word_is_different_and_tells_its_origin() -> None:
    geometry = Geometry(3, 5, 64)
    words = np.concatenate([geometry.filled(stamp).ravel() for stamp in (1, 2, 77)])
    assert len(np.unique(words)) == len(words)
    assert origin(int(geometry.filled(77)[2, 4, 7])) == (77, 2, 4 * 8 + 7)


def test_a_wrong_word_is_described() -> None:
    expected = moved(SMALL.filled(2), SMALL.filled(1), [3], [4])
    assert describe_difference(expected, expected) == ""
    wrong = expected.copy()
    wrong[1, 4, 5] = SMALL.filled(9)[0, 7, 6]
    text = describe_difference(wrong, expected)
    assert "tensor 1, block 4, word 5" in text
    assert "stamp 9, tensor 0, block 7, word 6" in text
    assert "stamp 1, tensor 1, block 3, word 5" in text


# With more words than are compared at a time: in many blocks, and in one.
@pytest.mark.parametrize("blocks", [Geometry(2, 70, 4096), Geometry(2, 3, 8 * 70001)])
def test_a_wrong_byte_is_found_where_it_lies(blocks: Geometry) -> None:
    tensors = list(blocks.filled(5))
    assert first_wrong_byte(tensors, 5) is None
    last = blocks.num_blocks - 1
    right = int(tensors[1][last].view(np.uint8)[-1])
    tensors[1][last].view(np.uint8)[-1] ^= 0x10
    place = WrongByte(1, last, blocks.block_bytes - 1, right ^ 0x10, right)
    assert first_wrong_byte(tensors, 5) == place
    # Another cache's, or another step's.
    assert first_wrong_byte(tensors, 6) is not None


def test_blocks_that_moved_are_those_of_the_other_stamp() -> None:
    own, source = SMALL.filled(1), SMALL.filled(2)
    src, dst = np.array([4, 0], np.uint64), np.array([1, 2], np.uint64)
    after = list(moved(own, source, src, dst))
    assert first_wrong_byte(after, 1, Moved(2, src, dst)) is None
    # Not moved, moved elsewhere, and moved although nothing was asked for.
    for tensors, said in ((own, Moved(2, src, dst)), (after, Moved(2, src[::-1], dst))):
        wrong = first_wrong_byte(list(tensors), 1, said)
        assert wrong is not None
        assert wrong.block == 1
    wrong = first_wrong_byte(after, 1)
    assert wrong is not None
    assert wrong.block == 1


def test_eventually_gives_up() -> None:
    with pytest.raises(AssertionError, match="pigs fly"):
        eventually(lambda: None, "pigs fly", 0.01)


@pytest.mark.parametrize("status", [LLMStatusCode.LLM_PARAM_INVALID, LLMStatusCode.LLM_FAILED])
def test_exceptions_pickle(status: LLMStatusCode) -> None:
    error = pickle.loads(pickle.dumps(LLMException("x", status_code=status)))
    assert (error.status_code, str(error)) == (status, "x")
