# SPDX-License-Identifier: Apache-2.0
"""What a live engine at an address says of itself: ``llm-datadist doctor --peer ip:port``.

It greets as an engine does that wants a link, and hangs up after the answer; the engine there keeps
nothing of it.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from dataclasses import dataclass

from ._findings import Finding, fail, ok

# The greeting, as csrc/engine/wire.h has it.
_GREETING = struct.Struct("<IHBBIQ16s")
_MAGIC = 0x44444C4C
VERSION = 2
_PURPOSE_LINK = 1
# The greeting of an engine has no deadline of its own; link_clusters takes 3 s by default.
PATIENCE_S = 3.0


class NoAddressError(ValueError):
    """What was given is not ip:port."""


@dataclass(frozen=True)
class Greeted:
    """The answer to a greeting, and how long it took."""

    version: int
    wants_secret: bool
    connected_ms: float
    answered_ms: float


def address_of(text: str) -> tuple[str, int]:
    """Split "127.0.0.1:26000" or "[::1]:26000". Raises NoAddressError for anything else."""
    host, _, port = text.rpartition(":")
    in_brackets = host.startswith("[") and host.endswith("]")
    if in_brackets:
        host = host[1:-1]
    if not host or in_brackets != (":" in host) or not port.isdigit() or not 0 < int(port) < 2**16:
        raise NoAddressError(f"{text!r} is not an address: ip:port or [ipv6]:port is")
    return host, int(port)


def peer(address: tuple[str, int]) -> list[Finding]:
    """Greet the engine at an address, and judge what comes back."""
    shown = f"[{address[0]}]:{address[1]}" if ":" in address[0] else "{}:{}".format(*address)
    started = time.monotonic()
    try:
        with socket.create_connection(address, PATIENCE_S) as stream:
            connected_ms = (time.monotonic() - started) * 1000
            reached = ok("reached", f"{shown} accepts connections, after {connected_ms:.1f} ms")
            return [reached, *_greet(stream, shown, connected_ms)]
    except OSError as error:
        why = "no answer" if isinstance(error, socket.timeout) else error.strerror or str(error)
        return [fail("reached", f"{shown}: {why}", _how_to_reach(error), errno=error.errno)]


def _how_to_reach(error: OSError) -> str:
    if isinstance(error, ConnectionRefusedError):
        return (
            "nothing listens there: does the engine have listen_ip_info, and is this the port of "
            "its listen_address?"
        )
    return "look at the route and the firewalls between the two hosts"


def _greet(stream: socket.socket, shown: str, connected_ms: float) -> list[Finding]:
    stream.settimeout(PATIENCE_S)
    started = time.monotonic()
    greeting = _GREETING.pack(_MAGIC, VERSION, _PURPOSE_LINK, 0, 0, 0, os.urandom(16))
    try:
        stream.sendall(greeting)
        answer = _receive(stream, _GREETING.size)
    except socket.timeout:
        text = f"{shown} does not answer a greeting within {PATIENCE_S:g} s"
        return [fail("greeting", text, "is the process stopped, or its I/O thread held up?")]
    except ConnectionError as error:
        return [fail("greeting", f"{shown} hung up: {error}", "is this the port of an engine?")]
    answered_ms = (time.monotonic() - started) * 1000
    if answer is None:
        text = f"{shown} closed the connection without an answer"
        return [fail("greeting", text, "is this the port of an engine?")]
    magic, version, _, auth, _, _, _ = _GREETING.unpack(answer)
    if magic != _MAGIC:
        text = f"{shown} answers, but not as an engine of llm-datadist"
        return [fail("greeting", text, "give the port of the engine's listen_address")]
    return _judged(Greeted(version, auth != 0, connected_ms, answered_ms))


def _judged(greeted: Greeted) -> list[Finding]:
    took = ok(
        "greeting",
        f"answered after {greeted.answered_ms:.1f} ms",
        connected_ms=greeted.connected_ms,
        answered_ms=greeted.answered_ms,
    )
    data = {"version": greeted.version, "own": VERSION}
    if greeted.version != VERSION:
        text = f"it speaks version {greeted.version} of the protocol, this package {VERSION}"
        return [took, fail("protocol", text, "install the same version at both ends", **data)]
    secret = "wanted: the auth_token of both ends must be equal"
    if not greeted.wants_secret:
        secret = "not wanted: neither end may have an auth_token"
    return [
        took,
        ok("protocol", f"version {greeted.version}, as this package speaks", **data),
        ok("secret", secret, wanted=greeted.wants_secret),
    ]


def _receive(stream: socket.socket, count: int) -> bytes | None:
    """Receive so many bytes; None: the other end closed before."""
    data = b""
    while len(data) < count:
        more = stream.recv(count - len(data))
        if not more:
            return None
        data += more
    return data
