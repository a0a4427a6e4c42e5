# SPDX-License-Identifier: Apache-2.0
"""llm-datadist doctor --peer: what it says of an engine that lives, and of what is none."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from llm_datadist import LLMDataDist, LLMRole
from llm_datadist.__main__ import main
from llm_datadist._cli import _doctor_peer


def opened(**members: str) -> LLMDataDist:
    return LLMDataDist.open(LLMRole.PROMPT, 1, listen_ip_info="127.0.0.1:0", **members)


def shown(address: tuple[str, int]) -> str:
    return "{}:{}".format(*address)


@contextmanager
def answering(answer: bytes | None) -> Iterator[tuple[str, int]]:
    """Something that takes a greeting and answers it; None: stays silent until it is let go."""
    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            stream, _ = server.accept()
            with stream:
                stream.recv(36)
                if answer is None:
                    done.wait(30)
                else:
                    stream.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()
        finally:
            done.set()
            thread.join()


def test_a_live_engine(capsys: pytest.CaptureFixture[str]) -> None:
    with opened() as engine:
        assert engine.listen_address is not None
        assert main(["doctor", "--peer", shown(engine.listen_address)]) == 0
        assert engine.links() == []
    text = capsys.readouterr().out
    assert "protocol: version 2, as this package speaks" in text
    assert "secret: not wanted" in text


def test_an_engine_with_a_secret(capsys: pytest.CaptureFixture[str]) -> None:
    with opened(auth_token="one") as engine:
        assert engine.listen_address is not None
        assert main(["doctor", "--json", "--peer", shown(engine.listen_address)]) == 0
    (findings,) = json.loads(capsys.readouterr().out).values()
    by_name = {finding["name"]: finding for finding in findings}
    assert by_name["secret"]["data"] == {"wanted": True}
    assert by_name["greeting"]["data"]["answered_ms"] > 0


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n" + bytes(40), "not as an engine of llm-datadist"),
        (b"", "closed the connection without an answer"),
        (
            b"LLDD\x01\x00" + bytes(30),
            "it speaks version 1 of the protocol, this package 2",
        ),
    ],
)
def test_what_is_no_peer_for_this_package(
    capsys: pytest.CaptureFixture[str], answer: bytes, text: str
) -> None:
    with answering(answer) as address:
        assert main(["doctor", "--peer", shown(address)]) == 1
    assert text in " ".join(capsys.readouterr().out.split())


def test_one_that_is_silent(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_doctor_peer, "PATIENCE_S", 0.2)
    with answering(None) as address:
        assert main(["doctor", "--peer", shown(address)]) == 1
    assert "does not answer a greeting within 0.2 s" in capsys.readouterr().out


def test_nothing_listens(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
    assert main(["doctor", "--peer", shown(address)]) == 1
    assert "nothing listens there" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("text", ["", "127.0.0.1", "127.0.0.1:0", "::1", "x:y", "127.0.0.1:65536"])
def test_what_is_no_address(capsys: pytest.CaptureFixture[str], text: str) -> None:
    assert main(["doctor", "--peer", text]) == 2
    assert "is not an address" in capsys.readouterr().err
