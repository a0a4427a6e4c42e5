# SPDX-License-Identifier: Apache-2.0
"""Two hosts on one machine: network namespaces, and a wire between them that a test can make worse.

Each host is a namespace of its own, so processes of the two share no loopback and no abstract
socket, as if they were on two machines. The wire carries the packets of one TUN device to the other
in this process; what it does to them is in Wire.quality, and may change at any time.

    with two_hosts() as (near, far, wire):
        with far.inside():
            peer = Peer.start()          # lives on the far host from its first moment
        peer.init(1, listen=f"{far.address}:0")
        wire.quality = Quality(loss=0.02, delay=0.01, jitter=0.005)
        wire.cut()

Needs the rights to make namespaces and network devices (root, or CAP_SYS_ADMIN and CAP_NET_ADMIN)
and /dev/net/tun; no program and no module of the kernel beyond that.
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import os
import random
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pytest

CLONE_NEWNET = 0x40000000
TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
SIOCGIFFLAGS, SIOCSIFFLAGS = 0x8913, 0x8914
SIOCSIFADDR, SIOCSIFNETMASK, SIOCSIFMTU = 0x8916, 0x891C, 0x8922
IFF_UP = 0x1
DEVICE = b"wire"
LARGEST_PACKET = 65535

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")


def _configure(device: bytes, request: int, value: bytes) -> bytes:
    """Speak to a network device of the namespace that this thread is in."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        answer: bytes = fcntl.ioctl(any_socket, request, struct.pack("16s24s", device, value))
        return answer[16:]


def _ipv4(address: str) -> bytes:
    return struct.pack("=HH4s", socket.AF_INET, 0, socket.inet_aton(address))


class Host:
    """One end of the wire: a network namespace, which ends when its last process has ended and
    close() was called.
    """

    def __init__(self, address: str, mtu: int) -> None:
        self.address = address
        self._namespace = -1
        self.tun = -1
        failures: list[OSError] = []

        def make() -> None:
            try:
                self._make(mtu)
            except OSError as error:
                failures.append(error)

        # The namespace of the calling thread stays what it is.
        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
        if failures:
            self.close()
            raise failures[0]

    def _make(self, mtu: int) -> None:
        _check(_libc.unshare(CLONE_NEWNET), "unshare(CLONE_NEWNET)")
        self._namespace = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self.tun = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        fcntl.ioctl(self.tun, TUNSETIFF, struct.pack("16sH22x", DEVICE, IFF_TUN | IFF_NO_PI))
        _configure(DEVICE, SIOCSIFADDR, _ipv4(self.address))
        _configure(DEVICE, SIOCSIFNETMASK, _ipv4("255.255.255.0"))
        _configure(DEVICE, SIOCSIFMTU, struct.pack("=i", mtu))
        for device in (b"lo", DEVICE):
            self._set_up(device, True)

    @staticmethod
    def _set_up(device: bytes, up: bool) -> None:
        (flags,) = struct.unpack_from("=H", _configure(device, SIOCGIFFLAGS, b""))
        flags = flags | IFF_UP if up else flags & ~IFF_UP
        _configure(device, SIOCSIFFLAGS, struct.pack("=H", flags))

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Processes and threads that this thread starts meanwhile, and sockets that it makes, are
        on this host.
        """
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _check(_libc.setns(self._namespace, CLONE_NEWNET), "setns(CLONE_NEWNET)")
            try:
                yield
            finally:
                _check(_libc.setns(before, CLONE_NEWNET), "setns(CLONE_NEWNET)")
        finally:
            os.close(before)

    def switch_device(self, up: bool) -> None:
        """Switch this host's network device on or off, which its kernel knows of at once."""
        with self.inside():
            self._set_up(DEVICE, up)

    def close(self) -> None:
        """Take the network device away, and let go of the namespace."""
        for descriptor in (self.tun, self._namespace):
            if descriptor >= 0:
                os.close(descriptor)
        self.tun = self._namespace = -1


@dataclass(frozen=True)
class Quality:
    """What happens to each packet, in either direction. Probabilities in 0..1, times in seconds."""

    loss: float = 0.0
    duplicates: float = 0.0
    delay: float = 0.0
    # Up to so much later, drawn for each packet: packets overtake each other.
    jitter: float = 0.0


class Wire:
    """Carries packets between two hosts on a thread of this process, until it is closed."""

    def __init__(self, ends: tuple[Host, Host], seed: int) -> None:
        self.quality = Quality()
        self.carried = self.lost = 0  # packets
        self._random = random.Random(seed)
        self._connected = True
        self._ends = {ends[0].tun: ends[1].tun, ends[1].tun: ends[0].tun}
        # When they are due, in the order in which they came, and which way they go.
        self._on_the_way: list[tuple[float, int, int, bytes]] = []
        self._number = 0
        self._stopped, self._stop = os.pipe2(os.O_CLOEXEC)
        self._thread = threading.Thread(target=self._run, name="wire")
        self._thread.start()

    def cut(self) -> None:
        """From now on nothing arrives anywhere, and nobody is told; also what is on the way is
        lost.
        """
        self._connected = False

    def mend(self) -> None:
        """Let packets pass again."""
        self._connected = True

    def close(self) -> None:
        """End the thread."""
        os.close(self._stop)
        self._thread.join()
        os.close(self._stopped)

    def _run(self) -> None:
        poller = select.poll()
        poller.register(self._stopped, select.POLLIN)
        for tun in self._ends:
            poller.register(tun, select.POLLIN)
        while True:
            ready = poller.poll(self._milliseconds_left())
            for descriptor, _ in ready:
                if descriptor == self._stopped:
                    return
                self._take(descriptor)
            self._deliver()

    def _milliseconds_left(self) -> float | None:
        if not self._on_the_way:
            return None
        return max(0.0, (self._on_the_way[0][0] - time.monotonic()) * 1000)

    def _take(self, tun: int) -> None:
        try:
            packet = os.read(tun, LARGEST_PACKET)
        except OSError:
            # Nothing there after all, or the device is switched off.
            return
        quality = self.quality
        copies = 1 + (self._random.random() < quality.duplicates)
        if not self._connected or self._random.random() < quality.loss:
            copies = 0
        self.lost += copies == 0
        for _ in range(copies):
            due = time.monotonic() + quality.delay + quality.jitter * self._random.random()
            self._number += 1
            heapq.heappush(self._on_the_way, (due, self._number, self._ends[tun], packet))

    def _deliver(self) -> None:
        now = time.monotonic()
        while self._on_the_way and self._on_the_way[0][0] <= now:
            _, _, tun, packet = heapq.heappop(self._on_the_way)
            if not self._connected:
                self.lost += 1
                continue
            try:
                os.write(tun, packet)
                self.carried += 1
            except OSError:
                # Its queue is full, or it is switched off: a packet is lost.
                self.lost += 1


@contextmanager
def two_hosts(mtu: int = 1500, seed: int = 1) -> Iterator[tuple[Host, Host, Wire]]:
    """Make two hosts and the wire between them; skips the test where this machine does not allow
    it.
    """
    with ExitStack() as exits:
        hosts = []
        for address in ("10.77.0.1", "10.77.0.2"):
            try:
                hosts.append(Host(address, mtu))
            except OSError as error:
                pytest.skip(f"capability network namespaces and /dev/net/tun: {error}")
            exits.callback(hosts[-1].close)
        wire = Wire((hosts[0], hosts[1]), seed)
        exits.callback(wire.close)
        yield hosts[0], hosts[1], wire
